//! Reads from and writes to the tables, outside the program.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{
    database::Database,
    program::ethtally,
    wallets::{address, address_lines, genesis_totals},
};

/// Stores these wallets as placeholders.
pub(crate) fn store_unread(database: &Database, wallets: impl IntoIterator<Item = u64>) {
    store_unread_lines(database, address_lines(wallets));
}

/// Stores the addresses in these lines as placeholders; without any line, only creates the table.
pub(crate) fn store_unread_lines(database: &Database, lines: impl Into<Vec<u8>>) {
    let lines = lines.into();
    if lines.is_empty() {
        ethtally(["migrate"]).database(database).run().expect(0);
        return;
    }
    ethtally(["backfill", "--from-csv", "-", "--placeholders"])
        .database(database)
        .input(lines)
        .run()
        .expect(0);
}

/// A new SQLite database with the first wallets as placeholders.
pub(crate) fn unread_table(wallets: u64) -> Database {
    let database = Database::sqlite();
    store_unread(&database, 0..wallets);
    database
}

/// Sets `updated_at` of these wallets' rows, for example to `2026-01-01 00:00:00`.
pub(crate) async fn date_rows(database: &Database, rows: &[(u64, &str)]) {
    for (n, time) in rows {
        let wallet = address(*n);
        let update = format!(
            "update eth_wallet_balances set updated_at = '{time}' where wallet = '{wallet}'"
        );
        database.sql(&update).await;
    }
}

/// All rows of the table of totals.
pub(crate) async fn dump(database: &Database) -> Vec<String> {
    let columns = "wallet, balance, blocknumber, updated_at, created_at, read_block";
    database.sql(&format!("select {columns} from eth_wallet_balances order by wallet")).await
}

/// Rows of two columns as a map.
async fn pairs(database: &Database, statement: &str) -> BTreeMap<String, String> {
    let rows = database.sql(statement).await;
    let pair = |row: &String| {
        let (key, value) = row.split_once('|').expect("two columns");
        (key.to_owned(), value.to_owned())
    };
    rows.iter().map(pair).collect()
}

/// The totals of all rows by wallet.
pub(crate) async fn stored_totals(database: &Database) -> BTreeMap<String, String> {
    pairs(database, "select wallet, balance from eth_wallet_balances").await
}

/// The totals that ethtally has read, by wallet.
pub(crate) async fn read_totals(database: &Database) -> BTreeMap<String, String> {
    let read = "select wallet, balance from eth_wallet_balances where read_block is not null";
    pairs(database, read).await
}

/// The wallets with a total that ethtally has read.
pub(crate) async fn read_wallets(database: &Database) -> BTreeSet<String> {
    read_totals(database).await.into_keys().collect()
}

/// The last errors of the unreadable wallets, by wallet.
pub(crate) async fn read_failures(database: &Database) -> BTreeMap<String, String> {
    pairs(database, "select wallet, last_error from eth_wallet_read_failures").await
}

/// Panics unless the read totals are those of the first wallets at genesis, except for the wallets in `without`.
pub(crate) async fn assert_read_at_genesis(database: &Database, wallets: u64, without: &[u64]) {
    let expected = genesis_totals((0..wallets).filter(|n| !without.contains(n)));
    let read = read_totals(database).await;
    assert!(read == expected, "{} rows for {} wallets", read.len(), expected.len());
}

/// Panics unless there is neither a total nor a read failure.
pub(crate) async fn assert_nothing_stored(database: &Database) {
    assert_eq!((stored_totals(database).await, read_failures(database).await), Default::default());
}
