//! From readings as they come to buckets that are confirmed as a whole.
//!
//! Rows are selected bucket by bucket, and read in chunks that know nothing of buckets. A bucket whose last wallet was
//! read is confirmed, together with others: what differs from the table is written, and the rest costs one row for all of
//! them.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    Bucket, BucketReads, Ledger, Locked, Recorded, RunError, Selection, TotalRead, Unreadable,
    Wallet,
};

/// Roughly how many rows one transaction confirms. An unchanged row costs the database nothing; a transaction costs as
/// much as selecting thousands of rows.
const ROWS: usize = 50_000;
/// How many of them may have to be written.
const WRITES: usize = 5_000;
/// How long a bucket that was read may wait for others.
const PATIENCE: Duration = Duration::from_secs(1);

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
    buckets: BTreeMap<Bucket, BucketReads>,
    /// Those of which all wallets were read.
    complete: Group,
    /// Wallets that belong to no bucket that was selected.
    others: HashSet<Wallet>,
}

/// Buckets that are confirmed in one transaction.
#[derive(Default)]
struct Group {
    buckets: Vec<BucketReads>,
    rows: usize,
    /// How many rows are to be written.
    writes: usize,
    /// When the first bucket came.
    since: Option<Instant>,
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
        let elsewhere = selection.rows.take_out(|wallet| open.others.contains(&wallet));
        selection.left_out.extend(elsewhere);
        let wallets = selection.rows.wallets().collect();
        open.buckets.insert(selection.bucket, BucketReads::new(selection, self.writes_all));
        wallets
    }

    /// Stores what waits; returns what became of it, and the error that ended it early, as of [`Ledger::record`]. Buckets
    /// that are not complete are not confirmed.
    pub async fn finish(&self) -> (Recorded, Option<RunError>) {
        let Open { buckets, complete, .. } = mem::take(&mut *self.open());
        let (mut recorded, mut group) = (Recorded::default(), Group::default());
        let mut rest = complete.buckets.into_iter().chain(buckets.into_values()).peekable();
        while let Some(reads) = rest.next() {
            group.add(reads);
            if group.is_large() || rest.peek().is_none() {
                match self.confirm(mem::take(&mut group)).await {
                    Ok(confirmed) => recorded.add(confirmed),
                    Err(error) => return (recorded, Some(error)),
                }
            }
        }
        (recorded, None)
    }

    async fn confirm(&self, group: Group) -> Result<Recorded, RunError> {
        if group.buckets.is_empty() {
            return Ok(Recorded::default());
        }
        self.locked.check().await?;
        self.confirmer.confirm(&group.buckets).await
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// The bucket of this many digits that the wallet lies in, if that was selected. Nothing else expects its reading then.
    fn bucket_of(&mut self, wallet: Wallet, digits: u8) -> Option<&mut BucketReads> {
        if !self.others.is_empty() {
            self.others.remove(&wallet);
        }
        self.buckets.get_mut(&Bucket::of(wallet, digits))
    }
}

impl Group {
    fn add(&mut self, reads: BucketReads) {
        self.rows += reads.count();
        self.writes += reads.count_others();
        self.since.get_or_insert_with(Instant::now);
        self.buckets.push(reads);
    }

    const fn is_large(&self) -> bool {
        self.rows >= ROWS || self.writes >= WRITES
    }

