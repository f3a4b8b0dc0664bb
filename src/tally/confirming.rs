//! From readings as they come to buckets that are confirmed as a whole.
//!
//! Rows are selected bucket by bucket, and read in chunks that know nothing of buckets. A bucket whose last wallet was
//! read is confirmed: what differs from the table is written, and the rest costs one row for all of them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{Bucket, Ledger, Locked, Recorded, RunError, Total, TotalRead, Unreadable, Wallet};

/// The rows of a bucket as they were selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The bucket.
    pub bucket: Bucket,
    /// A time just before its rows were selected, by the database's clock: all that was written earlier was visible.
    pub at: DateTime<Utc>,
    /// The rows whose wallets are to be read, by wallet.
    pub rows: Vec<SelectedRow>,
    /// Wallets of other rows: they are on the record of failures, or read by themselves.
    pub left_out: Vec<Wallet>,
}

/// A row as it was selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedRow {
    /// Its key.
    pub wallet: Wallet,
    /// The total that it holds; `None` if that is not a whole number of wei.
    pub total: Option<Total>,
    /// The block at which that was read; `None` if it is unknown.
    pub read_block: Option<u64>,
    /// True if a confirmation of this selection counts for the row.
    pub is_covered: bool,
}

impl Selection {
    /// Where the row of this wallet is, if that is to be read.
    fn place(&self, wallet: Wallet) -> Option<usize> {
        self.rows.binary_search_by_key(&wallet, |row| row.wallet).ok()
    }
}

/// What was read of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketReads {
    /// Its rows.
    pub selection: Selection,
    /// The totals that were read, by wallet.
    pub totals: Vec<TotalRead>,
    /// The wallets that could not be read.
    pub failures: Vec<Unreadable>,
    /// True if totals that did not change are written, too.
    pub writes_all: bool,
    /// True if each of the selected wallets is in one of the two lists. Else the bucket is not confirmed.
    pub is_complete: bool,
}

impl BucketReads {
    /// The block at which the bucket is confirmed: the oldest read, so that no row is older than that.
    pub fn block(&self) -> Option<u64> {
        self.totals.iter().map(|read| read.read_block).min()
    }
}

/// A database that can tell a total that changed from one that did not.
#[async_trait]
pub trait Confirmer: Send + Sync {
    /// Writes the totals that differ from the table, and all failures, and confirms each bucket that is complete: at the
    /// block of its oldest read. All in one transaction, in which no other total is written.
    ///
    /// A bucket is not confirmed if it holds a row that was not read, was there when it was selected, and is not on
    /// the record of failures.
    ///
    /// # Errors
    /// As [`Ledger::record`].
    async fn confirm(&self, buckets: &[BucketReads]) -> Result<Recorded, RunError>;
}

/// A ledger that confirms buckets. What belongs to none of the selected ones is recorded as it comes.
pub struct Confirming<'a> {
    confirmer: &'a dyn Confirmer,
    locked: Locked<'a>,
    digits: u8,
    writes_all: bool,
    open: Mutex<Open>,
}

/// What is being read.
#[derive(Default)]
struct Open {
    buckets: HashMap<Bucket, OpenBucket>,
    /// Wallets that belong to no bucket that was selected.
    others: HashSet<Wallet>,
}

/// A bucket of which not all wallets were read yet.
struct OpenBucket {
    /// Which of its rows were read.
    is_read: Box<[bool]>,
    /// How many were not.
    left: usize,
    reads: BucketReads,
}

impl<'a> Confirming<'a> {
    /// A ledger for buckets of this many digits. With `writes_all`, totals that did not change are written, too.
    pub fn new(
        confirmer: &'a dyn Confirmer,
        locked: Locked<'a>,
        digits: u8,
        writes_all: bool,
    ) -> Self {
        Self { confirmer, locked, digits, writes_all, open: Mutex::default() }
    }

    /// Says that these wallets are being read, before their buckets are selected.
    pub fn announce(&self, wallets: &[Wallet]) {
        self.open().others.extend(wallets);
    }

