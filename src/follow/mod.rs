//! Following the chain: new blocks, replaced blocks, and the wallets that they affect.
//!
//! A [`Signal`] only says that something may have happened. [`Watcher`] then takes the [`Follower`]
//! to the newest block, step by step: the events of the blocks that were not seen yet become a set
//! of wallets, these are read and recorded, and only then the checkpoint moves.
//!
//! No I/O of its own: it speaks to the node through [`Source`] and [`crate::tally::Reader`], to the
//! database through [`Journal`] and [`crate::tally::Ledger`].

mod adapters;
mod backoff;
mod event;
mod follower;
mod one_run;
mod pending;
mod recent_blocks;
mod rereads;
mod rows_above;
mod signals;
mod watcher;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use alloy::primitives::{B256, Bloom};
use async_trait::async_trait;

pub use backoff::Backoff;
pub use event::{FilledGap, Head, Observer, Stored, Transport, WatchEvent};
pub use follower::{Context, Follower, FollowerSettings, Step, Track};
pub use one_run::OneRun;
pub use signals::{SignalReceiver, SignalSender, signals};
pub use watcher::{WatchEnd, Watcher};

use crate::tally::{RunError, Wallet};

/// A block, as far as following the chain needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// The hash of the block before it.
    pub parent: B256,
    /// When it was made, in seconds since 1970.
    pub timestamp: u64,
    /// Which contracts and topics its logs may have; `None` where the node does not say.
    pub logs_bloom: Option<Bloom>,
}

impl Block {
    /// Whether this block, announced after `last`, says that `last` was replaced.
    fn replaces(&self, last: &Self) -> bool {
        match self.number.checked_sub(last.number) {
            None => true,
            Some(0) => self.hash != last.hash,
            Some(1) => self.parent != last.hash,
            Some(_) => false,
        }
    }
}

/// What the events of some blocks changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AffectedWallets {
    /// How many logs there were.
    pub logs: u64,
    /// The wallets whose totals they changed, each with the newest block of an event for it.
    pub wallets: BTreeMap<Wallet, u64>,
    /// The newest block of an event whose list of members could not be read: of whom it changed the totals is not known.
    pub unlisted: Option<u64>,
}

/// Wallets that were read at a block: if it is replaced, they are read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockReads {
    /// The block's number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// The wallets.
    pub wallets: BTreeSet<Wallet>,
}

/// The node, as the follower sees it. Errors mean that the node failed.
#[async_trait]
pub trait Source: Send + Sync {
    /// The newest block.
    async fn newest(&self) -> Result<Block, RunError>;

    /// The block of this number, if there is one, from a node that has the block `seen` too: one
    /// that lags behind may still have another block in its place.
    async fn block(&self, number: u64, seen: u64) -> Result<Option<Block>, RunError>;

    /// The block before this one.
    async fn parent(&self, block: &Block) -> Result<Block, RunError>;

    /// What the events in the blocks from `from` to `to` changed, both included. Who belongs to a
    /// wallet is asked for at block `at`, which is not older than `to`.
    async fn affected(
        &self,
        from: u64,
        to: &Block,
        at: &Block,
    ) -> Result<AffectedWallets, RunError>;

    /// Tries endpoints again that were given up.
    fn revive(&self);
}

/// Rows that are read again, as their total was read above a fork that is older than the blocks that are remembered.
/// They are passed through in the order of their wallets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsAbove {
    /// Rows that were read above this block are read again.
    pub block: u64,
    /// The last wallet that was passed.
    pub after: Option<Wallet>,
    /// The pass waits until the chain has reached this block.
    pub wait_for: u64,
    /// The lowest block at which this pass has read, and the highest at which a row was read that it could not overwrite.
    pub left: Option<(u64, u64)>,
}

/// How far the chain was followed, as the database keeps it. Errors mean that it failed.
#[async_trait]
pub trait Journal: Send + Sync {
    /// The last block whose wallets have been stored.
    async fn last_block(&self, checkpoint: &str) -> Result<Option<i64>, RunError>;

    /// What was read at the blocks that are remembered.
    async fn reads(&self, checkpoint: &str) -> Result<RecentReads, RunError>;

    /// Remembers, before it is done, that these wallets are read at this block.
    async fn begin_reads(&self, checkpoint: &str, read: &BlockReads) -> Result<(), RunError>;

    /// Remembers that these blocks were replaced, and the first block whose events are read again.
    async fn orphan(
        &self,
        checkpoint: &str,
        blocks: &[BlockReads],
        from: u64,
    ) -> Result<(), RunError>;

