//! The store, through the library, on both databases.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use alloy::primitives::{B256, U256};
use chrono::{DateTime, TimeDelta, Utc};
use ethtally::{
    follow::{BlockReads, CheckpointUpdate, CoverageUpdate, OrphanedBlock, RecentReads, RowsAbove},
    store::{Access, Cursor, LockKey, Row, Stale, Store, TableFreshness, open},
    tally::{Lock, Recorded, Shard, Shutdown, TotalRead, Unreadable, Wallet},
};
use ethtally_testbed::wallet;
use rand::seq::SliceRandom;

use crate::support::database::{Database, on_both_databases};

on_both_databases! {
    every_method_of_the_store_works
    blocknumber_follows_the_rules_of_the_original
    an_older_read_changes_nothing_and_an_equal_or_newer_one_is_written
    with_concurrent_writers_the_newest_read_wins_for_every_wallet
    a_wallet_that_cannot_be_read_waits_longer_each_time_up_to_a_day
    the_largest_total_is_stored_to_the_wei
    twenty_thousand_rows_fit_in_one_batch
    a_batch_is_stored_whole_or_not_at_all
    tables_of_a_newer_version_are_not_changed
    every_wallet_is_listed_once_whatever_other_keys_the_table_holds
}

/// Older than every row written now, newer than every placeholder.
const LAST_CENTURY: &str = "1999-12-31 23:59:59";

fn numbered(n: u64) -> Wallet {
    Wallet::from(wallet(n))
}

fn numbered_all(range: std::ops::Range<u64>) -> Vec<Wallet> {
    range.map(numbered).collect()
}

fn read(n: u64, total: u64, read_block: u64) -> TotalRead {
    TotalRead {
        wallet: numbered(n),
        total: U256::from(total).into(),
        read_block,
        event_block: None,
    }
}

fn failed(n: u64, reason: &str) -> Unreadable {
    Unreadable { wallet: numbered(n), reason: reason.to_owned() }
}

/// Rows and failures from before this time.
fn all(before: DateTime<Utc>, shard: Shard) -> Stale {
    Stale { before, due: before, shard }
}

fn written(updated: u64, superseded: u64) -> Recorded {
    Recorded { updated, superseded, ..Recorded::default() }
}

fn epoch() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

async fn opened(database: &Database) -> Box<dyn Store> {
    open(&database.url, None, Vec::new(), Access::Write, &Shutdown::default())
        .await
        .expect("it opens")
}

async fn migrated(database: &Database) -> Box<dyn Store> {
    let store = opened(database).await;
    store.migrate().await.expect("it migrates");
    store
}

/// The row of a wallet: total, read_block, blocknumber.
async fn stored(store: &dyn Store, n: u64) -> (u64, Option<i64>, Option<i64>) {
    let row = store.row(numbered(n)).await.unwrap().expect("a row");
    (row.total.parse().unwrap(), row.read_block, row.blocknumber)
}

/// All rows older than now, in pages of this size.
async fn paged(store: &dyn Store, shard: Shard, size: u32) -> Vec<Vec<Wallet>> {
    let stale = all(store.now().await.unwrap() + TimeDelta::days(1), shard);
    let mut pages = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = store.stale_page(&stale, after.as_ref(), size).await.unwrap();
        pages.push(page.wallets);
        after = page.next;
        if after.is_none() {
            return pages;
        }
    }
}

