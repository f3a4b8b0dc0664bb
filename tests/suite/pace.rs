//! Rate limits and concurrency: as fast as the provider allows, at a block whose state it still has.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    stub::{Fault, RecordedRequest, When},
    wallet,
};

use crate::support::{
    chains::{stub_of, wide_stub},
    program::{eventually, sweep_all},
    table::{assert_read_at_genesis, unread_table},
};

/// Makes calls slow enough to overlap.
const SLOW: Fault = Fault::Delay(Duration::from_millis(40));

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_adapts_to_a_node_that_accepts_two_calls_and_later_more() {
    let stub = wide_stub().await;
    stub.fault(Fault::TooManyInFlight(2), When::eth_call());
    stub.fault(SLOW, When::eth_call());
    let database = unread_table(12_000);
    let options = ["--chunk", "20", "--concurrency", "16", "--retries", "5"];
    let running = sweep_all(&database, &stub.url(), &options).start();

    eventually("half of the sweep", || stub.count("eth_call") >= 300);
    let strict = stub.eth_calls();
    stub.clear();
    stub.fault(SLOW, When::eth_call());
    running.wait().expect(0);
    assert_read_at_genesis(&database, 12_000, &[]).await;

    let refused =
        strict.iter().filter(|seen| seen.answered != "passed" && seen.answered != "delay");
    let refused = refused.count();
    // With 16 calls in flight, seven of eight would be.
    assert!(refused * 3 <= strict.len(), "{refused} of {} calls were refused", strict.len());
    // The search for the best concurrency is repeated rarely.
    let late = &strict[strict.len() / 2..];
    assert!(late.iter().all(|seen| seen.in_flight <= 6), "{:?}", in_flight(late));
    let free = stub.eth_calls().split_off(strict.len());
    assert!(free.iter().any(|seen| seen.in_flight >= 14), "{:?}", in_flight(&free));
}

