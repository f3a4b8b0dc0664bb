//! Native ETH as a total: what Multicall3 says of a wallet. The profile is the example, as it stands.

use std::{collections::BTreeMap, fs};

use alloy::{primitives::U256, providers::Provider};
use ethtally_testbed::{Chain, contracts::MULTICALL3, wallet};
use serde_json::{Value, json};

use crate::support::{
    database::{Database, on_both_databases},
    program::{Ethtally, Output, ethtally, eventually_async},
    table::stored_totals,
    wallets::{address, address_lines},
};

on_both_databases! {
    eth_is_read_to_the_wei_by_either_reader
    nothing_follows_eth
}

fn profile() -> String {
    format!("{}/examples/profiles/eth.toml", env!("CARGO_MANIFEST_DIR"))
}

fn run(arguments: &[&str], chain: &Chain, database: &Database) -> Ethtally {
    let profile = profile();
    ethtally(arguments.iter().copied().chain(["--profile", &profile]))
        .node(chain.url())
        .database(database)
}

async fn set_eth(chain: &Chain, wei: &[(u64, U256)]) {
    for (n, wei) in wei {
        let set = chain.provider().raw_request("anvil_setBalance".into(), (wallet(*n), *wei)).await;
        let _: Value = set.expect("the chain takes balances");
    }
}

/// What the node itself says.
async fn eth_of(chain: &Chain, wallets: u64) -> BTreeMap<String, String> {
    let mut balances = BTreeMap::new();
    for n in 0..wallets {
        let balance = chain.provider().get_balance(wallet(n)).await.expect("a balance");
        balances.insert(address(n), balance.to_string());
    }
    balances
}

async fn eth_is_read_to_the_wei_by_either_reader(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let ether = U256::from(10).pow(U256::from(18));
    let most: U256 = U256::MAX >> 64;
    let held = [
        (0, U256::ZERO),
        (1, U256::from(1)),
        (2, ether * U256::from(123_456_789) + U256::from(987_654_321)),
        (3, most),
        (4, ether),
        (5, ether),
    ];
    set_eth(&chain, &held).await;
    // Multicall3 has some itself.
    let set = chain.provider().raw_request("anvil_setBalance".into(), (MULTICALL3, ether)).await;
    let _: Value = set.unwrap();
    let lines = address_lines(0..6);
    run(&["backfill", "--from-csv", "-"], &chain, &database).input(lines).run().expect(0);
    assert_eq!(stored_totals(&database).await, eth_of(&chain, 6).await);

    for (reader, wei) in [("multicall3", 7_u64), ("packed", 11), ("auto", 13)] {
        let sent = json!([{"from": wallet(4), "to": wallet(5), "value": format!("{wei:#x}"), "gasPrice": "0x0"}]);
        let before = chain.block_number().await.unwrap();
        let sent: Result<Value, _> =
            chain.provider().raw_request("eth_sendTransaction".into(), sent).await;
        sent.unwrap();
        eventually_async("it is mined", async || chain.block_number().await.unwrap() > before)
            .await;
        let drifted =
            run(&["verify", "--sample", "6", "--json"], &chain, &database).run().expect(1);
        assert_eq!((&drifted.json()["drifted"], &drifted.json()["wrong"]), (&json!(2), &json!(0)));

        let swept = run(&["sweep", "--all", "--json", "--reader", reader], &chain, &database).run();
        let swept = swept.expect(0).json();
        assert_eq!((&swept["updated"], &swept["failed"]), (&json!(6), &json!(0)), "{swept}");
        assert_eq!(stored_totals(&database).await, eth_of(&chain, 6).await, "{reader}");
        run(&["verify", "--sample", "6"], &chain, &database).run().expect(0);
        let shown = run(&["refresh", &address(2), "--reader", reader], &chain, &database).run();
        assert!(shown.expect(0).stdout.contains("123,456,789.000000000987654321 ETH"));
    }
    let verified =
        run(&["verify", &address(3), "--json"], &chain, &database).run().expect(0).json();
    assert_eq!(verified["parts"], json!({"getEthBalance": most.to_string()}));

    chain.mine(1).await.unwrap();
    let expected = eth_of(&chain, 6).await;
    let rows: String = expected.iter().map(|(wallet, wei)| format!("{wallet},{wei}\n")).collect();
    for reader in ["multicall3", "packed"] {
        let file = database.folder().join(format!("{reader}.csv"));
        let path = file.display().to_string();
        let block = chain.block_number().await.unwrap().to_string();
        let arguments = ["snapshot", "--block", &block, "--out", &path, "--reader", reader];
        run(&arguments, &chain, &database).run().expect(0);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("wallet,total\n{rows}"));
        run(&["snapshot", "--check", &path, "--all"], &chain, &database).run().expect(0);
    }
}

async fn nothing_follows_eth(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let lines = address_lines(0..3);
    run(&["backfill", "--from-csv", "-"], &chain, &database).input(lines).run().expect(0);
    let why = "profile eth has events = \"none\"";
    for (arguments, remedy) in [
        (&["watch"][..], "sweep it instead, with `ethtally sweep --all`"),
        (&["watch", "--once"], "sweep it instead, with `ethtally sweep --all`"),
        (&["sweep", "--not-covered"], "sweep without it"),
        (&["sweep", "--all", "--not-covered", "--dry-run"], "sweep without it"),
    ] {
        let error = run(arguments, &chain, &database).run().refused();
        assert!(error.contains(why) && error.ends_with(remedy), "{error}");
    }
    let status = |output: Output| {
        let status = output.expect(0).json();
        (status["current_to_block"].clone(), status["not_covered"].clone())
    };
    let none = (Value::Null, Value::Null);
    assert_eq!(status(run(&["status", "--json"], &chain, &database).run()), none);
    // Also where a checkpoint is left from before.
    let insert =
        "insert into eth_indexer_checkpoints (name, last_block) values ('eth_balances', 0)";
    database.sql(insert).await;
    assert_eq!(status(run(&["status", "--json"], &chain, &database).run()), none);
    let checked = run(&["doctor", "--json"], &chain, &database).run().expect(0).json();
    let checks = checked["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["name"] != "websocket"), "{checks:?}");
}
