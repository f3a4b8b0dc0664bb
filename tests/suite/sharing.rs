//! Many at one database at once, and ends that nobody planned.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use alloy::{
    primitives::{Address, Bytes, U256},
    providers::bindings::IMulticall3::aggregate3Call,
    sol_types::SolCall,
};
use ethtally_testbed::{
    Chain,
    contracts::{AUDIO, audio::balanceOfCall},
    genesis::holdings,
    holding,
    postgres::{self, Cluster},
    stub::{Fault, Stub, When},
    wallet,
};
use serde_json::{Value, json};

use crate::harness::{Database, Ethtally, Running, ethtally, eventually, on_both_databases};

on_both_databases! {
    of_two_sweeps_at_once_one_works_and_the_other_says_so
    four_shards_at_once_read_every_wallet_once
    a_sweep_killed_at_any_moment_leaves_whole_rows_and_no_lock
    a_backfill_killed_at_any_moment_leaves_whole_rows_and_no_lock
    a_signal_stores_what_was_read_and_tells_so
    a_second_signal_ends_it_at_once
    a_lagging_node_makes_no_stored_total_older
}

/// More than one page, so that there is something between two batches.
const WALLETS: u64 = 6_000;
/// How often a process is killed.
const KILLS: u32 = 20;

/// When no program of these tests wrote.
const LONG_AGO: &str = "1990-01-01 00:00:00";

fn hex(n: u64) -> String {
    format!("{:#x}", wallet(n))
}

fn csv(wallets: u64) -> String {
    (0..wallets).map(|n| hex(n) + "\n").collect()
}

fn sweep(arguments: &[&str], node: &str, database: &Database) -> Ethtally {
    let arguments = [&["sweep", "--json"], arguments].concat();
    ethtally(arguments).node(node).database(database)
}

/// A sweep that gives a silent node up soon, and asks it again for long.
fn patient_sweep(node: &str, database: &Database) -> Running {
    let patience = ["--timeout", "2", "--retries", "100", "--chunk", "200"];
    sweep(&[&["--all"], &patience[..]].concat(), node, database).start()
}

/// The table with so many wallets that were never read.
fn placeholders(database: &Database, wallets: u64) {
    ethtally(["backfill", "--placeholders", "--from-csv", "-"])
        .input(csv(wallets))
        .database(database)
        .run()
        .expect(0);
}

/// A sweep that is not in another's way: of one that has gone, PostgreSQL hears a moment later.
fn sweep_that_works(arguments: &[&str], node: &str, database: &Database) -> Value {
    let mut outcome = Value::Null;
    eventually("the lock is free", || {
        outcome = sweep(arguments, node, database).run().expect(0).json();
        outcome["skipped"] == false
    });
    outcome
}

async fn of_two_sweeps_at_once_one_works_and_the_other_says_so(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    placeholders(&database, 500);
    stub.fault(Fault::Hang, When::method("eth_call"));
    let first = patient_sweep(&stub.url(), &database);
    eventually("the first one reads", || stub.count("eth_call") > 0);

    let second = sweep(&[], &chain.url(), &database).run().expect(0);
    let mut said = second.json();
    assert!(said["elapsed_ms"].take().is_u64());
    assert_eq!(
        said,
        json!({"command": "sweep", "requested": 0, "updated": 0, "failed": 0, "superseded": 0, "calls": 0,
               "block": null, "elapsed_ms": null, "skipped": true, "interrupted": false})
    );
    assert!(second.stderr.contains("another sweep"), "{second:?}");
    let read = "select count(*) from eth_wallet_balances where read_block is not null";
    assert_eq!(database.value(read).await, "0");
    // A part of the wallets is another job.
    let part = sweep(&["--shard", "0/2"], &chain.url(), &database).run().expect(0).json();
    assert_eq!(part["skipped"], false);
    assert!(part["updated"].as_u64() > Some(100), "{part}");

    stub.clear();
    let first = first.wait().expect(0).json();
    assert_eq!((&first["skipped"], &first["updated"]), (&json!(false), &json!(500)));
    assert_eq!(sweep_that_works(&[], &chain.url(), &database)["updated"], 500);
}

