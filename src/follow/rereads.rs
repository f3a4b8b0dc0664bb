//! Wallets that were read at replaced blocks, until they have been read again for the last time.
//!
//! Reading them again once is not enough: a sweep may have read a replaced block and store that only now, and at the
//! same height the later write wins. So they are read a last time some blocks above all replaced ones. Wallets that
//! are read before then, for an event in a new block, are read a last time too. (A restart forgets the latter, which
//! matters only within these few blocks and beside such a sweep.)

use std::collections::BTreeSet;

use alloy::primitives::B256;

use super::{BlockReads, OrphanedBlock};
use crate::tally::Wallet;

/// How many blocks a sweep's read may be ahead of the followed block when that is replaced, or behind the chain when
/// it is stored.
const MARGIN: u64 = 4;

/// Reads that no longer count, and those that might be overwritten by such.
#[derive(Clone, Debug, Default)]
pub(super) struct Rereads {
    reads: Vec<Read>,
    /// Wallets that were read meanwhile, as events in the new blocks affected them.
    meanwhile: BTreeSet<Wallet>,
    /// Above this block all of them are read for the last time.
    until: u64,
}

#[derive(Clone, Debug)]
struct Read {
    at: BlockReads,
    /// Whether it was read again, at its block's height or above.
    again: bool,
}

impl Rereads {
    /// What the journal remembers.
    pub(super) fn of(orphaned: Vec<OrphanedBlock>) -> Self {
        let mut rereads = Self::default();
        for OrphanedBlock { read, from } in orphaned {
            rereads.push(read, from.is_none());
        }
        rereads
    }

    /// These blocks were replaced.
    pub(super) fn add(&mut self, replaced: Vec<BlockReads>) {
        for read in replaced {
            self.push(read, false);
        }
    }

    fn push(&mut self, at: BlockReads, again: bool) {
        self.until = self.until.max(at.number.saturating_add(MARGIN));
        self.reads.push(Read { at, again });
    }

    /// The wallets that are to be read at this block.
    pub(super) fn due(&self, block: u64) -> BTreeSet<Wallet> {
        let reads = self.reads.iter().filter(|read| self.is_due(read, block));
        let meanwhile = self.meanwhile.iter().filter(|_| self.until < block);
        reads.flat_map(|read| &read.at.wallets).chain(meanwhile).copied().collect()
    }

    fn is_due(&self, read: &Read, block: u64) -> bool {
        self.until < block || !read.again && read.at.number <= block
    }

    /// All that was due at this block was read there: the blocks of which that was the first time,
    /// and those of which it was the last.
    pub(super) fn hashes(&self, block: u64) -> (Vec<B256>, Vec<B256>) {
        let due = self.reads.iter().filter(|read| self.is_due(read, block));
        let hashes = due.map(|read| read.at.hash).collect();
        if self.until < block { (Vec::new(), hashes) } else { (hashes, Vec::new()) }
    }

    /// Takes note that these wallets were read.
    pub(super) fn read_meanwhile(&mut self, wallets: BTreeSet<Wallet>) {
        if !self.reads.is_empty() {
            self.meanwhile.extend(wallets);
        }
    }

    /// Takes note that all that was due at this block was read there.
    pub(super) fn was_read(&mut self, block: u64) {
        if self.until < block {
            *self = Self::default();
        }
        for read in &mut self.reads {
            read.again |= read.at.number <= block;
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::*;

    fn read_at(number: u64) -> BlockReads {
        let wallet = Wallet::from(Address::with_last_byte(number as u8));
        BlockReads { number, hash: B256::with_last_byte(number as u8), wallets: [wallet].into() }
    }

    fn due(rereads: &Rereads, block: u64) -> usize {
        rereads.due(block).len()
    }

    #[test]
    fn each_is_read_when_its_height_is_reached_and_once_more_above_all() {
        let other = Wallet::from(Address::ZERO);
        let mut rereads = Rereads::default();
        rereads.add(vec![read_at(10), read_at(12)]);
        assert_eq!(due(&rereads, 11), 1);
        assert_eq!(rereads.hashes(11), (vec![read_at(10).hash], vec![]));
        rereads.was_read(11);
        assert_eq!(due(&rereads, 11), 0);
        rereads.read_meanwhile([other].into());
        rereads.was_read(12);
        for block in 12..=16 {
            assert_eq!(due(&rereads, block), 0, "{block}");
        }
        assert_eq!(due(&rereads, 17), 3);
        assert_eq!(rereads.hashes(17).1.len(), 2);
        rereads.was_read(17);
        assert_eq!(due(&rereads, 100), 0);
    }

    #[test]
    fn what_the_journal_remembers_awaits_its_last_time() {
        let orphaned = |number, from| OrphanedBlock { read: read_at(number), from };
        assert_eq!(due(&Rereads::of(vec![orphaned(10, Some(9))]), 10), 1);
        let mut rereads = Rereads::of(vec![orphaned(10, None)]);
        assert_eq!(due(&rereads, 14), 0);
        assert_eq!(due(&rereads, 15), 1);
        rereads.was_read(15);
        assert_eq!(due(&rereads, 16), 0);
    }
}