    /// Expects the wallets of this selection, but for those that are being read already; returns them. A bucket without
    /// any is over at once.
    pub fn expect(&self, mut selection: Selection) -> Vec<Wallet> {
        let mut open = self.open();
        let elsewhere = selection.rows.extract_if(.., |row| open.others.contains(&row.wallet));
        selection.left_out.extend(elsewhere.map(|row| row.wallet));
        let wallets: Vec<_> = selection.rows.iter().map(|row| row.wallet).collect();
        let bucket = selection.bucket;
        let reads = BucketReads {
            selection,
            totals: Vec::new(),
            failures: Vec::new(),
            writes_all: self.writes_all,
            is_complete: false,
        };
        let is_read = vec![false; wallets.len()].into();
        open.buckets.insert(bucket, OpenBucket { is_read, left: wallets.len(), reads });
        wallets
    }

    /// Stores what was read of buckets that are not complete; they are not confirmed.
    ///
    /// # Errors
    /// As [`Ledger::record`].
    pub async fn finish(&self) -> Result<Recorded, RunError> {
        let rest = self.open().buckets.drain().map(|(_, open)| open.complete()).collect();
        self.confirm(rest).await
    }

    async fn confirm(&self, buckets: Vec<BucketReads>) -> Result<Recorded, RunError> {
        if buckets.is_empty() {
            return Ok(Recorded::default());
        }
        self.locked.check().await?;
        self.confirmer.confirm(&buckets).await
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// The bucket of this many digits that expects a reading of the wallet, which it does not any more then.
    fn take(&mut self, wallet: Wallet, digits: u8) -> Option<&mut BucketReads> {
        self.others.remove(&wallet);
        let bucket = self.buckets.get_mut(&Bucket::of(wallet, digits))?;
        let is_read = &mut bucket.is_read[bucket.reads.selection.place(wallet)?];
        if std::mem::replace(is_read, true) {
            return None;
        }
        bucket.left -= 1;
        Some(&mut bucket.reads)
    }
}

impl OpenBucket {
    fn complete(mut self) -> BucketReads {
        // Chunks arrive in any order.
        self.reads.totals.sort_unstable_by_key(|read| read.wallet);
        self.reads.is_complete = self.left == 0;
        self.reads
    }
}

#[async_trait]
impl Ledger for Confirming<'_> {
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> Result<Recorded, RunError> {
        let (mut other_totals, mut other_failures) = (Vec::new(), Vec::new());
        let complete: Vec<_> = {
            let mut open = self.open();
            for read in totals {
                match open.take(read.wallet, self.digits) {
                    Some(bucket) => bucket.totals.push(read.clone()),
                    None => other_totals.push(read.clone()),
                }
            }
            for failure in failures {
                match open.take(failure.wallet, self.digits) {
                    Some(bucket) => bucket.failures.push(failure.clone()),
                    None => other_failures.push(failure.clone()),
                }
            }
            open.buckets.extract_if(|_, bucket| bucket.left == 0).collect()
        };
        let mut recorded = Recorded::default();
        if other_totals.len() + other_failures.len() > 0 {
            recorded = self.locked.record(&other_totals, &other_failures).await?;
        }
        let complete = complete.into_iter().map(|(_, open)| open.complete()).collect();
        recorded.add(self.confirm(complete).await?);
        Ok(recorded)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};

    use super::*;

    #[test]
    fn totals_of_a_bucket_are_in_the_order_of_its_rows() {
        let read = |last| TotalRead {
            wallet: Wallet::from(Address::with_last_byte(last)),
            total: U256::ONE.into(),
            read_block: 1,
            event_block: None,
        };
        let bucket = Bucket::of(read(1).wallet, 1);
        let (at, rows, left_out) = (DateTime::UNIX_EPOCH, Vec::new(), Vec::new());
        let reads = BucketReads {
            selection: Selection { bucket, at, rows, left_out },
            totals: vec![read(3), read(4), read(1), read(2)],
            failures: Vec::new(),
            writes_all: false,
            is_complete: false,
        };
        let complete = OpenBucket { is_read: Box::default(), left: 0, reads }.complete();
        assert!(complete.totals.is_sorted_by_key(|read| read.wallet));
    }
}
