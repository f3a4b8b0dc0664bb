//! Which block to read at, as asked for.

use std::{fmt, str::FromStr};

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
#[error("a block is latest, safe, finalized or a number")]
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
}
