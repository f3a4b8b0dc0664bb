//! `sweep --write changed`: rows that did not change are confirmed, not written.

use alloy::primitives::U256;
use serde_json::json;
use sqlx::{ConnectOptions, postgres::PgConnectOptions};

use crate::support::{
    chains::{still_chain, transfer},
    database::{Database, on_both_databases},
    program::{Ethtally, ethtally, eventually_async},
    table::{assert_read_at_genesis, dump, store_unread},
    wallets::{address, address_lines},
};
use ethtally_testbed::chain::Chain;

on_both_databases! {
    only_rows_that_changed_are_written_and_all_are_fresh
    a_read_older_than_a_confirmation_changes_no_row
    a_row_that_appears_after_the_selection_is_not_confirmed
    buckets_of_very_different_sizes_are_all_swept
    keys_and_totals_of_other_programs_do_not_hold_a_round_up
}

fn sweep_changed(database: &Database, node: &str, options: &[&str]) -> Ethtally {
    let sweep = ["sweep", "--all", "--write", "changed", "--json"];
    ethtally(sweep.into_iter().chain(options.iter().copied())).node(node).database(database)
}

/// In SQLite, a confirmation does not count for rows that were written in the same second.
async fn next_second() {
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
}

async fn confirmed(database: &Database) -> String {
    let sql = "select count(*), count(block), sum(wallets) from eth_wallet_confirmations";
    database.value(sql).await
}

async fn only_rows_that_changed_are_written_and_all_are_fresh(database: Database) {
    let chain = Chain::builder().start().await.expect("a chain");
    store_unread(&database, 0..500);
    let first = sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(first.json()["updated"], 500);
    assert_read_at_genesis(&database, 500, &[]).await;
    let written = dump(&database).await;

    next_second().await;
    transfer(&chain, 90, 91, U256::from(7)).await;
    let second = sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    let own = second.json();
    assert_eq!(
        (own["requested"].clone(), own["updated"].clone(), own["unchanged"].clone()),
        (json!(500), json!(2), json!(498))
    );
    let now = dump(&database).await;
    let changed = now.iter().filter(|row| !written.contains(row)).count();
    assert_eq!(changed, 2);
    assert_eq!(confirmed(&database).await, "16|16|500");
    let stale =
        "select count(*) from eth_wallet_freshness where read_block is null or read_block < 1";
    assert_eq!(database.value(stale).await, "0");
    let third = sweep_changed(&database, &chain.url(), &["--older-than", "1h"]).run().expect(0);
    assert_eq!(third.json()["requested"], 0);
}

async fn a_read_older_than_a_confirmation_changes_no_row(database: Database) {
    let chain = Chain::builder().start().await.expect("a chain");
    store_unread(&database, 80..100);
    sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    next_second().await;
    transfer(&chain, 90, 91, U256::from(7)).await;
    transfer(&chain, 91, 90, U256::from(7)).await;
    sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    let before = dump(&database).await;
    let old = ethtally(["refresh", &address(90), &address(95), "--block", "1", "--json"])
        .node(chain.url())
        .database(&database)
        .run()
        .expect(0);
    assert_eq!(old.json()["superseded"], 2);
    assert_eq!(dump(&database).await, before);
}

async fn a_row_that_appears_after_the_selection_is_not_confirmed(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..20);
    sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    let insert = format!(
        "insert into eth_wallet_balances (wallet, balance, updated_at) values ('{}', 5, '2020-01-01 00:00:00')",
        address(900)
    );
    database.sql(&insert).await;
    let fresh = format!(
        "select fresh_at, read_block from eth_wallet_freshness where wallet = '{}'",
        address(900)
    );
    assert!(database.value(&fresh).await.starts_with("2020-01-01 00:00:00"));
    sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    assert!(database.value(&fresh).await.starts_with("202"), "{}", address_lines([900]));
}

async fn buckets_of_very_different_sizes_are_all_swept(database: Database) {
    let chain = still_chain().await;
    let rows = (0..16_u32).flat_map(|digit| {
        let count = if digit < 8 { 3 } else { 2_500 };
        (0..count).map(move |number| format!("0x{digit:x}{number:039x}\n"))
    });
    let lines: String = rows.collect();
    ethtally(["backfill", "--from-csv", "-", "--placeholders"])
        .database(&database)
        .input(lines)
        .run()
        .expect(0);
    for _ in 0..2 {
        let swept = sweep_changed(&database, &chain.url(), &[]).run().expect(0);
        assert_eq!(swept.json()["requested"], 8 * 3 + 8 * 2_500);
        next_second().await;
    }
    assert_eq!(confirmed(&database).await, "16|16|20024");
}

