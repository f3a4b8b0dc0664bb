//! Buckets of rows that are confirmed instead of written.
//!
//! Every write of totals reads which buckets are confirmed, and a confirmation rests on rows of its buckets: so neither may
//! be under way while the other is. Transactions that write totals share a lock, which one that confirms has for
//! itself, for its buckets. A selection waits for the same lock. So it sees what was written before, and under the lock of
//! the confirmation only rows that were written since have to be looked at again.

use std::collections::{BTreeSet, HashSet};

use async_trait::async_trait;
use itertools::Itertools;

use super::{
    backend::Backend,
    buckets::lock_buckets,
    changes::WithChanges,
    coverage,
    dialect::{Column, Purpose, Value},
    error::StoreError,
    record::{Rows, write_and_compare},
    rows::{FailureColumns, TotalColumns, bigint, time_text, wallets_of},
    selections::{rows_now, written_since},
    session::Session,
    sql_store::SqlStore,
    standing::Standing,
};
use crate::tally::{
    Bucket, BucketReads, Confirmer, Ledger, Recorded, RunError, Selection, TotalRead, Unreadable,
    Verdict, Wallet, verdict,
};

/// All rows are looked at again if those that differ, times this, outnumber the unchanged ones. Most of what was written
/// since the selection is then this program's own work in other buckets, and searching through that takes longer.
const MANY: usize = 2;

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

impl Changes {
    fn first_read(&mut self, wallet: Wallet, block: u64) -> Result<(), StoreError> {
        self.first_reads.0.push(wallet.to_string());
        self.first_reads.1.push(bigint(block)?);
        Ok(())
    }
}

impl BucketColumns {
    fn push(&mut self, reads: &BucketReads) -> Result<(), StoreError> {
        let Selection { bucket, at, .. } = reads.selection();
        self.buckets.push(bucket.to_string());
        self.blocks.push(reads.block().map(bigint).transpose()?);
        self.times.push(time_text(&at.naive_utc()));
        self.wallets.push(bigint(reads.count() as u64)?);
        Ok(())
    }
}

impl<D: Backend> SqlStore<D> {
    /// Confirms buckets in one transaction.
    async fn confirm_once(&self, buckets: &[BucketReads]) -> Result<Recorded, StoreError> {
        let confirmed = || async {
            let mut session = self.database.begin(Purpose::Confirm).await?;
            let confirmed = async {
                lock(&mut session, buckets.iter().map(|reads| reads.selection().bucket)).await?;
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
        let totals: Vec<_> = buckets.iter().flat_map(BucketReads::totals).collect();
        let failures: Vec<_> = buckets.iter().flat_map(BucketReads::failures).cloned().collect();
        let mut recorded = self.record(&totals, &failures).await?;
        let refused = recorded.refused.iter().map(|refused| refused.wallet);
        let missing: BTreeSet<_> = refused.chain(recorded.left.iter().copied()).collect();
        let is_stored =
            |reads: &&BucketReads| !reads.totals().any(|read| missing.contains(&read.wallet));
        let stored: Vec<_> = buckets.iter().filter(is_stored).cloned().collect();
        let again = self.confirm_once(&stored).await;
        recorded.superseded += self.explained(again).await?.superseded;
        Ok(recorded)
    }
}

/// Excludes every other write of totals to these buckets until the end of the transaction, and a new beginning of what
/// counts as covered.
async fn lock<D: Backend>(
    session: &mut Session<'_, D>,
    buckets: impl Iterator<Item = Bucket>,
) -> Result<(), StoreError> {
    lock_buckets(session, buckets).await?;
    coverage::share_checkpoint(session).await
}

/// Compares what was read with the rows as they are now. Only those that may not be as they were selected are looked at
/// again: rows that differ from what was read, that were written since, or that have left the record of failures.
async fn compare<D: Backend>(
    session: &mut Session<'_, D>,
    buckets: &[BucketReads],
) -> Result<Changes, StoreError> {
    let unchanged: usize = buckets.iter().map(BucketReads::count_unchanged).sum();
    let others: usize = buckets.iter().map(BucketReads::count_others).sum();
    let written = match others * MANY > unchanged {
        true => None,
        false => Some(written_since(session, buckets).await?),
    };
    let mut changes = Changes::default();
    let mut again = Vec::new();
    for reads in buckets {
        let block = reads.block_that_counts();
        again.extend(reads.others().map(|read| (read, block)));
        let before = again.len();
        let Some(written) = &written else {
            again.extend(reads.unchanged().map(|read| (read, block)));
            continue;
        };
        let written = written.get(&reads.selection().bucket);
        let is_written = |wallet: &Wallet| written.is_some_and(|written| written.contains(wallet));
        let written = written.into_iter().flatten();
        let found = written.filter_map(|wallet| reads.unchanged_of(*wallet));
        again.extend(found.map(|read| (read, block)));
        changes.unchanged += (reads.count_unchanged() + before - again.len()) as u64;
        for (wallet, block) in reads.first_reads().filter(|(wallet, _)| !is_written(wallet)) {
            changes.first_read(wallet, block)?;
        }
    }
    let unlisted = left_record(session, buckets).await?;
    let wallets = again.iter().map(|(read, _)| read.wallet).chain(unlisted);
    let rows = rows_now(session, buckets, wallets.collect()).await?;
    for (read, block) in again {
        let Some(row) = rows.get(&read.wallet) else {
            // The row is gone.
            changes.superseded += 1;
            continue;
        };
        match verdict(&read, row, block) {
            Verdict::Superseded => changes.superseded += 1,
            Verdict::Unchanged => {
                changes.unchanged += 1;
                if row.read_block.is_none() {
                    changes.first_read(read.wallet, read.read_block)?;
                }
            }
            Verdict::Write => changes.totals.push(read),
        }
    }
    for reads in buckets {
        changes.failures.extend(reads.failures().iter().cloned());
        let is_covered = |wallet| rows.get(wallet).is_some_and(|row| row.is_covered);
        if reads.is_complete() && !reads.selection().left_out.iter().any(is_covered) {
            changes.buckets.push(reads)?;
        }
    }
    Ok(changes)
}

/// Wallets that were left out as they were on the record of failures, and are not any more.
async fn left_record<D: Backend>(
    session: &mut Session<'_, D>,
    buckets: &[BucketReads],
) -> Result<Vec<Wallet>, StoreError> {
    let left_out = buckets.iter().flat_map(|reads| &reads.selection().left_out);
    let keys = left_out.map(Wallet::to_string).collect_vec();
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let on_record: Vec<(String,)> = session.fetch(D::SQL.on_record, &[Value::List(&keys)]).await?;
    let on_record: HashSet<_> = on_record.into_iter().map(|(key,)| key).collect();
    Ok(wallets_of(keys.iter().filter(|key| !on_record.contains(*key))))
}

async fn write<D: Backend>(
    session: &mut Session<'_, D>,
    changes: &Changes,
    tells: bool,
) -> Result<WithChanges<Recorded>, StoreError> {
    let Changes { totals, failures, unchanged, superseded, buckets, first_reads } = changes;
    let standing = Standing::look_up(session).await?;
    let early = coverage::early_reads(&first_reads.0, &first_reads.1, &standing, session).await?;
    coverage::uncover(&early, session).await?;
    let mut recorded =
        Recorded { unchanged: *unchanged, superseded: *superseded, ..Recorded::default() };
    let mut told = Vec::new();
    if !totals.is_empty() {
        let totals = TotalColumns::of(totals)?;
        (recorded.updated, told) = write_and_compare(&totals, &standing, session, tells).await?;
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
