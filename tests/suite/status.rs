//! `status`: reports how fresh the table is, without a node and without writes.

use chrono::{DateTime, TimeDelta, Utc};
use ethtally_testbed::{Chain, TokenFault, wallet};
use serde_json::{Value, json};

use crate::support::{
    database::{Database, on_both_databases},
    program::{Output, ethtally},
    table::{date_rows, dump, store_unread},
    wallets::address,
};

on_both_databases! {
    rows_are_counted_as_unread_and_unreadable
    ages_are_those_of_the_nearest_rank
    status_exits_1_if_a_row_is_older_than_max_age
    the_checkpoint_is_that_of_the_profile
    an_empty_table_has_no_ages
    status_without_tables_is_an_error_and_creates_none
}

/// Runs `status` without a node.
fn status(database: &Database, arguments: &[&str]) -> Output {
    ethtally([&["status"], arguments].concat()).database(database).run()
}

/// Stores a row for each age in seconds; returns the time of that.
async fn rows_aged(database: &Database, ages: &[i64]) -> DateTime<Utc> {
    store_unread(database, 0..ages.len() as u64);
    let now = Utc::now();
    for (n, age) in (0..).zip(ages) {
        let time = (now - TimeDelta::seconds(*age)).format("%Y-%m-%d %H:%M:%S%.3f").to_string();
        date_rows(database, &[(n, &time)]).await;
    }
    now
}

/// Panics unless an age was `expected` seconds when the rows were dated, plus at most the time since.
#[track_caller]
fn assert_age(ages: &Value, name: &str, expected: i64, dated: DateTime<Utc>) {
    let since = (Utc::now() - dated).num_seconds() + 1;
    let age = ages[name].as_i64().expect("a number");
    assert!((expected..=expected + since).contains(&age), "{name}: {age}, not {expected}");
}

async fn rows_are_counted_as_unread_and_unreadable(database: Database) {
    let chain = Chain::builder().faulty().start().await.unwrap();
    chain.set_fault(wallet(4), TokenFault::Revert).await.unwrap();
    store_unread(&database, 0..6);
    let wallets = [0, 4, 5].map(address);
    let refresh = ["refresh"].into_iter().chain(wallets.iter().map(String::as_str));
    ethtally(refresh).node(chain.url()).database(&database).run().expect(0);
    // A row of the original system: with a time, without a read block.
    date_rows(&database, &[(1, "2026-01-01 00:00:00")]).await;
    let before = dump(&database).await;

    let seen = status(&database, &["--json"]).expect(0).json();
    assert_eq!(seen["wallets"], 6);
    assert_eq!(seen["never_read"], 3, "wallets 2, 3 and 4");
    assert_eq!(seen["unreadable"], 1, "wallet 4");
    assert_eq!(seen["oldest_updated_at"], "1970-01-01T00:00:00Z");
    assert_eq!(dump(&database).await, before);
}

async fn ages_are_those_of_the_nearest_rank(database: Database) {
    // Out of order, so that no result is right by chance.
    let ages = [7_000, 1_000, 10_000, 3_000, 5_000, 9_000, 2_000, 4_000, 8_000, 6_000];
    let dated = rows_aged(&database, &ages).await;

    let seen = status(&database, &["--json"]).expect(0).json();
    assert_age(&seen["age_seconds"], "p50", 5_000, dated);
    assert_age(&seen["age_seconds"], "p90", 9_000, dated);
    assert_age(&seen["age_seconds"], "max", 10_000, dated);
    let oldest: DateTime<Utc> = seen["oldest_updated_at"].as_str().unwrap().parse().unwrap();
    assert!((dated - oldest - TimeDelta::seconds(10_000)).abs() < TimeDelta::milliseconds(2));

    // Of three rows, half is two rows and nine tenths is all.
    let few = database.another();
    let dated = rows_aged(&few, &[3_000, 1_000, 2_000]).await;
    let seen = status(&few, &["--json"]).expect(0).json();
    assert_age(&seen["age_seconds"], "p50", 2_000, dated);
    assert_age(&seen["age_seconds"], "p90", 3_000, dated);
    assert_age(&seen["age_seconds"], "max", 3_000, dated);
}

