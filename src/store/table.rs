//! The table of totals and the tables beside it, as commands see them.

use std::{collections::HashSet, fmt, sync::Arc};

use alloy::primitives::U256;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{hint_log::HintLog, run_log::RunLog};
use crate::{
    follow::Journal,
    tally::{
        Bucket, ChangeSink, Check, Confirmer, Ledger, Lock, Recorded, RunError, Selection, Shard,
        Total, Wallet,
    },
};

/// What a command may do with the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read rows; create and change nothing.
    Read,
    /// Write rows; the database must exist.
    Update,
    /// Write rows; create an SQLite file if it is missing.
    Write,
}

/// The table of totals and the tables beside it.
#[async_trait]
pub trait Store: Ledger + Confirmer + Journal + RunLog + HintLog {
    /// Creates or upgrades the tables; returns the names of the migrations that it applied.
    ///
    /// Processes that migrate at once wait for each other.
    ///
    /// # Errors
    /// If the database fails, its tables belong to a newer version, or a shutdown ends the wait.
    async fn migrate(&self) -> Result<Vec<String>, RunError>;

    /// Checks that the tables are as this version needs them; changes nothing.
    ///
    /// # Errors
    /// If they are not; the error names the remedy.
    async fn require_tables(&self) -> Result<(), RunError>;

    /// The database's clock.
    ///
    /// # Errors
    /// If the database fails, as for every method below.
    async fn now(&self) -> Result<DateTime<Utc>, RunError>;

