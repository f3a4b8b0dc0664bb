//! What was read of a bucket, compared with its rows as they come.

use super::{SelectedRow, Selection, TotalRead, Unreadable, Wallet};

/// What was read of a bucket.
///
/// Readings that say what the rows hold already are only marked: they are most of them.
#[derive(Clone, Debug)]
pub struct BucketReads {
    selection: Selection,
    /// Whether a bucket's confirmation is not enough for totals that did not change.
    writes_all: bool,
    /// What became of each row.
    rows: Box<[Mark]>,
    /// How many rows were not read.
    left: usize,
    /// The row behind the one that was read last, which is mostly the next to be.
    next: usize,
    /// The block at which all rows were read that are marked as the same.
    same_at: Option<u64>,
    first_reads: Vec<Wallet>,
    totals: Vec<TotalRead>,
    failures: Vec<Unreadable>,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Unread,
    /// It holds what was read.
    Same,
    /// Its reading is in one of the lists.
    Listed,
}

/// What is to become of a total that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The row holds a newer one.
    Superseded,
    /// The row holds it: the confirmation is enough.
    Unchanged,
    /// The row holds another one, or needs a write of its own for this one to count.
    Write,
}

/// Compares a total with a row. `block` is the one at which the bucket is to be confirmed; `None` if that is not enough for
/// any row.
pub fn verdict(read: &TotalRead, row: &SelectedRow, block: Option<u64>) -> Verdict {
    if row.read_block.is_some_and(|stored_at| stored_at > read.read_block) {
        Verdict::Superseded
    } else if row.is_covered
        && row.total.as_ref() == Some(&read.total)
        && Some(read.read_block) == block
        && read.event_block.is_none()
    {
        Verdict::Unchanged
    } else {
        Verdict::Write
    }
}

