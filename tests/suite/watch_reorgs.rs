//! `watch` with reorganisations: in the end all totals match the chain.

use std::{collections::BTreeSet, time::Duration};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    genesis::{PROVIDERS, delegators_of},
    socket::Socket,
    stub::{Fault, When},
    wallet,
};

use crate::support::{
    chains::stub_of,
    database::{Database, on_both_databases},
    program::{Ethtally, sweep_all},
    table::store_unread,
    wallets::{one_audio, spenders},
    watch::{
        JsonWatch, caught_up, checkpoint, mismatches, start, start_connected, until_matches_chain,
        watch,
    },
};

on_both_databases! {
    a_reorganisation_of_one_block_is_handled
    a_reorganisation_of_five_blocks_is_handled
    a_reorganisation_of_sixty_four_blocks_is_handled
    a_reorganisation_while_watch_is_down_is_found_at_the_start
    other_transfers_at_the_same_heights_are_found
    a_chain_that_is_rolled_back_and_grows_again_is_followed
    wallets_of_removed_logs_are_read_again
    a_reorganisation_during_a_stalled_websocket_is_found
    a_reorganisation_within_the_confirmations_is_ignored
    a_reorganisation_deeper_than_what_is_remembered_is_reported_and_repaired
    rows_that_a_sweep_read_at_replaced_blocks_are_read_again
    a_confirmation_at_a_replaced_block_is_taken_back
    every_row_is_right_where_it_was_confirmed_whatever_is_replaced
}

/// Mines a block with a transfer and another event; returns the wallets whose totals may change.
async fn busy_block(chain: &Chain, i: u64) -> Vec<u64> {
    let users = spenders(2);
    let user = |n: u64| users[n as usize % users.len()];
    let provider = i / 5 % PROVIDERS;
    chain.set_automine(false).await.unwrap();
    let mut touched = match i % 5 {
        0 => {
            chain.claim(wallet(provider), one_audio()).await.unwrap();
            [vec![provider], delegators_of(provider)].concat()
        }
        1 => {
            chain.reward(wallet(user(i)), one_audio()).await.unwrap();
            vec![user(i)]
        }
        2 => {
            chain.slash(wallet(provider), one_audio() + one_audio()).await.unwrap();
            [vec![provider], delegators_of(provider)].concat()
        }
        3 => {
            chain.delegate(wallet(user(i)), wallet(provider), one_audio()).await.unwrap();
            vec![user(i), provider]
        }
        _ => {
            chain.mint(wallet(user(i)), one_audio()).await.unwrap();
            vec![user(i)]
        }
    };
    let (from, to) = (user(i + 70), user(i + 140));
    chain.transfer(wallet(from), wallet(to), U256::from(1_000_000_007 + i)).await.unwrap();
    chain.mine(1).await.unwrap();
    chain.set_automine(true).await.unwrap();
    touched.extend([from, to]);
    touched
}

/// Mines this many such blocks.
async fn busy_blocks(chain: &Chain, blocks: u64) -> BTreeSet<u64> {
    let mut touched = BTreeSet::new();
    for i in 0..blocks {
        touched.extend(busy_block(chain, i).await);
    }
    touched
}

/// A chain with ten blocks, placeholders of its wallets, and a connected `watch`.
async fn followed(arguments: &str, database: &Database) -> (Chain, JsonWatch) {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(10).await.unwrap();
    store_unread(database, 0..1_000);
    let watching = start_connected(watch(arguments, chain.url(), database));
    watching.until("began", 1);
    (chain, watching)
}

/// Asserts that a reorganisation of this depth is detected, and the affected wallets are read again.
async fn assert_reorganisation_is_handled(depth: u64, database: Database) {
    let (chain, watching) = followed("", &database).await;
    let touched = busy_blocks(&chain, depth).await;
    let head = caught_up(&chain, &database).await;
    assert_eq!(mismatches(&chain, &database, touched.iter().copied()).await, []);

    watching.signal("STOP");
    chain.reorg(depth).await.unwrap();
    let undone = mismatches(&chain, &database, touched.iter().copied()).await.len();
    watching.signal("CONT");
    until_matches_chain(&chain, &database, touched.iter().copied()).await;
    assert!(undone > touched.len() / 2, "{undone} of {} were undone", touched.len());
    let event = watching.until("reorg", 1);
    assert_eq!(
        (&event["from_block"], &event["to_block"], &event["wallets"]),
        (&(head - depth + 1).into(), &head.into(), &touched.len().into()),
        "{event}"
    );

    // It continues as usual.
    let touched = busy_blocks(&chain, 3).await;
    let head = caught_up(&chain, &database).await;
    assert_eq!(mismatches(&chain, &database, touched).await, []);
    let lines = watching.stop();
    let last = lines.last().unwrap();
    assert_eq!((&last["checkpoint_block"], &last["reorgs"]), (&head.into(), &1.into()), "{last}");
}

