//! Parts of totals in columns of their own.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use alloy::{
    primitives::{Bytes, U256, keccak256},
    providers::Provider,
};
use ethtally::profile::Profile;
use ethtally_testbed::{Chain, holding, stub::RecordedRequest, wallet};
use serde_json::{Value, json};

use crate::support::{
    chains::{still_chain, stub_of, transfer},
    database::{Database, on_both_databases},
    parts::{
        StoredParts, example_of_parts as example, on_chain, rows, run, unread,
        with_columns as profile,
    },
    program::{Output, ethtally},
    random::schedules,
    table::read_wallets,
    wallets::{address, address_lines, one_audio, spenders},
    watch::{caught_up, start_connected},
};

on_both_databases! {
    parts_sum_to_their_totals_at_any_time_beside_watch
    parts_are_those_of_the_chain_by_every_reader
    verify_names_the_parts_that_drifted_and_fixes_them
    a_row_of_another_program_is_found
    a_part_that_changed_is_a_changed_row
    one_column_is_enough
    refresh_shows_the_parts
}

/// The columns of the example.
const COLUMNS: [&str; 3] = ["held", "staked", "delegated"];

/// The wallets whose parts are not all null and do not sum to the total.
fn broken(rows: &BTreeMap<String, StoredParts>) -> Vec<(&String, &StoredParts)> {
    let is_whole = |(total, parts): &StoredParts| match parts {
        [None, None, None] => true,
        parts => {
            parts.iter().try_fold(U256::ZERO, |sum, part| sum.checked_add((*part)?)) == Some(*total)
        }
    };
    rows.iter().filter(|(_, row)| !is_whole(row)).collect()
}

