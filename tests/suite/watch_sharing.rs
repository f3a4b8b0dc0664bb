//! `watch` and others at one database, and ends in the middle of its work.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain, holding,
    stub::{Fault, Stub, When},
    wallet,
};
use serde_json::json;

use crate::{
    harness::{Database, ethtally, eventually, on_both_databases},
    watching::{Watching, assert_right, caught_up, checkpoint, row, start, watch, wrong},
    world::{address, addresses, lines, read_wallets, store_unread},
};

on_both_databases! {
    a_second_watch_stands_by_and_takes_over
    a_sweep_beside_it_makes_no_total_older
    other_commands_do_their_work_beside_it
    a_signal_in_a_long_fill_loses_nothing
    a_signal_while_the_node_is_slow_loses_nothing
}

/// One AUDIO.
fn one() -> U256 {
    U256::from(10).pow(U256::from(18))
}

/// Wallets that can give an AUDIO away more than once.
fn users() -> Vec<u64> {
    (0..1_000).filter(|n| holding(*n).balance > one() * U256::from(100)).collect()
}

/// A block with a transfer; returns its number.
async fn transfer(chain: &Chain, from: u64, to: u64) -> u64 {
    chain.transfer(wallet(from), wallet(to), one()).await.unwrap();
    chain.block_number().await.unwrap()
}

/// What a `watch` told, without when.
fn events(watching: &Watching) -> Vec<String> {
    watching.told().iter().map(|line| line["event"].as_str().unwrap_or("?").to_owned()).collect()
}

async fn a_second_watch_stands_by_and_takes_over(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..1_000);
    let users = users();
    let mut first = start(watch("", chain.url(), &database));
    first.until("connected", 1);
    let mut touched = BTreeSet::new();
    for (round, signal) in ["TERM", "KILL", "INT"].into_iter().enumerate() {
        let second = start(watch("", chain.url(), &database));
        second.until("standby", 1);
        let (from, to) = (users[round], users[round + 10]);
        transfer(&chain, from, to).await;
        touched.extend([from, to]);
        caught_up(&chain, &database).await;
        assert_eq!(wrong(&chain, &database, touched.iter().copied()).await, []);
        assert_eq!(events(&second), ["standby"], "it does nothing");

        let signalled = Instant::now();
        first.signal(signal);
        // Nobody is there to see it.
        let (from, to) = (users[round + 20], users[round + 30]);
        transfer(&chain, from, to).await;
        touched.extend([from, to]);
        second.until("active", 1);
        assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
        caught_up(&chain, &database).await;
        assert_eq!(wrong(&chain, &database, touched.iter().copied()).await, []);
        let status = BTreeMap::from([("TERM", 143), ("KILL", -9), ("INT", 130)])[signal];
        first.wait().0.expect(status);
        first = second;
    }
    // One that stands by has nothing in hand, and ends as well.
    let standby = start(watch("", chain.url(), &database));
    standby.until("standby", 1);
    let told = standby.stop();
    assert_eq!(told.last().unwrap()["updated"], 0);
    first.stop();
    assert_eq!(read_wallets(&database).await, addresses(touched));
}

