//! A part of all wallets, by address range, for runs that share the work.

use std::{fmt, str::FromStr};

use alloy::primitives::{Address, U256, uint};
use thiserror::Error;

use super::Wallet;

/// Shard `index` of `count`: an equal range of the address space.
///
/// Addresses are hashes, so equal ranges hold nearly equal numbers of wallets.
/// The ranges of all shards cover every address once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

/// Why a text is not a shard.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ShardError {
    /// Not of the form `I/N`.
    #[error("write I/N, such as 0/4")]
    Form,
    /// I is not below N, or N is zero.
    #[error("I must be less than N; the first part is 0/{1}")]
    Range(u32, u32),
}

impl Shard {
    /// All wallets: the one shard of one.
    pub const ALL: Self = Self { index: 0, count: 1 };

    /// Shard `index` of `count`.
    ///
    /// # Errors
    /// [`ShardError::Range`] unless `index < count`.
    pub fn new(index: u32, count: u32) -> Result<Self, ShardError> {
        if index < count { Ok(Self { index, count }) } else { Err(ShardError::Range(index, count)) }
    }

    /// The first wallet of the shard, and the first one behind it (`None` for the last shard).
    pub fn bounds(self) -> (Wallet, Option<Wallet>) {
        let end = self.index + 1;
        (self.boundary(self.index), (end < self.count).then(|| self.boundary(end)))
    }

    /// The lowest address of shard `index`: 2^160 · index / count.
    fn boundary(self, index: u32) -> Wallet {
        const ADDRESSES: U256 = uint!(0x10000000000000000000000000000000000000000_U256);
        let address = ADDRESSES * U256::from(index) / U256::from(self.count);
        Wallet::from(Address::from_word(address.into()))
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let (index, count) = text.split_once('/').ok_or(ShardError::Form)?;
        let number = |text: &str| text.parse().map_err(|_| ShardError::Form);
        Self::new(number(index)?, number(count)?)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_that_is_not_a_shard_is_refused() {
        for text in ["", "1", "1/", "/4", "a/4", "-1/4", "1/4/2"] {
            assert_eq!(text.parse::<Shard>(), Err(ShardError::Form), "{text}");
        }
        assert_eq!("4/4".parse::<Shard>(), Err(ShardError::Range(4, 4)));
        assert_eq!("0/0".parse::<Shard>(), Err(ShardError::Range(0, 0)));
    }

    proptest! {
        #[test]
        fn every_wallet_lies_in_exactly_one_shard(bytes: [u8; 20], count in 1u32..300) {
            let wallet = Wallet::from(Address::from(bytes));
            let holding = (0..count)
                .map(|index| Shard::new(index, count).unwrap().bounds())
                .filter(|(first, behind)| {
                    wallet >= *first && behind.is_none_or(|behind| wallet < behind)
                })
                .count();
            prop_assert_eq!(holding, 1);
        }
    }
}
