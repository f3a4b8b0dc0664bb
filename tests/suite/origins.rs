//! Answers from another block or chain: they are noticed, and asked for again.

use std::collections::BTreeMap;

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    stub::{Fault, Stub, When},
};
use rand::{RngExt, seq::IndexedRandom};

use crate::support::{
    chains::stub_of,
    program::{Output, sweep_all},
    random::{random, schedules, sometimes},
    table::{read_failures, read_totals, unread_table},
    wallets::{one_audio, spenders},
};

const WALLETS: u64 = 300;

/// A chain on which many wallets hold something else than at genesis.
async fn moved_chain(blocks_between: u64) -> Chain {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(blocks_between).await.unwrap();
    chain.set_automine(false).await.unwrap();
    let wallets: Vec<_> = spenders(1).into_iter().map(ethtally_testbed::wallet).collect();
    let transfers: Vec<_> =
        wallets.iter().zip(wallets.iter().skip(1)).map(|(a, b)| (*a, *b, one_audio())).collect();
    chain.send(&transfers[..100]).await.unwrap();
    chain.mine(2).await.unwrap();
    chain
}

/// What a sweep of this node stores.
async fn swept(node: &str, options: &[&str]) -> (BTreeMap<String, String>, Output) {
    let database = unread_table(WALLETS);
    let ran = sweep_all(&database, node, options).run();
    assert!(read_failures(&database).await.is_empty(), "{options:?}: {ran:?}");
    (read_totals(&database).await, ran)
}

fn warnings(ran: &Output) -> Vec<&str> {
    ran.stderr.lines().filter(|line| line.contains("another chain's block number")).collect()
}

/// `ORIGINS=100` runs a hundred schedules of each kind.
#[tokio::test(flavor = "multi_thread")]
async fn answers_from_another_block_or_chain_are_never_stored() {
    let chain = moved_chain(2_000).await;
    let other = Chain::builder().chain_id(5).start().await.unwrap();
    other.mine(3_000).await.unwrap();
    let head = chain.block_number().await.unwrap();
    let (right, _) = swept(&chain.url(), &[]).await;
    let genesis = swept(&chain.url(), &["--block", "0"]).await.0;
    assert_ne!(right, genesis);
    for seed in 0..schedules("ORIGINS", 4) {
        for reader in ["multicall3", "packed", "auto"] {
            let mut random = random(seed);
            let faults =
                [Fault::AtBlock(0), Fault::AtBlock(head - 2), Fault::AnsweredBy(other.url())];
            let fault = faults.choose(&mut random).unwrap().clone();
            let rate = random.random_range(0.05..0.4);
            let stub = stub_of(&chain);
            stub.fault(fault.clone(), sometimes(When::eth_call(), rate, seed));
            let shown = format!("seed {seed}, {reader}, {fault:?} at {rate}");
            let (stored, ran) = swept(&stub.url(), &["--reader", reader, "--chunk", "30"]).await;
            assert_eq!(ran.status, 0, "{shown}: {ran:?}");
            assert!(stored == right, "{shown}: wrong rows");
            assert_eq!(warnings(&ran).len(), 0, "{shown}: {ran:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_answers_from_another_block_every_time_is_never_believed() {
    let chain = moved_chain(2_000).await;
    let other = Chain::builder().chain_id(5).start().await.unwrap();
    for fault in [Fault::AtBlock(0), Fault::AtBlock(1_990), Fault::AnsweredBy(other.url())] {
        for reader in ["multicall3", "packed", "auto"] {
            let stub = stub_of(&chain);
            stub.fault(fault.clone(), When::eth_call());
            let options = ["--reader", reader, "--retries", "2"];
            let (stored, ran) = swept(&stub.url(), &options).await;
            assert_eq!(ran.status, 3, "{reader}, {fault:?}: {ran:?}");
            // The other chain may not even have such a block.
            let says = ["it ran ", "BlockOutOfRange"];
            let is_told = says.iter().any(|words| ran.error().contains(words));
            assert!(is_told, "{reader}, {fault:?}: {ran:?}");
            assert!(stored.is_empty(), "{reader}, {fault:?}");
        }
    }
}

/// A node on which contracts see the block numbers of another chain, of which some calls fail in this way.
fn foreign(chain: &Chain, and: Option<(Fault, f64)>) -> Stub {
    let stub = stub_of(chain);
    if let Some((fault, rate)) = and {
        stub.fault(fault, sometimes(When::eth_call(), rate, 1));
    }
    stub.fault(Fault::ForeignBlockNumbers(20_000_000), When::eth_call());
    stub
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_with_the_block_numbers_of_another_is_found_out_once_and_read() {
    let chain = moved_chain(200).await;
    let (right, _) = swept(&chain.url(), &[]).await;
    for reader in ["multicall3", "packed", "auto"] {
        let stub = foreign(&chain, None);
        let options = ["--reader", reader, "--chunk", "50"];
        let (stored, ran) = swept(&stub.url(), &options).await;
        assert_eq!(ran.status, 0, "{reader}: {ran:?}");
        assert!(stored == right, "{reader}");
        assert_eq!(warnings(&ran).len(), 1, "{reader}: {ran:?}");
        assert!(!ran.stderr.contains("through multicall3"), "{reader}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_from_another_chain_are_noticed_even_where_block_numbers_tell_nothing() {
    let chain = moved_chain(200).await;
    let other = Chain::builder().chain_id(5).start().await.unwrap();
    let (right, _) = swept(&chain.url(), &[]).await;
    let stub = foreign(&chain, Some((Fault::AnsweredBy(other.url()), 0.2)));
    let (stored, ran) = swept(&stub.url(), &["--chunk", "50"]).await;
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(stored == right);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_from_another_block_is_passed_over_for_the_next() {
    let chain = moved_chain(20).await;
    let (right, _) = swept(&chain.url(), &[]).await;
    for reader in ["multicall3", "packed", "auto"] {
        let [first, second] = [(); 2].map(|()| stub_of(&chain));
        first.fault(Fault::AtBlock(1), When::eth_call());
        let urls = format!("{},{}", first.url(), second.url());
        let (stored, ran) = swept(&urls, &["--reader", reader, "--chunk", "50"]).await;
        assert_eq!(ran.status, 0, "{reader}: {ran:?}");
        assert!(stored == right, "{reader}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_aggregate_asks_where_it_runs() {
    let chain = moved_chain(3).await;
    let stub = stub_of(&chain);
    swept(&stub.url(), &["--chunk", "100"]).await;
    let [number, id] = [chain.block_number().await.unwrap(), 1].map(U256::from);
    assert_ne!(number, id);
    for call in stub.eth_calls() {
        let data = call.params[0]["data"].as_str().unwrap();
        assert!(data.contains("42cbb15c") && data.contains("3408e470"), "{data:.400}");
    }
}
