//! Rows as they are selected to be read, and looked at again before their buckets are confirmed.
//!
//! The rows of many buckets are selected at once: they lie anywhere in the table, and so one look at a page finds several.

use std::collections::{BTreeMap, HashMap, HashSet};

use alloy::primitives::U256;
use chrono::{DateTime, NaiveDateTime, Utc};
use itertools::Itertools;
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use super::{
    backend::Backend,
    buckets::lock_buckets,
    columns::JOINED,
    dialect::{Column, Purpose, Value},
    error::StoreError,
    rows::{time_text, wallet_of, wallets_of},
    session::Session,
    sql_store::{SqlStore, only},
};
use crate::tally::{Bucket, BucketReads, RunError, SelectedRow, Selection, Total, Wallet};

/// What the statements return where the profile has no columns of parts.
const NO_PARTS: &str = "cast(null as text)";

/// A row of the table: wallet, total, block of the read, whether a confirmation of its bucket counts for it, parts.
struct CurrentRow {
    /// `None` if the key is not a wallet.
    row: Option<SelectedRow>,
}

/// The same, whether it is stale, whether it is a placeholder.
struct RowInRange {
    row: Option<SelectedRow>,
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
        let (failing, rows) = self.rows_in(buckets, at, before.unwrap_or(at)).await?;
        let new = |bucket| Selection { bucket, at, rows: Vec::new(), left_out: Vec::new() };
        let mut selected: BTreeMap<_, _> =
            buckets.iter().map(|&bucket| (bucket, (new(bucket), before.is_none()))).collect();
        let digits = buckets.first().map_or(1, |bucket| bucket.digits());
        for RowInRange { row, is_stale, is_placeholder } in rows {
            let Some(row) = row else { continue };
            let bucket = Bucket::of(row.wallet, digits);
            let Some((selection, is_due)) = selected.get_mut(&bucket) else { continue };
            if failing.contains(&row.wallet) {
                selection.left_out.push(row.wallet);
            } else if before.is_none() || !is_placeholder {
                *is_due |= is_stale;
                selection.rows.push(row);
            }
        }
        let due = |bucket| {
            let (mut selection, is_due) = selected.remove(bucket)?;
            selection.rows.sort_unstable_by_key(|row| row.wallet);
            (is_due || selection.rows.is_empty()).then_some(selection)
        };
        Ok(buckets.iter().filter_map(due).collect())
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

    /// The wallets of these buckets that are on the record of failures, and then all their rows.
    async fn rows_in(
        &self,
        buckets: &[Bucket],
        at: DateTime<Utc>,
        before: DateTime<Utc>,
    ) -> Result<(HashSet<Wallet>, Vec<RowInRange>), RunError> {
        let (first, last) = ranges(buckets);
        let ranges = [Column::Texts(&first), Column::Texts(&last)];
        let times = [at, before].map(|time| Value::Time(time.naive_utc()));
        let selected = || async {
            let mut session = self.database.begin(Purpose::ByPage).await?;
            let sql = D::SQL.rows_in_ranges.returning(session.columns(), JOINED, NO_PARTS);
            let selected = async {
                let ranges = Value::Rows(&ranges);
                let failing: Vec<(String,)> =
                    session.fetch(D::SQL.failures_in_ranges, &[ranges]).await?;
                let rows = session.fetch(sql, &[ranges, times[0], times[1]]).await?;
                Ok((wallets_of(failing.into_iter().map(|(key,)| key)), rows))
            };
            let selected = selected.await;
            session.end(selected).await
        };
        self.retried(selected).await
    }
}

/// The first and the last bucket of each series of neighbours.
fn ranges(buckets: &[Bucket]) -> (Vec<String>, Vec<String>) {
    let mut ranges: Vec<(Bucket, Bucket)> = Vec::new();
    for bucket in buckets.iter().copied().sorted_unstable() {
        match ranges.last_mut() {
            Some((_, last)) if last.next() == Some(bucket) => *last = bucket,
            _ => ranges.push((bucket, bucket)),
        }
    }
    ranges.iter().map(|(first, last)| (first.to_string(), last.to_string())).unzip()
}

/// The wallets of these buckets whose rows were written since the first of them was selected.
pub(super) async fn written_since<D: Backend>(
    session: &mut Session<'_, D>,
    buckets: &[BucketReads],
) -> Result<HashSet<Wallet>, StoreError> {
    let selections = || buckets.iter().map(|reads| &reads.selection);
    let Some(earliest) = selections().map(|selection| selection.at).min() else {
        return Ok(HashSet::new());
    };
    let keys = selections().map(|selection| selection.bucket.to_string()).collect_vec();
    let length = keys.first().map_or(0, String::len);
    let values =
        [Value::Time(earliest.naive_utc()), Value::Number(length as i64), Value::List(&keys)];
    let written: Vec<(String,)> = session.fetch(D::SQL.written_since, &values).await?;
    Ok(wallets_of(written.into_iter().map(|(key,)| key)))
}

/// The rows of these wallets of the buckets as they are now; those without a row are missing.
pub(super) async fn rows_now<D: Backend>(
    session: &mut Session<'_, D>,
    buckets: &[BucketReads],
    wallets: Vec<Wallet>,
) -> Result<HashMap<Wallet, SelectedRow>, StoreError> {
    let selections = || buckets.iter().map(|reads| &reads.selection);
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
    let sql = D::SQL.rows_now.returning(session.columns(), JOINED, NO_PARTS);
    let rows: Vec<CurrentRow> = session.fetch(sql, &given).await?;
    let rows = rows.into_iter().filter_map(|current| current.row);
    Ok(rows.map(|row| (row.wallet, row)).collect())
}

impl<'r, R: Row> FromRow<'r, R> for CurrentRow
where
    usize: ColumnIndex<R>,
    &'r str: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    bool: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        let total: Option<U256> = row.try_get::<&str, _>(1)?.parse().ok();
        let read_block: Option<i64> = row.try_get(2)?;
        let parts: Option<&str> = row.try_get(4)?;
        let parts: Option<_> = match parts {
            Some(parts) => parts.split(',').map(|part| part.parse().ok()).collect(),
            None => Some(Box::default()),
        };
        let selected = SelectedRow {
            wallet: match wallet_of(row.try_get(0)?) {
                Some(wallet) => wallet,
                None => return Ok(Self { row: None }),
            },
            total: total.zip(parts).map(|(sum, parts)| Total { sum, parts }),
            read_block: read_block.and_then(|block| u64::try_from(block).ok()),
            is_covered: row.try_get(3)?,
        };
        Ok(Self { row: Some(selected) })
    }
}

impl<'r, R: Row> FromRow<'r, R> for RowInRange
where
    CurrentRow: FromRow<'r, R>,
    usize: ColumnIndex<R>,
    bool: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        let CurrentRow { row: current } = CurrentRow::from_row(row)?;
        Ok(Self { row: current, is_stale: row.try_get(5)?, is_placeholder: row.try_get(6)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        let buckets = ["0x3ff", "0x400", "0x3fe", "0x000", "0xfff", "0x402"];
        let buckets = buckets.map(|bucket| bucket.parse().expect("a bucket"));
        let (first, last) = ranges(&buckets);
        assert_eq!(first, ["0x000", "0x3fe", "0x402", "0xfff"]);
        assert_eq!(last, ["0x000", "0x400", "0x402", "0xfff"]);
        assert_eq!(ranges(&[]), (Vec::new(), Vec::new()));
    }
}
