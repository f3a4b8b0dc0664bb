//! A range of addresses whose rows are confirmed together.

use std::{fmt, str::FromStr};

use super::{Wallet, WalletError};

/// Rows in one bucket, at most, when the number of buckets is chosen.
const ROWS: u64 = 2_000;
/// Digits of an address.
const DIGITS: usize = 40;

/// All wallets whose addresses begin with the same hexadecimal digits.
///
/// Shown as it is stored: `0x` and these digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    index: u32,
    digits: u8,
}

impl Bucket {
    /// The fewest digits that a table of so many rows needs: at least 1, at most 7.
    pub fn digits_for(rows: u64) -> u8 {
        (1..7).find(|digits| rows >> (4 * u32::from(*digits)) <= ROWS).unwrap_or(7)
    }

    /// The bucket of this many digits that holds `wallet`.
    pub fn of(wallet: Wallet, digits: u8) -> Self {
        let address = wallet.address();
        let [a, b, c, d, ..] = address.into_array();
        Self { index: u32::from_be_bytes([a, b, c, d]) >> (32 - 4 * u32::from(digits)), digits }
    }

    /// All buckets of this many digits, in order.
    pub fn all(digits: u8) -> impl Iterator<Item = Self> {
        (0..1 << (4 * u32::from(digits))).map(move |index| Self { index, digits })
    }

    /// The bucket behind this one, if it is not the last.
    pub fn next(self) -> Option<Self> {
        let index = self.index + 1;
        (index >> (4 * u32::from(self.digits)) == 0).then_some(Self { index, ..self })
    }

    /// How many digits its wallets have in common.
    pub const fn digits(self) -> u8 {
        self.digits
    }

    /// The first of these digits, 0 to 15.
    pub const fn first_digit(self) -> u8 {
        (self.index >> (4 * (self.digits as u32 - 1))) as u8
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:0digits$x}", self.index, digits = usize::from(self.digits))
    }
}

impl FromStr for Bucket {
    type Err = WalletError;

    fn from_str(text: &str) -> Result<Self, WalletError> {
        let digits = text.strip_prefix("0x").ok_or(WalletError::NoPrefix)?.len();
        let count = u8::try_from(digits).ok().filter(|digits| (1..=7).contains(digits));
        let wallet = format!("{text}{}", "0".repeat(DIGITS.saturating_sub(digits)));
        Ok(Self::of(wallet.parse()?, count.ok_or(WalletError::Length(digits))?))
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_has_buckets_of_some_hundred_to_some_thousand_rows() {
        for rows in [0, 2_000, 100_000, 3_150_000, 100_000_000, 1_000_000_000] {
            let digits = Bucket::digits_for(rows);
            assert!(rows >> (4 * digits) <= ROWS, "{rows}");
            assert!(digits == 1 || rows >> (4 * (digits - 1)) > ROWS, "{rows}");
        }
        assert_eq!(Bucket::digits_for(3_150_000), 3);
    }

    proptest! {
        #[test]
        fn every_wallet_lies_in_its_bucket_and_in_no_other(bytes: [u8; 20], digits in 1u8..=7) {
            let wallet = Wallet::from(Address::from(bytes));
            let bucket = Bucket::of(wallet, digits);
            prop_assert!(wallet.to_string().starts_with(&bucket.to_string()));
            prop_assert_eq!(bucket.to_string().parse(), Ok(bucket));
            prop_assert_eq!(u32::from(bucket.first_digit()), u32::from(bytes[0] >> 4));
        }
    }

    #[test]
    fn a_text_that_is_not_a_bucket_is_refused() {
        for text in ["", "3f", "0x", "0x12345678", "0xg"] {
            assert!(text.parse::<Bucket>().is_err(), "{text}");
        }
    }
}