/// Waits for the lock, which a server may release a moment late.
async fn lock_eventually(store: &dyn Store, task: LockKey<'_>) -> Box<dyn Lock> {
    for _ in 0..600 {
        if let Some(lock) = store.lock(task).await.unwrap() {
            return lock;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the lock was never released");
}

async fn every_method_of_the_store_works(database: Database) {
    // migrate, require_tables
    let store = opened(&database).await;
    let error = store.require_tables().await.unwrap_err().to_string();
    assert!(store.migrate().await.unwrap().iter().any(|name| name == "0002 reads"));
    assert_eq!(store.migrate().await.unwrap(), [""; 0]);
    store.require_tables().await.unwrap();
    assert!(error.contains("database"), "{error}");

    // An empty table.
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.wallets, counts.never_read, counts.unreadable), (0, 0, 0));
    assert!(store.is_empty().await.unwrap());
    assert_eq!(store.freshness(0, &[], &[0]).await.unwrap().at, [None]);
    assert_eq!(store.row(numbered(0)).await.unwrap(), None);
    assert_eq!(store.sample(5).await.unwrap(), []);
    assert_eq!(store.checkpoint("audio_transfers").await.unwrap(), None);
    assert_eq!(store.record(&[], &[]).await.unwrap(), Recorded::default());
    assert_eq!(paged(store.as_ref(), Shard::ALL, 10).await, [vec![]]);

    // now: in UTC.
    let now = store.now().await.unwrap();
    assert!((now - Utc::now()).abs() < TimeDelta::minutes(10), "{now}");

    // insert_placeholders: only new wallets, each once.
    let placeholders =
        async |wallets: &[Wallet]| store.insert_placeholders(wallets).await.unwrap().updated;
    assert_eq!(placeholders(&numbered_all(0..2_500)).await, 2_500);
    assert_eq!(placeholders(&numbered_all(2_400..2_501)).await, 1);
    let twice = [numbered(2_500), numbered(2_501), numbered(2_501)];
    assert_eq!(placeholders(&twice).await, 1);
    assert_eq!(placeholders(&[]).await, 0);

    // stale_page, count_stale: rows of the same age in the order of the wallets, each once.
    let mut sorted = numbered_all(0..2_502);
    sorted.sort_unstable();
    let pages = paged(store.as_ref(), Shard::ALL, 1_000).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [1_000, 1_000, 502]);
    assert_eq!(pages.concat(), sorted);
    let pages = paged(store.as_ref(), Shard::ALL, 1_251).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [1_251, 1_251, 0]);
    assert_eq!(pages.concat(), sorted);
    let mut of_shards = Vec::new();
    for index in 0..3 {
        let shard = Shard::new(index, 3).unwrap();
        let part = paged(store.as_ref(), shard, 100).await.concat();
        let stale = all(now, shard);
        assert_eq!(store.count_stale(&stale).await.unwrap(), part.len() as u64);
        assert!(part.len() > 700, "{}", part.len());
        of_shards.extend(part);
    }
    assert_eq!(of_shards, sorted);
    let before_all = all(epoch(), Shard::ALL);
    assert_eq!(store.count_stale(&before_all).await.unwrap(), 0);
    assert_eq!(store.stale_page(&before_all, None, 10).await.unwrap().wallets, []);

    // record, row
    let start = store.now().await.unwrap();
    let totals = [read(7, 70, 5), read(8, 80, 5), read(9_000, 90, 6)];
    let recorded = store.record(&totals, &[failed(10, "reverted")]).await.unwrap();
    assert_eq!(recorded, written(3, 0));
    let row = store.row(numbered(9_000)).await.unwrap().expect("a row");
    assert_eq!((row.wallet, row.total), (numbered(9_000), "90".to_owned()));
    assert_eq!((row.read_block, row.blocknumber), (Some(6), None));
    let end = store.now().await.unwrap();
    // SQLite keeps milliseconds.
    assert!(row.updated_at >= start - TimeDelta::milliseconds(1) && row.updated_at <= end);
    let placeholder = store.row(numbered(10)).await.unwrap().expect("a row");
    assert_eq!((placeholder.total.as_str(), placeholder.read_block), ("0", None));
    assert_eq!(placeholder.updated_at, epoch());

    // Sorted by age before wallet; the unreadable wallet is not due.
    let order = paged(store.as_ref(), Shard::ALL, 900).await.concat();
    assert_eq!(order.len(), 2_502);
    assert!(!order.contains(&numbered(10)));
    let newest: HashSet<_> = order[2_499..].iter().copied().collect();
    assert_eq!(newest, HashSet::from([numbered(7), numbered(8), numbered(9_000)]));
    let stale = all(start - TimeDelta::seconds(1), Shard::ALL);
    assert_eq!(store.count_stale(&stale).await.unwrap(), 2_499);

    // with_read_total: not placeholders, but the original's rows.
    let original = numbered(9_001);
    database
        .sql(&format!(
            "insert into eth_wallet_balances (wallet, balance, blocknumber, updated_at)
             values ('{original}', '5', 3, '2099-01-01 00:00:00')"
        ))
        .await;
    let asked = [numbered(7), numbered(11), numbered(9_000), original, numbered(77_777)];
    assert_eq!(
        store.with_read_total(&asked).await.unwrap(),
        HashSet::from([numbered(7), numbered(9_000), original])
    );

    // counts, freshness
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.wallets, counts.never_read, counts.unreadable), (2_504, 2_500, 1));
    assert!(!store.is_empty().await.unwrap());
    let bounds = [row.updated_at, epoch()];
    let ranks = [0, 2_499, 2_500, 2_503, 2_504];
    let TableFreshness { older, at } = store.freshness(2_504, &bounds, &ranks).await.unwrap();
    assert_eq!(older, [2_500, 0]);
    assert_eq!(at[..3], [Some(epoch()), Some(epoch()), Some(row.updated_at)]);
    assert!(at[3].is_some());
    assert_eq!(at[4], None);

    // due_page, count_due: failures that are due, with a stale row or without one, by shard.
    let due = async |before: DateTime<Utc>, shard: Shard| {
        let stale = Stale { before, due: store.now().await.unwrap(), shard };
        let page = store.due_page(&stale, None, 10).await.unwrap();
        assert_eq!(store.count_due(&stale).await.unwrap(), page.wallets.len() as u64);
        page.wallets
    };
    let failures = [failed(8_888, "reverted"), failed(8_889, "reverted"), failed(7, "reverted")];
    store.record(&[], &failures).await.unwrap();
    assert_eq!(due(end, Shard::ALL).await, []);
    for (n, time) in [(10, "2001-01-01"), (8_888, "2001-01-02"), (7, "2001-01-01 12:00:00")] {
        let is_due = format!(
            "update eth_wallet_read_failures set next_try_at = '{time}' where wallet = '{}'",
            numbered(n)
        );
        database.sql(&is_due).await;
    }
    let in_order = [10, 7, 8_888].map(numbered);
    let tomorrow = store.now().await.unwrap() + TimeDelta::days(1);
    assert_eq!(due(tomorrow, Shard::ALL).await, in_order);
    // Wallet 7 has a row that is younger than that.
    assert_eq!(due(start - TimeDelta::seconds(1), Shard::ALL).await, [10, 8_888].map(numbered));
    let mut in_shards = Vec::new();
    for index in 0..3 {
        in_shards.extend(due(tomorrow, Shard::new(index, 3).unwrap()).await);
    }
    in_shards.sort_unstable();
    let mut sorted = in_order;
    sorted.sort_unstable();
    assert_eq!(in_shards, sorted);
    let stale = all(tomorrow, Shard::ALL);
    let mut after: Option<Cursor> = None;
    let mut paged_due = Vec::new();
    while paged_due.len() < 3 {
        let page = store.due_page(&stale, after.as_ref(), 1).await.unwrap();
        paged_due.extend(page.wallets);
        after = page.next;
    }
    assert_eq!(paged_due, in_order);
    store.record(&[read(7, 70, 5)], &[]).await.unwrap();

    // sample: each row at most once, and different rows each time.
    let some: HashSet<Wallet> = store.sample(100).await.unwrap().into_iter().collect();
    let others: HashSet<Wallet> = store.sample(100).await.unwrap().into_iter().collect();
    assert_eq!((some.len(), others.len()), (100, 100));
    assert_ne!(some, others);
    let all = store.sample(1_000_000).await.unwrap();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2_504);

    // rows: those that exist.
    let some = [&all[..50], &[numbered(123_456)]].concat();
    let rows = store.rows(&some).await.unwrap();
    let found: HashSet<Wallet> = rows.iter().map(|row| row.wallet).collect();
    assert_eq!((rows.len(), found), (50, all[..50].iter().copied().collect()));
    assert_eq!(store.rows(&[]).await.unwrap(), []);

    // checkpoint
    database
        .sql(
            "insert into eth_indexer_checkpoints (name, last_block, updated_at)
             values ('audio_transfers', 21000000, '2026-01-02 03:04:05')",
        )
        .await;
    let checkpoint = store.checkpoint("audio_transfers").await.unwrap().expect("a checkpoint");
    assert_eq!((checkpoint.name.as_str(), checkpoint.last_block), ("audio_transfers", 21_000_000));
    assert_eq!(checkpoint.updated_at.to_rfc3339(), "2026-01-02T03:04:05+00:00");
    assert_eq!(store.checkpoint("another").await.unwrap(), None);

    // last_block, reads, begin_reads, advance, known
    check_journal(store.as_ref(), &database).await;
    check_blocks_of_reads(store.as_ref(), &database).await;
    let known = [numbered(7), numbered(11), original, numbered(8_888), numbered(77_777)];
    assert_eq!(
        store.known(&known).await.unwrap(),
        HashSet::from([numbered(7), numbered(11), original]),
        "a placeholder is a row, a failure is not"
    );
    assert_eq!(store.known(&[]).await.unwrap(), HashSet::new());

    // lock of watch, is_held
    check_lock_of_watch(store.as_ref(), &database).await;

    // lock: exclusive until released; other shards have their own lock.
    let (first, second) = (Shard::new(0, 2).unwrap(), Shard::new(1, 2).unwrap());
    let another = opened(&database).await;
    let held = store.lock(LockKey::Sweep(first)).await.unwrap().expect("it is free");
    assert!(another.lock(LockKey::Sweep(first)).await.unwrap().is_none());
    assert!(store.lock(LockKey::Sweep(first)).await.unwrap().is_none());
    let held_too = another.lock(LockKey::Sweep(second)).await.unwrap().expect("it is free");
    drop(held);
    let _taken_over = lock_eventually(another.as_ref(), LockKey::Sweep(first)).await;
    assert!(store.lock(LockKey::Sweep(first)).await.unwrap().is_none());
    drop(held_too);
    lock_eventually(store.as_ref(), LockKey::Sweep(second)).await;

    // close: removes SQLite's files next to the database, except for lock files.
    another.close().await;
    store.close().await;
    if database.is_sqlite() {
        let files = std::fs::read_dir(database.folder()).unwrap();
        let beside: Vec<_> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".lock"))
            .collect();
        assert_eq!(beside, ["tally.db"]);
    }
    store.counts().await.unwrap_err();
}