async fn keys_and_totals_of_other_programs_do_not_hold_a_round_up(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..50);
    sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    let upper = address(7).to_uppercase();
    let keys = ["0x1\"],[", "0x2\\", "0x3\n0x4", "0x5 6", "0xé", upper.as_str()];
    for key in keys {
        let insert = format!(
            "insert into eth_wallet_balances (wallet, balance, updated_at, created_at, read_block)
             values ('{key}', 5, '2020-01-01 00:00:00', '2020-01-01 00:00:00', 1)"
        );
        database.sql(&insert).await;
    }
    let spoil = format!(
        "update eth_wallet_balances set balance = '1.5', updated_at = '2020-01-01 00:00:00' where wallet = '{}'",
        address(9)
    );
    database.sql(&spoil).await;
    next_second().await;
    let swept = sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    let own = swept.json();
    assert_eq!((&own["updated"], &own["unchanged"]), (&json!(1), &json!(49)));
    assert!(swept.stderr.contains("not a wallet address in lower case"), "{swept:?}");
    let kept = "select count(*) from eth_wallet_balances where balance = '5' and updated_at < '2021-01-01'";
    assert_eq!(database.value(kept).await, keys.len().to_string());
    database.sql("delete from eth_wallet_balances where updated_at < '2021-01-01'").await;
    assert_read_at_genesis(&database, 50, &[]).await;
}

/// The session that a test holds a lock with, as a transaction that writes totals or confirms buckets holds it.
async fn lock(database: &Database, function: &str) -> sqlx::PgConnection {
    let mut session = database
        .url
        .parse::<PgConnectOptions>()
        .expect("a URL")
        .connect()
        .await
        .expect("a connection");
    let lock = format!(
        "begin; select {function}(to_regclass('eth_wallet_confirmations')::oid::int, digit)
         from generate_series(0, 15) digit"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut session).await.expect("a lock");
    session
}

async fn commit(mut session: sqlx::PgConnection, statement: String) {
    let statements = format!("{statement}; commit");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut session).await.expect("a commit");
}

/// Waits until another session waits for the lock.
async fn until_one_waits(database: &Database) {
    let waiting = "select count(*) from pg_locks join pg_database on pg_database.oid = database
         where locktype = 'advisory' and not granted and datname = current_database()";
    eventually_async("another session waits for the lock", async || {
        database.value(waiting).await != "0"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_waits_for_a_writer_and_sees_what_it_wrote() {
    let database = Database::postgres();
    let chain = still_chain().await;
    store_unread(&database, 0..20);
    sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    let writer = lock(&database, "pg_advisory_xact_lock_shared").await;
    let sweep = sweep_changed(&database, &chain.url(), &[]).start();
    until_one_waits(&database).await;
    // A read of a newer block, whose transaction began before the sweep's.
    let write = format!(
        "update eth_wallet_balances set balance = 5, read_block = 1000000, updated_at = now() at time zone 'utc'
         where wallet = '{}'",
        address(7)
    );
    commit(writer, write).await;
    let swept = sweep.wait().expect(0).json();
    assert_eq!((swept["superseded"].clone(), swept["unchanged"].clone()), (json!(1), json!(19)));
    let row = format!(
        "select balance, read_block from eth_wallet_freshness where wallet = '{}'",
        address(7)
    );
    assert_eq!(database.value(&row).await, "5|1000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_waits_for_a_confirmation_and_its_older_read_changes_no_row() {
    let database = Database::postgres();
    let chain = still_chain().await;
    store_unread(&database, 0..20);
    sweep_changed(&database, &chain.url(), &[]).run().expect(0);
    let before = dump(&database).await;
    let confirmation = lock(&database, "pg_advisory_xact_lock").await;
    let refresh =
        ethtally(["refresh", &address(7), "--json"]).node(chain.url()).database(&database).start();
    until_one_waits(&database).await;
    let confirm = "update eth_wallet_confirmations
         set block = 1000000, selected_at = statement_timestamp() at time zone 'utc', wallets = 2";
    commit(confirmation, confirm.to_owned()).await;
    assert_eq!(refresh.wait().expect(0).json()["superseded"], 1);
    assert_eq!(dump(&database).await, before);
}
