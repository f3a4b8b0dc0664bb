//! Retries of wallets on the record of failures: their share of a batch, and what they decide.

use std::collections::BTreeSet;

use ethtally_testbed::{
    Behaviour, TokenFault,
    adversarial::{self, profile},
};

use crate::support::{
    chains::{faulty_chain, still_chain, still_stub},
    database::{Database, on_both_databases},
    program::{ethtally, sweep, sweep_all},
    requests::wallets_read,
    table::{date_rows, read_failures, read_totals, read_wallets, store_unread},
    wallets::{address, addresses, sorted_addresses},
};

on_both_databases! {
    thousands_of_wallets_that_always_fail_hold_no_row_up
    retries_get_a_quarter_of_a_batch_the_longest_due_first
    a_batch_is_all_retries_only_if_no_other_row_is_stale
    retries_that_fail_again_do_not_decide
    a_new_failure_decides_beside_retries
    a_retry_with_a_young_row_waits_for_its_age
    the_shards_share_the_retries
    all_takes_every_row_and_every_retry_once
    a_dry_run_counts_as_the_sweep_does
}

const DUE: &str = "2001-01-01 00:00:00";

/// Puts wallets on the record of failures, due since this time.
async fn fail_before(database: &Database, wallets: impl IntoIterator<Item = String>, due: &str) {
    let rows: Vec<_> = wallets
        .into_iter()
        .map(|wallet| format!("('{wallet}', 1, 'balanceOf failed', '{due}', '{due}')"))
        .collect();
    let insert = format!(
        "insert into eth_wallet_read_failures
             (wallet, failures, last_error, last_failed_at, next_try_at)
         values {}",
        rows.join(", ")
    );
    database.sql(&insert).await;
}

async fn all_are_due(database: &Database) {
    database.sql(&format!("update eth_wallet_read_failures set next_try_at = '{DUE}'")).await;
}

async fn thousands_of_wallets_that_always_fail_hold_no_row_up(database: Database) {
    let chain = still_chain().await;
    let file = database.folder().join("adversarial.toml");
    std::fs::write(&file, profile(1)).unwrap();
    let wallet = |behaviour, n| format!("{:#x}", adversarial::wallet([behaviour; 4], n));
    let good: BTreeSet<_> = (0..800).map(|n| wallet(Behaviour::Honest, n)).collect();
    let run = |arguments: &[&str], input: String| {
        let ran = ethtally(arguments.iter().copied());
        let ran = ran.env("ETHTALLY_PROFILE", file.to_str().unwrap()).node(chain.url());
        ran.database(&database).input(input).run().expect(0)
    };
    let lines = good.iter().map(|wallet| format!("{wallet}\n")).collect();
    run(&["backfill", "--from-csv", "-", "--placeholders"], lines);
    fail_before(&database, (0..5_000).map(|n| wallet(Behaviour::Revert, n)), DUE).await;

    let mut reads = 0;
    for hour in 0..3 {
        let ran = run(&["sweep", "--batch", "1000", "--json"], String::new()).json();
        assert_eq!((&ran["updated"], &ran["failed"]), (&750.into(), &250.into()), "hour {hour}");
        reads += 750;
        all_are_due(&database).await;
    }
    // The stalest come first, so that each was read two or three times.
    assert!(reads > 2 * good.len());
    let read: BTreeSet<_> = read_totals(&database).await.into_keys().collect();
    assert_eq!(read, good);
}

async fn retries_get_a_quarter_of_a_batch_the_longest_due_first(database: Database) {
    let stub = still_stub().await;
    store_unread(&database, 0..100);
    // Half of them have a row.
    fail_before(&database, (0..50).map(address), "2001-01-02 00:00:00").await;
    fail_before(&database, (200..205).map(address), DUE).await;
    fail_before(&database, (205..300).map(address), "2001-01-03 00:00:00").await;
    let swept = |batch: &str| {
        stub.forget();
        let ran = sweep(&database, &stub.url(), &["--batch", batch]).run().expect(0).json();
        let read = wallets_read(&stub);
        assert_eq!(ran["requested"], read.len());
        let of = |wallets: std::ops::Range<u64>| {
            let wallets = addresses(wallets);
            read.iter().filter(|wallet| wallets.contains(*wallet)).count()
        };
        (of(50..100), of(0..50), of(200..205), of(205..300))
    };
    // Never failed; failed, in the order of their times.
    assert_eq!(swept("40"), (30, 5, 5, 0));
    assert_eq!(swept("4"), (3, 1, 0, 0));
    // Less than four have room for one all the same.
    assert_eq!(swept("2"), (1, 1, 0, 0));
    assert_eq!(swept("1"), (0, 1, 0, 0));
    // Once they are read, they are rows like others; the quarter goes to those that are left on the record.
    assert_eq!(swept("100"), (50, 8 + 25, 5, 0));
}

async fn a_batch_is_all_retries_only_if_no_other_row_is_stale(database: Database) {
    let stub = still_stub().await;
    store_unread(&database, 0..10);
    fail_before(&database, (200..300).map(address), DUE).await;
    let requested = |options: &[&str]| {
        sweep(&database, &stub.url(), options).run().expect(0).json()["requested"].clone()
    };
    assert_eq!(requested(&["--batch", "40"]), 20);
    assert_eq!(read_failures(&database).await.len(), 90);
    // The rows are fresh now.
    assert_eq!(requested(&["--batch", "40", "--older-than", "1h"]), 40);
    assert_eq!(read_failures(&database).await.len(), 50);
    assert_eq!(requested(&["--all", "--older-than", "1h"]), 50);
    assert_eq!(requested(&["--batch", "40", "--older-than", "1h"]), 0);
}