/// Tests the checkpoint and the stored blocks.
async fn check_journal(store: &dyn Store, database: &Database) {
    const NAME: &str = "a profile's own";
    let hash = |n: u8| B256::repeat_byte(n);
    let read_at = |number: u64, wallets: &[u64]| BlockReads {
        number,
        hash: hash(number as u8),
        wallets: wallets.iter().copied().map(numbered).collect(),
    };
    let progress = |last_block: u64| CheckpointUpdate {
        last_block,
        hash: Some(hash(last_block as u8)),
        forget_below: 0,
        keep: Vec::new(),
        redone: Vec::new(),
        forget: Vec::new(),
        coverage: CoverageUpdate::default(),
    };
    // The reads on the chain; there must be no orphaned ones.
    let reads = async |name: &str| {
        let read = store.reads(name).await.unwrap();
        let RecentReads { mut on_chain, orphaned, rows_above, doubt: _ } = read;
        assert_eq!((orphaned, rows_above), (vec![], None));
        on_chain.sort_by_key(|read| read.number);
        on_chain
    };
    let gone = async || {
        let mut gone = store.reads(NAME).await.unwrap().orphaned;
        gone.sort_by_key(|gone| gone.read.number);
        gone
    };
    assert_eq!(store.last_block(NAME).await.unwrap(), None);
    assert_eq!(store.last_block("audio_transfers").await.unwrap(), Some(21_000_000));
    assert_eq!(reads(NAME).await, []);

    // Announced blocks are stored before the checkpoint; the last announcement of a block counts.
    store.begin_reads(NAME, &read_at(5, &[1])).await.unwrap();
    store.begin_reads(NAME, &read_at(5, &[2, 1])).await.unwrap();
    store.begin_reads("audio_transfers", &read_at(5, &[3])).await.unwrap();
    assert_eq!(store.last_block(NAME).await.unwrap(), None);
    assert_eq!(reads(NAME).await, [read_at(5, &[1, 2])]);

    // The checkpoint moves, and its block is stored with the announced wallets.
    store.advance(NAME, &progress(5)).await.unwrap();
    store.advance(NAME, &progress(7)).await.unwrap();
    assert_eq!(store.last_block(NAME).await.unwrap(), Some(7));
    assert_eq!(reads(NAME).await, [read_at(5, &[1, 2]), read_at(7, &[])]);
    let moved = store.checkpoint(NAME).await.unwrap().expect("a checkpoint").updated_at;
    assert!((moved - store.now().await.unwrap()).abs() < TimeDelta::minutes(1), "{moved}");

    // The checkpoint never moves back; blocks are stored and deleted all the same.
    store.advance(NAME, &CheckpointUpdate { forget: vec![hash(7)], ..progress(6) }).await.unwrap();
    assert_eq!(store.last_block(NAME).await.unwrap(), Some(7));
    assert_eq!(store.checkpoint(NAME).await.unwrap().expect("a checkpoint").updated_at, moved);
    assert_eq!(reads(NAME).await, [read_at(5, &[1, 2]), read_at(6, &[])]);

    // Without a hash no block is stored.
    store
        .advance(NAME, &CheckpointUpdate { hash: None, forget_below: 6, ..progress(8) })
        .await
        .unwrap();
    assert_eq!(store.last_block(NAME).await.unwrap(), Some(8));
    assert_eq!(reads(NAME).await, [read_at(6, &[])]);

    // Orphaned blocks with their wallets, until the blocks that replace them are processed.
    store.orphan(NAME, &[read_at(6, &[4]), read_at(9, &[5]), read_at(9, &[1])], 4).await.unwrap();
    let went =
        |number, wallets: &[u64], from| OrphanedBlock { read: read_at(number, wallets), from };
    assert_eq!(gone().await, [went(6, &[4], Some(4)), went(9, &[1, 5], Some(4))]);
    store.advance(NAME, &CheckpointUpdate { redone: vec![hash(9)], ..progress(8) }).await.unwrap();
    assert_eq!(gone().await, [went(6, &[4], Some(4)), went(9, &[1, 5], None)]);
    store
        .advance(NAME, &CheckpointUpdate { forget: vec![hash(9), hash(8)], ..progress(8) })
        .await
        .unwrap();
    assert_eq!(gone().await, [went(6, &[4], Some(4))]);
    // An orphaned block may become part of the chain again.
    store.begin_reads(NAME, &read_at(6, &[])).await.unwrap();
    assert_eq!(reads(NAME).await, [read_at(6, &[])]);

    // Of old blocks some are kept, without what was read at them.
    store.begin_reads("kept", &read_at(2, &[1])).await.unwrap();
    store.begin_reads("kept", &read_at(3, &[1])).await.unwrap();
    let aged = CheckpointUpdate { forget_below: 8, keep: vec![hash(3)], ..progress(8) };
    store.advance("kept", &aged).await.unwrap();
    assert_eq!(reads("kept").await, [read_at(3, &[]), read_at(8, &[])]);

    // Which rows are read again, until all are.
    let rows_above = async || store.reads("kept").await.unwrap().rows_above;
    let mut rows = RowsAbove { block: 2, after: None, wait_for: 0, left: None };
    store.keep_rows_above("kept", Some(&rows)).await.unwrap();
    assert_eq!(rows_above().await, Some(rows.clone()));
    rows = RowsAbove { after: Some(numbered(4)), wait_for: 9, left: Some((5, 8)), ..rows };
    store.keep_rows_above("kept", Some(&rows)).await.unwrap();
    store.advance("kept", &aged).await.unwrap();
    assert_eq!(rows_above().await, Some(rows));
    store.keep_rows_above("kept", None).await.unwrap();
    assert_eq!(rows_above().await, None);

    // All or nothing: the block is written after the checkpoint.
    database.sql("alter table eth_watch_blocks rename column wallets to w").await;
    let error = format!("{:#}", store.advance(NAME, &progress(9)).await.unwrap_err());
    assert!(error.starts_with("database "), "{error}");
    assert_eq!(store.last_block(NAME).await.unwrap(), Some(8));
    database.sql("alter table eth_watch_blocks rename column w to wallets").await;

    // Other checkpoints are not affected.
    assert_eq!(store.last_block("audio_transfers").await.unwrap(), Some(21_000_000));
    assert_eq!(reads("audio_transfers").await, [read_at(5, &[3])]);

    // Invalid data is an error: ignoring it could hide a reorganisation.
    database.sql("update eth_watch_blocks set wallets = 'x' where number = 6").await;
    let error = format!("{:#}", store.reads(NAME).await.unwrap_err());
    assert!(error.contains("eth_watch_blocks holds a row that ethtally did not write"), "{error}");
}

