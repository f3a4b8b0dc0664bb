//! The store in SQLite, embedded.
//!
//! Bulk statements take whole columns as one JSON text through `json_each`, so no batch
//! meets a bind limit. Times are written as `YYYY-MM-DD HH:MM:SS[.fff]`, UTC, which sort as text.

mod journal;
mod ledger;

use std::{collections::HashSet, fs::File, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};
use serde_json::json;
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    Access, Checkpoint, Cursor, LockKey, Page, RawRow, Row, Stale, Store, TableCounts,
    lock_file::{LockFile, beside},
    schema, sorted_texts, stored_number, stored_wallet,
};
use crate::{
    follow::Lock,
    tally::{RunError, Shard, Wallet},
};

/// How long a statement waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// The store in an SQLite file.
pub(super) struct SqliteStore {
    pool: SqlitePool,
    path: PathBuf,
}

impl SqliteStore {
    /// Opens the file; makes it only for [`Access::Write`].
    pub(super) async fn open(url: &str, access: Access) -> Result<Self, RunError> {
        let options = SqliteConnectOptions::from_str(url).map_err(|error| {
            anyhow!("--database-url is no URL of SQLite ({error}); write sqlite:PATH")
        })?;
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err(RunError::settings(format!(
                "--database-url names a database in memory, which would be gone at once; \
                 give sqlite:PATH"
            )));
        }
        let path = options.get_filename().to_path_buf();
        if path.as_os_str().is_empty() {
            return Err(RunError::settings(format!(
                "--database-url names no file; give sqlite:PATH"
            )));
        }
        let options = options.busy_timeout(BUSY_TIMEOUT).create_if_missing(access == Access::Write);
        let options = match access {
            Access::Read => {
                if !path.exists() {
                    return Err(RunError::settings(format!(
                        "database sqlite:{}: there is no such file; run `ethtally migrate` first, or \
                         check --database-url",
                        path.display()
                    )));
                }
                options.pragma("query_only", "on")
            }
            Access::Write => {
                options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Normal)
            }
        };
        let pool = |options| SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options);
        let mut store = Self { pool: pool(options.clone()), path };
        // Two processes that turn a new file into a database at once would collide.
        let _opening = match access {
            Access::Write => Some(store.lock_file("open")?.lock_wait()?),
            Access::Read => None,
        };
        let mut opened = store.look().await;
        if opened.is_err() && access == Access::Read && !beside(&store.path, "-wal").exists() {
            // In a folder that we may not write, SQLite cannot make its -shm; nor does it need to.
            store.pool = pool(options.immutable(true));
            opened = store.look().await;
        }
        opened.with_context(|| {
            format!(
                "{}: it cannot be opened; check that its directory exists and can be written",
                store.label()
            )
        })?;
        Ok(store)
    }

    /// An error of this database, named by it.
    fn failed(&self, error: impl Into<anyhow::Error>) -> RunError {
        RunError::Database(error.into().context(self.label()))
    }

    fn label(&self) -> String {
        format!("database sqlite:{}", self.path.display())
    }

    /// Reads something, which shows whether the file can be read.
    async fn look(&self) -> sqlx::Result<()> {
        sqlx::query("select count(*) from sqlite_master").execute(&self.pool).await.map(drop)
    }

    /// The file that processes lock for this purpose.
    fn lock_file(&self, purpose: &str) -> Result<LockFile, RunError> {
        LockFile::beside(&self.path, purpose).map_err(|error| self.failed(error))
    }

    /// Some of the rows with these numbers.
    async fn draw(&self, count: u32, numbers: &[i64]) -> sqlx::Result<Vec<RawRow>> {
        sqlx::query_as(
            "select wallet, balance, read_block, blocknumber,
                 strftime('%Y-%m-%d %H:%M:%f', updated_at)
             from eth_wallet_balances where rowid in (select value from json_each($2))
             order by random() limit $1",
        )
        .bind(count)
        .bind(json!(numbers).to_string())
        .fetch_all(&self.pool)
        .await
    }
}

/// The clock: an embedded database has its user's. To the millisecond, as SQLite's own functions.
fn now() -> NaiveDateTime {
    Utc::now().naive_utc().trunc_subsecs(3)
}

#[async_trait]
impl Store for SqliteStore {
    async fn migrate(&self) -> Result<Vec<String>, RunError> {
        let applied = async {
            // SQLite's migrations do not lock by themselves.
            let _migrating = self.lock_file("open")?.lock_wait()?;
            let mut connection = self.pool.acquire().await?;
            schema::apply(&schema::sqlite(), &mut *connection).await
        };
        applied.await.map_err(|error| self.failed(error))
    }

    async fn require_tables(&self) -> Result<(), RunError> {
        let required = async {
            let mut connection = self.pool.acquire().await?;
            schema::require(&schema::sqlite(), &mut *connection).await
        };
        required.await.map_err(|error| self.failed(error))
    }

    async fn now(&self) -> Result<DateTime<Utc>, RunError> {
        Ok(now().and_utc())
    }

