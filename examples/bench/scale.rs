//! What the database spends on a shard of a sweep by `--write changed`, in tables of several sizes, without a chain.
//!
//! A table of a hundred million rows would be swept by a hundred pods, each of which takes its shard. The totals come
//! from the table, one in a thousand of them changed.

use std::time::{Duration, Instant};

use alloy::primitives::U256;
use anyhow::{Context, ensure};
use ethtally::{
    store::{self, Access, Stale, Store},
    tally::{BucketReads, Selection, Shard, Shutdown, TotalRead},
};

use crate::{
    fixture::{Fixture, postgres, run},
    report::{grouped, say},
    rounds::server_cpu,
};

/// How many shards a table has, and which of them are measured.
const SHARDS: u32 = 100;
const MEASURED: [u32; 3] = [0, 37, 98];
/// Wallets whose buckets are selected at once.
const ROWS: usize = 200_000;
/// Wallets whose buckets are confirmed at once.
const BATCH: usize = 20_000;
/// Buckets whose names are read at once, as in a sweep.
const BUCKETS: u32 = 1 << 16;
/// The total of every row, in wei.
const TOTAL: u64 = 1_000_000_000_000_000_000;
/// One row in this many has changed.
const CHANGED: u64 = 1_000;

/// Measures a table of this many rows, in the order in which they came and in that of their keys; each result as a
/// sentence.
pub(crate) async fn shards(fixture: &Fixture, rows: u64) -> anyhow::Result<Vec<String>> {
    let table = fixture.empty_table().await?;
    say(format_args!("filling a table of {} rows …", grouped(rows as f64)));
    let store =
        store::open(&table.url, None, Vec::new(), Access::Write, &Shutdown::default()).await?;
    store.migrate().await?;
    fill(&table.url, rows).await?;
    let digits = store.create_buckets().await?;
    let mut connection = postgres(&table.url).await?;
    let confirm = "update eth_wallet_confirmations
         set block = 1, selected_at = timestamp '2020-01-02', wallets = 1";
    run(&mut connection, confirm).await?;
    let session = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
    let mut sentences = Vec::new();
    for (order, first) in [("they came", 0), ("of their keys", 1)] {
        if first > 0 {
            say(format_args!("ordering the rows by their keys …"));
            let cluster = "cluster eth_wallet_balances using eth_wallet_balances_pkey";
            run(&mut connection, cluster).await?;
        }
        run(&mut connection, "vacuum analyze").await?;
        run(&mut connection, "checkpoint").await?;
        let spent = measure(store.as_ref(), session, first).await?;
        let millions = spent.rows as f64 / 1e6;
        sentences.push(format!(
            "a shard of {SHARDS} in a table of {} rows in the order {order}, --write changed, SQL only: {} rows in \
             buckets by {digits} digits, {:.1} s and {:.1} CPU-s of the database per million rows",
            grouped(rows as f64),
            grouped(spent.rows as f64 / MEASURED.len() as f64),
            spent.time.as_secs_f64() / millions,
            spent.cpu.as_secs_f64() / millions,
        ));
    }
    store.close().await;
    sqlx::Connection::close(connection).await?;
    table.drop().await?;
    Ok(sentences)
}

/// What some shards took.
struct Spent {
    rows: usize,
    time: Duration,
    /// Of the database.
    cpu: Duration,
}

/// Sweeps some shards: those of [`MEASURED`], or this many behind each.
async fn measure(store: &dyn Store, session: i32, behind: u32) -> anyhow::Result<Spent> {
    let mut spent = Spent { rows: 0, time: Duration::ZERO, cpu: Duration::ZERO };
    for index in MEASURED {
        let shard: Shard = format!("{}/{SHARDS}", (index + behind) % SHARDS).parse()?;
        let (started, before) = (Instant::now(), server_cpu(session)?);
        let rows = sweep(store, shard).await?;
        let time = started.elapsed();
        say(format_args!("shard {shard}: {rows} rows in {:.1} s", time.as_secs_f64()));
        spent.rows += rows;
        spent.time += time;
        spent.cpu += server_cpu(session)?.saturating_sub(before);
    }
    ensure!(spent.rows > 0, "the shards are empty");
    Ok(spent)
}

/// Selects and confirms the rows of a shard as a sweep does; returns how many there are.
async fn sweep(store: &dyn Store, shard: Shard) -> anyhow::Result<usize> {
    let now = store.now().await?;
    let stale = Stale { before: now, due: now, shard };
    let (mut after, mut swept, mut at_once) = (None, 0, 1);
    loop {
        let page = store.stale_buckets(&stale, after.as_ref(), BUCKETS).await?;
        let mut buckets = page.confirmed.as_slice();
        while !buckets.is_empty() {
            let (next, rest) = buckets.split_at(at_once.min(buckets.len()));
            let mut selected = store.select_buckets(next, None).await?;
            let mut rows = 0;
            while let Some(last) = selected.pop() {
                let mut reads = vec![read(last)];
                let count =
                    |reads: &[BucketReads]| reads.iter().map(BucketReads::count).sum::<usize>();
                while count(&reads) < BATCH
                    && let Some(selection) = selected.pop()
                {
                    reads.push(read(selection));
                }
                let recorded = store.confirm(&reads).await?;
                let stored = recorded.updated + recorded.unchanged;
                let read = count(&reads);
                ensure!(stored as usize == read, "of {read} rows only {stored} were stored");
                rows += read;
            }
            swept += rows;
            at_once = (ROWS / (rows / next.len()).max(1)).max(1);
            buckets = rest;
        }
        after = match page.next {
            Some(next) => Some(next),
            None => return Ok(swept),
        };
    }
}

/// The readings of a bucket.
fn read(selection: Selection) -> BucketReads {
    let wallets: Vec<_> = selection.rows.wallets().collect();
    let mut reads = BucketReads::new(selection, false);
    for (index, wallet) in (0_u64..).zip(wallets) {
        let changed = u64::from(index.is_multiple_of(CHANGED));
        let total = U256::from(TOTAL + changed).into();
        reads.read(&TotalRead { wallet, total, read_block: 2, event_block: None });
    }
    reads
}

/// Fills the table with rows that were read at block 1. Its indexes are built last, which is faster.
async fn fill(url: &str, rows: u64) -> anyhow::Result<()> {
    let mut connection = postgres(url).await?;
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "select indexname::text, indexdef from pg_indexes where tablename = 'eth_wallet_balances'",
    )
    .fetch_all(&mut connection)
    .await?;
    let (keys, indexes): (Vec<_>, Vec<_>) =
        indexes.into_iter().partition(|(name, _)| name.ends_with("_pkey"));
    let (key, _) = keys.first().context("a table without a key")?;
    run(&mut connection, &format!("alter table eth_wallet_balances drop constraint {key}")).await?;
    for (name, _) in &indexes {
        run(&mut connection, &format!("drop index {name}")).await?;
    }
    let insert = format!(
        "insert into eth_wallet_balances (wallet, balance, read_block, updated_at, created_at)
         select '0x' || left(encode(sha256(number::text::bytea), 'hex'), 40), {TOTAL}, 1,
             timestamp '2020-01-01' + number / 50 * interval '10 ms', timestamp '2020-01-01'
         from generate_series(1, {rows}) number"
    );
    run(&mut connection, &insert).await?;
    run(&mut connection, "set maintenance_work_mem = '1GB'").await?;
    run(&mut connection, "alter table eth_wallet_balances add primary key (wallet)").await?;
    for (_, definition) in &indexes {
        run(&mut connection, definition).await?;
    }
    sqlx::Connection::close(connection).await?;
    Ok(())
}
