//! `watch`: which wallets it refreshes, from which block on, and with what.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    contracts::STAKING,
    genesis::{delegators_of, provider_of},
    holding, wallet,
};

use crate::{
    harness::{Database, ethtally, eventually, on_both_databases},
    watching::{assert_right, caught_up, checkpoint, row, start, stored_total, watch},
    world::{address, addresses, read_wallets, store_unread},
};

on_both_databases! {
    every_kind_of_event_refreshes_the_wallets_that_it_touches
    a_wallet_without_a_row_gets_one_only_if_all_are_tracked
    without_a_checkpoint_it_begins_at_the_head
    from_block_is_where_a_table_without_a_checkpoint_begins
    it_stays_behind_the_head_by_the_confirmations_asked_for
    the_checkpoint_of_the_original_is_where_it_goes_on
}

/// One AUDIO.
fn one() -> U256 {
    U256::from(10).pow(U256::from(18))
}

/// A chain with four blocks, in each of which wallet 20 sends to the wallet of the block's number.
async fn four_transfers() -> Chain {
    let chain = Chain::builder().start().await.unwrap();
    for n in 1..=4 {
        transfer(&chain, n).await;
    }
    chain
}

/// A block with a transfer from wallet 20 to wallet `n`.
async fn transfer(chain: &Chain, n: u64) -> u64 {
    chain.transfer(wallet(20), wallet(n), U256::from(1_000_000_007)).await.unwrap();
    chain.block_number().await.unwrap()
}

async fn every_kind_of_event_refreshes_the_wallets_that_it_touches(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..1_000);
    let watching = start(watch("", chain.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;

    // Each event has wallets of its own: who is forgotten with one is not refreshed by another.
    let mut users =
        (10..1_000).filter(|n| provider_of(*n).is_none() && holding(*n).balance > one());
    let mut user = || users.next().expect("enough wallets");
    let staker = |n: &u64| provider_of(*n).is_none() && holding(*n).staked > one();
    let [unstaking, slashed] = [500, 700].map(|from| (from..1_000).find(staker).expect("a staker"));
    let mut newest_event = BTreeMap::new();
    let mut touched = async |wallets: &[u64]| {
        let block = chain.block_number().await.unwrap();
        newest_event.extend(wallets.iter().map(|n| (*n, block)));
    };
    let (from, to) = (user(), user());
    chain.transfer(wallet(from), wallet(to), one()).await.unwrap();
    touched(&[from, to]).await;
    let minted = user();
    chain.mint(wallet(minted), one()).await.unwrap();
    touched(&[minted]).await;
    let staking = user();
    chain.stake(wallet(staking), one()).await.unwrap();
    touched(&[staking]).await;
    let rewarded = user();
    chain.reward(wallet(rewarded), one()).await.unwrap();
    touched(&[rewarded]).await;
    chain.unstake(wallet(unstaking), one()).await.unwrap();
    touched(&[unstaking]).await;
    chain.slash_stake(wallet(slashed), one()).await.unwrap();
    touched(&[slashed]).await;
    let (delegating, leaving) = (user(), user());
    chain.delegate(wallet(delegating), wallet(0), one()).await.unwrap();
    touched(&[delegating, 0]).await;
    chain.delegate(wallet(leaving), wallet(1), one()).await.unwrap();
    chain.undelegate(wallet(leaving), wallet(1), one() / U256::from(3)).await.unwrap();
    touched(&[leaving, 1]).await;
    let removed = delegators_of(2)[0];
    chain.remove_delegator(wallet(2), wallet(removed)).await.unwrap();
    touched(&[removed, 2]).await;
    for provider in [3, 4] {
        assert!(delegators_of(provider).len() > 5, "a provider with delegators");
        if provider == 3 {
            chain.claim(wallet(provider), one()).await.unwrap();
        } else {
            chain.slash(wallet(provider), one()).await.unwrap();
        }
        touched(&[&[provider], delegators_of(provider).as_slice()].concat()).await;
    }
    // Twice: the newer one counts.
    chain.transfer(wallet(from), wallet(to), one() / U256::from(7)).await.unwrap();
    touched(&[from, to]).await;

    let head = caught_up(&chain, &database).await;
    assert_right(&chain, &database, newest_event.keys().copied()).await;
    assert_eq!(read_wallets(&database).await, addresses(newest_event.keys().copied()));
    for (n, block) in newest_event {
        let row = row(&database, n).await;
        let columns: Vec<_> = row.split('|').collect();
        assert_eq!(columns[1], block.to_string(), "the newest event of wallet {n}: {row}");
        assert!(columns[2].parse::<u64>().unwrap() >= block, "wallet {n} is read behind it: {row}");
    }
    let told = watching.stop();
    let last = told.last().unwrap();
    assert_eq!((&last["checkpoint_block"], &last["failed"]), (&head.into(), &0.into()), "{last}");
}

async fn a_wallet_without_a_row_gets_one_only_if_all_are_tracked(database: Database) {
    const UNKNOWN: u64 = 5_000;
    const NEW: u64 = 5_001;
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 20..30);
    let rows = "select wallet from eth_wallet_balances";

    let watching = start(watch("", chain.url(), &database));
    watching.until("began", 1);
    transfer(&chain, UNKNOWN).await;
    // No wallet at all, where it counts as one: a mint and a burn.
    chain.mint(wallet(21), one()).await.unwrap();
    chain.stake(wallet(21), one()).await.unwrap();
    chain.slash_stake(wallet(21), one()).await.unwrap();
    caught_up(&chain, &database).await;
    watching.stop();
    let known: BTreeSet<_> = database.sql(rows).await.into_iter().collect();
    assert_eq!(known, addresses(20..30));
    assert_eq!(read_wallets(&database).await, addresses([20, 21]));

    let watching = start(watch("--track all", chain.url(), &database));
    watching.until("connected", 1);
    transfer(&chain, NEW).await;
    chain.mint(wallet(22), one()).await.unwrap();
    chain.stake(wallet(22), one()).await.unwrap();
    chain.slash_stake(wallet(22), one()).await.unwrap();
    caught_up(&chain, &database).await;
    watching.stop();
    let all: BTreeSet<_> = database.sql(rows).await.into_iter().collect();
    // A contract that holds tokens is an address as any other.
    let mut expected = addresses((20..30).chain([NEW]));
    expected.insert(format!("{STAKING:#x}"));
    assert_eq!(all, expected);
    assert_right(&chain, &database, [20, 21, 22, NEW]).await;
}

