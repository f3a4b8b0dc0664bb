//! `verify`: compares stored totals with the chain, which it reads in two ways.

use alloy::{
    primitives::{Address, U256, hex},
    providers::bindings::IMulticall3::{Result as CallResult, aggregate3Call},
    sol_types::SolCall,
};
use ethtally_testbed::{
    Chain, Holding, TokenFault,
    contracts::{AUDIO, DELEGATE_MANAGER, MULTICALL3, STAKING},
    holding,
    stub::{Fault, When},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::{asks_for_newest, chain_and_stub, newest_is, still_chain, stub_of},
    database::{Database, on_both_databases},
    requests::decoded_eth_calls,
    table::{date_rows, dump, store_unread},
    verify::{Sample, read, set_balance, verify},
    wallets::{address, addresses},
};

on_both_databases! {
    a_row_that_matches_the_chain_is_in_sync
    a_drifted_row_is_reported_and_fixed_on_request
    a_wallet_without_a_row_is_not_in_sync
    a_sample_counts_drifted_rows
    a_sample_may_be_larger_than_the_table
    a_wrong_multicall_result_is_detected_and_not_stored
}

async fn a_row_that_matches_the_chain_is_in_sync(database: Database) {
    let chain = still_chain().await;
    // The wallet with the most non-zero parts.
    let places = |n| {
        let Holding { balance, staked, delegated } = holding(n);
        [balance, staked, delegated].iter().filter(|part| !part.is_zero()).count()
    };
    let n = (0..1000).max_by_key(|n| places(*n)).unwrap();
    assert!(places(n) >= 2);
    let held = chain.holding_at(wallet(n), 0).await.unwrap();
    read(&database, &chain.url(), [n]).await;
    date_rows(&database, &[(n, "2026-01-02 03:04:05")]).await;
    database.sql("update eth_wallet_balances set blocknumber = 17").await;
    let before = dump(&database).await;

    let ran = verify(&database, &chain.url(), &["--json", &address(n)]).expect(0);

    let total = held.total();
    assert_eq!(
        ran.own(),
        format!(
            "{{\"command\":\"verify\",\"wallet\":\"{}\",\"block\":0,\
             \"parts\":{{\"balanceOf\":\"{}\",\"totalStakedFor\":\"{}\",\"getTotalDelegatorStake\":\"{}\"}},\
             \"chain_total\":\"{total}\",\"batched_total\":\"{total}\",\"stored_total\":\"{total}\",\
             \"stored_read_block\":0,\"stored_blocknumber\":17,\"updated_at\":\"2026-01-02T03:04:05Z\",\
             \"in_sync\":true}}\n",
            address(n),
            held.balance,
            held.staked,
            held.delegated
        )
    );
    assert_eq!(ran.stderr, "");
    let text = verify(&database, &chain.url(), &[&address(n)]).expect(0).stdout;
    assert!(text.starts_with(&format!("{} at block 0\n", address(n))), "{text}");
    assert!(text.ends_with("\nin sync\n"), "{text}");
    assert_eq!(text.matches(&format!("({total} wei)")).count(), 3, "{text}");
    assert_eq!(dump(&database).await, before, "verify changes nothing");
}

async fn a_drifted_row_is_reported_and_fixed_on_request(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let url = chain.url();
    read(&database, &url, [0, 1]).await;
    let before = chain.total(wallet(1)).await.unwrap();
    chain.mint(wallet(1), U256::from(5)).await.unwrap();
    let after = (before + U256::from(5)).to_string();
    let stored = dump(&database).await;

    let seen = verify(&database, &url, &["--json", &address(1)]).expect(1).json();
    assert_eq!(seen["in_sync"], false);
    assert_eq!(seen["stored_total"], before.to_string());
    assert_eq!(seen["stored_read_block"], 0);
    assert_eq!((&seen["chain_total"], &seen["batched_total"]), (&json!(after), &json!(after)));
    assert_eq!((&seen["block"], &seen["drift"]), (&json!(1), &json!("moved")));
    let text = verify(&database, &url, &[&address(1)]).expect(1).stdout;
    assert!(text.ends_with("\ndrifted\n"), "{text}");
    assert!(text.contains("\nmoved: the stored total was right at block 0; "), "{text}");
    verify(&database, &url, &["--ignore-moved", &address(1)]).expect(0);
    assert_eq!(dump(&database).await, stored, "nothing is stored without --fix");

    let seen = verify(&database, &url, &["--json", "--fix", &address(1)]).expect(1).json();
    assert_eq!((&seen["in_sync"], &seen["fixed"]), (&json!(false), &json!(true)));
    let row = format!(
        "select balance, read_block from eth_wallet_balances where wallet = '{}'",
        address(1)
    );
    assert_eq!(database.value(&row).await, format!("{after}|1"));
    let seen = verify(&database, &url, &["--json", "--fix", &address(1)]).expect(0).json();
    assert_eq!((&seen["in_sync"], &seen["fixed"]), (&json!(true), &json!(false)));
    let other = address(0);
    let row = |rows: &[String]| rows.iter().find(|row| row.starts_with(&other)).cloned();
    assert_eq!(row(&dump(&database).await), row(&stored), "the other row does not change");
}