async fn a_reorganisation_of_one_block_is_handled(database: Database) {
    assert_reorganisation_is_handled(1, database).await;
}

async fn a_reorganisation_of_five_blocks_is_handled(database: Database) {
    assert_reorganisation_is_handled(5, database).await;
}

async fn a_reorganisation_of_sixty_four_blocks_is_handled(database: Database) {
    assert_reorganisation_is_handled(64, database).await;
}

async fn a_reorganisation_while_watch_is_down_is_found_at_the_start(database: Database) {
    let (chain, mut watching) = followed("", &database).await;
    let mut touched = BTreeSet::new();
    for round in 0..5 {
        let before = caught_up(&chain, &database).await;
        touched.extend(busy_blocks(&chain, 5).await);
        if round == 0 {
            caught_up(&chain, &database).await;
            watching.stop();
        } else {
            // At varying times, possibly between a read and its checkpoint.
            tokio::time::sleep(Duration::from_millis(7 * round)).await;
            watching.signal("KILL");
            watching.wait().0.expect(-9);
        }
        chain.reorg(5).await.unwrap();
        let mut wallets = touched.clone();
        wallets.extend(busy_block(&chain, 5).await);
        chain.mine(round).await.unwrap();
        watching = start(watch("", chain.url(), &database));
        caught_up(&chain, &database).await;
        until_matches_chain(&chain, &database, wallets).await;
        if round == 0 {
            let event = watching.until("reorg", 1);
            assert_eq!(event["from_block"], before + 1, "{event}");
            assert_eq!(event["wallets"], touched.len(), "{event}");
        }
    }
    watching.stop();
}

async fn other_transfers_at_the_same_heights_are_found(database: Database) {
    let (chain, watching) = followed("", &database).await;
    let users = spenders(2);
    let mut touched = BTreeSet::new();
    let mut transfer = async |from: usize, to: usize| {
        chain.transfer(wallet(users[from]), wallet(users[to]), one_audio()).await.unwrap();
        touched.extend([users[from], users[to]]);
        touched.clone()
    };
    // Three blocks are replaced by as many, then by more.
    for blocks in [3, 8] {
        let snapshot = chain.snapshot().await.unwrap();
        for n in 0..3 {
            transfer(n, n + 3).await;
        }
        let highest = caught_up(&chain, &database).await;
        chain.revert(snapshot).await.unwrap();
        let mut wallets = BTreeSet::new();
        for n in 10..10 + blocks {
            // Between other wallets, which rereading the orphaned blocks' wallets does not find.
            wallets = transfer(n, n + 10 * blocks).await;
            assert!(checkpoint(&database).await >= Some(highest), "the checkpoint moved back");
        }
        caught_up(&chain, &database).await;
        until_matches_chain(&chain, &database, wallets).await;
    }
    assert_eq!(watching.stop().last().unwrap()["reorgs"], 2);
}

async fn a_chain_that_is_rolled_back_and_grows_again_is_followed(database: Database) {
    let (chain, watching) = followed("", &database).await;
    let users = spenders(2);
    let snapshot = chain.snapshot().await.unwrap();
    let mut touched = busy_blocks(&chain, 10).await;
    let highest = caught_up(&chain, &database).await;
    chain.revert(snapshot).await.unwrap();
    for (n, to) in [(0, 30), (1, 31)] {
        chain.transfer(wallet(users[n]), wallet(users[to]), one_audio()).await.unwrap();
        touched.extend([users[n], users[to]]);
    }
    assert_eq!(checkpoint(&database).await, Some(highest));
    assert_eq!(chain.block_number().await.unwrap(), 12);
    // Totals of higher blocks stay until the chain reaches that height again; before, it looks like
    // a lagging node.
    while chain.block_number().await.unwrap() <= highest {
        chain.mine(1).await.unwrap();
    }
    let head = caught_up(&chain, &database).await;
    until_matches_chain(&chain, &database, touched).await;
    let event = watching.until("reorg", 1);
    assert_eq!(
        (&event["from_block"], &event["to_block"]),
        (&11.into(), &highest.into()),
        "{event}"
    );
    let lines = watching.stop();
    let last = lines.last().unwrap();
    assert_eq!((&last["checkpoint_block"], &last["reorgs"]), (&head.into(), &1.into()), "{last}");
}

