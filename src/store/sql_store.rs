//! The store, whatever the dialect: which statements are executed when, and what their rows mean.
//!
//! Knows no SQL but the statements that read the same in both dialects.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::anyhow;
use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use chrono::{DateTime, NaiveDateTime, Utc};

use sqlx::SqlSafeStr;
use tracing::debug;

use super::{
    BucketCursor, BucketPage, Checkpoint, Coverage, Cursor, LockKey, Page, Row, Stale, Store,
    TableCounts, TableFreshness, TableProfile, UncoveredCounts, UncoveredWallet,
    backend::Backend,
    coverage::{self, doubt_in},
    dialect::{AnyRow, Column, Purpose, Value},
    error::{StoreError, unless_stopped},
    parts,
    rows::{
        BlockColumns, ROWS_ABOVE, bigint, hash_texts, keys_of, recent_reads, rows_above_json,
        wallets_and_blocks, wallets_in, wallets_json, wallets_of,
    },
    sample, schema,
    session::{Database, Session},
};
use crate::{
    follow::{BlockReads, CheckpointUpdate, Journal, RecentReads, RowsAbove},
    tally::{Bucket, ChangeSink, Check, Lock, Recorded, RunError, Selection, Shard, Wallet},
};

/// When a transaction is done again after a conflict with another one, or on a new connection after one that was lost:
/// for some seconds, as long as a server takes to restart.
const RETRIES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(10))
    .with_max_delay(Duration::from_secs(2))
    .with_factor(3.0)
    .with_jitter()
    .with_max_times(8);

/// A store in a database of this kind.
pub(super) struct SqlStore<D: Backend> {
    pub(super) database: Database<D>,
}

