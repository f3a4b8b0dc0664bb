//! Wallets that were read at replaced blocks, until they have been read again for the last time.
//!
//! Reading them again once is not enough: a sweep may have read a replaced block and store that only now, and at the
//! same height the later write wins. So they are read a last time some blocks above all replaced ones, and not before some
//! seconds have passed. Wallets that are read before then, for an event in a new block, are read a last time too. (A
//! restart forgets the latter, which matters only within these few blocks and beside such a sweep.)
//!
//! What others read at the replaced blocks, sweeps above all, the table knows: it is looked through for such rows at once,
//! after some seconds, and before the last time.

use std::{collections::BTreeSet, time::Duration};

use alloy::primitives::B256;
use tokio::time::Instant;

use super::{BlockReads, Doubt, OrphanedBlock};
use crate::tally::Wallet;

/// How many blocks a sweep's read may be ahead of the followed block when that is replaced, or behind the chain when
/// it is stored.
const MARGIN: u64 = 4;
/// How long after the reorganisation the table is looked through. A sweep reads at one block for up to 10 s, and stores
/// what it has read a little later.
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(8), Duration::from_secs(15)];
/// How old the rows that were read at replaced blocks may be if nothing better is known.
pub(super) const LONG_AGO: Duration = Duration::from_secs(3_600);

/// Reads that no longer count, and those that might be overwritten by such.
#[derive(Clone, Debug, Default)]
pub(super) struct Rereads {
    reads: Vec<Read>,
    searches: Vec<Search>,
    /// Wallets that were read meanwhile, as events in the new blocks affected them.
    meanwhile: BTreeSet<Wallet>,
    /// Above this block all of them are read for the last time.
    until: u64,
}

#[derive(Clone, Debug)]
struct Read {
    number: u64,
    /// The block, where it is known.
    hash: Option<B256>,
    wallets: BTreeSet<Wallet>,
    /// Whether it was read again, at its block's height or above.
    again: bool,
}

/// A search for rows that others read at replaced blocks.
#[derive(Clone, Debug)]
struct Search {
    rows: RowsReadAt,
    began: Instant,
    /// How many times it was done.
    done: usize,
}

/// Rows that were read at one of these blocks, and written lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowsReadAt {
    pub(super) from: u64,
    pub(super) to: u64,
    /// How long ago they may have been written.
    pub(super) within: Duration,
}

impl Rereads {
    /// What the journal remembers.
    pub(super) fn of(orphaned: Vec<OrphanedBlock>, doubt: Option<Doubt>) -> Self {
        let mut rereads = Self::default();
        let first = |block: &OrphanedBlock| block.read.number.min(block.from.unwrap_or(u64::MAX));
        let from = orphaned.iter().map(first).chain(doubt.map(|doubt| doubt.from)).min();
        let to = orphaned.iter().map(|block| block.read.number);
        let to = to.chain(doubt.map(|doubt| doubt.to)).max();
        for OrphanedBlock { read, from } in orphaned {
            rereads.push(read, from.is_none());
        }
        if let (Some(from), Some(to)) = (from, to) {
            rereads.search(from, to, LONG_AGO);
            let age = doubt.map_or(Duration::ZERO, |doubt| doubt.age);
            for search in &mut rereads.searches {
                // What was stored before is found later, too.
                search.done = 1;
                search.began = search.began.checked_sub(age).unwrap_or(search.began);
            }
        }
        rereads
    }

    /// These blocks were replaced.
    pub(super) fn add(&mut self, replaced: Vec<BlockReads>) {
        for read in replaced {
            self.push(read, false);
        }
    }

    fn push(&mut self, BlockReads { number, hash, wallets }: BlockReads, again: bool) {
        self.until = self.until.max(number.saturating_add(MARGIN));
        self.reads.push(Read { number, hash: Some(hash), wallets, again });
    }

    /// Others may have read the blocks from `from` to `to`, which were replaced; the first of them was made this long ago.
    pub(super) fn search(&mut self, from: u64, to: u64, age: Duration) {
        let to = to.saturating_add(MARGIN);
        self.until = self.until.max(to);
        let rows = RowsReadAt { from, to, within: age };
        self.searches.push(Search { rows, began: Instant::now(), done: 0 });
    }

