//! Blocks: which one to read at, as chosen and as resolved, and their headers.

use std::{collections::BTreeMap, fmt, str::FromStr};

use alloy::primitives::{B256, U64};
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// The block that a read is to be made at, before it is resolved to a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockChoice {
    /// The newest block that the node has.
    #[default]
    Latest,
    /// The newest block that is unlikely to be reorganised away.
    Safe,
    /// The newest block that cannot be reorganised away.
    Finalized,
    /// This block; one far back needs an archive node.
    Number(u64),
}

/// A text that names no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("must be latest, safe, finalized or a block number")]
pub struct BlockChoiceError;

impl FromStr for BlockChoice {
    type Err = BlockChoiceError;

    fn from_str(text: &str) -> Result<Self, BlockChoiceError> {
        let number =
            |number: Result<u64, _>| number.map(Self::Number).map_err(|_| BlockChoiceError);
        match text {
            "latest" => Ok(Self::Latest),
            "safe" => Ok(Self::Safe),
            "finalized" => Ok(Self::Finalized),
            _ => match text.strip_prefix("0x") {
                Some(digits) => number(u64::from_str_radix(digits, 16)),
                None => number(text.parse()),
            },
        }
    }
}

/// As JSON-RPC writes it: a tag or a hexadecimal number.
impl fmt::Display for BlockChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Safe => f.write_str("safe"),
            Self::Finalized => f.write_str("finalized"),
            Self::Number(number) => write!(f, "{number:#x}"),
        }
    }
}

/// The block of an `eth_call`: its number, and its hash where that is known, so that a node on another fork
/// does not answer with its own block at that height (EIP-1898).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// The number.
    pub number: u64,
    /// The hash; `None` to ask by number.
    pub hash: Option<B256>,
}

impl From<u64> for BlockRef {
    fn from(number: u64) -> Self {
        Self { number, hash: None }
    }
}

impl Serialize for BlockRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.hash {
            Some(hash) => BTreeMap::from([("blockHash", hash)]).serialize(serializer),
            None => U64::from(self.number).serialize(serializer),
        }
    }
}

/// The header of a block, as far as it is needed.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The number.
    pub number: U64,
    /// The hash.
    pub hash: B256,
    /// The hash of the block before.
    pub parent_hash: B256,
    /// When the block was made, in seconds since 1970.
    pub timestamp: U64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_numbers_go_both_ways() {
        for (text, choice, wire) in [
            ("latest", BlockChoice::Latest, "latest"),
            ("safe", BlockChoice::Safe, "safe"),
            ("finalized", BlockChoice::Finalized, "finalized"),
            ("21000000", BlockChoice::Number(21_000_000), "0x1406f40"),
            ("0x10", BlockChoice::Number(16), "0x10"),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), wire);
        }
        for text in ["", "pending", "-1", "0x", "1.5"] {
            assert_eq!(text.parse::<BlockChoice>(), Err(BlockChoiceError), "{text}");
        }
    }

    #[test]
    fn a_call_names_its_block_by_hash_where_that_is_known() {
        let hash = B256::repeat_byte(1);
        let json = |at: BlockRef| serde_json::to_value(at).unwrap();
        assert_eq!(json(BlockRef::from(16)), "0x10");
        let by_hash = json(BlockRef { number: 16, hash: Some(hash) });
        assert_eq!(by_hash, serde_json::json!({ "blockHash": hash }));
    }
}