async fn wallets_of_removed_logs_are_read_again(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    store_unread(&database, 0..1_000);
    let watching =
        start_connected(watch(&format!("--ws-url {}", socket.url()), chain.url(), &database));
    watching.until("began", 1);
    let touched = busy_blocks(&chain, 3).await;
    let head = caught_up(&chain, &database).await;
    let logs = chain.logs(1, head).await.unwrap();
    // The removed logs are the only notification.
    socket.mute_heads(true);
    chain.reorg(3).await.unwrap();
    socket.send_removed_logs(logs);
    watching.until("reorg", 1);
    until_matches_chain(&chain, &database, touched).await;
    watching.stop();
}

async fn a_reorganisation_during_a_stalled_websocket_is_found(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    store_unread(&database, 0..1_000);
    let arguments = format!("--max-lag 2 --ws-url {}", socket.url());
    let watching = start_connected(watch(&arguments, chain.url(), &database));
    watching.until("began", 1);
    let mut touched = busy_blocks(&chain, 5).await;
    caught_up(&chain, &database).await;
    socket.stall(true);
    chain.reorg(5).await.unwrap();
    touched.extend(busy_block(&chain, 7).await);
    // Over HTTP, while the WebSocket is silent.
    watching.until("reorg", 1);
    until_matches_chain(&chain, &database, touched.iter().copied()).await;
    assert!(!watching.events("disconnected").is_empty(), "{:?}", watching.lines());
    chain.reorg(2).await.unwrap();
    socket.stall(false);
    until_matches_chain(&chain, &database, touched).await;
    watching.stop();
}

async fn a_reorganisation_within_the_confirmations_is_ignored(database: Database) {
    let (chain, watching) = followed("--confirmations 5", &database).await;
    let mut touched = busy_blocks(&chain, 3).await;
    chain.mine(5).await.unwrap();
    let head = chain.block_number().await.unwrap();
    watching.until("connected", 1);
    until_matches_chain(&chain, &database, touched.iter().copied()).await;
    busy_blocks(&chain, 5).await;
    chain.reorg(5).await.unwrap();
    touched.extend(busy_block(&chain, 9).await);
    chain.mine(5).await.unwrap();
    until_matches_chain(&chain, &database, touched).await;
    let lines = watching.stop();
    let last = lines.last().unwrap();
    assert_eq!(last["reorgs"], 0, "{last}");
    assert_eq!(last["checkpoint_block"], head + 6, "{last}");
}

/// Mines blocks that are followed one after another, so that each is remembered.
async fn blocks_one_by_one(chain: &Chain, database: &Database, blocks: u64) {
    for _ in 0..blocks {
        chain.mine(1).await.unwrap();
        caught_up(chain, database).await;
    }
}

async fn a_reorganisation_deeper_than_what_is_remembered_is_reported_and_repaired(
    database: Database,
) {
    let (chain, watching) = followed("", &database).await;
    blocks_one_by_one(&chain, &database, 30).await;
    // Long ago at the time of the reorganisation: no events of theirs are remembered.
    let touched = busy_blocks(&chain, 10).await;
    blocks_one_by_one(&chain, &database, 160).await;
    let head = caught_up(&chain, &database).await;
    assert_eq!(mismatches(&chain, &database, touched.iter().copied()).await, []);
    let old = "update eth_wallet_balances set updated_at = '2026-01-01 00:00:00'";
    database.sql(old).await;

    watching.signal("STOP");
    chain.reorg(175).await.unwrap();
    let undone = mismatches(&chain, &database, touched.iter().copied()).await.len();
    assert!(undone > touched.len() / 2, "{undone} of {} were undone", touched.len());
    watching.signal("CONT");
    let event = watching.until("deep_reorg", 1);
    // Empty blocks are replaced by the same. The fork is bounded by a block that is remembered.
    let (from, first_busy) = (event["from_block"].as_u64().unwrap(), 41);
    assert!(from <= first_busy && from + 32 > first_busy, "{event}");
    assert_eq!(event["to_block"], head);
    // More where the first new head comes alone.
    assert!(event["deeper_than"].as_u64() >= Some(127), "{event}");
    until_matches_chain(&chain, &database, touched.iter().copied()).await;

    // It continues as usual.
    let touched = busy_blocks(&chain, 3).await;
    let head = caught_up(&chain, &database).await;
    assert_eq!(mismatches(&chain, &database, touched).await, []);
    let left = "select count(*) from eth_watch_blocks where hash = 'rows above'";
    assert_eq!(database.value(left).await, "0");
    assert_eq!(watching.stop().last().unwrap()["checkpoint_block"], head);
}

