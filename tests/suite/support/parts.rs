//! Tables and profiles with parts in columns.

use std::{collections::BTreeMap, fs, ops::Range};

use alloy::primitives::U256;
use ethtally_testbed::{Chain, wallet};

use crate::support::{
    database::Database,
    program::{Ethtally, ethtally},
    wallets::address_lines,
};

/// The profile of the examples that names its three parts.
pub(crate) fn example_of_parts() -> String {
    format!("{}/examples/profiles/audius-parts.toml", env!("CARGO_MANIFEST_DIR"))
}

/// The built-in profile in which some functions have columns, in the folder of the database.
pub(crate) fn with_columns(database: &Database, columns: &[(&str, &str)]) -> String {
    let mut text = include_str!("../../../src/profile/audius.toml").to_owned();
    for (function, column) in columns {
        let function = format!("function = \"{function}(address)\"");
        text = text.replacen(&function, &format!("{function}\ncolumn = \"{column}\""), 1);
    }
    let file = database.folder().join("columns.toml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Prepares a run with this profile.
pub(crate) fn run(database: &Database, node: &str, profile: &str, arguments: &[&str]) -> Ethtally {
    let command = ethtally(arguments.iter().copied()).env("ETHTALLY_PROFILE", profile);
    command.node(node).database(database)
}

/// A table of these wallets as placeholders, with the columns of the example.
pub(crate) fn unread(database: &Database, wallets: Range<u64>) {
    let command = ["backfill", "--from-csv", "-", "--placeholders"];
    let command = ethtally(command).env("ETHTALLY_PROFILE", &example_of_parts());
    command.database(database).input(address_lines(wallets)).run().expect(0);
}

/// A row: total, and each part of the example; `None` for null.
pub(crate) type StoredParts = (U256, [Option<U256>; 3]);

/// The rows of the table by wallet.
pub(crate) async fn rows(database: &Database) -> BTreeMap<String, StoredParts> {
    let rows = database
        .sql("select wallet, balance, held, staked, delegated from eth_wallet_balances")
        .await;
    let row = |row: &String| {
        let fields: Vec<_> = row.split('|').collect();
        let part = |number: usize| {
            (!fields[number].is_empty()).then(|| fields[number].parse().expect("a part"))
        };
        (fields[0].to_owned(), (fields[1].parse().expect("a total"), [part(2), part(3), part(4)]))
    };
    rows.iter().map(row).collect()
}

/// What is stored of a wallet at a block.
pub(crate) async fn on_chain(chain: &Chain, n: u64) -> StoredParts {
    let at = chain.holding_at(wallet(n), chain.block_number().await.unwrap()).await.unwrap();
    (at.total(), [Some(at.balance), Some(at.staked), Some(at.delegated)])
}