impl BucketReads {
    /// Nothing was read yet. With `writes_all`, totals that did not change are to be written, too.
    pub fn new(selection: Selection, writes_all: bool) -> Self {
        let left = selection.rows.len();
        Self {
            selection,
            writes_all,
            rows: vec![Mark::Unread; left].into(),
            left,
            next: 0,
            same_at: None,
            first_reads: Vec::new(),
            totals: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Takes a total; false if none is expected of this wallet, or not any more.
    pub fn read(&mut self, read: &TotalRead) -> bool {
        let Some(place) = self.unread(read.wallet) else { return false };
        let row = self.selection.rows.row(place);
        let block = self.same_at.unwrap_or(read.read_block);
        let is_same = verdict(read, &row, Some(block)) == Verdict::Unchanged && !self.writes_all;
        self.rows[place] = if is_same { Mark::Same } else { Mark::Listed };
        if !is_same {
            self.totals.push(read.clone());
            return true;
        }
        self.same_at = Some(block);
        if row.read_block.is_none() {
            self.first_reads.push(read.wallet);
        }
        true
    }

    /// Takes a failure; false if none is expected of this wallet, or not any more.
    pub fn fail(&mut self, failure: &Unreadable) -> bool {
        let Some(place) = self.unread(failure.wallet) else { return false };
        self.rows[place] = Mark::Listed;
        self.failures.push(failure.clone());
        true
    }

    /// Where the row of this wallet is, which is not unread any more then.
    fn unread(&mut self, wallet: Wallet) -> Option<usize> {
        let rows = &self.selection.rows;
        let is_next = rows.wallet(self.next) == Some(wallet);
        let place = if is_next { self.next } else { rows.place(wallet)? };
        if self.rows[place] != Mark::Unread {
            return None;
        }
        self.left -= 1;
        self.next = place + 1;
        Some(place)
    }

    /// Its rows as they were selected.
    pub const fn selection(&self) -> &Selection {
        &self.selection
    }

    /// True if each of the selected wallets was read or could not be. Else the bucket is not to be confirmed.
    pub const fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// How many wallets were read or could not be.
    pub const fn count(&self) -> usize {
        self.rows.len() - self.left
    }

    /// The block at which the bucket is confirmed: the oldest read, so that no row is older than that.
    pub fn block(&self) -> Option<u64> {
        self.totals.iter().map(|read| read.read_block).chain(self.same_at).min()
    }

    /// The same, if it is enough for totals that did not change.
    pub fn block_that_counts(&self) -> Option<u64> {
        self.block().filter(|_| !self.writes_all)
    }

    /// All totals.
    pub fn totals(&self) -> impl Iterator<Item = TotalRead> {
        self.totals.iter().cloned().chain(self.same())
    }

    /// The totals that a confirmation is enough for, if their rows are still as they were selected.
    pub fn unchanged(&self) -> impl Iterator<Item = TotalRead> {
        self.is_enough().then(|| self.same()).into_iter().flatten()
    }

    /// The one of them of this wallet.
    pub fn unchanged_of(&self, wallet: Wallet) -> Option<TotalRead> {
        self.same_of(self.selection.rows.place(wallet)?).filter(|_| self.is_enough())
    }

    /// How many of them there are.
    pub fn count_unchanged(&self) -> usize {
        if self.is_enough() { self.count_same() } else { 0 }
    }

    /// Those of them whose rows were not known to be read at any block: wallet and block of the read.
    pub fn first_reads(&self) -> impl Iterator<Item = (Wallet, u64)> {
        let block = self.same_at.filter(|_| self.is_enough());
        self.first_reads.iter().filter_map(move |wallet| Some((*wallet, block?)))
    }

    /// All other totals.
    pub fn others(&self) -> impl Iterator<Item = TotalRead> {
        let same = (!self.is_enough()).then(|| self.same());
        self.totals.iter().cloned().chain(same.into_iter().flatten())
    }

    /// How many of them there are.
    pub fn count_others(&self) -> usize {
        self.totals.len() + self.count_same() - self.count_unchanged()
    }

    /// The wallets that could not be read.
    pub fn failures(&self) -> &[Unreadable] {
        &self.failures
    }

    /// Whether the confirmation is at the block at which the rows were read that hold the same.
    fn is_enough(&self) -> bool {
        self.same_at == self.block()
    }

    fn count_same(&self) -> usize {
        self.count() - self.totals.len() - self.failures.len()
    }

    /// The totals that the rows held when they were selected.
    fn same(&self) -> impl Iterator<Item = TotalRead> {
        (0..self.rows.len()).filter_map(|place| self.same_of(place))
    }

    fn same_of(&self, place: usize) -> Option<TotalRead> {
        let read_block = self.same_at.filter(|_| self.rows[place] == Mark::Same)?;
        let SelectedRow { wallet, total, .. } = self.selection.rows.row(place);
        Some(TotalRead { wallet, total: total?, read_block, event_block: None })
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};
    use chrono::DateTime;

    use super::{
        super::{Bucket, SelectedRows},
        *,
    };

    fn wallet(last: u8) -> Wallet {
        Wallet::from(Address::with_last_byte(last))
    }

    fn read(last: u8, total: u64, read_block: u64) -> TotalRead {
        let total = U256::from(total).into();
        TotalRead { wallet: wallet(last), total, read_block, event_block: None }
    }

    /// Wallets 1 to 4, each with the total 7. The last one was never read.
    fn reads(writes_all: bool) -> BucketReads {
        let mut rows = SelectedRows::default();
        for last in (1..=4).rev() {
            rows.push(&SelectedRow {
                wallet: wallet(last),
                total: Some(U256::from(7).into()),
                read_block: (last < 4).then_some(1),
                is_covered: true,
            });
        }
        rows.sort();
        let bucket = Bucket::of(wallet(0), 1);
        let (at, left_out) = (DateTime::UNIX_EPOCH, Vec::new());
        BucketReads::new(Selection { bucket, at, rows, left_out }, writes_all)
    }

    /// Unchanged wallets, others, first reads, and the block.
    fn outcome(reads: &BucketReads) -> (Vec<u8>, Vec<u8>, Vec<u8>, Option<u64>) {
        let last = |wallet: Wallet| wallet.address()[19];
        let lasts = |reads: Vec<TotalRead>| reads.iter().map(|read| last(read.wallet)).collect();
        let (unchanged, mut others): (Vec<_>, Vec<_>) =
            (reads.unchanged().collect(), reads.others().collect());
        assert_eq!(unchanged.len(), reads.count_unchanged());
        assert_eq!(others.len(), reads.count_others());
        assert_eq!(reads.totals().count(), unchanged.len() + others.len());
        for read in &unchanged {
            assert_eq!(reads.unchanged_of(read.wallet).as_ref(), Some(read));
            assert_eq!(Some(read.read_block), reads.block());
        }
        assert!(others.iter().all(|read| reads.unchanged_of(read.wallet).is_none()));
        others.sort_by_key(|read| read.wallet);
        let first = reads.first_reads().map(|(wallet, _)| last(wallet)).collect();
        (lasts(unchanged), lasts(others), first, reads.block())
    }

    #[test]
    fn a_total_that_the_row_holds_is_unchanged() {
        let mut reads = reads(false);
        for total in [read(3, 7, 5), read(1, 8, 5), read(4, 7, 5)] {
            assert!(reads.read(&total));
            assert!(!reads.read(&total), "read twice");
            assert!(!reads.is_complete());
        }
        assert!(!reads.read(&read(9, 7, 5)), "no such row");
        let failure = Unreadable { wallet: wallet(2), reason: "reverted".to_owned() };
        assert!(reads.fail(&failure));
        assert!(!reads.fail(&failure), "failed twice");
        assert!(reads.is_complete());
        assert_eq!(reads.count(), 4);
        assert_eq!(reads.failures(), [failure]);
        assert_eq!(outcome(&reads), (vec![3, 4], vec![1], vec![4], Some(5)));
    }

    #[test]
    fn all_that_was_read_at_a_later_block_needs_a_write() {
        let mut reads = reads(false);
        for total in [read(1, 7, 5), read(2, 7, 6), read(3, 7, 5)] {
            reads.read(&total);
        }
        assert_eq!(outcome(&reads), (vec![1, 3], vec![2], vec![], Some(5)));
        // The bucket is confirmed at the oldest block.
        reads.read(&read(4, 7, 4));
        assert_eq!(outcome(&reads), (vec![], vec![1, 2, 3, 4], vec![], Some(4)));
    }

    #[test]
    fn a_row_that_holds_a_newer_read_is_looked_at_again() {
        let mut reads = reads(false);
        reads.read(&read(1, 7, 0));
        assert_eq!(outcome(&reads), (vec![], vec![1], vec![], Some(0)));
    }

    #[test]
    fn nothing_is_unchanged_where_all_is_written() {
        let mut reads = reads(true);
        (1..=4).for_each(|last| assert!(reads.read(&read(last, 7, 5))));
        assert_eq!(outcome(&reads), (vec![], vec![1, 2, 3, 4], vec![], Some(5)));
        assert_eq!(reads.block_that_counts(), None);
    }
}
