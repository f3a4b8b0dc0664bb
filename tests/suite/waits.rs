//! No wait for the database is without end: each command hears SIGTERM in each of its waits, and `--max-duration` holds.

use std::{
    thread,
    time::{Duration, Instant},
};

use ethtally_testbed::{Chain, postgres::Cluster};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};

use crate::support::{
    chains::transfer,
    database::Database,
    original::original_database,
    pgbouncer::PgBouncer,
    program::{Ethtally, Running, ethtally, sweep},
    proxy::Proxy,
    table::store_unread,
    wallets::{address, one_audio, spenders},
    watch::{caught_up, start, watch},
};

/// How long a command may take to end after SIGTERM.
const TEN_SECONDS: Duration = Duration::from_secs(10);

/// The commands that use the database, as they are run here.
fn commands(chain: &Chain, database: &Database) -> Vec<(&'static str, Ethtally)> {
    let wallet = address(1);
    let run = |arguments: &[&str]| {
        ethtally(arguments.iter().copied())
            .node(chain.url())
            .database(database)
            .input(format!("wallet\n{}\n", address(2)))
    };
    vec![
        ("migrate", run(&["migrate"])),
        ("sweep", run(&["sweep", "--all"])),
        ("sweep --dry-run", run(&["sweep", "--dry-run"])),
        ("refresh", run(&["refresh", &wallet])),
        ("backfill", run(&["backfill", "--from-csv", "-"])),
        ("backfill --placeholders", run(&["backfill", "--placeholders", "--from-csv", "-"])),
        ("verify", run(&["verify", &wallet])),
        ("verify --sample", run(&["verify", "--sample", "3"])),
        ("verify --fix", run(&["verify", "--fix", "--sample", "3"])),
        ("status", run(&["status"])),
        ("watch", run(&["watch"])),
    ]
}

/// Starts all commands, and sends SIGTERM to those that still wait after `wait`. Returns which waited.
fn terminate_all(commands: Vec<(&'static str, Ethtally)>, wait: Duration) -> Vec<&'static str> {
    let running: Vec<_> = commands.into_iter().map(|(name, run)| (name, run.start())).collect();
    thread::sleep(wait);
    let (waiting, ended): (Vec<_>, Vec<_>) = running
        .into_iter()
        .map(|(name, mut run)| (run.has_ended(), name, run))
        .partition(|run| !run.0);
    drop(ended);
    let signalled = Instant::now();
    waiting.iter().for_each(|(_, _, run)| run.signal("TERM"));
    let terminated = |(_, name, run): (bool, &'static str, Running)| {
        let ran = run.wait().expect(143);
        assert!(signalled.elapsed() < TEN_SECONDS, "{name}: {:?} {ran:?}", signalled.elapsed());
        name
    };
    waiting.into_iter().map(terminated).collect()
}

/// A table with a few rows, and a chain.
async fn table() -> (Chain, Database) {
    let chain = Chain::builder().wallets(10).start().await.unwrap();
    let database = Database::postgres();
    store_unread(&database, 0..10);
    (chain, database)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_every_command_whose_table_another_session_holds() {
    let (chain, database) = table().await;
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    other.execute("begin; lock table eth_wallet_balances in access exclusive mode").await.unwrap();
    let waited = terminate_all(commands(&chain, &database), Duration::from_secs(7));
    let expected = [
        "sweep",
        "sweep --dry-run",
        "refresh",
        "backfill",
        "backfill --placeholders",
        "verify",
        "verify --sample",
        "verify --fix",
        "status",
        "watch",
    ];
    assert_eq!(waited, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_every_command_that_writes_a_row_which_another_session_holds() {
    let (chain, database) = table().await;
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    other.execute("begin; update eth_wallet_balances set updated_at = updated_at").await.unwrap();
    let waited = terminate_all(commands(&chain, &database), Duration::from_secs(7));
    assert!(
        ["sweep", "refresh", "backfill"].iter().all(|name| waited.contains(name)),
        "{waited:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_every_command_whose_server_is_silent() {
    let (chain, database) = table().await;
    // All that comes after the first bytes is held back.
    for after in [0, 100, 600] {
        let proxy = Proxy::start(&database.url);
        proxy.freeze_after(after);
        let silent = Database::at(proxy.url());
        let waited = terminate_all(commands(&chain, &silent), Duration::from_secs(3));
        assert_eq!(waited.len(), 11, "after {after} bytes: {waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_every_command_for_which_a_pooler_has_no_connection() {
    let cluster = Cluster::start().unwrap();
    let direct = Database::at(cluster.create_database("busy").unwrap());
    let chain = Chain::builder().wallets(10).start().await.unwrap();
    store_unread(&direct, 0..10);
    let pooler = PgBouncer::start(&cluster, "transaction", &["default_pool_size = 1"]);
    let database = Database::at(pooler.url(&direct.url));
    let options: PgConnectOptions = database.url.parse().unwrap();
    let mut other = options.extra_float_digits(None).connect().await.unwrap();
    other.execute("begin").await.unwrap();
    let waited = terminate_all(commands(&chain, &database), Duration::from_secs(3));
    assert_eq!(waited.len(), 11, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn max_duration_ends_a_sweep_that_waits_and_names_who_holds_the_lock() {
    let (chain, database) = table().await;
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    other.execute("set application_name = 'nightly report'").await.unwrap();
    other.execute("begin; lock table eth_wallet_balances in access exclusive mode").await.unwrap();
    let begun = Instant::now();
    let ran = sweep(&database, &chain.url(), &["--max-duration", "6s"]).run().expect(4);
    assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
    for part in ["--max-duration reached", "lock", "\"nightly report\"", "since 20"] {
        assert!(ran.error().contains(part), "{part}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_too_long_is_an_error_that_names_its_holder() {
    let (chain, database) = table().await;
    let name = database.value("select current_database()").await;
    database.sql(&format!("alter database {name} set lock_timeout = '7s'")).await;
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    other.execute("set application_name = 'nightly report'").await.unwrap();
    other.execute("begin; update eth_wallet_balances set updated_at = updated_at").await.unwrap();
    let ran = sweep(&database, &chain.url(), &[]).run().expect(4);
    for part in ["lock timeout", "session ", "\"nightly report\"", "since 20"] {
        assert!(ran.error().contains(part), "{part}: {ran:?}");
    }
    // The same behind a long transaction that holds the tables of an upgrade.
    let original = original_database("");
    let mut report = PgConnection::connect(&original.url).await.unwrap();
    report.execute("set application_name = 'nightly report'").await.unwrap();
    report.execute("begin; lock table eth_wallet_balances in access share mode").await.unwrap();
    let begun = Instant::now();
    let ran = sweep(&original, &chain.url(), &["--max-duration", "4s"]).run().expect(4);
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
    assert!(ran.stderr.contains("\"nightly report\""), "{ran:?}");
}

/// One connection of several goes silent: the work is done on another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_among_good_ones_is_replaced() {
    let (chain, database) = table().await;
    let proxy = Proxy::start(&database.url);
    let through = Database::at(proxy.url());
    let mut watching = start(watch("", chain.url(), &through));
    watching.until("began", 1);
    for _ in 0..2 {
        // Those that are open now; new ones pass.
        proxy.silence_open_connections();
        let users = spenders(100);
        transfer(&chain, users[1], users[2], one_audio()).await;
        let begun = Instant::now();
        caught_up(&chain, &database).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }
    assert!(!watching.has_ended());
    watching.stop();
}
