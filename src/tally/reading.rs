//! What a read gives, and the two sides that the core works between.

use alloy::primitives::{B256, U256};
use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::Wallet;

/// A total as it was read: the sum of every part, in wei, at one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TotalRead {
    /// Whose total it is.
    pub wallet: Wallet,
    /// The total in wei.
    pub total: U256,
    /// The block at which every part was read.
    pub read_block: u64,
    /// The block of the event that asked for this read; `None` for a read that no event asked for.
    pub event_block: Option<u64>,
}

/// A wallet of which a part could not be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The wallet.
    pub wallet: Wallet,
    /// The reason, one line.
    pub reason: String,
}

/// The outcome for one wallet: its total in wei, or why it has none.
pub type Reading = (Wallet, Result<U256, String>);

/// How many rows a write changed, and how many it left because they were read later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Rows written.
    pub updated: u64,
    /// Rows that hold a newer read already and were left alone.
    pub superseded: u64,
}

/// The node, as the core sees it.
#[async_trait]
pub trait Reader: Send + Sync {
    /// The number of the block at which the next batch is to be read.
    ///
    /// # Errors
    /// When no endpoint can say.
    async fn pin(&self) -> anyhow::Result<u64>;

    /// Reads these wallets at `block`, chunk by chunk as the answers come, in no order.
    ///
    /// A wallet that cannot be read is a [`Reading`] with a reason. An error means that the
    /// node failed: its wallets are neither read nor unreadable. Chunks that were not begun when
    /// a stop was asked for are left out.
    fn read(&self, wallets: Vec<Wallet>, block: u64)
    -> BoxStream<'_, anyhow::Result<Vec<Reading>>>;

    /// The same at the block of this number that has this hash, where the node can tell them apart:
    /// on another fork it is another block.
    fn read_block(
        &self,
        wallets: Vec<Wallet>,
        block: u64,
        hash: B256,
    ) -> BoxStream<'_, anyhow::Result<Vec<Reading>>>;
}

/// The database, as the core sees it.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Stores a batch in one transaction: every total, and every failure.
    ///
    /// A total takes its wallet's failure off the record. A total whose `read_block` is older than
    /// the stored one changes nothing and counts as superseded. `blocknumber` only ever rises: to
    /// the block of the event that asked for a read, also where another read superseded that.
    ///
    /// # Errors
    /// When the database fails; then nothing of the batch is stored.
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> anyhow::Result<Recorded>;
}
