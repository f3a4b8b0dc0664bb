//! `watch` with other commands on one database, and signals while it works.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ethtally_testbed::{
    Chain,
    stub::{Fault, When},
    wallet,
};
use serde_json::json;

use crate::support::{
    chains::{chain_and_stub, transfer},
    database::{Database, on_both_databases},
    program::{ethtally, eventually, eventually_async},
    table::{read_wallets, store_unread},
    wallets::{address, address_lines, addresses, one_audio, spenders},
    watch::{
        JsonWatch, assert_matches_chain, caught_up, checkpoint, mismatches, row, start,
        start_connected, watch,
    },
};

on_both_databases! {
    a_second_watch_stands_by_and_takes_over
    a_concurrent_sweep_makes_no_total_older
    other_commands_work_beside_watch
    a_signal_while_filling_a_long_gap_loses_nothing
    a_signal_while_the_node_is_slow_loses_nothing
}

/// The names of the events so far.
fn events(watching: &JsonWatch) -> Vec<String> {
    watching.lines().iter().map(|line| line["event"].as_str().unwrap_or("?").to_owned()).collect()
}

async fn a_second_watch_stands_by_and_takes_over(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..1_000);
    let users = spenders(100);
    let mut first = start_connected(watch("", chain.url(), &database));
    let mut touched = BTreeSet::new();
    for (round, signal) in ["TERM", "KILL", "INT"].into_iter().enumerate() {
        let second = start(watch("", chain.url(), &database));
        second.until("standby", 1);
        let (from, to) = (users[round], users[round + 10]);
        transfer(&chain, from, to, one_audio()).await;
        touched.extend([from, to]);
        caught_up(&chain, &database).await;
        assert_eq!(mismatches(&chain, &database, touched.iter().copied()).await, []);
        assert_eq!(events(&second), ["standby"], "it does nothing");

        let signalled = Instant::now();
        first.signal(signal);
        // While no watch is active.
        let (from, to) = (users[round + 20], users[round + 30]);
        transfer(&chain, from, to, one_audio()).await;
        touched.extend([from, to]);
        second.until("active", 1);
        assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
        caught_up(&chain, &database).await;
        assert_eq!(mismatches(&chain, &database, touched.iter().copied()).await, []);
        let status = BTreeMap::from([("TERM", 143), ("KILL", -9), ("INT", 130)])[signal];
        first.wait().0.expect(status);
        first = second;
    }
    // A standby can be stopped too.
    let standby = start(watch("", chain.url(), &database));
    standby.until("standby", 1);
    let lines = standby.stop();
    assert_eq!(lines.last().unwrap()["updated"], 0);
    first.stop();
    assert_eq!(read_wallets(&database).await, addresses(touched));
}

