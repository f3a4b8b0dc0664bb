//! `watch` on a chain whose blocks are replaced by others: in the end all is as the chain says.

use std::{collections::BTreeSet, time::Duration};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    genesis::{PROVIDERS, delegators_of, provider_of},
    holding,
    socket::Socket,
    wallet,
};

use crate::{
    harness::{Database, on_both_databases},
    watching::{Watching, caught_up, checkpoint, start, until_right, watch, wrong},
    world::store_unread,
};

on_both_databases! {
    what_a_reorganisation_of_one_block_undoes_is_read_again
    what_a_reorganisation_of_five_blocks_undoes_is_read_again
    what_a_reorganisation_of_sixty_four_blocks_undoes_is_read_again
    a_reorganisation_while_it_is_down_is_found_at_the_start
    other_transfers_at_the_same_heights_are_found
    a_chain_that_goes_back_and_grows_again_is_followed
    logs_that_are_withdrawn_have_their_wallets_read_again
    a_reorganisation_behind_a_silent_socket_is_found
    a_reorganisation_within_the_confirmations_changes_nothing
}

/// One AUDIO.
fn one() -> U256 {
    U256::from(10).pow(U256::from(18))
}

/// Wallets that have enough to give away, and no delegation that somebody else changes.
fn users() -> Vec<u64> {
    (PROVIDERS..1_000)
        .filter(|n| provider_of(*n).is_none() && holding(*n).balance > one() + one())
        .collect()
}