    /// The next rows after `after`, oldest first, without wallets on the record of failures.
    async fn stale_page(
        &self,
        stale: &Stale,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page, RunError>;

    /// The next wallets after `after` on the record of failures whose retry is due, the longest due first: with a
    /// stale row, or without a row.
    async fn due_page(
        &self,
        stale: &Stale,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page, RunError>;

    /// How many rows all pages of [`Store::stale_page`] hold.
    async fn count_stale(&self, stale: &Stale) -> Result<u64, RunError>;

    /// How many wallets all pages of [`Store::due_page`] hold.
    async fn count_due(&self, stale: &Stale) -> Result<u64, RunError>;

    /// The next rows' wallets after this key, in the order of keys; the last key is where the next page begins, and
    /// `None` behind the last row.
    async fn wallets_page(
        &self,
        after: &str,
        limit: u32,
    ) -> Result<(Vec<Wallet>, Option<String>), RunError>;

    /// How many digits the buckets of the table have, by which its rows are confirmed; `None` if they never were.
    async fn bucket_digits(&self) -> Result<Option<u8>, RunError>;

    /// Creates the buckets of the table, or more of them once they hold too many rows; returns how many digits they have.
    async fn create_buckets(&self) -> Result<u8, RunError>;

    /// The next buckets after `after` that begin in the shard, the one that was not confirmed for longest first.
    async fn stale_buckets(
        &self,
        stale: &Stale,
        after: Option<&BucketCursor>,
        limit: u32,
    ) -> Result<BucketPage, RunError>;

    /// How many wallets [`Store::select_buckets`] finds in each of these buckets.
    async fn count_in_buckets(
        &self,
        buckets: &[Bucket],
        before: DateTime<Utc>,
    ) -> Result<Vec<u64>, RunError>;

    /// The rows of these buckets. With `before`, those that were never read are left out, and so are buckets that have
    /// rows, none of which was last written before that time.
    async fn select_buckets(
        &self,
        buckets: &[Bucket],
        before: Option<DateTime<Utc>>,
    ) -> Result<Vec<Selection>, RunError>;

    /// Since which block these events are followed without a gap, and up to which, for the checkpoint of this name; `None`
    /// if they are not.
    async fn coverage(&self, checkpoint: &str, events: &str) -> Result<Option<Coverage>, RunError>;

    /// How many rows of a shard are not covered.
    async fn count_uncovered(
        &self,
        coverage: &Coverage,
        shard: Shard,
    ) -> Result<UncoveredCounts, RunError>;

    /// The wallets of a shard whose rows are not covered, without those on the record of failures.
    async fn list_uncovered(
        &self,
        coverage: &Coverage,
        shard: Shard,
    ) -> Result<Vec<UncoveredWallet>, RunError>;

    /// The same page by page: those behind `after`, in order, and the last key if there may be more.
    async fn uncovered_page(
        &self,
        coverage: &Coverage,
        shard: Shard,
        after: &str,
        limit: u32,
    ) -> Result<(Vec<UncoveredWallet>, Option<String>), RunError>;

    /// The buckets of a shard that are not covered, and of whose rows most are not.
    async fn uncovered_buckets(
        &self,
        coverage: &Coverage,
        shard: Shard,
    ) -> Result<Vec<Bucket>, RunError>;

    /// Forgets rows that were not covered and have been read since.
    async fn tidy_coverage(&self, coverage: &Coverage) -> Result<(), RunError>;

    /// Stores unread wallets as the oldest rows; rows that exist stay as they are.
    /// `updated` is the number of new rows.
    async fn insert_placeholders(&self, wallets: &[Wallet]) -> Result<Recorded, RunError>;

    /// Those of `wallets` whose row is not a placeholder.
    async fn with_read_total(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError>;

    /// A wallet's row.
    async fn row(&self, wallet: Wallet) -> Result<Option<Row>, RunError> {
        Ok(self.rows(&[wallet]).await?.pop())
    }

    /// Those rows of `wallets` that exist, in no order.
    async fn rows(&self, wallets: &[Wallet]) -> Result<Vec<Row>, RunError>;

    /// The wallets of random rows, each at most once. Rows whose key is not a wallet are left out.
    async fn sample(&self, count: u32) -> Result<Vec<Wallet>, RunError>;

    /// The numbers of rows.
    async fn counts(&self) -> Result<TableCounts, RunError>;

    /// True if the table has no row.
    async fn is_empty(&self) -> Result<bool, RunError>;

    /// How fresh the `rows` rows of the table are: how many are older than each of `bounds`, and how fresh those are that
    /// have so many older ones as `ranks` says. A row is as fresh as the newer of its own write and the confirmation of its
    /// bucket.
    async fn freshness(
        &self,
        rows: u64,
        bounds: &[DateTime<Utc>],
        ranks: &[u64],
    ) -> Result<TableFreshness, RunError>;

    /// The next keys after `after` on the record of failures, in order, each with its last error.
    async fn failures_page(
        &self,
        after: &str,
        limit: u32,
    ) -> Result<Vec<(String, String)>, RunError>;

    /// The newest block of a read: among the rows that were written last, and the confirmations; `None` if there is none.
    async fn newest_read_block(&self) -> Result<Option<u64>, RunError>;

    /// The checkpoint of this name.
    async fn checkpoint(&self, name: &str) -> Result<Option<Checkpoint>, RunError>;

    /// The profile that the table's totals are of; `None` if none was recorded yet.
    async fn profile(&self) -> Result<Option<TableProfile>, RunError>;

    /// Records a profile, unless there is one; returns the one on record.
    async fn claim(&self, profile: &TableProfile) -> Result<TableProfile, RunError>;

    /// Records a profile instead of another one. With `is_other_chain`, also forgets at which blocks totals were read:
    /// by the numbers of the other chain, reads might seem older than they are.
    async fn adopt(&self, profile: &TableProfile, is_other_chain: bool) -> Result<(), RunError>;

    /// Takes a lock between processes; `None` if another one holds it.
    ///
    /// The lock ends when the guard is dropped or its process ends, however it ends.
    async fn lock(&self, key: LockKey<'_>) -> Result<Option<Box<dyn Lock>>, RunError>;

    /// From now on tells `sink` which totals each write has changed, once it is committed.
    fn tell_changes(&self, sink: Arc<dyn ChangeSink>);

    /// Who holds a lock, as far as the database tells: a session of the server, and since when.
    async fn holder(&self, key: LockKey<'_>) -> Option<String>;

    /// Checks version, rights and tables, and how the server is set up; changes nothing.
    async fn examine(&self) -> Vec<Check>;

    /// The database without secrets, such as `database sqlite:tally.db`.
    fn label(&self) -> String;

    /// Closes the connections once they are idle. Every later call of another method fails.
    ///
    /// SQLite then removes the `-wal` and `-shm` files beside the database.
    async fn close(&self);
}

/// What a sweep reads again.
#[derive(Clone, Copy, Debug)]
pub struct Stale {
    /// Only rows that were last written before this time.
    pub before: DateTime<Utc>,
    /// Only failures whose retry was due by this time.
    pub due: DateTime<Utc>,
    /// Only wallets of this shard.
    pub shard: Shard,
}

/// The last wallet of a page; the next page begins after it.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// What pages are sorted by, as the database writes it, so that no precision is lost.
    pub(super) time: String,
    pub(super) wallet: String,
}

/// A page of wallets in order of age.
#[derive(Clone, Debug)]
pub struct Page {
    /// The wallets, each once.
    pub wallets: Vec<Wallet>,
    /// Where the next page begins; `None` for the last page.
    pub next: Option<Cursor>,
}

/// The last bucket of a page; the next page begins after it.
#[derive(Clone, Debug)]
pub struct BucketCursor {
    /// When it was confirmed, as the database writes it.
    pub(super) time: String,
    pub(super) bucket: String,
}

/// A page of buckets, the one that was not confirmed for longest first.
#[derive(Clone, Debug)]
pub struct BucketPage {
    /// Those that were never confirmed.
    pub new: Vec<Bucket>,
    /// The others, which come after them.
    pub confirmed: Vec<Bucket>,
    /// Where the next page begins; `None` for the last page.
    pub next: Option<BucketCursor>,
}

/// How fresh the rows of a table are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableFreshness {
    /// For each time that was asked for, how many rows are older.
    pub older: Vec<u64>,
    /// For each rank that was asked for, how fresh the row is that has so many older ones; `None` past the last row.
    pub at: Vec<Option<DateTime<Utc>>>,
}

/// A wallet's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The wallet.
    pub wallet: Wallet,
    /// The stored total in wei, decimal; as text, since another program may have stored anything.
    pub total: String,
    /// The stored parts, each with its column; `None` for one that was never read.
    pub parts: Vec<(String, Option<String>)>,
    /// The block at which it was read; `None` for placeholders and for rows of the original.
    pub read_block: Option<i64>,
    /// The newest block of an event for this wallet.
    pub blocknumber: Option<i64>,
    /// When the row was last written.
    pub updated_at: DateTime<Utc>,
    /// When it was last read without a change; `None` if not since it was written.
    pub confirmed: Option<Confirmed>,
}

/// The confirmation of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The block at which it was read.
    pub block: i64,
    /// When it was selected, before it was read.
    pub at: DateTime<Utc>,
}

impl Row {
    /// When the row was last read, changed or not.
    pub fn fresh_at(&self) -> DateTime<Utc> {
        self.confirmed.map_or(self.updated_at, |confirmed| self.updated_at.max(confirmed.at))
    }