async fn retries_that_fail_again_do_not_decide(database: Database) {
    let chain = faulty_chain([(1, TokenFault::Revert), (2, TokenFault::BurnGas)]).await;
    store_unread(&database, 0..3);
    let swept = |options: &[&str], status| {
        let ran = sweep_all(&database, &chain.url(), options).run().expect(status);
        assert!(!ran.stderr.contains("error:"), "{ran:?}");
        (ran.json()["updated"].clone(), ran.json()["failed"].clone())
    };
    assert_eq!(swept(&["--strict"], 1), (1.into(), 2.into()));
    all_are_due(&database).await;
    // Beside a row, and alone.
    assert_eq!(swept(&["--strict"], 0), (1.into(), 2.into()));
    for options in [&["--older-than", "1h"][..], &["--older-than", "1h", "--strict"]] {
        all_are_due(&database).await;
        assert_eq!(swept(options, 0), (0.into(), 2.into()));
    }
    let failures = "select distinct failures from eth_wallet_read_failures";
    assert_eq!(database.value(failures).await, "4");
    // Of wallets without a row, too.
    database
        .sql(&format!("delete from eth_wallet_balances where wallet <> '{}'", address(0)))
        .await;
    all_are_due(&database).await;
    assert_eq!(swept(&["--older-than", "1h", "--strict"], 0), (0.into(), 2.into()));
}

async fn a_new_failure_decides_beside_retries(database: Database) {
    let chain = faulty_chain([(1, TokenFault::Revert), (2, TokenFault::Revert)]).await;
    store_unread(&database, 1..3);
    fail_before(&database, [address(1)], DUE).await;
    let ran = sweep_all(&database, &chain.url(), &[]).run().expect(3);
    assert!(ran.error().contains("not one of 2 wallets could be read"), "{ran:?}");
    assert!(ran.error().contains(&address(2)), "the new one is named: {ran:?}");
    assert_eq!(ran.json()["failed"], 2);
}

async fn a_retry_with_a_young_row_waits_for_its_age(database: Database) {
    let stub = still_stub().await;
    store_unread(&database, 0..4);
    let young = "2999-01-01 00:00:00";
    date_rows(&database, &[(1, young), (2, young)]).await;
    fail_before(&database, [0, 1, 9].map(address), DUE).await;
    let ran = sweep_all(&database, &stub.url(), &["--older-than", "6h"]).run().expect(0);
    assert_eq!(ran.json()["requested"], 3);
    assert_eq!(wallets_read(&stub), sorted_addresses([0, 3, 9]));
}

async fn the_shards_share_the_retries(database: Database) {
    let stub = still_stub().await;
    store_unread(&database, 0..60);
    fail_before(&database, (0..20).chain(100..120).map(address), DUE).await;
    for shard in ["0/3", "1/3", "2/3"] {
        sweep_all(&database, &stub.url(), &["--shard", shard]).run().expect(0);
    }
    assert_eq!(wallets_read(&stub), sorted_addresses((0..60).chain(100..120)));
    assert!(read_failures(&database).await.is_empty());
}

async fn all_takes_every_row_and_every_retry_once(database: Database) {
    let stub = still_stub().await;
    store_unread(&database, 0..6_000);
    // More retries than pages of rows have room for.
    fail_before(&database, (0..1_000).chain(10_000..13_000).map(address), DUE).await;
    let ran = sweep_all(&database, &stub.url(), &["--chunk", "200"]).run().expect(0).json();
    assert_eq!((&ran["requested"], &ran["updated"]), (&9_000.into(), &9_000.into()));
    let expected = sorted_addresses((0..6_000).chain(10_000..13_000));
    assert!(wallets_read(&stub) == expected, "each once");
    assert!(read_failures(&database).await.is_empty());
    assert_eq!(read_wallets(&database).await.len(), 9_000);
}

async fn a_dry_run_counts_as_the_sweep_does(database: Database) {
    let stub = still_stub().await;
    for options in [
        &["--batch", "20"][..],
        &["--batch", "60"],
        &["--batch", "20", "--shard", "1/2"],
        &["--all", "--shard", "0/2"],
        &["--all"],
        &["--batch", "8", "--older-than", "1h"],
    ] {
        store_unread(&database, 0..30);
        fail_before(&database, (0..10).chain(100..130).map(address), DUE).await;
        fail_before(&database, (130..140).map(address), "2999-01-01 00:00:00").await;
        date_rows(&database, &[(9, "2999-01-01 00:00:00"), (29, "2999-01-01 00:00:00")]).await;
        let of = |more: &[&str]| {
            sweep(&database, &stub.url(), &[options, more].concat()).run().expect(0).json()
        };
        assert_eq!(of(&["--dry-run"])["wallets"], of(&[])["requested"], "{options:?}");
        database.sql("delete from eth_wallet_balances").await;
        database.sql("delete from eth_wallet_read_failures").await;
    }
}
