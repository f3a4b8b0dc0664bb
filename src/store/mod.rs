//! Everything that talks to a database, and all SQL.
//!
//! [`Store`] is what commands see; `postgres` and `sqlite` say it in their dialects,
//! method by method in the same order. Times are UTC, whatever a session's or server's zone.

mod lock_file;
mod postgres;
mod schema;
mod sqlite;
mod url;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
};

use alloy::primitives::B256;
use anyhow::{Context, anyhow};
use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};
use tracing::warn;

pub use url::{Access, open};

use crate::{
    follow::{BlockReads, Journal, Lock, OrphanedBlock, RecentReads},
    tally::{Ledger, RunError, Shard, TotalRead, Wallet},
};

/// The table of totals, and what is kept beside it.
#[async_trait]
pub trait Store: Ledger + Journal {
    /// Creates or upgrades the tables; returns what was applied, nothing if all was there.
    ///
    /// Two that migrate at once wait for each other.
    ///
    /// # Errors
    /// When the database fails, or was migrated by a newer version of this program.
    async fn migrate(&self) -> Result<Vec<String>, RunError>;

    /// Whether the tables are as this version needs them; changes nothing.
    ///
    /// # Errors
    /// When they are not: the error names the remedy.
    async fn require_tables(&self) -> Result<(), RunError>;

    /// The database's clock.
    ///
    /// # Errors
    /// When the database fails, as with every method below.
    async fn now(&self) -> Result<DateTime<Utc>, RunError>;

    /// The next rows in order of age, oldest first, behind `after`.
    async fn stale_page(
        &self,
        stale: &Stale,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page, RunError>;

    /// Wallets of the shard that have no row because every read of them failed, and that may be
    /// tried again; the longest due first.
    async fn due_without_row(&self, shard: Shard, limit: u32) -> Result<Vec<Wallet>, RunError>;

    /// How many rows [`Store::stale_page`] gives in all.
    async fn count_stale(&self, stale: &Stale) -> Result<u64, RunError>;

    /// Stores wallets unread, as the oldest rows of all; rows that exist stay as they are.
    /// Returns how many were new.
    async fn insert_placeholders(&self, wallets: &[Wallet]) -> Result<u64, RunError>;

    /// Those of `wallets` whose row holds a total that was read.
    async fn with_read_total(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError>;

    /// A wallet's row.
    async fn row(&self, wallet: Wallet) -> Result<Option<Row>, RunError>;

    /// Rows drawn at random, each at most once; fewer where a key that was drawn is no wallet.
    async fn sample(&self, count: u32) -> Result<Vec<Row>, RunError>;

    /// How many rows there are.
    async fn counts(&self) -> Result<TableCounts, RunError>;

    /// When the row that is older than all but `n` others was last written; `None` behind the end.
    async fn nth_oldest(&self, n: u64) -> Result<Option<DateTime<Utc>>, RunError>;

    /// The checkpoint of this name.
    async fn checkpoint(&self, name: &str) -> Result<Option<Checkpoint>, RunError>;

    /// Takes the lock of what only one process may do at a time; `None` if another one holds it.
    ///
    /// The lock goes when the guard is dropped or its process ends, however it ends.
    async fn lock(&self, task: LockKey<'_>) -> Result<Option<Box<dyn Lock>>, RunError>;

    /// Closes the connections once they are idle; no other method may be called any more.
    ///
    /// SQLite leaves no files beside its own then. A process that ends without it may.
    async fn close(&self);
}

/// Which rows a sweep is for.
#[derive(Clone, Copy, Debug)]
pub struct Stale {
    /// Only rows that were last written before.
    pub before: DateTime<Utc>,
    /// Only wallets of this shard.
    pub shard: Shard,
}

/// The last row of a page: the next page begins behind it.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// As the database writes it, so that it comes back as it was.
    updated_at: String,
    wallet: String,
}

/// A page of rows in order of age.
#[derive(Clone, Debug)]
pub struct Page {
    /// The wallets, each once.
    pub wallets: Vec<Wallet>,
    /// Where the next page begins; `None` when this was the last.
    pub next: Option<Cursor>,
}

impl Page {
    /// A page from its rows; it is the last if there are fewer than asked for.
    fn of(rows: Vec<(String, String)>, limit: u32) -> Self {
        let full = rows.len() >= limit as usize;
        let next = rows.last().filter(|_| full).map(|(wallet, updated_at)| Cursor {
            updated_at: updated_at.clone(),
            wallet: wallet.clone(),
        });
        Self {
            wallets: rows.iter().filter_map(|(wallet, _)| stored_wallet(wallet)).collect(),
            next,
        }
    }
}

/// A wallet's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The wallet.
    pub wallet: Wallet,
    /// The stored total, wei, decimal; as text, since another program may have stored what is none.
    pub total: String,
    /// The block at which it was read; `None` for rows that the original wrote, and placeholders.
    pub read_block: Option<i64>,
    /// The newest block of an event for this wallet.
    pub blocknumber: Option<i64>,
    /// When the row was last written.
    pub updated_at: DateTime<Utc>,
}

/// A row as it comes from either database.
type RawRow = (String, String, Option<i64>, Option<i64>, NaiveDateTime);

impl Row {
    /// The row, unless its key is no wallet.
    fn of((wallet, total, read_block, blocknumber, updated_at): RawRow) -> Option<Self> {
        let updated_at = updated_at.and_utc();
        Some(Self { wallet: stored_wallet(&wallet)?, total, read_block, blocknumber, updated_at })
    }
}

/// How many rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableCounts {
    /// Rows.
    pub wallets: u64,
    /// Placeholders: rows whose total was never read.
    pub never_read: u64,
    /// Wallets whose last read failed.
    pub unreadable: u64,
}

