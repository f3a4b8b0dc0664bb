//! Rows as they are selected to be read, and looked at again before their buckets are confirmed.
//!
//! The rows of many buckets are selected at once: they lie anywhere in the table, and so one look at a page finds several.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
};

use alloy::primitives::U256;
use chrono::{DateTime, NaiveDateTime, Utc};
use itertools::Itertools;
use serde::Deserialize;
use sqlx::{ColumnIndex, Decode, FromRow, Row, postgres::PgRow, sqlite::SqliteRow};

use super::{
    backend::Backend,
    buckets::lock_buckets,
    dialect::{Column, Purpose, Value},
    error::StoreError,
    rows::{time_text, wallet_of, wallets_of},
    session::Session,
    sql_store::{SqlStore, only},
};
use crate::tally::{
    Bucket, BucketReads, RunError, SelectedRow, SelectedRows, Selection, Total, Wallet,
};

/// What one row of `rows_in_ranges` holds: a row of the table in PostgreSQL, those of a bucket in SQLite, whose driver takes
/// several microseconds to hand a row from its thread to ours.
enum CurrentRows {
    One(CurrentRow),
    Many(Vec<CurrentRow>),
}

/// A row of the table.
struct CurrentRow {
    /// `None` if the key is not a wallet.
    row: Option<SelectedRow>,
    /// Whether it was last written before the given time.
    is_stale: bool,
    is_placeholder: bool,
}

impl<D: Backend> SqlStore<D> {
    /// Selects the rows of these buckets.
    pub(super) async fn select_rows(
        &self,
        buckets: &[Bucket],
        before: Option<DateTime<Utc>>,
    ) -> Result<Vec<Selection>, RunError> {
        let at = self.time_after_writers(buckets).await?;
        self.retried(|| self.rows_in(buckets, at, before)).await
    }

    /// The time, once every transaction that was writing totals in these buckets is over: whoever writes later has a later
    /// time.
    async fn time_after_writers(&self, buckets: &[Bucket]) -> Result<DateTime<Utc>, RunError> {
        let look = || async {
            let mut session = self.database.begin(Purpose::Write).await?;
            let time = async {
                lock_buckets(&mut session, buckets.iter().copied()).await?;
                session.fetch(D::SQL.now, &[]).await
            };
            let time = time.await;
            session.end(time).await
        };
        let time: NaiveDateTime = only(self.retried(look).await?)?;
        Ok(time.and_utc())
    }

    async fn rows_in(
        &self,
        buckets: &[Bucket],
        at: DateTime<Utc>,
        before: Option<DateTime<Utc>>,
    ) -> Result<Vec<Selection>, StoreError> {
        let (first, last) = ranges(buckets, D::SQL.selects_neighbours);
        let ranges = [Column::Texts(&first), Column::Texts(&last)];
        let ranges = Value::Rows(&ranges);
        let times = [at, before.unwrap_or(at)].map(|time| Value::Time(time.naive_utc()));
        let mut session = self.database.begin(Purpose::ByPage).await?;
        let sql = D::SQL.rows_in_ranges.returning(session.columns());
        let selected = async {
            // First: a row that leaves the record meanwhile is looked at again before its bucket is confirmed.
            let failing: Vec<(String,)> =
                session.fetch(D::SQL.failures_in_ranges, &[ranges]).await?;
            let failing = wallets_of(failing.into_iter().map(|(key,)| key));
            let mut selecting = Selecting::new(buckets, at, failing, before.is_none());
            let values = [ranges, times[0], times[1]];
            session.each(sql, &values, &mut |rows| selecting.add_all(rows)).await?;
            Ok(selecting.end(buckets))
        };
        let selected = selected.await;
        session.end(selected).await
    }
}

/// Buckets whose rows are being selected.
struct Selecting {
    buckets: BTreeMap<Bucket, SelectedBucket>,
    digits: u8,
    failing: HashSet<Wallet>,
    /// Whether all buckets are due, and placeholders are rows like others.
    takes_all: bool,
}

struct SelectedBucket {
    selection: Selection,
    is_due: bool,
}

