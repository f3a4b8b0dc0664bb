//! Packed calls, whose code comes with the call as a state override: counts their wallets, and corrupts their results.

use alloy::primitives::{U256, hex};
use serde_json::Value;

/// Bytes of call data: the number of parts, each part, each wallet.
const COUNT: usize = 8;
const PART: usize = 24;
const WALLET: usize = 20;
/// Bytes of a word of the answer: the block's number, the chain's id, then each wallet's total.
const WORD: usize = 32;

/// A way to corrupt the result of a packed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corruption {
    /// The last total is off by one.
    Total,
    /// The block number is wrong.
    Block,
    /// The last word is missing.
    Short,
    /// There is an extra word.
    Long,
    /// The last byte is missing.
    PartialWord,
    /// The result is empty.
    Empty,
}

impl Corruption {
    /// All corruptions.
    pub const ALL: [Self; 6] =
        [Self::Total, Self::Block, Self::Short, Self::Long, Self::PartialWord, Self::Empty];

    /// The corrupted result, if the true one is long enough.
    pub(super) fn applied_to(self, answer: &str) -> Option<String> {
        let mut bytes = hex::decode(answer).ok()?;
        let length = bytes.len();
        match self {
            Self::Total => *bytes.last_mut()? ^= 1,
            Self::Block => *bytes.get_mut(WORD - 1)? ^= 1,
            Self::Short => bytes.truncate(length.checked_sub(WORD)?),
            Self::Long => bytes.extend([0; WORD]),
            Self::PartialWord => bytes.truncate(length.checked_sub(1)?),
            Self::Empty => bytes.clear(),
        }
        Some(hex::encode_prefixed(bytes))
    }
}

/// The result with this block number.
pub(super) fn with_block_number(answer: &str, number: impl Fn(U256) -> U256) -> Option<String> {
    let mut bytes = hex::decode(answer).ok()?;
    let word = bytes.get_mut(..WORD)?;
    let other = number(U256::from_be_slice(word));
    word.copy_from_slice(&other.to_be_bytes_vec());
    Some(hex::encode_prefixed(bytes))
}

/// Number of wallets in this request, if it is an `eth_call` to an address whose code it overrides.
pub(super) fn wallets(request: &Value) -> Option<usize> {
    if request["method"] != "eth_call" {
        return None;
    }
    let call = &request["params"][0];
    let to = call["to"].as_str()?;
    let mut overrides = request["params"][2].as_object()?.iter();
    overrides
        .find(|(address, state)| address.eq_ignore_ascii_case(to) && state["code"].is_string())?;
    let data = call["input"].as_str().or_else(|| call["data"].as_str())?;
    let bytes = data.strip_prefix("0x")?.len() / 2;
    let parts = usize::from_str_radix(data.get(2..2 + 2 * COUNT)?, 16).ok()?;
    Some(bytes.checked_sub(COUNT.checked_add(parts.checked_mul(PART)?)?)? / WALLET)
}
