//! The recent blocks, with the wallets that were read at each: what a reorganisation undoes.
//!
//! Pure: blocks in, answers out.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::B256;

use super::BlockReads;
use crate::tally::Wallet;

/// How many blocks are remembered. Reorganisations are no deeper than 64; twice that leaves room
/// for a process that was away meanwhile.
pub(super) const DEPTH: u64 = 128;

/// Blocks of one chain; not each of them, only those that something was done at.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentBlocks {
    blocks: BTreeMap<u64, (B256, BTreeSet<Wallet>)>,
}

impl RecentBlocks {
    /// The recent_blocks that these reads make.
    pub(super) fn of(reads: Vec<BlockReads>) -> Self {
        let blocks = reads.into_iter().map(|read| (read.number, (read.hash, read.wallets)));
        Self { blocks: blocks.collect() }
    }

    /// Remembers that these wallets are read at this block; returns all that were.
    pub(super) fn add(
        &mut self,
        number: u64,
        hash: B256,
        wallets: impl IntoIterator<Item = Wallet>,
    ) -> BlockReads {
        let (_, read) = self.blocks.entry(number).or_insert_with(|| (hash, BTreeSet::new()));
        read.extend(wallets);
        BlockReads { number, hash, wallets: read.clone() }
    }

    /// The hash of the block of this number, if it is remembered.
    pub(super) fn hash(&self, number: u64) -> Option<B256> {
        self.blocks.get(&number).map(|(hash, _)| *hash)
    }

    /// Whether a block with this hash is remembered.
    pub(super) fn holds(&self, hash: &B256) -> bool {
        self.blocks.values().any(|(held, _)| held == hash)
    }

    /// The lowest block that is remembered.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.blocks.keys().next().copied()
    }

    /// The highest block that is remembered.
    pub(super) fn highest(&self) -> Option<(u64, B256)> {
        self.blocks.last_key_value().map(|(number, (hash, _))| (*number, *hash))
    }

    /// What was read at the blocks from `number` on.
    pub(super) fn from(&self, number: u64) -> Vec<BlockReads> {
        let read = |(number, (hash, wallets)): (&u64, &(B256, BTreeSet<Wallet>))| BlockReads {
            number: *number,
            hash: *hash,
            wallets: wallets.clone(),
        };
        self.blocks.range(number..).map(read).collect()
    }

    /// Forgets the blocks from `number` on.
    pub(super) fn forget_from(&mut self, number: u64) {
        self.blocks.split_off(&number);
    }

    /// Forgets the blocks below `number`.
    pub(super) fn forget_below(&mut self, number: u64) {
        self.blocks = self.blocks.split_off(&number);
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

    fn three_blocks() -> RecentBlocks {
        let mut recent_blocks = RecentBlocks::default();
        for n in [5, 6, 8] {
            recent_blocks.add(n.into(), hash(n), [wallet(n)]);
        }
        recent_blocks
    }

    #[test]
    fn wallets_read_twice_at_a_block_are_all_remembered() {
        let mut recent_blocks = three_blocks();
        let read = recent_blocks.add(8, hash(8), [wallet(1)]);
        assert_eq!(read.wallets, BTreeSet::from([wallet(1), wallet(8)]));
        assert_eq!(recent_blocks.from(7), [read]);
    }

    #[test]
    fn what_is_above_a_fork_can_be_taken_out() {
        let mut recent_blocks = three_blocks();
        let orphaned: Vec<_> = recent_blocks.from(6).into_iter().map(|read| read.number).collect();
        assert_eq!(orphaned, [6, 8]);
        recent_blocks.forget_from(6);
        assert_eq!(recent_blocks.highest(), Some((5, hash(5))));
        assert!(recent_blocks.holds(&hash(5)) && !recent_blocks.holds(&hash(6)));
    }

    #[test]
    fn old_blocks_are_forgotten() {
        let mut recent_blocks = three_blocks();
        recent_blocks.forget_below(6);
        assert_eq!(recent_blocks.lowest(), Some(6));
        assert_eq!((recent_blocks.hash(5), recent_blocks.hash(6)), (None, Some(hash(6))));
    }
}
