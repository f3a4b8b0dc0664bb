//! Tables of the original in other forms, in PostgreSQL: times with a zone, and partitions.

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain, TokenFault,
    postgres::{self, DatabaseOptions},
    wallet,
};
use serde_json::json;

use crate::support::{
    chains::transfer,
    database::Database,
    program::ethtally,
    table::store_unread,
    wallets::address,
    watch::{assert_matches_chain, caught_up, start_connected, watch},
};

/// The tables of some of the original's deployments. `TIME` stands for the type of their times, `FORM` for partitions.
const TABLES: &str = "
    create table eth_wallet_balances (
        wallet      text primary key,
        balance     numeric not null default 0,
        blocknumber bigint,
        updated_at  TIME not null default current_timestamp,
        created_at  TIME not null default current_timestamp) FORM;
    create index eth_wallet_balances_updated_at_idx on eth_wallet_balances (updated_at);
    create table eth_indexer_checkpoints (
        name        text primary key,
        last_block  bigint not null,
        updated_at  TIME not null default current_timestamp);";

/// Partitions of the table of totals.
const PARTITIONS: &str = "
    create table balances_0 partition of eth_wallet_balances for values with (modulus 3, remainder 0);
    create table balances_1 partition of eth_wallet_balances for values with (modulus 3, remainder 1);
    create table balances_2 partition of eth_wallet_balances for values with (modulus 3, remainder 2);";

/// A database in whose sessions times of other zones are shown.
fn database_in_another_zone() -> Database {
    let options = DatabaseOptions { locale: None, settings: &[("timezone", "Asia/Kolkata")] };
    let url = postgres::shared().create_database_with("kolkata", &options).unwrap();
    postgres::psql(&url, "alter role postgres set timezone to default").unwrap();
    Database::at(url)
}

