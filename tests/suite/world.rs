//! What many stories share: a chain that none of them changes, tables with rows in them, and what a node was asked.

use std::{collections::BTreeSet, ops::Range};

use alloy::{
    primitives::{Address, hex},
    providers::bindings::IMulticall3::aggregate3Call,
    sol_types::SolCall,
};
use ethtally_testbed::{
    Chain,
    contracts::{AUDIO, MULTICALL3},
    stub::{Seen, Stub},
    wallet,
};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::harness::{Database, Ran, ethtally};

/// A chain of a thousand wallets at block 0, for stories that change nothing on it.
pub(crate) async fn still_chain() -> &'static Chain {
    static CHAIN: OnceCell<Chain> = OnceCell::const_new();
    CHAIN.get_or_init(async || Chain::builder().start().await.expect("a chain")).await
}

/// Wallet `n` as it is stored.
pub(crate) fn address(n: u64) -> String {
    format!("{:#x}", wallet(n))
}

/// Addresses, one a line.
pub(crate) fn lines(wallets: impl IntoIterator<Item = u64>) -> String {
    wallets.into_iter().map(|n| address(n) + "\n").collect()
}

/// Stores wallets unread.
pub(crate) fn store_unread(database: &Database, wallets: Range<u64>) {
    ethtally(["backfill", "--from-csv", "-", "--placeholders"])
        .database(database)
        .input(lines(wallets))
        .run()
        .expect(0);
}

/// Makes rows as old as the times say, such as `2026-01-01 00:00:00`.
pub(crate) async fn date_rows(database: &Database, rows: &[(u64, &str)]) {
    for (n, time) in rows {
        let wallet = address(*n);
        let update = format!(
            "update eth_wallet_balances set updated_at = '{time}' where wallet = '{wallet}'"
        );
        database.sql(&update).await;
    }
}

/// All that the table of totals holds.
pub(crate) async fn dump(database: &Database) -> Vec<String> {
    let columns = "wallet, balance, blocknumber, updated_at, created_at, read_block";
    database.sql(&format!("select {columns} from eth_wallet_balances order by wallet")).await
}

/// Which wallets hold a total that was read.
pub(crate) async fn read_wallets(database: &Database) -> BTreeSet<String> {
    let read = "select wallet from eth_wallet_balances where read_block is not null";
    database.sql(read).await.into_iter().collect()
}

/// The wallets 0, 1, 2, … as a set of what is stored.
pub(crate) fn addresses(wallets: impl IntoIterator<Item = u64>) -> BTreeSet<String> {
    wallets.into_iter().map(address).collect()
}

/// An `eth_call` that a node was asked: to which contract, with which data, at which block.
pub(crate) struct Call {
    pub(crate) to: Address,
    pub(crate) data: Vec<u8>,
    pub(crate) block: String,
}

/// The `eth_call`s of a journal.
pub(crate) fn calls(journal: &[Seen]) -> Vec<Call> {
    let call = |seen: &Seen| {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let call = &seen.params[0];
        let data = if call["input"].is_string() { &call["input"] } else { &call["data"] };
        Call {
            to: text(&call["to"]).parse().expect("an address"),
            data: hex::decode(text(data)).expect("hexadecimal data"),
            // By number, or by hash.
            block: text(seen.params[1].get("blockHash").unwrap_or(&seen.params[1])),
        }
    };
    journal.iter().filter(|seen| seen.method == "eth_call").map(call).collect()
}

/// The wallets whose AUDIO was asked for through Multicall3, as often as it was.
pub(crate) fn wallets_read_through(stub: &Stub) -> Vec<String> {
    let mut wallets = Vec::new();
    for call in calls(&stub.requests()).iter().filter(|call| call.to == MULTICALL3) {
        let parts = aggregate3Call::abi_decode(&call.data).expect("an aggregate3").calls;
        let of_audio = parts.iter().filter(|part| part.target == AUDIO);
        wallets.extend(of_audio.map(|part| hex::encode_prefixed(&part.callData[16..36])));
    }
    wallets.sort_unstable();
    wallets
}

/// The line on stdout with its milliseconds, which differ from run to run, as `N`.
#[track_caller]
pub(crate) fn without_time(ran: &Ran) -> String {
    let (mark, end) =
        if ran.stdout.starts_with('{') { ("\"elapsed_ms\":", ",") } else { (" in ", " ms") };
    let (before, rest) = ran.stdout.split_once(mark).expect("milliseconds");
    let (time, after) = rest.split_once(end).expect("something behind them");
    assert!(!time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit()), "{time}");
    format!("{before}{mark}N{end}{}", after.trim_end_matches('\n'))
}
