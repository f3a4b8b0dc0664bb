//! How fresh the rows are: each as fresh as the newer of its own write and the confirmation of its bucket.
//!
//! No index knows that. But rows older than every confirmation are as fresh as their buckets, so that it takes the number
//! of rows in each bucket (by the index on keys), the rows that were written since (by the index on times), and the few
//! rows that no confirmation counts for.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};

use super::{
    TableFreshness,
    backend::Backend,
    dialect::{Column, Value},
    rows::{bigint, time_text},
    sql_store::SqlStore,
};
use crate::tally::RunError;

/// Up to so many rows, those are looked for that another program inserted with an older `updated_at` after their bucket
/// was confirmed: that takes a look at each row. In a larger table they count as fresh as their bucket until it is read
/// again.
const FEW: u64 = 100_000;
/// Ages, each so many times the one before, between which rows are counted one by one: from a second to a century.
const RATIO: f64 = 1.09;
const AGES: i32 = 256;

/// Rows written in the time from `from` on and before `before`, as fresh as their own write.
#[derive(Clone, Copy, Debug)]
struct Interval {
    from: NaiveDateTime,
    before: NaiveDateTime,
    rows: u64,
}

/// All rows by freshness.
#[derive(Default)]
struct Distribution {
    /// How many rows are exactly this fresh.
    points: BTreeMap<NaiveDateTime, u64>,
    /// In order; each point is outside all of them or the start of one.
    intervals: Vec<Interval>,
}

/// Where a rank lies.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    At(NaiveDateTime),
    /// In this interval, behind so many rows.
    In(NaiveDateTime, NaiveDateTime, u64),
}

impl Distribution {
    fn older(&self, than: NaiveDateTime) -> u64 {
        let points: u64 = self.points.range(..than).map(|(_, rows)| rows).sum();
        let intervals = self.intervals.iter().filter(|interval| interval.from < than);
        points + intervals.map(|interval| interval.rows).sum::<u64>()
    }

    fn place(&self, rank: u64) -> Option<Place> {
        let mut left = rank;
        let mut points = self.points.iter().peekable();
        for interval in &self.intervals {
            while let Some((time, rows)) = points.next_if(|(time, _)| **time <= interval.from) {
                if left < *rows {
                    return Some(Place::At(*time));
                }
                left -= rows;
            }
            if left < interval.rows {
                return Some(Place::In(interval.from, interval.before, left));
            }
            left -= interval.rows;
        }
        for (time, rows) in points {
            if left < *rows {
                return Some(Place::At(*time));
            }
            left -= rows;
        }
        None
    }
}

/// Midnight of the first day of a year.
fn year(year: i32) -> NaiveDateTime {
    NaiveDate::from_ymd_opt(year, 1, 1).unwrap_or_default().into()
}

/// Placeholders are dated before this time.
fn first_read() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(1970, 1, 2).unwrap_or_default().into()
}

impl<D: Backend> SqlStore<D> {
    /// The freshness of a table of `rows` rows: how many rows are older than each of `bounds`, and the age of those that
    /// have so many older ones as `ranks` says.
    pub(super) async fn freshness_of(
        &self,
        rows: u64,
        bounds: &[DateTime<Utc>],
        ranks: &[u64],
    ) -> Result<TableFreshness, RunError> {
        let confirmed: Vec<(Option<NaiveDateTime>, i64)> =
            self.fetch_by_index(D::SQL.rows_by_confirmation, &[]).await?;
        let bounds: Vec<_> = bounds.iter().map(DateTime::naive_utc).collect();
        let is_confirmed = confirmed.iter().any(|(time, rows)| time.is_some() && *rows > 0);
        let distribution = match is_confirmed {
            true => self.distribution(rows, &confirmed, &bounds).await?,
            false => self.distribution_by_writes(&bounds).await?,
        };
        let mut at = Vec::with_capacity(ranks.len());
        for rank in ranks {
            at.push(match distribution.place(*rank) {
                None => None,
                Some(Place::At(time)) => Some(time.and_utc()),
                Some(Place::In(from, before, rank)) => {
                    let values =
                        [Value::Time(from), Value::Time(before), Value::Number(bigint(rank)?)];
                    let nth = if is_confirmed { D::SQL.nth_own } else { D::SQL.nth_written };
                    let time: Vec<(NaiveDateTime,)> = self.fetch_by_index(nth, &values).await?;
                    // The row may have been written since it was counted.
                    let now = Utc::now().naive_utc().min(before);
                    Some(time.first().map_or(now, |(time,)| *time).and_utc())
                }
            });
        }
        Ok(TableFreshness {
            older: bounds.iter().map(|time| distribution.older(*time)).collect(),
            at,
        })
    }

    /// The distribution where no row was ever confirmed.
    async fn distribution_by_writes(
        &self,
        bounds: &[NaiveDateTime],
    ) -> Result<Distribution, RunError> {
        let count = "select count(*) from eth_wallet_balances
             where updated_at >= $1 and updated_at < $2";
        let mut distribution = Distribution::default();
        for (from, before) in intervals(year(1), year(9999), bounds.iter().copied()) {
            let values = [Value::Time(from), Value::Time(before)];
            let rows: Vec<(i64,)> = self.fetch_by_index(count, &values).await?;
            let rows = rows.first().map_or(0, |(rows,)| rows.unsigned_abs());
            distribution.intervals.push(Interval { from, before, rows });
        }
        Ok(distribution)
    }