/// `ROWS=100000 cargo test --locked --test suite parts::` does the same with more rows.
async fn parts_sum_to_their_totals_at_any_time_beside_watch(database: Database) {
    let count = schedules("ROWS", 2_000);
    let chain =
        Chain::builder().wallets(count).gas_limit(550_000_000).arg("--no-request-size-limit");
    let chain = chain.start().await.unwrap();
    unread(&database, 0..count);
    let first = rows(&database).await;
    assert!(
        first.values().all(|row| *row == (U256::ZERO, [None; 3])),
        "placeholders have no parts"
    );
    let watching = start_connected(run(&database, &chain.url(), &example(), &["watch", "--json"]));
    let is_over = AtomicBool::new(false);
    let spenders = spenders(1);
    let moves = async {
        let mut n = 0;
        while !is_over.load(Relaxed) {
            let (from, to) = (wallet(spenders[n % 50]), wallet(100 + n as u64 % 50));
            chain.transfer(from, to, U256::from(n + 1)).await.unwrap();
            chain.stake(from, U256::from(n + 1)).await.unwrap();
            n += 1;
        }
    };
    let looks = async {
        while !is_over.load(Relaxed) {
            let rows = rows(&database).await;
            assert_eq!(broken(&rows), []);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let sweeps = async {
        for options in [
            &["--reader", "multicall3"][..],
            &["--reader", "packed"],
            &["--reader", "auto", "--write", "changed"],
            &["--reader", "packed", "--write", "changed"],
        ] {
            let sweep = [&["sweep", "--all", "--json"], options].concat();
            let sweep = run(&database, &chain.url(), &example(), &sweep);
            let swept =
                tokio::task::spawn_blocking(move || sweep.run().expect(0).json()).await.unwrap();
            // Rows that `watch` writes meanwhile are not stale.
            let requested = swept["requested"].as_u64().unwrap();
            assert!(requested > count / 2 && swept["failed"] == 0, "{swept}");
        }
        is_over.store(true, Relaxed);
    };
    tokio::join!(moves, looks, sweeps);
    caught_up(&chain, &database).await;
    watching.stop();
    let rows = rows(&database).await;
    assert_eq!((rows.len() as u64, broken(&rows)), (count, vec![]));
    assert!(rows.values().all(|(_, parts)| parts.iter().all(Option::is_some)));
    for n in (0..200).chain([count - 1]) {
        assert_eq!(rows[&address(n)], on_chain(&chain, n).await, "wallet {n}");
    }
}

async fn parts_are_those_of_the_chain_by_every_reader(database: Database) {
    let chain = still_chain().await;
    unread(&database, 0..300);
    for reader in ["multicall3", "packed", "auto"] {
        let clear = "update eth_wallet_balances set balance = 0, held = null, staked = null, delegated = null";
        database.sql(clear).await;
        let sweep = ["sweep", "--all", "--reader", reader, "--json"];
        let swept = run(&database, &chain.url(), &example(), &sweep).run().expect(0).json();
        assert_eq!(swept["updated"], 300);
        let rows = rows(&database).await;
        for n in 0..300 {
            let at = holding(n);
            let parts = [at.balance, at.staked, at.delegated].map(Some);
            assert_eq!(rows[&address(n)], (at.total(), parts), "{reader}: wallet {n}");
        }
    }
}

fn verify(database: &Database, node: &str, arguments: &[&str]) -> Output {
    run(database, node, &example(), &[&["verify"], arguments].concat()).run()
}

async fn verify_names_the_parts_that_drifted_and_fixes_them(database: Database) {
    let chain = still_chain().await;
    let node = chain.url();
    unread(&database, 0..40);
    run(&database, &node, &example(), &["sweep", "--all"]).run().expect(0);
    let in_sync = verify(&database, &node, &[&address(12), "--json"]).expect(0).json();
    let at = holding(12);
    let parts = json!({
        "held": at.balance.to_string(), "staked": at.staked.to_string(), "delegated": at.delegated.to_string()
    });
    assert_eq!((&in_sync["stored_parts"], &in_sync["drifted_parts"]), (&parts, &json!([])));
    assert_eq!(in_sync["parts"]["balanceOf"], at.balance.to_string());

    // The sum stays right.
    let moved = format!(
        "update eth_wallet_balances set held = '{}', staked = '{}' where wallet = '{}'",
        at.balance - U256::ONE,
        at.staked + U256::ONE,
        address(12)
    );
    database.sql(&moved).await;
    let drifted = verify(&database, &node, &[&address(12), "--json"]).expect(1).json();
    assert_eq!(drifted["in_sync"], false);
    assert_eq!(
        (&drifted["drift"], &drifted["drifted_parts"]),
        (&json!("wrong"), &json!(["held", "staked"]))
    );
    assert_eq!(drifted["stored_total"], drifted["chain_total"]);
    let text = verify(&database, &node, &[&address(12)]).expect(1).stdout;
    let why = format!(
        "wrong: held at block 0, where it was read, is {} wei, not {}",
        at.balance,
        at.balance - U256::ONE
    );
    assert!(text.contains(&why) && text.contains("stored staked"), "{text}");
    let sample = verify(&database, &node, &["--sample", "40", "--json"]).expect(1).json();
    assert_eq!((&sample["wrong"], &sample["drifted_wallets"]), (&json!(1), &json!([address(12)])));
    let fixed = verify(&database, &node, &[&address(12), "--fix", "--json"]).expect(1).json();
    assert_eq!(fixed["fixed"], true);

    // Parts that were never read are missing, not wrong.
    database
        .sql(&format!(
            "update eth_wallet_balances set staked = null where wallet = '{}'",
            address(13)
        ))
        .await;
    let lacking = verify(&database, &node, &[&address(13), "--json"]).expect(1).json();
    assert_eq!(
        (&lacking["drift"], &lacking["drifted_parts"]),
        (&json!("moved"), &json!(["staked"]))
    );
    assert_eq!(lacking["stored_parts"]["staked"], Value::Null);
    let text = verify(&database, &node, &[&address(13)]).expect(1).stdout;
    assert!(
        text.contains("the total is right; never read: staked")
            && text.contains("stored staked           never read"),
        "{text}"
    );
    verify(&database, &node, &[&address(13), "--ignore-moved"]).expect(0);
    let fixed = verify(&database, &node, &["--sample", "40", "--fix", "--json"]).expect(1).json();
    assert_eq!((&fixed["moved"], &fixed["fixed"]), (&json!(1), &json!(1)));
    verify(&database, &node, &["--sample", "40"]).expect(0);
    let none = verify(&database, &node, &[&address(500), "--json"]).expect(1).json();
    assert_eq!(none["stored_parts"], json!({"held": null, "staked": null, "delegated": null}));
}

async fn a_row_of_another_program_is_found(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let node = chain.url();
    unread(&database, 0..100);
    run(&database, &node, &example(), &["sweep", "--all"]).run().expect(0);
    transfer(&chain, 90, 91, U256::from(7)).await;
    let total = chain.total(wallet(90)).await.unwrap();
    // As the original writes it.
    let write = format!(
        "update eth_wallet_balances set balance = '{total}', blocknumber = 1, updated_at = current_timestamp
         where wallet = '{}'",
        address(90)
    );
    database.sql(&write).await;
    let drifted = verify(&database, &node, &[&address(90), "--json"]).expect(1).json();
    assert_eq!(
        (&drifted["stored_total"], &drifted["drifted_parts"]),
        (&json!(total.to_string()), &json!(["held"]))
    );
    run(&database, &node, &example(), &["sweep", "--all", "--write", "changed"]).run().expect(0);
    verify(&database, &node, &[&address(90)]).expect(0);
}

/// In SQLite, a confirmation does not count for rows that were written in the same second.
async fn next_second() {
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
}

async fn a_part_that_changed_is_a_changed_row(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let node = chain.url();
    unread(&database, 0..200);
    let changes = database.folder().join("changes.jsonl");
    let option = format!("--changes={}", changes.display());
    let sweep = || {
        let _ = fs::remove_file(&changes);
        let sweep = ["sweep", "--all", "--write", "changed", "--json", &option];
        run(&database, &node, &example(), &sweep).run().expect(0).json()
    };
    assert_eq!(sweep()["updated"], 200);
    next_second().await;
    // What is staked was held before: the total stays.
    let provider = 1;
    let before = chain.total(wallet(provider)).await.unwrap();
    chain.mint(wallet(provider), one_audio()).await.unwrap();
    sweep();
    next_second().await;
    chain.stake(wallet(provider), one_audio()).await.unwrap();
    let is_same = chain.total(wallet(provider)).await.unwrap() == before + one_audio();
    // A stub of another row: a part is null.
    database
        .sql(&format!(
            "update eth_wallet_balances set staked = null where wallet = '{}'",
            address(7)
        ))
        .await;
    let swept = sweep();
    assert!(is_same, "staking moves AUDIO from one part to another");
    let rows = rows(&database).await;
    assert_eq!(rows[&address(provider)], on_chain(&chain, provider).await);
    assert_eq!(rows[&address(7)], on_chain(&chain, 7).await);
    let updated = swept["updated"].as_u64().unwrap();
    assert!((2..10).contains(&updated), "{swept}");
    // They are no changes of a total.
    let told = fs::read_to_string(&changes).unwrap();
    assert!(!told.contains(&address(provider)) && !told.contains(&address(7)), "{told}");
    next_second().await;
    assert_eq!(sweep()["unchanged"], 200);
}

async fn one_column_is_enough(database: Database) {
    let chain = still_chain().await;
    let one = profile(&database, &[("totalStakedFor", "staked")]);
    let backfill = ["backfill", "--from-csv", "-", "--reader", "packed"];
    run(&database, &chain.url(), &one, &backfill).input(address_lines(0..50)).run().expect(0);
    let stored = database
        .sql("select wallet, balance, staked from eth_wallet_balances order by wallet")
        .await;
    let mut expected: Vec<_> = (0..50)
        .map(|n| format!("{}|{}|{}", address(n), holding(n).total(), holding(n).staked))
        .collect();
    expected.sort_unstable();
    assert_eq!(stored, expected);
}

async fn refresh_shows_the_parts(database: Database) {
    let chain = still_chain().await;
    let node = chain.url();
    let refresh = |options: &[&str]| {
        let wallet = address(12);
        let arguments = [&["refresh", wallet.as_str()], options].concat();
        run(&database, &node, &example(), &arguments).run().expect(0)
    };
    let at = holding(12);
    let shown = refresh(&["--json"]).json();
    let parts = json!({
        "held": at.balance.to_string(), "staked": at.staked.to_string(), "delegated": at.delegated.to_string()
    });
    assert_eq!(
        (&shown["wallets"][0]["parts"], &shown["wallets"][0]["total"]),
        (&parts, &json!(at.total().to_string()))
    );
    let text = refresh(&[]).stdout;
    assert_eq!(text.lines().count(), 1);
    for (column, wei) in COLUMNS.iter().zip([at.balance, at.staked, at.delegated]) {
        assert!(
            text.contains(&format!(", {column} ")) && text.contains(&format!("({wei} wei)")),
            "{text}"
        );
    }
    let plain = ethtally(["refresh", &address(12), "--json"])
        .node(&node)
        .database(&database)
        .run()
        .expect(0)
        .json();
    assert_eq!(
        plain["wallets"][0].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["read_block", "total", "wallet"]
    );
}

#[test]
fn the_example_is_the_built_in_profile_with_its_parts_named() {
    let named = Profile::load(example().as_ref()).unwrap();
    let built_in = Profile::audius();
    assert_eq!(named.identity(), built_in.identity());
    assert_eq!(named.columns().map(|(name, _)| name).collect::<Vec<_>>(), COLUMNS);
    assert_eq!(built_in.columns().count(), 0);
    let events = |profile: &Profile| -> Vec<_> {
        profile.events.iter().map(|event| (event.contract, event.event.full_signature())).collect()
    };
    assert_eq!(events(&named), events(&built_in));
}

/// A large call of each run: its parameters, and how many bytes it returned.
async fn largest_call(chain: &Chain, profile: Option<&str>, reader: &str) -> (Value, usize) {
    let (database, stub) = (Database::sqlite(), stub_of(chain));
    let backfill = ["backfill", "--from-csv", "-", "--reader", reader, "--chunk", "200"];
    let backfill =
        ethtally(backfill).node(stub.url()).database(&database).input(address_lines(0..200));
    match profile {
        Some(profile) => backfill.env("ETHTALLY_PROFILE", profile).run().expect(0),
        None => backfill.run().expect(0),
    };
    assert_eq!(read_wallets(&database).await.len(), 200);
    let RecordedRequest { params, .. } =
        stub.eth_calls().into_iter().max_by_key(|seen| seen.bytes).unwrap();
    let returned: Bytes = chain.provider().raw_request("eth_call".into(), &params).await.unwrap();
    (params, returned.len())
}

/// The gas that a call uses.
async fn gas(chain: &Chain, params: &Value) -> u64 {
    let tracer = json!({
        "tracer": "callTracer", "tracerConfig": { "onlyTopCall": true }, "stateOverrides": params[2],
    });
    let trace = json!([params[0], params[1], tracer]);
    let trace: Value = chain.provider().raw_request("debug_traceCall".into(), trace).await.unwrap();
    u64::from_str_radix(trace["gasUsed"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_columns_nothing_changes_in_bytes_or_gas() {
    let chain = still_chain().await;
    // Through Multicall3 the three results are there in any case.
    let (plain, returned) = largest_call(chain, None, "multicall3").await;
    assert_eq!(largest_call(chain, Some(&example()), "multicall3").await, (plain, returned));

    let (plain, returned) = largest_call(chain, None, "packed").await;
    let (named, returned_parts) = largest_call(chain, Some(&example()), "packed").await;
    assert_eq!(plain[0], named[0], "the same call data");
    assert_eq!((returned, returned_parts), (32 * (2 + 200), 32 * (2 + 3 * 200)));
    let code = |params: &Value| -> Bytes {
        let overrides = params[2].as_object().unwrap();
        overrides.values().next().unwrap()["code"].as_str().unwrap().parse().unwrap()
    };
    // What was released before there were columns.
    let released = "0x370e08c9c6e421ef4c5934addffa10dfe941f4523c66fd320eca8354fd8d3fcc";
    assert_eq!(keccak256(code(&plain)).to_string(), released);
    let (gas, gas_of_parts) = (gas(chain, &plain).await, gas(chain, &named).await);
    assert_eq!(gas, 2_069_917);
    assert!(gas_of_parts < gas + 200 * 150, "{gas_of_parts} for parts, {gas} for totals");
}