    fn is_due(&self) -> bool {
        self.is_large() || self.since.is_some_and(|since| since.elapsed() >= PATIENCE)
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
        let group = {
            let mut open = self.open();
            for read in totals {
                let bucket = open.bucket_of(read.wallet, self.digits);
                if !bucket.is_some_and(|bucket| bucket.read(read)) {
                    other_totals.push(read.clone());
                }
            }
            for failure in failures {
                let bucket = open.bucket_of(failure.wallet, self.digits);
                if !bucket.is_some_and(|bucket| bucket.fail(failure)) {
                    other_failures.push(failure.clone());
                }
            }
            let Open { buckets, complete, .. } = &mut *open;
            for (_, reads) in buckets.extract_if(.., |_, reads| reads.is_complete()) {
                complete.add(reads);
            }
            if complete.is_due() { mem::take(complete) } else { Group::default() }
        };
        let mut recorded = Recorded::default();
        if other_totals.len() + other_failures.len() > 0 {
            recorded = self.locked.record(&other_totals, &other_failures).await?;
        }
        recorded.add(self.confirm(group).await?);
        Ok(recorded)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use alloy::primitives::{Address, U256};
    use chrono::DateTime;

    use super::{
        super::{Lock, SelectedRow, SelectedRows, Total},
        *,
    };

    /// Counts transactions, of which only this many succeed.
    struct Counting {
        transactions: AtomicUsize,
        succeed: usize,
    }

    #[async_trait]
    impl Confirmer for Counting {
        async fn confirm(&self, buckets: &[BucketReads]) -> Result<Recorded, RunError> {
            if self.transactions.fetch_add(1, Ordering::Relaxed) >= self.succeed {
                return Err(RunError::Database(anyhow::anyhow!("gone")));
            }
            let count =
                |of: fn(&BucketReads) -> usize| buckets.iter().map(of).sum::<usize>() as u64;
            let (unchanged, updated) =
                (count(BucketReads::count_unchanged), count(BucketReads::count_others));
            Ok(Recorded { unchanged, updated, ..Recorded::default() })
        }
    }

    #[async_trait]
    impl Ledger for Counting {
        async fn record(&self, _: &[TotalRead], _: &[Unreadable]) -> Result<Recorded, RunError> {
            panic!("every wallet lies in a bucket");
        }
    }

    #[async_trait]
    impl Lock for Counting {
        async fn is_held(&self) -> bool {
            true
        }

        async fn lost(&self) -> String {
            panic!("it is held");
        }

        async fn release(&self) {}
    }

    impl Counting {
        fn new(succeed: usize) -> Self {
            Self { transactions: AtomicUsize::default(), succeed }
        }

        fn confirming(&self) -> Confirming<'_> {
            Confirming::new(self, Locked { ledger: self, lock: self }, 1, false)
        }

        fn transactions(&self) -> usize {
            self.transactions.load(Ordering::Relaxed)
        }
    }

    async fn read(confirming: &Confirming<'_>, digit: u8, rows: u32, total: u64) -> Recorded {
        read_some(confirming, digit, rows, rows as usize, total).await
    }

    /// Selects this many rows with the total 7 in the bucket of this digit, and reads some of them.
    async fn read_some(
        confirming: &Confirming<'_>,
        digit: u8,
        rows: u32,
        count: usize,
        total: u64,
    ) -> Recorded {
        let wallet = |row: u32| {
            let mut address = Address::left_padding_from(&row.to_be_bytes());
            address[0] = digit << 4;
            Wallet::from(address)
        };
        let mut selected = SelectedRows::default();
        for wallet in (0..rows).map(wallet) {
            let total = Some(U256::from(7).into());
            selected.push(&SelectedRow { wallet, total, read_block: Some(1), is_covered: true });
        }
        selected.sort();
        let (bucket, at) = (Bucket::of(wallet(0), 1), DateTime::UNIX_EPOCH);
        let wallets =
            confirming.expect(Selection { bucket, at, rows: selected, left_out: Vec::new() });
        let total: Total = U256::from(total).into();
        let read =
            |wallet| TotalRead { wallet, total: total.clone(), read_block: 2, event_block: None };
        let reads: Vec<_> = wallets.into_iter().take(count).map(read).collect();
        confirming.record(&reads, &[]).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_waits_for_others_but_not_for_long() {
        let confirmer = Counting::new(usize::MAX);
        let confirming = confirmer.confirming();
        assert_eq!(read(&confirming, 0, 100, 7).await.unchanged, 0);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(read(&confirming, 1, 100, 7).await.unchanged, 200);
        assert_eq!(read(&confirming, 2, 100, 7).await.unchanged, 0);
        let (recorded, error) = confirming.finish().await;
        assert_eq!((recorded.unchanged, error.is_none()), (100, true));
        assert_eq!(confirmer.transactions(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn many_rows_and_many_writes_are_confirmed_at_once() {
        let confirmer = Counting::new(usize::MAX);
        let confirming = confirmer.confirming();
        for digit in 0..3 {
            assert_eq!(read(&confirming, digit, 15_000, 7).await.unchanged, 0);
        }
        assert_eq!(read(&confirming, 3, 5_000, 7).await.unchanged, 50_000);
        assert_eq!(read(&confirming, 4, 4_999, 8).await.updated, 0);
        assert_eq!(read(&confirming, 5, 1, 8).await.updated, 5_000);
        assert_eq!(confirmer.transactions(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_stored_counts_also_when_the_rest_fails() {
        let confirmer = Counting::new(1);
        let confirming = confirmer.confirming();
        for digit in 0..4 {
            assert_eq!(read_some(&confirming, digit, 4_000, 3_999, 8).await.updated, 0);
        }
        let (recorded, error) = confirming.finish().await;
        assert_eq!((recorded.updated, error.is_some()), (2 * 3_999, true));
        assert_eq!(confirmer.transactions(), 2);
    }
}