async fn status_exits_1_if_a_row_is_older_than_max_age(database: Database) {
    rows_aged(&database, &[7_200, 60]).await;
    for (limit, answer) in [("3h", 0), ("3d", 0), ("1h", 1), ("7100s", 1), ("0s", 1)] {
        let ran = status(&database, &["--json", "--max-age", limit]).expect(answer);
        assert_eq!(ran.json()["wallets"], 2, "the result is printed all the same");
        assert_eq!(ran.stderr, "", "{limit}");
    }
    status(&database, &[]).expect(0);
}

async fn the_checkpoint_is_that_of_the_profile(database: Database) {
    store_unread(&database, 0..1);
    assert_eq!(status(&database, &["--json"]).expect(0).json()["checkpoint"], Value::Null);
    database
        .sql("insert into eth_indexer_checkpoints (name, last_block, updated_at) values ('another', 5, '2026-01-01 00:00:00')")
        .await;
    assert_eq!(status(&database, &["--json"]).expect(0).json()["checkpoint"], Value::Null);
    database
        .sql("insert into eth_indexer_checkpoints (name, last_block, updated_at) values ('audio_transfers', 21000000, '2026-01-02 03:04:05')")
        .await;
    let seen = status(&database, &["--json"]).expect(0).json();
    assert_eq!(
        seen["checkpoint"],
        json!({"name": "audio_transfers", "last_block": 21_000_000, "updated_at": "2026-01-02T03:04:05Z"})
    );
    let text = status(&database, &[]).expect(0).stdout;
    assert!(
        text.ends_with("\ncheckpoint  audio_transfers at block 21000000, 2026-01-02T03:04:05Z\n"),
        "{text}"
    );
}

async fn an_empty_table_has_no_ages(database: Database) {
    store_unread(&database, 0..0);
    let empty = "{\"command\":\"status\",\"wallets\":0,\"never_read\":0,\"unreadable\":0,\
                 \"oldest_updated_at\":null,\"age_seconds\":null,\"checkpoint\":null}\n";
    assert_eq!(status(&database, &["--json"]).expect(0).own(), empty);
    assert_eq!(status(&database, &["--json", "--max-age", "1s"]).expect(1).own(), empty);
    assert_eq!(
        status(&database, &[]).expect(0).stdout,
        "wallets     0\nnever read  0\nunreadable  0\ncheckpoint  none\n"
    );
}

async fn status_without_tables_is_an_error_and_creates_none(database: Database) {
    let ran = status(&database, &["--json"]).expect(2);
    assert_eq!(ran.own(), "");
    assert!(ran.error().contains("run `ethtally migrate` first"), "{ran:?}");
    if database.is_sqlite() {
        assert_eq!(std::fs::read_dir(database.folder()).unwrap().count(), 0);
    } else {
        let tables = "select count(*) from pg_tables where schemaname = 'public'";
        assert_eq!(database.value(tables).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_has_the_documented_keys_and_text() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let time = "2020-01-01 00:00:00";
    date_rows(&database, &[(0, time)]).await;
    let ran = status(&database, &["--json"]).expect(0);
    let seen = ran.json();
    let age = &seen["age_seconds"]["max"];
    assert_eq!(
        ran.own(),
        format!(
            "{{\"command\":\"status\",\"wallets\":1,\"never_read\":0,\"unreadable\":0,\
             \"oldest_updated_at\":\"2020-01-01T00:00:00Z\",\
             \"age_seconds\":{{\"p50\":{age},\"p90\":{age},\"max\":{age}}},\"checkpoint\":null}}\n"
        )
    );
    // A row in the future, for example after the clock was set back, has no negative age.
    date_rows(&database, &[(0, "2999-01-01 00:00:00")]).await;
    assert_eq!(
        status(&database, &["--max-age", "1s"]).expect(0).stdout,
        "wallets     1\nnever read  0\nunreadable  0\noldest      2999-01-01T00:00:00Z\n\
         age         p50 0s, p90 0s, max 0s\ncheckpoint  none\n"
    );
    // A row that was never read has no age.
    store_unread(&database, 1..2);
    assert_eq!(
        status(&database, &["--max-age", "1s"]).expect(1).stdout,
        "wallets     2\nnever read  1\nunreadable  0\noldest      never read\n\
         age         p50 0s, p90 never read, max never read\ncheckpoint  none\n"
    );
}