impl Selecting {
    fn new(
        buckets: &[Bucket],
        at: DateTime<Utc>,
        failing: HashSet<Wallet>,
        takes_all: bool,
    ) -> Self {
        let of = |bucket| {
            let (rows, left_out) = (SelectedRows::default(), Vec::new());
            let selection = Selection { bucket, at, rows, left_out };
            SelectedBucket { selection, is_due: takes_all }
        };
        Self {
            buckets: buckets.iter().map(|&bucket| (bucket, of(bucket))).collect(),
            digits: buckets.first().map_or(1, |bucket| bucket.digits()),
            failing,
            takes_all,
        }
    }

    fn add_all(&mut self, rows: CurrentRows) {
        match rows {
            CurrentRows::One(row) => self.add(row),
            CurrentRows::Many(rows) => rows.into_iter().for_each(|row| self.add(row)),
        }
    }

    fn add(&mut self, CurrentRow { row, is_stale, is_placeholder }: CurrentRow) {
        let Some(row) = row else { return };
        let bucket = Bucket::of(row.wallet, self.digits);
        let Some(SelectedBucket { selection, is_due }) = self.buckets.get_mut(&bucket) else {
            return;
        };
        if self.failing.contains(&row.wallet) {
            selection.left_out.push(row.wallet);
        } else if self.takes_all || !is_placeholder {
            *is_due |= is_stale;
            selection.rows.push(&row);
        }
    }

    /// The selections that are due, in this order. One without rows is: there is nothing to wait for.
    fn end(mut self, buckets: &[Bucket]) -> Vec<Selection> {
        let due = |bucket| {
            let SelectedBucket { mut selection, is_due } = self.buckets.remove(bucket)?;
            selection.rows.sort();
            (is_due || selection.rows.is_empty()).then_some(selection)
        };
        buckets.iter().filter_map(due).collect()
    }
}

/// The first and the last bucket of each series of neighbours, or each bucket as both.
fn ranges(buckets: &[Bucket], joins_neighbours: bool) -> (Vec<String>, Vec<String>) {
    let mut ranges: Vec<(Bucket, Bucket)> = Vec::new();
    for bucket in buckets.iter().copied().sorted_unstable() {
        match ranges.last_mut() {
            Some((_, last)) if joins_neighbours && last.next() == Some(bucket) => *last = bucket,
            _ => ranges.push((bucket, bucket)),
        }
    }
    ranges.iter().map(|(first, last)| (first.to_string(), last.to_string())).unzip()
}

/// The wallets of each of these buckets whose rows were written since the first of them was selected.
pub(super) async fn written_since<D: Backend>(
    session: &mut Session<'_, D>,
    buckets: &[BucketReads],
) -> Result<HashMap<Bucket, HashSet<Wallet>>, StoreError> {
    let selections = || buckets.iter().map(BucketReads::selection);
    let Some(first) = selections().min_by_key(|selection| selection.at) else {
        return Ok(HashMap::new());
    };
    let keys = selections().map(|selection| selection.bucket.to_string()).collect_vec();
    let length = keys.first().map_or(0, String::len);
    let values =
        [Value::Time(first.at.naive_utc()), Value::Number(length as i64), Value::List(&keys)];
    let written: Vec<(String,)> = session.fetch(D::SQL.written_since, &values).await?;
    let written: Vec<Wallet> = wallets_of(written.into_iter().map(|(key,)| key));
    let mut by_bucket = HashMap::<_, HashSet<_>>::new();
    for wallet in written {
        by_bucket.entry(Bucket::of(wallet, first.bucket.digits())).or_default().insert(wallet);
    }
    Ok(by_bucket)
}

