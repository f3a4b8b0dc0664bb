//! The record of runs: a row for every run of a command that writes, however it ends.

use ethtally_testbed::{
    Chain, TokenFault,
    postgres::{self, Cluster},
    stub::{Fault, When},
    wallet,
};

use crate::support::{
    chains::{chain_and_stub, still_chain},
    database::{Database, on_both_databases},
    pgbouncer::PgBouncer,
    program::{ethtally, eventually, eventually_async, sweep, sweep_all},
    table::store_unread,
    wallets::address,
    watch::{caught_up, start, watch},
};

on_both_databases! {
    every_command_that_writes_is_on_record
    a_run_that_ends_early_is_on_record
    a_run_that_fails_is_on_record_without_secrets
    a_watch_is_on_record_while_it_runs
    the_newest_thousand_runs_of_each_command_are_kept
}

/// Command, shard, outcome and exit status of each run, in order.
async fn runs(database: &Database) -> Vec<String> {
    let sql =
        "select command, coalesce(shard, '-'), outcome, coalesce(cast(exit_status as text), '-')
         from eth_wallet_runs order by id";
    database.sql(sql).await.into_iter().map(|row| row.replace('|', " ")).collect()
}

/// A column of the newest run.
async fn newest(database: &Database, column: &str) -> String {
    let sql = format!("select {column} from eth_wallet_runs order by id desc limit 1");
    database.value(&sql).await
}

async fn every_command_that_writes_is_on_record(database: Database) {
    let chain = Chain::builder().faulty().start().await.unwrap();
    let run = |arguments: &[&str], status: i32| {
        let ran = ethtally(arguments.iter().copied()).node(chain.url()).database(&database);
        ran.input(format!("{}\n{}\n", address(1), address(2))).run().expect(status)
    };
    run(&["migrate"], 0);
    run(&["backfill", "--from-csv", "-", "--placeholders"], 0);
    assert!(newest(&database, "counts").await.contains("\"wallets\":2"));
    run(&["sweep", "--shard", "0/1"], 0);
    let counts = newest(&database, "counts").await;
    assert!(counts.contains("\"updated\":2") && counts.contains("\"failed\":0"), "{counts}");
    run(&["refresh", &address(1)], 0);
    run(&["verify", &address(1), "--fix"], 0);
    run(&["verify", "--sample", "1"], 0);
    chain.set_fault(wallet(2), TokenFault::Revert).await.unwrap();
    run(&["sweep", "--all", "--strict"], 1);

    run(&["verify", &address(1)], 0);
    run(&["sweep", "--dry-run"], 0);
    run(&["status"], 0);
    run(&["profile"], 0);
    // All others write nothing.
    assert_eq!(
        runs(&database).await,
        [
            "migrate - complete 0",
            "backfill - complete 0",
            "sweep 0/1 complete 0",
            "refresh - complete 0",
            "verify - complete 0",
            "sweep - partial 1",
        ]
    );
    let disordered = "select count(*) from eth_wallet_runs where started_at > ended_at";
    assert_eq!(database.value(disordered).await, "0");
}

async fn a_run_that_ends_early_is_on_record(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..50);
    sweep_all(&database, &chain.url(), &["--max-calls", "1", "--chunk", "5"]).run().expect(0);
    stub.fault(Fault::Hang, When::eth_call());
    let hanging = sweep_all(&database, &stub.url(), &["--timeout", "60"]).start();
    eventually("it reads", || stub.count("eth_call") > 0);
    sweep(&database, &chain.url(), &[]).run().expect(0);
    sweep(&database, &chain.url(), &["--fail-if-locked"]).run().expect(5);
    hanging.signal("TERM");
    hanging.wait().expect(143);
    assert_eq!(
        runs(&database).await[1..],
        [
            "sweep - cut_short 0",
            "sweep - skipped 0",
            "sweep - skipped 5",
            "sweep - interrupted 143",
        ]
    );
}

