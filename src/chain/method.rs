//! By what totals are read, and what that means for the size of a call.

use std::num::NonZeroUsize;

use clap::ValueEnum;

use super::{BlockChoice, ChunkLimit, multicall, packed, sizes::Sizes};

/// Bytes of JSON that one call may take, there and back: a larger one is no longer any faster.
const BYTES_IN_CALL: usize = 6_000_000;

/// How wallets are read.
#[derive(Clone, Copy, Debug)]
pub struct ReaderSettings {
    /// The block to read at.
    pub block: BlockChoice,
    /// Wallets in one `eth_call`.
    pub chunk: ChunkLimit,
    /// `eth_call`s in flight, at most; at least 1.
    pub concurrency: NonZeroUsize,
    /// By what.
    pub method: MethodChoice,
}

/// By what totals are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MethodChoice {
    /// The contract Multicall3; every node can
    #[default]
    Multicall3,
    /// A program given with each call, far cheaper; the node must take state overrides
    Packed,
    /// packed, once its first totals equal those of multicall3; else multicall3
    Auto,
}

/// By what one chunk is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Method {
    Multicall3,
    Packed,
}

impl Method {
    /// Bytes of JSON that a wallet takes, there and back.
    pub(super) fn bytes(self, parts: usize) -> usize {
        let bytes = match self {
            Self::Multicall3 => parts * (multicall::BYTES_ASKED + multicall::BYTES_RETURNED),
            Self::Packed => packed::BYTES_ASKED + packed::BYTES_RETURNED,
        };
        2 * bytes
    }

    /// Wallets in one call of a node with the usual limits: 50M gas, and bodies of 2 MB.
    fn usual(self, parts: usize) -> usize {
        let (gas, bytes) = match self {
            Self::Multicall3 => (7_000 * parts, parts * multicall::BYTES_ASKED),
            Self::Packed => (3_300 * parts, packed::BYTES_ASKED),
        };
        (50_000_000 / gas).min(2_000_000 / (2 * bytes))
    }

    /// The most wallets in one call.
    pub(super) fn ceiling(self, parts: usize) -> usize {
        BYTES_IN_CALL / self.bytes(parts)
    }
}

impl ReaderSettings {
    /// About how many `eth_call`s it takes to read so many wallets' totals, of so many parts, from a
    /// node with the usual limits: 50M gas in a call, and bodies of 2 MB.
    pub fn expected_calls(&self, parts: usize, wallets: u64) -> u64 {
        let calls = |method: Method, wallets| {
            let sizes = Sizes::new(self.chunk, method.ceiling(parts));
            sizes.calls_for(wallets, method.usual(parts))
        };
        let first = Sizes::new(self.chunk, Method::Packed.ceiling(parts)).next().wallets as u64;
        match self.method {
            MethodChoice::Multicall3 => calls(Method::Multicall3, wallets),
            MethodChoice::Packed => calls(Method::Packed, wallets),
            // The first chunk is read both ways.
            MethodChoice::Auto => {
                calls(Method::Packed, wallets) + calls(Method::Multicall3, first.min(wallets))
            }
        }
    }

    /// Whether that number depends on these limits.
    pub fn depends_on_limits(&self, parts: usize) -> bool {
        let usual = match self.method {
            MethodChoice::Packed => Method::Packed.usual(parts),
            MethodChoice::Multicall3 | MethodChoice::Auto => Method::Multicall3.usual(parts),
        };
        match self.chunk {
            ChunkLimit::Auto => true,
            ChunkLimit::AtMost(number) => number.get() > usual,
        }
    }
}

/// What is known of the packed reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// It may do; the first chunk tells.
    Untried,
    /// It works with this node; where there is a choice, it was seen to give what Multicall3 gives.
    Trusted,
    /// It is not used.
    Off,
}
