//! As fast as a provider allows, and no faster; and at a block that it still has.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    stub::{Fault, Seen, Stub, When},
    wallet,
};
use serde_json::json;

use crate::{
    chunks::{holds_what_they_hold, sweep, table, wide_chain},
    harness::eventually,
};

fn calls() -> When {
    When::method("eth_call")
}

fn eth_calls(stub: &Stub) -> Vec<Seen> {
    stub.requests().into_iter().filter(|seen| seen.method == "eth_call").collect()
}

/// Calls take long enough to be many at once.
const WHILE: Fault = Fault::Delay(Duration::from_millis(40));

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_two_at_once_is_asked_for_about_two_and_more_when_it_takes_more() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    stub.fault(Fault::TooManyAtOnce(2), calls());
    stub.fault(WHILE, calls());
    let database = table(12_000);
    let options = ["--chunk", "20", "--concurrency", "16", "--retries", "5"];
    let running = sweep(&database, &stub.url(), &options).start();

    eventually("half of the sweep", || stub.count("eth_call") >= 300);
    let strict = eth_calls(&stub);
    stub.clear();
    stub.fault(WHILE, calls());
    running.wait().expect(0);
    holds_what_they_hold(&database, 12_000, &[]).await;

    let refused =
        strict.iter().filter(|seen| seen.answered != "passed" && seen.answered != "delay");
    let refused = refused.count();
    assert!(refused * 4 <= strict.len(), "{refused} of {} calls were refused", strict.len());
    // What the search for the best number costs is paid once in a while, not each time.
    let late = &strict[strict.len() / 2..];
    assert!(late.iter().all(|seen| seen.on_hand <= 6), "{:?}", on_hand(late));
    let free = eth_calls(&stub).split_off(strict.len());
    assert!(free.iter().any(|seen| seen.on_hand >= 14), "{:?}", on_hand(&free));
}

fn on_hand(calls: &[Seen]) -> Vec<usize> {
    calls.iter().map(|seen| seen.on_hand).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_that_is_refused_halves_what_is_in_flight_once() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    // The refusals take their time too, so that all of a burst is under way before the first is heard.
    stub.fault(Fault::Delay(Duration::from_millis(150)), calls());
    stub.fault(Fault::status(429), calls().after(64).times(16));
    let database = table(6_000);
    let options = ["--chunk", "20", "--concurrency", "16"];
    sweep(&database, &stub.url(), &options).run().expect(0);
    holds_what_they_hold(&database, 6_000, &[]).await;
    let calls = eth_calls(&stub);
    let last = calls.iter().rposition(|seen| seen.answered == "status 429").expect("a refusal");
    let after = on_hand(&calls[last + 1..]);
    let most = after.iter().take(10).max().copied().unwrap_or(0);
    assert!((6..=12).contains(&most), "a half of 16: {after:?}");
    assert!(after.contains(&16), "all of them in the end: {after:?}");
}