/// Tests which rows are found by the block of their read.
async fn check_blocks_of_reads(store: &dyn Store, database: &Database) {
    const FAR: u64 = 1_000_000_000;
    let read = |n: u64, block: u64| TotalRead {
        wallet: numbered(n),
        total: U256::from(n).into(),
        read_block: FAR + block,
        event_block: None,
    };
    let totals = [read(7_001, 1), read(7_002, 2), read(7_003, 3), read(7_004, 4)];
    store.record(&totals, &[]).await.unwrap();
    let rows = |wallets: &[u64]| -> Vec<(Wallet, u64)> {
        let mut rows: Vec<_> = wallets.iter().map(|n| (numbered(*n), FAR + n - 7_000)).collect();
        rows.sort_unstable();
        rows
    };
    let all = store.rows_above(FAR + 1, None, 10).await.unwrap();
    assert_eq!(all, rows(&[7_002, 7_003, 7_004]));
    assert_eq!(store.rows_above(FAR + 1, None, 2).await.unwrap(), all[..2]);
    assert_eq!(store.rows_above(FAR + 1, Some(all[1].0), 2).await.unwrap(), all[2..]);

    let read_at = async |from: u64, to: u64, seconds: u64| {
        let within = std::time::Duration::from_secs(seconds);
        let mut rows = store.rows_read_at(FAR + from, FAR + to, within).await.unwrap();
        rows.sort_unstable();
        rows
    };
    assert_eq!(read_at(2, 3, 60).await, rows(&[7_002, 7_003]));
    assert_eq!(read_at(2, 3, u64::MAX).await, rows(&[7_002, 7_003]));
    let wallet = numbered(7_002);
    let old = format!(
        "update eth_wallet_balances set updated_at = '2026-01-01 00:00:00' where wallet = '{wallet}'"
    );
    database.sql(&old).await;
    assert_eq!(read_at(2, 3, 60).await, rows(&[7_003]));
}

