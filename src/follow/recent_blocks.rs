//! The recent blocks, with the wallets that were read at each: what a reorganisation undoes. Of older blocks only the
//! hashes are kept, the older the fewer: they bound where the chain forked if it did deeper than that.
//!
//! Pure: blocks in, answers out.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::B256;

use super::BlockReads;
use crate::tally::Wallet;

/// How many blocks are remembered. Reorganisations are no deeper than 64; twice that leaves room
/// for a process that was away meanwhile.
pub(super) const DEPTH: u64 = 128;

/// How many older blocks are kept for each doubling of their distance.
const KEPT_PER_DOUBLING: u64 = 16;
/// How far back the oldest is.
const OLDEST: u64 = 1 << 20;

/// Blocks of one chain; not each of them, only those that something was done at.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentBlocks {
    blocks: BTreeMap<u64, (B256, BTreeSet<Wallet>)>,
    older: BTreeMap<u64, B256>,
}

impl RecentBlocks {
    /// The blocks of these reads.
    pub(super) fn of(reads: Vec<BlockReads>) -> Self {
        let blocks = reads.into_iter().map(|read| (read.number, (read.hash, read.wallets)));
        let mut recent_blocks = Self { blocks: blocks.collect(), older: BTreeMap::new() };
        if let Some((highest, _)) = recent_blocks.highest() {
            recent_blocks.age(highest.saturating_sub(DEPTH));
        }
        recent_blocks
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
        let recent = self.blocks.get(&number).map(|(hash, _)| *hash);
        recent.or_else(|| self.older.get(&number).copied())
    }

    /// Whether a block with this hash is remembered.
    pub(super) fn holds(&self, hash: &B256) -> bool {
        self.blocks.values().any(|(held, _)| held == hash)
            || self.older.values().any(|held| held == hash)
    }

    /// The lowest of the recent blocks.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.blocks.keys().next().copied()
    }

    /// The highest block that is remembered.
    pub(super) fn highest(&self) -> Option<(u64, B256)> {
        let recent = self.blocks.last_key_value().map(|(number, (hash, _))| (*number, *hash));
        recent.or_else(|| self.older.last_key_value().map(|(number, hash)| (*number, *hash)))
    }

    /// The blocks up to `number` that are remembered, oldest first.
    pub(super) fn up_to(&self, number: u64) -> Vec<(u64, B256)> {
        let older = self.older.range(..=number).map(|(number, hash)| (*number, *hash));
        let recent = self.blocks.range(..=number).map(|(number, (hash, _))| (*number, *hash));
        older.chain(recent).collect()
    }

    /// The hashes of the older blocks.
    pub(super) fn older_hashes(&self) -> Vec<B256> {
        self.older.values().copied().collect()
    }

    /// What was read at the blocks from `number` on.
    pub(super) fn from(&self, number: u64) -> Vec<BlockReads> {
        let older = self.older.range(number..).map(|(number, hash)| BlockReads {
            number: *number,
            hash: *hash,
            wallets: BTreeSet::new(),
        });
        let recent = self.blocks.range(number..).map(|(number, (hash, wallets))| BlockReads {
            number: *number,
            hash: *hash,
            wallets: wallets.clone(),
        });
        older.chain(recent).collect()
    }

    /// Forgets the blocks from `number` on.
    pub(super) fn forget_from(&mut self, number: u64) {
        self.blocks.split_off(&number);
        self.older.split_off(&number);
    }

    /// Keeps of the blocks below `number` only the hashes of some, the highest block's among them.
    pub(super) fn age(&mut self, number: u64) {
        let recent = self.blocks.split_off(&number);
        let aged = std::mem::replace(&mut self.blocks, recent);
        self.older.extend(aged.into_iter().map(|(number, (hash, _))| (number, hash)));
        let highest = self.highest().map(|(number, _)| number);
        let mut last = None;
        self.older.retain(|older, _| {
            let distance = number.saturating_add(DEPTH).saturating_sub(*older).max(1);
            // The lowest block of each part of the chain is kept, and parts only ever merge.
            let part = (1 << distance.ilog2()) / KEPT_PER_DOUBLING;
            let part = part.max(1);
            let is_first = last.replace((part, older / part)) != Some((part, older / part));
            Some(*older) == highest || distance <= OLDEST && is_first
        });
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
    fn of_old_blocks_a_few_hashes_are_kept() {
        let mut recent_blocks = three_blocks();
        recent_blocks.age(6);
        assert_eq!(recent_blocks.lowest(), Some(6));
        assert_eq!((recent_blocks.hash(5), recent_blocks.hash(6)), (Some(hash(5)), Some(hash(6))));
        assert_eq!(recent_blocks.from(5)[0].wallets, BTreeSet::new());
        assert_eq!(recent_blocks.up_to(7), [(5, hash(5)), (6, hash(6))]);

        let mut recent_blocks = RecentBlocks::default();
        let last = 3_000_000;
        // As when it catches up, and then block by block.
        for number in (0..last).step_by(997).chain(last..last + 3_000) {
            recent_blocks.add(number, B256::from(alloy::primitives::U256::from(number)), []);
            recent_blocks.age(number.saturating_sub(DEPTH));
        }
        let newest = last + 2_999;
        let kept: Vec<u64> = recent_blocks.older.keys().copied().collect();
        assert!(kept.len() <= 240, "{} are kept", kept.len());
        assert!(newest - kept[0] > OLDEST * 3 / 4, "{} is the oldest", kept[0]);
        // No gap is wider than an eighth of its distance, or than the blocks that were seen.
        for pair in kept.windows(2) {
            let gap = pair[1] - pair[0];
            assert!(gap <= ((newest - pair[0]) / 8).max(997), "{pair:?}");
        }
        // While it catches up, what was followed last is kept, however far back it is.
        let mut behind = RecentBlocks::default();
        for number in [10, 11, 12] {
            behind.add(number, hash(number as u8), []);
            behind.age(last);
            assert_eq!(behind.highest(), Some((number, hash(number as u8))));
        }
        assert_eq!(behind.older.len(), 1);
        // Restarting keeps the same.
        let reads = recent_blocks.from(0);
        let mut again = RecentBlocks::of(reads);
        again.age(newest - DEPTH);
        assert_eq!(again.older, recent_blocks.older);
    }
}
