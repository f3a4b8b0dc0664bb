//! The method that reads totals through Multicall3: works with every node that has the contract.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    aggregate3::{Aggregator, BYTES_OF_WORD, Parts, Totals},
    bisect::ChunkRead,
    calls::Calls,
    method::{CallCost, TotalsMethod, limit},
    settings::ChunkLimit,
};
use crate::{
    rpc::Limit,
    tally::{Total, Wallet},
};

/// Reads totals through Multicall3.
pub(super) struct Multicall3 {
    aggregator: Aggregator,
    totals: Arc<Totals>,
}

impl Multicall3 {
    /// Reads these totals.
    pub(super) const fn new(aggregator: Aggregator, totals: Arc<Totals>) -> Self {
        Self { aggregator, totals }
    }

    /// The totals of these parts, and how many wallets are asked about in a call.
    pub(super) fn totals(parts: Parts, chunk: ChunkLimit) -> Totals {
        let limit = limit("multicall3", chunk, Self::cost(parts.views().len()));
        Totals { parts, limit }
    }

    /// What a wallet with this number of parts costs in a call.
    pub(super) const fn cost(parts: usize) -> CallCost {
        // A sub-call takes its place, target, flag and data, and gives back its place, success and result.
        CallCost {
            bytes_sent: 224 * parts,
            bytes_returned: BYTES_OF_WORD * parts,
            gas: 7_000 * parts,
        }
    }
}

#[async_trait]
impl TotalsMethod for Multicall3 {
    fn cost_of_wallet(&self) -> CallCost {
        Self::cost(self.totals.parts.views().len())
    }

    fn limit(&self) -> Limit {
        self.totals.limit
    }

    async fn read(&self, calls: &Calls<'_>, wallets: Vec<Wallet>) -> ChunkRead<Total> {
        calls.ask(&self.aggregator, self.totals.as_ref(), wallets).await
    }
}
