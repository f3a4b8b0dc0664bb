//! How wallets are read, as the user set it.

use std::{fmt, num::NonZeroUsize, str::FromStr};

use clap::ValueEnum;
use thiserror::Error;

use crate::rpc::BlockChoice;

/// How wallets are read.
#[derive(Clone, Copy, Debug)]
pub struct ReaderSettings {
    /// The block to read at.
    pub block: BlockChoice,
    /// Wallets in one `eth_call`.
    pub chunk: ChunkLimit,
    /// How totals are read.
    pub method: MethodChoice,
}

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

/// How many wallets one call may be for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChunkLimit {
    /// As many as the node takes.
    #[default]
    Auto,
    /// At most this number, fewer where the node takes fewer.
    AtMost(NonZeroUsize),
}

/// A text that is not a chunk limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("must be auto or a number from 1 to {}", ChunkLimit::MOST)]
pub struct ChunkLimitError;

impl ChunkLimit {
    /// The largest number that may be given.
    const MOST: usize = 100_000;
}

impl FromStr for ChunkLimit {
    type Err = ChunkLimitError;

    fn from_str(text: &str) -> Result<Self, ChunkLimitError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= Self::MOST);
        number.map(Self::AtMost).ok_or(ChunkLimitError)
    }
}

impl fmt::Display for ChunkLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::AtMost(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_written() {
        for text in ["auto", "1", "200", "100000"] {
            assert_eq!(text.parse::<ChunkLimit>().unwrap().to_string(), text);
        }
        for text in ["", "0", "-1", "100001", "Auto", "1.5", "many"] {
            assert_eq!(text.parse::<ChunkLimit>(), Err(ChunkLimitError), "{text}");
        }
    }
}
