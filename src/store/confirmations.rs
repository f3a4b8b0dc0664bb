//! Buckets of rows that are confirmed instead of written.
//!
//! Every write of totals reads which buckets are confirmed, and a confirmation reads the rows of its buckets: so neither may
//! be under way while the other is. Transactions that write totals share a lock, which one that confirms has for
//! itself, for its buckets. What a transaction reads after it has the lock, nobody changes before its end.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use itertools::Itertools;

use super::{
    BucketCursor, BucketPage, Stale,
    backend::Backend,
    changes::WithChanges,
    columns::{JOINED, values_of},
    coverage,
    dialect::{Column, Purpose, Value},
    error::StoreError,
    record::{Rows, write_and_compare},
    rows::{FailureColumns, TotalColumns, bigint, time_text, wallet_of, wallets_of},
    session::Session,
    sql_store::SqlStore,
};
use crate::tally::{
    Bucket, BucketReads, Confirmer, Ledger, Recorded, RunError, Selection, TotalRead, Unreadable,
    Wallet,
};

/// More rows in a bucket than this, on average, and there are to be more buckets.
const TOO_MANY_ROWS: i64 = 5_000;

/// A row as it is compared: wallet, total, block of the read, whether a confirmation of its bucket counts for it, parts.
type ComparedRow = (String, String, Option<i64>, bool, Option<String>);

/// What is to be written to confirm buckets.
#[derive(Default)]
struct Changes {
    totals: Vec<TotalRead>,
    failures: Vec<Unreadable>,
    unchanged: u64,
    superseded: u64,
    buckets: BucketColumns,
    /// Unchanged totals that were never read before, each with the block at which it was.
    first_reads: (Vec<String>, Vec<i64>),
}

/// Confirmed buckets as columns.
#[derive(Default)]
struct BucketColumns {
    buckets: Vec<String>,
    blocks: Vec<Option<i64>>,
    times: Vec<String>,
    wallets: Vec<i64>,
}

impl BucketColumns {
    fn push(&mut self, reads: &BucketReads) -> Result<(), StoreError> {
        self.buckets.push(reads.bucket.to_string());
        self.blocks.push(reads.block().map(bigint).transpose()?);
        self.times.push(time_text(&reads.selected_at.naive_utc()));
        self.wallets.push(bigint((reads.totals.len() + reads.failures.len()) as u64)?);
        Ok(())
    }
}

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

    pub(super) async fn select_wallets(
        &self,
        buckets: &[Bucket],
        before: Option<DateTime<Utc>>,
    ) -> Result<Vec<Selection>, RunError> {
        let at = super::Store::now(self).await?;
        let texts = buckets.iter().map(Bucket::to_string).collect_vec();
        let given = Value::List(&texts);
        let rows: Vec<(String, bool)> = match before {
            Some(before) => {
                let values = [given, Value::Time(before.naive_utc())];
                self.fetch_by_index(D::SQL.bucket_wallets, &values).await?
            }
            None => self.fetch_by_index(D::SQL.bucket_keys, &[given]).await?,
        };
        let mut selected: Vec<_> = buckets
            .iter()
            .map(|bucket| (Selection { bucket: *bucket, at, wallets: Vec::new() }, false))
            .collect();
        let places: HashMap<_, _> =
            buckets.iter().enumerate().map(|(place, bucket)| (*bucket, place)).collect();
        let digits = buckets.first().map_or(1, |bucket| bucket.digits());
        for (key, is_stale) in &rows {
            let Some(wallet) = wallet_of(key) else { continue };
            if let Some(place) = places.get(&Bucket::of(wallet, digits)) {
                let (selection, is_any_stale) = &mut selected[*place];
                selection.wallets.push(wallet);
                *is_any_stale |= is_stale;
            }
        }
        let is_due = |(selection, is_any_stale): &(Selection, bool)| {
            *is_any_stale || selection.wallets.is_empty()
        };
        Ok(selected.into_iter().filter(is_due).map(|(selection, _)| selection).collect())
    }

    /// Confirms buckets in one transaction.
    async fn confirm_once(&self, buckets: &[BucketReads]) -> Result<Recorded, StoreError> {
        let confirmed = || async {
            let mut session = self.database.begin(Purpose::Confirm).await?;
            let confirmed = async {
                lock(&mut session, buckets.iter().map(|reads| reads.bucket)).await?;
                let changes = compare(&mut session, buckets).await?;
                write(&mut session, &changes, self.database.tells_changes()).await
            };
            let confirmed = confirmed.await;
            session.end(confirmed).await
        };
        Ok(self.database.committed(self.retry(confirmed).await?))
    }
}

