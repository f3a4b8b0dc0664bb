//! `backfill`: reads wallets from CSV files of many kinds.

use std::{fs, path::Path};

use ethtally_testbed::{stub::When, wallet};
use serde_json::{Value, json};

use crate::support::{
    chains::{still_chain, still_stub, stub_of},
    database::{Database, on_both_databases},
    program::{Output, ethtally},
    requests::wallets_read,
    table::{date_rows, dump, read_wallets, store_unread},
    wallets::{address, address_lines, addresses, right_and_wrong_checksum, sorted_addresses},
};

on_both_databases! {
    every_kind_of_row_is_counted_and_every_wallet_is_read_once
    placeholders_are_the_oldest_rows_and_a_sweep_fills_them_first
    resume_skips_wallets_that_were_read
    a_second_run_only_changes_updated_at
}

/// Runs `backfill` with this CSV on stdin.
async fn backfill(database: &Database, csv: impl Into<Vec<u8>>, arguments: &[&str]) -> Output {
    let arguments = ["backfill", "--from-csv", "-", "--json"].iter().chain(arguments).copied();
    ethtally(arguments).node(still_chain().await.url()).database(database).input(csv).run()
}

/// These fields of a result.
fn fields(result: &Value, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| result[*name].as_u64().unwrap_or_else(|| panic!("{name}"))).collect()
}

const INTAKE: [&str; 4] = ["rows", "wallets", "duplicates", "rejected"];