/// Every command works on these tables, and reads and writes the right times.
async fn every_command_works_on(database: Database) {
    let chain = Chain::builder().faulty().start().await.unwrap();
    let run = |arguments: &[&str]| {
        ethtally(arguments.iter().copied()).node(chain.url()).database(&database).run()
    };
    assert_ne!(run(&["migrate", "--json"]).expect(0).json()["applied"], json!([]));
    assert_eq!(run(&["migrate", "--json"]).expect(0).json()["applied"], json!([]));
    store_unread(&database, 0..30);
    assert_eq!(run(&["status", "--json"]).expect(0).json()["never_read"], 30);

    chain.set_fault(wallet(3), TokenFault::Revert).await.unwrap();
    assert_eq!(run(&["sweep", "--dry-run", "--all", "--json"]).expect(0).json()["wallets"], 30);
    // Every page but the last ends at an age, from which the next one goes on.
    let swept = run(&["sweep", "--all", "--json"]).expect(0).json();
    assert_eq!((&swept["updated"], &swept["failed"]), (&json!(29), &json!(1)));
    let refreshed = run(&["refresh", "--json", &address(1), &address(31)]).expect(0).json();
    assert_eq!(refreshed["updated"], 2);
    let old = "set timezone = 'UTC';
        select count(*) from eth_wallet_balances where updated_at < now() - interval '1 hour'";
    assert_eq!(database.value(old).await, "1", "the unreadable one has its first age");
    let failures = "select count(*) from eth_wallet_read_failures
        where next_try_at::timestamptz between now() and now() + interval '2 minutes'";
    let failures = format!("set timezone = 'UTC'; {failures}");
    assert_eq!(database.value(&failures).await, "1");

    // Two rows of two hours ago, as another program writes them.
    let times = format!(
        "set timezone = 'UTC';
         update eth_wallet_balances set updated_at = current_timestamp - interval '2 hours'
         where wallet in ('{}', '{}')",
        address(4),
        address(5)
    );
    database.sql(&times).await;
    let status = run(&["status", "--json"]).expect(0).json();
    assert_eq!(status["wallets"], 31);
    assert!((0..600).contains(&status["age_seconds"]["p50"].as_u64().unwrap()), "{status}");
    run(&["status", "--max-age", "3h"]).expect(1);
    chain.set_fault(wallet(3), TokenFault::None).await.unwrap();
    database.sql("delete from eth_wallet_read_failures").await;
    run(&["refresh", &address(3)]).expect(0);
    run(&["status", "--max-age", "3h"]).expect(0);
    run(&["status", "--max-age", "1h"]).expect(1);
    let swept = run(&["sweep", "--older-than", "1h", "--batch", "5", "--json"]).expect(0).json();
    assert_eq!(swept["updated"], 2);
    let swept = run(&["sweep", "--batch", "7", "--json"]).expect(0).json();
    assert_eq!(swept["updated"], 7);

    let verified = run(&["verify", &address(4), "--json"]).expect(0).json();
    let age = verified["updated_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>();
    assert!((chrono::Utc::now() - age.unwrap()).num_seconds().abs() < 600, "{verified}");
    assert_eq!(run(&["verify", "--sample", "9", "--json"]).expect(0).json()["sampled"], 9);
    let csv = ethtally(["backfill", "--from-csv", "-", "--resume", "--json"]).input(format!(
        "{}\n{}\n",
        address(4),
        address(33)
    ));
    let filled = csv.node(chain.url()).database(&database).run().expect(0).json();
    assert_eq!(filled["updated"], 1);

    for to in [1, 2] {
        let watching = start_connected(watch("", chain.url(), &database));
        // The first one begins at the newest block.
        caught_up(&chain, &database).await;
        transfer(&chain, 20, to, U256::from(7)).await;
        caught_up(&chain, &database).await;
        watching.stop();
        let status = run(&["status", "--json"]).expect(0).json();
        let at = status["checkpoint"]["updated_at"].as_str().unwrap().to_owned();
        let at = at.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        assert!((chrono::Utc::now() - at).num_seconds().abs() < 600, "{status}");
    }
    assert_matches_chain(&chain, &database, [1, 2, 20]).await;

    // An index serves comparisons with a time of the other type.
    let page = "set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off;
        set enable_incremental_sort = off;
        explain select wallet, updated_at::timestamp::text from eth_wallet_balances stored
        where updated_at < timestamp '2100-01-01' and (updated_at, wallet) > (timestamp '2000-01-01', '')
        order by stored.updated_at, stored.wallet limit 5";
    let plan = database.sql(page).await.join("\n");
    assert!(plan.contains("Index Cond: ((updated_at < '2100-01-01"), "{plan}");
    assert!(plan.contains("(ROW(updated_at, wallet) > ROW("), "{plan}");
    assert!(!plan.contains("Seq Scan") && !plan.contains("Sort  ("), "{plan}");
}

/// The original's tables with times of this type, in this form.
fn tables(time: &str, form: &str, then: &str) -> Database {
    let database = database_in_another_zone();
    let tables = TABLES.replace("TIME", time).replace("FORM", form);
    postgres::psql(&database.url, &format!("{tables} {then}")).unwrap();
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_on_times_with_a_zone() {
    every_command_works_on(tables("timestamptz", "", "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_on_a_hash_partitioned_table() {
    let database = tables("timestamp", "partition by hash (wallet)", PARTITIONS);
    let url = database.url.clone();
    every_command_works_on(database).await;
    // Vacuum is set up where the rows are.
    let set = "select count(*) from pg_class where relname like 'balances\\__'
        and 'autovacuum_vacuum_scale_factor=0.05' = any(reloptions)";
    assert_eq!(postgres::psql(&url, set).unwrap(), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_on_partitions_and_times_with_a_zone() {
    every_command_works_on(tables("timestamptz", "partition by hash (wallet)", PARTITIONS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_where_all_tables_have_times_with_a_zone() {
    let failures = "create table eth_wallet_read_failures (
        wallet         text primary key,
        failures       bigint not null,
        last_error     text not null,
        last_failed_at timestamptz not null,
        next_try_at    timestamptz not null)";
    every_command_works_on(tables("timestamptz(3)", "", failures)).await;
}
