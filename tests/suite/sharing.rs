//! Concurrent commands on one database, and commands that are killed.

use std::{
    fs,
    time::{Duration, Instant},
};

use alloy::primitives::U256;
use ethtally::{
    store::{Access, LockKey, open},
    tally::{Shard, Shutdown},
};
use ethtally_testbed::{
    Chain,
    genesis::holdings,
    holding,
    postgres::{self, Cluster},
    stub::{Fault, When},
    wallet,
};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{
    chains::{chain_and_stub, stub_of},
    database::{Database, on_both_databases},
    original::original_database,
    program::{Running, ethtally, eventually, sweep, sweep_all},
    requests::wallets_read,
    table::store_unread,
    wallets::{address, address_lines, sorted_addresses},
};

on_both_databases! {
    of_two_concurrent_sweeps_the_second_is_skipped
    four_concurrent_shards_read_every_wallet_once
    a_sweep_killed_at_any_moment_leaves_whole_rows_and_no_lock
    a_backfill_killed_at_any_moment_leaves_whole_rows_and_no_lock
    a_signal_stores_what_was_read_and_reports_it
    a_second_signal_ends_it_at_once
    a_lagging_node_makes_no_stored_total_older
}

/// More than one page, so that there are several batches.
const WALLETS: u64 = 6_000;
/// Number of times a process is killed.
const KILLS: u32 = 20;

/// A time before any write of these tests.
const LONG_AGO: &str = "1990-01-01 00:00:00";

/// Starts a sweep with a short timeout and many retries.
fn patient_sweep(node: &str, database: &Database) -> Running {
    let patience = ["--timeout", "2", "--retries", "100", "--chunk", "200"];
    sweep_all(database, node, &patience).start()
}

/// Sweeps once the lock is free: PostgreSQL notices the end of a session a moment later.
fn sweep_when_unlocked(database: &Database, node: &str, arguments: &[&str]) -> Value {
    let mut outcome = Value::Null;
    eventually("the lock is free", || {
        outcome = sweep(database, node, arguments).run().expect(0).json();
        outcome["skipped"] == false
    });
    outcome
}

async fn of_two_concurrent_sweeps_the_second_is_skipped(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..500);
    stub.fault(Fault::Hang, When::eth_call());
    let first = patient_sweep(&stub.url(), &database);
    eventually("the first one reads", || stub.count("eth_call") > 0);

    let second = sweep(&database, &chain.url(), &[]).run().expect(0);
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
    // A shard has its own lock.
    let part = sweep(&database, &chain.url(), &["--shard", "0/2"]).run().expect(0).json();
    assert_eq!(part["skipped"], false);
    assert!(part["updated"].as_u64() > Some(100), "{part}");

    stub.clear();
    let first = first.wait().expect(0).json();
    assert_eq!((&first["skipped"], &first["updated"]), (&json!(false), &json!(500)));
    assert_eq!(sweep_when_unlocked(&database, &chain.url(), &[])["updated"], 500);
}

