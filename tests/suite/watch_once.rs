//! `watch --once`: from the checkpoint to the newest block, for cron.

use std::{fs, time::Duration};

use alloy::primitives::{U256, uint};
use ethtally_testbed::{
    Chain,
    stub::{Fault, Stub, When},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::{chain_and_stub, transfer},
    database::{Database, on_both_databases},
    program::{Ethtally, Output, ethtally},
    table::{read_wallets, store_unread},
    wallets::addresses,
    watch::{assert_matches_chain, checkpoint, start_connected, watch},
};

on_both_databases! {
    quiet_runs_cost_one_request_for_events_each
    events_between_runs_are_all_stored
    a_run_beside_another_watch_is_skipped
    two_runs_at_once_do_the_work_of_one
    a_run_that_is_cut_short_is_continued_by_the_next
    blocks_that_were_replaced_between_runs_are_read_again
}

/// What wallet 20 sends.
const AMOUNT: U256 = uint!(1_000_000_007_U256);

/// Prepares `watch --once --json` with more arguments, separated by spaces.
fn once(arguments: &str, node: impl Into<String>, database: &Database) -> Ethtally {
    watch(&format!("--once {arguments}"), node, database)
}

/// The result, which is the only line on stdout.
#[track_caller]
fn result(ran: &Output) -> Value {
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
    serde_json::from_str(&ran.stdout).expect("a JSON object")
}

/// Mines blocks without events.
async fn mine(chain: &Chain, blocks: u64) {
    chain.mine(blocks).await.expect("the chain mines");
}

async fn quiet_runs_cost_one_request_for_events_each(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..10);
    let first = result(&once("", stub.url(), &database).run().expect(0));
    assert_eq!((&first["from_block"], &first["checkpoint_block"]), (&Value::Null, &json!(0)));
    assert_eq!(stub.count("eth_getLogs"), 0, "it begins at the newest block");
    for _ in 0..10 {
        mine(&chain, 5).await;
        let ran = once("", stub.url(), &database).run().expect(0);
        assert_eq!(ran.stderr, "");
        assert_eq!(result(&ran)["outcome"], "complete");
    }
    assert_eq!(stub.count("eth_getLogs"), 10);
    assert_eq!(stub.count("eth_call"), 0);
    assert_eq!(checkpoint(&database).await, Some(50));
    // Without a new block there is nothing to ask for.
    let last = result(&once("", stub.url(), &database).run().expect(0));
    assert_eq!((&last["blocks"], &last["checkpoint_block"]), (&json!(0), &json!(50)));
    assert_eq!(stub.count("eth_getLogs"), 10);
}

async fn events_between_runs_are_all_stored(database: Database) {
    // HTTP only: nobody answers a WebSocket.
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..60);
    once("", stub.url(), &database).run().expect(0);
    let mut touched = vec![20];
    let runs = [(1, 3), (4, 4), (5, 30), (31, 50)];
    for (from, to) in runs {
        for n in from..=to {
            transfer(&chain, 20, n, U256::from(n)).await;
            touched.push(n);
        }
        stub.forget();
        let ran = result(&once("", stub.url(), &database).run().expect(0));
        let expected = (json!(from), json!(to), json!(to - from + 1));
        assert_eq!(
            (ran["from_block"].clone(), ran["to_block"].clone(), ran["logs"].clone()),
            expected
        );
        assert_eq!(stub.count("eth_getLogs"), 1, "{from} to {to}");
        assert_eq!(checkpoint(&database).await, Some(to));
    }
    assert_eq!(read_wallets(&database).await, addresses(touched.iter().copied()));
    assert_matches_chain(&chain, &database, touched).await;
    // As the node does not give many blocks at once, they are asked for one by one.
    let limit = Fault::error(-32000, "exceeds the max block range of 1 blocks");
    let is_range = |request: &Value| {
        let filter = &request["params"][0];
        filter["fromBlock"].is_string() && filter["fromBlock"] != filter["toBlock"]
    };
    stub.fault(limit, When::method("eth_getLogs").matching(is_range));
    for n in 51..54 {
        transfer(&chain, 20, n, U256::from(n)).await;
    }
    once("", stub.url(), &database).run().expect(0);
    assert_matches_chain(&chain, &database, [20, 51, 52, 53]).await;
}

async fn a_run_beside_another_watch_is_skipped(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..10);
    let watching = start_connected(watch("", chain.url(), &database));
    watching.until("began", 1);
    let ran = once("", chain.url(), &database).run().expect(0);
    let skipped = result(&ran);
    assert_eq!((&skipped["outcome"], &skipped["skipped"]), (&json!("skipped"), &json!(true)));
    assert!(ran.stderr.contains("another watch of this database is running"), "{ran:?}");
    let ran = once("--fail-if-locked", chain.url(), &database).run().expect(5);
    assert_eq!(result(&ran)["outcome"], "skipped");
    assert!(ran.error().contains("another watch of this database is running"), "{ran:?}");
    watching.stop();
    once("--fail-if-locked", chain.url(), &database).run().expect(0);
}