async fn every_kind_of_row_is_counted_and_every_wallet_is_read_once(database: Database) {
    let chain = still_chain().await;
    let stub = stub_of(chain);
    let checksummed = wallet(1).to_checksum(None);
    let csv = format!(
        "id,wallet\n1,{}\n2,{checksummed}\n3,{}\n4,0x12\n5,{}\n6,{}\n",
        address(0),
        address(1),
        address(2),
        address(0)
    );
    let file = database.folder().join("wallets.csv");
    fs::write(&file, csv).unwrap();
    let run = |arguments: &[&str]| {
        let arguments = ["backfill", "--from-csv", "wallets.csv"].iter().chain(arguments).copied();
        ethtally(arguments).node(stub.url()).database(&database).folder(database.folder()).run()
    };

    let ran = run(&["--json"]).expect(0);
    assert_eq!(
        ran.without_time(),
        r#"{"command":"backfill","rows":6,"wallets":3,"duplicates":2,"rejected":1,"kept":0,"updated":3,"failed":0,"superseded":0,"calls":1,"block":0,"elapsed_ms":N,"skipped":false,"interrupted":false}"#
    );
    assert_eq!(
        ran.stderr,
        "note: line 5: \"0x12\" is not a wallet address: has 2 digits after 0x, not 40\n"
    );
    assert_eq!(wallets_read(&stub), sorted_addresses(0..3));
    let mut expected = Vec::new();
    for n in 0..3 {
        expected.push(format!("{}|{}|0|", address(n), chain.total(wallet(n)).await.unwrap()));
    }
    expected.sort_unstable();
    let stored =
        "select wallet, balance, read_block, blocknumber from eth_wallet_balances order by wallet";
    assert_eq!(database.sql(stored).await, expected);

    assert_eq!(
        run(&[]).expect(0).without_time(),
        "backfill complete rows:6 wallets:3 duplicates:2 rejected:1 kept:0 updated:3 failed:0 superseded:0 calls:1 block:0 in N ms"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_are_found_in_every_csv_variant() {
    let (a, b) = (address(0), address(1));
    let upper = |text: &str| format!("0x{}", text[2..].to_uppercase());
    let cases: [(String, &[&str]); 16] = [
        (format!("{a}\n{b}\n"), &[]),
        (format!("{a}\n{b}"), &[]),
        (format!("{a},x\n{b},y\n"), &[]),
        (format!("wallet\n{a}\n{b}\n"), &[]),
        (format!("id,ADDRESS\n1,{a}\n2,{b}\n"), &[]),
        (format!("name,Wallet,address\nx,{a},-\ny,{b},-\n"), &[]),
        (format!("account,name\n{a},x\n{b},y\n"), &[]),
        (format!("\u{feff}wallet\n{a}\n{b}\n"), &[]),
        (format!("\u{feff}{a}\n{b}\n"), &[]),
        (format!("id,wallet\r\n1,{a}\r\n2,{b}\r\n"), &[]),
        (format!("\u{feff}\"id\",\"wallet\"\r\n\"1\",\"{a}\"\r\n\"2\",\"{b}\"\r\n"), &[]),
        (format!("wallet,note\n{a},\"one, \"\"two\"\"\nthree\"\n{b},\n"), &[]),
        (format!(" {a} \n\n\t{b}\n\n"), &[]),
        (format!("{}\n{}\n", upper(&a), wallet(1).to_checksum(None)), &[]),
        (format!("wallet,Owner\nx,{a}\ny,{b}\n"), &["--column", "oWNER"]),
        (format!("owner,wallet\nx,{a}\ny,{b}\n"), &["--column", "wallet"]),
    ];
    for (csv, arguments) in cases {
        let database = Database::sqlite();
        let result = backfill(&database, csv.as_str(), arguments).await.expect(0).json();
        assert_eq!(fields(&result, &INTAKE), [2, 2, 0, 0], "{csv:?}");
        assert_eq!(read_wallets(&database).await, addresses(0..2), "{csv:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_ten_bad_rows_are_shown_and_all_of_them_are_written_to_a_file() {
    let database = Database::sqlite();
    let rejects = database.folder().join("rejects.csv");
    let mut csv = format!("wallet\n{}\n", address(0));
    for n in 0..25 {
        csv.push_str(&format!("\"bad, {n}\"\n"));
    }
    csv.push_str(&address_lines(1..3));

    let ran = backfill(&database, csv, &["--rejects", rejects.to_str().unwrap()]).await.expect(0);

    assert_eq!(fields(&ran.json(), &INTAKE), [28, 3, 0, 25]);
    assert_eq!(read_wallets(&database).await, addresses(0..3), "the other rows are read");
    let mut notes: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(
        notes.pop(),
        Some("note: further bad rows are not shown; --rejects FILE lists all of them")
    );
    let reason = "does not start with 0x";
    let expected: Vec<_> = (0..10)
        .map(|n| format!("note: line {}: \"bad, {n}\" is not a wallet address: {reason}", n + 3))
        .collect();
    assert_eq!(notes, expected);
    let mut written = String::from("line,value,reason\n");
    for n in 0..25 {
        written.push_str(&format!("{},\"bad, {n}\",{reason}\n", n + 3));
    }
    assert_eq!(fs::read_to_string(rejects).unwrap(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reject_is_reported_with_its_line_and_reason() {
    let database = Database::sqlite();
    let (good, bad) = right_and_wrong_checksum(0);
    let csv = format!(
        "id,wallet\n1,{good}\n2,\n3\n4,{}\n5,0x12\n6,{}g\n\"7\n7\",{bad}\n8,nobody\n",
        &good[2..],
        &good[..41]
    );

    let ran = backfill(&database, csv, &[]).await.expect(0);

    assert_eq!(fields(&ran.json(), &INTAKE), [8, 1, 0, 7]);
    let starts = [
        "note: line 3: \"\" is not a wallet address: is empty",
        "note: line 4: \"\" is not a wallet address: the row has too few columns",
        "note: line 5: ",
        "note: line 6: \"0x12\" is not a wallet address: has 2 digits",
        "note: line 7: ",
        "note: line 8: ",
        "note: line 10: \"nobody\" is not a wallet address: does not start with 0x",
    ];
    let notes: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(notes.len(), starts.len(), "{notes:#?}");
    for (note, start) in notes.iter().zip(starts) {
        assert!(note.starts_with(start), "{note}");
    }
    assert!(notes[5].contains(&bad) && notes[5].contains("checksum"), "{}", notes[5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_row_that_looks_like_an_address_is_not_a_header() {
    let a = address(0);
    for first in [a.replacen('x', "X", 1).as_str(), &a[2..], &a[2..41], "0x", "0x12"] {
        let database = Database::sqlite();
        let csv = format!("{first}\n{}", address_lines(1..3));
        let ran = backfill(&database, csv, &[]).await.expect(0);
        assert_eq!(fields(&ran.json(), &INTAKE), [3, 2, 0, 1], "{first}");
        assert!(ran.stderr.starts_with("note: line 1: "), "{first}: {ran:?}");
    }
}

async fn placeholders_are_the_oldest_rows_and_a_sweep_fills_them_first(database: Database) {
    let chain = still_chain().await;
    ethtally(["refresh", &address(0)]).node(chain.url()).database(&database).run().expect(0);
    let before = dump(&database).await;
    let csv = address_lines(0..4);

    // Without a node.
    let placeholders = || {
        let backfill = ethtally(["backfill", "--from-csv", "-", "--placeholders", "--json"]);
        backfill.database(&database).input(csv.as_str()).run().expect(0)
    };
    assert_eq!(
        placeholders().without_time(),
        r#"{"command":"backfill","rows":4,"wallets":4,"duplicates":0,"rejected":0,"kept":1,"updated":3,"failed":0,"superseded":0,"calls":0,"block":null,"elapsed_ms":N,"skipped":false,"interrupted":false}"#
    );
    let stored = dump(&database).await;
    assert_eq!(stored.len(), 4);
    assert!(stored.contains(&before[0]), "the existing row does not change");
    let unread = "select count(*) from eth_wallet_balances
        where updated_at = '1970-01-01 00:00:00' and read_block is null and balance = '0'";
    assert_eq!(database.value(unread).await, "3");
    assert_eq!(fields(&placeholders().json(), &["kept", "updated"]), [4, 0]);
    assert_eq!(dump(&database).await, stored);

    date_rows(&database, &[(0, "1970-01-01 00:00:01")]).await;
    let stub = stub_of(chain);
    ethtally(["sweep", "--batch", "3"]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(wallets_read(&stub), sorted_addresses(1..4));
    assert_eq!(read_wallets(&database).await, addresses(0..4));
}

async fn resume_skips_wallets_that_were_read(database: Database) {
    let stub = still_stub().await;
    let refresh = ethtally(["refresh", &address(0), &address(1)]).node(stub.url());
    refresh.database(&database).run().expect(0);
    store_unread(&database, 2..3);
    // A row of the original system: read, at an unknown block.
    let original =
        format!("insert into eth_wallet_balances (wallet, balance) values ('{}', '5')", address(5));
    database.sql(&original).await;
    let before = dump(&database).await;
    stub.forget();

    let resume = || {
        let backfill = ethtally(["backfill", "--from-csv", "-", "--resume", "--json"]);
        let backfill = backfill.node(stub.url()).database(&database).input(address_lines(0..6));
        backfill.run().expect(0)
    };
    let ran = resume();

    assert_eq!(wallets_read(&stub), sorted_addresses(2..5));
    assert_eq!(fields(&ran.json(), &["wallets", "duplicates", "updated", "kept"]), [6, 0, 3, 3]);
    let after = dump(&database).await;
    assert_eq!(after.len(), 6);
    let placeholder = address(2);
    let kept = before.iter().filter(|row| !row.starts_with(&placeholder));
    assert!(kept.clone().count() == 3 && kept.clone().all(|row| after.contains(row)));

    stub.forget();
    let ran = resume();
    assert_eq!(fields(&ran.json(), &["wallets", "updated", "kept", "calls"]), [6, 0, 6, 0]);
    assert_eq!(dump(&database).await, after);
}

async fn a_second_run_only_changes_updated_at(database: Database) {
    let csv = address_lines(0..300);
    let row = "select wallet, balance, blocknumber, created_at, read_block from eth_wallet_balances order by wallet";
    backfill(&database, csv.as_str(), &[]).await.expect(0);
    let first = database.sql(row).await;
    assert_eq!(first.len(), 300);
    date_rows(&database, &[(0, "2020-01-01 00:00:00")]).await;

    let ran = backfill(&database, csv, &[]).await.expect(0);

    assert_eq!(fields(&ran.json(), &["wallets", "updated", "superseded"]), [300, 300, 0]);
    assert_eq!(database.sql(row).await, first);
    let old = "select count(*) from eth_wallet_balances where updated_at < '2021-01-01'";
    assert_eq!(database.value(old).await, "0", "the row is fresh");
}

/// The error line for a file that `backfill` refuses.
async fn refused(database: &Database, csv: &Path, arguments: &[&str]) -> String {
    let csv = csv.to_str().unwrap();
    let arguments = [&["backfill", "--json", "--from-csv", csv], arguments].concat();
    let node = still_chain().await.url();
    ethtally(arguments).node(node).database(database).run().refused()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_file_is_refused_by_name() {
    let database = Database::sqlite();
    let folder = database.folder();
    let missing = folder.join("missing.csv");
    let error = refused(&database, &missing, &[]).await;
    let name = missing.display();
    assert_eq!(
        error,
        format!(
            "error: file {name}: cannot be read; check the path of --from-csv: No such file or directory (os error 2)"
        )
    );
    let error = refused(&database, folder, &[]).await;
    let name = folder.display();
    assert!(error.starts_with(&format!("error: file {name}: ")), "{error}");
    assert!(error.contains("directory"), "{error}");
    let loop_of_links = folder.join("loop.csv");
    std::os::unix::fs::symlink(&loop_of_links, &loop_of_links).unwrap();
    let error = refused(&database, &loop_of_links, &[]).await;
    assert!(error.contains("loop.csv: cannot be read"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_column_is_refused_with_the_existing_ones() {
    let database = Database::sqlite();
    let file = database.folder().join("users.csv");
    fs::write(&file, format!("id,wallet\n1,{}\n", address(0))).unwrap();
    let error = refused(&database, &file, &["--column", "eth_address"]).await;
    assert!(
        error.ends_with(
            "users.csv: there is no column \"eth_address\"; the first line has the columns id, wallet"
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rejects_file_must_not_be_the_input_file() {
    let database = Database::sqlite();
    let file = database.folder().join("wallets.csv");
    let csv = address_lines(0..2);
    fs::write(&file, &csv).unwrap();
    let link = database.folder().join("link.csv");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for rejects in [&file, &link] {
        let error = refused(&database, &file, &["--rejects", rejects.to_str().unwrap()]).await;
        assert!(error.contains("--rejects"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), csv);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_any_wallet_is_an_error() {
    let database = Database::sqlite();
    let garbage: Vec<u8> =
        (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for csv in [b"id,name\n1,x\n2,y\n".to_vec(), b"0x12\n".to_vec(), garbage] {
        let ran = backfill(&database, csv, &[]).await.expect(2);
        let result = ran.json();
        assert!(result["rows"].as_u64() > Some(0), "{result}");
        assert_eq!((&result["rows"], &result["wallets"]), (&result["rejected"], &json!(0)));
        assert!(
            ran.error().contains("holds a wallet address; name the column with --column"),
            "{ran:?}"
        );
    }
    assert_eq!(dump(&database).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_rows_is_an_error_that_needs_no_node() {
    let database = Database::sqlite();
    let stub = still_stub().await;
    stub.fault(ethtally_testbed::stub::Fault::Reset, When::always());
    for (csv, found) in [
        ("", "is empty and holds no wallet"),
        ("\u{feff}", "is empty and holds no wallet"),
        ("\n\r\n", "holds only blank lines"),
        ("wallet\n", "holds only a header, \"wallet\", and no wallet"),
        ("sep=;\r\n", "holds only blank lines"),
        ("sep=;\r\nid;wallet\r\n", "holds only a header, \"id, wallet\", and no wallet"),
    ] {
        let ran = ethtally(["backfill", "--from-csv", "-", "--json"])
            .node(stub.url())
            .database(&database)
            .input(csv)
            .run()
            .expect(2);
        assert_eq!(fields(&ran.json(), &INTAKE), [0, 0, 0, 0], "{csv:?}");
        let start = format!("error: standard input: {found}");
        assert!(ran.stderr.starts_with(&start), "{csv:?}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{csv:?}: {ran:?}");
    }
}
