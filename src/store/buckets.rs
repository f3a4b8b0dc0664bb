//! Which buckets the table has, and which are due.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use itertools::Itertools;

use super::{
    BucketCursor, BucketPage, Stale,
    backend::Backend,
    dialect::{Column, Purpose, Value},
    error::StoreError,
    session::Session,
    sql_store::SqlStore,
};
use crate::tally::{Bucket, RunError, Wallet};

/// More rows in a bucket than this, on average, and there are to be more buckets.
const TOO_MANY_ROWS: i64 = 5_000;

/// The text that divides buckets at a wallet: those that begin before it are less, all others are not.
pub(super) fn prefix(wallet: Wallet) -> String {
    let text = wallet.to_string();
    let digits = text[2..].trim_end_matches('0').len();
    text[..2 + digits].to_owned()
}

impl<D: Backend> SqlStore<D> {
    /// How many digits the buckets of this table have; `None` if it has none.
    pub(super) async fn digits(&self) -> Result<Option<u8>, RunError> {
        self.retried(|| async {
            let mut session = self.database.begin(Purpose::Read).await?;
            let digits = digits_of(&mut session).await;
            session.end(digits).await
        })
        .await
    }

    /// Creates the buckets of the table, or divides them once they hold too many rows; returns how many digits they have.
    pub(super) async fn create(&self) -> Result<u8, RunError> {
        // Seldom is there anything to create: others need not wait for a look.
        let looked = || async {
            let mut session = self.database.begin(Purpose::Read).await?;
            let looked = async {
                let digits = digits_of(&mut session).await?;
                Ok((digits, digits.is_some() && !are_too_large(&mut session).await?))
            };
            let looked = looked.await;
            session.end(looked).await
        };
        let rows = match self.retried(looked).await? {
            (Some(digits), true) => return Ok(digits),
            (Some(_), false) => 0,
            (None, _) => super::Store::counts(self).await?.wallets,
        };
        let created = || async {
            let mut session = self.database.begin(Purpose::Write).await?;
            let created = create_in(&mut session, rows).await;
            session.end(created).await
        };
        self.retried(created).await
    }

    pub(super) async fn buckets_before(
        &self,
        stale: &Stale,
        after: Option<&BucketCursor>,
        limit: u32,
    ) -> Result<BucketPage, RunError> {
        let (time, bucket) =
            after.map_or((D::SQL.first_age, ""), |after| (&after.time, &after.bucket));
        let (first, behind) = stale.shard.bounds();
        let (first, behind) = (prefix(first), behind.map(prefix));
        let values = [
            Value::Time(stale.before.naive_utc()),
            Value::Text(time),
            Value::Text(bucket),
            Value::Text(&first),
            Value::TextOrNull(behind.as_deref()),
            Value::Number(limit.into()),
        ];
        let rows: Vec<(String, String)> = self.fetch(D::SQL.stale_buckets, &values).await?;
        let next = rows
            .last()
            .filter(|_| rows.len() >= limit as usize)
            .map(|(bucket, time)| BucketCursor { time: time.clone(), bucket: bucket.clone() });
        let (mut new, mut confirmed) = (Vec::new(), Vec::new());
        for (bucket, time) in &rows {
            let list = if time == D::SQL.first_age { &mut new } else { &mut confirmed };
            list.extend(bucket.parse::<Bucket>());
        }
        Ok(BucketPage { new, confirmed, next })
    }

    pub(super) async fn count_wallets(
        &self,
        buckets: &[Bucket],
        before: DateTime<Utc>,
    ) -> Result<Vec<u64>, RunError> {
        let texts = buckets.iter().map(Bucket::to_string).collect_vec();
        let values = [Value::List(&texts), Value::Time(before.naive_utc())];
        let rows: Vec<(String, i64)> =
            self.fetch_by_index(D::SQL.count_in_buckets, &values).await?;
        let counts: HashMap<_, _> = rows.into_iter().collect();
        let count = |bucket| counts.get(bucket).map_or(0, |count| count.unsigned_abs());
        Ok(texts.iter().map(count).collect())
    }
}

/// The digits of the table's buckets.
async fn digits_of<D: Backend>(session: &mut Session<'_, D>) -> Result<Option<u8>, StoreError> {
    let bucket = "select bucket from eth_wallet_confirmations limit 1";
    let bucket: Vec<(String,)> = session.fetch(bucket, &[]).await?;
    let bucket: Option<Bucket> = bucket.first().and_then(|(bucket,)| bucket.parse().ok());
    Ok(bucket.map(Bucket::digits))
}

/// True if the buckets hold too many rows each, on average.
async fn are_too_large<D: Backend>(session: &mut Session<'_, D>) -> Result<bool, StoreError> {
    let average = "select cast(coalesce(avg(wallets), 0) as bigint) from eth_wallet_confirmations
         where wallets is not null";
    let average: Vec<(i64,)> = session.fetch(average, &[]).await?;
    Ok(average.first().is_some_and(|(average,)| *average > TOO_MANY_ROWS))
}

/// Creates buckets for a table with this many rows, if it has none; divides them if they are too large.
async fn create_in<D: Backend>(session: &mut Session<'_, D>, rows: u64) -> Result<u8, StoreError> {
    // Two at once would create buckets of different lengths.
    lock_buckets(session, Bucket::all(1)).await?;
    let Some(digits) = digits_of(session).await? else {
        let digits = Bucket::digits_for(rows);
        let buckets: Vec<_> = Bucket::all(digits).map(|bucket| bucket.to_string()).collect();
        session.execute(D::SQL.create_buckets, &[Value::List(&buckets)]).await?;
        return Ok(digits);
    };
    if digits == 7 || !are_too_large(session).await? {
        return Ok(digits);
    }
    let divide = "insert into eth_wallet_confirmations (bucket, block, selected_at, wallets)
         select bucket || digit, block, selected_at, wallets / 16
         from eth_wallet_confirmations,
             (select '0' as digit union all select '1' union all select '2' union all select '3'
             union all select '4' union all select '5' union all select '6' union all select '7'
             union all select '8' union all select '9' union all select 'a' union all select 'b'
             union all select 'c' union all select 'd' union all select 'e' union all select 'f') digits";
    session.execute(divide, &[]).await?;
    let parents = "delete from eth_wallet_confirmations where length(bucket) = $1";
    session.execute(parents, &[Value::Number(i64::from(digits) + 2)]).await?;
    Ok(digits + 1)
}

/// Waits for the writers of totals in these buckets, and excludes others until the end of the transaction.
pub(super) async fn lock_buckets<D: Backend>(
    session: &mut Session<'_, D>,
    buckets: impl Iterator<Item = Bucket>,
) -> Result<(), StoreError> {
    let digits: Vec<_> = buckets.map(|bucket| i64::from(bucket.first_digit())).unique().collect();
    if let Some(lock) = D::SQL.lock_buckets {
        session.execute(lock, &[Value::Rows(&[Column::Numbers(&digits)])]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_divides_the_buckets_at_a_wallet() {
        for wallet in [
            "0x0000000000000000000000000000000000000000",
            "0x3000000000000000000000000000000000000000",
            "0x3333333333333333333333333333333333333333",
            "0xfff0000000000000000000000000000000000001",
        ] {
            let wallet: Wallet = wallet.parse().expect("a wallet");
            let prefix = prefix(wallet);
            for digits in 1..=4 {
                for bucket in Bucket::all(digits) {
                    assert_eq!(
                        format!("{:0<42}", bucket.to_string()) >= wallet.to_string(),
                        bucket.to_string() >= prefix,
                        "{bucket}, {prefix}"
                    );
                }
            }
        }
    }
}