async fn four_shards_at_once_read_every_wallet_once(database: Database) {
    const WALLETS: u64 = 2_000;
    let chain = Chain::builder().wallets(WALLETS).start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    placeholders(&database, WALLETS);
    let running: Vec<_> = ["0/4", "1/4", "2/4", "3/4"]
        .map(|shard| {
            sweep(&["--all", "--chunk", "50", "--shard", shard], &stub.url(), &database).start()
        })
        .into();
    let mut updated = 0;
    for running in running {
        let outcome = running.wait().expect(0).json();
        assert_eq!(outcome["skipped"], false);
        assert!(outcome["updated"].as_u64() > Some(WALLETS / 5), "{outcome}");
        updated += outcome["updated"].as_u64().unwrap();
    }
    assert_eq!(updated, WALLETS);

    let mut reads: BTreeMap<Address, u32> = BTreeMap::new();
    for seen in stub.requests().iter().filter(|seen| seen.method == "eth_call") {
        let call = &seen.params[0];
        let data: Bytes =
            call["input"].as_str().or(call["data"].as_str()).unwrap().parse().unwrap();
        for call in aggregate3Call::abi_decode(&data).unwrap().calls {
            if let (AUDIO, Ok(balance)) = (call.target, balanceOfCall::abi_decode(&call.callData)) {
                *reads.entry(balance.account).or_default() += 1;
            }
        }
    }
    let wallets: BTreeSet<_> = (0..WALLETS).map(wallet).collect();
    assert_eq!(reads.keys().copied().collect::<BTreeSet<_>>(), wallets);
    assert!(reads.values().all(|times| *times == 1));
    expect_totals(&database, WALLETS).await;
    let right = database.value(&format!("select {NEW} from eth_wallet_balances")).await;
    assert_eq!(right, WALLETS.to_string());
    if !database.is_sqlite() {
        let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
        assert_eq!(database.value(deadlocks).await, "0");
    }
}

/// How many rows hold the right total, with all that belongs to it.
const NEW: &str = "count(case when read_block = 0 and updated_at > '2020-01-01' and created_at > '2020-01-01'
    and balance = (select total from expected where expected.wallet = eth_wallet_balances.wallet) then 1 end)";

/// A table of what the totals are, for [`NEW`].
async fn expect_totals(database: &Database, wallets: u64) {
    let kind = if database.is_sqlite() { "text" } else { "numeric" };
    database.sql(&format!("create table expected (wallet text primary key, total {kind})")).await;
    let rows: Vec<_> = (0..wallets)
        .zip(holdings(wallets))
        .map(|(n, holding)| format!("('{}', '{}')", hex(n), holding.total()))
        .collect();
    database.sql(&format!("insert into expected values {}", rows.join(","))).await;
}

