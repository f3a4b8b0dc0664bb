//! A hundred thousand wallets: every total is the chain's, and both databases hold the same.

use std::{fmt::Write, fs};

use ethtally_testbed::{Chain, genesis::holdings, wallet};
use rand::seq::index;

use crate::{
    harness::{Database, ethtally},
    world::address,
};

const WALLETS: u64 = 100_000;
/// So many totals are read once more, each part by a call of its own.
const SAMPLE: usize = 500;

/// Takes all wallets in and returns what the table then holds: wallet and total, in order.
async fn taken_in(database: &Database, csv: &str, node: &str, reader: &str) -> Vec<String> {
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
    let mut rows = database.sql("select wallet, balance from eth_wallet_balances").await;
    rows.sort_unstable();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_totals_are_exact_in_both_databases_and_by_both_readers() {
    let chain = Chain::builder().wallets(WALLETS).start().await.unwrap();
    let mut csv = String::from("id,wallet\n");
    for n in 0..WALLETS {
        writeln!(csv, "{n},{}", address(n)).unwrap();
    }
    let (sqlite, postgres) = (Database::sqlite(), Database::postgres());

    let in_sqlite = taken_in(&sqlite, &csv, &chain.url(), "multicall3").await;
    let in_postgres = taken_in(&postgres, &csv, &chain.url(), "auto").await;

    assert!(in_sqlite == in_postgres, "the databases differ");
    assert_eq!(in_sqlite.len() as u64, WALLETS);
    // Against what the chain was given in the beginning: all of them.
    let mut given: Vec<_> = (0..)
        .zip(holdings(WALLETS))
        .map(|(n, holding)| format!("{}|{}", address(n), holding.total()))
        .collect();
    given.sort_unstable();
    assert!(in_sqlite == given, "a total is not what the wallet was given");
    // Against the chain itself: a random sample.
    for n in index::sample(&mut rand::rng(), WALLETS as usize, SAMPLE) {
        let wallet = wallet(n as u64);
        let row = format!("{wallet:#x}|{}", chain.total(wallet).await.unwrap());
        assert!(in_sqlite.binary_search(&row).is_ok(), "the chain says {row}");
    }
}
