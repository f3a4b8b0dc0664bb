//! `--changes`: totals that changed, told once they are stored.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader},
    os::unix::fs::OpenOptionsExt,
    process::Command,
};

use alloy::primitives::U256;
use ethtally_testbed::{Chain, wallet};
use serde_json::{Value, json};

use crate::support::{
    chains::{still_chain, transfer},
    database::{Database, on_both_databases},
    program::{Output, ethtally, eventually, refresh_first, sweep_all},
    snapshots::file_of,
    table::{assert_read_at_genesis, store_unread, stored_totals, unread_table},
    wallets::{address, address_lines, genesis_totals, sorted_addresses},
    watch::{caught_up, start_connected, watch},
};

on_both_databases! {
    a_sweep_tells_exactly_the_totals_that_changed
    a_watch_tells_what_an_event_changed
}

/// The lines of a file.
fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

async fn a_sweep_tells_exactly_the_totals_that_changed(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..300);
    let file = file_of(&database, "changes.jsonl");
    let changes = format!("--changes={}", file.display());
    for write in ["--write=all", "--write=changed"] {
        let _ = fs::remove_file(&file);
        sweep_all(&database, &chain.url(), &[&changes, write]).run().expect(0);
        let expected = match write {
            "--write=all" => genesis_totals(0..300),
            _ => Default::default(),
        };
        let mut told = lines(&file);
        told.sort_by_key(|line| line["wallet"].to_string());
        let line =
            |(wallet, total)| json!({"wallet": wallet, "old": null, "new": total, "block": 0});
        assert_eq!(told, expected.into_iter().map(line).collect::<Vec<_>>(), "{write}");
    }

    let before = stored_totals(&database).await;
    for write in ["--write=all", "--write=changed"] {
        // Within one second, SQLite does not know that a row was read before its bucket was selected.
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        fs::remove_file(&file).unwrap();
        let before =
            if write == "--write=all" { before.clone() } else { stored_totals(&database).await };
        let block = transfer(&chain, 90, 91, U256::from(7)).await;
        sweep_all(&database, &chain.url(), &[&changes, write]).run().expect(0);
        let mut told = lines(&file);
        told.sort_by_key(|line| line["wallet"].to_string());
        let now = stored_totals(&database).await;
        let line = |wallet: String| json!({"wallet": wallet, "old": before[&wallet], "new": now[&wallet], "block": block});
        let expected: Vec<_> = sorted_addresses([90, 91]).into_iter().map(line).collect();
        assert_eq!(told, expected, "{write}");
    }
    // An older read changes nothing.
    fs::remove_file(&file).unwrap();
    let old = [&changes[..], "--block=0"];
    let said = sweep_all(&database, &chain.url(), &old).run().expect(0).json();
    assert_eq!(said["superseded"], 300);
    assert_eq!(lines(&file), Vec::<Value>::new());
}

async fn a_watch_tells_what_an_event_changed(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..100);
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    let before = stored_totals(&database).await;
    let file = file_of(&database, "changes.jsonl");
    let arguments = format!("--changes {}", file.display());
    let watching = start_connected(watch(&arguments, chain.url(), &database));
    // From where it follows is settled by then.
    caught_up(&chain, &database).await;
    let block = transfer(&chain, 90, 91, U256::from(5)).await;
    caught_up(&chain, &database).await;
    eventually("told", || lines(&file).len() == 2);
    watching.stop();
    let mut told = lines(&file);
    told.sort_by_key(|line| line["wallet"].to_string());
    let mut expected = Vec::new();
    for n in [90, 91] {
        let new = chain.total(wallet(n)).await.unwrap().to_string();
        let wallet = address(n);
        expected
            .push(json!({"wallet": wallet, "old": before[&wallet], "new": new, "block": block}));
    }
    expected.sort_by_key(|line| line["wallet"].to_string());
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_and_backfill_tell_changes_too_and_append_them() {
    let url = still_chain().await.url();
    let database = Database::sqlite();
    let file = file_of(&database, "changes.jsonl");
    let changes = format!("--changes={}", file.display());
    refresh_first(3, &[&changes]).node(&url).database(&database).run().expect(0);
    ethtally(["backfill", "--from-csv=-", &changes])
        .node(&url)
        .database(&database)
        .input(address_lines(0..5))
        .run()
        .expect(0);
    assert_eq!(lines(&file).len(), 5);
}

fn on_stdout(options: &[&str], database: &Database, url: &str) -> Output {
    let arguments = ["sweep", "--all", "--changes=-"].into_iter().chain(options.iter().copied());
    ethtally(arguments).node(url).database(database).run().expect(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_stdout_there_is_nothing_but_json() {
    let url = still_chain().await.url();
    let ran = on_stdout(&[], &unread_table(50), &url);
    assert_eq!(ran.stdout.lines().count(), 50);
    assert!(ran.stdout.lines().all(|line| line.starts_with("{\"wallet\":\"0x")), "{ran:?}");
    assert!(ran.stderr.contains("note: sweep complete requested:50"), "{ran:?}");

    let ran = on_stdout(&["--json"], &unread_table(50), &url);
    let lines: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 51);
    assert_eq!(lines.iter().filter(|line| line["command"] == "sweep").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_ends_the_changes_and_not_the_sweep() {
    let url = still_chain().await.url();
    let database = unread_table(1_000);
    let ran = sweep_all(&database, &url, &["--changes=/dev/full"]).run().expect(0);
    assert_eq!(ran.json()["updated"], 1_000);
    let warnings: Vec<_> = ran.stderr.lines().filter(|line| line.contains("--changes")).collect();
    assert_eq!(warnings.len(), 1, "{ran:?}");
    assert!(
        warnings[0].contains("No space left") && warnings[0].contains("totals are stored"),
        "{ran:?}"
    );
    assert_read_at_genesis(&database, 1_000, &[]).await;

    let ran = sweep_all(&database, &url, &["--changes=/no/folder/file"]).run().expect(2);
    assert!(ran.error().contains("--changes /no/folder/file: cannot be written"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_is_closed_or_not_read_ends_the_changes_and_not_the_sweep() {
    let url = still_chain().await.url();
    let database = unread_table(1_000);
    let pipe = file_of(&database, "pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let changes = format!("--changes={}", pipe.display());
    // Nobody opens it.
    let ran = sweep_all(&database, &url, &[&changes]).run().expect(0);
    assert_eq!(ran.json()["updated"], 1_000);
    assert!(ran.stderr.contains("--changes is not read"), "{ran:?}");

    // Somebody reads one line and leaves.
    database.sql("update eth_wallet_balances set balance = '1'").await;
    let reader =
        OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&pipe).unwrap();
    let running = sweep_all(&database, &url, &[&changes, "--chunk=10", "--concurrency=1"]).start();
    let mut reader = BufReader::with_capacity(64, reader);
    let mut line = String::new();
    eventually("a line", || {
        reader.read_line(&mut line).is_ok_and(|count| count > 0) && line.ends_with('\n')
    });
    drop(reader);
    let ran = running.wait().expect(0);
    assert_eq!(ran.json()["updated"], 1_000);
    assert!(ran.stderr.lines().filter(|line| line.contains("--changes")).count() <= 1, "{ran:?}");
    assert_read_at_genesis(&database, 1_000, &[]).await;
}
