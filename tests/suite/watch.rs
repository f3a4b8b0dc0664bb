//! `watch`: which wallets it refreshes, from which block, and what it stores.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{U256, uint};
use ethtally_testbed::{
    Chain,
    contracts::STAKING,
    genesis::{delegators_of, provider_of},
    holding, wallet,
};

use crate::support::{
    chains::transfer,
    database::{Database, on_both_databases},
    program::{ethtally, eventually_async},
    table::{read_wallets, store_unread},
    wallets::{address, addresses, one_audio, spenders},
    watch::{
        assert_matches_chain, caught_up, checkpoint, row, start, start_connected, stored_total,
        watch,
    },
};

on_both_databases! {
    every_event_refreshes_the_wallets_it_affects
    a_new_wallet_gets_a_row_only_with_track_all
    watch_starts_at_the_head_without_a_checkpoint
    watch_starts_at_from_block_without_a_checkpoint
    watch_stays_behind_the_head_by_confirmations
    watch_resumes_from_the_originals_checkpoint
}

/// A chain with four blocks; in block `n` wallet 20 sends to wallet `n`.
async fn four_transfers() -> Chain {
    let chain = Chain::builder().start().await.unwrap();
    for n in 1..=4 {
        transfer(&chain, 20, n, AMOUNT).await;
    }
    chain
}

/// What wallet 20 sends.
const AMOUNT: U256 = uint!(1_000_000_007_U256);

async fn every_event_refreshes_the_wallets_it_affects(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..1_000);
    let watching = start_connected(watch("", chain.url(), &database));
    caught_up(&chain, &database).await;

    // Each event has its own wallets, so that no event makes up for another.
    let mut users = spenders(1).into_iter();
    let mut user = || users.next().expect("enough wallets");
    let staker = |n: &u64| provider_of(*n).is_none() && holding(*n).staked > one_audio();
    let [unstaking, slashed] = [500, 700].map(|from| (from..1_000).find(staker).expect("a staker"));
    let mut newest_event = BTreeMap::new();
    let mut touched = async |wallets: &[u64]| {
        let block = chain.block_number().await.unwrap();
        newest_event.extend(wallets.iter().map(|n| (*n, block)));
    };
    let (from, to) = (user(), user());
    chain.transfer(wallet(from), wallet(to), one_audio()).await.unwrap();
    touched(&[from, to]).await;
    let minted = user();
    chain.mint(wallet(minted), one_audio()).await.unwrap();
    touched(&[minted]).await;
    let staking = user();
    chain.stake(wallet(staking), one_audio()).await.unwrap();
    touched(&[staking]).await;
    let rewarded = user();
    chain.reward(wallet(rewarded), one_audio()).await.unwrap();
    touched(&[rewarded]).await;
    chain.unstake(wallet(unstaking), one_audio()).await.unwrap();
    touched(&[unstaking]).await;
    chain.slash_stake(wallet(slashed), one_audio()).await.unwrap();
    touched(&[slashed]).await;
    let (delegating, leaving) = (user(), user());
    chain.delegate(wallet(delegating), wallet(0), one_audio()).await.unwrap();
    touched(&[delegating, 0]).await;
    chain.delegate(wallet(leaving), wallet(1), one_audio()).await.unwrap();
    chain.undelegate(wallet(leaving), wallet(1), one_audio() / U256::from(3)).await.unwrap();
    touched(&[leaving, 1]).await;
    let removed = delegators_of(2)[0];
    chain.remove_delegator(wallet(2), wallet(removed)).await.unwrap();
    touched(&[removed, 2]).await;
    for provider in [3, 4] {
        assert!(delegators_of(provider).len() > 5, "a provider with delegators");
        if provider == 3 {
            chain.claim(wallet(provider), one_audio()).await.unwrap();
        } else {
            chain.slash(wallet(provider), one_audio()).await.unwrap();
        }
        touched(&[&[provider], delegators_of(provider).as_slice()].concat()).await;
    }
    // A second event of the same wallets: the newer one counts.
    chain.transfer(wallet(from), wallet(to), one_audio() / U256::from(7)).await.unwrap();
    touched(&[from, to]).await;

    let head = caught_up(&chain, &database).await;
    assert_matches_chain(&chain, &database, newest_event.keys().copied()).await;
    assert_eq!(read_wallets(&database).await, addresses(newest_event.keys().copied()));
    for (n, block) in newest_event {
        let row = row(&database, n).await;
        let columns: Vec<_> = row.split('|').collect();
        assert_eq!(columns[1], block.to_string(), "the newest event of wallet {n}: {row}");
        assert!(
            columns[2].parse::<u64>().unwrap() >= block,
            "wallet {n} is read at or after it: {row}"
        );
    }
    let lines = watching.stop();
    let last = lines.last().unwrap();
    assert_eq!((&last["checkpoint_block"], &last["failed"]), (&head.into(), &0.into()), "{last}");
}

