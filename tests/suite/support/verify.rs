//! Runs `verify`, and what its tests have in common.

use serde_json::{Value, json};

use crate::support::{
    database::Database,
    program::{Output, ethtally},
    wallets::{address, address_lines},
};

/// The counts of a sample.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) in_sync: u64,
    pub(crate) moved: u64,
    pub(crate) wrong: u64,
    pub(crate) unreadable: u64,
    pub(crate) unchecked: u64,
}

impl Sample {
    /// The result with these counts.
    pub(crate) fn json(self, drifted: &[String]) -> Value {
        let Self { in_sync, moved, wrong, unreadable, unchecked } = self;
        json!({
            "command": "verify",
            "sampled": in_sync + moved + wrong + unreadable + unchecked,
            "in_sync": in_sync,
            "drifted": moved + wrong,
            "moved": moved,
            "wrong": wrong,
            "unreadable": unreadable,
            "unchecked": unchecked,
            "drifted_wallets": drifted,
        })
    }
}

/// Runs `verify` on the chain at `url`.
pub(crate) fn verify(database: &Database, url: &str, arguments: &[&str]) -> Output {
    ethtally([&["verify"], arguments].concat()).node(url).database(database).run()
}

/// Reads and stores these wallets.
pub(crate) async fn read(database: &Database, url: &str, wallets: impl IntoIterator<Item = u64>) {
    let lines = address_lines(wallets);
    if lines.is_empty() {
        ethtally(["migrate"]).database(database).run().expect(0);
        return;
    }
    ethtally(["backfill", "--from-csv", "-"])
        .node(url)
        .database(database)
        .input(lines)
        .run()
        .expect(0);
}

/// Sets a wrong balance.
pub(crate) async fn set_balance(database: &Database, n: u64, balance: &str) {
    let wallet = address(n);
    let update =
        format!("update eth_wallet_balances set balance = '{balance}' where wallet = '{wallet}'");
    database.sql(&update).await;
}
