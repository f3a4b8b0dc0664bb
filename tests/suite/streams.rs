//! Commands that end on their own: what becomes of their output with a slow reader, and of a run at a signal.

use std::{
    io::{BufRead, BufReader, Read},
    thread,
    time::{Duration, Instant},
};

use ethtally_testbed::stub::{Fault, When};
use serde_json::Value;

use crate::support::{
    chains::{chain_and_stub, still_chain},
    database::Database,
    program::{Running, ethtally, eventually, eventually_async, refresh_first},
    table::{read_wallets, store_unread},
    wallets::address_lines,
    watch::Lines,
};

/// More wallets than fit as JSON into a pipe (64 KiB).
const MANY: u64 = 1_000;

/// Starts `refresh --json` of many wallets and waits until all are stored, while nobody reads its output.
async fn refresh_many_unread(database: &Database) -> Running {
    let node = still_chain().await.url();
    ethtally(["migrate"]).database(database).run().expect(0);
    let running = refresh_first(MANY, &[]).node(node).database(database).start();
    eventually_async("all wallets are stored", async || {
        read_wallets(database).await.len() as u64 == MANY
    })
    .await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_the_whole_result() {
    let database = Database::sqlite();
    let mut running = refresh_many_unread(&database).await;
    // Longer than a reader of notes is waited for.
    thread::sleep(Duration::from_secs(7));
    assert!(!running.has_ended());
    let (mut stdout, stderr) = running.output();
    let stderr = Lines::of(stderr);
    let mut result = Vec::new();
    let mut part = [0; 4_096];
    loop {
        let read = stdout.read(&mut part).unwrap();
        if read == 0 {
            break;
        }
        result.extend_from_slice(&part[..read]);
        thread::sleep(Duration::from_millis(20));
    }
    assert!(result.len() > 1 << 16, "{} bytes", result.len());
    let result: Value = serde_json::from_slice(&result).expect("the whole JSON");
    assert_eq!(result["wallets"].as_array().map(Vec::len), Some(MANY as usize));
    running.wait().expect(0);
    assert_eq!(stderr.all().len(), 1, "the counts as a note");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_command_whose_result_nobody_reads() {
    let database = Database::sqlite();
    let mut running = refresh_many_unread(&database).await;
    thread::sleep(Duration::from_millis(500));
    assert!(!running.has_ended());
    let signalled = Instant::now();
    running.signal("TERM");
    eventually("it ends", || running.has_ended());
    assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
    // What it reads now is what the pipe held.
    assert_eq!(running.wait().status, 143);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_says_at_once_that_it_stops_and_how_to_continue() {
    for (command, next) in [
        (&["backfill", "--from-csv", "-"][..], "note: run it again with --resume to continue"),
        (&["sweep", "--all"], "note: the next run continues with the oldest rows"),
    ] {
        let (_chain, stub) = chain_and_stub().await;
        let database = Database::sqlite();
        store_unread(&database, 0..5);
        stub.fault(Fault::Delay(Duration::from_secs(3)), When::method("eth_call"));
        let run = ethtally(command.iter().copied()).node(stub.url()).database(&database);
        let mut running = run.input(address_lines(0..5)).start();
        let (_, stderr) = running.output();
        let stderr = Lines::of(stderr);
        eventually("a call is in progress", || stub.count("eth_call") > 0);
        let signalled = Instant::now();
        running.signal("INT");
        eventually("the first note", || !stderr.so_far().is_empty());
        assert!(signalled.elapsed() < Duration::from_secs(2), "{:?}", signalled.elapsed());
        running.wait().expect(130);
        assert_eq!(stderr.all(), ["note: stopping; saving what was read", next], "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    store_unread(&database, 0..5);
    stub.fault(Fault::Hang, When::method("eth_call"));
    let mut running = ethtally(["sweep"]).node(stub.url()).database(&database).start();
    let (_, stderr) = running.output();
    eventually("a call is in progress", || stub.count("eth_call") > 0);
    running.signal("TERM");
    let mut note = String::new();
    BufReader::new(stderr).read_line(&mut note).unwrap();
    assert_eq!(note, "note: stopping; saving what was read\n");
    let signalled = Instant::now();
    running.signal("INT");
    running.wait().expect(143);
    assert!(signalled.elapsed() < Duration::from_secs(2), "{:?}", signalled.elapsed());
}
