//! The storage slot of a mapping, as a profile names it.

use std::fmt;

use alloy::{json_abi::Function, primitives::U256};
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// The slot of a `mapping(address => uint256)`: a number, or a text of `0x` and up to 64 digits for one that is larger
/// than TOML's numbers, as in storage with a namespace (ERC-7201).
pub(super) struct Slot(pub(super) U256);

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrHex).map(Self)
    }
}

struct NumberOrHex;

impl Visitor<'_> for NumberOrHex {
    type Value = U256;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the slot of a mapping, such as 0, or \"0x…\" for a large one")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<U256, E> {
        let number = u64::try_from(number);
        number.map(U256::from).map_err(|_| E::custom("slot must be at least 0"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<U256, E> {
        let digits = text.strip_prefix("0x").unwrap_or_default();
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || !(1..=64).contains(&digits.len()) {
            return Err(E::custom(format_args!(
                "slot {text:?} must be a number, or 0x and up to 64 hexadecimal digits"
            )));
        }
        U256::from_str_radix(digits, 16).map_err(E::custom)
    }
}

impl Slot {
    /// Refuses a slot for a view that cannot answer with what is stored there.
    pub(super) fn check(function: &Function, is_multicall3: bool) -> Result<(), String> {
        if is_multicall3 {
            return Err(
                "slot is for a view of a mapping, and Multicall3 has none; remove slot".into()
            );
        }
        match function.outputs.as_slice() {
            [] => Ok(()),
            [output] if output.ty.starts_with("uint") && !output.ty.contains('[') => Ok(()),
            _ => Err(format!(
                "slot is for a view that returns one uint256, which {} does not; remove slot",
                function.name
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::U256;

    use crate::profile::Profile;

    fn with_slot(slot: &str) -> Result<Profile, String> {
        let text = include_str!("audius.toml");
        let read = "function = \"balanceOf(address)\"";
        assert!(text.contains(read));
        let text = text.replacen(read, &format!("{read}\n{slot}"), 1);
        Profile::parse("p.toml", &text).map_err(|error| error.to_string())
    }

    fn slots(profile: &Profile) -> Vec<Option<U256>> {
        profile.reads.iter().map(|read| read.slot).collect()
    }

    #[test]
    fn a_slot_is_a_number_or_hexadecimal_and_part_of_no_identity() {
        let namespaced = format!("0x52{}", "0f".repeat(31));
        for (slot, expected) in [
            ("slot = 0", U256::ZERO),
            ("slot = 0x33", U256::from(51)),
            ("slot = \"0x33\"", U256::from(51)),
            (&*format!("slot = '{namespaced}'"), namespaced.parse().unwrap()),
        ] {
            let profile = with_slot(slot).unwrap();
            assert_eq!(slots(&profile), [Some(expected), None, None], "{slot}");
            assert_eq!(profile.identity(), Profile::audius().identity());
        }
        assert_eq!(slots(&Profile::audius()), [None; 3]);
    }

    #[test]
    fn what_is_no_slot_is_refused_with_its_line() {
        let line = |slot: &str| with_slot(slot).unwrap_err();
        for slot in
            ["slot = -1", "slot = 1.5", "slot = true", "slot = '51'", "slot = '0x'", "slot = [0]"]
        {
            let error = line(slot);
            assert!(
                error.starts_with("profile p.toml, line 13: ") && !error.contains('\n'),
                "{error}"
            );
        }
        assert!(line("slot = -1").ends_with("slot must be at least 0"));
        let long = format!("slot = '0x{}'", "f".repeat(65));
        assert!(line(&long).ends_with("must be a number, or 0x and up to 64 hexadecimal digits"));
        assert!(line("slot = 9223372036854775808").starts_with("profile p.toml, line 13: "));
    }

    #[test]
    fn a_view_that_cannot_answer_from_a_slot_is_refused() {
        let parse = |read: &str| {
            let text = format!(
                "name='n'\nchain_id=1\nsymbol='S'\ndecimals=0\ncheckpoint='c'\n[[read]]\n{read}\nslot=0\n"
            );
            Profile::parse("p", &text).map_err(|error| error.to_string())
        };
        let token = "contract = '0x18aaa7115705e8be94bfFebde57af9bfc265b998'".to_lowercase();
        for returned in ["", " view returns (uint256)", " returns (uint128 held)"] {
            parse(&format!("{token}\nfunction = 'balanceOf(address){returned}'")).unwrap();
        }
        for returned in ["(uint256, uint256)", "(uint256[])", "(bytes32)", "(int256)"] {
            let error =
                parse(&format!("{token}\nfunction = 'balanceOf(address) returns {returned}'"));
            let expected = "profile p, line 9: slot is for a view that returns one uint256, which balanceOf does \
                            not; remove slot";
            assert_eq!(error.unwrap_err(), expected, "{returned}");
        }
        let multicall3 = "contract = '0xca11bde05977b3631167028862be2a173976ca11'";
        let error =
            parse(&format!("{multicall3}\nfunction = 'getEthBalance(address)'")).unwrap_err();
        assert!(
            error.contains("line 9: slot is for a view of a mapping, and Multicall3 has none"),
            "{error}"
        );
    }
}
