//! `snapshot`: every wallet's total at one block, as a file that can be checked.

use std::{fs, io::Read, path::Path};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain, TokenFault,
    stub::{Fault, When},
    wallet,
};
use serde_json::json;

use crate::support::{
    chains::{faulty_chain, still_chain, stub_of, transfer, wide_chain, wide_stub},
    database::{Database, on_both_databases},
    program::{ethtally, sweep_all},
    requests::decoded_eth_calls,
    snapshots::{beside, check, file_of, genesis_rows, manifest, snapshot},
    table::{dump, store_unread, unread_table},
    wallets::{address, address_lines, sorted_addresses},
};

on_both_databases! {
    every_wallet_of_the_table_is_read_at_the_block_and_the_table_stays_as_it_is
    the_same_block_gives_the_same_bytes_however_it_is_read_and_whatever_the_table_holds
    an_empty_or_a_missing_table_is_an_error_with_its_remedy
}

async fn every_wallet_of_the_table_is_read_at_the_block_and_the_table_stays_as_it_is(
    database: Database,
) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..500);
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    transfer(&chain, 90, 91, U256::from(7)).await;
    let stub = stub_of(&chain);
    let before = dump(&database).await;
    let file = file_of(&database, "totals.csv");

    let said = snapshot(&stub.url(), "0", &file, &[]).database(&database).run().expect(0);

    assert_eq!(fs::read_to_string(&file).unwrap(), genesis_rows(0..500));
    let header = chain.header(0).await.unwrap();
    let said = said.json();
    let manifest = manifest(&file);
    for field in ["block", "block_hash", "block_time", "rows", "sum", "sha256"] {
        assert_eq!(said[field], manifest[field], "{field}");
    }
    assert_eq!(manifest["block"], 0);
    assert_eq!(manifest["block_hash"], header["hash"]);
    assert_eq!(manifest["profile"], "audius");
    assert_eq!(manifest["identity"]["chain_id"], 1);
    assert_eq!((&manifest["rows"], &manifest["missing"]), (&json!(500), &json!([])));
    let totals = genesis_rows(0..500);
    let totals = totals.lines().skip(1).map(|row| row[43..].parse::<U256>().unwrap());
    let sum = totals.fold(U256::ZERO, |sum, total| sum + total);
    assert_eq!(manifest["sum"], sum.to_string());
    let calls = decoded_eth_calls(&stub);
    let hash = header["hash"].as_str().unwrap();
    assert!(!calls.is_empty() && calls.iter().all(|call| call.block.contains(hash)));

    assert_eq!(dump(&database).await, before);
    for rest in [".partial", ".partial.json", ".partial.wallets"] {
        assert!(!beside(&file, rest).exists(), "{rest}");
    }
    let second = beside(&file, "2");
    let text = ["snapshot", "--block=1", "--out", second.to_str().unwrap()];
    let text = ethtally(text).node(stub.url()).database(&database).run().expect(0);
    assert!(
        text.stdout.starts_with("snapshot complete wallets:500 rows:500 missing:0"),
        "{text:?}"
    );
    assert_ne!(fs::read(&file).unwrap(), fs::read(&second).unwrap());
}

async fn the_same_block_gives_the_same_bytes_however_it_is_read_and_whatever_the_table_holds(
    database: Database,
) {
    let chain = still_chain().await;
    store_unread(&database, 0..1_000);
    let ways: [&[&str]; 4] = [
        &[],
        &["--chunk=7", "--concurrency=16"],
        &["--reader=packed", "--chunk=333"],
        &["--from-csv=-"],
    ];
    for name in ["a.csv", "a.csv.gz", "a.csv.zst"] {
        let mut first = None;
        for (n, way) in ways.into_iter().enumerate() {
            let file = file_of(&database, &format!("{n}{name}"));
            // Twice each, and in another order.
            let wallets = address_lines((0..1_000).rev().chain(0..10));
            let ran = snapshot(&chain.url(), "0", &file, way).database(&database).input(wallets);
            ran.run().expect(0);
            let (bytes, manifest) = (fs::read(&file).unwrap(), manifest(&file));
            let (first_bytes, first_manifest) =
                first.get_or_insert((bytes.clone(), manifest.clone()));
            assert!(bytes == *first_bytes, "{name} {way:?}");
            assert_eq!(manifest, *first_manifest, "{name} {way:?}");
            if n == 0 {
                assert_eq!(text_of(&file), genesis_rows(0..1_000), "{name}");
            }
        }
        sweep_all(&database, &chain.url(), &[]).run().expect(0);
    }
}