async fn rows_that_a_sweep_read_at_replaced_blocks_are_read_again(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(10).await.unwrap();
    store_unread(&database, 0..1_000);
    let stub = stub_of(&chain);
    let arguments = format!("--ws-url {}", chain.ws_url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    watching.until("began", 1);
    // A block that is announced, but that watch cannot follow before it is replaced.
    stub.fault(Fault::Hang, When::method("eth_getLogs").times(1));
    let touched = busy_blocks(&chain, 1).await;
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(mismatches(&chain, &database, touched.iter().copied()).await, []);
    watching.signal("STOP");
    chain.reorg(1).await.unwrap();
    let undone = mismatches(&chain, &database, touched.iter().copied()).await.len();
    assert!(undone > 0);
    watching.signal("CONT");
    until_matches_chain(&chain, &database, touched.iter().copied()).await;
    assert!(watching.events("error").is_empty(), "{:?}", watching.lines());
    watching.stop();
}

/// Prepares a sweep that writes only rows that changed.
fn sweep_changed(database: &Database, chain: &Chain) -> Ethtally {
    sweep_all(database, &chain.url(), &["--write", "changed"])
}

/// In SQLite, a confirmation does not count for rows that were written in the same second.
async fn next_second() {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
}

async fn a_confirmation_at_a_replaced_block_is_taken_back(database: Database) {
    let (chain, watching) = followed("", &database).await;
    sweep_changed(&database, &chain).run().expect(0);
    next_second().await;
    sweep_changed(&database, &chain).run().expect(0);
    let touched = busy_blocks(&chain, 2).await;
    let head = caught_up(&chain, &database).await;
    next_second().await;
    sweep_changed(&database, &chain).run().expect(0);
    let at_head = format!("select count(*) from eth_wallet_confirmations where block = {head}");
    assert_eq!(database.value(&at_head).await, "16");
    let fresh = format!("select count(*) from eth_wallet_freshness where read_block = {head}");
    assert_eq!(database.value(&fresh).await, "1000");

    // The block before the replaced ones is not touched.
    database.sql("update eth_wallet_confirmations set block = 10 where bucket = '0x5'").await;
    watching.signal("STOP");
    chain.reorg(2).await.unwrap();
    watching.signal("CONT");
    until_matches_chain(&chain, &database, touched.iter().copied()).await;
    let confirmed = "select bucket from eth_wallet_confirmations where block is not null or selected_at is not null";
    assert_eq!(database.sql(confirmed).await, ["0x5"]);
    let never_read = "select count(*) from eth_wallet_freshness where fresh_at < '1970-01-02'";
    assert_eq!(database.value(never_read).await, "0");
    watching.stop();
}

async fn every_row_is_right_where_it_was_confirmed_whatever_is_replaced(database: Database) {
    let (chain, watching) = followed("", &database).await;
    sweep_changed(&database, &chain).run().expect(0);
    for round in 0..5 {
        next_second().await;
        let sweep = sweep_changed(&database, &chain).start();
        busy_blocks(&chain, 1 + round % 3).await;
        chain.reorg(1 + round % 2).await.unwrap();
        sweep.wait().expect(0);
        busy_block(&chain, round).await;
    }
    // As long as what was read before a reorganisation may be stored.
    tokio::time::sleep(Duration::from_secs(16)).await;
    chain.mine(8).await.unwrap();
    let head = caught_up(&chain, &database).await;
    assert_eq!(mismatches(&chain, &database, 0..1_000).await, []);
    next_second().await;
    sweep_changed(&database, &chain).run().expect(0);
    assert_eq!(mismatches(&chain, &database, 0..1_000).await, []);
    let behind = format!("select count(*) from eth_wallet_freshness where read_block < {head}");
    assert_eq!(database.value(&behind).await, "0");
    watching.stop();
}
