//! The methods to read totals: what one is, which one is used, and what its calls cost.

use alloy::primitives::U256;
use async_trait::async_trait;
use clap::ValueEnum;

use super::{
    bisect::{Calls, ChunkRead},
    multicall::Multicall3,
    packed::Packed,
    settings::{ChunkLimit, ReaderSettings},
};
use crate::{limit::LimitSearch, rpc::Limit, tally::Wallet};

/// Wallets in the first call, where the size is searched for.
const FIRST: usize = 200;
/// Bytes of JSON that one call may take, there and back: larger ones are no faster.
const BYTES_IN_CALL: usize = 6_000_000;

/// How totals are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MethodChoice {
    /// The Multicall3 contract; works with every node
    #[default]
    Multicall3,
    /// A program sent with each call, far cheaper; needs a node that takes state overrides
    Packed,
    /// packed, once its first totals equal those of multicall3; otherwise multicall3
    Auto,
}

/// One method to read totals.
#[async_trait]
pub(super) trait TotalsMethod: Send + Sync {
    /// What a wallet costs in a call.
    fn cost_of_wallet(&self) -> CallCost;

    /// The limit on the number of wallets in a call.
    fn limit(&self) -> Limit;

    /// Reads the totals of a chunk that is small enough for one call, as far as is known.
    async fn read(&self, calls: &Calls<'_>, wallets: Vec<Wallet>) -> ChunkRead<U256>;
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
    fn usual(self) -> usize {
        (50_000_000 / self.gas).min(2_000_000 / (2 * self.bytes_sent))
    }

    /// The most wallets in one call.
    const fn ceiling(self) -> usize {
        BYTES_IN_CALL / self.json_bytes()
    }
}

/// The limit on the number of wallets in a call of the method with this name.
pub(super) fn limit(method: &'static str, chunk: ChunkLimit, cost: CallCost) -> Limit {
    let at_most = match chunk {
        ChunkLimit::Auto => None,
        ChunkLimit::AtMost(number) => Some(number.get()),
    };
    Limit { kind: method, first: FIRST, ceiling: cost.ceiling(), at_most }
}

impl ReaderSettings {
    /// About how many `eth_call`s it takes to read so many wallets' totals, of so many parts, from a
    /// node with the usual limits: 50M gas in a call, and bodies of 2 MB.
    pub fn expected_calls(&self, parts: usize, wallets: u64) -> u64 {
        let search = |cost: CallCost| match self.chunk {
            ChunkLimit::Auto => LimitSearch::from(FIRST, cost.ceiling()),
            ChunkLimit::AtMost(number) => LimitSearch::at_most(number.get()),
        };
        let calls = |cost: CallCost, wallets| search(cost).requests_for(wallets, cost.usual());
        let (multicall3, packed) = (Multicall3::cost(parts), Packed::cost(parts));
        match self.method {
            MethodChoice::Multicall3 => calls(multicall3, wallets),
            MethodChoice::Packed => calls(packed, wallets),
            // The first chunk is read by both methods.
            MethodChoice::Auto => {
                let first = search(packed).next_size().len as u64;
                calls(packed, wallets) + calls(multicall3, first.min(wallets))
            }
        }
    }

    /// Whether that number depends on these limits.
    pub fn depends_on_limits(&self, parts: usize) -> bool {
        let cost = match self.method {
            MethodChoice::Packed => Packed::cost(parts),
            MethodChoice::Multicall3 | MethodChoice::Auto => Multicall3::cost(parts),
        };
        match self.chunk {
            ChunkLimit::Auto => true,
            ChunkLimit::AtMost(number) => number.get() > cost.usual(),
        }
    }
}