/// The most calls within any second.
fn most_in_a_second(calls: &[Seen]) -> usize {
    let within = |from: Instant| {
        calls
            .iter()
            .filter(|seen| seen.at >= from && seen.at < from + Duration::from_secs(1))
            .count()
    };
    calls.iter().map(|seen| within(seen.at)).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_holds_more_compute_units_than_cups() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    // As a provider counts, with what a busy machine may bunch together on the way.
    stub.fault(Fault::ComputeUnits(2_600 + 260), When::always());
    let database = table(2_500);
    let options = ["--chunk", "10", "--cups", "2600", "--concurrency", "16"];
    let begun = Instant::now();
    sweep(&database, &stub.url(), &options).run().expect(0);
    assert!(begun.elapsed() >= Duration::from_millis(2_300), "250 calls at 100 a second");
    holds_what_they_hold(&database, 2_500, &[]).await;
    let calls = eth_calls(&stub);
    assert!(most_in_a_second(&calls) <= 110, "{}", most_in_a_second(&calls));
    assert!(calls.iter().all(|seen| seen.answered == "passed"), "not one was too fast");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dearer_call_is_paced_by_its_price() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    let database = table(600);
    let options = ["--chunk", "10", "--cups", "2600", "--cu-per-call", "100"];
    sweep(&database, &stub.url(), &options).run().expect(0);
    let calls = eth_calls(&stub);
    assert!(most_in_a_second(&calls) <= 30, "{}", most_in_a_second(&calls));
    assert_eq!(calls.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faster_pace_is_not_waited_for() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    let database = table(600);
    let options = ["--chunk", "10", "--cups", "26000", "--cu-per-call", "26"];
    sweep(&database, &stub.url(), &options).run().expect(0);
    assert!(most_in_a_second(&eth_calls(&stub)) > 40);
}

/// A chain that goes on all the time, a wallet of which gets something in each block.
async fn goes_on(chain: &Chain, wallets: u64, until: &AtomicBool) {
    let mut n = 0;
    while !until.load(Relaxed) {
        chain.mint(wallet(n % wallets), U256::from(n + 1)).await.unwrap();
        // Some fifty blocks a second.
        tokio::time::sleep(Duration::from_millis(20)).await;
        n += 7;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_forgets_the_past_is_read_at_a_newer_block_again_and_again() {
    for (reader, kept) in [("multicall3", 128), ("packed", 128)] {
        let chain = Chain::builder().start().await.unwrap();
        let stub = Stub::in_front_of(&chain.url()).unwrap();
        stub.fault(Fault::StateDroppedAfter(kept), calls());
        stub.fault(WHILE, calls());
        let database = table(1_000);
        let options = ["--reader", reader, "--chunk", "5", "--concurrency", "2"];
        let running = sweep(&database, &stub.url(), &options).start();
        let is_over = AtomicBool::new(false);
        let ran = tokio::join!(goes_on(&chain, 1_000, &is_over), async {
            let ran = tokio::task::spawn_blocking(|| running.wait()).await.unwrap();
            is_over.store(true, Relaxed);
            ran
        });
        let ran = ran.1.expect(0);
        assert_eq!((&ran.json()["updated"], &ran.json()["failed"]), (&1_000.into(), &0.into()));

        // Each total is that of the block that stands beside it.
        let rows = "select wallet, balance, read_block from eth_wallet_balances order by wallet";
        let mut blocks = BTreeSet::new();
        for row in database.sql(rows).await {
            let [wallet, total, block] = *row.split('|').collect::<Vec<_>>() else {
                panic!("{row}")
            };
            let block: u64 = block.parse().expect("a block");
            let wallet = wallet.parse().expect("an address");
            assert_eq!(chain.total_at(wallet, block).await.unwrap().to_string(), total, "{row}");
            blocks.insert(block);
        }
        assert!(blocks.len() > 3, "{kept}: {blocks:?}");
        let gone = eth_calls(&stub).iter().filter(|seen| seen.answered == "state dropped").count();
        let all = stub.count("eth_call");
        assert!(gone * 20 <= all, "{gone} of {all} calls were too late");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_gone_all_at_once_is_given_up_for_a_newer_one() {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(500).await.unwrap();
    for reader in ["multicall3", "packed", "auto"] {
        let stub = Stub::in_front_of(&chain.url()).unwrap();
        // The newest block is 0 at first, whose state is gone after some calls.
        stub.script([Fault::Answer(json!("0x0"))], When::method("eth_blockNumber"));
        let gone = Fault::error(-32000, "missing trie node 1f2e (path ) state is not available");
        stub.fault(gone, calls().matching(|call| call["params"][1] == "0x0").after(4));
        let database = table(1_000);
        let options = ["--reader", reader, "--chunk", "50", "--retries", "1"];
        let ran = sweep(&database, &stub.url(), &options).run().expect(0);
        assert_eq!(ran.json()["failed"], 0);
        holds_what_they_hold(&database, 1_000, &[]).await;
        let blocks = "select distinct read_block from eth_wallet_balances order by 1";
        assert_eq!(database.sql(blocks).await, ["0", "500"], "{reader}");
        assert!(eth_calls(&stub).iter().any(|seen| seen.answered == "error -32000"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_was_asked_for_by_its_number_stays_it() {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(50).await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    stub.fault(Fault::StateDroppedAfter(10), calls());
    let database = table(100);
    let options = ["--block", "5", "--retries", "1"];
    let ran = sweep(&database, &stub.url(), &options).run().expect(2);
    assert!(ran.error().contains("missing trie node"), "{}", ran.error());
    assert!(ran.error().contains("--block"), "{}", ran.error());
    holds_what_they_hold(&database, 0, &[]).await;
    assert!(eth_calls(&stub).iter().all(|seen| seen.params[1] == "0x5"));
}