    /// What is due at this block, now. It stays the same for as long as a step takes.
    pub(super) fn moment(&self, block: u64) -> Moment {
        let [.., longest] = LOOKS;
        let now = Instant::now();
        let are_over = self.searches.iter().all(|search| search.began + longest <= now);
        Moment { block, now, is_last: self.until < block && are_over }
    }

    /// Which rows are to be searched for.
    pub(super) fn to_search(&self, moment: &Moment) -> Vec<RowsReadAt> {
        let rows = |search: &Search| RowsReadAt {
            within: search.rows.within.saturating_add(search.began.elapsed()),
            ..search.rows
        };
        self.searches.iter().filter(|search| search.is_due(moment)).map(rows).collect()
    }

    /// These rows were found, each with the block at which it was read.
    pub(super) fn found(&mut self, moment: &Moment, rows: Vec<(Wallet, u64)>) {
        for search in self.searches.iter_mut().filter(|search| search.is_due(moment)) {
            search.done += 1;
        }
        for (wallet, number) in rows {
            match self.reads.iter_mut().find(|read| read.hash.is_none() && read.number == number) {
                Some(read) => {
                    read.wallets.insert(wallet);
                    read.again = false;
                }
                None => self.reads.push(Read {
                    number,
                    hash: None,
                    wallets: [wallet].into(),
                    again: false,
                }),
            }
        }
    }

    /// When rows are to be searched for next, whatever the chain does.
    pub(super) fn next_search(&self) -> Option<Instant> {
        self.searches.iter().filter_map(Search::next).min()
    }

    /// The wallets that are to be read.
    pub(super) fn due(&self, moment: &Moment) -> BTreeSet<Wallet> {
        let reads = self.reads.iter().filter(|read| read.is_due(moment));
        let meanwhile = self.meanwhile.iter().filter(|_| moment.is_last);
        reads.flat_map(|read| &read.wallets).chain(meanwhile).copied().collect()
    }

    /// All that was due was read: the blocks of which that was the first time, and those of which it was the last.
    pub(super) fn hashes(&self, moment: &Moment) -> (Vec<B256>, Vec<B256>) {
        let due = self.reads.iter().filter(|read| read.is_due(moment));
        let hashes = due.filter_map(|read| read.hash).collect();
        if moment.is_last { (Vec::new(), hashes) } else { (hashes, Vec::new()) }
    }

    /// Takes note that these wallets were read.
    pub(super) fn read_meanwhile(&mut self, wallets: &BTreeSet<Wallet>) {
        if !self.reads.is_empty() || !self.searches.is_empty() {
            self.meanwhile.extend(wallets);
        }
    }

    /// Takes note that all that was due was read.
    pub(super) fn was_read(&mut self, moment: &Moment) {
        if moment.is_last {
            *self = Self::default();
        }
        for read in &mut self.reads {
            read.again |= read.number <= moment.block;
        }
    }
}

/// A block at which something may be due, and when that was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    block: u64,
    now: Instant,
    /// Whether what is read there is read for the last time, or nothing is to be read again.
    pub(super) is_last: bool,
}

impl Read {
    fn is_due(&self, moment: &Moment) -> bool {
        moment.is_last || !self.again && self.number <= moment.block
    }
}

impl Search {
    /// When it is done next; `None` if only the chain decides.
    fn next(&self) -> Option<Instant> {
        LOOKS.get(self.done).map(|after| self.began + *after)
    }

