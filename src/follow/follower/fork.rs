//! Where the chain forked from the followed one, and what that undoes. A fork below all remembered blocks is assumed to be
//! deep, and every row above it is read again.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use alloy::primitives::B256;

use super::{CLOCKS, DEEPEST_REORG, Follower};
use crate::{
    follow::{Block, BlockReads, RowsAbove, WatchEvent, rereads::LONG_AGO},
    tally::RunError,
};

/// How far below the lowest block that is remembered the fork is taken to be if that one was replaced.
const UNKNOWN_DEPTH: u64 = 1_024;

impl Follower<'_> {
    /// Finds the fork between the chain of `at` and the followed one, if there is one. Returns true if `at` is to be
    /// followed: not if it is known already, or comes from a node that is behind.
    pub(super) async fn look_for_fork(&mut self, at: &Block) -> Result<bool, RunError> {
        let source = self.context.source;
        let Some(tip) = self.tip.or_else(|| self.recent_blocks.highest()) else {
            self.tip = Some((at.number, at.hash));
            return Ok(true);
        };
        let (tip, tip_hash) = tip;
        if self.is_known(at.number, at.hash) {
            return Ok(at.number >= tip);
        }
        let mut block = *at;
        if at.number > tip.saturating_add(DEEPEST_REORG) {
            // Too far to go back block by block, and no node is that far behind.
            block = self.block(tip, at.number).await?;
        } else if at.number == tip + 1 && at.parent == tip_hash {
            self.tip = Some((at.number, at.hash));
            return Ok(true);
        } else if at.number < tip
            && self.recent_blocks.hash(at.number).is_none()
            && !self.is_of_another_chain(at, (tip, tip_hash)).await?
        {
            // Nothing is known of that height. The next blocks will show what is true.
            return Ok(false);
        }
        let lowest = self.recent_blocks.lowest().unwrap_or(tip);
        while block.number > lowest && !self.is_known(block.number, block.hash) {
            block = source.parent(&block).await?;
        }
        if !self.is_known(block.number, block.hash) {
            self.deep_reorg(at, tip, lowest.min(block.number)).await?;
        } else if block.number < tip {
            let made = SystemTime::UNIX_EPOCH + Duration::from_secs(block.timestamp);
            let age = made.elapsed().unwrap_or_default().saturating_add(CLOCKS);
            self.orphan(block.number + 1, tip, &[], age).await?;
        }
        self.tip = Some((at.number, at.hash));
        Ok(true)
    }

    /// Whether `at`, a block below the tip of whose height nothing is known, is of another chain, rather than of a node
    /// that is behind.
    async fn is_of_another_chain(
        &self,
        at: &Block,
        (tip, tip_hash): (u64, B256),
    ) -> Result<bool, RunError> {
        let source = self.context.source;
        if let Some(block) = source.block(tip, at.number).await? {
            return Ok(block.hash != tip_hash);
        }
        let known = self.recent_blocks.up_to(at.number.saturating_sub(DEEPEST_REORG));
        let Some((number, hash)) = known.last() else { return Ok(false) };
        let block = source.block(*number, at.number).await?;
        Ok(block.is_some_and(|block| block.hash != *hash))
    }

    /// None of the recent blocks is on the chain of `at`, down to block `below`.
    async fn deep_reorg(&mut self, at: &Block, tip: u64, below: u64) -> Result<(), RunError> {
        let known = self.recent_blocks.up_to(below.saturating_sub(1).min(at.number));
        // All up to the fork are on the chain, and none behind it.
        let (mut on_chain, mut behind) = (0, known.len());
        while on_chain < behind {
            let middle = on_chain.midpoint(behind);
            let (number, hash) = known[middle];
            let block = self.context.source.block(number, at.number).await?;
            match block.is_some_and(|block| block.hash == hash) {
                true => on_chain = middle + 1,
                false => behind = middle,
            }
        }
        let fork = match on_chain.checked_sub(1) {
            Some(last) => known[last].0,
            None => assumed_fork(known.first().map_or(below, |(number, _)| *number), tip),
        };
        self.orphan_above(fork, tip, &[], below).await
    }

    /// All above `fork` counts as replaced, the rows of others too: no block from `below` on bounds the fork.
    async fn orphan_above(
        &mut self,
        fork: u64,
        tip: u64,
        logs: &[BlockReads],
        below: u64,
    ) -> Result<(), RunError> {
        self.context.journal.doubt(&self.settings.checkpoint, fork + 1, tip).await?;
        let pass = RowsAbove::block(fork, self.rows_above.as_ref());
        self.context.journal.keep_rows_above(&self.settings.checkpoint, Some(&pass)).await?;
        self.context.journal.unconfirm(fork + 1, u64::MAX).await?;
        self.rows_above = Some(pass);
        let deeper_than = tip.saturating_sub(below).max(1);
        self.orphan(fork + 1, tip, logs, LONG_AGO).await?;
        self.context.observer.notify(&WatchEvent::DeepReorg { fork, to: tip, deeper_than });
        Ok(())
    }

    /// Whether this block is on the chain that was followed.
    fn is_known(&self, number: u64, hash: B256) -> bool {
        self.tip == Some((number, hash)) || self.recent_blocks.hash(number) == Some(hash)
    }

    /// Handles removed logs: their blocks were replaced.
    ///
    /// # Errors
    /// When the database fails; then it can be repeated.
    pub(in crate::follow) async fn removed(&mut self, logs: &[BlockReads]) -> Result<(), RunError> {
        let is_known = |log: &&BlockReads| self.recent_blocks.hash(log.number) == Some(log.hash);
        if let Some(first) = logs.iter().filter(is_known).map(|log| log.number).min() {
            let newest = self.tip.map_or(first, |tip| tip.0);
            // Blocks before it, without logs, may be replaced too. The next block shows whether the remembered one is.
            let before = first.checked_sub(1).and_then(|last| self.recent_blocks.up_to(last).pop());
            match before {
                Some((number, _)) => self.orphan(number + 1, newest, logs, LONG_AGO).await?,
                None => self.orphan_above(assumed_fork(first, newest), newest, logs, first).await?,
            }
            self.tip = None;
        } else if let (false, Some(next)) = (logs.is_empty(), self.next) {
            // Their blocks are known to be replaced, or are not remembered: the next block shows where the
            // fork is.
            self.context.journal.orphan(&self.settings.checkpoint, logs, next).await?;
            let from = logs.iter().map(|log| log.number).min().unwrap_or(next);
            let to = logs.iter().map(|log| log.number).max().unwrap_or(next);
            self.rereads.add(logs.to_vec());
            self.rereads.search(from, to, LONG_AGO);
        }
        Ok(())
    }

    /// The blocks from `from` to `to` were replaced: what was read at them is read again, and the events of the blocks
    /// in their place are read. `logs` are of replaced blocks too. The first of the blocks was made `age` ago.
    async fn orphan(
        &mut self,
        from: u64,
        to: u64,
        logs: &[BlockReads],
        age: Duration,
    ) -> Result<(), RunError> {
        let mut orphaned = self.recent_blocks.from(from);
        for log in logs {
            match orphaned.iter_mut().find(|read| read.hash == log.hash) {
                Some(read) => read.wallets.extend(&log.wallets),
                None => orphaned.push(log.clone()),
            }
        }
        self.context.journal.orphan(&self.settings.checkpoint, &orphaned, from).await?;
        self.recent_blocks.forget_from(from);
        let to = orphaned.iter().map(|read| read.number).fold(to, u64::max);
        let wallets: BTreeSet<_> = orphaned.iter().flat_map(|read| &read.wallets).collect();
        self.context.observer.notify(&WatchEvent::Reorg {
            from,
            to,
            wallets: wallets.len() as u64,
        });
        self.rereads.add(orphaned);
        self.rereads.search(from, to, age);
        self.next = self.next.map(|next| next.min(from));
        Ok(())
    }
}

/// Where the fork is taken to be if `lowest`, the lowest block that is remembered, was replaced: as deep again as is
/// known, and deeper than any reorganisation that was ever seen.
fn assumed_fork(lowest: u64, tip: u64) -> u64 {
    lowest.saturating_sub(UNKNOWN_DEPTH.max(tip.saturating_sub(lowest)))
}