async fn a_new_wallet_gets_a_row_only_with_track_all(database: Database) {
    const UNKNOWN: u64 = 5_000;
    const NEW: u64 = 5_001;
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 20..30);
    let rows = "select wallet from eth_wallet_balances";

    let watching = start(watch("", chain.url(), &database));
    watching.until("began", 1);
    transfer(&chain, 20, UNKNOWN, AMOUNT).await;
    // Mint and burn transfer from and to the zero address, which is not a wallet.
    chain.mint(wallet(21), one_audio()).await.unwrap();
    chain.stake(wallet(21), one_audio()).await.unwrap();
    chain.slash_stake(wallet(21), one_audio()).await.unwrap();
    caught_up(&chain, &database).await;
    watching.stop();
    let known: BTreeSet<_> = database.sql(rows).await.into_iter().collect();
    assert_eq!(known, addresses(20..30));
    assert_eq!(read_wallets(&database).await, addresses([20, 21]));

    let watching = start_connected(watch("--track all", chain.url(), &database));
    transfer(&chain, 20, NEW, AMOUNT).await;
    chain.mint(wallet(22), one_audio()).await.unwrap();
    chain.stake(wallet(22), one_audio()).await.unwrap();
    chain.slash_stake(wallet(22), one_audio()).await.unwrap();
    caught_up(&chain, &database).await;
    watching.stop();
    let all: BTreeSet<_> = database.sql(rows).await.into_iter().collect();
    // A contract that holds tokens counts like any address.
    let mut expected = addresses((20..30).chain([NEW]));
    expected.insert(format!("{STAKING:#x}"));
    assert_eq!(all, expected);
    assert_matches_chain(&chain, &database, [20, 21, 22, NEW]).await;
}

async fn watch_starts_at_the_head_without_a_checkpoint(database: Database) {
    let chain = four_transfers().await;
    store_unread(&database, 0..30);
    let watching = start(watch("", chain.url(), &database));
    assert_eq!(watching.until("began", 1)["checkpoint_block"], 4);
    assert_eq!(checkpoint(&database).await, Some(4));
    transfer(&chain, 20, 5, AMOUNT).await;
    caught_up(&chain, &database).await;
    watching.stop();
    assert_eq!(read_wallets(&database).await, addresses([5, 20]));
    assert_matches_chain(&chain, &database, [5, 20]).await;
}

async fn watch_starts_at_from_block_without_a_checkpoint(database: Database) {
    let chain = four_transfers().await;
    store_unread(&database, 0..30);
    let watching = start(watch("--from-block 3", chain.url(), &database));
    caught_up(&chain, &database).await;
    watching.stop();
    assert_eq!(read_wallets(&database).await, addresses([3, 4, 20]));
    assert_matches_chain(&chain, &database, [3, 4, 20]).await;

    // With a checkpoint it would skip blocks or read some twice.
    transfer(&chain, 20, 5, AMOUNT).await;
    for block in ["2", "6"] {
        let watching =
            start_connected(watch(&format!("--from-block {block}"), chain.url(), &database));
        let head = caught_up(&chain, &database).await;
        watching.signal("TERM");
        let (ran, lines) = watching.wait();
        let ran = ran.expect(143);
        assert!(
            ran.stderr.contains("--from-block is ignored: the table has a checkpoint"),
            "{ran:?}"
        );
        assert_eq!(lines.last().unwrap()["checkpoint_block"], head);
    }
    assert_eq!(read_wallets(&database).await, addresses([3, 4, 5, 20]));
}

async fn watch_stays_behind_the_head_by_confirmations(database: Database) {
    let chain = four_transfers().await;
    store_unread(&database, 0..30);
    let watching = start(watch("--confirmations 3", chain.url(), &database));
    assert_eq!(watching.until("began", 1)["checkpoint_block"], 1);
    let reached = async |block: u64| {
        eventually_async(&format!("the checkpoint is at block {block}"), async || {
            checkpoint(&database).await == Some(block)
        })
        .await;
    };
    let block = transfer(&chain, 20, 5, AMOUNT).await;
    // The total of this block must not be stored for the previous one.
    transfer(&chain, 20, 5, AMOUNT).await;
    chain.mine(1).await.unwrap();
    reached(block - 1).await;
    assert_eq!(row(&database, 5).await, "0||");
    chain.mine(1).await.unwrap();
    reached(block).await;
    let total = chain.total_at(wallet(5), block).await.unwrap();
    assert_ne!(total, chain.total(wallet(5)).await.unwrap());
    assert_eq!(row(&database, 5).await, format!("{total}|{block}|{block}"));
    let lines = watching.stop();
    assert_eq!(lines.last().unwrap()["checkpoint_block"], block);
    assert_eq!(read_wallets(&database).await, addresses([2, 3, 4, 5, 20]));
}

async fn watch_resumes_from_the_originals_checkpoint(database: Database) {
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
    assert_matches_chain(&chain, &database, [3, 4, 20]).await;
    for n in [1, 2] {
        assert_eq!(stored_total(&database, n).await, "77", "an unaffected row does not change");
    }
}