/// Observes all rows until `done`, and panics if a read block decreases. Returns the totals by wallet and block.
async fn observe_rows(database: &Database, done: &AtomicBool) -> BTreeMap<(String, u64), String> {
    let rows = "select wallet, read_block, balance from eth_wallet_balances
                where read_block is not null";
    let mut newest = BTreeMap::<String, u64>::new();
    let mut seen = BTreeMap::new();
    while !done.load(Ordering::Relaxed) {
        for row in database.sql(rows).await {
            let columns: Vec<_> = row.split('|').collect();
            let (wallet, block) = (columns[0].to_owned(), columns[1].parse().expect("a number"));
            let before = newest.insert(wallet.clone(), block);
            assert!(before <= Some(block), "{wallet} was read at {before:?}, and then {row}");
            seen.insert((wallet, block), columns[2].to_owned());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    seen
}

async fn a_concurrent_sweep_makes_no_total_older(database: Database) {
    const WALLETS: u64 = 60;
    let (chain, stub) = chain_and_stub().await;
    let database = Arc::new(database);
    let users: Vec<_> = spenders(100).into_iter().take(WALLETS as usize).collect();
    store_unread(&database, users.iter().copied());
    // Slow reads, so that sweeps often supersede them.
    stub.fault(Fault::Delay(Duration::from_millis(150)), When::eth_call());
    let arguments = format!("--ws-url {}", chain.ws_url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));

    let done = Arc::new(AtomicBool::new(false));
    let (url, table, end) = (chain.url(), Arc::clone(&database), Arc::clone(&done));
    let sweeping = std::thread::spawn(move || {
        let mut sweeps = 0;
        while !end.load(Ordering::Relaxed) {
            ethtally(["sweep", "--all"]).node(&url).database(&table).run().expect(0);
            sweeps += 1;
        }
        sweeps
    });
    let (table, end) = (Arc::clone(&database), Arc::clone(&done));
    let looking = tokio::spawn(async move { observe_rows(&table, &end).await });
    let mut newest_event = BTreeMap::new();
    for n in 0..120 {
        let (from, to) = (users[n * 7 % users.len()], users[(n * 11 + 3) % users.len()]);
        let block = transfer(&chain, from, to, one_audio()).await;
        newest_event.extend([(from, block), (to, block)]);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    done.store(true, Ordering::Relaxed);
    let sweeps = tokio::task::spawn_blocking(|| sweeping.join()).await.unwrap().unwrap();
    let seen = looking.await.unwrap();
    assert!(sweeps > 3, "{sweeps} sweeps");

    // The block of an event whose read was superseded is stored with the next block.
    chain.mine(1).await.unwrap();
    let numbers: BTreeMap<_, _> = users.iter().map(|n| (address(*n), *n)).collect();
    for ((wallet_hex, block), total) in seen.iter().step_by(7) {
        let wallet = wallet(numbers[wallet_hex]);
        // While Anvil mines, a call at the newest block may see the next one.
        let mut expected = Vec::new();
        for block in [*block, block + 1] {
            expected.push(chain.total_at(wallet, block).await.unwrap().to_string());
        }
        assert!(expected.contains(total), "{wallet_hex} at block {block}: {total} {expected:?}");
    }
    caught_up(&chain, &database).await;
    assert_eq!(mismatches(&chain, &database, users.iter().copied()).await, []);
    let superseded = watching.stop().last().unwrap()["superseded"].clone();
    assert!(superseded.as_u64() > Some(0), "no read was superseded: {superseded}");
    for (n, block) in newest_event {
        let row = row(&database, n).await;
        assert_eq!(row.split('|').nth(1), Some(block.to_string().as_str()), "wallet {n}: {row}");
    }
}

async fn other_commands_work_beside_watch(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..100);
    let watching = start_connected(watch("", chain.url(), &database));
    let with = |arguments: &[&str]| {
        ethtally(arguments.iter().copied()).node(chain.url()).database(&database)
    };
    let swept = with(&["sweep", "--all", "--json"]).run().expect(0).json();
    assert_eq!((&swept["skipped"], &swept["updated"]), (&json!(false), &json!(100)));
    let wallets = address_lines(100..120);
    let added = with(&["backfill", "--from-csv", "-", "--json"]).input(wallets).run().expect(0);
    assert_eq!(added.json()["updated"], 20);
    let wallet = address(0);
    let refreshed = with(&["refresh", &wallet, "--json"]).run().expect(0).json();
    assert_eq!(refreshed["updated"], 1, "{refreshed}");
    assert_matches_chain(&chain, &database, [0, 50, 110]).await;
    transfer(&chain, spenders(100)[0], 115, one_audio()).await;
    caught_up(&chain, &database).await;
    assert_matches_chain(&chain, &database, [115]).await;
    let lines = watching.stop();
    assert_eq!((&lines.last().unwrap()["errors"], lines.len()), (&json!(0), 4), "{lines:?}");
}

async fn a_signal_while_filling_a_long_gap_loses_nothing(database: Database) {
    const EVERY: u64 = 20;
    const TRANSFERS: u64 = 100;
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..1_000);
    let users = spenders(100);
    let mut touched = BTreeMap::new();
    for n in 0..TRANSFERS {
        chain.mine(EVERY - 1).await.unwrap();
        let (from, to) = (users[n as usize], users[n as usize + TRANSFERS as usize]);
        let block = transfer(&chain, from, to, one_audio()).await;
        touched.extend([(from, block), (to, block)]);
    }
    // So slow that each stored part takes some seconds.
    let message = "eth_getLogs is limited to a 20 block range".to_owned();
    stub.fault(Fault::Delay(Duration::from_millis(150)), When::method("eth_getLogs"));
    stub.fault(Fault::LogsWiderThan(20, message), When::always());
    let arguments = format!("--from-block 1 --ws-url {}", chain.ws_url());
    let mut last = 0;
    for signal in ["TERM", "INT"] {
        let watching = start(watch(&arguments, stub.url(), &database));
        eventually_async("a part of it is done", async || checkpoint(&database).await > Some(last))
            .await;
        watching.signal(signal);
        let signalled = Instant::now();
        let (ran, lines) = watching.wait();
        ran.expect(if signal == "TERM" { 143 } else { 130 });
        assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
        let stopped = lines.last().unwrap();
        last = checkpoint(&database).await.unwrap();
        assert_eq!((&stopped["event"], &stopped["interrupted"]), (&json!("stopped"), &json!(true)));
        assert_eq!(stopped["checkpoint_block"], last);
        assert!(last < EVERY * TRANSFERS, "it had finished already");
        let done = touched.iter().filter(|(_, block)| **block <= last).map(|(n, _)| *n);
        assert_eq!(mismatches(&chain, &database, done).await, [], "up to the checkpoint at {last}");
    }
    stub.clear();
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    caught_up(&chain, &database).await;
    watching.stop();
    assert_eq!(mismatches(&chain, &database, touched.keys().copied()).await, []);
    assert_eq!(read_wallets(&database).await, addresses(touched.keys().copied()));
}

async fn a_signal_while_the_node_is_slow_loses_nothing(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..1_000);
    let users = spenders(100);
    let arguments = format!("--ws-url {}", chain.ws_url());
    let mut touched = BTreeSet::new();
    for (round, method) in ["eth_call", "eth_getLogs"].iter().enumerate() {
        let watching = start_connected(watch(&arguments, stub.url(), &database));
        let before = caught_up(&chain, &database).await;
        stub.forget();
        stub.fault(Fault::Delay(Duration::from_secs(25)), When::method(method));
        let (from, to) = (users[round], users[round + 10]);
        transfer(&chain, from, to, one_audio()).await;
        touched.extend([from, to]);
        eventually("it asks", || stub.count(method) > 0);
        assert_eq!(checkpoint(&database).await, Some(before));
        let lines = watching.stop();
        assert_eq!(lines.last().unwrap()["errors"], 0, "{lines:?}");
        assert_eq!(checkpoint(&database).await, Some(before));
        stub.clear();
    }
    // Before the first connection.
    stub.forget();
    stub.fault(Fault::Delay(Duration::from_secs(25)), When::method("eth_getBlockByNumber"));
    let watching = start(watch(&arguments, stub.url(), &database));
    eventually("it asks", || stub.count("eth_getBlockByNumber") > 0);
    watching.signal("TERM");
    let signalled = Instant::now();
    watching.wait().0.expect(143);
    assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
    stub.clear();

    let watching = start_connected(watch(&arguments, stub.url(), &database));
    caught_up(&chain, &database).await;
    watching.stop();
    assert_eq!(mismatches(&chain, &database, touched.iter().copied()).await, []);
    assert_eq!(read_wallets(&database).await, addresses(touched));
}