async fn a_wallet_without_a_row_is_not_in_sync(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..1);
    for n in [2, 123_456] {
        let seen = verify(&database, &chain.url(), &["--json", &address(n)]).expect(1).json();
        assert_eq!(seen["chain_total"], chain.total(wallet(n)).await.unwrap().to_string());
        for name in ["stored_total", "stored_read_block", "stored_blocknumber", "updated_at"] {
            assert_eq!(seen[name], Value::Null, "{name}");
        }
        assert_eq!((&seen["in_sync"], &seen["drift"]), (&json!(false), &Value::Null));
    }
    let text = verify(&database, &chain.url(), &["--ignore-moved", &address(2)]).expect(1).stdout;
    assert!(
        text.contains("stored total") && text.ends_with("\nnot in the table; refresh adds it\n"),
        "{text}"
    );
    assert_eq!(dump(&database).await.len(), 1);

    verify(&database, &chain.url(), &["--fix", &address(2)]).expect(1);
    verify(&database, &chain.url(), &[&address(2)]).expect(0);
}

async fn a_sample_counts_drifted_rows(database: Database) {
    let url = still_chain().await.url();
    read(&database, &url, 0..30).await;
    let before = dump(&database).await;
    let all = verify(&database, &url, &["--sample", "30", "--json"]).expect(0);
    assert_eq!(
        all.own(),
        "{\"command\":\"verify\",\"sampled\":30,\"in_sync\":30,\"drifted\":0,\"moved\":0,\"wrong\":0,\
         \"unreadable\":0,\"unchecked\":0,\"drifted_wallets\":[]}\n"
    );
    for n in [3, 5] {
        set_balance(&database, n, "1").await;
    }
    let changed = dump(&database).await;

    let all = verify(&database, &url, &["--sample", "30", "--json"]).expect(1);
    let drifted: Vec<_> = addresses([3, 5]).into_iter().collect();
    let expected = Sample { in_sync: 28, wrong: 2, ..Sample::default() };
    assert_eq!(all.json(), expected.json(&drifted));
    let text = verify(&database, &url, &["--sample", "30", "--ignore-moved"]).expect(1).stdout;
    assert_eq!(
        text,
        format!(
            "verify complete sampled:30 in_sync:28 drifted:2 moved:0 wrong:2 unreadable:0 unchecked:0\n\
             {} wrong\n{} wrong\n",
            drifted[0], drifted[1]
        )
    );
    assert_eq!(dump(&database).await, changed);

    let fixed = verify(&database, &url, &["--sample", "30", "--json", "--fix"]).expect(1).json();
    assert_eq!((&fixed["drifted"], &fixed["fixed"]), (&json!(2), &json!(2)));
    verify(&database, &url, &["--sample", "30"]).expect(0);
    let balances = |rows: Vec<String>| -> Vec<String> {
        rows.iter().map(|row| row.split('|').take(2).collect::<Vec<_>>().join("|")).collect()
    };
    assert_eq!(balances(dump(&database).await), balances(before));
}

async fn a_sample_may_be_larger_than_the_table(database: Database) {
    let url = still_chain().await.url();
    read(&database, &url, []).await;
    let empty = verify(&database, &url, &["--sample", "5", "--json"]).expect(1).json();
    assert_eq!(empty, Sample::default().json(&[]));
    let sample = |n| verify(&database, &url, &["--sample", n, "--json"]).expect(0).json();
    read(&database, &url, 0..7).await;
    for (n, sampled) in [("1", 1), ("4", 4), ("7", 7), ("1000", 7)] {
        assert_eq!(sample(n)["sampled"], sampled, "{n}");
        assert_eq!(sample(n)["in_sync"], sampled, "{n}");
    }
}