async fn four_concurrent_shards_read_every_wallet_once(database: Database) {
    const WALLETS: u64 = 2_000;
    let chain = Chain::builder().wallets(WALLETS).start().await.unwrap();
    let stub = stub_of(&chain);
    store_unread(&database, 0..WALLETS);
    let running: Vec<_> = ["0/4", "1/4", "2/4", "3/4"]
        .map(|shard| {
            sweep_all(&database, &stub.url(), &["--chunk", "50", "--shard", shard]).start()
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

    assert_eq!(wallets_read(&stub), sorted_addresses(0..WALLETS), "each wallet once");
    expect_totals(&database, WALLETS).await;
    let right = database.value(&format!("select {NEW} from eth_wallet_balances")).await;
    assert_eq!(right, WALLETS.to_string());
    database.assert_no_deadlocks().await;
}

/// SQL that counts the rows with the right total and times.
const NEW: &str = "count(case when read_block = 0 and updated_at > '2020-01-01' and created_at > '2020-01-01'
    and balance = (select total from expected where expected.wallet = eth_wallet_balances.wallet) then 1 end)";

/// Creates a table of the expected totals, for [`NEW`].
async fn expect_totals(database: &Database, wallets: u64) {
    let kind = if database.is_sqlite() { "text" } else { "numeric" };
    database.sql(&format!("create table expected (wallet text primary key, total {kind})")).await;
    let rows: Vec<_> = (0..wallets)
        .zip(holdings(wallets))
        .map(|(n, holding)| format!("('{}', '{}')", address(n), holding.total()))
        .collect();
    database.sql(&format!("insert into expected values {}", rows.join(","))).await;
}

/// Kills a process at a random time within the time that it needs.
///
/// SQLite writes a batch so fast that a random kill rarely hits it, so every other process is killed as soon as
/// the write-ahead log has data.
fn kill_at_random_time(mut running: Running, needs: Duration, round: u32, database: &Database) {
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

/// Waits until PostgreSQL has noticed the end of a process. The operating system frees SQLite's locks at once.
fn wait_for_sessions_to_end(database: &Database) {
    if database.is_sqlite() {
        return;
    }
    let sessions = "select count(*) from pg_stat_activity
        where application_name = 'ethtally' and datname = current_database()";
    eventually("no session is left", || postgres::psql(&database.url, sessions).unwrap() == "0");
}

async fn a_sweep_killed_at_any_moment_leaves_whole_rows_and_no_lock(database: Database) {
    let chain = Chain::builder().wallets(WALLETS).start().await.unwrap();
    store_unread(&database, 0..WALLETS);
    expect_totals(&database, WALLETS).await;
    let started = Instant::now();
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    let needs = started.elapsed();
    let counts = format!(
        "select count(*), {NEW}, count(case when balance = '1' and read_block is null and updated_at = '{LONG_AGO}' then 1 end)
         from eth_wallet_balances"
    );
    for round in 0..KILLS {
        database
            .sql(&format!("update eth_wallet_balances set balance = '1', read_block = null, updated_at = '{LONG_AGO}'"))
            .await;
        kill_at_random_time(
            sweep_all(&database, &chain.url(), &[]).start(),
            needs,
            round,
            &database,
        );

        wait_for_sessions_to_end(&database);
        let counts = database.value(&counts).await;
        let numbers: Vec<u64> = counts.split('|').map(|count| count.parse().unwrap()).collect();
        let [all, new, untouched] = numbers[..] else { panic!("{counts}") };
        assert_eq!((all, new + untouched), (WALLETS, WALLETS), "a row is half written");
        let next = sweep(&database, &chain.url(), &["--batch", "100"]).run().expect(0).json();
        assert_eq!((&next["skipped"], &next["updated"]), (&json!(false), &json!(100)));
    }
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
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
            .input(address_lines(0..wallets))
    };
    expect_totals_of_new_database(&database).await;
    let started = Instant::now();
    backfill(WALLETS, &[]).run().expect(0);
    let needs = started.elapsed();
    let counts = format!("select count(*), {NEW} from eth_wallet_balances");
    for round in 0..KILLS {
        database.sql("delete from eth_wallet_balances").await;
        kill_at_random_time(backfill(WALLETS, &[]).start(), needs, round, &database);

        wait_for_sessions_to_end(&database);
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

async fn a_signal_stores_what_was_read_and_reports_it(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..1_000);
    let read = "select count(*) from eth_wallet_balances where read_block = 0";
    for (signal, status, stored) in [("TERM", 143, 300), ("INT", 130, 600)] {
        stub.clear();
        stub.forget();
        stub.fault(Fault::Hang, When::eth_call().after(3));
        let running =
            sweep_all(&database, &stub.url(), &["--chunk", "100", "--concurrency", "4"]).start();
        // Four in flight: the seventh call shows that three have a response.
        eventually("three chunks are read", || stub.count("eth_call") == 7);
        running.signal(signal);
        let ran = running.wait().expect(status);
        let outcome = ran.json();
        assert_eq!(outcome["interrupted"], true);
        assert_eq!((&outcome["updated"], &outcome["failed"]), (&json!(300), &json!(0)));
        assert!(!ran.stderr.contains("error:"), "{ran:?}");
        // The second run starts with the oldest rows, which the first one did not reach.
        assert_eq!(database.value(read).await, stored.to_string());
        wait_for_sessions_to_end(&database);
    }
    let failures = "select count(*) from eth_wallet_read_failures";
    assert_eq!(database.value(failures).await, "0");
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(database.value(read).await, "1000");
}

async fn a_second_signal_ends_it_at_once(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..100);
    stub.fault(Fault::Hang, When::eth_call());
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        stub.forget();
        let mut running = sweep_all(&database, &stub.url(), &[]).start();
        eventually("it reads", || stub.count("eth_call") > 0);
        eventually("it ends", || {
            running.signal(signal);
            running.has_ended()
        });
        // Otherwise it would wait for the node and print a result.
        let ran = running.wait().expect(status);
        assert_eq!(ran.own(), "");
        // The second signal may come before the note of the first is written.
        let note = "note: stopping; saving what was read\n";
        assert!(["", note].contains(&ran.stderr.as_str()), "{ran:?}");
        wait_for_sessions_to_end(&database);
    }
    let outcome = sweep_all(&database, &chain.url(), &[]).run().expect(0).json();
    assert_eq!((&outcome["skipped"], &outcome["updated"]), (&json!(false), &json!(100)));
}