/// What a file holds, unpacked by the usual program.
fn text_of(file: &Path) -> String {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => "gzip",
        Some("zst") => {
            let mut text = String::new();
            zstd_text(file).read_to_string(&mut text).unwrap();
            return text;
        }
        _ => return fs::read_to_string(file).unwrap(),
    };
    let output = std::process::Command::new(program).arg("-dc").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn zstd_text(file: &Path) -> impl Read + use<> {
    zstd::Decoder::new(fs::File::open(file).unwrap()).unwrap()
}

async fn an_empty_or_a_missing_table_is_an_error_with_its_remedy(database: Database) {
    let node = still_chain().await.url();
    let file = file_of(&database, "a.csv");
    let ran = snapshot(&node, "0", &file, &[]).database(&database).run().expect(2);
    assert!(ran.error().contains("migrate") || ran.error().contains("DATABASE_URL"), "{ran:?}");
    store_unread(&database, []);
    let ran = snapshot(&node, "0", &file, &[]).database(&database).run().expect(2);
    assert!(ran.error().contains("the table is empty; fill it with"), "{ran:?}");
    assert!(!file.exists() && !beside(&file, ".partial").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_block_is_a_number_or_a_tag_that_is_resolved_once() {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(100).await.unwrap();
    let database = unread_table(20);
    for (tag, block) in [("finalized", 36), ("safe", 68), ("0x10", 16)] {
        let file = file_of(&database, tag);
        let said = snapshot(&chain.url(), tag, &file, &[]).database(&database).run().expect(0);
        let of_tag = chain.header(block).await.unwrap();
        assert_eq!(said.json()["block_hash"], of_tag["hash"], "{tag}");
    }
    let file = file_of(&database, "latest.csv");
    for options in [&["--block=latest"][..], &[]] {
        let out = ["snapshot", "--out", file.to_str().unwrap()];
        let arguments = out.into_iter().chain(options.iter().copied());
        let ran = ethtally(arguments).node(chain.url()).database(&database).run().expect(2);
        assert!(ran.error().contains("--block with a number, safe or finalized"), "{ran:?}");
    }
    let ran = ethtally(["snapshot", "--block=5"]).node(chain.url()).run().expect(2);
    assert!(ran.error().contains("--out FILE"), "{ran:?}");
    let ran = snapshot(&chain.url(), "101", &file, &["--retries=0"]).database(&database).run();
    assert!(ran.expect(3).error().contains("block"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_prices_it_and_says_whether_a_node_has_the_block() {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(50).await.unwrap();
    let stub = stub_of(&chain);
    let database = unread_table(900);
    let dry_run = ["snapshot", "--block=5", "--dry-run", "--json", "--rps=2", "--chunk=100"];
    let said = ethtally(dry_run).node(stub.url()).database(&database).run().expect(0).json();
    let expected = [("wallets", 900), ("calls", 9), ("compute_units", 234), ("seconds_at_rps", 5)];
    for (field, value) in expected {
        assert_eq!(said[field], value, "{field}: {said}");
    }
    assert_eq!(stub.eth_calls().len(), 1);
    let csv = dry_run.into_iter().chain(["--from-csv=-"]);
    let ran = ethtally(csv).input(address_lines(0..300)).run().expect(0);
    assert_eq!(ran.json()["calls"], 3);
    assert!(ran.stderr.contains("no --rpc-url is given"), "{ran:?}");

    let pruned = "missing trie node 5cfe (path ) state 0x5cfe is not available, not found";
    let file = file_of(&database, "old.csv");
    let out = ["snapshot", "--block=5", "--out", file.to_str().unwrap(), "--json", "--retries=1"];
    for (arguments, method) in
        [(&dry_run[..], "eth_call"), (&out, "eth_call"), (&out, "eth_getCode")]
    {
        stub.clear();
        stub.forget();
        stub.fault(Fault::error(-32000, pruned), When::method(method));
        let ran = ethtally(arguments.iter().copied()).node(stub.url()).database(&database).run();
        let error = ran.expect(3).error();
        assert!(error.contains("use an archive node or a newer --block"), "{error}");
        assert!(stub.eth_calls().len() < 5, "{}", stub.eth_calls().len());
    }
    assert!(!beside(&file, ".partial").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_cannot_be_read_ends_it_unless_it_may_be_missing() {
    let chain = faulty_chain([(7, TokenFault::Revert), (41, TokenFault::Return31)]).await;
    let database = unread_table(200);
    let block = chain.block_number().await.unwrap().to_string();
    let file = file_of(&database, "a.csv.zst");
    let first = sorted_addresses([7, 41]).remove(0);

    let run =
        |options: &[&str]| snapshot(&chain.url(), &block, &file, options).database(&database).run();
    let ran = run(&[]).expect(3);
    let error = ran.error();
    assert!(
        error.starts_with(&format!("error: {first} cannot be read at block {block}: ")),
        "{error}"
    );
    assert!(error.contains("--allow-missing"), "{error}");
    assert!(!file.exists());

    let ran = run(&["--resume", "--allow-missing"]).expect(0);
    assert_eq!((&ran.json()["rows"], &ran.json()["missing"]), (&json!(198), &json!(2)));
    assert_eq!(ran.conclusion()["outcome"], "partial");
    assert_eq!(manifest(&file)["missing"], json!(sorted_addresses([7, 41])));
    assert_eq!(text_of(&file), genesis_rows((0..200).filter(|n| ![7, 41].contains(n))));
    check(&chain.url(), &file, &["--all"]).run().expect(0);

    let only = address_lines([7, 41]);
    let ran = snapshot(&chain.url(), &block, &file, &["--allow-missing", "--from-csv=-"]);
    assert!(ran.input(only).run().expect(3).error().contains("not one of 2 wallets"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_replaced_meanwhile_is_noticed() {
    for is_at_the_end in [false, true] {
        let chain = Chain::builder().start().await.unwrap();
        chain.mine(9).await.unwrap();
        // Empty blocks would be the same again.
        transfer(&chain, 90, 91, U256::from(1)).await;
        let stub = stub_of(&chain);
        let database = unread_table(600);
        let file = file_of(&database, "a.csv");
        let slow =
            if is_at_the_end { When::eth_call().after(6) } else { When::eth_call().after(2) };
        stub.fault(Fault::Delay(std::time::Duration::from_secs(2)), slow.times(1));
        if is_at_the_end {
            // An endpoint that takes hashes says so by itself.
            let replaced = chain.header(9).await.unwrap();
            let by_number = When::method("eth_getBlockByNumber").mentioning("0xa").after(1);
            stub.fault(
                Fault::Answer(json!({"number": "0xa", "hash": replaced["hash"],
                "parentHash": replaced["hash"], "timestamp": replaced["timestamp"]})),
                by_number,
            );
        }
        let options = ["--chunk=100", "--concurrency=1", "--retries=1"];
        let running = snapshot(&stub.url(), "10", &file, &options).database(&database).start();
        if !is_at_the_end {
            crate::support::program::eventually("reading", || stub.eth_calls().len() > 2);
            chain.reorg(3).await.unwrap();
        }
        let ran = running.wait();
        assert_eq!(
            ran.status,
            3,
            "at the end: {is_at_the_end}, {:?} {ran:?}",
            chain.header(10).await
        );
        assert!(ran.error().contains("replaced"), "{ran:?}");
        assert!(!file.exists());
        let ran = snapshot(&chain.url(), "10", &file, &["--resume"]).database(&database).run();
        if !is_at_the_end {
            assert!(ran.expect(2).error().contains("run without --resume to start again"));
        }
        snapshot(&chain.url(), "10", &file, &[]).database(&database).run().expect(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_whatever_was_changed() {
    let chain = still_chain().await;
    let database = unread_table(300);
    let url = chain.url();
    let file = file_of(&database, "a.csv");
    snapshot(&url, "0", &file, &["--root"]).database(&database).run().expect(0);
    let said = check(&url, &file, &["--all"]).run().expect(0).json();
    assert_eq!((&said["checked"], &said["is_right"]), (&json!(300), &json!(true)));
    let said = check(&url, &file, &["--sample=17"]).run().expect(0).json();
    assert_eq!((&said["checked"], &said["rows"]), (&json!(17), &json!(300)));
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let row = 1 + lines[1..].iter().position(|line| !line.ends_with(",0")).unwrap();

    let digit = if lines[row].ends_with('1') { "2" } else { "1" };
    let one_digit = lines[row][..lines[row].len() - 1].to_owned() + digit;
    let changed = text.replace(lines[row], &one_digit);
    fs::write(&file, &changed).unwrap();
    let said = check(&url, &file, &["--all"]).run().expect(1).json();
    assert_eq!(said["different"], 1);
    let (wallet, total) = one_digit.split_once(',').unwrap();
    let chain_total = lines[row].split_once(',').unwrap().1;
    let difference = json!([{"wallet": wallet, "file": total, "chain": chain_total}]);
    assert_eq!(said["differences"], difference);
    assert_eq!(said["problems"].as_array().unwrap().len(), 3, "sum, SHA-256, root: {said}");

    // The manifest says the same as the file: only the chain knows better.
    let right = manifest(&file);
    let mut wrong = right.clone();
    for (field, what) in [("sum", 1), ("sha256", 2), ("root", 3)] {
        let problem = said["problems"][what - 1].as_str().unwrap();
        let now = problem.split(" is ").nth(1).unwrap().split(',').next().unwrap();
        wrong[field] = json!(now);
    }
    fs::write(beside(&file, ".json"), wrong.to_string()).unwrap();
    let said = check(&url, &file, &["--all"]).run().expect(1).json();
    assert_eq!((&said["problems"], &said["different"]), (&json!([]), &json!(1)));

    fs::write(beside(&file, ".json"), right.to_string()).unwrap();
    let last = format!("{}\n", lines[300]);
    let swapped =
        text.replacen(lines[1], "x", 1).replacen(lines[2], lines[1], 1).replacen('x', lines[2], 1);
    for (changed, what) in [
        (text.replace(&last, ""), "the number of rows is 299, not 300"),
        (swapped, "is not in order"),
        (text.replace(lines[row], &lines[row].to_uppercase()), "is not a row"),
        (text.replace(lines[row], &lines[row].replace(',', ",0")), "is not a row"),
        (format!("{text}\n"), "is not a row"),
    ] {
        fs::write(&file, &changed).unwrap();
        let ran = check(&url, &file, &[]).run().expect(1);
        let problems = ran.json()["problems"].to_string();
        assert!(problems.contains(what) && problems.contains("SHA-256"), "{what}: {problems}");
    }
    fs::write(&file, &text).unwrap();
    let mut of_other_block = right.clone();
    of_other_block["block_hash"] = json!(format!("0x{}", "1".repeat(64)));
    fs::write(beside(&file, ".json"), of_other_block.to_string()).unwrap();
    let said = check(&url, &file, &[]).run().expect(1).json();
    assert!(
        said["problems"][0].as_str().unwrap().starts_with("block 0 of the chain is "),
        "{said}"
    );

    let mut of_other_profile = right;
    of_other_profile["identity"]["chain_id"] = json!(5);
    fs::write(beside(&file, ".json"), of_other_profile.to_string()).unwrap();
    let error = check(&url, &file, &[]).run().expect(2).error();
    assert!(error.contains("(chain 5, not 1); give the --profile"), "{error}");
    fs::remove_file(beside(&file, ".json")).unwrap();
    let error = check(&url, &file, &[]).run().expect(2).error();
    assert!(error.contains("it is the manifest of the snapshot"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_compressed_file_is_found() {
    let chain = still_chain().await;
    let database = unread_table(300);
    for name in ["a.csv.gz", "a.csv.zst"] {
        let file = file_of(&database, name);
        snapshot(&chain.url(), "0", &file, &[]).database(&database).run().expect(0);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        let ran = check(&chain.url(), &file, &["--all"]).run();
        assert!(matches!(ran.status, 1 | 2), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_leave_in_order_also_if_the_first_call_takes_longest() {
    wide_chain().await;
    let stub = wide_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::Delay(std::time::Duration::from_secs(2)), When::eth_call().after(1).times(1));
    let file = file_of(&database, "a.csv");
    let options = ["--from-csv=-", "--chunk=100", "--concurrency=8"];
    let ran = snapshot(&stub.url(), "0", &file, &options).input(address_lines(0..20_000)).run();
    ran.expect(0);
    assert!(fs::read_to_string(&file).unwrap() == genesis_rows(0..20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_between_two_snapshots_is_written_row_by_row() {
    let chain = Chain::builder().start().await.unwrap();
    transfer(&chain, 90, 91, U256::from(7)).await;
    let database = Database::sqlite();
    let (older, newer) = (file_of(&database, "old.csv.gz"), file_of(&database, "new.csv"));
    let take = |block: &str, file: &Path, wallets: std::ops::Range<u64>| {
        let csv = address_lines(wallets);
        snapshot(&chain.url(), block, file, &["--from-csv=-"]).input(csv).run().expect(0);
    };
    take("0", &older, 0..199);
    take("1", &newer, 1..200);
    let compare = |older: &Path, newer: &Path, out: &Path| {
        let (older, newer) = (older.to_str().unwrap(), newer.to_str().unwrap());
        let out = out.to_str().unwrap();
        ethtally(["snapshot", "--since", older, newer, "--out", out, "--json"]).run()
    };
    let out = file_of(&database, "changes.csv");
    let said = compare(&older, &newer, &out).expect(0).json();
    for (field, count) in [("added", 1), ("gone", 1), ("changed", 2), ("unchanged", 196)] {
        assert_eq!(said[field], count, "{field}");
    }
    let total = async |n: u64, block: u64| chain.total_at(wallet(n), block).await.unwrap();
    let mut expected = vec![
        format!("{},gone,{},", address(0), total(0, 0).await),
        format!("{},added,,{}", address(199), total(199, 1).await),
    ];
    for n in [90, 91] {
        let (from, to) = (total(n, 0).await, total(n, 1).await);
        expected.push(format!("{},changed,{from},{to}", address(n)));
    }
    expected.sort_unstable();
    let text = fs::read_to_string(&out).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        (lines[0], &lines[1..]),
        ("wallet,change,from,to", &expected.iter().map(String::as_str).collect::<Vec<_>>()[..])
    );

    let packed = file_of(&database, "changes.csv.zst");
    compare(&older, &newer, &packed).expect(0);
    assert_eq!(text_of(&packed), text);
    let same = compare(&newer, &newer, &out).expect(0).json();
    assert_eq!((&same["changed"], &same["unchanged"]), (&json!(0), &json!(199)));

    let changed = fs::read_to_string(&newer).unwrap().replacen(",1", ",2", 1);
    fs::write(&newer, changed).unwrap();
    fs::remove_file(&out).unwrap();
    let error = compare(&older, &newer, &out).expect(2).error();
    assert!(error.contains("is not the file that its manifest is of"), "{error}");
    assert!(!out.exists() && !beside(&out, ".partial").exists());
}
