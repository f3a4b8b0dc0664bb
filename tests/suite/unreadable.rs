//! Unreadable wallets: only they fail, and they do not block others.

use std::collections::{BTreeMap, BTreeSet};

use ethtally_testbed::{
    Chain, TokenFault,
    genesis::holdings,
    stub::{Fault, When},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::{chain_and_stub, faulty_chain, stub_of},
    database::{Database, on_both_databases},
    program::{Output, ethtally, refresh_first, sweep, sweep_all},
    table::{read_failures, read_totals, store_unread, stored_totals},
    wallets::{address, genesis_totals},
};

on_both_databases! {
    unreadable_wallets_at_the_head_of_the_queue_do_not_block_others
    a_wallet_that_recovers_is_stored_and_its_failure_deleted
    an_unreadable_wallet_without_a_row_is_swept_when_due
    the_delay_until_the_next_attempt_doubles_up_to_a_day
}

/// Asserts that of two hundred wallets only these fail, each for this reason, and all others are stored.
async fn assert_only_they_fail(faults: &[(u64, TokenFault, &str)], options: &[&str]) -> Output {
    let chain = faulty_chain(faults.iter().map(|(n, fault, _)| (*n, *fault))).await;
    let database = Database::sqlite();
    let ran = refresh_first(200, options).node(chain.url()).database(&database).run().expect(0);

    let said = ran.json();
    let failed: Vec<_> = faults.iter().map(|(n, ..)| *n).collect();
    assert_eq!(said["failed"], failed.len());
    assert_eq!(said["updated"], 200 - failed.len());
    for (n, ..) in faults {
        let expected = json!({"wallet": address(*n), "total": null, "read_block": null});
        assert_eq!(said["wallets"][*n as usize], expected);
    }
    assert_eq!(
        stored_totals(&database).await,
        genesis_totals((0..200).filter(|n| !failed.contains(n)))
    );
    let reasons: BTreeMap<_, _> =
        faults.iter().map(|(n, _, reason)| (address(*n), (*reason).to_owned())).collect();
    assert_eq!(read_failures(&database).await, reasons);
    let counts = "select distinct failures from eth_wallet_read_failures";
    assert_eq!(database.value(counts).await, "1");
    ran
}