/// Looks at all rows until `done`: no read may ever be older than one before. Returns every row seen, as wallet
/// and block with the total.
async fn look_on(database: &Database, done: &AtomicBool) -> BTreeMap<(String, u64), String> {
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

async fn a_sweep_beside_it_makes_no_total_older(database: Database) {
    const WALLETS: u64 = 60;
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let database = Arc::new(database);
    let users: Vec<_> = users().into_iter().take(WALLETS as usize).collect();
    ethtally(["backfill", "--from-csv", "-", "--placeholders"])
        .database(&database)
        .input(lines(users.iter().copied()))
        .run()
        .expect(0);
    // What it reads has often been overtaken by a sweep when it comes to be stored.
    stub.fault(Fault::Delay(Duration::from_millis(150)), When::method("eth_call"));
    let arguments = format!("--ws-url {}", chain.ws_url());
    let watching = start(watch(&arguments, stub.url(), &database));
    watching.until("connected", 1);

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
    let looking = tokio::spawn(async move { look_on(&table, &end).await });
    let mut newest_event = BTreeMap::new();
    for n in 0..120 {
        let (from, to) = (users[n * 7 % users.len()], users[(n * 11 + 3) % users.len()]);
        let block = transfer(&chain, from, to).await;
        newest_event.extend([(from, block), (to, block)]);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    done.store(true, Ordering::Relaxed);
    let sweeps = tokio::task::spawn_blocking(|| sweeping.join()).await.unwrap().unwrap();
    let seen = looking.await.unwrap();
    assert!(sweeps > 3, "{sweeps} sweeps");

    // An event whose read was overtaken is noted with the next block.
    chain.mine(1).await.unwrap();
    let numbers: BTreeMap<_, _> = users.iter().map(|n| (address(*n), *n)).collect();
    for ((wallet_hex, block), total) in seen.iter().step_by(7) {
        let wallet = wallet(numbers[wallet_hex]);
        // Asked at its newest block while it makes the next, Anvil may answer of the next.
        let mut expected = Vec::new();
        for block in [*block, block + 1] {
            expected.push(chain.total_at(wallet, block).await.unwrap().to_string());
        }
        assert!(expected.contains(total), "{wallet_hex} at block {block}: {total} {expected:?}");
    }
    caught_up(&chain, &database).await;
    assert_eq!(wrong(&chain, &database, users.iter().copied()).await, []);
    let superseded = watching.stop().last().unwrap()["superseded"].clone();
    assert!(superseded.as_u64() > Some(0), "no read was overtaken: {superseded}");
    for (n, block) in newest_event {
        let row = row(&database, n).await;
        assert_eq!(row.split('|').nth(1), Some(block.to_string().as_str()), "wallet {n}: {row}");
    }
}

async fn other_commands_do_their_work_beside_it(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..100);
    let watching = start(watch("", chain.url(), &database));
    watching.until("connected", 1);
    let with = |arguments: &[&str]| {
        ethtally(arguments.iter().copied()).node(chain.url()).database(&database)
    };
    let swept = with(&["sweep", "--all", "--json"]).run().expect(0).json();
    assert_eq!((&swept["skipped"], &swept["updated"]), (&json!(false), &json!(100)));
    let wallets = lines(100..120);
    let added = with(&["backfill", "--from-csv", "-", "--json"]).input(wallets).run().expect(0);
    assert_eq!(added.json()["updated"], 20);
    let wallet = address(0);
    let refreshed = with(&["refresh", &wallet, "--json"]).run().expect(0).json();
    assert_eq!(refreshed["updated"], 1, "{refreshed}");
    assert_right(&chain, &database, [0, 50, 110]).await;
    transfer(&chain, users()[0], 115).await;
    caught_up(&chain, &database).await;
    assert_right(&chain, &database, [115]).await;
    let told = watching.stop();
    assert_eq!((&told.last().unwrap()["errors"], told.len()), (&json!(0), 4), "{told:?}");
}

async fn a_signal_in_a_long_fill_loses_nothing(database: Database) {
    const EVERY: u64 = 20;
    const TRANSFERS: u64 = 100;
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    store_unread(&database, 0..1_000);
    let users = users();
    let mut touched = BTreeMap::new();
    for n in 0..TRANSFERS {
        chain.mine(EVERY - 1).await.unwrap();
        let (from, to) = (users[n as usize], users[n as usize + TRANSFERS as usize]);
        let block = transfer(&chain, from, to).await;
        touched.extend([(from, block), (to, block)]);
    }
    // Some seconds for each slice that is stored.
    let message = "eth_getLogs is limited to a 20 block range".to_owned();
    stub.fault(Fault::Delay(Duration::from_millis(150)), When::method("eth_getLogs"));
    stub.fault(Fault::LogsWiderThan(20, message), When::always());
    let arguments = format!("--from-block 1 --ws-url {}", chain.ws_url());
    let mut last = 0;
    for signal in ["TERM", "INT"] {
        let watching = start(watch(&arguments, stub.url(), &database));
        let handle = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            eventually("a part of it is done", || {
                handle.block_on(checkpoint(&database)) > Some(last)
            });
        });
        watching.signal(signal);
        let signalled = Instant::now();
        let (ran, told) = watching.wait();
        ran.expect(if signal == "TERM" { 143 } else { 130 });
        assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
        let stopped = told.last().unwrap();
        last = checkpoint(&database).await.unwrap();
        assert_eq!((&stopped["event"], &stopped["interrupted"]), (&json!("stopped"), &json!(true)));
        assert_eq!(stopped["checkpoint_block"], last);
        assert!(last < EVERY * TRANSFERS, "it was done already");
        let done = touched.iter().filter(|(_, block)| **block <= last).map(|(n, _)| *n);
        assert_eq!(wrong(&chain, &database, done).await, [], "up to the checkpoint at {last}");
    }
    stub.clear();
    let watching = start(watch(&arguments, stub.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    watching.stop();
    assert_eq!(wrong(&chain, &database, touched.keys().copied()).await, []);
    assert_eq!(read_wallets(&database).await, addresses(touched.keys().copied()));
}

async fn a_signal_while_the_node_is_slow_loses_nothing(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    store_unread(&database, 0..1_000);
    let users = users();
    let arguments = format!("--ws-url {}", chain.ws_url());
    let mut touched = BTreeSet::new();
    for (round, method) in ["eth_call", "eth_getLogs"].iter().enumerate() {
        let watching = start(watch(&arguments, stub.url(), &database));
        watching.until("connected", 1);
        let before = caught_up(&chain, &database).await;
        stub.forget();
        stub.fault(Fault::Delay(Duration::from_secs(25)), When::method(method));
        let (from, to) = (users[round], users[round + 10]);
        transfer(&chain, from, to).await;
        touched.extend([from, to]);
        eventually("it asks", || stub.count(method) > 0);
        assert_eq!(checkpoint(&database).await, Some(before));
        let told = watching.stop();
        assert_eq!(told.last().unwrap()["errors"], 0, "{told:?}");
        assert_eq!(checkpoint(&database).await, Some(before));
        stub.clear();
    }
    // Not even a connection yet.
    stub.forget();
    stub.fault(Fault::Delay(Duration::from_secs(25)), When::method("eth_getBlockByNumber"));
    let watching = start(watch(&arguments, stub.url(), &database));
    eventually("it asks", || stub.count("eth_getBlockByNumber") > 0);
    watching.signal("TERM");
    let signalled = Instant::now();
    watching.wait().0.expect(143);
    assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
    stub.clear();

    let watching = start(watch(&arguments, stub.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    watching.stop();
    assert_eq!(wrong(&chain, &database, touched.iter().copied()).await, []);
    assert_eq!(read_wallets(&database).await, addresses(touched));
}
