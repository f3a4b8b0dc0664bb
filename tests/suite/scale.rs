//! A hundred thousand wallets: all totals are right and the same in both databases.

use std::{collections::BTreeMap, fmt::Write, fs};

use ethtally_testbed::{Chain, wallet};
use rand::seq::index;

use crate::support::{
    database::Database,
    program::ethtally,
    table::stored_totals,
    wallets::{address, genesis_totals},
};

const WALLETS: u64 = 100_000;
/// Number of totals to compare with direct calls.
const SAMPLE: usize = 500;

/// Backfills all wallets and returns the stored totals by wallet.
async fn backfilled(
    database: &Database,
    csv: &str,
    node: &str,
    reader: &str,
) -> BTreeMap<String, String> {
    let file = database.folder().join("wallets.csv");
    fs::write(&file, csv).unwrap();
    let file = file.to_str().unwrap();
    let result = ethtally(["backfill", "--json", "--from-csv", file, "--reader", reader])
        .node(node)
        .database(database)
        .run()
        .expect(0)
        .json();
    for (name, expected) in [
        ("rows", WALLETS),
        ("wallets", WALLETS),
        ("updated", WALLETS),
        ("duplicates", 0),
        ("rejected", 0),
        ("failed", 0),
        ("superseded", 0),
    ] {
        assert_eq!(result[name], expected, "{name}: {result}");
    }
    assert!(result["calls"].as_u64() < Some(WALLETS / 500), "{result}");
    stored_totals(database).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_totals_are_exact_in_both_databases_and_by_both_readers() {
    let chain = Chain::builder().wallets(WALLETS).start().await.unwrap();
    let mut csv = String::from("id,wallet\n");
    for n in 0..WALLETS {
        writeln!(csv, "{n},{}", address(n)).unwrap();
    }
    let (sqlite, postgres) = (Database::sqlite(), Database::postgres());

    let in_sqlite = backfilled(&sqlite, &csv, &chain.url(), "multicall3").await;
    let in_postgres = backfilled(&postgres, &csv, &chain.url(), "auto").await;

    assert!(in_sqlite == in_postgres, "the databases differ");
    assert_eq!(in_sqlite.len() as u64, WALLETS);
    // All totals against genesis.
    let given = genesis_totals(0..WALLETS);
    assert!(in_sqlite == given, "a total differs from genesis");
    // A random sample against the chain.
    for n in index::sample(&mut rand::rng(), WALLETS as usize, SAMPLE) {
        let total = chain.total(wallet(n as u64)).await.unwrap().to_string();
        assert_eq!(in_sqlite[&address(n as u64)], total, "wallet {n}");
    }
}