/// Tests the lock of watch: exclusive until dropped or until its session ends.
async fn check_lock_of_watch(store: &dyn Store, database: &Database) {
    let another = opened(database).await;
    let mut held = store.lock(LockKey::Watch("a")).await.unwrap().expect("it is free");
    assert!(held.is_held().await && held.is_held().await);
    for denied in [store, another.as_ref()] {
        assert!(denied.lock(LockKey::Watch("a")).await.unwrap().is_none());
    }
    // Another checkpoint and a sweep have their own locks.
    drop(another.lock(LockKey::Watch("b")).await.unwrap().expect("it is free"));
    drop(another.lock(LockKey::Sweep(Shard::ALL)).await.unwrap().expect("it is free"));
    if !database.is_sqlite() {
        let end = "select count(*) filter (where pg_terminate_backend(pid, 10000)) from pg_locks
            join pg_database on pg_database.oid = pg_locks.database
            where locktype = 'advisory' and granted and datname = current_database()";
        let ended: u64 = database.value(end).await.parse().unwrap();
        assert!(ended >= 1, "{ended} sessions");
        assert!(!held.is_held().await && !held.is_held().await);
        let taken_over = lock_eventually(another.as_ref(), LockKey::Watch("a")).await;
        assert!(taken_over.is_held().await);
        // Releasing a lost lock does not release the new holder's.
        drop(held);
        assert!(taken_over.is_held().await);
        assert!(store.lock(LockKey::Watch("a")).await.unwrap().is_none());
        held = taken_over;
    }
    drop(held);
    drop(lock_eventually(store, LockKey::Watch("a")).await);
    another.close().await;
}

