//! Which rows are not covered: counts, lists and pages of them. `coverage` says what that means.

use std::time::Duration;

use super::{
    Coverage, UncoveredCounts, UncoveredWallet,
    backend::Backend,
    buckets::prefix,
    dialect::Value,
    rows::{bigint, wallet_of},
    sql_store::SqlStore,
};
use crate::{
    follow::Doubt,
    tally::{Bucket, RunError, Shard},
};

/// Up to so many rows are looked at one by one; of more, those in covered buckets are passed over.
const FEW: u64 = 50_000;

/// What [`Coverage`] is made of: events, first covered block, the last as it was followed and as it stands, doubt.
type CoverageRow = (String, i64, i64, i64, Option<i64>);

impl<D: Backend> SqlStore<D> {
    pub(super) async fn covered_since(
        &self,
        checkpoint: &str,
        events: &str,
    ) -> Result<Option<Coverage>, RunError> {
        let coverage = "select coverage.events, coverage.followed_from, coverage.last_block,
                 point.last_block, coverage.doubt_from
             from eth_watch_coverage coverage
             join eth_indexer_checkpoints point on point.name = coverage.checkpoint
             where coverage.checkpoint = $1";
        let rows: Vec<CoverageRow> = self.fetch(coverage, &[Value::Text(checkpoint)]).await?;
        let Some((followed, from, followed_to, last_block, doubt_from)) = rows.into_iter().next()
        else {
            return Ok(None);
        };
        if followed != events {
            return Ok(None);
        }
        // Somebody has moved the checkpoint: following goes on from there.
        let from = if followed_to == last_block { from } else { from.max(last_block) };
        let last = doubt_from.map_or(last_block, |doubt| last_block.min(doubt - 1));
        let block = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(Some(Coverage {
            checkpoint: checkpoint.to_owned(),
            from: block(from),
            to: block(last),
            doubt_from: doubt_from.map(block),
        }))
    }

    pub(super) async fn doubt_of(&self, checkpoint: &str) -> Result<Option<Doubt>, RunError> {
        let rows: Vec<(i64, i64, i64)> =
            self.fetch(D::SQL.coverage.doubt_of, &[Value::Text(checkpoint)]).await?;
        Ok(rows.first().map(|(from, to, seconds)| Doubt {
            from: from.unsigned_abs(),
            to: to.unsigned_abs(),
            age: Duration::from_secs(u64::try_from(*seconds).unwrap_or(0)),
        }))
    }

    pub(super) async fn uncovered_count(
        &self,
        coverage: &Coverage,
        shard: Shard,
    ) -> Result<UncoveredCounts, RunError> {
        let (first, behind) = bounds(shard);
        let values = parameters(coverage, &first, behind.as_deref())?;
        let by_buckets = Value::Number(self.goes_by_buckets(coverage).await?.into());
        let values = [&values[..], &[by_buckets]].concat();
        let rows: Vec<(i64, i64)> = self.fetch_by_index(D::SQL.coverage.count, &values).await?;
        Ok(rows.first().map_or_else(UncoveredCounts::default, |(rows, failing)| UncoveredCounts {
            rows: rows.unsigned_abs(),
            failing: failing.unsigned_abs(),
        }))
    }

    pub(super) async fn uncovered_wallets(
        &self,
        coverage: &Coverage,
        shard: Shard,
    ) -> Result<Vec<UncoveredWallet>, RunError> {
        let (first, behind) = bounds(shard);
        let values = parameters(coverage, &first, behind.as_deref())?;
        let by_buckets = Value::Number(self.goes_by_buckets(coverage).await?.into());
        let values = [&values[..], &[by_buckets]].concat();
        Ok(of_keys(&self.fetch_by_index(D::SQL.coverage.list, &values).await?))
    }

    /// Whether most rows are covered by their buckets rather than by their own reads.
    async fn goes_by_buckets(&self, coverage: &Coverage) -> Result<bool, RunError> {
        let buckets = "select count(*) from eth_wallet_confirmations where block >= $1";
        let from = Value::Number(bigint(coverage.from)?);
        let limit = Value::Number(bigint(FEW + 1)?);
        let values = [Value::Text(&coverage.checkpoint), from, limit];
        let rows: Vec<(i64,)> = self.fetch_by_index(D::SQL.coverage.count_old, &values).await?;
        if rows.first().is_none_or(|(count,)| count.unsigned_abs() <= FEW) {
            return Ok(false);
        }
        let rows: Vec<(i64,)> = self.fetch(buckets, &[from]).await?;
        Ok(rows.first().is_some_and(|(count,)| *count > 0))
    }

    pub(super) async fn next_uncovered(
        &self,
        coverage: &Coverage,
        shard: Shard,
        after: &str,
        limit: u32,
    ) -> Result<(Vec<UncoveredWallet>, Option<String>), RunError> {
        let (first, behind) = bounds(shard);
        let values = parameters(coverage, &first, behind.as_deref())?;
        let values = [&values[..], &[Value::Text(after), Value::Number(limit.into())]].concat();
        let keys: Vec<(String, bool)> = self.fetch_by_index(D::SQL.coverage.page, &values).await?;
        let is_full = keys.len() >= limit as usize;
        let last = keys.last().filter(|_| is_full).map(|(key, _)| key.clone());
        Ok((of_keys(&keys), last))
    }

    pub(super) async fn mostly_uncovered(
        &self,
        coverage: &Coverage,
        shard: Shard,
    ) -> Result<Vec<Bucket>, RunError> {
        let (first, behind) = bounds(shard);
        let values = parameters(coverage, &first, behind.as_deref())?;
        let keys: Vec<(String,)> = self.fetch_by_index(D::SQL.coverage.buckets, &values).await?;
        let (first, behind) = shard.bounds();
        let (first, behind) = (prefix(first), behind.map(prefix));
        let is_in_shard =
            |key: &&str| *key >= &*first && behind.as_deref().is_none_or(|behind| *key < behind);
        let keys = keys.iter().map(|(key,)| &**key);
        Ok(keys.filter(is_in_shard).filter_map(|key| key.parse().ok()).collect())
    }
}

fn of_keys(keys: &[(String, bool)]) -> Vec<UncoveredWallet> {
    let uncovered = |(key, is_placeholder): &(String, bool)| {
        Some(UncoveredWallet { wallet: wallet_of(key)?, is_placeholder: *is_placeholder })
    };
    keys.iter().filter_map(uncovered).collect()
}

/// The first wallet of a shard and the one behind its last, as keys.
fn bounds(shard: Shard) -> (String, Option<String>) {
    let (first, behind) = shard.bounds();
    (first.to_string(), behind.map(|wallet| wallet.to_string()))
}

fn parameters<'a>(
    coverage: &'a Coverage,
    first: &'a str,
    behind: Option<&'a str>,
) -> Result<[Value<'a>; 5], RunError> {
    Ok([
        Value::Text(&coverage.checkpoint),
        Value::Number(bigint(coverage.from)?),
        Value::NumberOrNull(coverage.doubt_from.map(bigint).transpose()?),
        Value::Text(first),
        Value::TextOrNull(behind),
    ])
}