impl TableCounts {
    fn of((wallets, never_read, unreadable): (i64, i64, i64)) -> Self {
        Self {
            wallets: wallets.unsigned_abs(),
            never_read: never_read.unsigned_abs(),
            unreadable: unreadable.unsigned_abs(),
        }
    }
}

/// How far events were followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name, from the profile.
    pub name: String,
    /// The last block whose events are in the table.
    pub last_block: i64,
    /// When it last moved.
    pub updated_at: DateTime<Utc>,
}

impl Checkpoint {
    fn of((name, last_block, updated_at): (String, i64, NaiveDateTime)) -> Self {
        Self { name, last_block, updated_at: updated_at.and_utc() }
    }
}

/// What only one process may do at a time.
#[derive(Clone, Copy, Debug)]
pub enum LockKey<'a> {
    /// To sweep this shard.
    Sweep(Shard),
    /// To follow the chain for the checkpoint of this name.
    Watch(&'a str),
}

impl fmt::Display for LockKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sweep(shard) => write!(f, "sweep {shard}"),
            Self::Watch(checkpoint) => write!(f, "watch {checkpoint}"),
        }
    }
}

/// A number as a database keeps it; none that a chain has in practice is refused.
fn stored_number(number: u64) -> Result<i64, RunError> {
    i64::try_from(number)
        .map_err(|_| RunError::Database(anyhow!("the number {number} does not fit a bigint")))
}

/// A block as it is kept: number, hash, the wallets read there as JSON, and what became of it.
type RawReadAt = (i64, String, String, bool, Option<i64>);

/// What was read at the blocks of these rows.
fn reads_at(rows: Vec<RawReadAt>) -> anyhow::Result<RecentReads> {
    let mut reads = RecentReads::default();
    for (number, hash, wallets, gone, redo_from) in rows {
        let read = read_at(number, &hash, &wallets)
            .context("eth_watch_blocks holds what ethtally did not write")?;
        if gone {
            let from = redo_from.map(|from| u64::try_from(from).unwrap_or(0));
            reads.orphaned.push(OrphanedBlock { read, from });
        } else {
            reads.on_chain.push(read);
        }
    }
    Ok(reads)
}

fn read_at(number: i64, hash: &str, wallets: &str) -> anyhow::Result<BlockReads> {
    let wallets: Vec<String> = serde_json::from_str(wallets)?;
    Ok(BlockReads {
        number: number.try_into()?,
        hash: hash.parse()?,
        wallets: wallets.iter().filter_map(|wallet| stored_wallet(wallet)).collect(),
    })
}

