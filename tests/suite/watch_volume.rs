//! `watch` under load: many events in one block, and a day of blocks to catch up.

use std::{
    collections::BTreeSet,
    io::{Write, stderr},
    time::Instant,
};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain, holding,
    stub::{Fault, When},
    wallet,
};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::support::{
    chains::stub_of,
    database::{Database, on_both_databases},
    table::{read_wallets, store_unread},
    wallets::addresses,
    watch::{caught_up, mismatches, start, start_connected, watch},
};

on_both_databases! {
    a_thousand_transfers_in_one_block_need_few_calls
    a_day_of_blocks_is_filled_if_the_node_states_a_limit_of_ten
}

/// Blocks per day.
const DAY: u64 = 7_200;
/// Transfers per day.
const TRANSFERS_OF_DAY: u64 = 72;

/// Logs a measurement; the tests assert bounds.
fn log_measurement(what: &str) {
    // Stderr may be closed.
    let _ = writeln!(stderr(), "measured: {what}");
}

fn database_name(database: &Database) -> &'static str {
    if database.is_sqlite() { "SQLite" } else { "PostgreSQL" }
}

async fn a_thousand_transfers_in_one_block_need_few_calls(database: Database) {
    const WALLETS: u64 = 2_000;
    const TRANSFERS: usize = 1_000;
    let chain = Chain::builder().wallets(WALLETS).gas_limit(100_000_000).start().await.unwrap();
    let stub = stub_of(&chain);
    store_unread(&database, 0..WALLETS);
    let arguments = format!("--ws-url {}", chain.ws_url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    caught_up(&chain, &database).await;

    let amount = U256::from(1_000_000_007);
    let senders = (0..WALLETS).filter(|n| holding(*n).balance > amount).take(TRANSFERS);
    // Senders are in the first half, receivers in the second.
    let pairs: Vec<_> = senders.map(|from| (from, (from + WALLETS / 2) % WALLETS)).collect();
    let transfers: Vec<_> =
        pairs.iter().map(|(from, to)| (wallet(*from), wallet(*to), amount)).collect();
    chain.set_automine(false).await.unwrap();
    chain.send(&transfers).await.unwrap();
    stub.forget();
    chain.mine(1).await.unwrap();
    let mined = Instant::now();
    let head = caught_up(&chain, &database).await;
    let elapsed = mined.elapsed();
    let calls = stub.count("eth_call");
    let lines = watching.stop();
    let last = lines.last().unwrap();

    assert_eq!(chain.logs(head, head).await.unwrap().len(), TRANSFERS, "all in one block");
    let touched: BTreeSet<u64> = pairs.iter().flat_map(|(from, to)| [*from, *to]).collect();
    log_measurement(&format!(
        "{TRANSFERS} transfers in one block, {} wallets: {calls} eth_call, stored {} ms after the block was \
         mined ({})",
        touched.len(),
        elapsed.as_millis(),
        database_name(&database)
    ));
    assert_eq!((&last["logs"], &last["updated"]), (&TRANSFERS.into(), &touched.len().into()));
    assert!(calls <= 20, "{calls} eth_call");
    assert_eq!(read_wallets(&database).await, addresses(touched.iter().copied()));
    assert_eq!(mismatches(&chain, &database, touched).await, []);
}

/// A shared chain with a day of blocks, a transfer in each hundred, and the wallets of these. It takes Anvil
/// half a minute, and would take twice as long if it kept the state of each block.
async fn a_day() -> &'static (Chain, BTreeSet<u64>) {
    static CHAIN: OnceCell<(Chain, BTreeSet<u64>)> = OnceCell::const_new();
    CHAIN
        .get_or_init(async || {
            let chain = Chain::builder().arg("--prune-history").start().await.unwrap();
            let amount = U256::from(1_000_000_007);
            let senders: Vec<_> = (0..500).filter(|n| holding(*n).balance > amount).collect();
            let mut touched = BTreeSet::new();
            for n in 0..TRANSFERS_OF_DAY {
                // At varying positions within a range.
                let before = 99 - n % 13;
                chain.mine(before).await.unwrap();
                let (from, to) = (senders[n as usize], 500 + n);
                chain.transfer(wallet(from), wallet(to), amount).await.unwrap();
                touched.extend([from, to]);
                chain.mine(99 - before).await.unwrap();
            }
            assert_eq!(chain.block_number().await.unwrap(), DAY);
            (chain, touched)
        })
        .await
}

