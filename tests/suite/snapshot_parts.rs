//! Snapshots with the parts of each total.

use std::{fs, path::Path, time::Duration};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    genesis::holdings,
    stub::{Fault, When},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    chains::{still_chain, wide_chain, wide_stub},
    database::{Database, on_both_databases},
    parts::{example_of_parts, with_columns},
    program::{Ethtally, ethtally, eventually},
    snapshots::{beside, check, file_of, genesis_rows, manifest, snapshot},
    table::store_unread,
    wallets::{address, address_lines, one_audio},
};

on_both_databases! {
    the_parts_are_columns_behind_the_total
}

trait WithProfile {
    fn profile(self, profile: &str) -> Self;
}

impl WithProfile for Ethtally {
    fn profile(self, profile: &str) -> Self {
        self.env("ETHTALLY_PROFILE", profile)
    }
}

/// What a snapshot with the columns of the example holds.
fn genesis_parts(wallets: u64) -> String {
    let row = |(n, at): (u64, ethtally_testbed::Holding)| {
        let total = at.total();
        format!("{},{total},{},{},{}\n", address(n), at.balance, at.staked, at.delegated)
    };
    let mut rows: Vec<_> = (0..wallets).zip(holdings(wallets)).map(row).collect();
    rows.sort_unstable();
    format!("wallet,total,held,staked,delegated\n{}", rows.concat())
}