    /// The distribution where the buckets that were `confirmed` at a time have so many rows.
    async fn distribution(
        &self,
        rows: u64,
        confirmed: &[(Option<NaiveDateTime>, i64)],
        bounds: &[NaiveDateTime],
    ) -> Result<Distribution, RunError> {
        // Rows that are as fresh as their bucket, though the index on times does not tell.
        let mut points: BTreeMap<NaiveDateTime, u64> = BTreeMap::new();
        for (time, rows) in confirmed {
            if let Some(time) = time {
                *points.entry(*time).or_default() += rows.unsigned_abs();
            }
        }
        let in_confirmed: u64 = points.values().sum();
        // In the others, and in none, rows of any time are as fresh as their own write.
        let oldest = points.iter().find(|(_, rows)| **rows > 0).map(|(time, _)| *time);
        let since = oldest.filter(|_| in_confirmed >= rows).unwrap_or_else(first_read);
        let since = since.max(first_read());

        let mut exceptions: Vec<(NaiveDateTime, NaiveDateTime)> =
            self.fetch_by_index(D::SQL.failing_rows, &[]).await?;
        if rows <= FEW {
            let late: Vec<(NaiveDateTime, NaiveDateTime)> =
                self.fetch_by_index(D::SQL.late_rows, &[]).await?;
            exceptions.extend(late);
        }
        let mut own: BTreeMap<NaiveDateTime, u64> = BTreeMap::new();
        for (confirmed, written) in exceptions {
            take(&mut points, confirmed, 1);
            *own.entry(written).or_default() += 1;
        }

        let now = Utc::now().naive_utc();
        let ages = (0..AGES).map(|age| now - TimeDelta::seconds(RATIO.powi(age) as i64));
        let times = points.keys().chain(own.keys()).chain(bounds).copied();
        let times: Vec<_> = times.chain(ages).collect();
        let mut distribution = Distribution::default();
        for (from, to) in [(year(1), first_read()), (since, year(9999))] {
            let intervals = intervals(from, to, times.iter().copied());
            let froms: Vec<_> = intervals.iter().map(|(from, _)| time_text(from)).collect();
            let befores: Vec<_> = intervals.iter().map(|(_, before)| time_text(before)).collect();
            let given = [Value::Rows(&[Column::Texts(&froms), Column::Texts(&befores)])];
            let counted: Vec<(i64, Option<NaiveDateTime>, i64)> =
                self.fetch_by_index(D::SQL.count_own, &given).await?;
            let mut rows_of = vec![0; intervals.len()];
            for (interval, confirmed, rows) in counted {
                let rows = rows.unsigned_abs();
                if let Some(sum) = usize::try_from(interval).ok().and_then(|at| rows_of.get_mut(at))
                {
                    *sum += rows;
                }
                if let Some(confirmed) = confirmed {
                    take(&mut points, confirmed, rows);
                }
            }
            let counted = intervals.into_iter().zip(rows_of);
            distribution.intervals.extend(counted.map(|((from, before), rows)| Interval {
                from,
                before,
                rows,
            }));
        }
        for (time, rows) in own {
            *points.entry(time).or_default() += rows;
        }
        distribution.points = points;
        Ok(distribution)
    }
}

/// So many rows of this confirmation are as fresh as their own write.
fn take(points: &mut BTreeMap<NaiveDateTime, u64>, confirmed: NaiveDateTime, rows: u64) {
    if let Some(left) = points.get_mut(&confirmed) {
        *left = left.saturating_sub(rows);
    }
}

/// The intervals between these times, from `from` to `to`.
fn intervals(
    from: NaiveDateTime,
    to: NaiveDateTime,
    times: impl Iterator<Item = NaiveDateTime>,
) -> Vec<(NaiveDateTime, NaiveDateTime)> {
    let mut times: Vec<_> = times.filter(|time| *time > from && *time < to).collect();
    times.extend([from, to]);
    times.sort_unstable();
    times.dedup();
    times.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> NaiveDateTime {
        DateTime::from_timestamp(second, 0).unwrap_or_default().naive_utc()
    }

    proptest! {
        #[test]
        fn every_rank_is_found(points: Vec<u8>, rows: Vec<u8>, bound: u8) {
            let points: Vec<_> = points.iter().map(|time| at((*time).into())).collect();
            let rows: Vec<_> = rows.iter().map(|time| at((*time).into())).collect();
            let mut distribution = Distribution::default();
            for point in &points {
                *distribution.points.entry(*point).or_default() += 1;
            }
            let bound = at(bound.into());
            let times = points.iter().copied().chain([bound]);
            for (from, before) in intervals(year(1), year(9999), times) {
                let rows = rows.iter().filter(|row| (from..before).contains(*row)).count() as u64;
                distribution.intervals.push(Interval { from, before, rows });
            }
            let mut all: Vec<_> = points.iter().chain(&rows).copied().collect();
            all.sort_unstable();
            prop_assert_eq!(distribution.older(bound), all.iter().filter(|row| **row < bound).count() as u64);
            for (rank, expected) in all.iter().enumerate() {
                let found = match distribution.place(rank as u64) {
                    None => None,
                    Some(Place::At(time)) => Some(time),
                    Some(Place::In(from, before, rank)) => {
                        let mut inside: Vec<_> = rows.iter().filter(|row| (from..before).contains(*row)).collect();
                        inside.sort_unstable();
                        inside.get(rank as usize).map(|time| **time)
                    }
                };
                prop_assert_eq!(found, Some(*expected));
            }
            prop_assert_eq!(distribution.place(all.len() as u64), None);
        }
    }
}
