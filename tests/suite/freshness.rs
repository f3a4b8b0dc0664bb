//! Endpoints that are behind, of another chain, or without the contracts: the next one is asked, and if none is left
//! the run says what each of them lacks.

use std::time::Duration;

use ethtally_testbed::{
    Chain,
    stub::{Fault, Stub, When},
};
use serde_json::json;

use crate::support::{
    chains::{chain_and_stub, still_chain},
    database::{Database, on_both_databases},
    program::{Output, ethtally, refresh_first, sweep},
    table::{assert_nothing_stored, stored_totals},
    wallets::{address, genesis_totals},
};

/// A chain whose only block is three days old.
async fn old_chain() -> Chain {
    Chain::builder().age(Duration::from_secs(3 * 86_400)).start().await.unwrap()
}

/// `refresh` of four wallets with the settings' own limit.
fn refresh_by_default(urls: &str, database: &Database, options: &[&str]) -> Output {
    let refresh = refresh_first(4, options).node(urls).database(database);
    refresh.without("ETHTALLY_MAX_HEAD_AGE").run()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stopped_syncing_is_not_believed() {
    let chain = old_chain().await;
    chain.mine(1).await.unwrap();
    let database = Database::sqlite();
    let ran = refresh_by_default(&chain.url(), &database, &[]).expect(3);
    let error = ran.error();
    assert!(error.contains("the newest block, 1, is "), "{error}");
    assert!(error.contains("--max-head-age is 10m") && error.contains(&chain.url()), "{error}");
    assert_nothing_stored(&database).await;
    for age in ["off", "4d"] {
        let ran = refresh_by_default(&chain.url(), &database, &["--max-head-age", age]).expect(0);
        assert_eq!(ran.json()["updated"], 4, "{age}");
    }
    let verify = ethtally(["verify", &address(0)]).node(chain.url()).database(&database);
    let ran = verify.env("ETHTALLY_MAX_HEAD_AGE", "10m").run().expect(3);
    assert!(ran.error().contains("the newest block, 1, is "), "{}", ran.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_named_may_be_as_old_as_it_is() {
    let chain = old_chain().await;
    let database = Database::sqlite();
    refresh_by_default(&chain.url(), &database, &["--block", "0"]).expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_says_how_old_the_newest_block_may_be() {
    let chain = old_chain().await;
    let database = Database::sqlite();
    let text = ethtally(["profile"]).run().expect(0).stdout;
    let profile = database.folder().join("p.toml");
    for (age, status) in [("10m", 3), ("5days", 0), ("off", 0)] {
        let keys = format!("max_head_age = \"{age}\"\nname = ");
        std::fs::write(&profile, text.replacen("name = ", &keys, 1)).unwrap();
        let options = ["--profile", profile.to_str().unwrap()];
        refresh_by_default(&chain.url(), &database, &options).expect(status);
    }
}

/// A stub in front of a healthy chain, behind one that gets every fault.
async fn beside_a_healthy_one(fault: Fault, when: When) -> (Chain, Stub, String) {
    let (chain, stub) = chain_and_stub().await;
    stub.fault(fault, when);
    let urls = format!("{},{}", stub.url(), chain.url());
    (chain, stub, urls)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_fit_is_passed_over_for_the_next() {
    for (fault, lacks) in [
        (Fault::NoCode, "has no code at"),
        (Fault::ChainId(5), "is a node of chain 5, but profile audius is for chain 1"),
    ] {
        let (_chain, stub, urls) = beside_a_healthy_one(fault, When::always()).await;
        let database = Database::sqlite();
        let ran = refresh_first(4, &[]).node(urls).database(&database).run().expect(0);
        assert!(ran.stderr.contains(lacks), "{}", ran.stderr);
        assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
        assert_eq!(stub.count("eth_call"), 0);

        let database = Database::sqlite();
        let ran = refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(2);
        assert!(ran.error().contains(lacks), "{}", ran.error());
        assert_nothing_stored(&database).await;
    }
    let old = old_chain().await;
    let database = Database::sqlite();
    let urls = format!("{},{}", old.url(), still_chain().await.url());
    let options = ["--max-head-age", "1d"];
    let ran = refresh_first(4, &options).node(urls).database(&database).run().expect(0);
    assert!(ran.stderr.contains("it has not synced yet"), "{}", ran.stderr);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn if_no_endpoint_fits_the_error_says_what_each_one_lacks() {
    let (old, dead) = (old_chain().await, Stub::dead());
    let other = Chain::builder().chain_id(5).start().await.unwrap();
    let database = Database::sqlite();
    let options = ["--max-head-age", "1d", "--retries", "1"];
    let urls = format!("{},{},{dead}", old.url(), other.url());
    let ran = refresh_first(4, &options).node(urls).database(&database).run().expect(3);
    let error = ran.error();
    for lacks in ["it has not synced yet", "is a node of chain 5", "no connection"] {
        assert_eq!(error.matches(lacks).count(), 1, "{error}");
    }
    for url in [old.url(), other.url(), dead] {
        assert!(error.contains(&url), "{error}");
    }
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_strange_answer_of_a_gateway_is_asked_again() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::Answer(json!("0x5")), When::method("eth_chainId").times(1));
    stub.fault(Fault::Answer(json!("0x")), When::method("eth_getCode").times(1));
    refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_check_has_its_own_retries() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    for method in ["eth_chainId", "eth_getBlockByNumber", "eth_getCode", "eth_call"] {
        stub.fault(Fault::status(503), When::method(method).times(2));
    }
    let options = ["--retries", "2"];
    refresh_first(4, &options).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
}

on_both_databases!(an_endpoint_far_behind_the_table_is_passed_over);

async fn an_endpoint_far_behind_the_table_is_passed_over(database: Database) {
    // Blocks of 12 seconds; their times lie ahead of the clock, so that only the table tells which one is behind.
    let behind = Chain::builder().start().await.unwrap();
    behind.mine_every(150, 12).await.unwrap();
    let ahead = Chain::builder().start().await.unwrap();
    ahead.mine_every(650, 12).await.unwrap();
    refresh_by_default(&ahead.url(), &database, &[]).expect(0);

    let options = ["--batch", "4"];
    let run = |urls: &str| sweep(&database, urls, &options).without("ETHTALLY_MAX_HEAD_AGE").run();
    let ran = run(&behind.url()).expect(3);
    let says = "the newest block, 150, is 500 blocks, about 1h 40m, behind the newest block";
    assert!(ran.error().contains(says), "{}", ran.error());
    let ran = run(&format!("{},{}", behind.url(), ahead.url())).expect(0);
    assert_eq!((&ran.json()["updated"], &ran.json()["block"]), (&json!(4), &json!(650)));

    // A little behind is usual.
    let near = Chain::builder().start().await.unwrap();
    near.mine_every(640, 12).await.unwrap();
    assert_eq!(run(&near.url()).expect(0).json()["superseded"], 4);
}
