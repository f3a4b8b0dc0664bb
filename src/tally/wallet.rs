//! A wallet's address, checked when it is parsed.

use std::{fmt, str::FromStr};

use alloy::primitives::{Address, hex};
use serde::{Serialize, Serializer};
use thiserror::Error;

/// The address of a wallet: 20 bytes, shown in lower case as it is stored.
///
/// Parsed from `0x` and 40 hexadecimal digits. All lower case and all upper
/// case are taken as they are; in mixed case the EIP-55 checksum must be right.
///
/// Source: <https://eips.ethereum.org/EIPS/eip-55>
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wallet(Address);

/// Why a text is not a wallet address: what it does or has, without a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WalletError {
    /// No text at all.
    #[error("is empty")]
    Empty,
    /// No `0x` in front.
    #[error("does not start with 0x")]
    NoPrefix,
    /// Not 40 digits, but this many.
    #[error("has {0} digits after 0x, not 40")]
    Length(usize),
    /// A character that is not a hexadecimal digit.
    #[error("has a character that is not a hexadecimal digit")]
    NotHexadecimal,
    /// Mixed case with a wrong EIP-55 checksum.
    #[error("has a wrong EIP-55 checksum; check it for typing errors, or write it in lower case")]
    Checksum,
}

impl Wallet {
    /// The address in alloy's type.
    pub const fn address(self) -> Address {
        self.0
    }
}

impl From<Address> for Wallet {
    fn from(address: Address) -> Self {
        Self(address)
    }
}

impl FromStr for Wallet {
    type Err = WalletError;

    fn from_str(text: &str) -> Result<Self, WalletError> {
        if text.is_empty() {
            return Err(WalletError::Empty);
        }
        let digits = text.strip_prefix("0x").ok_or(WalletError::NoPrefix)?;
        let mut address = Address::ZERO;
        if digits.len() != 40 || hex::decode_to_slice(digits, address.as_mut_slice()).is_err() {
            return Err(match digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                true => WalletError::Length(digits.len()),
                false => WalletError::NotHexadecimal,
            });
        }
        // Millions are parsed in a snapshot: a pass over all digits, which does not end early, is the quickest.
        let has_letter_from =
            |a: u8| digits.bytes().fold(false, |found, byte| found | (byte.wrapping_sub(a) < 6));
        if has_letter_from(b'A') && has_letter_from(b'a') {
            Address::parse_checksummed(text, None).map_err(|_| WalletError::Checksum)?;
        }
        Ok(Self(address))
    }
}

impl fmt::Display for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Millions are written in a sweep: quicker than by the formatter's own way.
        f.pad(hex::Buffer::<20, true>::new().format(self.0.as_ref()))
    }
}

impl Serialize for Wallet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_of_bad_address_has_its_own_error() {
        let cases = [
            ("", WalletError::Empty),
            ("18aaa7115705e8be94bffebde57af9bfc265b998", WalletError::NoPrefix),
            ("0x18aaa7115705e8be94bffebde57af9bfc265b9", WalletError::Length(38)),
            ("0x18aaa7115705e8be94bffebde57af9bfc265b99g", WalletError::NotHexadecimal),
            ("0x18aAA7115705e8be94bfFEBDE57Af9BFc265B999", WalletError::Checksum),
            ("0x18aAA7115705e8be94bfFEBDE57Af9BFc265b998", WalletError::Checksum),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Wallet>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_address_is_read_in_every_spelling_and_shown_in_lower_case(bytes: [u8; 20]) {
            let address = Address::from(bytes);
            let lower = format!("{address:#x}");
            for spelling in [lower.clone(), address.to_checksum(None), format!("0x{:X}", address)] {
                prop_assert_eq!(spelling.parse::<Wallet>().unwrap().to_string(), lower.clone());
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = text.parse::<Wallet>();
        }

        #[test]
        fn one_flipped_case_is_refused(bytes: [u8; 20], at in 2usize..42) {
            let mut text = Address::from(bytes).to_checksum(None).into_bytes();
            prop_assume!(text[at].is_ascii_alphabetic());
            text[at] ^= 0x20;
            let text = String::from_utf8(text).unwrap();
            let digits = &text[2..];
            let one_case = !digits.bytes().any(|b| b.is_ascii_lowercase())
                || !digits.bytes().any(|b| b.is_ascii_uppercase());
            prop_assume!(!one_case);
            prop_assert_eq!(text.parse::<Wallet>(), Err(WalletError::Checksum));
        }
    }
}
