//! Wallets that cannot be read: exactly they fail, and they hold nobody else up.

use std::collections::{BTreeMap, BTreeSet};

use ethtally_testbed::{
    Chain, Fault,
    genesis::holdings,
    stub::{Fault as NodeFault, Stub, When},
    wallet,
};
use serde_json::{Value, json};

use crate::harness::{Database, Ethtally, Ran, ethtally, on_both_databases};

on_both_databases! {
    unreadable_wallets_at_the_head_of_the_queue_hold_nothing_up
    a_wallet_that_recovers_is_stored_and_its_failure_forgotten
    a_wallet_that_never_had_a_row_is_swept_when_it_is_due
    the_time_until_the_next_try_doubles_to_a_day
}

async fn faulty_chain(faults: impl IntoIterator<Item = (u64, Fault)>) -> Chain {
    let chain = Chain::builder().faulty().start().await.unwrap();
    for (n, fault) in faults {
        chain.set_fault(wallet(n), fault).await.unwrap();
    }
    chain
}

fn address(n: u64) -> String {
    format!("{:#x}", wallet(n))
}

/// `refresh` of the first wallets, in their order.
fn refresh(wallets: u64, options: &[&str]) -> Ethtally {
    let addresses: Vec<_> = (0..wallets).map(address).collect();
    let fixed = ["refresh", "--json"];
    ethtally(fixed.into_iter().chain(options.iter().copied()).chain(addresses.iter().map(|a| &**a)))
}

/// What the first wallets hold, but those named.
fn totals_without(wallets: u64, without: &[u64]) -> BTreeMap<String, String> {
    (0..wallets)
        .zip(holdings(wallets))
        .filter(|(n, _)| !without.contains(n))
        .map(|(n, holding)| (address(n), holding.total().to_string()))
        .collect()
}

async fn pairs(database: &Database, statement: &str) -> BTreeMap<String, String> {
    let rows = database.sql(statement).await;
    let pair = |row: &String| {
        let (wallet, value) = row.split_once('|').expect("two columns");
        (wallet.to_owned(), value.to_owned())
    };
    rows.iter().map(pair).collect()
}

async fn stored(database: &Database) -> BTreeMap<String, String> {
    pairs(database, "select wallet, balance from eth_wallet_balances").await
}

async fn failures(database: &Database) -> BTreeMap<String, String> {
    pairs(database, "select wallet, last_error from eth_wallet_read_failures").await
}

/// Of two hundred wallets exactly these fail, each for this reason, and all others are stored.
async fn only_they_fail(faults: &[(u64, Fault, &str)], options: &[&str]) -> Ran {
    let chain = faulty_chain(faults.iter().map(|(n, fault, _)| (*n, *fault))).await;
    let database = Database::sqlite();
    let ran = refresh(200, options).node(chain.url()).database(&database).run().expect(0);

    let said = ran.json();
    let failed: Vec<_> = faults.iter().map(|(n, ..)| *n).collect();
    assert_eq!(said["failed"], failed.len());
    assert_eq!(said["updated"], 200 - failed.len());
    for (n, ..) in faults {
        let expected = json!({"wallet": address(*n), "total": null, "read_block": null});
        assert_eq!(said["wallets"][*n as usize], expected);
    }
    assert_eq!(stored(&database).await, totals_without(200, &failed));
    let reasons: BTreeMap<_, _> =
        faults.iter().map(|(n, _, reason)| (address(*n), (*reason).to_owned())).collect();
    assert_eq!(failures(&database).await, reasons);
    let counts = "select distinct failures from eth_wallet_read_failures";
    assert_eq!(database.value(counts).await, "1");
    ran
}

macro_rules! only_it_fails {
    ($($name:ident: $n:literal, $fault:ident, $reason:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            only_they_fail(&[($n, Fault::$fault, $reason)], &[]).await;
        })*
    };
}

