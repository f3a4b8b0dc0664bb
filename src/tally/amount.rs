//! Amounts for people: the token's unit with grouped digits beside the exact wei.

use std::fmt;

use alloy::primitives::{U256, utils::format_units};

/// An amount in wei, shown as `1,234.5 AUDIO (1234500000000000000000 wei)`.
///
/// No digit is rounded away: every digit after the point is shown, without
/// trailing zeros.
#[derive(Clone, Copy, Debug)]
pub struct Amount<'a> {
    /// The amount in the token's smallest unit.
    pub wei: U256,
    /// How many decimal digits the token's unit has, at most 77.
    pub decimals: u8,
    /// The token's symbol.
    pub symbol: &'a str,
}

impl fmt::Display for Amount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format_units(self.wei, self.decimals).map_err(|_| fmt::Error)?;
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{}{point}{fraction} {} ({} wei)", grouped(whole), self.symbol, self.wei)
    }
}

/// Decimal digits with a comma between each three.
fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(wei: U256, decimals: u8) -> String {
        Amount { wei, decimals, symbol: "AUDIO" }.to_string()
    }

    #[test]
    fn the_staking_contracts_own_row_reads_well() {
        let wei = "247024527620589302425363078".parse().unwrap();
        assert_eq!(
            shown(wei, 18),
            "247,024,527.620589302425363078 AUDIO (247024527620589302425363078 wei)"
        );
    }

    #[test]
    fn edges() {
        assert_eq!(shown(U256::ZERO, 18), "0 AUDIO (0 wei)");
        assert_eq!(shown(U256::from(1), 18), "0.000000000000000001 AUDIO (1 wei)");
        assert_eq!(shown(U256::from(1000), 0), "1,000 AUDIO (1000 wei)");
        assert!(shown(U256::MAX, 77).starts_with("1.15792089237316195423570985008687907853"));
    }

    proptest! {
        #[test]
        fn taking_the_commas_and_the_point_out_gives_the_wei_back(limbs: [u64; 4], decimals in 0u8..=77) {
            let wei = U256::from_limbs(limbs);
            let text = shown(wei, decimals);
            let unit = text.split(' ').next().unwrap().replace(',', "");
            let (whole, fraction) = unit.split_once('.').unwrap_or((&unit, ""));
            let digits = format!("{whole}{fraction:0<width$}", width = usize::from(decimals));
            prop_assert_eq!(digits.parse::<U256>().unwrap(), wei);
        }
    }
}
