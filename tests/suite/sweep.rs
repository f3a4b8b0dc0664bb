//! `sweep`: which rows it reads, in which order, and its output.

use std::{collections::BTreeSet, time::Duration};

use chrono::{TimeDelta, Utc};
use ethtally_testbed::{
    stub::{Fault, When},
    wallet,
};
use serde_json::json;

use crate::support::{
    chains::{still_chain, still_stub},
    database::{Database, on_both_databases},
    program::{Ethtally, ethtally},
    requests::wallets_read,
    table::{date_rows, dump, read_wallets, store_unread},
    wallets::{address, addresses, sorted_addresses},
};

on_both_databases! {
    a_sweep_takes_the_thousand_oldest_rows
    batch_says_how_many_of_the_oldest_rows_are_taken
    all_reads_every_row_older_than_the_start_once_and_in_batches
    older_than_skips_younger_rows
    the_shards_together_read_every_wallet_once
    a_dry_run_estimates_the_cost_and_changes_nothing
    an_empty_table_is_swept_at_once
}

async fn a_sweep_takes_the_thousand_oldest_rows(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..1003);
    date_rows(&database, &[5, 500, 1001].map(|n| (n, "2020-02-20 20:20:20"))).await;

    let swept = ethtally(["sweep", "--json"]).node(chain.url()).database(&database).run().expect(0);

    assert_eq!(swept.json()["requested"], 1000);
    assert_eq!(swept.json()["updated"], 1000);
    let younger = [5, 500, 1001];
    assert_eq!(
        read_wallets(&database).await,
        addresses((0..1003).filter(|n| !younger.contains(n)))
    );
}

async fn batch_says_how_many_of_the_oldest_rows_are_taken(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..5);
    let ages = [
        (0, "2026-01-03 00:00:00"),
        (1, "2026-01-01 00:00:00"),
        (2, "2026-01-04 00:00:00"),
        (3, "2026-01-02 00:00:00"),
        (4, "2026-01-02 00:00:01"),
    ];
    date_rows(&database, &ages).await;
    let sweep = || {
        let sweep = ethtally(["sweep", "--batch", "2", "--json"]);
        sweep.node(chain.url()).database(&database).run().expect(0)
    };

    assert_eq!(sweep().json()["requested"], 2);
    assert_eq!(read_wallets(&database).await, addresses([1, 3]));
    for n in [1, 3] {
        let stored =
            format!("select balance from eth_wallet_balances where wallet = '{}'", address(n));
        assert_eq!(
            database.value(&stored).await,
            chain.total(wallet(n)).await.unwrap().to_string()
        );
    }
    sweep();
    assert_eq!(read_wallets(&database).await, addresses([0, 1, 3, 4]));
    sweep();
    assert_eq!(read_wallets(&database).await, addresses(0..5));
}

async fn all_reads_every_row_older_than_the_start_once_and_in_batches(database: Database) {
    let stub = still_stub().await;
    store_unread(&database, 0..5002);
    date_rows(&database, &[(7, "2999-01-01 00:00:00")]).await;

    let swept = ethtally(["sweep", "--all", "--chunk", "200", "--json"])
        .node(stub.url())
        .database(&database)
        .run()
        .expect(0);

    assert_eq!(swept.json()["requested"], 5001);
    assert_eq!(swept.json()["updated"], 5001);
    assert_eq!(swept.json()["calls"], 26, "25 chunks of 200, and one of 1");
    let expected = addresses((0..5002).filter(|n| *n != 7));
    assert_eq!(wallets_read(&stub), expected.iter().cloned().collect::<Vec<_>>());
    assert_eq!(read_wallets(&database).await, expected);
    assert!(
        (1..12).contains(&stub.count("eth_getBlockByNumber")),
        "the block is resolved from time to time"
    );
}

async fn older_than_skips_younger_rows(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..4);
    let ago =
        |hours| (Utc::now() - TimeDelta::hours(hours)).format("%Y-%m-%d %H:%M:%S").to_string();
    let (seven, five) = (ago(7), ago(5));
    date_rows(&database, &[(0, &seven), (1, &five), (2, &seven), (3, &five)]).await;

    for which in ["--all", "--batch=100"] {
        let swept = ethtally(["sweep", which, "--older-than", "6h", "--json"])
            .node(chain.url())
            .database(&database)
            .run()
            .expect(0);
        let requested = if which == "--all" { 2 } else { 0 };
        assert_eq!(swept.json()["requested"], requested, "{which}");
        assert_eq!(read_wallets(&database).await, addresses([0, 2]), "{which}");
    }
}