    async fn stale_page(
        &self,
        stale: &Stale,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page, RunError> {
        let (age, wallet) =
            after.map_or(("", ""), |after| (after.updated_at.as_str(), after.wallet.as_str()));
        let (first, behind) = stale.shard.bounds();
        let rows = sqlx::query_as(
            "select wallet, updated_at
             from eth_wallet_balances stored indexed by eth_wallet_balances_sweep_idx
             where updated_at < $1 and (updated_at, wallet) > ($2, $3)
                 and wallet >= $4 and ($5 is null or wallet < $5)
                 and not exists (
                     select 1 from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet
                         and failed.next_try_at > $7)
             order by stored.updated_at, stored.wallet
             limit $6",
        )
        .bind(stale.before.naive_utc())
        .bind(age)
        .bind(wallet)
        .bind(first.to_string())
        .bind(behind.map(|wallet| wallet.to_string()))
        .bind(limit)
        .bind(now())
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(Page::of(rows, limit))
    }

    async fn due_without_row(&self, shard: Shard, limit: u32) -> Result<Vec<Wallet>, RunError> {
        let (first, behind) = shard.bounds();
        let texts: Vec<String> = sqlx::query_scalar(
            "select wallet from eth_wallet_read_failures failed
             where next_try_at <= $4
                 and wallet >= $1 and ($2 is null or wallet < $2)
                 and not exists (
                     select 1 from eth_wallet_balances stored where stored.wallet = failed.wallet)
             order by next_try_at, wallet
             limit $3",
        )
        .bind(first.to_string())
        .bind(behind.map(|wallet| wallet.to_string()))
        .bind(limit)
        .bind(now())
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(texts.iter().filter_map(|text| stored_wallet(text)).collect())
    }

    async fn count_stale(&self, stale: &Stale) -> Result<u64, RunError> {
        let (first, behind) = stale.shard.bounds();
        let count: i64 = sqlx::query_scalar(
            "select count(*) from eth_wallet_balances stored
             where updated_at < $1
                 and wallet >= $2 and ($3 is null or wallet < $3)
                 and not exists (
                     select 1 from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet
                         and failed.next_try_at > $4)",
        )
        .bind(stale.before.naive_utc())
        .bind(first.to_string())
        .bind(behind.map(|wallet| wallet.to_string()))
        .bind(now())
        .fetch_one(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(count.unsigned_abs())
    }

    async fn insert_placeholders(&self, wallets: &[Wallet]) -> Result<u64, RunError> {
        let inserted = sqlx::query(
            "insert into eth_wallet_balances (wallet, balance, updated_at, created_at)
             select value, '0', '1970-01-01 00:00:00', $2 from json_each($1)
             where true
             on conflict (wallet) do nothing",
        )
        .bind(json!(sorted_texts(wallets)).to_string())
        .bind(now())
        .execute(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(inserted.rows_affected())
    }

    async fn with_read_total(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError> {
        let texts: Vec<String> = sqlx::query_scalar(
            "select wallet from eth_wallet_balances
             where wallet in (select value from json_each($1))
                 and (read_block is not null or updated_at >= '1970-01-02')",
        )
        .bind(json!(sorted_texts(wallets)).to_string())
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(texts.iter().filter_map(|text| stored_wallet(text)).collect())
    }

    async fn row(&self, wallet: Wallet) -> Result<Option<Row>, RunError> {
        let row: Option<RawRow> = sqlx::query_as(
            "select wallet, balance, read_block, blocknumber,
                 strftime('%Y-%m-%d %H:%M:%f', updated_at)
             from eth_wallet_balances where wallet = $1",
        )
        .bind(wallet.to_string())
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(row.and_then(Row::of))
    }

    async fn sample(&self, count: u32) -> Result<Vec<Row>, RunError> {
        let drawn = async {
            let last: Option<i64> =
                sqlx::query_scalar("select max(rowid) from eth_wallet_balances")
                    .fetch_one(&self.pool)
                    .await?;
            let last = last.unwrap_or_default();
            // Blindly: where few numbers have no row, more than enough of these have one.
            if last / 4 > i64::from(count) {
                let numbers: Vec<_> =
                    (0..2 * count + 10).map(|_| rand::random_range(1..=last)).collect();
                let rows = self.draw(count, &numbers).await?;
                if rows.len() >= count as usize {
                    return Ok(rows);
                }
            }
            let any = "select rowid from eth_wallet_balances order by random() limit $1";
            let numbers: Vec<i64> =
                sqlx::query_scalar(any).bind(count).fetch_all(&self.pool).await?;
            self.draw(count, &numbers).await
        };
        let rows = drawn.await.map_err(|error| self.failed(error))?;
        Ok(rows.into_iter().filter_map(Row::of).collect())
    }

    async fn counts(&self) -> Result<TableCounts, RunError> {
        let counts = sqlx::query_as(
            "select
                 (select count(*) from eth_wallet_balances),
                 (select count(*) from eth_wallet_balances
                  where updated_at < '1970-01-02' and read_block is null),
                 (select count(*) from eth_wallet_read_failures)",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(TableCounts::of(counts))
    }

    async fn nth_oldest(&self, n: u64) -> Result<Option<DateTime<Utc>>, RunError> {
        let time: Option<NaiveDateTime> = sqlx::query_scalar(
            "select strftime('%Y-%m-%d %H:%M:%f', updated_at)
             from eth_wallet_balances order by updated_at limit 1 offset $1",
        )
        .bind(stored_number(n)?)
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(time.map(|time| time.and_utc()))
    }

    async fn checkpoint(&self, name: &str) -> Result<Option<Checkpoint>, RunError> {
        let row = sqlx::query_as(
            "select name, last_block, strftime('%Y-%m-%d %H:%M:%f', updated_at)
             from eth_indexer_checkpoints where name = $1",
        )
        .bind(name)
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(row.map(Checkpoint::of))
    }

    async fn lock(&self, task: LockKey<'_>) -> Result<Option<Box<dyn Lock>>, RunError> {
        let purpose = task.to_string().replace(' ', "-").replace('/', "-of-");
        let held = self.lock_file(&purpose)?.try_lock()?;
        Ok(held.map(|file| Box::new(FileLock(file)) as Box<dyn Lock>))
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// A locked file. It stays locked for as long as this lives.
struct FileLock(#[expect(dead_code, reason = "dropping it gives the lock back")] File);

#[async_trait]
impl Lock for FileLock {
    async fn is_held(&mut self) -> bool {
        true
    }
}
