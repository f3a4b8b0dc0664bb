//! Blocks: which one to read at, as chosen and as resolved, and their headers.

use std::{collections::BTreeMap, fmt, str::FromStr};

use alloy::primitives::{B256, Bloom, U64};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
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
    #[serde(deserialize_with = "in_range")]
    pub number: U64,
    /// The hash.
    pub hash: B256,
    /// The hash of the block before.
    pub parent_hash: B256,
    /// When the block was made, in seconds since 1970.
    #[serde(deserialize_with = "in_range")]
    pub timestamp: U64,
    /// Which contracts and topics its logs may have; `None` where the node does not say.
    #[serde(default)]
    pub logs_bloom: Option<Bloom>,
}

impl Header {
    /// A header that must be there.
    pub(super) fn existing(header: Option<Self>) -> Result<Self, String> {
        header.ok_or_else(|| "it has no block".to_owned())
    }

    /// A header, if there is one, of the block of this number and of no other.
    pub(super) fn numbered(number: u64) -> impl Fn(Option<Self>) -> Result<Option<Self>, String> {
        move |header| match header {
            Some(header) if header.number.to::<u64>() != number => {
                Err(format!("it gave block {} for block {number}", header.number))
            }
            header => Ok(header),
        }
    }

    /// A header, if there is one, of the block with this hash and of no other.
    pub(super) fn hashed(hash: B256) -> impl Fn(Option<Self>) -> Result<Option<Self>, String> {
        move |header| match header {
            Some(header) if header.hash != hash => {
                Err(format!("it gave block {} for block {hash}", header.hash))
            }
            header => Ok(header),
        }
    }
}

/// Reads a block's number or time, and refuses what no chain reaches and no database holds.
///
/// # Errors
/// If it is not a quantity, or exceeds 63 bits.
pub(crate) fn in_range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<U64, D::Error> {
    let number = U64::deserialize(deserializer)?;
    if i64::try_from(number.to::<u64>()).is_err() {
        return Err(D::Error::custom(format_args!("the number {number} is out of range")));
    }
    Ok(number)
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
    fn a_header_with_a_number_out_of_range_is_refused() {
        let header = |number: &str, timestamp: &str| {
            serde_json::from_value::<Header>(serde_json::json!({
                "number": number, "timestamp": timestamp,
                "hash": B256::ZERO, "parentHash": B256::ZERO,
            }))
        };
        assert_eq!(header("0x7fffffffffffffff", "0x1").unwrap().logs_bloom, None);
        for (number, timestamp) in
            [("0x8000000000000000", "0x1"), ("0x1", "0xffffffffffffffff"), ("0x1", "-0x1")]
        {
            header(number, timestamp).unwrap_err();
        }
        let error = header("0x8000000000000000", "0x1").unwrap_err();
        assert_eq!(error.to_string(), "the number 9223372036854775808 is out of range");
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