/// Blocks as columns for one bulk upsert: each hash once.
#[derive(Debug, Default)]
struct RawReads {
    numbers: Vec<i64>,
    hashes: Vec<String>,
    wallets: Vec<String>,
}

impl RawReads {
    fn of(reads: &[BlockReads]) -> anyhow::Result<Self> {
        let mut by_hash: BTreeMap<B256, BlockReads> = BTreeMap::new();
        for read in reads {
            match by_hash.get_mut(&read.hash) {
                Some(same) => same.wallets.extend(&read.wallets),
                None => drop(by_hash.insert(read.hash, read.clone())),
            }
        }
        let mut columns = Self::default();
        for read in by_hash.values() {
            columns.numbers.push(read.number.try_into()?);
            columns.hashes.push(read.hash.to_string());
            columns.wallets.push(wallets_text(&read.wallets)?);
        }
        Ok(columns)
    }
}

/// Wallets as they are kept with a block.
fn wallets_text(wallets: &BTreeSet<Wallet>) -> anyhow::Result<String> {
    Ok(serde_json::to_string(wallets)?)
}

/// Hashes as they are kept.
fn hash_texts(hashes: &[B256]) -> Vec<String> {
    hashes.iter().map(B256::to_string).collect()
}

/// A wallet as it stands in the table; one that is not in lower case is not ours to touch.
fn stored_wallet(text: &str) -> Option<Wallet> {
    let wallet = text.parse().ok().filter(|_| !text.bytes().any(|byte| byte.is_ascii_uppercase()));
    if wallet.is_none() {
        warn!("the table holds {text:?}, which is no wallet in lower case; it is passed over");
    }
    wallet
}

/// Totals as columns for one bulk upsert: each wallet once, in order.
///
/// A database refuses to touch a row twice in one statement, and two writers that go in
/// different orders deadlock.
#[derive(Debug, Default)]
struct Columns {
    wallets: Vec<String>,
    totals: Vec<String>,
    read_blocks: Vec<i64>,
    event_blocks: Vec<Option<i64>>,
}

impl Columns {
    /// Whether events asked for any of these reads.
    fn has_events(&self) -> bool {
        self.event_blocks.iter().any(Option::is_some)
    }

    fn of(totals: &[TotalRead]) -> anyhow::Result<Self> {
        let mut reads: Vec<&TotalRead> = totals.iter().collect();
        reads.sort_by_key(|read| (read.wallet, read.read_block));
        let mut columns = Self::default();
        for same in reads.chunk_by(|one, other| one.wallet == other.wallet) {
            let Some(newest) = same.last() else { continue };
            let event_block = same.iter().filter_map(|read| read.event_block).max();
            columns.wallets.push(newest.wallet.to_string());
            columns.totals.push(newest.total.to_string());
            columns.read_blocks.push(newest.read_block.try_into()?);
            columns.event_blocks.push(event_block.map(TryInto::try_into).transpose()?);
        }
        Ok(columns)
    }
}

/// The texts of wallets, sorted.
fn sorted_texts(wallets: &[Wallet]) -> Vec<String> {
    let mut texts: Vec<_> = wallets.iter().map(Wallet::to_string).collect();
    texts.sort_unstable();
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wallet_that_stands_twice_is_written_once_with_its_newest_read() {
        let wallet = |last: u8| Wallet::from(alloy::primitives::Address::with_last_byte(last));
        let read = |last, total: u64, read_block, event_block| TotalRead {
            wallet: wallet(last),
            total: alloy::primitives::U256::from(total),
            read_block,
            event_block,
        };
        let columns =
            Columns::of(&[read(2, 20, 5, None), read(1, 10, 7, None), read(1, 11, 6, Some(6))])
                .unwrap();
        assert_eq!(columns.wallets, [wallet(1).to_string(), wallet(2).to_string()]);
        assert_eq!(columns.totals, ["10", "20"]);
        assert_eq!(columns.read_blocks, [7, 5]);
        assert_eq!(columns.event_blocks, [Some(6), None]);
    }
}
