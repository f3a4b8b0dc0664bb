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
    rows_past_the_limit_are_counted_by_age_band
    the_most_frequent_reasons_are_counted_whatever_blocks_they_name
    the_newest_run_of_each_command_is_shown_and_the_last_sweeps
    a_watch_that_was_killed_is_not_taken_for_one_that_runs
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
    let line = "\ncheckpoint  audio_transfers at block 21000000, 2026-01-02T03:04:05Z (";
    assert!(text.contains(line), "{text}");
}

async fn an_empty_table_has_no_ages(database: Database) {
    store_unread(&database, 0..0);
    let empty = |stale: &str| {
        format!(
            "{{\"command\":\"status\",\"wallets\":0,\"never_read\":0,\"unreadable\":0,\
             \"unreadable_reasons\":[],\"oldest_updated_at\":null,\"age_seconds\":null,\
             \"age_bands\":[],\"stale\":{stale},\"checkpoint\":null,\"last_runs\":[],\
             \"current_to_block\":null,\"not_covered\":null}}\n"
        )
    };
    database.sql("delete from eth_wallet_runs").await;
    assert_eq!(status(&database, &["--json"]).expect(0).own(), empty("null"));
    assert_eq!(status(&database, &["--json", "--max-age", "1s"]).expect(1).own(), empty("0"));
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

async fn rows_past_the_limit_are_counted_by_age_band(database: Database) {
    rows_aged(&database, &[5, 300, 300, 2 * 3_600, 2 * 86_400, 30 * 86_400]).await;
    store_unread(&database, 6..10);
    let seen = status(&database, &["--json", "--max-age", "1h"]).expect(1).json();
    assert_eq!(seen["stale"], 7);
    let bands: Vec<_> =
        seen["age_bands"].as_array().unwrap().iter().map(|band| &band["wallets"]).collect();
    assert_eq!(bands, [1, 2, 0, 1, 0, 1, 0, 1], "{seen}");
    assert_eq!(status(&database, &["--json"]).expect(0).json()["stale"], Value::Null);

    let text = status(&database, &["--max-age", "1h"]).expect(1).stdout;
    for line in [
        "never read  4 (40 %)",
        "past 1h     7 (70 %)",
        "  under 1m   1  10 %  ########",
        "  under 1h   0   0 %",
        "  older      1  10 %  ########",
        "  never read 4  40 %  ##############################",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
    assert!(text.is_ascii(), "{text}");
}

async fn the_most_frequent_reasons_are_counted_whatever_blocks_they_name(database: Database) {
    store_unread(&database, 0..0);
    let errors = (0..6).map(|n| format!("error -32000: state of block {n} is pruned"));
    let others = ["a", "a", "b", "b", "b", "c"].map(str::to_owned);
    for (n, error) in errors.chain(others).enumerate() {
        let insert = format!(
            "insert into eth_wallet_read_failures values
                 ('{}', 1, '{error}', '2026-01-01 00:00:00', '2026-01-01 00:00:00')",
            address(n as u64)
        );
        database.sql(&insert).await;
    }
    assert_eq!(
        status(&database, &["--json"]).expect(0).json()["unreadable_reasons"],
        json!([
            {"reason": "error -32000: state of block N is pruned", "count": 6},
            {"reason": "b", "count": 3},
            {"reason": "a", "count": 2},
        ])
    );
}

async fn the_newest_run_of_each_command_is_shown_and_the_last_sweeps(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..4);
    let sweep = |node: &str, batch: &str, expected: i32| {
        let arguments = ["sweep", "--batch", batch, "--retries", "0"];
        ethtally(arguments).node(node).database(&database).run().expect(expected);
    };
    sweep(&chain.url(), "4", 0);
    sweep("http://127.0.0.1:1/s3cr3tk3yabcdef0123456789", "4", 3);
    let seen = status(&database, &["--json"]).expect(0).json();
    let runs = seen["last_runs"].as_array().unwrap();
    let names: Vec<_> = runs.iter().map(|run| (&run["command"], &run["outcome"])).collect();
    assert_eq!(
        names,
        [(&json!("backfill"), &json!("complete")), (&json!("sweep"), &json!("failed"))]
    );
    assert_eq!(runs[0]["counts"]["wallets"], 4);
    assert!(runs[1]["error"].as_str().unwrap().contains("127.0.0.1"), "{seen}");
    let age = Utc::now() - runs[1]["time"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    assert!(age < TimeDelta::minutes(5), "{seen}");

    sweep(&chain.url(), "2", 0);
    let text = status(&database, &[]).expect(0).stdout;
    assert!(text.contains("\nsweeps      #x="), "{text}");
    assert!(text.contains(" wallets updated at the highest; x failed"), "{text}");
    assert!(text.contains("\nlast runs   backfill  complete "), "{text}");
    assert!(text.contains("\n            sweep     complete "), "{text}");
}

/// A watch that was killed says nothing more.
async fn a_watch_that_was_killed_is_not_taken_for_one_that_runs(database: Database) {
    store_unread(&database, 0..1);
    let insert = "insert into eth_wallet_runs (command, started_at, ended_at, outcome)
         values ('watch', '2026-01-01 00:00:00', '2026-01-02 00:00:00', 'running')";
    database.sql(insert).await;
    let text = status(&database, &[]).expect(0).stdout;
    assert!(text.contains("watch     silent for ") && text.contains("was it killed?"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_has_the_documented_keys_and_text() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let time = "2020-01-01 00:00:00";
    date_rows(&database, &[(0, time)]).await;
    let ran = status(&database, &["--json"]).expect(0);
    let seen = ran.json();
    let age = seen["age_seconds"]["max"].clone();
    let own = ran.own();
    assert!(
        own.starts_with(&format!(
            "{{\"command\":\"status\",\"wallets\":1,\"never_read\":0,\"unreadable\":0,\
             \"unreadable_reasons\":[],\"oldest_updated_at\":\"2020-01-01T00:00:00Z\",\
             \"age_seconds\":{{\"p50\":{age},\"p90\":{age},\"max\":{age}}},\"age_bands\":[{{\"under_seconds\":60,"
        )),
        "{own}"
    );
    assert!(own.contains("\"stale\":null,\"checkpoint\":null,\"last_runs\":[{"), "{own}");
    // A row in the future, for example after the clock was set back, has no negative age.
    date_rows(&database, &[(0, "2999-01-01 00:00:00")]).await;
    let text = status(&database, &["--max-age", "1s"]).expect(0).stdout;
    let begin = "wallets     1\nnever read  0\npast 1s     0\nunreadable  0\n\
                 oldest      2999-01-01T00:00:00Z\nage         p50 0s, p90 0s, max 0s\n  under 1m   1 100 %  #";
    assert!(text.starts_with(begin), "{text}");
    // A row that was never read has no age.
    store_unread(&database, 1..2);
    let text = status(&database, &["--max-age", "1s"]).expect(1).stdout;
    let begin = "wallets     2\nnever read  1 (50 %)\npast 1s     1 (50 %)\nunreadable  0\n\
                 oldest      never read\nage         p50 0s, p90 never read, max never read\n";
    assert!(text.starts_with(begin), "{text}");
}