/// Makes a block with a transfer and something of another kind; returns whose totals it may change.
async fn busy_block(chain: &Chain, i: u64) -> Vec<u64> {
    let users = users();
    let user = |n: u64| users[n as usize % users.len()];
    let provider = i / 5 % PROVIDERS;
    chain.set_automine(false).await.unwrap();
    let mut touched = match i % 5 {
        0 => {
            chain.claim(wallet(provider), one()).await.unwrap();
            [vec![provider], delegators_of(provider)].concat()
        }
        1 => {
            chain.reward(wallet(user(i)), one()).await.unwrap();
            vec![user(i)]
        }
        2 => {
            chain.slash(wallet(provider), one() + one()).await.unwrap();
            [vec![provider], delegators_of(provider)].concat()
        }
        3 => {
            chain.delegate(wallet(user(i)), wallet(provider), one()).await.unwrap();
            vec![user(i), provider]
        }
        _ => {
            chain.mint(wallet(user(i)), one()).await.unwrap();
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

/// Makes so many such blocks.
async fn busy_blocks(chain: &Chain, blocks: u64) -> BTreeSet<u64> {
    let mut touched = BTreeSet::new();
    for i in 0..blocks {
        touched.extend(busy_block(chain, i).await);
    }
    touched
}

/// A chain with ten blocks, a table of its wallets, and a `watch` that follows it.
async fn followed(arguments: &str, database: &Database) -> (Chain, Watching) {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(10).await.unwrap();
    store_unread(database, 0..1_000);
    let watching = start(watch(arguments, chain.url(), database));
    watching.until("connected", 1);
    watching.until("began", 1);
    (chain, watching)
}

async fn a_reorganisation(depth: u64, database: Database) {
    let (chain, watching) = followed("", &database).await;
    let touched = busy_blocks(&chain, depth).await;
    let head = caught_up(&chain, &database).await;
    assert_eq!(wrong(&chain, &database, touched.iter().copied()).await, []);

    watching.signal("STOP");
    chain.reorg(depth).await.unwrap();
    let undone = wrong(&chain, &database, touched.iter().copied()).await.len();
    watching.signal("CONT");
    until_right(&chain, &database, touched.iter().copied()).await;
    assert!(undone > touched.len() / 2, "{undone} of {} were undone", touched.len());
    let told = watching.until("reorg", 1);
    assert_eq!(
        (&told["from_block"], &told["to_block"], &told["wallets"]),
        (&(head - depth + 1).into(), &head.into(), &touched.len().into()),
        "{told}"
    );

    // It goes on as if nothing had been.
    let touched = busy_blocks(&chain, 3).await;
    let head = caught_up(&chain, &database).await;
    assert_eq!(wrong(&chain, &database, touched).await, []);
    let told = watching.stop();
    let last = told.last().unwrap();
    assert_eq!((&last["checkpoint_block"], &last["reorgs"]), (&head.into(), &1.into()), "{last}");
}

async fn what_a_reorganisation_of_one_block_undoes_is_read_again(database: Database) {
    a_reorganisation(1, database).await;
}

async fn what_a_reorganisation_of_five_blocks_undoes_is_read_again(database: Database) {
    a_reorganisation(5, database).await;
}

async fn what_a_reorganisation_of_sixty_four_blocks_undoes_is_read_again(database: Database) {
    a_reorganisation(64, database).await;
}

async fn a_reorganisation_while_it_is_down_is_found_at_the_start(database: Database) {
    let (chain, mut watching) = followed("", &database).await;
    let mut touched = BTreeSet::new();
    for round in 0..5 {
        let before = caught_up(&chain, &database).await;
        touched.extend(busy_blocks(&chain, 5).await);
        if round == 0 {
            caught_up(&chain, &database).await;
            watching.stop();
        } else {
            // At any moment, also between a read and its checkpoint.
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
        until_right(&chain, &database, wallets).await;
        if round == 0 {
            let told = watching.until("reorg", 1);
            assert_eq!(told["from_block"], before + 1, "{told}");
            assert_eq!(told["wallets"], touched.len(), "{told}");
        }
    }
    watching.stop();
}

async fn other_transfers_at_the_same_heights_are_found(database: Database) {
    let (chain, watching) = followed("", &database).await;
    let users = users();
    let mut touched = BTreeSet::new();
    let mut transfer = async |from: usize, to: usize| {
        chain.transfer(wallet(users[from]), wallet(users[to]), one()).await.unwrap();
        touched.extend([users[from], users[to]]);
        touched.clone()
    };
    // As many blocks in the place of three, and more.
    for blocks in [3, 8] {
        let snapshot = chain.snapshot().await.unwrap();
        for n in 0..3 {
            transfer(n, n + 3).await;
        }
        let highest = caught_up(&chain, &database).await;
        chain.revert(snapshot).await.unwrap();
        let mut wallets = BTreeSet::new();
        for n in 10..10 + blocks {
            // To and from others: reading again what went does not find these.
            wallets = transfer(n, n + 10 * blocks).await;
            assert!(checkpoint(&database).await >= Some(highest), "the checkpoint went back");
        }
        caught_up(&chain, &database).await;
        until_right(&chain, &database, wallets).await;
    }
    assert_eq!(watching.stop().last().unwrap()["reorgs"], 2);
}

async fn a_chain_that_goes_back_and_grows_again_is_followed(database: Database) {
    let (chain, watching) = followed("", &database).await;
    let users = users();
    let snapshot = chain.snapshot().await.unwrap();
    let mut touched = busy_blocks(&chain, 10).await;
    let highest = caught_up(&chain, &database).await;
    chain.revert(snapshot).await.unwrap();
    for (n, to) in [(0, 30), (1, 31)] {
        chain.transfer(wallet(users[n]), wallet(users[to]), one()).await.unwrap();
        touched.extend([users[n], users[to]]);
    }
    assert_eq!(checkpoint(&database).await, Some(highest));
    assert_eq!(chain.block_number().await.unwrap(), 12);
    // What was read at a higher block stays until the chain is as high again; before, it cannot be
    // told from a node that lags behind.
    while chain.block_number().await.unwrap() <= highest {
        chain.mine(1).await.unwrap();
    }
    let head = caught_up(&chain, &database).await;
    until_right(&chain, &database, touched).await;
    let told = watching.until("reorg", 1);
    assert_eq!((&told["from_block"], &told["to_block"]), (&11.into(), &highest.into()), "{told}");
    let told = watching.stop();
    let last = told.last().unwrap();
    assert_eq!((&last["checkpoint_block"], &last["reorgs"]), (&head.into(), &1.into()), "{last}");
}

async fn logs_that_are_withdrawn_have_their_wallets_read_again(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    store_unread(&database, 0..1_000);
    let watching = start(watch(&format!("--ws-url {}", socket.url()), chain.url(), &database));
    watching.until("connected", 1);
    watching.until("began", 1);
    let touched = busy_blocks(&chain, 3).await;
    let head = caught_up(&chain, &database).await;
    let logs = chain.logs(1, head).await.unwrap();
    // The withdrawn logs are all that it hears of it.
    socket.mute_heads(true);
    chain.reorg(3).await.unwrap();
    socket.send_removed_logs(logs);
    watching.until("reorg", 1);
    until_right(&chain, &database, touched).await;
    watching.stop();
}

async fn a_reorganisation_behind_a_silent_socket_is_found(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    store_unread(&database, 0..1_000);
    let arguments = format!("--max-lag 2 --ws-url {}", socket.url());
    let watching = start(watch(&arguments, chain.url(), &database));
    watching.until("connected", 1);
    watching.until("began", 1);
    let mut touched = busy_blocks(&chain, 5).await;
    caught_up(&chain, &database).await;
    socket.stall(true);
    chain.reorg(5).await.unwrap();
    touched.extend(busy_block(&chain, 7).await);
    // Over HTTP, as long as the socket says nothing.
    watching.until("reorg", 1);
    until_right(&chain, &database, touched.iter().copied()).await;
    assert!(!watching.events("disconnected").is_empty(), "{:?}", watching.told());
    chain.reorg(2).await.unwrap();
    socket.stall(false);
    until_right(&chain, &database, touched).await;
    watching.stop();
}

async fn a_reorganisation_within_the_confirmations_changes_nothing(database: Database) {
    let (chain, watching) = followed("--confirmations 5", &database).await;
    let mut touched = busy_blocks(&chain, 3).await;
    chain.mine(5).await.unwrap();
    let head = chain.block_number().await.unwrap();
    watching.until("connected", 1);
    until_right(&chain, &database, touched.iter().copied()).await;
    busy_blocks(&chain, 5).await;
    chain.reorg(5).await.unwrap();
    touched.extend(busy_block(&chain, 9).await);
    chain.mine(5).await.unwrap();
    until_right(&chain, &database, touched).await;
    let told = watching.stop();
    let last = told.last().unwrap();
    assert_eq!(last["reorgs"], 0, "{last}");
    assert_eq!(last["checkpoint_block"], head + 6, "{last}");
}
