//! What puts the wallets of events on the way that all commands share, from reading to recording.

use std::collections::BTreeMap;

use alloy::primitives::B256;
use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::Block;
use crate::tally::{
    Chunk, Ledger, Pages, Progress, Reader, Recorded, RunError, TotalRead, Unreadable, Wallet,
};

/// A reader that reads all at one block, by its hash.
pub(super) struct PinnedReader<'a> {
    pub(super) reader: &'a dyn Reader,
    pub(super) block: Block,
}

impl Reader for PinnedReader<'_> {
    fn read<'a>(&'a self, pages: Pages<'a>) -> BoxStream<'a, Chunk> {
        self.reader.read_block(pages, self.block.number, self.block.hash)
    }

    fn read_block<'a>(&'a self, pages: Pages<'a>, block: u64, hash: B256) -> BoxStream<'a, Chunk> {
        self.reader.read_block(pages, block, hash)
    }
}

/// A ledger that stores with each total the block of the event that asked for it.
pub(super) struct WithEvents<'a> {
    pub(super) ledger: &'a dyn Ledger,
    pub(super) events: &'a BTreeMap<Wallet, u64>,
}

#[async_trait]
impl Ledger for WithEvents<'_> {
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> Result<Recorded, RunError> {
        let event_block = |read: &TotalRead| self.events.get(&read.wallet).copied();
        let totals: Vec<_> = (totals.iter())
            .map(|read| TotalRead { event_block: event_block(read), ..read.clone() })
            .collect();
        self.ledger.record(&totals, failures).await
    }
}

/// Nobody watches a bar.
pub(super) struct Silent;

impl Progress for Silent {
    fn wallets(&self, _: u64, _: u64) {}
}