impl<D: Backend> SqlStore<D> {
    /// Does `work` until it succeeds or a retry would not help; an error is put in words.
    pub(super) async fn retried<T, F>(&self, work: impl FnMut() -> F + Send) -> Result<T, RunError>
    where
        T: Send,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        self.explained(self.retry(work).await).await
    }

    /// Does `work` until it succeeds or a retry would not help.
    pub(super) async fn retry<T, F>(&self, work: impl FnMut() -> F + Send) -> Result<T, StoreError>
    where
        T: Send,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let waking = self.database.shutdown.clone();
        work.retry(RETRIES)
            .when(|error| {
                !self.database.shutdown.is_requested() && (error.is_lost() || D::is_conflict(error))
            })
            .notify(|error, pause| debug!("database: {error}; retrying in {pause:?}"))
            .sleep(move |pause| {
                let shutdown = waking.clone();
                async move {
                    let _ = tokio::time::timeout(pause, shutdown.requested()).await;
                }
            })
            .await
    }

    /// Executes a statement in a transaction of its own and returns the number of rows it affected.
    async fn execute(&self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, RunError> {
        let executed = || async {
            let mut session = self.database.begin(Purpose::Write).await?;
            let executed = session.execute(sql, values).await;
            session.end(executed).await
        };
        self.retried(executed).await
    }

    /// Executes a query and returns its rows.
    pub(super) async fn fetch<T: AnyRow>(
        &self,
        sql: impl SqlSafeStr,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, RunError> {
        let sql = sql.into_sql_str();
        self.retried(|| self.database.fetch(Purpose::Read, sql.clone(), values)).await
    }

    /// Executes a query that reads rows in the order of an index.
    pub(super) async fn fetch_by_index<T: AnyRow>(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, RunError> {
        self.retried(|| self.database.fetch(Purpose::ByIndex, sql, values)).await
    }

    /// Executes a query for keys and returns their wallets.
    pub(super) async fn fetch_wallets<C: FromIterator<Wallet>>(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<C, RunError> {
        let keys: Vec<(String,)> = self.fetch(sql, values).await?;
        Ok(wallets_of(keys.into_iter().map(|(key,)| key)))
    }

    /// The result, with an error put in words and the database's name before it.
    pub(super) async fn explained<T>(
        &self,
        result: Result<T, impl Into<StoreError>>,
    ) -> Result<T, RunError> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(self.in_words(error.into()).await),
        }
    }

    pub(super) async fn in_words(&self, error: StoreError) -> RunError {
        let label = self.database.dialect.label();
        if let StoreError::Connect(cause) = &error {
            return self.database.dialect.cannot_connect(cause);
        }
        if let Some(cause) = error.sql() {
            let is_upgrade = matches!(error, StoreError::Upgrade(_));
            let mut explained = self.database.dialect.describe(cause, is_upgrade);
            if let StoreError::Blocked { by, .. } = &error {
                explained.text = format!("{}; it waited for {by}", explained.text);
            }
            return explained.of(&label);
        }
        let text = format!("{label}: {error}");
        match error {
            // A limit of time ended the wait: then it is the database that was too slow.
            StoreError::Stopped(_) if self.database.shutdown.signal().is_some() => {
                RunError::Stopped(error.to_string())
            }
            StoreError::TablesMissing
            | StoreError::ColumnsMissing(_)
            | StoreError::ColumnOfOtherPart { .. }
            | StoreError::ColumnOfOthers(_)
            | StoreError::TablesTooNew(_)
            | StoreError::SchemaMissing(_)
            | StoreError::ServerTooOld(_)
            | StoreError::LockFile { .. } => RunError::settings(text),
            _ => RunError::Database(anyhow!(text)),
        }
    }
}

#[async_trait]
impl<D: Backend> Store for SqlStore<D> {
    async fn migrate(&self) -> Result<Vec<String>, RunError> {
        self.explained(D::migrate(&self.database).await).await
    }

    async fn require_tables(&self) -> Result<(), RunError> {
        self.explained(schema::require(&self.database, D::MIGRATIONS).await).await?;
        self.explained(parts::require(&self.database).await).await
    }

    async fn now(&self) -> Result<DateTime<Utc>, RunError> {
        let rows: Vec<(NaiveDateTime,)> = self.fetch(D::SQL.now, &[]).await?;
        Ok(only(rows)?.and_utc())
    }

    async fn stale_page(
        &self,
        stale: &Stale,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page, RunError> {
        let (age, wallet) = place::<D>(after);
        let (from, to) = bounds(stale.shard);
        let values = [
            Value::Time(stale.before.naive_utc()),
            Value::Text(age),
            Value::Text(wallet),
            Value::Text(&from),
            Value::TextOrNull(to.as_deref()),
            Value::Number(limit.into()),
        ];
        let rows: Vec<(String, String)> = self.fetch_by_index(D::SQL.stale_page, &values).await?;
        Ok(Page::of(&rows, limit))
    }

    async fn due_page(
        &self,
        stale: &Stale,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page, RunError> {
        let (time, wallet) = place::<D>(after);
        let (from, to) = bounds(stale.shard);
        let values = [
            Value::Time(stale.due.naive_utc()),
            Value::Text(time),
            Value::Text(wallet),
            Value::Text(&from),
            Value::TextOrNull(to.as_deref()),
            Value::Time(stale.before.naive_utc()),
            Value::Number(limit.into()),
        ];
        let rows: Vec<(String, String)> = self.fetch_by_index(D::SQL.due_page, &values).await?;
        Ok(Page::of(&rows, limit))
    }

    async fn count_stale(&self, stale: &Stale) -> Result<u64, RunError> {
        let (from, to) = bounds(stale.shard);
        let values = [
            Value::Time(stale.before.naive_utc()),
            Value::Text(&from),
            Value::TextOrNull(to.as_deref()),
        ];
        let rows: Vec<(i64,)> = self.fetch_by_index(D::SQL.count_stale, &values).await?;
        Ok(only(rows)?.unsigned_abs())
    }

    async fn count_due(&self, stale: &Stale) -> Result<u64, RunError> {
        let (from, to) = bounds(stale.shard);
        let values = [
            Value::Time(stale.due.naive_utc()),
            Value::Text(&from),
            Value::TextOrNull(to.as_deref()),
            Value::Time(stale.before.naive_utc()),
        ];
        let rows: Vec<(i64,)> = self.fetch_by_index(D::SQL.count_due, &values).await?;
        Ok(only(rows)?.unsigned_abs())
    }

    async fn wallets_page(
        &self,
        after: &str,
        limit: u32,
    ) -> Result<(Vec<Wallet>, Option<String>), RunError> {
        let values = [Value::Text(after), Value::Number(limit.into())];
        let joined: Vec<JoinedKeys> = self.fetch_by_index(JOINED_KEYS, &values).await?;
        let (keys, count, last) = first(joined)?;
        if let Some(wallets) = wallets_in(&keys.unwrap_or_default(), count.unsigned_abs()) {
            return Ok((wallets, last));
        }
        // There is a key that is not a wallet.
        let page = "select wallet from eth_wallet_balances
             where wallet > $1 order by wallet limit $2";
        let keys: Vec<(String,)> = self.fetch_by_index(page, &values).await?;
        let last = keys.last().map(|(key,)| key.clone());
        Ok((wallets_of(keys.into_iter().map(|(key,)| key)), last))
    }

    async fn bucket_digits(&self) -> Result<Option<u8>, RunError> {
        self.digits().await
    }

    async fn create_buckets(&self) -> Result<u8, RunError> {
        self.create().await
    }

    async fn stale_buckets(
        &self,
        stale: &Stale,
        after: Option<&BucketCursor>,
        limit: u32,
    ) -> Result<BucketPage, RunError> {
        self.buckets_before(stale, after, limit).await
    }

    async fn count_in_buckets(
        &self,
        buckets: &[Bucket],
        before: DateTime<Utc>,
    ) -> Result<Vec<u64>, RunError> {
        self.count_wallets(buckets, before).await
    }

    async fn select_buckets(
        &self,
        buckets: &[Bucket],
        before: Option<DateTime<Utc>>,
    ) -> Result<Vec<Selection>, RunError> {
        self.select_rows(buckets, before).await
    }

    async fn coverage(&self, checkpoint: &str, events: &str) -> Result<Option<Coverage>, RunError> {
        self.covered_since(checkpoint, events).await
    }

    async fn count_uncovered(
        &self,
        coverage: &Coverage,
        shard: Shard,
    ) -> Result<UncoveredCounts, RunError> {
        self.uncovered_count(coverage, shard).await
    }

    async fn list_uncovered(
        &self,
        coverage: &Coverage,
        shard: Shard,
    ) -> Result<Vec<UncoveredWallet>, RunError> {
        self.uncovered_wallets(coverage, shard).await
    }

    async fn uncovered_page(
        &self,
        coverage: &Coverage,
        shard: Shard,
        after: &str,
        limit: u32,
    ) -> Result<(Vec<UncoveredWallet>, Option<String>), RunError> {
        self.next_uncovered(coverage, shard, after, limit).await
    }

    async fn uncovered_buckets(
        &self,
        coverage: &Coverage,
        shard: Shard,
    ) -> Result<Vec<Bucket>, RunError> {
        self.mostly_uncovered(coverage, shard).await
    }

    async fn tidy_coverage(&self, coverage: &Coverage) -> Result<(), RunError> {
        let values = [Value::Text(&coverage.checkpoint), Value::Number(bigint(coverage.from)?)];
        self.execute(coverage::TIDY, &values).await.map(drop)
    }

    async fn insert_placeholders(&self, wallets: &[Wallet]) -> Result<Recorded, RunError> {
        self.insert(&keys_of(wallets)).await
    }

    async fn with_read_total(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError> {
        self.fetch_wallets(D::SQL.with_read_total, &[Value::List(&keys_of(wallets))]).await
    }

    async fn rows(&self, wallets: &[Wallet]) -> Result<Vec<Row>, RunError> {
        let columns = &self.database.columns;
        let sql = D::SQL.rows.returning(columns);
        let rows = self.fetch(sql, &[Value::List(&keys_of(wallets))]).await?;
        Ok(rows.into_iter().filter_map(|row| Row::of(row, columns)).collect())
    }

    async fn sample(&self, count: u32) -> Result<Vec<Wallet>, RunError> {
        self.retried(|| sample::draw(&self.database, count)).await
    }

    async fn counts(&self) -> Result<TableCounts, RunError> {
        let counts = "select
                 (select count(*) from eth_wallet_balances),
                 (select count(*) from eth_wallet_balances
                  where updated_at < '1970-01-02' and read_block is null),
                 (select count(*) from eth_wallet_read_failures)";
        let rows = self.fetch_by_index(counts, &[]).await?;
        Ok(TableCounts::of(rows.into_iter().next().unwrap_or_default()))
    }

    async fn is_empty(&self) -> Result<bool, RunError> {
        let any = "select wallet from eth_wallet_balances limit 1";
        let rows: Vec<(String,)> = self.fetch_by_index(any, &[]).await?;
        Ok(rows.is_empty())
    }

    async fn freshness(
        &self,
        rows: u64,
        bounds: &[DateTime<Utc>],
        ranks: &[u64],
    ) -> Result<TableFreshness, RunError> {
        self.freshness_of(rows, bounds, ranks).await
    }

    async fn failures_page(
        &self,
        after: &str,
        limit: u32,
    ) -> Result<Vec<(String, String)>, RunError> {
        let page = "select wallet, last_error from eth_wallet_read_failures
             where wallet > $1 order by wallet limit $2";
        self.fetch_by_index(page, &[Value::Text(after), Value::Number(limit.into())]).await
    }

    async fn newest_read_block(&self) -> Result<Option<u64>, RunError> {
        // No index has the blocks. Rows are written soon after they are read, so that one of the last is the newest.
        let sql = "select max(block) from (
                 select max(read_block) as block from (
                     select read_block from eth_wallet_balances
                     order by updated_at desc, wallet desc limit 1000
                 ) newest
                 union all
                 select max(block) from eth_wallet_confirmations
             ) blocks";
        let rows: Vec<(Option<i64>,)> = self.fetch_by_index(sql, &[]).await?;
        Ok(rows.first().and_then(|(block,)| u64::try_from((*block)?).ok()))
    }

    async fn checkpoint(&self, name: &str) -> Result<Option<Checkpoint>, RunError> {
        let rows = self.fetch(D::SQL.checkpoint, &[Value::Text(name)]).await?;
        Ok(rows.into_iter().next().map(Checkpoint::of))
    }

    async fn profile(&self) -> Result<Option<TableProfile>, RunError> {
        let rows: Vec<(String, String)> =
            self.fetch("select name, identity from eth_wallet_profile where id = 1", &[]).await?;
        Ok(rows.into_iter().next().map(|(name, identity)| TableProfile { name, identity }))
    }

    async fn claim(&self, profile: &TableProfile) -> Result<TableProfile, RunError> {
        let values = [Value::Text(&profile.name), Value::Text(&profile.identity)];
        self.execute(D::SQL.claim_profile, &values).await?;
        Ok(self.profile().await?.unwrap_or_else(|| profile.clone()))
    }

    async fn adopt(&self, profile: &TableProfile, is_other_chain: bool) -> Result<(), RunError> {
        let forget_blocks =
            "update eth_wallet_balances set read_block = null where read_block is not null";
        let adopted = || async {
            let mut session = self.database.begin(Purpose::Write).await?;
            let values = [Value::Text(&profile.name), Value::Text(&profile.identity)];
            let mut adopted = session.execute(D::SQL.adopt_profile, &values).await;
            if adopted.is_ok() {
                adopted = session.execute(UNCONFIRM_ALL, &[]).await;
            }
            if is_other_chain && adopted.is_ok() {
                adopted = session.execute(forget_blocks, &[]).await;
            }
            if adopted.is_ok() {
                adopted = coverage::begin_anew(&mut session).await;
            }
            session.end(adopted).await
        };
        self.retried(adopted).await.map(drop)
    }

    async fn lock(&self, key: LockKey<'_>) -> Result<Option<Box<dyn Lock>>, RunError> {
        self.retried(|| async {
            unless_stopped(&self.database.shutdown, "a lock", D::lock(&self.database, key)).await?
        })
        .await
    }

    fn tell_changes(&self, sink: Arc<dyn ChangeSink>) {
        let _ = self.database.changes.set(sink);
    }

    async fn holder(&self, key: LockKey<'_>) -> Option<String> {
        D::holder(&self.database, key).await
    }

    async fn examine(&self) -> Vec<Check> {
        let target = self.label();
        let remedy = "run `ethtally migrate`";
        let mut checks = match self.explained(D::examine(&self.database).await).await {
            Ok(checks) => checks,
            Err(error) => {
                vec![Check::error("rights", &target, &error, "check --database-url")]
            }
        };
        checks.push(match self.require_tables().await {
            Ok(()) => Check::ok("tables", &target, "as this version needs them"),
            Err(error) => Check::error("tables", &target, &error, remedy),
        });
        checks
    }

    fn label(&self) -> String {
        self.database.dialect.label()
    }

    async fn close(&self) {
        self.database.connections.close().await;
    }
}

#[async_trait]
impl<D: Backend> Journal for SqlStore<D> {
    async fn last_block(&self, checkpoint: &str) -> Result<Option<i64>, RunError> {
        Ok(self.checkpoint(checkpoint).await?.map(|checkpoint| checkpoint.last_block))
    }

    async fn reads(&self, checkpoint: &str) -> Result<RecentReads, RunError> {
        let reads = "select number, hash, wallets, gone, redo_from from eth_watch_blocks
             where checkpoint = $1";
        let rows = self.fetch(reads, &[Value::Text(checkpoint)]).await?;
        let mut reads = recent_reads(rows)
            .map_err(|error| RunError::Database(error).context(self.database.dialect.label()))?;
        reads.doubt = self.doubt_of(checkpoint).await?;
        Ok(reads)
    }

    async fn doubt(&self, checkpoint: &str, from: u64, to: u64) -> Result<(), RunError> {
        let doubted = || async {
            let mut session = self.database.begin(Purpose::Write).await?;
            let doubted = doubt_in(&mut session, checkpoint, from, to).await;
            session.end(doubted).await
        };
        self.retried(doubted).await
    }

    async fn begin_reads(&self, checkpoint: &str, read: &BlockReads) -> Result<(), RunError> {
        let begin_reads = "insert into eth_watch_blocks (checkpoint, number, hash, wallets)
             values ($1, $2, $3, $4)
             on conflict (checkpoint, hash) do update set
                 wallets = excluded.wallets, gone = false, redo_from = null";
        let values = [
            Value::Text(checkpoint),
            Value::Number(bigint(read.number)?),
            Value::Text(&read.hash.to_string()),
            Value::Text(&wallets_json(&read.wallets)),
        ];
        self.execute(begin_reads, &values).await.map(drop)
    }

    async fn orphan(
        &self,
        checkpoint: &str,
        blocks: &[BlockReads],
        from: u64,
    ) -> Result<(), RunError> {
        let numbers = || blocks.iter().map(|block| block.number);
        let first = numbers().fold(from, u64::min);
        let last = numbers().fold(from, u64::max);
        let blocks = BlockColumns::of(blocks)?;
        let rows = [
            Column::Numbers(&blocks.numbers),
            Column::Texts(&blocks.hashes),
            Column::Texts(&blocks.wallets),
        ];
        let values = [Value::Text(checkpoint), Value::Number(bigint(from)?), Value::Rows(&rows)];
        let orphaned = || async {
            let mut session = self.database.begin(Purpose::Write).await?;
            let orphaned = async {
                session.execute(D::SQL.orphan_blocks, &values).await?;
                doubt_in(&mut session, checkpoint, first, last).await
            };
            let orphaned = orphaned.await;
            session.end(orphaned).await
        };
        self.retried(orphaned).await
    }

    async fn advance(
        &self,
        checkpoint: &str,
        update: &CheckpointUpdate,
    ) -> Result<HashSet<Wallet>, RunError> {
        let name = Value::Text(checkpoint);
        let last_block = Value::Number(bigint(update.last_block)?);
        let forget_below = Value::Number(bigint(update.forget_below)?);
        let (redone, forget) = (hash_texts(&update.redone), hash_texts(&update.forget));
        let keep = hash_texts(&update.keep);
        let forget_reads = "update eth_watch_blocks set wallets = '[]'
             where checkpoint = $1 and number < $2 and not gone and wallets <> '[]'";
        let remember_block = "insert into eth_watch_blocks (checkpoint, number, hash, wallets)
             values ($1, $2, $3, '[]')
             on conflict (checkpoint, hash) do update set gone = false, redo_from = null";
        let unknown = keys_of(&update.coverage.unknown.iter().copied().collect::<Vec<_>>());
        let advance = async |session: &mut Session<'_, D>| {
            let appeared = coverage::known_by_now(session, &unknown).await?;
            if !appeared.is_empty() {
                return Ok(appeared);
            }
            coverage::begin_in(session, checkpoint, update).await?;
            session.execute(D::SQL.move_checkpoint, &[name, last_block]).await?;
            coverage::extend_in(session, checkpoint, &update.coverage).await?;
            if let Some(hash) = &update.hash {
                let hash = hash.to_string();
                let values = [name, last_block, Value::Text(&hash)];
                session.execute(remember_block, &values).await?;
            }
            session.execute(D::SQL.finish_rereads, &[name, Value::List(&redone)]).await?;
            let values = [name, forget_below, Value::List(&forget), Value::List(&keep)];
            session.execute(D::SQL.forget_blocks, &values).await?;
            session.execute(forget_reads, &[name, forget_below]).await?;
            Ok(appeared)
        };
        let advanced = || async {
            let mut session = self.database.begin(Purpose::Write).await?;
            let advanced = advance(&mut session).await;
            session.end(advanced).await
        };
        self.retried(advanced).await
    }

    async fn rows_above(
        &self,
        block: u64,
        after: Option<Wallet>,
        limit: usize,
    ) -> Result<Vec<(Wallet, u64)>, RunError> {
        let rows_above = "select wallet, read_block from eth_wallet_balances
             where read_block > $1 and wallet > $2
             order by wallet
             limit $3";
        let after = after.map_or_else(String::new, |wallet| wallet.to_string());
        let values = [
            Value::Number(bigint(block)?),
            Value::Text(&after),
            Value::Number(bigint(limit as u64)?),
        ];
        Ok(wallets_and_blocks(self.fetch_by_index(rows_above, &values).await?))
    }

    async fn keep_rows_above(
        &self,
        checkpoint: &str,
        rows: Option<&RowsAbove>,
    ) -> Result<(), RunError> {
        let keep = "insert into eth_watch_blocks (checkpoint, number, hash, wallets, gone)
             values ($1, $2, $3, $4, true)
             on conflict (checkpoint, hash) do update set
                 number = excluded.number, wallets = excluded.wallets";
        let forget = "delete from eth_watch_blocks where checkpoint = $1 and hash = $2";
        let (name, key) = (Value::Text(checkpoint), Value::Text(ROWS_ABOVE));
        match rows {
            Some(rows) => {
                let text = rows_above_json(rows);
                let values = [name, Value::Number(bigint(rows.block)?), key, Value::Text(&text)];
                self.execute(keep, &values).await.map(drop)
            }
            None => self.execute(forget, &[name, key]).await.map(drop),
        }
    }

    async fn rows_read_at(
        &self,
        from: u64,
        to: u64,
        within: Duration,
    ) -> Result<Vec<(Wallet, u64)>, RunError> {
        let values = [
            Value::Number(bigint(from)?),
            Value::Number(bigint(to)?),
            // No database of this kind is older, and a time before year 0 is none.
            Value::Number(bigint(within.as_secs().min(1 << 30))?),
        ];
        Ok(wallets_and_blocks(self.fetch_by_index(D::SQL.rows_read_at, &values).await?))
    }

    async fn unconfirm(&self, from: u64, to: u64) -> Result<(), RunError> {
        let unconfirm = "update eth_wallet_confirmations set block = null, selected_at = null
             where block between $1 and $2";
        let to = i64::try_from(to).unwrap_or(i64::MAX);
        let values = [Value::Number(bigint(from)?), Value::Number(to)];
        self.execute(unconfirm, &values).await.map(drop)
    }

    async fn known(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError> {
        self.fetch_wallets(D::SQL.known, &[Value::List(&keys_of(wallets))]).await
    }
}

/// Takes back every confirmation.
const UNCONFIRM_ALL: &str = "update eth_wallet_confirmations set block = null, selected_at = null";

/// Keys behind `$1`, at most `$2` of them. As one text, since a row for each key takes the driver much longer.
const JOINED_KEYS: &str = "select string_agg(wallet, ' '), count(*), max(wallet)
     from (select wallet from eth_wallet_balances where wallet > $1 order by wallet limit $2) page";

/// The keys, joined; how many they are, and the last one.
type JoinedKeys = (Option<String>, i64, Option<String>);

/// The one value of a query that always gives one row.
pub(super) fn only<T>(rows: Vec<(T,)>) -> Result<T, RunError> {
    first(rows).map(|(value,)| value)
}

/// The row of a query that always gives one.
fn first<T>(rows: Vec<T>) -> Result<T, RunError> {
    let row = rows.into_iter().next();
    row.ok_or_else(|| RunError::Database(anyhow!("the database returned no row")))
}

/// Where a page begins: behind this time and wallet.
fn place<D: Backend>(after: Option<&Cursor>) -> (&str, &str) {
    after.map_or((D::SQL.first_age, ""), |after| (&after.time, &after.wallet))
}

/// The first wallet of a shard and the one behind its last, as keys.
fn bounds(shard: Shard) -> (String, Option<String>) {
    let (first, behind) = shard.bounds();
    (first.to_string(), behind.map(|wallet| wallet.to_string()))
}