async fn a_run_that_fails_is_on_record_without_secrets(database: Database) {
    store_unread(&database, 0..3);
    let dead = "http://127.0.0.1:1/v2/s3cr3tk3yabcdef0123456789";
    let failed = sweep(&database, dead, &["--retries", "0"]).run().expect(3);
    let error = newest(&database, "error").await;
    assert_eq!(format!("error: {error}"), failed.error());
    assert!(error.contains("127.0.0.1") && !error.contains("s3cr3t"), "{error}");

    // A table of another profile.
    let chain = still_chain().await;
    sweep(&database, &chain.url(), &[]).run().expect(0);
    let profile = database.folder().join("other.toml");
    let shown = ethtally(["profile"]).run().expect(0).stdout;
    std::fs::write(&profile, shown.replace("chain_id = 1\n", "chain_id = 5\n")).unwrap();
    let profile = profile.display().to_string();
    sweep(&database, &chain.url(), &["--profile", &profile]).run().expect(2);
    assert_eq!(
        runs(&database).await[1..],
        ["sweep - failed 3", "sweep - complete 0", "sweep - failed 2"]
    );
}

async fn a_watch_is_on_record_while_it_runs(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..3);
    let watching = start(watch("", chain.url(), &database));
    caught_up(&chain, &database).await;
    assert_eq!(runs(&database).await[1..], ["watch - running -"]);
    watching.stop();
    assert_eq!(runs(&database).await[1..], ["watch - interrupted 143"]);
    assert!(newest(&database, "counts").await.contains("\"reorgs\":0"));
}

async fn the_newest_thousand_runs_of_each_command_are_kept(database: Database) {
    ethtally(["migrate"]).database(&database).run().expect(0);
    database
        .sql(
            "with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < 1200)
             insert into eth_wallet_runs (command, started_at, ended_at, outcome)
             select command, '2026-01-01 00:00:00', '2026-01-01 00:00:00', 'complete'
             from numbers, (select 'migrate' as command union all select 'sweep') commands",
        )
        .await;
    ethtally(["migrate"]).database(&database).run().expect(0);
    let counted = "select command, count(*) from eth_wallet_runs group by command order by command";
    assert_eq!(database.sql(counted).await, ["migrate|1000", "sweep|1200"]);
    assert_eq!(newest(&database, "command").await, "migrate");
    assert_ne!(newest(&database, "substr(cast(ended_at as text), 1, 10)").await, "2026-01-01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_kept_is_a_note_and_not_an_error() {
    let database = Database::postgres();
    let chain = still_chain().await;
    store_unread(&database, 0..3);
    database
        .sql("alter table eth_wallet_runs add constraint nothing check (id < 0) not valid")
        .await;
    let ran = sweep(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(ran.json()["updated"], 3);
    assert!(ran.stderr.starts_with("note: this run is not on record: "), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_on_record_behind_a_pooler_and_in_a_schema() {
    let chain = still_chain().await;
    let cluster = Cluster::start().unwrap();
    let direct = Database::at(cluster.create_database("pooled").unwrap());
    let pooler = PgBouncer::start(&cluster, "transaction", &[]);
    let database = Database::at(pooler.url(&direct.url));
    for schema in ["one", "two"] {
        let options = ["--schema", schema];
        let run = |arguments: &[&str]| {
            let ran = ethtally(arguments.iter().copied().chain(options)).node(chain.url());
            ran.database(&database).input(address(1)).run().expect(0)
        };
        run(&["backfill", "--from-csv", "-"]);
        run(&["sweep"]);
        let sql = format!("select command, outcome from {schema}.eth_wallet_runs order by id");
        assert_eq!(direct.sql(&sql).await, ["backfill|complete", "sweep|complete"]);
        let seen = run(&["status", "--json"]).json();
        assert_eq!(seen["last_runs"].as_array().unwrap().len(), 2, "{seen}");
    }
}

/// The table of runs is locked by another session for longer than the run takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_does_not_wait_long_to_be_on_record() {
    let database = Database::postgres();
    let chain = still_chain().await;
    store_unread(&database, 0..3);
    let url = database.url.clone();
    let holder = std::thread::spawn(move || {
        let sql = "begin; lock table eth_wallet_runs; select pg_sleep(20); commit";
        postgres::psql(&url, sql).unwrap();
    });
    let is_held = "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and granted
         and relation = 'eth_wallet_runs'::regclass";
    eventually_async("it is locked", async || database.value(is_held).await == "1").await;
    let ran = sweep(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(ran.json()["updated"], 3);
    assert!(ran.stderr.contains("the database did not take it in 3 s"), "{}", ran.stderr);
    assert_eq!(database.value(is_held).await, "1", "the run ended first");
    let end = "select pg_terminate_backend(pid) from pg_locks where mode = 'AccessExclusiveLock'
         and granted and relation = 'eth_wallet_runs'::regclass";
    database.sql(end).await;
    let _ = holder.join();
}
