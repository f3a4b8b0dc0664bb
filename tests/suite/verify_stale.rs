//! `verify` and a node that is behind the rows: they are neither compared nor fixed.

use std::time::Duration;

use alloy::primitives::U256;
use ethtally_testbed::{
    stub::{Fault, When},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::{asks_for_newest, chain_and_stub, newest_is},
    database::{Database, on_both_databases},
    program::{ethtally, eventually},
    table::dump,
    verify::{Sample, read, set_balance, verify},
    wallets::address,
};

on_both_databases! {
    a_row_that_is_newer_than_the_node_is_not_compared_nor_fixed
    a_fix_that_comes_too_late_is_not_one
}

async fn a_row_that_is_newer_than_the_node_is_not_compared_nor_fixed(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    read(&database, &chain.url(), 0..3).await;
    for n in 3..6 {
        chain.mint(wallet(n), U256::from(5)).await.unwrap();
    }
    read(&database, &chain.url(), 3..6).await;
    let before = dump(&database).await;
    stub.fault(Fault::Lagging(3), When::always());

    let why = "the node's newest block 0 is older than the read at block 3";
    for fix in [&[][..], &["--fix"]] {
        let ran = verify(&database, &stub.url(), &[&["--json", "--sample", "9"], fix].concat());
        let ran = ran.expect(3);
        let mut expected = Sample { in_sync: 3, unchecked: 3, ..Sample::default() }.json(&[]);
        let mut seen = verify(&database, &stub.url(), &[&["--json", &address(3)], fix].concat());
        if !fix.is_empty() {
            expected["fixed"] = json!(0);
            assert_eq!(seen.json()["fixed"], false);
        }
        assert_eq!(ran.json(), expected);
        assert!(
            ran.error().contains(&format!("3 of 6 rows cannot be compared (stale_node): {why}"))
        );
        seen = seen.expect(3);
        assert_eq!(
            (&seen.json()["in_sync"], &seen.json()["stale_node"]),
            (&Value::Null, &json!(true))
        );
        assert_eq!(seen.json()["chain_total"], Value::Null);
        assert!(seen.error().contains(why), "{seen:?}");
        let text = verify(&database, &stub.url(), &[&[address(3).as_str()], fix].concat());
        let text = text.expect(3).stdout;
        assert!(text.contains(&format!("\nstale_node: {why}\nnot compared")), "{text}");
        assert_eq!(dump(&database).await, before);
    }
    // A mistake of the user's.
    let ran = verify(&database, &chain.url(), &["--json", "--block=2", &address(3)]).expect(2);
    assert_eq!(ran.own(), "");
    assert!(
        ran.error().contains("--block 2 is older than the read at block 3; give a newer"),
        "{ran:?}"
    );
    let ran = verify(&database, &chain.url(), &["--json", "--block=2", "--sample=9"]).expect(2);
    assert_eq!(ran.json()["unchecked"], 3);
    assert!(ran.error().contains("3 of 6 rows cannot be compared: --block 2"), "{ran:?}");
    let ran = verify(&database, &chain.url(), &["--block=finalized", &address(3)]).expect(2);
    assert!(ran.error().contains("--block finalized is block 0, which is older"), "{ran:?}");

    // A node that is a moment behind gets another chance.
    stub.clear();
    let behind = newest_is(&chain, 0).await;
    // What the endpoint is checked by is what is read at.
    stub.script([behind.clone()], asks_for_newest());
    verify(&database, &stub.url(), &[&address(3)]).expect(0);
    stub.script([behind], asks_for_newest());
    verify(&database, &stub.url(), &["--sample", "9"]).expect(0);
}

async fn a_fix_that_comes_too_late_is_not_one(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    read(&database, &chain.url(), 0..2).await;
    chain.mint(wallet(1), U256::from(5)).await.unwrap();
    stub.fault(newest_is(&chain, 1).await, asks_for_newest());
    stub.fault(Fault::Delay(Duration::from_secs(3)), When::eth_call().times(1));
    for arguments in [vec!["--sample=2".to_owned()], vec![address(1)]] {
        chain.mint(wallet(1), U256::from(5)).await.unwrap();
        let arguments = arguments.iter().map(String::as_str);
        let arguments: Vec<_> = ["verify", "--fix"].into_iter().chain(arguments).collect();
        set_balance(&database, 1, "1").await;
        database.sql("update eth_wallet_balances set read_block = 0").await;
        stub.forget();
        stub.clear();
        stub.fault(newest_is(&chain, 1).await, asks_for_newest());
        stub.fault(Fault::Delay(Duration::from_secs(3)), When::eth_call().times(1));
        let running = ethtally(arguments).node(stub.url()).database(&database).start();
        eventually("it reads", || stub.count("eth_call") > 0);
        ethtally(["refresh", &address(1)]).node(chain.url()).database(&database).run().expect(0);
        let after = dump(&database).await;
        let ran = running.wait().expect(1);
        assert!(
            ran.stdout.contains(" fixed:0") || ran.stdout.ends_with("drifted; not fixed\n"),
            "{ran:?}"
        );
        assert!(
            ran.stderr.contains("is not fixed: the table holds a newer read by now"),
            "{ran:?}"
        );
        assert_eq!(dump(&database).await, after);
    }
}