/// The rows of these wallets of the buckets as they are now; those without a row are missing.
pub(super) async fn rows_now<D: Backend>(
    session: &mut Session<'_, D>,
    buckets: &[BucketReads],
    wallets: Vec<Wallet>,
) -> Result<HashMap<Wallet, SelectedRow>, StoreError> {
    let selections = || buckets.iter().map(BucketReads::selection);
    let digits = selections().next().map_or(1, |selection| selection.bucket.digits());
    let selected_at =
        |selection: &Selection| (selection.bucket, time_text(&selection.at.naive_utc()));
    let selected_at: HashMap<_, _> = selections().map(selected_at).collect();
    let (mut keys, mut times) = (Vec::new(), Vec::new());
    for wallet in wallets {
        if let Some(time) = selected_at.get(&Bucket::of(wallet, digits)) {
            keys.push(wallet.to_string());
            times.push(time.clone());
        }
    }
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let given = [Value::Rows(&[Column::Texts(&keys), Column::Texts(&times)])];
    let sql = D::SQL.rows_now.returning(session.columns());
    let rows: Vec<CurrentRow> = session.fetch(sql, &given).await?;
    let rows = rows.into_iter().filter_map(|current| current.row);
    Ok(rows.map(|row| (row.wallet, row)).collect())
}

impl CurrentRow {
    /// A row of these columns, and of those of its parts.
    fn of<'a>(
        wallet: &str,
        total: &str,
        read_block: Option<i64>,
        flags: i32,
        parts: impl Iterator<Item = Option<Cow<'a, str>>>,
    ) -> Self {
        let total: Option<U256> = total.parse().ok();
        // A part that was never read is null.
        let parts: Option<_> = parts.map(|part| part?.parse().ok()).collect();
        let selected = |wallet| SelectedRow {
            wallet,
            total: total.zip(parts).map(|(sum, parts)| Total { sum, parts }),
            read_block: read_block.and_then(|block| u64::try_from(block).ok()),
            is_covered: flags & 1 != 0,
        };
        Self {
            row: wallet_of(wallet).map(selected),
            is_stale: flags & 2 != 0,
            is_placeholder: flags & 4 != 0,
        }
    }
}

impl<'r, R: Row> FromRow<'r, R> for CurrentRow
where
    usize: ColumnIndex<R>,
    &'r str: Decode<'r, R::Database>,
    i32: Decode<'r, R::Database>,
    i64: Decode<'r, R::Database>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        // The statements say which types these are. Checking them takes as long as decoding, and there are millions.
        let part = |column| row.try_get_unchecked::<Option<&str>, usize>(column);
        let parts: Vec<_> = (4..row.len()).map(part).try_collect()?;
        Ok(Self::of(
            row.try_get_unchecked(0)?,
            row.try_get_unchecked(1)?,
            row.try_get_unchecked(2)?,
            row.try_get_unchecked(3)?,
            parts.into_iter().map(|part| part.map(Cow::Borrowed)),
        ))
    }
}

impl FromRow<'_, PgRow> for CurrentRows {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        CurrentRow::from_row(row).map(Self::One)
    }
}

/// The same columns in JSON.
#[derive(Deserialize)]
struct Columns<'a>(
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    Option<i64>,
    i32,
    #[serde(borrow)] Vec<Option<Cow<'a, str>>>,
);

impl FromRow<'_, SqliteRow> for CurrentRows {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let rows: Vec<Columns<'_>> = serde_json::from_str(row.try_get(0)?)
            .map_err(|error| sqlx::Error::Decode(error.into()))?;
        let current = |Columns(wallet, total, read_block, flags, parts): Columns<'_>| {
            CurrentRow::of(&wallet, &total, read_block, flags, parts.into_iter())
        };
        Ok(Self::Many(rows.into_iter().map(current).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        let buckets = ["0x3ff", "0x400", "0x3fe", "0x000", "0xfff", "0x402"];
        let buckets = buckets.map(|bucket| bucket.parse().expect("a bucket"));
        let (first, last) = ranges(&buckets, true);
        assert_eq!(first, ["0x000", "0x3fe", "0x402", "0xfff"]);
        assert_eq!(last, ["0x000", "0x400", "0x402", "0xfff"]);
        let (first, last) = ranges(&buckets, false);
        assert_eq!(first, ["0x000", "0x3fe", "0x3ff", "0x400", "0x402", "0xfff"]);
        assert_eq!(first, last);
        assert_eq!(ranges(&[], true), (Vec::new(), Vec::new()));
    }
}