    /// Moves the checkpoint, never back, and remembers and forgets blocks; all of it or nothing. Returns the wallets of
    /// [`CoverageUpdate::unknown`] that have a row by now: if there are any, nothing was done.
    async fn advance(
        &self,
        checkpoint: &str,
        progress: &CheckpointUpdate,
    ) -> Result<HashSet<Wallet>, RunError>;

    /// Remembers that the blocks from `from` to `to` were replaced: until [`CoverageUpdate::settled`], no row that was read
    /// at one of them, or above, counts as covered.
    async fn doubt(&self, checkpoint: &str, from: u64, to: u64) -> Result<(), RunError>;

    /// The wallets behind `after`, in order, whose totals were read above this block, each with the block of its read.
    async fn rows_above(
        &self,
        block: u64,
        after: Option<Wallet>,
        limit: usize,
    ) -> Result<Vec<(Wallet, u64)>, RunError>;

    /// Remembers which rows are read again; with `None`, that it is done.
    async fn keep_rows_above(
        &self,
        checkpoint: &str,
        rows: Option<&RowsAbove>,
    ) -> Result<(), RunError>;

    /// The wallets whose totals were read at one of the blocks from `from` to `to` and written lately, each with the block
    /// of its read.
    async fn rows_read_at(
        &self,
        from: u64,
        to: u64,
        within: Duration,
    ) -> Result<Vec<(Wallet, u64)>, RunError>;

    /// Takes back what confirms rows at one of the blocks from `from` to `to`, which were replaced: each row is as old again
    /// as its own read.
    async fn unconfirm(&self, from: u64, to: u64) -> Result<(), RunError>;

    /// Those of `wallets` that have a row.
    async fn known(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError>;
}

/// What was read at recent blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentReads {
    /// Blocks that were on the chain when last seen.
    pub on_chain: Vec<BlockReads>,
    /// Replaced blocks.
    pub orphaned: Vec<OrphanedBlock>,
    /// Rows that are being read again, page by page.
    pub rows_above: Option<RowsAbove>,
    /// Replaced blocks at which rows may have been read that were not read again yet.
    pub doubt: Option<Doubt>,
}

/// Replaced blocks at which others may have read rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
    /// How long ago the last replacement was noticed.
    pub age: Duration,
}

/// A block that a reorganisation replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrphanedBlock {
    /// What was read at it.
    pub read: BlockReads,
    /// The first block whose events are read again; `None` if that is done and its wallets were read again once.
    pub from: Option<u64>,
}

/// How far the follower has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointUpdate {
    /// The last block whose wallets have been stored.
    pub last_block: u64,
    /// That block's hash; `None` where the checkpoint stands in front of the first block to follow.
    pub hash: Option<B256>,
    /// Blocks below this number are forgotten, and what was read at them.
    pub forget_below: u64,
    /// Of these blocks only what was read at them is forgotten.
    pub keep: Vec<B256>,
    /// Replaced blocks: the events of those in their place are read, and their wallets were read again once.
    pub redone: Vec<B256>,
    /// Replaced blocks to forget.
    pub forget: Vec<B256>,
    /// What it means for the rows that count as covered.
    pub coverage: CoverageUpdate,
}

/// What following some blocks means for the rows that count as covered: those that are right up to the checkpoint, as they
/// were read since the events are followed without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoverageUpdate {
    /// The events that are followed, as a text. After other events, following begins anew.
    pub events: String,
    /// Wallets that were to be read and could not be, each with the block at which its row has to be read, or later.
    pub unread: BTreeMap<Wallet, u64>,
    /// The newest block of an event of which it is not known whose totals it changed.
    pub unlisted: Option<u64>,
    /// Wallets with an event that were not read, as they have no row.
    pub unknown: BTreeSet<Wallet>,
    /// True if every row that was read at a replaced block has been read again.
    pub settled: bool,
}

/// A hint that there may be something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A new block; every one is announced.
    Head(Block),
    /// The newest block, whatever came before it.
    Newest(Block),
    /// Something happened in a block that was not announced yet.
    Hint,
    /// Blocks may have come that are not announced, as after a new connection.
    Missed,
    /// A log was removed, as its block was replaced.
    Removed(BlockReads),
    /// Signals were dropped, as too many came at once: blocks may have come that are not announced.
    Lost {
        /// The first and the last block that they said was replaced.
        replaced: Option<(u64, u64)>,
    },
}

#[cfg(test)]
mod tests;