async fn the_shards_together_read_every_wallet_once(database: Database) {
    let stub = still_stub().await;
    store_unread(&database, 0..100);
    let mut before = BTreeSet::new();
    let mut sizes = Vec::new();

    for (shard, index) in [("0/3", None), ("/3", Some("1")), ("3", Some("2"))] {
        let mut sweep = ethtally(["sweep", "--all", "--shard", shard, "--json"]);
        if let Some(index) = index {
            sweep = sweep.env("JOB_COMPLETION_INDEX", index);
        }
        let swept = sweep.node(stub.url()).database(&database).run().expect(0);
        let after = read_wallets(&database).await;
        let new: Vec<_> = after.difference(&before).cloned().collect();
        assert_eq!(swept.json()["requested"], new.len(), "{shard}");
        // A shard is a range of addresses, in order.
        assert!(new.iter().all(|wallet| before.iter().all(|earlier| earlier < wallet)), "{shard}");
        sizes.push(new.len());
        before = after;
    }

    assert!(sizes.iter().all(|size| (15..=55).contains(size)), "similar sizes: {sizes:?}");
    assert_eq!(wallets_read(&stub), sorted_addresses(0..100));
}

async fn a_dry_run_estimates_the_cost_and_changes_nothing(database: Database) {
    store_unread(&database, 0..501);
    date_rows(&database, &[(3, "2999-01-01 00:00:00")]).await;
    let before = dump(&database).await;
    let dry = |arguments: &[&str]| {
        let arguments = ["sweep", "--dry-run", "--json"].iter().chain(arguments).copied();
        ethtally(arguments).database(&database).run().expect(0).json()
    };

    assert_eq!(
        dry(&["--all"]),
        json!({"command": "sweep", "dry_run": true, "wallets": 500, "calls": 2, "compute_units": 52, "seconds_at_rps": null, "seconds_at_cups": null})
    );
    assert_eq!(
        dry(&["--all", "--chunk", "10", "--rps", "20"]),
        json!({"command": "sweep", "dry_run": true, "wallets": 500, "calls": 50, "compute_units": 1300, "seconds_at_rps": 3, "seconds_at_cups": null})
    );
    assert_eq!(dry(&["--batch", "450"])["wallets"], 450);
    assert_eq!(dry(&[])["wallets"], 500);
    let halves = ["0/2", "1/2"].map(|shard| dry(&["--all", "--shard", shard])["wallets"].as_u64());
    assert_eq!(halves.iter().flatten().sum::<u64>(), 500);
    let text = ethtally(["sweep", "--all", "--dry-run", "--rps", "1"]).database(&database).run();
    assert_eq!(
        text.expect(0).stdout,
        "sweep would read wallets:500 calls:2 compute_units:52; 2s at --rps; as for a node that allows 50M gas and 2 MB in a call\n"
    );
    assert_eq!(dump(&database).await, before);
}

async fn an_empty_table_is_swept_at_once(database: Database) {
    let chain = still_chain().await;
    ethtally(["migrate"]).database(&database).run().expect(0);
    for _ in 0..2 {
        let swept = ethtally(["sweep"]).node(chain.url()).database(&database).run().expect(0);
        assert_eq!(
            swept.without_time(),
            "sweep complete requested:0 updated:0 failed:0 superseded:0 calls:0 block:none in N ms"
        );
    }
    let swept = ethtally(["sweep", "--all", "--json"]).node(chain.url()).database(&database).run();
    assert_eq!(
        swept.expect(0).without_time(),
        r#"{"command":"sweep","requested":0,"updated":0,"failed":0,"superseded":0,"calls":0,"block":null,"elapsed_ms":N,"skipped":false,"interrupted":false}"#
    );
}