macro_rules! only_it_fails {
    ($($name:ident: $n:literal, $fault:ident, $reason:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            assert_only_they_fail(&[($n, TokenFault::$fault, $reason)], &[]).await;
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
    // A service provider, which has a stake to add.
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
    let burners = [0, 77, 150].map(|n| (n, TokenFault::BurnGas, "balanceOf failed"));
    let ran = assert_only_they_fail(&burners, &[]).await;
    // About two calls per halving, not one per wallet.
    assert!(ran.json()["calls"].as_u64().unwrap() < 60, "{}", ran.json()["calls"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_all_kinds_fail_alone_in_small_chunks() {
    let faults = [
        (3, TokenFault::ReturnMax, "the sum of the parts does not fit a uint256"),
        (4, TokenFault::BurnGas, "balanceOf failed"),
        (5, TokenFault::Revert, "balanceOf failed"),
        (6, TokenFault::Return0, "balanceOf returned nothing"),
        (199, TokenFault::Return64, "balanceOf returned 64 bytes, not 32"),
    ];
    assert_only_they_fail(&faults, &["--chunk", "9"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_chunk_does_not_affect_the_others() {
    let faults: Vec<_> = (10..20).map(|n| (n, TokenFault::Revert, "balanceOf failed")).collect();
    assert_only_they_fail(&faults, &["--chunk", "10"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_wallets_are_read_alone_before_they_count_as_unreadable() {
    use alloy::{
        providers::bindings::IMulticall3::{Result as Returned, aggregate3Call},
        sol_types::SolCall,
    };
    let (_chain, stub) = chain_and_stub().await;
    // The result of a chunk after a sub-call that burnt nearly all gas.
    let starved = Returned { success: false, returnData: vec![].into() };
    let word = Returned { success: true, returnData: vec![7; 32].into() };
    let in_front = [0_u64, 1].map(|number| Returned {
        success: true,
        returnData: alloy::primitives::U256::from(number).to_be_bytes_vec().into(),
    });
    let parts = (0..12).map(|n| if n == 0 { &word } else { &starved }.clone());
    let returned: Vec<_> = in_front.into_iter().chain(parts).collect();
    let answer = alloy::primitives::Bytes::from(aggregate3Call::abi_encode_returns(&returned));
    stub.script([Fault::Answer(json!(answer))], When::eth_call());
    let database = Database::sqlite();
    let ran = refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(ran.json()["failed"], 0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
    assert!(read_failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_uint256_is_a_valid_total() {
    // Without stake or delegation the sum does not overflow.
    let (n, _) = (10..)
        .zip(holdings(1_000).skip(10))
        .find(|(_, holding)| holding.staked.is_zero() && holding.delegated.is_zero())
        .unwrap();
    let chain = faulty_chain([(n, TokenFault::ReturnMax)]).await;
    let database = Database::sqlite();
    let ran = ethtally(["refresh", "--json", &address(n)])
        .node(chain.url())
        .database(&database)
        .run()
        .expect(0);
    let greatest = alloy::primitives::U256::MAX.to_string();
    assert_eq!(ran.json()["wallets"][0]["total"], greatest);
    assert_eq!(stored_totals(&database).await[&address(n)], greatest);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_readable_wallet_is_an_error() {
    let chain = faulty_chain((0..3).map(|n| (n, TokenFault::Revert))).await;
    let database = Database::sqlite();
    let ran = refresh_first(3, &[]).node(chain.url()).database(&database).run().expect(3);
    assert!(ran.error().contains("not one of 3 wallets could be read"), "{}", ran.error());
    assert!(ran.error().contains("balanceOf failed"), "{}", ran.error());
    assert_eq!(ran.json()["failed"], 3);
    assert!(stored_totals(&database).await.is_empty());
    assert_eq!(read_failures(&database).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_makes_one_unreadable_wallet_exit_1() {
    let chain = faulty_chain([(1, TokenFault::Revert)]).await;
    let database = Database::sqlite();
    let ran = refresh_first(3, &["--strict"]).node(chain.url()).database(&database).run().expect(1);
    assert!(!ran.stderr.contains("error:"), "{ran:?}");
    assert_eq!(stored_totals(&database).await, genesis_totals((0..3).filter(|n| *n != 1)));
    assert_eq!(read_failures(&database).await.len(), 1);

    chain.set_fault(wallet(1), TokenFault::None).await.unwrap();
    refresh_first(3, &["--strict"]).node(chain.url()).database(&database).run().expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..3));
    assert!(read_failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_read_keeps_the_stored_total() {
    let chain = faulty_chain([]).await;
    let database = Database::sqlite();
    refresh_first(3, &[]).node(chain.url()).database(&database).run().expect(0);
    let rows =
        "select wallet, balance, read_block, updated_at from eth_wallet_balances order by wallet";
    let before = database.sql(rows).await;
    for n in 0..3 {
        chain.set_fault(wallet(n), TokenFault::Return0).await.unwrap();
    }
    refresh_first(3, &[]).node(chain.url()).database(&database).run().expect(3);
    assert_eq!(database.sql(rows).await, before);
    assert_eq!(read_failures(&database).await.len(), 3);
}

async fn unreadable_wallets_at_the_head_of_the_queue_do_not_block_others(database: Database) {
    let unreadable: Vec<_> = (0..20).collect();
    let chain = faulty_chain(unreadable.iter().map(|n| (*n, TokenFault::Revert))).await;
    store_unread(&database, 0..60);
    let oldest: Vec<_> = unreadable.iter().map(|n| format!("'{}'", address(*n))).collect();
    database
        .sql(&format!(
            "update eth_wallet_balances set updated_at = '1969-01-01 00:00:00' where wallet in ({})",
            oldest.join(", ")
        ))
        .await;

    // Two runs read only unreadable wallets, which is an error; four read the rest.
    let statuses = [3, 3, 0, 0, 0, 0];
    for status in statuses {
        let ran = sweep(&database, &chain.url(), &["--batch", "10"]).run().expect(status);
        assert_eq!(ran.json()["requested"], 10);
    }
    assert_eq!(
        read_totals(&database).await,
        genesis_totals((0..60).filter(|n| !unreadable.contains(n)))
    );
    let failed: BTreeSet<_> = read_failures(&database).await.into_keys().collect();
    assert_eq!(failed, unreadable.iter().map(|n| address(*n)).collect());
}

async fn an_unreadable_wallet_without_a_row_is_swept_when_due(database: Database) {
    let chain = faulty_chain([(1, TokenFault::Revert)]).await;
    refresh_first(2, &[]).node(chain.url()).database(&database).run().expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals((0..2).filter(|n| *n != 1)));
    chain.set_fault(wallet(1), TokenFault::None).await.unwrap();

    let swept = |options: &[&str]| sweep(&database, &chain.url(), options).run().expect(0).json();
    assert_eq!(swept(&["--all"])["requested"], 1, "not before it is due");
    database.sql("update eth_wallet_read_failures set next_try_at = '2001-01-01 00:00:00'").await;
    assert_eq!(swept(&["--all", "--dry-run"])["wallets"], 2);
    assert_eq!(swept(&["--batch", "1"])["requested"], 1);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..2));
    assert!(read_failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_fails_for_all_wallets_is_not_blamed_on_wallets() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::sqlite();
    let profile = database.folder().join("profile.toml");
    let audius = ethtally(["profile"]).run().expect(0).stdout;
    let broken = audius.replace("totalStakedFor(address)", "totalStaked(address)");
    std::fs::write(&profile, broken).unwrap();

    let ran = refresh_first(200, &["--profile", profile.to_str().unwrap()]);
    let ran = ran.node(chain.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("not even one that holds nothing: totalStaked"), "{ran:?}");
    assert!(ran.error().contains("check the profile"), "{ran:?}");
    assert_eq!(ran.json()["calls"], 3, "one for the wallets, two for the canary");
    assert!(stored_totals(&database).await.is_empty());
    assert!(read_failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_always_times_out_at_a_gateway_fails_alone() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::status(504), When::eth_call().mentioning(&address(5)));
    let ran =
        refresh_first(20, &["--retries", "1"]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(ran.json()["failed"], 1);
    assert_eq!(stored_totals(&database).await, genesis_totals((0..20).filter(|n| *n != 5)));
    assert!(read_failures(&database).await[&address(5)].contains("504"));
}

async fn a_wallet_that_recovers_is_stored_and_its_failure_deleted(database: Database) {
    let chain = faulty_chain([(1, TokenFault::Return31)]).await;
    let stub = stub_of(&chain);
    refresh_first(3, &[]).node(stub.url()).database(&database).run().expect(0);
    store_unread(&database, [1]);
    let swept = || {
        let ran = sweep_all(&database, &stub.url(), &[]).run().expect(0);
        (ran.json()["requested"].clone(), ran.json()["updated"].clone())
    };
    let asked_for = |n: u64| {
        stub.eth_calls()
            .into_iter()
            .filter(|seen| seen.params.to_string().contains(&address(n)[2..]))
            .count()
    };
    let due = |due: bool| {
        let time = if due { "2001-01-01 00:00:00" } else { "2999-01-01 00:00:00" };
        format!("update eth_wallet_read_failures set next_try_at = '{time}'")
    };
    chain.set_fault(wallet(1), TokenFault::None).await.unwrap();

    // Not before it is due.
    stub.forget();
    assert_eq!(swept(), (Value::from(2), Value::from(2)));
    assert_eq!((asked_for(0), asked_for(1)), (1, 0));
    database.sql(&due(false)).await;
    assert_eq!(swept(), (Value::from(2), Value::from(2)));
    assert_eq!(read_failures(&database).await.len(), 1);

    database.sql(&due(true)).await;
    stub.forget();
    assert_eq!(swept(), (Value::from(3), Value::from(3)));
    assert_eq!(asked_for(1), 1);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..3));
    assert!(read_failures(&database).await.is_empty());
}

async fn the_delay_until_the_next_attempt_doubles_up_to_a_day(database: Database) {
    let chain = faulty_chain([(1, TokenFault::Revert)]).await;
    let seconds = match database.is_sqlite() {
        true => "round((julianday(next_try_at) - julianday(last_failed_at)) * 86400)",
        false => "extract(epoch from next_try_at - last_failed_at)",
    };
    let pause = format!(
        "select failures, cast({seconds} as bigint) / 60 as minutes from eth_wallet_read_failures"
    );
    for (failures, minutes) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
        refresh_first(3, &[]).node(chain.url()).database(&database).run().expect(0);
        assert_eq!(database.sql(&pause).await, [format!("{failures}|{minutes}")]);
    }
    for failures in [11, 40, 3_000] {
        database.sql(&format!("update eth_wallet_read_failures set failures = {failures}")).await;
        refresh_first(3, &[]).node(chain.url()).database(&database).run().expect(0);
        assert_eq!(database.sql(&pause).await, [format!("{}|1440", failures + 1)]);
    }
}
