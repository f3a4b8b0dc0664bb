//! `watch`: which wallets it refreshes, and with what.

use std::collections::BTreeSet;

use alloy::primitives::U256;
use ethtally_testbed::{Chain, genesis::delegators_of, wallet};

use crate::{
    harness::{Database, on_both_databases},
    watching::{assert_right, caught_up, start, watch},
    world::{addresses, read_wallets, store_unread},
};

on_both_databases! {
    every_kind_of_event_refreshes_the_wallets_that_it_touches
}

async fn every_kind_of_event_refreshes_the_wallets_that_it_touches(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..1_000);
    let watching = start(watch("", chain.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let one = U256::from(10).pow(U256::from(18));
    let provider = (0..10).find(|n| !delegators_of(*n).is_empty()).expect("a provider");
    let delegators: Vec<u64> = delegators_of(provider);
    chain.mint(wallet(20), one).await.unwrap();
    chain.transfer(wallet(20), wallet(21), one).await.unwrap();
    chain.reward(wallet(22), one).await.unwrap();
    chain.claim(wallet(provider), one).await.unwrap();
    let head = caught_up(&chain, &database).await;
    let mut touched: BTreeSet<u64> = [20, 21, 22, provider].into();
    touched.extend(&delegators);
    assert_right(&chain, &database, touched.iter().copied()).await;
    assert_eq!(read_wallets(&database).await, addresses(touched));
    let told = watching.stop();
    assert_eq!(told.last().unwrap()["checkpoint_block"], head);
}