async fn blocknumber_follows_the_rules_of_the_original(database: Database) {
    let store = migrated(&database).await;
    let event = |total, block| TotalRead { event_block: Some(block), ..read(1, total, 200_000) };
    // no row | event, block 12345, 100 wei | 100, 12345
    store.record(&[event(100, 12_345)], &[]).await.unwrap();
    assert_eq!(stored(store.as_ref(), 1).await, (100, Some(200_000), Some(12_345)));
    // 100, 12345 | sweep (no block), 200 wei | 200, 12345
    store.record(&[read(1, 200, 200_000)], &[]).await.unwrap();
    assert_eq!(stored(store.as_ref(), 1).await, (200, Some(200_000), Some(12_345)));
    // 200, 12345 | event, block 100, 300 wei | 300, 12345
    store.record(&[event(300, 100)], &[]).await.unwrap();
    assert_eq!(stored(store.as_ref(), 1).await, (300, Some(200_000), Some(12_345)));
    // 300, 12345 | event, block 99999, 400 wei | 400, 99999
    store.record(&[event(400, 99_999)], &[]).await.unwrap();
    assert_eq!(stored(store.as_ref(), 1).await, (400, Some(200_000), Some(99_999)));
    // no row | sweep (no block), 500 wei | 500, NULL
    store.record(&[read(2, 500, 200_000)], &[]).await.unwrap();
    assert_eq!(stored(store.as_ref(), 2).await, (500, Some(200_000), None));
    // A newer read supersedes that of an event, but the block of the event is kept.
    store.record(&[read(1, 700, 200_002)], &[]).await.unwrap();
    let before = store.row(numbered(1)).await.unwrap();
    let late = TotalRead { event_block: Some(200_001), ..read(1, 600, 200_001) };
    let recorded = store.record(&[late.clone(), read(2, 500, 200_000)], &[]).await.unwrap();
    assert_eq!((recorded.updated, recorded.superseded), (1, 1));
    let after = store.row(numbered(1)).await.unwrap().expect("a row");
    assert_eq!(after.blocknumber, Some(200_001));
    assert_eq!(Some(Row { blocknumber: Some(99_999), ..after }), before);
    // That never lowers blocknumber either.
    store.record(&[TotalRead { event_block: Some(5), ..late }], &[]).await.unwrap();
    assert_eq!(stored(store.as_ref(), 1).await, (700, Some(200_002), Some(200_001)));
    // A row without blocknumber gets it from the first event.
    store
        .record(&[TotalRead { event_block: Some(7), ..read(2, 600, 200_000) }], &[])
        .await
        .unwrap();
    assert_eq!(stored(store.as_ref(), 2).await, (600, Some(200_000), Some(7)));
}

async fn an_older_read_changes_nothing_and_an_equal_or_newer_one_is_written(database: Database) {
    let store = migrated(&database).await;
    let original = numbered(2);
    database
        .sql(&format!(
            "insert into eth_wallet_balances (wallet, balance, blocknumber) values ('{original}', '5', 50)"
        ))
        .await;
    store.record(&[read(1, 100, 20)], &[]).await.unwrap();
    let dump = "select * from eth_wallet_balances order by wallet";
    let before = database.sql(dump).await;

    let older = [read(1, 90, 19)];
    let recorded = store.record(&older, &[]).await.unwrap();
    assert_eq!(recorded, written(0, 1));
    assert_eq!(database.sql(dump).await, before);

    let recorded = store.record(&[read(1, 101, 20), read(2, 6, 3)], &[]).await.unwrap();
    assert_eq!(recorded, written(2, 0));
    assert_eq!(stored(store.as_ref(), 1).await, (101, Some(20), None));
    assert_eq!(stored(store.as_ref(), 2).await, (6, Some(3), Some(50)));

    let mixed = [read(1, 102, 21), read(2, 7, 2), read(3, 8, 2)];
    let recorded = store.record(&mixed, &[]).await.unwrap();
    assert_eq!(recorded, written(2, 1));
    assert_eq!(stored(store.as_ref(), 1).await, (102, Some(21), None));
    assert_eq!(stored(store.as_ref(), 2).await, (6, Some(3), Some(50)));
    assert_eq!(stored(store.as_ref(), 3).await, (8, Some(2), None));
}

