//! The store in PostgreSQL.
//!
//! Bulk statements take whole columns through `unnest`, so no batch meets a bind limit.

mod journal;
mod ledger;
mod upgrade;

use std::{collections::HashSet, str::FromStr, time::Duration};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};
use sqlx::{
    Connection, Either, PgConnection, PgPool, Postgres, Transaction,
    postgres::{PgAdvisoryLock, PgConnectOptions, PgPoolOptions},
};

use super::{
    Checkpoint, Cursor, LockKey, Page, RawRow, Row, Stale, Store, TableCounts, schema,
    sorted_texts, stored_number, stored_wallet,
};
use crate::{
    follow::Lock,
    redact,
    tally::{RunError, Shard, Wallet},
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The store in PostgreSQL.
pub(super) struct PostgresStore {
    pool: PgPool,
    options: PgConnectOptions,
    label: String,
}

impl PostgresStore {
    /// Connects.
    pub(super) async fn open(url: &str) -> Result<Self, RunError> {
        // The parser's own error may quote parts of the URL.
        let options = PgConnectOptions::from_str(url)
            .ok()
            .filter(|_| url.contains("://") && !redact::is_ambiguous(url));
        let options = options.ok_or_else(|| {
            anyhow!(
                "--database-url is not a URL of PostgreSQL; percent-encode special characters in \
                 user, password and database"
            )
        })?;
        let options = options.application_name("ethtally");
        let label = format!("database postgres://{}:{}", options.get_host(), options.get_port());
        // A pool would try until its time is over, and then not say why.
        let probe = tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options));
        let connected = match probe.await {
            Ok(connected) => connected.map_err(anyhow::Error::from),
            Err(_) => Err(anyhow!("no answer in {} s", CONNECT_TIMEOUT.as_secs())),
        };
        let connection = connected.with_context(|| {
            format!(
                "{label}: no connection; check that the server is up, and host, user, password and \
                 database in --database-url"
            )
        })?;
        connection.close().await.map_err(anyhow::Error::from)?;
        let pool = PgPoolOptions::new().max_connections(5).acquire_timeout(CONNECT_TIMEOUT);
        Ok(Self { pool: pool.connect_lazy_with(options.clone()), options, label })
    }

    /// An error of this database, named by it.
    fn failed(&self, error: impl Into<anyhow::Error>) -> RunError {
        RunError::Database(error.into().context(self.label.clone()))
    }

    /// The error with its thing, and for a pool's vague one what the server says.
    async fn explained(&self, error: sqlx::Error) -> RunError {
        let mut cause = anyhow::Error::from(error);
        if let Some(sqlx::Error::PoolTimedOut) = cause.downcast_ref() {
            let probe = PgConnection::connect_with(&self.options);
            if let Ok(Err(error)) = tokio::time::timeout(CONNECT_TIMEOUT, probe).await {
                cause = anyhow::Error::from(error).context("the connection is lost");
            }
        }
        self.failed(cause)
    }

    /// Rows drawn from random pages of the table: so many pages for each row, and some for good
    /// measure. A small table is drawn from as a whole.
    async fn draw(&self, count: u32, pages: i32) -> Result<Vec<RawRow>, RunError> {
        sqlx::query_as(
            "select wallet, trim_scale(balance)::text, read_block, blocknumber, updated_at
             from eth_wallet_balances tablesample system (
                 least(100, 100.0 * $2 * ($1::bigint + 10) * current_setting('block_size')::bigint
                     / greatest(1, pg_relation_size('eth_wallet_balances'))))
             order by random() limit $1",
        )
        .bind(i64::from(count))
        .bind(pages)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))
    }

    /// A transaction whose statements take rows as an index gives them.
    ///
    /// Without statistics, or with a generic plan, the planner would rather sort all rows of one
    /// age, for every page again, or read the whole table where an index holds all that is asked.
    /// It is there to be read in: to drop it ends it.
    async fn by_index(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        // What is off counts as very dear where it cannot be avoided; to compile a plan for that
        // would take longer than to run it.
        let begin = "begin;
             set local enable_seqscan = off;
             set local enable_bitmapscan = off;
             set local enable_sort = off;
             set local enable_incremental_sort = off;
             set local jit = off";
        self.pool.begin_with(begin).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn migrate(&self) -> Result<Vec<String>, RunError> {
        let applied = async {
            let lacking = {
                let mut connection = self.pool.acquire().await?;
                schema::lacking(&schema::postgres(), &mut *connection).await?
            };
            if lacking.is_empty() { Ok(lacking) } else { upgrade::run(&self.options).await }
        };
        applied.await.map_err(|error| self.failed(error))
    }

    async fn require_tables(&self) -> Result<(), RunError> {
        let required = async {
            let mut connection = self.pool.acquire().await?;
            schema::require(&schema::postgres(), &mut *connection).await
        };
        required.await.map_err(|error| self.failed(error))
    }

    async fn now(&self) -> Result<DateTime<Utc>, RunError> {
        let now: NaiveDateTime = sqlx::query_scalar("select clock_timestamp() at time zone 'utc'")
            .fetch_one(&self.pool)
            .await
            .map_err(|error| self.failed(error))?;
        Ok(now.and_utc())
    }

    async fn stale_page(
        &self,
        stale: &Stale,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page, RunError> {
        let (age, wallet) = after
            .map_or(("-infinity", ""), |after| (after.updated_at.as_str(), after.wallet.as_str()));
        let (first, behind) = stale.shard.bounds();
        let found = async {
            let mut by_index = self.by_index().await?;
            // Without `stored.` the order would be that of the text in the result.
            sqlx::query_as(
                "select wallet, updated_at::text from eth_wallet_balances stored
             where updated_at < $1 and (updated_at, wallet) > ($2::text::timestamp, $3)
                 and wallet >= $4 and ($5::text is null or wallet < $5)
                 and not exists (
                     select from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet
                         and failed.next_try_at > now() at time zone 'utc')
             order by stored.updated_at, stored.wallet
             limit $6",
            )
            .bind(stale.before.naive_utc())
            .bind(age)
            .bind(wallet)
            .bind(first.to_string())
            .bind(behind.map(|wallet| wallet.to_string()))
            .bind(i64::from(limit))
            .fetch_all(&mut *by_index)
            .await
        };
        let rows = found.await.map_err(|error| self.failed(error))?;
        Ok(Page::of(rows, limit))
    }

    async fn due_without_row(&self, shard: Shard, limit: u32) -> Result<Vec<Wallet>, RunError> {
        let (first, behind) = shard.bounds();
        let texts: Vec<String> = sqlx::query_scalar(
            "select wallet from eth_wallet_read_failures failed
             where next_try_at <= now() at time zone 'utc'
                 and wallet >= $1 and ($2::text is null or wallet < $2)
                 and not exists (
                     select 1 from eth_wallet_balances stored where stored.wallet = failed.wallet)
             order by next_try_at, wallet
             limit $3",
        )
        .bind(first.to_string())
        .bind(behind.map(|wallet| wallet.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(texts.iter().filter_map(|text| stored_wallet(text)).collect())
    }

    async fn count_stale(&self, stale: &Stale) -> Result<u64, RunError> {
        let (first, behind) = stale.shard.bounds();
        let found = async {
            let mut by_index = self.by_index().await?;
            sqlx::query_scalar(
                "select count(*) from eth_wallet_balances stored
             where updated_at < $1
                 and wallet >= $2 and ($3::text is null or wallet < $3)
                 and not exists (
                     select from eth_wallet_read_failures failed
                     where failed.wallet = stored.wallet
                         and failed.next_try_at > now() at time zone 'utc')",
            )
            .bind(stale.before.naive_utc())
            .bind(first.to_string())
            .bind(behind.map(|wallet| wallet.to_string()))
            .fetch_one(&mut *by_index)
            .await
        };
        let count: i64 = found.await.map_err(|error| self.failed(error))?;
        Ok(count.unsigned_abs())
    }

    async fn insert_placeholders(&self, wallets: &[Wallet]) -> Result<u64, RunError> {
        let inserted = sqlx::query(
            "insert into eth_wallet_balances (wallet, balance, updated_at, created_at)
             select wallet, 0, timestamp '1970-01-01', now() at time zone 'utc'
             from unnest($1::text[]) as new (wallet)
             order by wallet
             on conflict (wallet) do nothing",
        )
        .bind(sorted_texts(wallets))
        .execute(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(inserted.rows_affected())
    }

    async fn with_read_total(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError> {
        let texts: Vec<String> = sqlx::query_scalar(
            "select wallet from eth_wallet_balances
             where wallet = any($1)
                 and (read_block is not null or updated_at >= timestamp '1970-01-02')",
        )
        .bind(sorted_texts(wallets))
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(texts.iter().filter_map(|text| stored_wallet(text)).collect())
    }

    async fn row(&self, wallet: Wallet) -> Result<Option<Row>, RunError> {
        let row: Option<RawRow> = sqlx::query_as(
            "select wallet, trim_scale(balance)::text, read_block, blocknumber, updated_at
             from eth_wallet_balances where wallet = $1",
        )
        .bind(wallet.to_string())
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(row.and_then(Row::of))
    }

    async fn sample(&self, count: u32) -> Result<Vec<Row>, RunError> {
        let mut rows = self.draw(count, 4).await?;
        if rows.len() < count as usize {
            // Its pages hold few rows, or there are not so many.
            rows = self.draw(count, i32::MAX).await?;
        }
        Ok(rows.into_iter().filter_map(Row::of).collect())
    }

    async fn counts(&self) -> Result<TableCounts, RunError> {
        let found = async {
            let mut by_index = self.by_index().await?;
            sqlx::query_as(
                "select
                 (select count(*) from eth_wallet_balances),
                 (select count(*) from eth_wallet_balances
                  where updated_at < timestamp '1970-01-02' and read_block is null),
                 (select count(*) from eth_wallet_read_failures)",
            )
            .fetch_one(&mut *by_index)
            .await
        };
        let counts = found.await.map_err(|error| self.failed(error))?;
        Ok(TableCounts::of(counts))
    }

    async fn nth_oldest(&self, n: u64) -> Result<Option<DateTime<Utc>>, RunError> {
        let n = stored_number(n)?;
        let found = async {
            let mut by_index = self.by_index().await?;
            sqlx::query_scalar(
                "select updated_at from eth_wallet_balances order by updated_at limit 1 offset $1",
            )
            .bind(n)
            .fetch_optional(&mut *by_index)
            .await
        };
        let time: Option<NaiveDateTime> = found.await.map_err(|error| self.failed(error))?;
        Ok(time.map(|time| time.and_utc()))
    }

    async fn checkpoint(&self, name: &str) -> Result<Option<Checkpoint>, RunError> {
        let row = sqlx::query_as(
            "select name, last_block, updated_at from eth_indexer_checkpoints where name = $1",
        )
        .bind(name)
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(row.map(Checkpoint::of))
    }

    async fn lock(&self, task: LockKey<'_>) -> Result<Option<Box<dyn Lock>>, RunError> {
        // Held by a session, so it goes with the connection, however the process ends. A connection
        // of the pool would be closed when it gets old.
        let lock = PgAdvisoryLock::new(format!("ethtally {task}"));
        let taken = async { lock.try_acquire(self.pool.acquire().await?).await };
        match taken.await.map_err(|error| self.failed(error))? {
            Either::Left(guard) => {
                let mut session = guard.leak().detach();
                // If this machine is gone from one moment to the next, the server is to notice soon.
                sqlx::query(
                    "select set_config('tcp_keepalives_idle', '5', false),
                         set_config('tcp_keepalives_interval', '3', false),
                         set_config('tcp_keepalives_count', '3', false)",
                )
                .execute(&mut session)
                .await
                .map_err(|error| self.failed(error))?;
                Ok(Some(Box::new(SessionLock(session))))
            }
            Either::Right(_) => Ok(None),
        }
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

/// The session that holds an advisory lock.
struct SessionLock(PgConnection);

#[async_trait]
impl Lock for SessionLock {
    async fn is_held(&mut self) -> bool {
        let ping = tokio::time::timeout(CONNECT_TIMEOUT, self.0.ping());
        matches!(ping.await, Ok(Ok(())))
    }
}