async fn without_a_checkpoint_it_begins_at_the_head(database: Database) {
    let chain = four_transfers().await;
    store_unread(&database, 0..30);
    let watching = start(watch("", chain.url(), &database));
    assert_eq!(watching.until("began", 1)["checkpoint_block"], 4);
    assert_eq!(checkpoint(&database).await, Some(4));
    transfer(&chain, 5).await;
    caught_up(&chain, &database).await;
    watching.stop();
    assert_eq!(read_wallets(&database).await, addresses([5, 20]));
    assert_right(&chain, &database, [5, 20]).await;
}

async fn from_block_is_where_a_table_without_a_checkpoint_begins(database: Database) {
    let chain = four_transfers().await;
    store_unread(&database, 0..30);
    let watching = start(watch("--from-block 3", chain.url(), &database));
    caught_up(&chain, &database).await;
    watching.stop();
    assert_eq!(read_wallets(&database).await, addresses([3, 4, 20]));
    assert_right(&chain, &database, [3, 4, 20]).await;

    // With a checkpoint it would leave out blocks or look through some twice.
    transfer(&chain, 5).await;
    for block in ["2", "6"] {
        let watching = start(watch(&format!("--from-block {block}"), chain.url(), &database));
        watching.until("connected", 1);
        let head = caught_up(&chain, &database).await;
        watching.signal("TERM");
        let (ran, told) = watching.wait();
        let ran = ran.expect(143);
        assert!(ran.stderr.contains("--from-block is for a table without a checkpoint"), "{ran:?}");
        assert_eq!(told.last().unwrap()["checkpoint_block"], head);
    }
    assert_eq!(read_wallets(&database).await, addresses([3, 4, 5, 20]));
}

async fn it_stays_behind_the_head_by_the_confirmations_asked_for(database: Database) {
    let chain = four_transfers().await;
    store_unread(&database, 0..30);
    let watching = start(watch("--confirmations 3", chain.url(), &database));
    assert_eq!(watching.until("began", 1)["checkpoint_block"], 1);
    let reached = async |block: u64| {
        let handle = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            eventually(&format!("the checkpoint is at block {block}"), || {
                handle.block_on(checkpoint(&database)) == Some(block)
            });
        });
    };
    let block = transfer(&chain, 5).await;
    // The total of this block is not to be seen in what is stored for the one before.
    transfer(&chain, 5).await;
    chain.mine(1).await.unwrap();
    reached(block - 1).await;
    assert_eq!(row(&database, 5).await, "0||");
    chain.mine(1).await.unwrap();
    reached(block).await;
    let total = chain.total_at(wallet(5), block).await.unwrap();
    assert_ne!(total, chain.total(wallet(5)).await.unwrap());
    assert_eq!(row(&database, 5).await, format!("{total}|{block}|{block}"));
    let told = watching.stop();
    assert_eq!(told.last().unwrap()["checkpoint_block"], block);
    assert_eq!(read_wallets(&database).await, addresses([2, 3, 4, 5, 20]));
}

async fn the_checkpoint_of_the_original_is_where_it_goes_on(database: Database) {
    let chain = four_transfers().await;
    ethtally(["migrate"]).database(&database).run().expect(0);
    for n in [1, 2, 3, 4, 20] {
        let wallet = address(n);
        let row = format!("('{wallet}', '77', {n}, '2025-01-01', '2025-01-01')");
        let columns = "wallet, balance, blocknumber, updated_at, created_at";
        database.sql(&format!("insert into eth_wallet_balances ({columns}) values {row}")).await;
    }
    let left_at =
        "insert into eth_indexer_checkpoints (name, last_block) values ('audio_transfers', 2)";
    database.sql(left_at).await;

    let watching = start(watch("", chain.url(), &database));
    assert_eq!(watching.until("active", 1)["checkpoint_block"], 2);
    let filled = watching.until("gap_filled", 1);
    assert_eq!((&filled["from_block"], &filled["to_block"]), (&3.into(), &4.into()), "{filled}");
    caught_up(&chain, &database).await;
    watching.stop();
    assert_eq!(read_wallets(&database).await, addresses([3, 4, 20]));
    assert_right(&chain, &database, [3, 4, 20]).await;
    for n in [1, 2] {
        assert_eq!(stored_total(&database, n).await, "77", "what nothing touched stays");
    }
}