async fn with_concurrent_writers_the_newest_read_wins_for_every_wallet(database: Database) {
    const WALLETS: u64 = 400;
    const ROUNDS: u64 = 40;
    let writers = [migrated(&database).await, opened(&database).await];
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    for round in 0..ROUNDS {
        // The read block is also the total. No two writers share one, and many are older than the stored one.
        let batches = [0, 1].map(|writer| {
            let mut wallets: Vec<u64> = (0..WALLETS).collect();
            wallets.shuffle(&mut rand::rng());
            wallets.truncate(300);
            let batch = wallets.into_iter().map(|n| {
                let block = 2 * (round * 10 + rand::random_range(0..50)) + writer;
                (n, block)
            });
            batch.collect::<Vec<_>>()
        });
        let write = async |writer: usize| {
            let totals: Vec<_> =
                batches[writer].iter().map(|(n, block)| read(*n, *block, *block)).collect();
            writers[writer].record(&totals, &[failed(WALLETS, "reverted")]).await.unwrap()
        };
        for recorded in <[Recorded; 2]>::from(tokio::join!(write(0), write(1))) {
            assert_eq!(recorded.updated + recorded.superseded, 300);
        }
        for (n, block) in batches.into_iter().flatten() {
            let kept = newest.entry(n).or_default();
            *kept = block.max(*kept);
        }
    }
    for (n, block) in newest {
        assert_eq!(stored(writers[0].as_ref(), n).await, (block, i64::try_from(block).ok(), None));
    }
    let failures = database.value("select failures from eth_wallet_read_failures").await;
    assert_eq!(failures, (2 * ROUNDS).to_string());
    // Not even one that a retry resolved.
    database.assert_no_deadlocks().await;
}

async fn a_wallet_that_cannot_be_read_waits_longer_each_time_up_to_a_day(database: Database) {
    let store = migrated(&database).await;
    store.insert_placeholders(&numbered_all(0..3)).await.unwrap();
    let wait = match database.is_sqlite() {
        true => {
            "cast(round((julianday(next_try_at) - julianday(last_failed_at)) * 86400) as integer)"
        }
        false => "extract(epoch from next_try_at - last_failed_at)::bigint",
    };
    let row = format!("select failures, last_error, {wait} from eth_wallet_read_failures");
    for count in 1..=50_u32 {
        let reason = format!("reason {count}");
        let now = store.now().await.unwrap();
        store.record(&[read(0, 1, 1)], &[failed(1, &reason)]).await.unwrap();
        let minutes = if count > 11 { 1_440 } else { 1 << (count - 1) };
        assert_eq!(database.value(&row).await, format!("{count}|{reason}|{}", minutes * 60));
        let since_now = format!(
            "select count(*) from eth_wallet_read_failures where last_failed_at >= '{}'",
            (now - TimeDelta::milliseconds(1)).format("%Y-%m-%d %H:%M:%S%.3f")
        );
        assert_eq!(database.value(&since_now).await, "1");
    }

    // Skipped until it is due.
    let stale = all(store.now().await.unwrap(), Shard::ALL);
    let page = async || store.stale_page(&stale, None, 10).await.unwrap().wallets;
    database
        .sql(&format!(
            "update eth_wallet_balances set updated_at = '{LAST_CENTURY}' where wallet = '{}'",
            numbered(0)
        ))
        .await;
    assert_eq!(page().await, [numbered(2), numbered(0)]);
    assert_eq!(store.count_stale(&stale).await.unwrap(), 2);
    let soon = (store.now().await.unwrap() + TimeDelta::minutes(5)).format("%Y-%m-%d %H:%M:%S");
    database.sql(&format!("update eth_wallet_read_failures set next_try_at = '{soon}'")).await;
    assert_eq!(page().await, [numbered(2), numbered(0)]);
    let past = (store.now().await.unwrap() - TimeDelta::seconds(1)).format("%Y-%m-%d %H:%M:%S");
    database.sql(&format!("update eth_wallet_read_failures set next_try_at = '{past}'")).await;
    assert_eq!(page().await, [numbered(2), numbered(0)], "retries come on their own");
    assert_eq!(store.due_page(&stale, None, 10).await.unwrap().wallets, [numbered(1)]);
    assert_eq!(store.counts().await.unwrap().unreadable, 1);

    // A success, even a superseded one, deletes the failure; the next failure starts again.
    store.record(&[read(1, 5, 5)], &[]).await.unwrap();
    assert_eq!(store.counts().await.unwrap().unreadable, 0);
    store.record(&[], &[failed(1, "again"), failed(1, "again")]).await.unwrap();
    assert_eq!(database.value(&row).await, "1|again|60");
    store.record(&[read(1, 4, 4)], &[]).await.unwrap();
    assert_eq!(store.counts().await.unwrap().unreadable, 0);
}