/// Prepares a sweep of three wallets in a new SQLite database.
async fn sweep_of_three(arguments: &[&'static str]) -> (Database, Ethtally) {
    let database = Database::sqlite();
    store_unread(&database, 0..3);
    let sweep = ethtally(["sweep"].iter().chain(arguments).copied());
    let sweep = sweep.node(still_chain().await.url()).database(&database);
    (database, sweep)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_has_the_documented_keys_and_text() {
    let (_database, sweep) = sweep_of_three(&["--json"]).await;
    assert_eq!(
        sweep.run().expect(0).without_time(),
        r#"{"command":"sweep","requested":3,"updated":3,"failed":0,"superseded":0,"calls":1,"block":0,"elapsed_ms":N,"skipped":false,"interrupted":false}"#
    );
    let (_database, sweep) = sweep_of_three(&[]).await;
    let swept = sweep.run().expect(0);
    assert_eq!(
        swept.without_time(),
        "sweep complete requested:3 updated:3 failed:0 superseded:0 calls:1 block:0 in N ms"
    );
    assert_eq!(swept.stderr, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_wins_over_a_variable_and_a_variable_over_the_default() {
    let (_database, sweep) = sweep_of_three(&["--json"]).await;
    assert_eq!(sweep.env("ETHTALLY_CHUNK", "1").run().expect(0).json()["calls"], 3);
    let (_database, sweep) = sweep_of_three(&["--json", "--chunk", "2"]).await;
    assert_eq!(sweep.env("ETHTALLY_CHUNK", "1").run().expect(0).json()["calls"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_reaches_max_duration_stops_cleanly_and_the_next_one_continues() {
    let database = Database::sqlite();
    let stub = still_stub().await;
    store_unread(&database, 0..60);
    stub.fault(Fault::Delay(Duration::from_millis(250)), When::eth_call());

    let swept = ethtally(["sweep", "--all", "--max-duration", "3s", "--json"])
        .env("ETHTALLY_CHUNK", "1")
        .env("ETHTALLY_CONCURRENCY", "1")
        .node(stub.url())
        .database(&database)
        .run()
        .expect(0);

    let first = read_wallets(&database).await;
    assert!((1..60).contains(&first.len()), "{}", first.len());
    assert_eq!(swept.json()["updated"], first.len());
    assert_eq!(swept.json()["failed"], 0);
    assert_eq!(swept.json()["interrupted"], false);
    assert_eq!(wallets_read(&stub).len(), first.len(), "everything read is stored");
    assert!(swept.stderr.starts_with("note: --max-duration reached"), "{}", swept.stderr);

    stub.clear();
    stub.forget();
    let rest = (60 - first.len()).to_string();
    let swept = ethtally(["sweep", "--batch", &rest]).node(stub.url()).database(&database).run();
    swept.expect(0);
    assert!(wallets_read(&stub).iter().all(|wallet| !first.contains(wallet)));
    assert_eq!(read_wallets(&database).await, addresses(0..60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_responds_is_an_error_even_with_a_short_max_duration() {
    let database = Database::sqlite();
    let stub = still_stub().await;
    store_unread(&database, 0..3);
    for fault in [Fault::Hang, Fault::too_many_requests(60)] {
        stub.clear();
        stub.fault(fault, When::eth_call());
        let swept = ethtally(["sweep", "--all", "--max-duration", "1s", "--json"]);
        let swept = swept.node(stub.url()).database(&database).run().expect(3);
        assert!(swept.error().contains(&stub.url()), "{swept:?}");
        assert_eq!(swept.json()["updated"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_a_date_without_time_is_swept() {
    let database = Database::sqlite();
    store_unread(&database, 0..3);
    date_rows(&database, &[(1, "1970-01-01")]).await;
    let status = ethtally(["status", "--json"]).database(&database).run().expect(0).json();
    assert_eq!(status["oldest_updated_at"], "1970-01-01T00:00:00Z");
    let swept = ethtally(["sweep", "--all", "--json"]).node(still_chain().await.url());
    assert_eq!(swept.database(&database).run().expect(0).json()["updated"], 3);
    assert_eq!(read_wallets(&database).await, addresses(0..3));
}

/// Without statistics the planner might sort all rows of one age for each page, which made a million
/// placeholders five times slower.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_sweep_uses_its_index_even_without_statistics() {
    let database = Database::postgres();
    store_unread(&database, 0..6_000);
    let sweep = ethtally(["sweep", "--all", "--json"]).node(still_chain().await.url());
    assert_eq!(sweep.database(&database).run().expect(0).json()["updated"], 6_000);

    // The server counts the scans of a session a moment after its end.
    let scans = |index: &'static str| {
        let count = format!(
            "select idx_scan from pg_stat_user_indexes where indexrelname = 'eth_wallet_balances_{index}'"
        );
        let database = &database;
        async move { database.value(&count).await.parse::<u64>().unwrap() }
    };
    for _ in 0..200 {
        if scans("sweep_idx").await >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(scans("sweep_idx").await >= 2);
    assert_eq!(scans("updated_at_idx").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_writes_nothing_newer_says_so() {
    let (database, sweep) = sweep_of_three(&["--all", "--json"]).await;
    database.sql("update eth_wallet_balances set read_block = 1000000").await;
    let swept = sweep.run().expect(0);
    assert_eq!(swept.json()["superseded"], 3);
    assert!(swept.stderr.contains("the table holds newer reads"), "{}", swept.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_with_enough_time_does_not_mention_max_duration() {
    let (database, sweep) = sweep_of_three(&["--all", "--max-duration", "1h"]).await;
    assert_eq!(sweep.run().expect(0).stderr, "");
    assert_eq!(read_wallets(&database).await, addresses(0..3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_does_not_exist_is_refused() {
    for (shard, index) in [
        ("3/3", None),
        ("-1/3", None),
        ("a/3", None),
        ("0/0", None),
        ("1/3/3", None),
        ("", None),
        ("/3", None),
        ("3", None),
        ("/3", Some("3")),
        ("3", Some("x")),
        ("/0", Some("0")),
    ] {
        let (database, mut sweep) = sweep_of_three(&[]).await;
        drop(sweep);
        sweep = ethtally(["sweep", &format!("--shard={shard}")]).database(&database);
        if let Some(index) = index {
            sweep = sweep.env("JOB_COMPLETION_INDEX", index);
        }
        let swept = sweep.node(still_chain().await.url()).run().expect(2);
        assert!(swept.error().contains("--shard"), "{swept:?}");
        assert_eq!(swept.own(), "");
        assert_eq!(read_wallets(&database).await, BTreeSet::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_creates_no_database() {
    let database = Database::sqlite();
    let ran = ethtally(["sweep", "--dry-run"]).database(&database).run().expect(2);
    assert!(ran.error().contains("run `ethtally migrate` first"), "{ran:?}");
    assert_eq!(std::fs::read_dir(database.folder()).unwrap().count(), 0);
}
