//! Everything that talks to a database, and all SQL.
//!
//! [`Store`] is what commands see, and [`open`] returns one. `sql_store` is the one flow of every
//! method: which statements it executes and what their rows mean. `postgres` and `sqlite` hold the
//! statements in their dialect of SQL, and how to connect, lock and name an error.

mod dialect;
mod error;
mod postgres;
mod rows;
mod schema;
mod sql_store;
mod sqlite;

use std::{collections::HashSet, fmt, path::Path};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use self::error::StoreError;
use crate::{
    follow::{Journal, Lock},
    tally::{Ledger, RunError, Shard, Shutdown, Wallet},
};

/// What a command may do with the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read rows; create and change nothing.
    Read,
    /// Write rows; create an SQLite file if it is missing.
    Write,
}

/// Opens the database at `url`: `sqlite:PATH` or `postgres://…`. Waits for other processes and for
/// the server until `shutdown`, which also ends the waits of [`Store::migrate`].
///
/// # Errors
/// [`RunError::Settings`] if the URL or what it names is at fault, [`RunError::Database`] if the
/// database fails, [`RunError::Stopped`] after a shutdown. No error shows a secret of the URL.
pub async fn open(
    url: &str,
    access: Access,
    shutdown: &Shutdown,
) -> Result<Box<dyn Store>, RunError> {
    match url.split_once(':') {
        Some(("sqlite", _)) => Ok(Box::new(sqlite::open(url, access, shutdown).await?)),
        Some(("postgres" | "postgresql", _)) => {
            Ok(Box::new(postgres::open(url, access, shutdown).await?))
        }
        None if is_file_name(url) => Err(RunError::settings(format!(
            "unsupported database URL; for a SQLite file write sqlite:{url}"
        ))),
        _ => Err(RunError::settings(
            "unsupported database URL; use sqlite:PATH or a postgres:// URL",
        )),
    }
}

/// True for the usual names of SQLite files. Other texts may be a secret, and are not shown.
fn is_file_name(text: &str) -> bool {
    let extension = Path::new(text).extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("db" | "db3" | "sqlite" | "sqlite3")) && !text.contains('@')
}

/// Does `work`, unless a shutdown comes first; `what` names what is waited for.
async fn unless_stopped<T>(
    shutdown: &Shutdown,
    what: &str,
    work: impl Future<Output = T>,
) -> Result<T, StoreError> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = shutdown.requested() => Err(StoreError::Stopped(what.to_owned())),
    }
}

/// The table of totals and the tables beside it.
#[async_trait]
pub trait Store: Ledger + Journal {
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

    /// The next rows after `after`, oldest first, without unreadable wallets that must wait.
    async fn stale_page(
        &self,
        stale: &Stale,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page, RunError>;

    /// Wallets of the shard that have no row because every read of them failed, and whose retry is
    /// due; the longest due first.
    async fn due_without_row(&self, shard: Shard, limit: u32) -> Result<Vec<Wallet>, RunError>;

    /// How many rows all pages of [`Store::stale_page`] hold.
    async fn count_stale(&self, stale: &Stale) -> Result<u64, RunError>;

    /// Stores unread wallets as the oldest rows; rows that exist stay as they are.
    /// Returns the number of new rows.
    async fn insert_placeholders(&self, wallets: &[Wallet]) -> Result<u64, RunError>;

    /// Those of `wallets` whose row is not a placeholder.
    async fn with_read_total(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError>;

    /// A wallet's row.
    async fn row(&self, wallet: Wallet) -> Result<Option<Row>, RunError>;

    /// Random rows, each at most once. Rows whose key is not a wallet are left out.
    async fn sample(&self, count: u32) -> Result<Vec<Row>, RunError>;

    /// The numbers of rows.
    async fn counts(&self) -> Result<TableCounts, RunError>;

    /// When the row with `n` older rows was last written; `None` past the last row.
    async fn nth_oldest(&self, n: u64) -> Result<Option<DateTime<Utc>>, RunError>;

    /// The checkpoint of this name.
    async fn checkpoint(&self, name: &str) -> Result<Option<Checkpoint>, RunError>;

    /// Takes a lock between processes; `None` if another one holds it.
    ///
    /// The lock ends when the guard is dropped or its process ends, however it ends.
    async fn lock(&self, key: LockKey<'_>) -> Result<Option<Box<dyn Lock>>, RunError>;

    /// Closes the connections once they are idle. Every later call of another method fails.
    ///
    /// SQLite then removes the `-wal` and `-shm` files beside the database.
    async fn close(&self);
}

/// Which rows a sweep reads again.
#[derive(Clone, Copy, Debug)]
pub struct Stale {
    /// Only rows that were last written before this time.
    pub before: DateTime<Utc>,
    /// Only wallets of this shard.
    pub shard: Shard,
}

/// The last row of a page; the next page begins after it.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// As the database writes it, so that no precision is lost.
    updated_at: String,
    wallet: String,
}

/// A page of rows in order of age.
#[derive(Clone, Debug)]
pub struct Page {
    /// The wallets, each once.
    pub wallets: Vec<Wallet>,
    /// Where the next page begins; `None` for the last page.
    pub next: Option<Cursor>,
}

/// A wallet's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The wallet.
    pub wallet: Wallet,
    /// The stored total in wei, decimal; as text, since another program may have stored anything.
    pub total: String,
    /// The block at which it was read; `None` for placeholders and for rows of the original.
    pub read_block: Option<i64>,
    /// The newest block of an event for this wallet.
    pub blocknumber: Option<i64>,
    /// When the row was last written.
    pub updated_at: DateTime<Utc>,
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
