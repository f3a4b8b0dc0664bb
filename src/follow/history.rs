//! The recent blocks, with the wallets that were read at each: what a reorganisation undoes.
//!
//! Pure: blocks in, answers out.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::B256;

use super::ReadAt;
use crate::tally::Wallet;

/// How many blocks are remembered. Reorganisations are no deeper than 64; twice that leaves room
/// for a node that was away meanwhile.
pub(super) const DEPTH: u64 = 128;

/// Blocks by number; two of one number only while it is not known yet which of them went.
#[derive(Clone, Debug, Default)]
pub struct History {
    blocks: BTreeMap<(u64, B256), BTreeSet<Wallet>>,
}

impl History {
    /// The history that these reads make.
    pub fn of(reads: impl IntoIterator<Item = ReadAt>) -> Self {
        let blocks = reads.into_iter().map(|read| ((read.number, read.hash), read.wallets));
        Self { blocks: blocks.collect() }
    }

    /// Remembers that these wallets are read at this block; returns all that were.
    pub(super) fn add(
        &mut self,
        number: u64,
        hash: B256,
        wallets: impl IntoIterator<Item = Wallet>,
    ) -> ReadAt {
        let read = self.blocks.entry((number, hash)).or_default();
        read.extend(wallets);
        ReadAt { number, hash, wallets: read.clone() }
    }

    /// The numbers of the blocks up to `number`, each once, in order.
    pub(super) fn numbers_to(&self, number: u64) -> Vec<u64> {
        let mut numbers: Vec<_> =
            self.blocks.range(..=(number, B256::repeat_byte(0xff))).map(|((n, _), _)| *n).collect();
        numbers.dedup();
        numbers
    }

    /// Whether this block is remembered.
    pub(super) fn holds(&self, number: u64, hash: B256) -> bool {
        self.blocks.contains_key(&(number, hash))
    }

    /// The lowest block that is remembered.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.blocks.keys().next().map(|(number, _)| *number)
    }

    /// Takes out all blocks above `number`.
    pub(super) fn take_above(&mut self, number: u64) -> Vec<ReadAt> {
        let behind = (number.saturating_add(1), B256::ZERO);
        let gone = self.blocks.split_off(&behind);
        gone.into_iter().map(|((number, hash), wallets)| ReadAt { number, hash, wallets }).collect()
    }

    /// Takes out every block of this number but the one with this hash.
    pub(super) fn take_others(&mut self, number: u64, hash: B256) -> Vec<ReadAt> {
        self.blocks
            .extract_if(.., |(n, other), _| *n == number && *other != hash)
            .map(|((number, hash), wallets)| ReadAt { number, hash, wallets })
            .collect()
    }

    /// Forgets the blocks below `number`.
    pub(super) fn forget_below(&mut self, number: u64) {
        self.blocks = self.blocks.split_off(&(number, B256::ZERO));
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::*;

    fn wallet(n: u8) -> Wallet {
        Wallet::from(Address::with_last_byte(n))
    }

    fn hash(n: u8) -> B256 {
        B256::repeat_byte(n)
    }

    fn three_blocks() -> History {
        let mut history = History::default();
        for n in [5, 6, 8] {
            history.add(n, hash(n as u8), [wallet(n as u8)]);
        }
        history
    }

    #[test]
    fn wallets_read_twice_at_a_block_are_all_remembered() {
        let mut history = three_blocks();
        let read = history.add(8, hash(8), [wallet(1)]);
        assert_eq!(read.wallets, BTreeSet::from([wallet(1), wallet(8)]));
    }

    #[test]
    fn what_is_above_the_fork_is_taken_out() {
        let mut history = three_blocks();
        let gone: Vec<_> = history.take_above(5).into_iter().map(|read| read.number).collect();
        assert_eq!(gone, [6, 8]);
        assert!(history.holds(5, hash(5)) && !history.holds(6, hash(6)));
        assert!(history.take_above(u64::MAX).is_empty());
    }

    #[test]
    fn of_two_blocks_of_one_number_the_other_is_taken_out() {
        let mut history = three_blocks();
        history.add(8, hash(9), []);
        assert_eq!(history.numbers_to(8), [5, 6, 8]);
        assert_eq!(history.numbers_to(7), [5, 6]);
        let others: Vec<_> = history.take_others(8, hash(9)).iter().map(|read| read.hash).collect();
        assert_eq!(others, [hash(8)]);
        assert!(history.holds(8, hash(9)));
    }

    #[test]
    fn old_blocks_are_forgotten() {
        let mut history = three_blocks();
        history.forget_below(6);
        assert_eq!(history.lowest(), Some(6));
    }
}
