//! What a method to read totals is, and what its calls cost.

use std::collections::{HashSet, VecDeque};

use async_trait::async_trait;

use super::{bisect::ChunkRead, calls::Calls, settings::ChunkLimit};
use crate::{
    limit::LimitSearch,
    rpc::{Client, Endpoint, Limit},
    tally::{Reading, Total, Wallet},
};

/// Gas of the first calls, where the size is searched for: most nodes allow 50M, and some wallets take more than others.
const FIRST_GAS: usize = 44_000_000;
/// Bytes that the first calls send, at most: many gateways take twice as much, 1 MB.
const FIRST_BYTES: usize = 490_000;
/// Bytes of JSON that one call may take, there and back: larger ones are no faster.
const BYTES_IN_CALL: usize = 6_000_000;

/// One method to read totals.
#[async_trait]
pub(super) trait TotalsMethod: Send + Sync {
    /// What a wallet costs in a call.
    fn cost_of_wallet(&self) -> CallCost;

    /// The limit on the number of wallets in a call.
    fn limit(&self) -> Limit;

    /// False if this endpoint is known not to work with it.
    fn suits(&self, _endpoint: &Endpoint) -> bool {
        true
    }

    /// The endpoint that would be asked now.
    fn preferred<'a>(&self, client: &'a Client) -> &'a Endpoint {
        client.preferred_of(|endpoint| self.suits(endpoint)).unwrap_or_else(|| client.preferred())
    }

    /// Reads the totals of a chunk that is small enough for one call, as far as is known. Where that turns out to be wrong,
    /// wallets are left without a reading: they are to be read in smaller chunks.
    async fn read(&self, calls: &Calls<'_>, wallets: Vec<Wallet>) -> ChunkRead<Total>;

    /// Reads the totals of any number of wallets, in as many chunks as it takes.
    async fn read_all(&self, calls: &Calls<'_>, wallets: Vec<Wallet>) -> ChunkRead<Total> {
        let mut readings = Vec::with_capacity(wallets.len());
        let mut left = VecDeque::from(wallets);
        while !left.is_empty() && !calls.is_stopped() {
            let size = self.preferred(calls.client()).next_size(self.limit());
            let mut chunk: Vec<_> = left.drain(..size.get().min(left.len())).collect();
            let (read, error) = self.read(calls, chunk.clone()).await;
            keep_unread(&mut chunk, &read);
            readings.extend(read);
            if error.is_some() {
                return (readings, error);
            }
            left.extend(chunk);
        }
        (readings, None)
    }
}

/// What a wallet costs in a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallCost {
    /// Bytes of call data.
    pub(super) bytes_sent: usize,
    /// Bytes of the result.
    pub(super) bytes_returned: usize,
    /// Gas, about.
    pub(super) gas: usize,
}

impl CallCost {
    /// Bytes of JSON, there and back.
    pub(super) const fn json_bytes(self) -> usize {
        2 * (self.bytes_sent + self.bytes_returned)
    }

    /// Wallets in one call of a node with the usual limits: 50M gas, and bodies of 2 MB.
    pub(super) fn usual(self) -> usize {
        (50_000_000 / self.gas).min(2_000_000 / (2 * self.bytes_sent))
    }

    /// Wallets in the first calls, where the size is searched for.
    pub(super) fn first(self) -> usize {
        (FIRST_GAS / self.gas).min(FIRST_BYTES / (2 * self.bytes_sent)).max(1)
    }

    /// The most wallets in one call.
    const fn ceiling(self) -> usize {
        BYTES_IN_CALL / self.json_bytes()
    }
}

/// Takes the wallets that were read out of a chunk.
pub(super) fn keep_unread(chunk: &mut Vec<Wallet>, readings: &[Reading]) {
    if readings.len() == chunk.len() {
        chunk.clear();
    } else if !readings.is_empty() {
        let read: HashSet<_> = readings.iter().map(|(wallet, _)| wallet).collect();
        chunk.retain(|wallet| !read.contains(wallet));
    }
}

/// The search for the number of wallets in a call that costs this much for each.
pub(super) fn search(chunk: ChunkLimit, cost: CallCost) -> LimitSearch {
    match chunk {
        ChunkLimit::Auto => {
            LimitSearch::from(cost.first(), cost.ceiling()).with_usual(cost.usual())
        }
        ChunkLimit::AtMost(number) => LimitSearch::at_most(number.get()),
    }
}

/// The limit on the number of wallets in a call of the method with this name.
pub(super) fn limit(method: &'static str, chunk: ChunkLimit, cost: CallCost) -> Limit {
    let at_most = match chunk {
        ChunkLimit::Auto => None,
        ChunkLimit::AtMost(number) => Some(number.get()),
    };
    let (first, usual, ceiling) = (cost.first(), cost.usual(), cost.ceiling());
    Limit { kind: method, first, usual, ceiling, at_most }
}