/// Kills a process at some moment of the time that it needs.
///
/// SQLite writes a batch in so short a time that chance alone hardly hits it: every other
/// process is killed as soon as there is something in the write-ahead log.
fn kill_somewhen(mut running: Running, needs: Duration, round: u32, database: &Database) {
    if database.is_sqlite() && round % 2 == 1 {
        let log = database.folder().join("tally.db-wal");
        while fs::metadata(&log).map_or(0, |log| log.len()) == 0 {
            if running.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    } else {
        std::thread::sleep(needs.mul_f64(rand::random_range(0.0..1.1)));
    }
    running.signal("KILL");
    running.wait();
}

/// Waits until PostgreSQL has heard that a process has gone. SQLite's locks are the operating system's.
fn heard_of_the_end(database: &Database) {
    if database.is_sqlite() {
        return;
    }
    let sessions = "select count(*) from pg_stat_activity
        where application_name = 'ethtally' and datname = current_database()";
    eventually("no session is left", || postgres::psql(&database.url, sessions).unwrap() == "0");
}

async fn a_sweep_killed_at_any_moment_leaves_whole_rows_and_no_lock(database: Database) {
    let chain = Chain::builder().wallets(WALLETS).start().await.unwrap();
    placeholders(&database, WALLETS);
    expect_totals(&database, WALLETS).await;
    let started = Instant::now();
    sweep(&["--all"], &chain.url(), &database).run().expect(0);
    let needs = started.elapsed();
    let counts = format!(
        "select count(*), {NEW}, count(case when balance = '1' and read_block is null and updated_at = '{LONG_AGO}' then 1 end)
         from eth_wallet_balances"
    );
    for round in 0..KILLS {
        database
            .sql(&format!("update eth_wallet_balances set balance = '1', read_block = null, updated_at = '{LONG_AGO}'"))
            .await;
        kill_somewhen(sweep(&["--all"], &chain.url(), &database).start(), needs, round, &database);

        heard_of_the_end(&database);
        let counts = database.value(&counts).await;
        let numbers: Vec<u64> = counts.split('|').map(|count| count.parse().unwrap()).collect();
        let [all, new, untouched] = numbers[..] else { panic!("{counts}") };
        assert_eq!((all, new + untouched), (WALLETS, WALLETS), "a row is half written");
        let next = sweep(&["--batch", "100"], &chain.url(), &database).run().expect(0).json();
        assert_eq!((&next["skipped"], &next["updated"]), (&json!(false), &json!(100)));
    }
    sweep(&["--all"], &chain.url(), &database).run().expect(0);
    assert_eq!(database.value(&counts).await, format!("{WALLETS}|{WALLETS}|0"));
}

async fn a_backfill_killed_at_any_moment_leaves_whole_rows_and_no_lock(database: Database) {
    let chain = Chain::builder().wallets(WALLETS).start().await.unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let backfill = |wallets: u64, arguments: &[&str]| {
        let arguments = [&["backfill", "--json", "--from-csv", "-"], arguments].concat();
        ethtally(arguments)
            .node(chain.url())
            .database(&database)
            .env("TMPDIR", temporary.path().to_str().unwrap())
            .input(csv(wallets))
    };
    expect_totals_of_new_database(&database).await;
    let started = Instant::now();
    backfill(WALLETS, &[]).run().expect(0);
    let needs = started.elapsed();
    let counts = format!("select count(*), {NEW} from eth_wallet_balances");
    for round in 0..KILLS {
        database.sql("delete from eth_wallet_balances").await;
        kill_somewhen(backfill(WALLETS, &[]).start(), needs, round, &database);

        heard_of_the_end(&database);
        let counts = database.value(&counts).await;
        let (all, new) = counts.split_once('|').unwrap();
        assert_eq!(all, new, "a row is half written");
        let next = backfill(100, &[]).run().expect(0).json();
        assert_eq!(next["updated"], 100);
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "files are left behind");
    }
    let last = backfill(WALLETS, &["--resume"]).run().expect(0).json();
    assert_eq!(last["wallets"], WALLETS);
    assert_eq!(database.value(&counts).await, format!("{WALLETS}|{WALLETS}"));
}

async fn expect_totals_of_new_database(database: &Database) {
    ethtally(["migrate"]).database(database).run().expect(0);
    expect_totals(database, WALLETS).await;
}

async fn a_signal_stores_what_was_read_and_tells_so(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    placeholders(&database, 1_000);
    let read = "select count(*) from eth_wallet_balances where read_block = 0";
    for (signal, status, stored) in [("TERM", 143, 300), ("INT", 130, 600)] {
        stub.clear();
        stub.forget();
        stub.fault(Fault::Hang, When::method("eth_call").after(3));
        let running =
            sweep(&["--all", "--chunk", "100", "--concurrency", "4"], &stub.url(), &database)
                .start();
        // Four at a time: with the seventh, three have been answered.
        eventually("three chunks are read", || stub.count("eth_call") == 7);
        running.signal(signal);
        let ran = running.wait().expect(status);
        let outcome = ran.json();
        assert_eq!(outcome["interrupted"], true);
        assert_eq!((&outcome["updated"], &outcome["failed"]), (&json!(300), &json!(0)));
        assert!(!ran.stderr.contains("error:"), "{ran:?}");
        // The second one begins with the oldest, those that the first one did not come to.
        assert_eq!(database.value(read).await, stored.to_string());
        heard_of_the_end(&database);
    }
    let failures = "select count(*) from eth_wallet_read_failures";
    assert_eq!(database.value(failures).await, "0");
    sweep(&["--all"], &chain.url(), &database).run().expect(0);
    assert_eq!(database.value(read).await, "1000");
}

async fn a_second_signal_ends_it_at_once(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    placeholders(&database, 100);
    stub.fault(Fault::Hang, When::method("eth_call"));
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        stub.forget();
        let mut running = sweep(&["--all"], &stub.url(), &database).start();
        eventually("it reads", || stub.count("eth_call") > 0);
        eventually("it ends", || {
            running.signal(signal);
            running.has_ended()
        });
        // Else it would have waited for the node, and then told what it did.
        let ran = running.wait().expect(status);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
        heard_of_the_end(&database);
    }
    let outcome = sweep(&["--all"], &chain.url(), &database).run().expect(0).json();
    assert_eq!((&outcome["skipped"], &outcome["updated"]), (&json!(false), &json!(100)));
}