    fn is_due(&self, moment: &Moment) -> bool {
        moment.is_last || self.next().is_some_and(|next| next <= moment.now)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::*;

    fn wallet(n: u8) -> Wallet {
        Wallet::from(Address::with_last_byte(n))
    }

    fn read_at(number: u64) -> BlockReads {
        let n = number as u8;
        BlockReads { number, hash: B256::with_last_byte(n), wallets: [wallet(n)].into() }
    }

    fn due(rereads: &Rereads, block: u64) -> usize {
        rereads.due(&rereads.moment(block)).len()
    }

    fn was_read(rereads: &mut Rereads, block: u64) {
        rereads.was_read(&rereads.moment(block));
    }

    #[test]
    fn each_is_read_when_its_height_is_reached_and_once_more_above_all() {
        let other = Wallet::from(Address::ZERO);
        let mut rereads = Rereads::default();
        rereads.add(vec![read_at(10), read_at(12)]);
        assert_eq!(due(&rereads, 11), 1);
        assert_eq!(rereads.hashes(&rereads.moment(11)), (vec![read_at(10).hash], vec![]));
        was_read(&mut rereads, 11);
        assert_eq!(due(&rereads, 11), 0);
        rereads.read_meanwhile(&[other].into());
        was_read(&mut rereads, 12);
        for block in 12..=16 {
            assert_eq!(due(&rereads, block), 0, "{block}");
        }
        assert_eq!(due(&rereads, 17), 3);
        assert_eq!(rereads.hashes(&rereads.moment(17)).1.len(), 2);
        was_read(&mut rereads, 17);
        assert_eq!(due(&rereads, 100), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_journal_remembers_awaits_its_last_time() {
        let orphaned = |number, from| OrphanedBlock { read: read_at(number), from };
        assert_eq!(due(&Rereads::of(vec![orphaned(10, Some(9))], None), 10), 1);
        let mut rereads = Rereads::of(vec![orphaned(10, None)], None);
        assert_eq!(due(&rereads, 14), 0);
        assert_eq!(due(&rereads, 15), 0, "a sweep may not have stored what it has read");
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(due(&rereads, 15), 1);
        was_read(&mut rereads, 15);
        assert_eq!(due(&rereads, 16), 0);

        // A run that begins a minute later need not wait.
        tokio::time::advance(Duration::from_secs(120)).await;
        let doubt = Doubt { from: 9, to: 10, age: Duration::from_secs(60) };
        let rereads = Rereads::of(vec![orphaned(10, None)], Some(doubt));
        assert_eq!(rereads.to_search(&rereads.moment(14)).len(), 1);
        assert_eq!((due(&rereads, 14), due(&rereads, 15)), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_read_at_replaced_blocks_is_searched_for_some_times() {
        let mut rereads = Rereads::default();
        rereads.search(10, 12, Duration::from_secs(60));
        let search = |rereads: &mut Rereads, block: u64, found: &[(Wallet, u64)]| {
            let moment = rereads.moment(block);
            let rows = rereads.to_search(&moment);
            rereads.found(&moment, found.to_vec());
            let due = rereads.due(&moment).len();
            rereads.was_read(&moment);
            (rows.len(), due)
        };
        let moment = rereads.moment(11);
        let rows = RowsReadAt { from: 10, to: 16, within: Duration::from_secs(60) };
        assert_eq!(rereads.to_search(&moment), [rows]);
        // One of the rows is of a block that the chain has not reached again.
        assert_eq!(search(&mut rereads, 11, &[(wallet(1), 10), (wallet(2), 12)]), (1, 1));
        assert_eq!(search(&mut rereads, 12, &[]), (0, 1));
        assert_eq!(search(&mut rereads, 20, &[]), (0, 0));
        tokio::time::advance(Duration::from_secs(8)).await;
        assert!(rereads.next_search().unwrap() <= Instant::now());
        assert_eq!(search(&mut rereads, 20, &[(wallet(3), 11)]), (1, 1));
        tokio::time::advance(Duration::from_secs(7)).await;
        // The last time, as both blocks and time have passed.
        assert_eq!(search(&mut rereads, 20, &[]), (1, 3));
        assert_eq!((search(&mut rereads, 21, &[]), rereads.next_search()), ((0, 0), None));

        // Where the chain stands still, there is a last search and a last read when it goes on.
        rereads.search(30, 32, Duration::ZERO);
        assert_eq!(search(&mut rereads, 32, &[]), (1, 0));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(search(&mut rereads, 32, &[]), (1, 0));
        assert_eq!(search(&mut rereads, 32, &[]), (1, 0));
        assert_eq!((search(&mut rereads, 32, &[]), rereads.next_search()), ((0, 0), None));
        assert_eq!(search(&mut rereads, 37, &[(wallet(4), 33)]), (1, 1));
        assert_eq!(search(&mut rereads, 38, &[]), (0, 0));
    }
}