fn in_flight(calls: &[RecordedRequest]) -> Vec<usize> {
    calls.iter().map(|seen| seen.in_flight).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_burst_halves_the_concurrency_once() {
    let stub = wide_stub().await;
    // Refusals are slow too, so that the whole burst is in flight before the first one arrives.
    stub.fault(Fault::Delay(Duration::from_millis(150)), When::eth_call());
    stub.fault(Fault::status(429), When::eth_call().after(64).times(16));
    let database = unread_table(6_000);
    let options = ["--chunk", "20", "--concurrency", "16"];
    sweep_all(&database, &stub.url(), &options).run().expect(0);
    assert_read_at_genesis(&database, 6_000, &[]).await;
    let calls = stub.eth_calls();
    let last = calls.iter().rposition(|seen| seen.answered == "status 429").expect("a refusal");
    let after = in_flight(&calls[last + 1..]);
    let most = after.iter().take(10).max().copied().unwrap_or(0);
    assert!((6..=12).contains(&most), "a half of 16: {after:?}");
    assert!(after.contains(&16), "all of them in the end: {after:?}");
}

/// The highest number of calls within one second.
fn most_in_a_second(calls: &[RecordedRequest]) -> usize {
    let within = |from: Instant| {
        calls
            .iter()
            .filter(|seen| seen.at >= from && seen.at < from + Duration::from_secs(1))
            .count()
    };
    calls.iter().map(|seen| within(seen.at)).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_exceeds_cups() {
    let stub = wide_stub().await;
    // As a provider counts, with a tolerance for a busy machine.
    stub.fault(Fault::ComputeUnits(2_600 + 260), When::always());
    let database = unread_table(2_500);
    let options = ["--chunk", "10", "--cups", "2600", "--concurrency", "16"];
    let begun = Instant::now();
    sweep_all(&database, &stub.url(), &options).run().expect(0);
    assert!(begun.elapsed() >= Duration::from_millis(2_300), "250 calls at 100 a second");
    assert_read_at_genesis(&database, 2_500, &[]).await;
    let calls = stub.eth_calls();
    assert!(most_in_a_second(&calls) <= 110, "{}", most_in_a_second(&calls));
    assert!(calls.iter().all(|seen| seen.answered == "passed"), "no call was too fast");
}

#[tokio::test(flavor = "multi_thread")]
async fn cu_per_call_lowers_the_rate() {
    let stub = wide_stub().await;
    let database = unread_table(600);
    let options = ["--chunk", "10", "--cups", "2600", "--cu-per-call", "100"];
    sweep_all(&database, &stub.url(), &options).run().expect(0);
    let calls = stub.eth_calls();
    assert!(most_in_a_second(&calls) <= 30, "{}", most_in_a_second(&calls));
    assert_eq!(calls.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_high_cups_does_not_slow_calls_down() {
    let stub = wide_stub().await;
    let database = unread_table(600);
    let options = ["--chunk", "10", "--cups", "26000", "--cu-per-call", "26"];
    sweep_all(&database, &stub.url(), &options).run().expect(0);
    assert!(most_in_a_second(&stub.eth_calls()) > 40);
}

/// Mines a block with a mint for one of the wallets every 20 ms.
async fn mint_until(chain: &Chain, wallets: u64, until: &AtomicBool) {
    let mut n = 0;
    while !until.load(Relaxed) {
        chain.mint(wallet(n % wallets), U256::from(n + 1)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        n += 7;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_prunes_state_is_read_at_newer_blocks_repeatedly() {
    for (reader, kept) in [("multicall3", 128), ("packed", 128)] {
        let chain = Chain::builder().start().await.unwrap();
        let stub = stub_of(&chain);
        stub.fault(Fault::StateDroppedAfter(kept), When::eth_call());
        stub.fault(SLOW, When::eth_call());
        let database = unread_table(1_000);
        let options = ["--reader", reader, "--chunk", "5", "--concurrency", "2"];
        let running = sweep_all(&database, &stub.url(), &options).start();
        let is_over = AtomicBool::new(false);
        let ran = tokio::join!(mint_until(&chain, 1_000, &is_over), async {
            let ran = tokio::task::spawn_blocking(|| running.wait()).await.unwrap();
            is_over.store(true, Relaxed);
            ran
        });
        let ran = ran.1.expect(0);
        assert_eq!((&ran.json()["updated"], &ran.json()["failed"]), (&1_000.into(), &0.into()));

        // Each total is that of its read_block.
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
        // How many depends on how fast the machine mines.
        assert!(blocks.len() > 1, "{kept}: {blocks:?}");
        let gone = stub.eth_calls().iter().filter(|seen| seen.answered == "state dropped").count();
        let all = stub.count("eth_call");
        assert!(gone * 20 <= all, "{gone} of {all} calls were too late");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_whose_state_disappears_is_replaced_by_a_newer_one() {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(500).await.unwrap();
    for reader in ["multicall3", "packed", "auto"] {
        let stub = stub_of(&chain);
        // The newest block is 0 at first; its state disappears after some calls.
        let latest = When::method("eth_getBlockByNumber").mentioning("latest");
        let genesis = chain.header(0).await.unwrap();
        stub.fault(Fault::Answer(genesis), latest.times(2));
        let gone = Fault::error(-32000, "missing trie node 1f2e (path ) state is not available");
        stub.fault(gone, When::eth_call().matching(|call| call["params"][1] == "0x0").after(4));
        let database = unread_table(1_000);
        let options = ["--reader", reader, "--chunk", "50", "--retries", "1"];
        let ran = sweep_all(&database, &stub.url(), &options).run().expect(0);
        assert_eq!(ran.json()["failed"], 0);
        assert_read_at_genesis(&database, 1_000, &[]).await;
        let blocks = "select distinct read_block from eth_wallet_balances order by 1";
        assert_eq!(database.sql(blocks).await, ["0", "500"], "{reader}");
        assert!(stub.eth_calls().iter().any(|seen| seen.answered == "error -32000"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_given_by_number_is_never_replaced() {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(50).await.unwrap();
    let stub = stub_of(&chain);
    stub.fault(Fault::StateDroppedAfter(10), When::eth_call());
    let database = unread_table(100);
    let options = ["--block", "5", "--retries", "1"];
    let ran = sweep_all(&database, &stub.url(), &options).run().expect(3);
    assert!(ran.error().contains("missing trie node"), "{}", ran.error());
    assert!(ran.error().contains("--block"), "{}", ran.error());
    assert_read_at_genesis(&database, 0, &[]).await;
    assert!(stub.eth_calls().iter().all(|seen| seen.params[1] == "0x5"));
}
