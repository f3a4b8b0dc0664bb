//! Compressed bodies: answers always, requests where the endpoint takes them.

use crate::support::{
    chains::{WIDE_CHAIN_WALLETS, wide_chain},
    database::Database,
    gzip::{Answers, GzipNode, Requests},
    program::{Output, sweep_all},
    table::{assert_nothing_stored, assert_read_at_genesis, read_failures, unread_table},
};

const WALLETS: u64 = 4_000;

/// Sweeps a node that knows gzip in this way.
async fn swept(requests: Requests, answers: Answers) -> (GzipNode, Database, Output) {
    let node = GzipNode::start(&wide_chain().await.url(), requests, answers).await;
    let database = unread_table(WALLETS);
    let ran = sweep(&database, &node);
    (node, database, ran)
}

fn sweep(database: &Database, node: &GzipNode) -> Output {
    // One call at a time: the first one tries whether requests may be compressed.
    let options = ["--reader", "packed", "--chunk", "1000", "--concurrency", "1", "--retries", "1"];
    sweep_all(database, node.url(), &options).run()
}

async fn sweep_again(database: &Database, node: &GzipNode) -> Output {
    database.sql("update eth_wallet_balances set updated_at = '1970-01-01 00:00:00'").await;
    sweep(database, node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_may_be_compressed_and_then_requests_are_too() {
    let (node, database, ran) = swept(Requests::Taken, Answers::Compressed).await;
    ran.expect(0);
    assert_read_at_genesis(&database, WALLETS, &[]).await;
    let seen = node.seen();
    assert!(seen.iter().all(|seen| seen.accepts_gzip), "{seen:?}");
    for seen in &seen {
        // Those that ask for a block or for code are short.
        assert_eq!(seen.is_compressed, seen.bytes.1 > 16_384, "{seen:?}");
        assert!(!seen.is_compressed || seen.bytes.0 < seen.bytes.1 * 2 / 3, "{seen:?}");
    }
    assert_eq!(node.compressed(), 4, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_may_say_that_it_takes_compressed_requests() {
    let (node, database, ran) = swept(Requests::Taken, Answers::Offering).await;
    ran.expect(0);
    assert_eq!(node.compressed(), 4);
    assert_read_at_genesis(&database, WALLETS, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_compressed_for_a_node_that_shows_no_gzip() {
    let (node, database, ran) = swept(Requests::Taken, Answers::Plain).await;
    ran.expect(0);
    assert_eq!(node.compressed(), 0);
    assert_read_at_genesis(&database, WALLETS, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refused_request_is_sent_again_uncompressed_and_no_more_are_compressed() {
    for requests in [
        Requests::Status(415),
        Requests::Status(400),
        Requests::Status(500),
        Requests::ParseError,
        Requests::Garbage,
    ] {
        let (node, database, ran) = swept(requests, Answers::Compressed).await;
        let ran = ran.expect(0);
        assert_read_at_genesis(&database, WALLETS, &[]).await;
        assert_eq!(node.compressed(), 1, "{requests:?}: {:?}", node.seen());
        // What was refused counts as a call.
        let calls = node.seen().iter().filter(|seen| seen.is_call).count();
        assert_eq!((&ran.json()["calls"], calls), (&5.into(), 5), "{requests:?}");
        // The next run remembers it.
        sweep_again(&database, &node).await.expect(0);
        assert_eq!(node.compressed(), 1, "{requests:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_budget_counts_what_was_refused() {
    let chain = wide_chain().await.url();
    let node = GzipNode::start(&chain, Requests::Status(415), Answers::Compressed).await;
    let database = unread_table(WALLETS);
    let options = ["--reader", "packed", "--chunk", "1000", "--max-calls", "3"];
    sweep_all(&database, node.url(), &options).run().expect(0);
    assert_eq!(node.seen().iter().filter(|seen| seen.is_call).count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_compressed_answer_that_is_far_too_long_is_refused() {
    let (_node, database, ran) = swept(Requests::Taken, Answers::Bomb).await;
    let ran = ran.expect(3);
    assert!(ran.error().contains("longer than"), "{}", ran.error());
    assert!(read_failures(&database).await.is_empty(), "no wallet is to blame");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_that_is_not_what_it_says_is_an_error() {
    let (_node, database, ran) = swept(Requests::Taken, Answers::Lie).await;
    let ran = ran.expect(3);
    assert!(ran.error().contains("gzip"), "{}", ran.error());
    assert!(read_failures(&database).await.is_empty(), "no wallet is to blame");
    database.sql("delete from eth_wallet_balances").await;
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_calls_at_once_all_survive_a_refusal() {
    let chain = wide_chain().await.url();
    let node = GzipNode::start(&chain, Requests::Status(415), Answers::Compressed).await;
    let database = unread_table(WIDE_CHAIN_WALLETS);
    sweep_all(&database, node.url(), &["--reader", "auto"]).run().expect(0);
    assert!((1..=4).contains(&node.compressed()), "{}", node.compressed());
    assert_read_at_genesis(&database, WIDE_CHAIN_WALLETS, &[]).await;
}
