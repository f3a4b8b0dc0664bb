//! What every JSON result says of its run: outcome, exit status and error, also of a run that failed.

use ethtally_testbed::{
    postgres,
    stub::{Fault, When},
};
use serde_json::json;

use crate::support::{
    chains::{chain_and_stub, still_chain},
    database::{Database, on_both_databases},
    program::{ethtally, eventually, refresh_first, sweep, sweep_all},
    table::store_unread,
    wallets::address,
};

on_both_databases! {
    a_run_that_did_all_is_complete
    a_run_that_ended_early_says_how
}

async fn a_run_that_did_all_is_complete(database: Database) {
    let chain = still_chain().await;
    let wallet = address(1);
    store_unread(&database, 0..5);
    for arguments in [
        vec!["migrate"],
        vec!["refresh", &wallet],
        vec!["sweep", "--all"],
        vec!["sweep", "--dry-run"],
        vec!["backfill", "--from-csv", "-"],
        vec!["verify", &wallet],
        vec!["verify", "--sample", "2"],
        vec!["status"],
        vec!["profile"],
    ] {
        let ran = ethtally(arguments.iter().copied().chain(["--json"]))
            .database(&database)
            .node(chain.url())
            .input(format!("wallet\n{wallet}\n"))
            .run()
            .expect(0);
        assert_eq!(ran.json()["command"], arguments[0]);
        let complete = json!({"profile": "audius", "outcome": "complete", "error": null});
        assert_eq!(ran.conclusion(), complete, "{arguments:?}");
    }
}

async fn a_run_that_ended_early_says_how(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..500);
    let outcome = |ran: &crate::support::program::Output| ran.conclusion()["outcome"].clone();

    stub.fault(Fault::error(3, "execution reverted"), When::eth_call().mentioning(&address(1)));
    let ran = sweep_all(&database, &stub.url(), &[]).run().expect(0);
    assert_eq!(outcome(&ran), "partial");
    stub.clear();

    let ran = sweep_all(&database, &chain.url(), &["--max-calls", "1", "--chunk", "5"]).run();
    assert_eq!(outcome(&ran.expect(0)), "cut_short");

    stub.fault(Fault::Hang, When::eth_call());
    let before = stub.count("eth_call");
    let hanging = sweep_all(&database, &stub.url(), &["--timeout", "60"]).start();
    eventually("it reads", || stub.count("eth_call") > before);
    let ran = sweep(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(outcome(&ran), "skipped");
    let ran = sweep(&database, &chain.url(), &["--fail-if-locked"]).run().expect(5);
    assert_eq!(outcome(&ran), "skipped");
    hanging.signal("TERM");
    let ran = hanging.wait().expect(143);
    assert_eq!(outcome(&ran), "interrupted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_has_a_result_too() {
    let database = Database::postgres();
    store_unread(&database, 0..5);
    let chain = still_chain().await;
    let dead = "http://127.0.0.1:1";
    let failed = |ran: crate::support::program::Output, status: i32| {
        let ran = ran.expect(status);
        assert_eq!(ran.conclusion()["outcome"], "failed");
        assert!(ran.conclusion()["error"].is_string());
        (ran.json()["command"].clone(), ran.conclusion()["profile"].clone())
    };
    let wallet = address(1);
    for arguments in [
        vec!["sweep"],
        vec!["refresh", &wallet],
        vec!["backfill", "--from-csv", "-"],
        vec!["verify", &wallet],
        vec!["verify", "--sample", "2"],
        vec!["watch"],
        vec!["status"],
        vec!["migrate"],
    ] {
        let run = |more: &[&str]| {
            ethtally(arguments.iter().chain(["--json"].iter()).chain(more).copied())
                .database(&database)
                .node(chain.url())
                .input(format!("wallet\n{wallet}\n"))
        };
        let command = json!(arguments[0]);
        // The settings, before the profile is known.
        let ran = run(&[]).env("ETHTALLY_PROFILE", "/nowhere.toml").run();
        assert_eq!(failed(ran, 2), (command.clone(), json!(null)), "{arguments:?}");
        // The database.
        let ran = run(&[]).env("DATABASE_URL", "postgres://app@127.0.0.1:1/tally").run();
        assert_eq!(failed(ran, 4), (command.clone(), json!("audius")), "{arguments:?}");
        // The node.
        if !["watch", "status", "migrate"].contains(&arguments[0]) {
            let ran = run(&["--retries", "0"]).env("ETH_RPC_URL", dead).run();
            assert_eq!(failed(ran, 3), (command, json!("audius")), "{arguments:?}");
        }
    }
    // Half-way.
    postgres::psql(&database.url, "drop table eth_wallet_read_failures cascade").unwrap();
    let ran = refresh_first(2, &[]).database(&database).node(chain.url()).run();
    assert_eq!(failed(ran, 2), (json!("refresh"), json!("audius")));
}