async fn the_parts_are_columns_behind_the_total(database: Database) {
    let url = still_chain().await.url();
    let example = example_of_parts();
    store_unread(&database, 0..300);
    let file = file_of(&database, "a.csv");
    let take = |out: &Path, options: &[&str]| {
        snapshot(&url, "0", out, options).database(&database).profile(&example).run()
    };
    let error = take(&file, &[]).expect(2).error();
    assert!(error.contains("lacks columns of the profile (held, staked, delegated)"), "{error}");
    let migrate = ethtally(["migrate"]).node(&url).database(&database).profile(&example);
    migrate.run().expect(0);
    for (n, reader) in ["multicall3", "packed", "auto"].into_iter().enumerate() {
        let file = file_of(&database, &format!("{n}.csv"));
        take(&file, &["--chunk=37", "--reader", reader]).expect(0);
        assert_eq!(fs::read_to_string(&file).unwrap(), genesis_parts(300), "{reader}");
    }
    take(&file, &["--root"]).expect(0);
    assert_eq!(fs::read_to_string(&file).unwrap(), genesis_parts(300));

    let said = manifest(&file);
    assert_eq!(said["columns"], json!(["wallet", "total", "held", "staked", "delegated"]));
    let parts = said["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 3);
    let expected = "balanceOf(address) of 0x18aaa7115705e8be94bffebde57af9bfc265b998";
    assert_eq!(parts[0], json!({"column": "held", "holds": expected}));
    assert!(said["identity"]["reads"].as_array().unwrap().contains(&json!(expected)));

    // All that is said of totals is as without parts.
    let plain = file_of(&database, "plain.csv");
    snapshot(&url, "0", &plain, &["--root"]).database(&database).run().expect(0);
    assert_eq!(fs::read_to_string(&plain).unwrap(), genesis_rows(0..300));
    let of_totals = manifest(&plain);
    assert_eq!(of_totals["columns"], json!(["wallet", "total"]));
    assert!(of_totals.get("parts").is_none());
    for field in ["rows", "sum", "root", "leaf_encoding", "identity", "block_hash"] {
        assert_eq!(said[field], of_totals[field], "{field}");
    }
    let proof = |file: &Path| {
        let wallet = address(7);
        ethtally(["snapshot", "--proof", &wallet, file.to_str().unwrap(), "--json"]).run()
    };
    assert_eq!(proof(&file).expect(0).json(), proof(&plain).expect(0).json());
}

/// Replaces one digit of a field in a file, and the hash in its manifest.
fn change_digit(file: &Path, row: usize, field: usize) -> (String, String) {
    let text = fs::read_to_string(file).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let mut fields: Vec<_> = lines[row].split(',').map(str::to_owned).collect();
    let before = fields[field].clone();
    let digit = if before.ends_with('1') { '2' } else { '1' };
    fields[field].pop();
    fields[field].push(digit);
    let after = fields[field].clone();
    lines[row] = fields.join(",");
    let text = lines.join("\n") + "\n";
    fs::write(file, &text).unwrap();
    let mut manifest = manifest(file);
    manifest["sha256"] = json!(alloy::hex::encode(Sha256::digest(&text)));
    fs::write(beside(file, ".json"), manifest.to_string()).unwrap();
    (before, after)
}

/// The first row of which each part is more than a digit.
fn row_of_three_parts(text: &str) -> usize {
    let is_long = |line: &str| line.split(',').skip(1).all(|field| field.len() > 1);
    1 + text.lines().skip(1).position(is_long).expect("such a row")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_compares_the_parts_whatever_columns_its_profile_has() {
    let url = still_chain().await.url();
    let database = Database::sqlite();
    let file = file_of(&database, "a.csv");
    let take = snapshot(&url, "0", &file, &["--from-csv=-"]).profile(&example_of_parts());
    take.input(address_lines(0..1_000)).run().expect(0);
    let others = with_columns(&database, &[("totalStakedFor", "held"), ("balanceOf", "order")]);
    let profiles = [None, Some(example_of_parts()), Some(others)];
    let run = |profile: &Option<String>, options: &[&str]| match profile {
        Some(profile) => check(&url, &file, options).profile(profile).run(),
        None => check(&url, &file, options).run(),
    };
    for profile in &profiles {
        for options in [&["--all"][..], &["--all", "--reader=packed"], &["--sample=50"]] {
            let said = run(profile, options).expect(0).json();
            assert_eq!(said["is_right"], true, "{profile:?} {options:?}");
        }
    }

    let text = fs::read_to_string(&file).unwrap();
    let row = row_of_three_parts(&text);
    let (wallet, total) = text.lines().nth(row).unwrap().split_once(',').unwrap();
    let total = total.split(',').next().unwrap();
    let of_right = fs::read(beside(&file, ".json")).unwrap();
    for (field, column) in [(2, "held"), (3, "staked"), (4, "delegated")] {
        let (on_chain, in_file) = change_digit(&file, row, field);
        for profile in &profiles {
            let said = run(profile, &["--all"]).expect(1).json();
            assert_eq!((&said["problems"], &said["different"]), (&json!([]), &json!(1)));
            let parts = json!([{"column": column, "file": in_file, "chain": on_chain}]);
            let difference =
                json!([{"wallet": wallet, "file": total, "chain": total, "parts": parts}]);
            assert_eq!(said["differences"], difference);
        }
        let said = ethtally(["snapshot", "--all", "--check", file.to_str().unwrap()]).node(&url);
        let said = said.run().expect(1).stdout;
        let shown = format!("  {column}: file {in_file}  chain {on_chain}");
        assert!(said.contains(&shown), "{said}");
        fs::write(&file, &text).unwrap();
        fs::write(beside(&file, ".json"), &of_right).unwrap();
    }

    for (changed, what) in [
        (text.replacen("held,staked", "staked,held", 1), "the first line is wallet,total,staked"),
        (text.replacen('\n', ",more\n", 1), "is not a row"),
    ] {
        fs::write(&file, changed).unwrap();
        let said = run(&None, &["--all"]).expect(1).json();
        let problems = said["problems"].to_string();
        assert!(problems.contains(what) && problems.contains("SHA-256"), "{what}: {problems}");
    }
    fs::write(&file, &text).unwrap();
    let mut wrong: Value = serde_json::from_slice(&of_right).unwrap();
    wrong["parts"][1]["holds"] =
        json!("other(address) of 0x0000000000000000000000000000000000000001");
    fs::write(beside(&file, ".json"), wrong.to_string()).unwrap();
    let error = run(&None, &[]).expect(2).error();
    assert!(error.contains("column staked holds other(address) of 0x"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_those_of_totals_with_and_without_parts() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::sqlite();
    // What is staked was held before: the total stays.
    chain.mint(ethtally_testbed::wallet(1), one_audio()).await.unwrap();
    chain.stake(ethtally_testbed::wallet(1), one_audio()).await.unwrap();
    let newest = chain.block_number().await.unwrap();
    let staked = (0..=newest).rev().take(3).collect::<Vec<_>>();
    let take = |block: u64, name: &str, with_parts: bool| {
        let file = file_of(&database, name);
        let taken = snapshot(&chain.url(), &block.to_string(), &file, &["--from-csv=-"]);
        let taken = taken.input(address_lines(0..100));
        if with_parts { taken.profile(&example_of_parts()) } else { taken }.run().expect(0);
        file
    };
    let compare = |older: &Path, newer: &Path| {
        let out = file_of(&database, "changes.csv");
        let (older, newer) = (older.to_str().unwrap(), newer.to_str().unwrap());
        let arguments =
            ["snapshot", "--since", older, newer, "--out", out.to_str().unwrap(), "--json"];
        let said = ethtally(arguments).run().expect(0).json();
        (said["changed"].as_u64().unwrap(), fs::read_to_string(&out).unwrap())
    };
    let (plain, parts) = (take(0, "plain.csv", false), take(0, "parts.csv", true));
    let now = [take(newest, "now-plain.csv", false), take(newest, "now-parts.csv", true)];
    let expected = compare(&plain, &now[0]);
    assert_eq!(expected.0, 1);
    for older in [&plain, &parts] {
        for newer in &now {
            assert_eq!(compare(older, newer), expected);
        }
    }
    let minted = take(staked[0] - 1, "minted.csv", true);
    let after = fs::read_to_string(&now[1]).unwrap();
    assert_ne!(fs::read_to_string(&minted).unwrap(), after, "the parts differ");
    assert_eq!(compare(&minted, &now[1]), (0, "wallet,change,from,to\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_continued_with_the_columns_that_it_was_begun_with() {
    wide_chain().await;
    let stub = wide_stub().await;
    stub.fault(Fault::Delay(Duration::from_millis(40)), When::eth_call());
    let database = Database::sqlite();
    for name in ["a.csv", "a.csv.zst"] {
        let file = file_of(&database, name);
        let all = file_of(&database, &format!("all-{name}"));
        let url = wide_chain().await.url();
        let begin = |url: &str, file: &Path, options: &[&str]| {
            let run = snapshot(url, "0", file, options).profile(&example_of_parts());
            run.input(address_lines(0..20_000))
        };
        begin(&url, &all, &["--from-csv=-"]).run().expect(0);

        let options = ["--from-csv=-", "--chunk=250", "--concurrency=2"];
        let running = begin(&stub.url(), &file, &options).start();
        let partial = beside(&file, ".partial");
        eventually("a part is written", || {
            fs::metadata(&partial).is_ok_and(|found| found.len() > 100_000)
        });
        running.signal("KILL");
        assert_eq!(running.wait().status, -9);
        let one = with_columns(&database, &[("balanceOf", "held")]);
        for profile in [None, Some(&one)] {
            let resume = snapshot(&url, "0", &file, &["--resume"]);
            let resume = match profile {
                Some(profile) => resume.profile(profile),
                None => resume,
            };
            let error = resume.run().expect(2).error();
            assert!(error.contains("has other columns than this run's profile"), "{error}");
        }
        let resumed =
            snapshot(&url, "0", &file, &["--resume"]).profile(&example_of_parts()).run().expect(0);
        assert!(resumed.stderr.contains("continuing at block 0"), "{resumed:?}");
        assert!(fs::read(&file).unwrap() == fs::read(&all).unwrap(), "{name}");
        assert_eq!(manifest(&file), manifest(&all));
    }
    // The parts of each row sum to its total.
    let text = fs::read_to_string(file_of(&database, "a.csv")).unwrap();
    assert_eq!(text.lines().count(), 20_001);
    for line in text.lines().skip(1) {
        let amounts: Vec<U256> =
            line.split(',').skip(1).map(|field| field.parse().unwrap()).collect();
        assert_eq!(amounts[1..].iter().fold(U256::ZERO, |sum, part| sum + part), amounts[0]);
    }
}