async fn a_wrong_multicall_result_is_detected_and_not_stored(database: Database) {
    let chain = still_chain().await;
    let stub = stub_of(chain);
    read(&database, &chain.url(), [1]).await;
    let before = dump(&database).await;
    let held = chain.holding_at(wallet(1), 0).await.unwrap();
    let parts = [held.balance + U256::from(1), held.staked, held.delegated];
    let in_front = [U256::from(0), U256::from(1)];
    let lie: Vec<_> = in_front
        .iter()
        .chain(&parts)
        .map(|part| CallResult { success: true, returnData: part.to_be_bytes_vec().into() })
        .collect();
    let lie = hex::encode_prefixed(aggregate3Call::abi_encode_returns(&lie));
    let through_multicall = |request: &Value| {
        let to = request["params"][0]["to"].as_str().unwrap_or_default();
        to.parse() == Ok(MULTICALL3)
    };
    let when = When::eth_call().matching(through_multicall);
    stub.fault(Fault::Answer(json!(lie)), when);
    let truth = held.total();

    for arguments in [&["--json"][..], &["--json", "--fix"]] {
        let wallet = address(1);
        let arguments = [arguments, &[wallet.as_str()]].concat();
        let seen = verify(&database, &stub.url(), &arguments).expect(1).json();
        assert_eq!(seen["chain_total"], truth.to_string());
        assert_eq!(seen["batched_total"], (truth + U256::from(1)).to_string());
        assert_eq!(seen["stored_total"], truth.to_string());
        assert_eq!((&seen["in_sync"], &seen["drift"]), (&json!(false), &json!("wrong")));
        assert_ne!(seen["fixed"], true);
        assert_eq!(dump(&database).await, before);
    }
    // Nor if the row matches the wrong result.
    set_balance(&database, 1, &(truth + U256::from(1)).to_string()).await;
    let before = dump(&database).await;
    for arguments in [&["--json", "--sample", "9"][..], &["--json", "--sample", "9", "--fix"]] {
        let seen = verify(&database, &stub.url(), arguments).expect(1).json();
        assert_eq!(seen["drifted_wallets"], json!([address(1)]));
        assert_eq!(dump(&database).await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_is_read_by_its_own_call_at_the_same_block() {
    let (chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    read(&database, &chain.url(), 0..3).await;
    chain.mine(4).await.unwrap();
    // Asking for the block again would return another one.
    stub.fault(newest_is(&chain, 3).await, asks_for_newest().after(2));

    let parts = [AUDIO, STAKING, DELEGATE_MANAGER];
    for (arguments, wallets) in [(vec![address(1)], 1), (vec!["--sample=3".into()], 3)] {
        stub.forget();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        verify(&database, &stub.url(), &arguments).expect(0);
        let calls = decoded_eth_calls(&stub);
        let count = |to: Address| calls.iter().filter(|call| call.to == to).count();
        assert_eq!(count(MULTICALL3), 1);
        assert_eq!(parts.map(count), [wallets; 3]);
        assert_eq!(calls.len(), 1 + 3 * wallets);
        assert!(calls.iter().all(|call| call.block == calls[0].block));
    }
    let ran = verify(&database, &chain.url(), &["--json", "--block", "2", &address(1)]).expect(0);
    assert_eq!(ran.json()["block"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_wallet_is_an_error_and_is_counted_in_a_sample() {
    let chain = Chain::builder().faulty().start().await.unwrap();
    let url = chain.url();
    let database = Database::sqlite();
    read(&database, &url, 0..4).await;
    chain.set_fault(wallet(2), TokenFault::Return31).await.unwrap();
    let before = dump(&database).await;

    let ran = verify(&database, &url, &["--json", "--fix", &address(2)]).expect(3);
    assert_eq!(ran.own(), "");
    assert_eq!(
        ran.error(),
        format!(
            "error: wallet {} could not be read: balanceOf returned 31 bytes, not 32",
            address(2)
        )
    );

    let ran = verify(&database, &url, &["--json", "--sample", "4"]).expect(0);
    let expected = Sample { in_sync: 3, unreadable: 1, ..Sample::default() };
    assert_eq!(ran.json(), expected.json(&[]));
    assert!(ran.stderr.contains(&address(2)), "{ran:?}");
    verify(&database, &url, &["--sample", "4", "--strict"]).expect(1);

    for n in [0, 1, 3] {
        chain.set_fault(wallet(n), TokenFault::Revert).await.unwrap();
    }
    let ran = verify(&database, &url, &["--json", "--sample", "4"]).expect(3);
    assert_eq!(ran.json()["unreadable"], 4);
    assert!(ran.error().contains("not one of 4 wallets could be read"), "{ran:?}");
    assert_eq!(dump(&database).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_without_tables_is_an_error_and_creates_none() {
    let url = still_chain().await.url();
    let database = Database::sqlite();
    let wallet = address(0);
    for arguments in [["--sample", "1"], ["--json", &wallet]] {
        let ran = verify(&database, &url, &arguments).expect(2);
        assert!(ran.error().contains("run `ethtally migrate` first"), "{ran:?}");
        assert_eq!(std::fs::read_dir(database.folder()).unwrap().count(), 0);
    }
    let database = Database::postgres();
    let ran = verify(&database, &url, &["--sample", "1"]).expect(2);
    assert!(ran.error().contains("run `ethtally migrate` first"), "{ran:?}");
    let tables = "select count(*) from pg_tables where schemaname = 'public'";
    assert_eq!(database.value(tables).await, "0");
}