async fn the_largest_total_is_stored_to_the_wei(database: Database) {
    let store = migrated(&database).await;
    let huge = [U256::MAX, U256::MAX - U256::ONE, U256::from(u64::MAX), U256::ONE << 53];
    let totals: Vec<_> = (0..)
        .zip(huge)
        .map(|(n, total)| TotalRead {
            total: total.into(),
            read_block: i64::MAX as u64,
            ..read(n, 0, 0)
        })
        .collect();
    for _ in 0..2 {
        store.record(&totals, &[]).await.unwrap();
        for read in &totals {
            let row = store.row(read.wallet).await.unwrap().expect("a row");
            assert_eq!((row.total, row.read_block), (read.total.sum.to_string(), Some(i64::MAX)));
        }
    }
    let text = format!("select balance from eth_wallet_balances where wallet = '{}'", numbered(0));
    assert_eq!(
        database.value(&text).await,
        "115792089237316195423570985008687907853269984665640564039457584007913129639935"
    );
}

async fn twenty_thousand_rows_fit_in_one_batch(database: Database) {
    const ROWS: u64 = 20_000;
    let store = migrated(&database).await;
    let batch = |block| (0..ROWS).map(|n| read(n, n * block, block)).collect::<Vec<_>>();
    let failures: Vec<_> = (ROWS..2 * ROWS).map(|n| failed(n, "reverted")).collect();
    for block in [1, 2] {
        let recorded = store.record(&batch(block), &failures).await.unwrap();
        assert_eq!(recorded, written(ROWS, 0));
    }
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.wallets, counts.never_read, counts.unreadable), (ROWS, 0, ROWS));
    assert_eq!(stored(store.as_ref(), ROWS - 1).await, (2 * (ROWS - 1), Some(2), None));
    let known = store.with_read_total(&numbered_all(0..2 * ROWS)).await.unwrap();
    assert_eq!(known.len() as u64, ROWS);
}

async fn a_batch_is_stored_whole_or_not_at_all(database: Database) {
    let store = migrated(&database).await;
    // Failures are written last, and fail without their column.
    store.record(&[read(1, 1, 1)], &[failed(9, "reverted")]).await.unwrap();
    database.sql("alter table eth_wallet_read_failures rename column failures to gone").await;
    let error = store.record(&[read(1, 2, 2), read(2, 2, 2)], &[failed(3, "reverted")]).await;
    assert!(format!("{:#}", error.unwrap_err()).starts_with("database "));
    assert_eq!(stored(store.as_ref(), 1).await, (1, Some(1), None));
    assert_eq!(store.row(numbered(2)).await.unwrap(), None);
}

async fn tables_of_a_newer_version_are_not_changed(database: Database) {
    let store = migrated(&database).await;
    let (success, checksum) = match database.is_sqlite() {
        true => ("1", "x'00'"),
        false => ("true", "'\\x00'"),
    };
    database
        .sql(&format!(
            "insert into _ethtally_migrations (version, description, success, checksum, execution_time)
             values (9999, 'of the future', {success}, {checksum}, 0)"
        ))
        .await;
    let error = format!("{:#}", store.migrate().await.unwrap_err());
    assert!(error.contains("9999") && error.contains("newer"), "{error}");
    let error = format!("{:#}", store.require_tables().await.unwrap_err());
    assert!(error.contains("9999") && error.contains("newer"), "{error}");
}

/// All wallets of the table, in pages of this size.
async fn listed(store: &dyn Store, size: u32) -> Vec<Wallet> {
    let mut wallets = Vec::new();
    let mut after = String::new();
    loop {
        let (page, last) = store.wallets_page(&after, size).await.unwrap();
        assert!(page.len() <= size as usize);
        wallets.extend(page);
        let Some(last) = last else { break };
        after = last;
    }
    // The order of keys is the database's own.
    wallets.sort_unstable();
    wallets
}

async fn every_wallet_is_listed_once_whatever_other_keys_the_table_holds(database: Database) {
    let store = migrated(&database).await;
    assert_eq!(listed(store.as_ref(), 10).await, []);
    let mut expected = numbered_all(0..100);
    expected.sort_unstable();
    store.insert_placeholders(&expected).await.unwrap();
    assert_eq!(listed(store.as_ref(), 10).await, expected);

    let [some, others] = [numbered(200), numbered(201)].map(|wallet| wallet.to_string());
    let checksummed = numbered(202).address().to_checksum(None);
    let two = format!("{some} {others}");
    for key in ["0x", " ", "zzz", "0x00 ", &checksummed, &two, &some[..41], &format!("{some}0")] {
        let insert = format!("insert into eth_wallet_balances (wallet) values ('{key}')");
        database.sql(&insert).await;
    }
    for size in [1, 7, 100, 107, 108, 109, 50_000] {
        assert_eq!(listed(store.as_ref(), size).await, expected, "{size}");
    }
}