/// Runs a `watch` that is a day behind, with this fault. Returns the number of `eth_getLogs` it sent.
async fn a_day_filled(database: &Database, fault: Fault, when: When, name: &str) -> usize {
    let (chain, touched) = a_day().await;
    let stub = stub_of(chain);
    store_unread(database, 0..1_000);
    let left_at =
        "insert into eth_indexer_checkpoints (name, last_block) values ('audio_transfers', 0)";
    database.sql(left_at).await;
    stub.fault(fault, when);
    let arguments = format!("--ws-url {}", chain.ws_url());
    let watching = start(watch(&arguments, stub.url(), database));
    let began = Instant::now();
    let filled = watching.until("gap_filled", 1);
    let elapsed = began.elapsed();
    caught_up(chain, database).await;
    let asked = stub.count("eth_getLogs");
    let reasons = watching.stop();
    log_measurement(&format!(
        "{DAY} blocks filled from a node that {name}: {asked} eth_getLogs, {} eth_call, {} requests, {} ms ({})",
        stub.count("eth_call"),
        stub.requests().len(),
        elapsed.as_millis(),
        database_name(database)
    ));
    assert_eq!((&filled["from_block"], &filled["to_block"]), (&1.into(), &DAY.into()), "{filled}");
    assert_eq!(filled["logs"], TRANSFERS_OF_DAY, "{filled}");
    let last = reasons.last().unwrap();
    assert_eq!((&last["checkpoint_block"], &last["errors"]), (&DAY.into(), &0.into()), "{last}");
    assert_eq!(read_wallets(database).await, addresses(touched.iter().copied()));
    assert_eq!(mismatches(chain, database, touched.iter().copied()).await, []);
    asked
}

async fn a_day_of_blocks_is_filled_if_the_node_states_a_limit_of_ten(database: Database) {
    let message = "You can make eth_getLogs requests with up to a 10 block range.";
    let fault = Fault::LogsWiderThan(10, message.to_owned());
    let asked = a_day_filled(&database, fault, When::always(), "says that it allows ten").await;
    // 719 ranges of ten, the last sixteen blocks one by one, and some attempts with wider ranges.
    assert!(asked <= 760, "{asked} eth_getLogs for {DAY} blocks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_blocks_is_filled_if_the_node_does_not_state_its_limit() {
    let fault = Fault::LogsWiderThan(10, "block range is too wide".to_owned());
    let asked =
        a_day_filled(&Database::sqlite(), fault, When::always(), "allows ten and does not say so")
            .await;
    assert!(asked <= 800, "{asked} eth_getLogs for {DAY} blocks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_blocks_is_filled_if_the_node_limits_the_number_of_logs() {
    // Only five blocks with many logs, around noon, fit into a range; elsewhere any width does.
    let asks_for_too_many = |request: &Value| {
        let bound = |name| {
            let number = request["params"][0][name].as_str().unwrap_or_default();
            u64::from_str_radix(number.trim_start_matches("0x"), 16).unwrap_or(0)
        };
        let (from, to) = (bound("fromBlock"), bound("toBlock"));
        let in_noon = (to + 1).min(3_700).saturating_sub(from.max(3_500));
        in_noon > 5
    };
    let fault = Fault::error(-32005, "query returned more than 10000 results");
    let when = When::method("eth_getLogs").matching(asks_for_too_many);
    let name = "answers with so many logs and no more";
    let asked = a_day_filled(&Database::sqlite(), fault, when, name).await;
    // The range grows only slowly after noon: the afternoon has 3,500 blocks.
    assert!(asked <= 800, "{asked} eth_getLogs for {DAY} blocks");
}
