//! `profile` and `--profile`: the definition of a total.

use std::fs;

use alloy::primitives::utils::format_units;
use ethtally_testbed::{
    Chain,
    contracts::{AUDIO, STAKING},
    holding, wallet,
};
use serde_json::json;

use crate::support::{
    chains::still_chain,
    database::{Database, on_both_databases},
    program::ethtally,
    wallets::address,
};

on_both_databases! {
    another_total_on_another_chain_works_end_to_end
}

/// A profile of two reads on chain 5.
fn points() -> String {
    format!(
        "name = \"points\"\nchain_id = 5\nsymbol = \"POINT\"\ndecimals = 6\ncheckpoint = \"point_transfers\"\n\
         [[read]]\ncontract = \"{AUDIO}\"\nfunction = \"balanceOf(address)\"\n\
         [[read]]\ncontract = \"{STAKING}\"\nfunction = \"totalStakedFor(address)\"\n"
    )
}

async fn another_total_on_another_chain_works_end_to_end(database: Database) {
    let chain = Chain::builder().chain_id(5).start().await.unwrap();
    let file = database.folder().join("points.toml");
    fs::write(&file, points()).unwrap();
    let run = |arguments: &[&str], status| {
        let tally =
            ethtally(arguments.iter().copied()).env("ETHTALLY_PROFILE", file.to_str().unwrap());
        tally.node(chain.url()).database(&database).run().expect(status)
    };
    // A delegator, whose total with the built-in profile is different.
    let n = (0..1000).find(|n| !holding(*n).delegated.is_zero()).unwrap();
    let held = chain.holding_at(wallet(n), 0).await.unwrap();
    let total = held.balance + held.staked;

    let placeholder = ethtally(["backfill", "--from-csv", "-", "--placeholders"]);
    let placeholder = placeholder.env("ETHTALLY_PROFILE", file.to_str().unwrap());
    placeholder.database(&database).input(address(n)).run().expect(0);
    let swept = run(&["sweep", "--json"], 0).json();
    assert_eq!((&swept["updated"], &swept["calls"]), (&json!(1), &json!(1)));
    let stored = "select wallet, balance from eth_wallet_balances";
    assert_eq!(database.value(stored).await, format!("{}|{total}", address(n)));
    let shown = run(&["refresh", &address(n)], 0).stdout.replace(',', "");
    let units = format_units(total, 6).unwrap();
    let units = units.trim_end_matches('0').trim_end_matches('.');
    assert_eq!(shown, format!("{}  {units} POINT ({total} wei)\n", address(n)));
    let verified = run(&["verify", "--json", &address(n)], 0).json();
    assert_eq!(
        verified["parts"],
        json!({"balanceOf": held.balance.to_string(), "totalStakedFor": held.staked.to_string()})
    );
    database
        .sql("insert into eth_indexer_checkpoints (name, last_block) values ('point_transfers', 7)")
        .await;
    assert_eq!(run(&["status", "--json"], 0).json()["checkpoint"]["last_block"], 7);
    assert_eq!(run(&["profile"], 0).stdout, points());

    // The built-in profile is for another chain.
    let another = Database::sqlite();
    let ran = ethtally(["refresh", &address(n)]).node(chain.url()).database(&another).run();
    let ran = ran.expect(2);
    assert!(ran.error().contains("is a node of chain 5"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_profile_can_be_used_as_a_profile() {
    let printed = ethtally(["profile"]).run().expect(0);
    assert_eq!(printed.stdout, include_str!("../../src/profile/audius.toml"));
    assert_eq!(printed.stderr, "");
    let database = Database::sqlite();
    let file = database.folder().join("mine.toml");
    let path = file.to_str().unwrap();
    fs::write(&file, &printed.stdout).unwrap();

    assert_eq!(ethtally(["profile", "--profile", path]).run().expect(0).stdout, printed.stdout);
    let chain = still_chain().await;
    let refresh = ethtally(["refresh", "--json", "--profile", path, &address(1)]);
    let refreshed = refresh.node(chain.url()).database(&database).run().expect(0).json();
    assert_eq!(refreshed["wallets"][0]["total"], chain.total(wallet(1)).await.unwrap().to_string());
}

#[test]
fn scripts_get_the_profile_as_json() {
    let shown = ethtally(["profile", "--json"]).run().expect(0).json();
    assert_eq!(shown["command"], "profile");
    assert_eq!(shown["name"], "audius");
    assert_eq!(shown["chain_id"], 1);
    assert_eq!(shown["symbol"], "AUDIO");
    assert_eq!(shown["decimals"], 18);
    assert_eq!(shown["checkpoint"], "audio_transfers");
    let functions: Vec<_> =
        shown["read"].as_array().unwrap().iter().map(|read| &read["function"]).collect();
    assert_eq!(
        functions,
        ["balanceOf(address)", "totalStakedFor(address)", "getTotalDelegatorStake(address)"]
    );
    assert_eq!(shown["event"].as_array().unwrap().len(), 9);
}

#[test]
fn a_bad_profile_is_refused_with_its_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let audio = AUDIO.to_checksum(None);
    let bad_checksum = audio.replacen("AA", "Aa", 1);
    let lower = audio.to_lowercase();
    let event = "[[event]]\ncontract = \"0x18aAA7115705e8be94bfFEBDE57Af9BFc265B998\"\n\
                 event = \"Transfer(address indexed from, address indexed to, uint256 value)\"\n";
    let cases = [
        ("chain_id = 5", "chain_id = five", "line 2: "),
        ("chain_id = 5", "", "missing field `chain_id`"),
        ("symbol", "smybol", "line 3: unknown field `smybol`"),
        ("decimals = 6", "decimals = 78", "line 4: decimals must be at most 77"),
        (audio.as_str(), bad_checksum.as_str(), "line 7: contract "),
        (audio.as_str(), "0x12", "line 7: contract \"0x12\" has 2 digits"),
        ("balanceOf(address)", "balanceOf(", "line 8: \"balanceOf(\" is not a function signature"),
        (
            "balanceOf(address)",
            "totalSupply()",
            "line 8: function \"totalSupply()\" must have one parameter",
        ),
    ];
    let refuse = |text: &str, expected: &str| {
        fs::write(folder.path().join("bad.toml"), text).unwrap();
        for command in [&["profile"][..], &["status"], &["sweep", "--dry-run"]] {
            let arguments = [command, &["--profile", "bad.toml"]].concat();
            let ran = ethtally(arguments).folder(folder.path()).run().expect(2);
            assert_eq!(ran.own(), "");
            assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
            assert!(ran.error().starts_with("error: profile bad.toml, line "), "{ran:?}");
            assert!(ran.error().contains(expected), "{expected}: {ran:?}");
        }
    };
    for (from, to, expected) in cases {
        let text = points();
        assert!(text.contains(from), "{from}");
        refuse(&text.replacen(from, to, 1), expected);
    }
    for (wallets, expected) in [
        ("[\"too\"]", "line 15: event Transfer has no parameter \"too\"; use from or to"),
        (
            "[\"value\"]",
            "line 15: parameter \"value\" of event Transfer is not indexed; use from or to",
        ),
        ("[]", "line 15: wallets is empty; use from or to"),
    ] {
        refuse(&format!("{}{event}wallets = {wallets}\n", points()), expected);
    }
    refuse("[[read", "line 1: ");
    refuse("", "missing field");

    // A valid profile, for comparison.
    let text = format!("{}{event}wallets = [\"to\"]\n", points()).replace(&audio, &lower);
    fs::write(folder.path().join("good.toml"), &text).unwrap();
    let ran = ethtally(["profile", "--profile", "good.toml"]).folder(folder.path()).run().expect(0);
    assert_eq!(ran.stdout, text);
}

#[test]
fn a_missing_profile_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["missing.toml", "."] {
        let ran = ethtally(["profile", "--profile", name]).folder(folder.path()).run().expect(2);
        assert_eq!(ran.own(), "");
        let start = format!("error: profile {name}: cannot be read; --profile takes the path of");
        assert!(ran.error().starts_with(&start), "{ran:?}");
    }
}