#[async_trait]
impl<D: Backend> Confirmer for SqlStore<D> {
    async fn confirm(&self, buckets: &[BucketReads]) -> Result<Recorded, RunError> {
        let error = match self.confirm_once(buckets).await {
            Ok(recorded) => return Ok(recorded),
            Err(error) => error,
        };
        if error.sql().and_then(D::row_fault).is_none() {
            return Err(self.in_words(error).await);
        }
        // The database refuses a row: all are recorded, each on its own merits, and buckets without such a row are
        // confirmed after that.
        let totals: Vec<_> = buckets.iter().flat_map(|reads| &reads.totals).cloned().collect();
        let failures: Vec<_> = buckets.iter().flat_map(|reads| &reads.failures).cloned().collect();
        let mut recorded = self.record(&totals, &failures).await?;
        let refused = recorded.refused.iter().map(|refused| refused.wallet);
        let missing: BTreeSet<_> = refused.chain(recorded.left.iter().copied()).collect();
        let is_stored =
            |reads: &&BucketReads| !reads.totals.iter().any(|read| missing.contains(&read.wallet));
        let stored: Vec<_> = buckets.iter().filter(is_stored).cloned().collect();
        let again = self.confirm_once(&stored).await;
        recorded.superseded += self.explained(again).await?.superseded;
        Ok(recorded)
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

/// Creates the buckets of a table of so many rows, if it has none; divides them if they are too large.
async fn create_in<D: Backend>(session: &mut Session<'_, D>, rows: u64) -> Result<u8, StoreError> {
    // Two at once would create buckets of different lengths.
    lock(session, Bucket::all(1)).await?;
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

/// Excludes every other write of totals to these buckets until the end of the transaction, and a new beginning of what
/// counts as covered.
async fn lock<D: Backend>(
    session: &mut Session<'_, D>,
    buckets: impl Iterator<Item = Bucket>,
) -> Result<(), StoreError> {
    let digits: Vec<_> = buckets.map(|bucket| i64::from(bucket.first_digit())).unique().collect();
    if let Some(lock) = D::SQL.lock_buckets {
        session.execute(lock, &[Value::Rows(&[Column::Numbers(&digits)])]).await?;
    }
    coverage::share_checkpoint(session).await
}

/// Compares what was read with the rows as they are now.
async fn compare<D: Backend>(
    session: &mut Session<'_, D>,
    buckets: &[BucketReads],
) -> Result<Changes, StoreError> {
    let texts = buckets.iter().map(|reads| reads.bucket.to_string()).collect_vec();
    let times = buckets.iter().map(|reads| time_text(&reads.selected_at.naive_utc())).collect_vec();
    let given = [Value::Rows(&[Column::Texts(&texts), Column::Texts(&times)])];
    let columns = session.columns();
    let sql = D::SQL.bucket_rows.returning(columns, JOINED, "cast(null as text)");
    let rows: Vec<ComparedRow> = session.fetch(sql, &given).await?;
    let mut changes = Changes::default();
    let mut unread = Vec::new();
    // With the block at which a total that did not change needs no write.
    let mut reads_of: HashMap<String, (&TotalRead, Option<u64>)> = HashMap::new();
    let mut failed = BTreeSet::new();
    for reads in buckets {
        let block = reads.block().filter(|_| !reads.writes_all);
        reads_of.extend(reads.totals.iter().map(|read| (read.wallet.to_string(), (read, block))));
        failed.extend(reads.failures.iter().map(|failure| failure.wallet.to_string()));
        changes.failures.extend(reads.failures.iter().cloned());
    }
    for (key, total, read_block, is_covered, parts) in rows {
        let Some((read, block)) = reads_of.remove(&key) else {
            if is_covered && !failed.contains(&key) {
                unread.push(key);
            }
            continue;
        };
        let stored_at = read_block.and_then(|block| u64::try_from(block).ok());
        if stored_at.is_some_and(|stored_at| stored_at > read.read_block) {
            changes.superseded += 1;
        } else if is_covered
            && total.parse() == Ok(read.total.sum)
            && values_of(parts.as_deref(), columns.len()).as_deref() == Some(&read.total.parts)
            && Some(read.read_block) == block
        {
            changes.unchanged += 1;
            if stored_at.is_none() {
                changes.first_reads.0.push(key);
                changes.first_reads.1.push(bigint(read.read_block)?);
            }
        } else {
            changes.totals.push(read.clone());
        }
    }
    // Their rows are gone.
    changes.superseded += reads_of.len() as u64;
    let on_record: Vec<(String,)> =
        session.fetch(D::SQL.on_record, &[Value::List(&unread)]).await?;
    let on_record: BTreeSet<_> = on_record.into_iter().map(|(key,)| key).collect();
    let unread = wallets_of::<Vec<_>>(unread.iter().filter(|key| !on_record.contains(*key)));
    for reads in buckets.iter().filter(|reads| reads.is_complete) {
        let digits = reads.bucket.digits();
        if unread.iter().all(|wallet| Bucket::of(*wallet, digits) != reads.bucket) {
            changes.buckets.push(reads)?;
        }
    }
    Ok(changes)
}

async fn write<D: Backend>(
    session: &mut Session<'_, D>,
    changes: &Changes,
    tells: bool,
) -> Result<WithChanges<Recorded>, StoreError> {
    let Changes { totals, failures, unchanged, superseded, buckets, first_reads } = changes;
    let early = coverage::early_reads(&first_reads.0, &first_reads.1, session).await?;
    coverage::uncover(&early, session).await?;
    let mut recorded =
        Recorded { unchanged: *unchanged, superseded: *superseded, ..Recorded::default() };
    let mut told = Vec::new();
    if !totals.is_empty() {
        let totals = TotalColumns::of(totals)?;
        (recorded.updated, told) = write_and_compare(&totals, session, tells).await?;
        recorded.superseded += totals.count() - recorded.updated;
    }
    if !failures.is_empty() {
        let failures = FailureColumns::of(failures);
        Rows::Failures(&failures).write(0..failures.wallets.len(), session, false).await?;
    }
    let columns = [
        Column::Texts(&buckets.buckets),
        Column::NumbersOrNull(&buckets.blocks),
        Column::Texts(&buckets.times),
        Column::Numbers(&buckets.wallets),
    ];
    session.execute(D::SQL.confirm_buckets, &[Value::Rows(&columns)]).await?;
    Ok((recorded, told))
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
