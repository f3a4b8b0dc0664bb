//! Packed calls: the code that answers comes with the call. How many wallets a request is about, and answers that are wrong in a
//! chosen way.

use alloy::primitives::hex;
use serde_json::Value;

/// Bytes of call data: the number of parts, each part, each wallet.
const COUNT: usize = 8;
const PART: usize = 24;
const WALLET: usize = 20;
/// Bytes of a word of the answer: the block's number, the chain's id, then each wallet's total.
const WORD: usize = 32;

/// How an answer to a packed call is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// The last total is one more or less.
    Total,
    /// The block is another one.
    Block,
    /// The last word is missing.
    Short,
    /// There is one word more.
    Long,
    /// The last byte is missing.
    Ragged,
    /// There is nothing at all.
    Empty,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Total, Self::Block, Self::Short, Self::Long, Self::Ragged, Self::Empty];

    /// The answer that tells it, if the true one has a word to lie about.
    pub(super) fn told_for(self, answer: &str) -> Option<String> {
        let mut bytes = hex::decode(answer).ok()?;
        let length = bytes.len();
        match self {
            Self::Total => *bytes.last_mut()? ^= 1,
            Self::Block => *bytes.get_mut(WORD - 1)? ^= 1,
            Self::Short => bytes.truncate(length.checked_sub(WORD)?),
            Self::Long => bytes.extend([0; WORD]),
            Self::Ragged => bytes.truncate(length.checked_sub(1)?),
            Self::Empty => bytes.clear(),
        }
        Some(hex::encode_prefixed(bytes))
    }
}

/// The number of wallets in this request; none if it is no `eth_call` of an address whose code it brings along.
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
    Some(bytes.checked_sub(COUNT + parts * PART)? / WALLET)
}
