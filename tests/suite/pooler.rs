//! Commands behind a real PgBouncer, in transaction and session mode.

use std::time::{Duration, Instant};

use ethtally_testbed::{
    postgres::{self, Cluster},
    stub::{Fault, When},
};
use rand::RngExt;

use crate::support::{
    chains::{chain_and_stub, transfer},
    database::Database,
    pgbouncer::PgBouncer,
    program::{ethtally, eventually, sweep, sweep_all},
    random::schedules,
    table::{assert_read_at_genesis, store_unread},
    wallets::{one_audio, spenders},
    watch::{caught_up, mismatches, start, watch},
};

/// A database of a cluster of its own, by a pooler and directly.
struct Pooled {
    pooler: PgBouncer,
    database: Database,
    direct: Database,
    _cluster: Cluster,
}

fn pooled(mode: &str, lines: &[&str]) -> Pooled {
    let cluster = Cluster::start().unwrap();
    let direct = Database::at(cluster.create_database("pooled").unwrap());
    let pooler = PgBouncer::start(&cluster, mode, lines);
    let database = Database::at(pooler.url(&direct.url));
    Pooled { pooler, database, direct, _cluster: cluster }
}

/// The sessions of the server that hold a lock of ours.
fn holders(direct: &Database) -> Vec<u32> {
    let sql = "select distinct pid from pg_locks where locktype = 'advisory' and granted";
    let found = postgres::psql(&direct.url, sql).unwrap();
    found.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// No sweep says that another one is at work when there is none: not after clean runs, runs that were killed, and
/// with other clients that take over their server connections.
async fn sweeps_never_skip_for_nobody(mode: &str) {
    let pooled = pooled(mode, &["default_pool_size = 6", "server_idle_timeout = 2"]);
    let (database, direct) = (&pooled.database, &pooled.direct);
    let (chain, stub) = chain_and_stub().await;
    store_unread(database, 0..50);
    let mut random = rand::rng();
    for run in 0..schedules("SWEEPS", 60) {
        if run % 6 == 5 {
            stub.fault(Fault::Hang, When::eth_call());
            let killed = sweep_all(database, &stub.url(), &[]).start();
            std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
            drop(killed);
            stub.clear();
            eventually("the server notices the end", || holders(direct).is_empty());
        }
        let swept = sweep(database, &chain.url(), &[]).run().expect(0);
        assert_eq!(swept.json()["skipped"], false, "run {run}: {swept:?}");
        // Another client of the pooler, on the connections that the sweep has left.
        postgres::psql(&database.url, "select count(*) from eth_wallet_balances").unwrap();
    }
    assert_read_at_genesis(direct, 50, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_transaction_pooler_no_sweep_skips_for_nobody() {
    sweeps_never_skip_for_nobody("transaction").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_session_pooler_no_sweep_skips_for_nobody() {
    sweeps_never_skip_for_nobody("session").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sweeps_behind_a_pooler_the_second_is_skipped_and_names_the_first() {
    let pooled = pooled("transaction", &[]);
    let database = &pooled.database;
    let (chain, stub) = chain_and_stub().await;
    store_unread(database, 0..50);
    stub.fault(Fault::Hang, When::eth_call());
    let first = sweep_all(database, &stub.url(), &["--timeout", "3"]).start();
    eventually("the first one reads", || stub.count("eth_call") > 0);
    let second = sweep(database, &chain.url(), &[]).run().expect(0);
    assert_eq!(second.json()["skipped"], true);
    assert!(second.stderr.contains("is running (session "), "{second:?}");
    let third = sweep(database, &chain.url(), &["--fail-if-locked"]).run().expect(5);
    assert_eq!(third.json()["skipped"], true);
    assert!(third.error().contains("another sweep of shard 0/1"), "{third:?}");
    stub.clear();
    first.wait().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_outlives_idle_timeouts_of_pooler_and_server() {
    let pooled = pooled(
        "transaction",
        &["idle_transaction_timeout = 3", "server_idle_timeout = 2", "server_lifetime = 3"],
    );
    let (database, direct) = (&pooled.database, &pooled.direct);
    let name = direct.value("select current_database()").await;
    for setting in ["idle_in_transaction_session_timeout = '2s'", "idle_session_timeout = '2s'"] {
        direct.sql(&format!("alter database {name} set {setting}")).await;
    }
    let (chain, stub) = chain_and_stub().await;
    store_unread(database, 0..50);
    stub.fault(Fault::Hang, When::eth_call());
    let first = sweep_all(database, &stub.url(), &["--timeout", "60"]).start();
    eventually("the first one reads", || stub.count("eth_call") > 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        let second = sweep(database, &chain.url(), &[]).run().expect(0);
        assert_eq!(second.json()["skipped"], true, "{second:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
    stub.clear();
    drop(first);
    eventually("the lock is free", || {
        sweep(database, &chain.url(), &[]).run().expect(0).json()["skipped"] == false
    });
}

/// However a lock is lost, the run that held it stops and says so, and nothing of it is stored after another one began.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_loses_its_lock_stops_before_another_one_works() {
    let pooled = pooled("transaction", &[]);
    let (pooler, database, direct) = (&pooled.pooler, &pooled.database, &pooled.direct);
    let (chain, stub) = chain_and_stub().await;
    store_unread(database, 0..400);
    let name = direct.value("select current_database()").await;
    for run in 0..schedules("LOST_LOCKS", 6) {
        direct
            .sql("update eth_wallet_balances set read_block = null, updated_at = '1970-01-01'")
            .await;
        stub.fault(Fault::Delay(Duration::from_millis(300)), When::eth_call());
        let arguments = ["--chunk", "20", "--concurrency", "1"];
        let first = sweep_all(database, &stub.url(), &arguments).start();
        eventually("the first one stores", || {
            postgres::psql(&direct.url, "select count(read_block) from eth_wallet_balances")
                .is_ok_and(|count| count != "0")
        });
        if run % 2 == 0 {
            let session = holders(direct)[0];
            direct.sql(&format!("select pg_terminate_backend({session})")).await;
        } else {
            pooler.admin(&format!("kill {name}"));
            pooler.admin(&format!("resume {name}"));
        }
        let lost = first.wait().expect(4);
        assert!(lost.error().contains("the lock was lost, so the run stopped"), "{lost:?}");
        let count = "select count(read_block) from eth_wallet_balances";
        let stored: u64 = direct.value(count).await.parse().unwrap();
        assert!(stored < 400, "{stored}");
        stub.clear();
        let next = sweep_all(database, &chain.url(), &[]).run().expect(0);
        assert_eq!(next.json()["skipped"], false, "{next:?}");
    }
}

/// Three watches behind one pooler: one is active, whoever is killed.
#[tokio::test(flavor = "multi_thread")]
async fn of_three_watches_behind_a_pooler_one_is_active() {
    let pooled = pooled("transaction", &[]);
    let (database, direct) = (&pooled.database, &pooled.direct);
    let (chain, _stub) = chain_and_stub().await;
    let users = spenders(100);
    store_unread(database, users.iter().copied());
    let start = || start(watch("", chain.url(), database));
    let mut watches = vec![start()];
    watches[0].until("began", 1);
    watches.extend([start(), start()]);
    for standby in &watches[1..] {
        standby.until("standby", 1);
    }
    for round in 0..2 {
        let (from, to) = (users[round], users[round + 10]);
        transfer(&chain, from, to, one_audio()).await;
        caught_up(&chain, direct).await;
        assert_eq!(mismatches(&chain, direct, [from, to]).await, []);
        assert_eq!(holders(direct).len(), 1);
        let active = watches.iter().position(|watch| !watch.events("active").is_empty()).unwrap();
        let killed = watches.swap_remove(active);
        killed.signal("KILL");
        killed.wait();
        eventually("another one is active", || {
            watches.iter().filter(|watch| !watch.events("active").is_empty()).count() == 1
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_behind_a_transaction_pooler() {
    let pooled = pooled("transaction", &["default_pool_size = 3"]);
    let database = &pooled.database;
    let (chain, _stub) = chain_and_stub().await;
    let wallet = crate::support::wallets::address(1);
    for (arguments, status) in [
        (vec!["migrate"], 0),
        (vec!["refresh", &wallet], 0),
        (vec!["backfill", "--from-csv", "-"], 0),
        (vec!["sweep", "--all"], 0),
        (vec!["verify", &wallet], 0),
        (vec!["verify", "--sample", "5"], 0),
        (vec!["status"], 0),
    ] {
        let csv = format!("wallet\n{}\n", crate::support::wallets::address(2));
        let run = ethtally(arguments).database(database).node(chain.url()).input(csv);
        run.run().expect(status);
    }
}

/// Sessions of a role that may have few connections: all commands work with what there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_one_or_two_connections_is_enough() {
    let cluster = Cluster::start().unwrap();
    let (chain, _stub) = chain_and_stub().await;
    for limit in [1, 2, 3] {
        let role = format!("few_{limit}");
        let url = cluster.url_with_password(&role, "secret").unwrap();
        postgres::psql(
            &cluster.url("postgres"),
            &format!("alter role {role} connection limit {limit}"),
        )
        .unwrap();
        let name = url.rsplit('/').next().unwrap().to_owned();
        let (database, admin) = (Database::at(url), Database::at(cluster.url(&name)));
        store_unread(&database, 0..12_000);
        sweep_all(&database, &chain.url(), &["--concurrency", "4"]).run().expect(0);
        sweep(&database, &chain.url(), &[]).run().expect(0);
        ethtally(["verify", "--sample", "5"]).database(&database).node(chain.url()).run().expect(0);
        let watching = start(watch("", chain.url(), &database));
        watching.until("began", 1);
        let users = spenders(100);
        transfer(&chain, users[1], users[2], one_audio()).await;
        caught_up(&chain, &admin).await;
        assert_eq!(mismatches(&chain, &admin, [users[1], users[2]]).await, []);
        watching.stop();
    }
}