async fn two_runs_at_once_do_the_work_of_one(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..40);
    once("", stub.url(), &database).run().expect(0);
    for n in 1..=8 {
        transfer(&chain, 20, n, AMOUNT).await;
    }
    stub.fault(Fault::Delay(Duration::from_millis(1_500)), When::method("eth_getLogs"));
    let runs = [(); 2].map(|()| once("", stub.url(), &database).start());
    let mut outcomes: Vec<_> = runs
        .map(|run| result(&run.wait().expect(0))["outcome"].as_str().expect("a text").to_owned())
        .into();
    outcomes.sort();
    assert_eq!(outcomes, ["complete", "skipped"]);
    assert_matches_chain(&chain, &database, 1..=8).await;
    let runs =
        "select count(*) from eth_wallet_runs where command = 'watch' and outcome = 'complete'";
    assert_eq!(database.value(runs).await, "2");
}

async fn a_run_that_is_cut_short_is_continued_by_the_next(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..40);
    once("", chain.url(), &database).run().expect(0);
    for n in 1..=8 {
        transfer(&chain, 20, n, AMOUNT).await;
    }
    let slow = Fault::Delay(Duration::from_secs(4));
    stub.fault(slow, When::method("eth_getLogs"));
    let metrics = database.folder().join("watch.prom");
    let file = metrics.to_str().expect("a path");
    let run =
        |arguments: &str| once(arguments, stub.url(), &database).env("ETHTALLY_METRICS_FILE", file);
    let ran = run("--max-duration 1s").run().expect(0);
    let short = result(&ran);
    assert_eq!((&short["outcome"], &short["exit_status"]), (&json!("cut_short"), &json!(0)));
    assert!(ran.stderr.contains("--max-duration reached"), "{ran:?}");
    let said = fs::read_to_string(&metrics).expect("a file");
    assert!(said.contains("{command=\"watch\",outcome=\"cut_short\"}"), "{said}");
    assert_eq!(checkpoint(&database).await, Some(0));

    let running = run("").start();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    running.signal("TERM");
    let ran = running.wait().expect(143);
    assert_eq!(result(&ran)["outcome"], "interrupted");

    stub.clear();
    assert_eq!(result(&run("").run().expect(0))["to_block"], 8);
    assert_matches_chain(&chain, &database, 1..=8).await;
    let said = fs::read_to_string(&metrics).expect("a file");
    assert!(said.contains("{command=\"watch\",outcome=\"complete\"}"), "{said}");

    let failed = once("--retries 0", Stub::dead(), &database).run().expect(3);
    let failed = result(&failed);
    assert_eq!((&failed["outcome"], &failed["profile"]), (&json!("failed"), &json!("audius")));
    let runs = "select outcome from eth_wallet_runs where command = 'watch' order by id";
    let expected = ["complete", "cut_short", "interrupted", "complete", "failed"];
    assert_eq!(database.sql(runs).await, expected);
}

async fn blocks_that_were_replaced_between_runs_are_read_again(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..40);
    mine(&chain, 3).await;
    once("", chain.url(), &database).run().expect(0);
    for n in 1..=4 {
        transfer(&chain, 20, n, AMOUNT).await;
    }
    once("", chain.url(), &database).run().expect(0);
    assert_matches_chain(&chain, &database, 1..=4).await;
    let before = chain.total(wallet(3)).await.unwrap();
    chain.reorg(3).await.unwrap();
    assert_ne!(chain.total(wallet(3)).await.unwrap(), before, "its transfer is not on the chain");
    let ran = once("", chain.url(), &database).run().expect(0);
    assert_eq!(result(&ran)["reorgs"], 1);
    assert!(ran.stderr.contains("were replaced; re-reading"), "{ran:?}");
    assert_matches_chain(&chain, &database, 1..=4).await;
    // In the end nothing is left to be read again, although each run is a new process.
    mine(&chain, 10).await;
    tokio::time::sleep(Duration::from_secs(16)).await;
    once("", chain.url(), &database).run().expect(0);
    let left = "select count(*) from eth_watch_blocks where gone";
    assert_eq!(database.value(left).await, "0");
    let doubt = "select count(*) from eth_watch_coverage where doubt_from is not null";
    assert_eq!(database.value(doubt).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_of_a_single_run_need_once() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    for arguments in ["--max-duration 5s", "--fail-if-locked", "--once --listen 0"] {
        let ran = watch(arguments, "http://127.0.0.1:1", &database).run().expect(2);
        assert!(ran.stderr.contains("--once"), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_has_these_keys_and_this_text() {
    let database = Database::sqlite();
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..30);
    let text = once("", chain.url(), &database).run().expect(0);
    let keys: Vec<_> = result(&text).as_object().unwrap().keys().cloned().collect();
    let own =
        ["command", "from_block", "to_block", "blocks", "logs", "updated", "failed", "superseded"];
    let more =
        ["calls", "reorgs", "errors", "checkpoint_block", "elapsed_ms", "skipped", "interrupted"];
    let common = ["time", "version", "profile", "outcome", "exit_status", "error"];
    let mut expected: Vec<_> = own.iter().chain(&more).chain(&common).collect();
    expected.sort();
    let mut keys: Vec<_> = keys.iter().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, expected.into_iter().copied().collect::<Vec<_>>());
    transfer(&chain, 20, 1, AMOUNT).await;
    let arguments = ["watch", "--once"];
    let ran = ethtally(arguments).node(chain.url()).database(&database).run().expect(0);
    let begin = "watch complete blocks:1 logs:1 updated:2 failed:0 superseded:0 calls:";
    assert!(ran.stdout.starts_with(begin), "{ran:?}");
    assert!(ran.stdout.contains(" reorgs:0 errors:0 checkpoint:1 in "), "{ran:?}");
}