only_it_fails! {
    a_part_that_reverts_fails_its_wallet_alone: 100, Revert, "balanceOf failed";
    a_part_of_0_bytes_fails_its_wallet_alone: 100, Return0, "balanceOf returned nothing";
    a_part_of_31_bytes_fails_its_wallet_alone:
        100, Return31, "balanceOf returned 31 bytes, not 32";
    a_part_of_64_bytes_fails_its_wallet_alone:
        100, Return64, "balanceOf returned 64 bytes, not 32";
    // A service provider: it has a stake to add.
    a_sum_that_overflows_fails_its_wallet_alone:
        3, ReturnMax, "the sum of the parts does not fit a uint256";
    a_part_that_burns_all_gas_fails_its_wallet_alone_at_the_first_place:
        0, BurnGas, "balanceOf failed";
    a_part_that_burns_all_gas_fails_its_wallet_alone_in_the_middle:
        100, BurnGas, "balanceOf failed";
    a_part_that_burns_all_gas_fails_its_wallet_alone_at_the_last_place:
        199, BurnGas, "balanceOf failed";
}

#[tokio::test(flavor = "multi_thread")]
async fn three_that_burn_all_gas_fail_alone() {
    let burners = [0, 77, 150].map(|n| (n, Fault::BurnGas, "balanceOf failed"));
    let ran = only_they_fail(&burners, &[]).await;
    // About two calls for each halving, not one for each wallet.
    assert!(ran.json()["calls"].as_u64().unwrap() < 60, "{}", ran.json()["calls"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_all_kinds_fail_alone_in_small_chunks() {
    let faults = [
        (3, Fault::ReturnMax, "the sum of the parts does not fit a uint256"),
        (4, Fault::BurnGas, "balanceOf failed"),
        (5, Fault::Revert, "balanceOf failed"),
        (6, Fault::Return0, "balanceOf returned nothing"),
        (199, Fault::Return64, "balanceOf returned 64 bytes, not 32"),
    ];
    only_they_fail(&faults, &["--chunk", "9"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_chunk_that_cannot_be_read_leaves_the_others_alone() {
    let faults: Vec<_> = (10..20).map(|n| (n, Fault::Revert, "balanceOf failed")).collect();
    only_they_fail(&faults, &["--chunk", "10"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_that_failed_beside_others_are_read_again_before_they_are_blamed() {
    use alloy::{
        providers::bindings::IMulticall3::{Result as Returned, aggregate3Call},
        sol_types::SolCall,
    };
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    // What is left of a chunk behind a sub-call that burnt nearly all of the gas.
    let starved = Returned { success: false, returnData: vec![].into() };
    let word = Returned { success: true, returnData: vec![7; 32].into() };
    let returned: Vec<_> = (0..12).map(|n| if n == 0 { &word } else { &starved }.clone()).collect();
    let answer = alloy::primitives::Bytes::from(aggregate3Call::abi_encode_returns(&returned));
    stub.script([NodeFault::Answer(json!(answer))], When::method("eth_call"));
    let database = Database::sqlite();
    let ran = refresh(4, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(ran.json()["failed"], 0);
    assert_eq!(stored(&database).await, totals_without(4, &[]));
    assert!(failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_total_of_nothing_but_the_greatest_number_is_a_total() {
    // Neither staked nor delegated: the sum fits.
    let (n, _) = (10..)
        .zip(holdings(1_000).skip(10))
        .find(|(_, holding)| holding.staked.is_zero() && holding.delegated.is_zero())
        .unwrap();
    let chain = faulty_chain([(n, Fault::ReturnMax)]).await;
    let database = Database::sqlite();
    let ran = ethtally(["refresh", "--json", &address(n)])
        .node(chain.url())
        .database(&database)
        .run()
        .expect(0);
    let greatest = alloy::primitives::U256::MAX.to_string();
    assert_eq!(ran.json()["wallets"][0]["total"], greatest);
    assert_eq!(stored(&database).await[&address(n)], greatest);
}

#[tokio::test(flavor = "multi_thread")]
async fn not_one_readable_is_an_error() {
    let chain = faulty_chain((0..3).map(|n| (n, Fault::Revert))).await;
    let database = Database::sqlite();
    let ran = refresh(3, &[]).node(chain.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("not one of 3 wallets could be read"), "{}", ran.error());
    assert!(ran.error().contains("balanceOf failed"), "{}", ran.error());
    assert_eq!(ran.json()["failed"], 3);
    assert!(stored(&database).await.is_empty());
    assert_eq!(failures(&database).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_makes_one_unreadable_wallet_exit_1() {
    let chain = faulty_chain([(1, Fault::Revert)]).await;
    let database = Database::sqlite();
    let ran = refresh(3, &["--strict"]).node(chain.url()).database(&database).run().expect(1);
    assert!(!ran.stderr.contains("error:"), "{ran:?}");
    assert_eq!(stored(&database).await, totals_without(3, &[1]));
    assert_eq!(failures(&database).await.len(), 1);

    chain.set_fault(wallet(1), Fault::None).await.unwrap();
    refresh(3, &["--strict"]).node(chain.url()).database(&database).run().expect(0);
    assert_eq!(stored(&database).await, totals_without(3, &[]));
    assert!(failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_total_outlives_a_failed_read() {
    let chain = faulty_chain([]).await;
    let database = Database::sqlite();
    refresh(3, &[]).node(chain.url()).database(&database).run().expect(0);
    let rows =
        "select wallet, balance, read_block, updated_at from eth_wallet_balances order by wallet";
    let before = database.sql(rows).await;
    for n in 0..3 {
        chain.set_fault(wallet(n), Fault::Return0).await.unwrap();
    }
    refresh(3, &[]).node(chain.url()).database(&database).run().expect(2);
    assert_eq!(database.sql(rows).await, before);
    assert_eq!(failures(&database).await.len(), 3);
}

async fn unreadable_wallets_at_the_head_of_the_queue_hold_nothing_up(database: Database) {
    let unreadable: Vec<_> = (0..20).collect();
    let chain = faulty_chain(unreadable.iter().map(|n| (*n, Fault::Revert))).await;
    let csv: String = (0..60).map(|n| address(n) + "\n").collect();
    ethtally(["backfill", "--from-csv", "-", "--placeholders"])
        .input(csv)
        .database(&database)
        .run()
        .expect(0);
    let oldest: Vec<_> = unreadable.iter().map(|n| format!("'{}'", address(*n))).collect();
    database
        .sql(&format!(
            "update eth_wallet_balances set updated_at = '1969-01-01 00:00:00' where wallet in ({})",
            oldest.join(", ")
        ))
        .await;

    // Two runs meet nothing but them, which is an error; four do the rest.
    let statuses = [2, 2, 0, 0, 0, 0];
    for status in statuses {
        let ran = ethtally(["sweep", "--json", "--batch", "10"])
            .node(chain.url())
            .database(&database)
            .run()
            .expect(status);
        assert_eq!(ran.json()["requested"], 10);
    }
    let swept = "select wallet, balance from eth_wallet_balances where read_block is not null";
    assert_eq!(pairs(&database, swept).await, totals_without(60, &unreadable));
    let failed: BTreeSet<_> = failures(&database).await.into_keys().collect();
    assert_eq!(failed, unreadable.iter().map(|n| address(*n)).collect());
}

async fn a_wallet_that_never_had_a_row_is_swept_when_it_is_due(database: Database) {
    let chain = faulty_chain([(1, Fault::Revert)]).await;
    refresh(2, &[]).node(chain.url()).database(&database).run().expect(0);
    assert_eq!(stored(&database).await, totals_without(2, &[1]));
    chain.set_fault(wallet(1), Fault::None).await.unwrap();

    let sweep = |options: &[&'static str]| {
        let ran = ethtally(["sweep", "--json"].into_iter().chain(options.iter().copied()));
        ran.node(chain.url()).database(&database).run().expect(0).json()
    };
    assert_eq!(sweep(&["--all"])["requested"], 1, "not before its time");
    database.sql("update eth_wallet_read_failures set next_try_at = '2001-01-01 00:00:00'").await;
    assert_eq!(sweep(&["--all", "--dry-run"])["wallets"], 2);
    assert_eq!(sweep(&["--batch", "1"])["requested"], 1);
    assert_eq!(stored(&database).await, totals_without(2, &[]));
    assert!(failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_for_everybody_is_no_wallets_fault() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::sqlite();
    let profile = database.folder().join("profile.toml");
    let audius = ethtally(["profile"]).run().expect(0).stdout;
    let broken = audius.replace("totalStakedFor(address)", "totalStaked(address)");
    std::fs::write(&profile, broken).unwrap();

    let ran = refresh(200, &["--profile", profile.to_str().unwrap()]);
    let ran = ran.node(chain.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("not even one that holds nothing: totalStaked"), "{ran:?}");
    assert!(ran.error().contains("check the profile"), "{ran:?}");
    assert_eq!(ran.json()["calls"], 2, "one for the wallets, one to see who is at fault");
    assert!(stored(&database).await.is_empty());
    assert!(failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_a_gateway_cuts_off_each_time_costs_only_itself() {
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let database = Database::sqlite();
    stub.fault(NodeFault::status(504), When::method("eth_call").mentioning(&address(5)));
    let ran = refresh(20, &["--retries", "1"]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(ran.json()["failed"], 1);
    assert_eq!(stored(&database).await, totals_without(20, &[5]));
    assert!(failures(&database).await[&address(5)].contains("504"));
}

async fn a_wallet_that_recovers_is_stored_and_its_failure_forgotten(database: Database) {
    let chain = faulty_chain([(1, Fault::Return31)]).await;
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    refresh(3, &[]).node(stub.url()).database(&database).run().expect(0);
    let csv = address(1);
    ethtally(["backfill", "--from-csv", "-", "--placeholders"])
        .input(csv)
        .database(&database)
        .run()
        .expect(0);
    let sweep = || {
        let ran = ethtally(["sweep", "--json", "--all"])
            .node(stub.url())
            .database(&database)
            .run()
            .expect(0);
        (ran.json()["requested"].clone(), ran.json()["updated"].clone())
    };
    let asked_for = |n: u64| {
        let calls = stub.requests().into_iter().filter(|seen| seen.method == "eth_call");
        calls.filter(|seen| seen.params.to_string().contains(&address(n)[2..])).count()
    };
    let due = |due: bool| {
        let time = if due { "2001-01-01 00:00:00" } else { "2999-01-01 00:00:00" };
        format!("update eth_wallet_read_failures set next_try_at = '{time}'")
    };
    chain.set_fault(wallet(1), Fault::None).await.unwrap();

    // Not before its time.
    stub.forget();
    assert_eq!(sweep(), (Value::from(2), Value::from(2)));
    assert_eq!((asked_for(0), asked_for(1)), (1, 0));
    database.sql(&due(false)).await;
    assert_eq!(sweep(), (Value::from(2), Value::from(2)));
    assert_eq!(failures(&database).await.len(), 1);

    database.sql(&due(true)).await;
    stub.forget();
    assert_eq!(sweep(), (Value::from(3), Value::from(3)));
    assert_eq!(asked_for(1), 1);
    assert_eq!(stored(&database).await, totals_without(3, &[]));
    assert!(failures(&database).await.is_empty());
}

async fn the_time_until_the_next_try_doubles_to_a_day(database: Database) {
    let chain = faulty_chain([(1, Fault::Revert)]).await;
    let seconds = match database.is_sqlite() {
        true => "round((julianday(next_try_at) - julianday(last_failed_at)) * 86400)",
        false => "extract(epoch from next_try_at - last_failed_at)",
    };
    let pause = format!(
        "select failures, cast({seconds} as bigint) / 60 as minutes from eth_wallet_read_failures"
    );
    for (failures, minutes) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
        refresh(3, &[]).node(chain.url()).database(&database).run().expect(0);
        assert_eq!(database.sql(&pause).await, [format!("{failures}|{minutes}")]);
    }
    for failures in [11, 40, 3_000] {
        database.sql(&format!("update eth_wallet_read_failures set failures = {failures}")).await;
        refresh(3, &[]).node(chain.url()).database(&database).run().expect(0);
        assert_eq!(database.sql(&pause).await, [format!("{}|1440", failures + 1)]);
    }
}