    /// The newest block at which the row was read; `None` for placeholders and for rows of the original.
    pub fn fresh_block(&self) -> Option<i64> {
        self.read_block.max(self.confirmed.map(|confirmed| confirmed.block))
    }

    /// The newest block at which the row was read, as a number of a block.
    pub fn read_at(&self) -> Option<u64> {
        self.fresh_block().and_then(|block| block.try_into().ok())
    }

    /// The block at which it was read; of a row of the original, which was read then or later, that of the newest event.
    pub fn since(&self) -> Option<u64> {
        self.read_at().or(self.blocknumber.and_then(|block| block.try_into().ok()))
    }

    /// True if it holds this total and all of its parts.
    pub fn holds(&self, total: &Total) -> bool {
        self.total == total.sum.to_string() && self.parts_other_than(total).next().is_none()
    }

    /// The columns that do not hold what the total's part is, each with that and what it holds.
    pub fn parts_other_than<'a>(
        &'a self,
        total: &'a Total,
    ) -> impl Iterator<Item = (&'a str, U256, Option<&'a str>)> {
        let parts = self.parts.iter().zip(&total.parts);
        let parts = parts.map(|((name, stored), part)| (name.as_str(), *part, stored.as_deref()));
        parts.filter(|(_, part, stored)| *stored != Some(part.to_string().as_str()))
    }

    /// True for a placeholder: a wallet that was never read.
    pub fn is_placeholder(&self) -> bool {
        self.since().is_none() && self.updated_at.timestamp() < 86_400
    }
}

/// The profile that all totals of a table are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableProfile {
    /// Its name, for people.
    pub name: String,
    /// What it and another one must have in common, as a text.
    pub identity: String,
}

/// Numbers of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableCounts {
    /// Rows.
    pub wallets: u64,
    /// Placeholders: rows whose total was never read.
    pub never_read: u64,
    /// Wallets whose last read failed.
    pub unreadable: u64,
}

/// How far events were followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its name, from the profile.
    pub name: String,
    /// The last block whose events are in the table.
    pub last_block: i64,
    /// When it last advanced.
    pub updated_at: DateTime<Utc>,
}

/// Since when the events of a profile are followed without a gap, and how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The checkpoint's name.
    pub(super) checkpoint: String,
    /// A row is covered if it was read at this block or later.
    pub(super) from: u64,
    /// Covered rows are right at this block, or were read later.
    pub(super) to: u64,
    /// Rows that were read at this block or later may be of replaced blocks.
    pub(super) doubt_from: Option<u64>,
}

impl Coverage {
    /// The block up to which covered rows are right.
    pub const fn to(&self) -> u64 {
        self.to
    }
}

/// How many rows are not covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UncoveredCounts {
    /// All of them.
    pub rows: u64,
    /// Those among them that are on the record of failures.
    pub failing: u64,
}

/// A wallet whose row is not covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UncoveredWallet {
    /// The wallet.
    pub wallet: Wallet,
    /// True for a placeholder.
    pub is_placeholder: bool,
}

/// Work that only one process does at a time.
#[derive(Clone, Copy, Debug)]
pub enum LockKey<'a> {
    /// Sweeping this shard.
    Sweep(Shard),
    /// Following the chain for the checkpoint of this name.
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
