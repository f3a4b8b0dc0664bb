//! Random samples: from the whole table, and of the requested size.

use std::collections::HashSet;

use ethtally::{
    store::{Access, Store, open},
    tally::{Shutdown, Wallet},
};
use ethtally_testbed::wallet;

use crate::support::database::{Database, on_both_databases};

on_both_databases! {
    a_small_sample_covers_the_whole_table
    a_sample_is_complete_after_most_rows_are_deleted
}

/// Enough rows that a small sample does not visit all pages.
const ROWS: u64 = 30_000;

async fn large_table(database: &Database) -> (Box<dyn Store>, Vec<Wallet>) {
    let store =
        open(&database.url, None, Vec::new(), Access::Write, &Shutdown::default()).await.unwrap();
    store.migrate().await.unwrap();
    let wallets: Vec<Wallet> = (0..ROWS).map(|n| wallet(n).into()).collect();
    for page in wallets.chunks(5_000) {
        store.insert_placeholders(page).await.unwrap();
    }
    (store, wallets)
}

async fn drawn(store: &dyn Store, count: u32) -> HashSet<Wallet> {
    let drawn = store.sample(count).await.unwrap();
    let wallets: HashSet<_> = drawn.iter().copied().collect();
    assert_eq!((drawn.len(), wallets.len()), (count as usize, count as usize));
    wallets
}

async fn a_small_sample_covers_the_whole_table(database: Database) {
    let (store, wallets) = large_table(&database).await;
    let mut all = HashSet::new();
    for _ in 0..100 {
        all.extend(drawn(store.as_ref(), 5).await);
    }
    // 500 of 30,000 hit the same row twice about four times.
    assert!(all.len() > 470, "{}", all.len());
    let tenths = wallets.chunks(ROWS as usize / 10);
    let drawn: Vec<_> =
        tenths.map(|tenth| tenth.iter().filter(|wallet| all.contains(wallet)).count()).collect();
    // About 50 per tenth; fewer than 15 occur once in millions of runs.
    assert!(drawn.iter().all(|count| *count >= 15), "{drawn:?}");
}

async fn a_sample_is_complete_after_most_rows_are_deleted(database: Database) {
    let (store, wallets) = large_table(&database).await;
    let kept: HashSet<_> = wallets[14_000..14_040].iter().copied().collect();
    let texts: Vec<_> = kept.iter().map(|wallet| format!("'{wallet}'")).collect();
    let gone = format!("delete from eth_wallet_balances where wallet not in ({})", texts.join(","));
    database.sql(&gone).await;
    for count in [1, 5, 40] {
        assert!(drawn(store.as_ref(), count).await.is_subset(&kept));
    }
    assert_eq!(store.sample(1_000).await.unwrap().len(), 40);
    assert_eq!(store.sample(0).await.unwrap(), []);
}
