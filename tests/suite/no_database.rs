//! No accidental database: who creates one, and what an empty table is.

use std::fs;

use ethtally_testbed::Chain;

use crate::support::{
    chains::still_chain,
    database::{Database, on_both_databases},
    program::ethtally,
    wallets::{address, address_lines},
    watch::{start_connected, watch},
};

on_both_databases! {
    a_sweep_of_an_empty_table_says_so
    a_watch_of_an_empty_table_says_so
    checks_of_an_empty_table_exit_1
}

#[test]
fn commands_that_need_a_table_create_no_file() {
    let database = Database::sqlite();
    let wallet = address(1);
    for command in [
        &["sweep"][..],
        &["sweep", "--all", "--dry-run"],
        &["verify", &wallet],
        &["verify", "--sample", "5"],
        &["verify", &wallet, "--fix"],
        &["watch"],
        &["status"],
        &["status", "--max-age", "1d"],
    ] {
        let ran = ethtally(command.iter().copied()).node("http://127.0.0.1:1").database(&database);
        let error = ran.run().refused();
        let file = format!("database {}: no such file; ", database.url);
        assert!(error.starts_with(&format!("error: {file}")), "{command:?}: {error}");
        assert!(
            error.contains("DATABASE_URL") && !error.contains("is set"),
            "{command:?}: {error}"
        );
        assert_eq!(fs::read_dir(database.folder()).unwrap().count(), 0, "{command:?}");
    }
}

#[test]
fn a_forgotten_database_url_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = |command: &[&str]| {
        ethtally(command.iter().copied()).node("http://127.0.0.1:1").folder(folder.path())
    };
    for command in [&["sweep"][..], &["status"], &["watch"], &["verify", "--sample", "1"]] {
        let error = run(command).run().refused();
        for word in
            ["neither --database-url nor DATABASE_URL is set", "sqlite:ethtally.db: no such file"]
        {
            assert!(error.contains(word), "{command:?}: {error}");
        }
        // The same file, but on purpose.
        let url = ["--database-url", "sqlite:ethtally.db"];
        for run in [
            run(&[command, &url].concat()),
            run(&[&url, command].concat()),
            run(command).env("DATABASE_URL", "sqlite:ethtally.db"),
        ] {
            let error = run.run().refused();
            assert!(
                error.starts_with("error: database sqlite:ethtally.db: no such file"),
                "{error}"
            );
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_empty_database_url_is_a_mistake() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["", " "] {
        for command in [&["migrate"][..], &["sweep"], &["status"]] {
            let ran = ethtally(command.iter().copied()).node("http://127.0.0.1:1");
            let error = ran.folder(folder.path()).env("DATABASE_URL", url).run().refused();
            for word in ["the database URL is empty", "DATABASE_URL", "sqlite:PATH"] {
                assert!(error.contains(word), "{command:?}: {error}");
            }
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_backfill_refresh_and_a_watch_of_all_create_the_file() {
    let chain = Chain::builder().start().await.unwrap();
    let wallet = address(1);
    for command in [
        &["migrate"][..],
        &["backfill", "--from-csv", "-"],
        &["backfill", "--from-csv", "-", "--placeholders"],
        &["refresh", &wallet],
    ] {
        let database = Database::sqlite();
        let ran = ethtally(command.iter().copied()).node(chain.url()).database(&database);
        ran.input(address_lines(0..2)).run().expect(0);
        ethtally(["status"]).database(&database).run().expect(0);
    }
    let database = Database::sqlite();
    let watching = start_connected(watch("--track all", chain.url(), &database));
    watching.stop();
    ethtally(["status"]).database(&database).run().expect(0);
}

async fn a_sweep_of_an_empty_table_says_so(database: Database) {
    let chain = still_chain().await;
    ethtally(["migrate"]).database(&database).run().expect(0);
    let says = "note: the table is empty; fill it with `ethtally backfill`\n";
    for command in [&["sweep"][..], &["sweep", "--all"], &["sweep", "--dry-run"]] {
        let ran = ethtally(command.iter().copied()).node(chain.url()).database(&database).run();
        assert_eq!(ran.expect(0).stderr, says, "{command:?}");
    }
    // A table with nothing to do is not empty.
    ethtally(["refresh", &address(1)]).node(chain.url()).database(&database).run().expect(0);
    let sweep = ethtally(["sweep", "--older-than", "1h"]);
    assert_eq!(sweep.node(chain.url()).database(&database).run().expect(0).stderr, "");
}

async fn a_watch_of_an_empty_table_says_so(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    ethtally(["migrate"]).database(&database).run().expect(0);
    for (options, says) in
        [("", "fill it with `ethtally backfill`"), ("--track all", "as events name them")]
    {
        let watching = start_connected(watch(options, chain.url(), &database));
        watching.signal("TERM");
        let (ended, _) = watching.wait();
        assert_eq!(ended.stderr.matches("the table is empty").count(), 1, "{ended:?}");
        assert!(ended.stderr.contains(says), "{ended:?}");
    }
}

async fn checks_of_an_empty_table_exit_1(database: Database) {
    let chain = still_chain().await;
    ethtally(["migrate"]).database(&database).run().expect(0);
    ethtally(["status"]).database(&database).run().expect(0);
    let ran = ethtally(["status", "--max-age", "1d", "--json"]).database(&database).run().expect(1);
    assert_eq!(ran.json()["wallets"], 0);
    assert!(!ran.stderr.contains("error:") && ran.stderr.contains("the table is empty"), "{ran:?}");
    for options in
        [&["--sample", "5"][..], &["--sample", "5", "--ignore-moved"], &["--sample", "5", "--fix"]]
    {
        let verify = ethtally([&["verify", "--json"], options].concat());
        let ran = verify.node(chain.url()).database(&database).run().expect(1);
        assert_eq!(ran.json()["sampled"], 0);
        assert!(ran.stderr.contains("the table is empty"), "{ran:?}");
    }
    let verify = ethtally(["verify", "--json", &address(1)]);
    let ran = verify.node(chain.url()).database(&database).run().expect(1);
    assert_eq!(ran.json()["in_sync"], false);
}