async fn a_lagging_node_makes_no_stored_total_older(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(8).await.unwrap();
    for n in 0..3 {
        chain.mint(wallet(n), U256::from(1_000)).await.unwrap();
    }
    placeholders(&database, 20);
    // Ten are newer than what the node knows, five are older, and five were never read.
    let newer: Vec<_> = (0..10).map(hex).collect();
    let refresh = ["refresh"].into_iter().chain(newer.iter().map(String::as_str));
    ethtally(refresh).node(chain.url()).database(&database).run().expect(0);
    for n in 10..15 {
        database
            .sql(&format!(
                "update eth_wallet_balances set balance = '1', read_block = 5 where wallet = '{}'",
                hex(n)
            ))
            .await;
    }
    let newer = "select * from eth_wallet_balances where read_block = 11 order by wallet";
    let before = database.sql(newer).await;
    assert_eq!(before.len(), 10);
    let minted = holding(0).total() + U256::from(1_000);
    assert!(before.iter().any(|row| row.contains(&format!("{}|{minted}|", hex(0)))), "{before:?}");

    let stub = Stub::in_front_of(&chain.url()).unwrap();
    stub.fault(Fault::Lagging(5), When::always());
    for _ in 0..2 {
        let outcome = sweep_that_works(&["--all"], &stub.url(), &database);
        assert_eq!((&outcome["requested"], &outcome["block"]), (&json!(20), &json!(6)));
        assert_eq!((&outcome["updated"], &outcome["superseded"]), (&json!(10), &json!(10)));
        assert_eq!(database.sql(newer).await, before);
    }
    let mut expected: Vec<_> =
        (10..20).map(|n| format!("{}|{}", hex(n), holding(n).total())).collect();
    expected.sort();
    let older =
        "select wallet, balance from eth_wallet_balances where read_block = 6 order by wallet";
    assert_eq!(database.sql(older).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_ends_the_sweep_and_the_next_one_completes() {
    let cluster = Cluster::start().unwrap();
    let database = Database::at(cluster.create_database("gone").unwrap());
    let chain = Chain::builder().wallets(WALLETS).start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    placeholders(&database, WALLETS);
    expect_totals(&database, WALLETS).await;
    // Rows of one age go by their wallets: the last one is in the last chunk.
    let last = (0..WALLETS).map(hex).max().unwrap();
    stub.fault(Fault::Hang, When::method("eth_call").mentioning(&last));
    let running = patient_sweep(&stub.url(), &database);
    let read = "select count(*) from eth_wallet_balances where read_block = 0";
    let stored = WALLETS - 200;
    eventually("all other chunks are stored", || {
        postgres::psql(&database.url, read).unwrap() == stored.to_string()
    });
    cluster.stop().unwrap();
    stub.clear();

    let ran = running.wait().expect(2);
    for part in ["database postgres://127.0.0.1:", "the connection is lost", "refused"] {
        assert!(ran.error().contains(part), "{ran:?}");
    }
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    let outcome = ran.json();
    assert_eq!((&outcome["updated"], &outcome["interrupted"]), (&json!(stored), &json!(false)));

    cluster.restart().unwrap();
    let counts = format!("select count(*), {NEW} from eth_wallet_balances");
    assert_eq!(database.value(&counts).await, format!("{WALLETS}|{stored}"));
    let next = sweep(&["--all"], &chain.url(), &database).run().expect(0).json();
    assert_eq!((&next["skipped"], &next["updated"]), (&json!(false), &json!(WALLETS)));
    assert_eq!(database.value(&counts).await, format!("{WALLETS}|{WALLETS}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_an_sqlite_file_leads_to_the_same_lock() {
    let database = Database::sqlite();
    ethtally(["migrate"]).database(&database).run().expect(0);
    let file = database.folder().join("tally.db");
    let link = database.folder().join("link.db");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let store = ethtally::store::open(&database.url, ethtally::store::Access::Write).await.unwrap();
    let _held = store
        .lock(ethtally::store::LockKey::Sweep(ethtally::tally::Shard::ALL))
        .await
        .unwrap()
        .expect("it is free");

    let swept = ethtally(["sweep", "--json", "--rpc-url", "http://127.0.0.1:1"])
        .env("DATABASE_URL", &format!("sqlite:{}", link.display()))
        .run()
        .expect(0);
    assert_eq!(swept.json()["skipped"], true);
}