async fn a_lagging_node_makes_no_stored_total_older(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(8).await.unwrap();
    for n in 0..3 {
        chain.mint(wallet(n), U256::from(1_000)).await.unwrap();
    }
    store_unread(&database, 0..20);
    // Ten are newer than the node's head, five are older, and five were never read.
    let newer: Vec<_> = (0..10).map(address).collect();
    let refresh = ["refresh"].into_iter().chain(newer.iter().map(String::as_str));
    ethtally(refresh).node(chain.url()).database(&database).run().expect(0);
    for n in 10..15 {
        database
            .sql(&format!(
                "update eth_wallet_balances set balance = '1', read_block = 5 where wallet = '{}'",
                address(n)
            ))
            .await;
    }
    let newer = "select * from eth_wallet_balances where read_block = 11 order by wallet";
    let before = database.sql(newer).await;
    assert_eq!(before.len(), 10);
    let minted = holding(0).total() + U256::from(1_000);
    assert!(
        before.iter().any(|row| row.contains(&format!("{}|{minted}|", address(0)))),
        "{before:?}"
    );

    let stub = stub_of(&chain);
    stub.fault(Fault::Lagging(5), When::always());
    for _ in 0..2 {
        let outcome = sweep_when_unlocked(&database, &stub.url(), &["--all"]);
        assert_eq!((&outcome["requested"], &outcome["block"]), (&json!(20), &json!(6)));
        assert_eq!((&outcome["updated"], &outcome["superseded"]), (&json!(10), &json!(10)));
        assert_eq!(database.sql(newer).await, before);
    }
    let mut expected: Vec<_> =
        (10..20).map(|n| format!("{}|{}", address(n), holding(n).total())).collect();
    expected.sort();
    let older =
        "select wallet, balance from eth_wallet_balances where read_block = 6 order by wallet";
    assert_eq!(database.sql(older).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_database_server_ends_the_sweep_and_the_next_one_completes() {
    let cluster = Cluster::start().unwrap();
    let database = Database::at(cluster.create_database("gone").unwrap());
    let chain = Chain::builder().wallets(WALLETS).start().await.unwrap();
    let stub = stub_of(&chain);
    store_unread(&database, 0..WALLETS);
    expect_totals(&database, WALLETS).await;
    // Rows of the same age are sorted by wallet: the last wallet is in the last chunk.
    let last = (0..WALLETS).map(address).max().unwrap();
    stub.fault(Fault::Hang, When::eth_call().mentioning(&last));
    let running = patient_sweep(&stub.url(), &database);
    let read = "select count(*) from eth_wallet_balances where read_block = 0";
    let stored = WALLETS - 200;
    eventually("all other chunks are stored", || {
        postgres::psql(&database.url, read).unwrap() == stored.to_string()
    });
    cluster.stop().unwrap();
    stub.clear();

    let ran = running.wait().expect(4);
    for part in ["database postgres://127.0.0.1:", "the lock was lost, so the run stopped"] {
        assert!(ran.error().contains(part), "{ran:?}");
    }
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    let outcome = ran.json();
    assert_eq!((&outcome["updated"], &outcome["interrupted"]), (&json!(stored), &json!(false)));

    cluster.restart().unwrap();
    let counts = format!("select count(*), {NEW} from eth_wallet_balances");
    assert_eq!(database.value(&counts).await, format!("{WALLETS}|{stored}"));
    let next = sweep_all(&database, &chain.url(), &[]).run().expect(0).json();
    assert_eq!((&next["skipped"], &next["updated"]), (&json!(false), &json!(WALLETS)));
    assert_eq!(database.value(&counts).await, format!("{WALLETS}|{WALLETS}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_symlink_to_a_sqlite_file_uses_the_same_lock() {
    let database = Database::sqlite();
    ethtally(["migrate"]).database(&database).run().expect(0);
    let file = database.folder().join("tally.db");
    let link = database.folder().join("link.db");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let store =
        open(&database.url, None, Vec::new(), Access::Write, &Shutdown::default()).await.unwrap();
    let _held = store.lock(LockKey::Sweep(Shard::ALL)).await.unwrap().expect("it is free");

    let swept = ethtally(["sweep", "--json", "--rpc-url", "http://127.0.0.1:1"])
        .env("DATABASE_URL", &format!("sqlite:{}", link.display()))
        .run()
        .expect(0);
    assert_eq!(swept.json()["skipped"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_command_that_waits_for_the_lock_file() {
    let database = Database::sqlite();
    ethtally(["migrate"]).database(&database).run().expect(0);
    let lock = fs::File::open(database.folder().join("tally.db.open.lock")).unwrap();
    lock.lock().unwrap();
    for command in ["migrate", "sweep"] {
        let mut waiting =
            ethtally([command]).node("http://127.0.0.1:1").database(&database).start();
        // The wait is named after a second.
        std::thread::sleep(Duration::from_secs(2));
        assert!(!waiting.has_ended());
        let signalled = Instant::now();
        waiting.signal("TERM");
        let ran = waiting.wait().expect(143);
        assert!(signalled.elapsed() < Duration::from_secs(10), "{ran:?}");
        assert_eq!(ran.stderr.matches("tally.db.open.lock: another process").count(), 1, "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_migration_that_waits_for_another_session() {
    let database = original_database("");
    let mut report = PgConnection::connect(&database.url).await.unwrap();
    report.execute("begin; lock table eth_wallet_balances in access share mode").await.unwrap();
    let mut waiting = ethtally(["migrate"]).database(&database).start();
    std::thread::sleep(Duration::from_secs(3));
    assert!(!waiting.has_ended());
    let signalled = Instant::now();
    waiting.signal("TERM");
    let ran = waiting.wait().expect(143);
    assert!(signalled.elapsed() < Duration::from_secs(10), "{ran:?}");
    assert_eq!(ran.stderr.matches("holds them").count(), 1, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_command_that_waits_for_a_silent_server() {
    // Accepts connections and never answers.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://app@{}/tally", server.local_addr().unwrap());
    let mut waiting = ethtally(["migrate", "--database-url", &url]).start();
    let _connection = server.accept().unwrap();
    // It may connect before it listens to signals.
    std::thread::sleep(Duration::from_secs(1));
    assert!(!waiting.has_ended());
    let signalled = Instant::now();
    waiting.signal("TERM");
    let ran = waiting.wait().expect(143);
    assert!(signalled.elapsed() < Duration::from_secs(10), "{ran:?}");
}
