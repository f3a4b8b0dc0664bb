//! Loads a profile, built in or from a file, and names the line of a mistake.

use std::{fs, ops::Range, path::Path};

use thiserror::Error;

use super::{document::Document, model::Profile};

/// Why a profile is refused.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("profile {path}: cannot be read; --profile takes the path of a TOML file")]
    Read {
        /// The path as given.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The text is not a profile.
    #[error("profile {origin}, line {line}: {message}")]
    Invalid {
        /// The path, or the name of a built-in profile.
        origin: String,
        /// The line of the mistake, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
}

impl Profile {
    /// The built-in profile: total AUDIO.
    ///
    /// # Panics
    /// Never: a test parses it.
    pub fn audius() -> Self {
        Self::parse("audius (built in)", include_str!("audius.toml"))
            .expect("the built-in profile parses")
    }

    /// Reads a profile from a file.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a profile; the error names the line.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let origin = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|source| ProfileError::Read { path: origin.clone(), source })?;
        Self::parse(&origin, &text)
    }

    /// Parses a profile; errors name `origin`.
    ///
    /// # Errors
    /// [`ProfileError::Invalid`] with the line and what is wrong there.
    pub fn parse(origin: &str, text: &str) -> Result<Self, ProfileError> {
        let invalid = |span: Option<Range<usize>>, message: &str| {
            let before = &text[..span.map_or(0, |span| span.start.min(text.len()))];
            ProfileError::Invalid {
                origin: origin.to_owned(),
                line: before.matches('\n').count() + 1,
                message: message.trim().replace('\n', " "),
            }
        };
        let document: Document =
            toml::from_str(text).map_err(|error| invalid(error.span(), error.message()))?;
        document.check().map_err(|(span, message)| invalid(Some(span), &message))?;
        Ok(document.into_profile(text))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use alloy::primitives::{Address, hex};

    use super::*;
    use crate::profile::MULTICALL3;

    #[test]
    fn the_built_in_profile_holds_the_selectors_and_events_of_audius() {
        let profile = Profile::audius();
        let selectors: Vec<_> =
            profile.reads.iter().map(|read| hex::encode(read.view.function.selector())).collect();
        assert_eq!(selectors, ["70a08231", "4b341aed", "b0303b75"]);
        assert_eq!(profile.part_names(), ["balanceOf", "totalStakedFor", "getTotalDelegatorStake"]);
        assert_eq!(profile.events.len(), 9);
        assert_eq!(
            hex::encode(profile.events[0].event.selector()),
            "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
        );
    }

    /// The built-in text with one piece replaced, parsed.
    fn broken(from: &str, to: &str) -> String {
        let text = include_str!("audius.toml");
        assert!(text.contains(from), "{from}");
        Profile::parse("p.toml", &text.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_refused_with_their_line() {
        let cases = [
            (
                "0x18aAA7",
                "0x18aaA7",
                "profile p.toml, line 11: contract \"0x18aaA7115705e8be94bfFEBDE57Af9BFc265B998\" has a wrong EIP-55 checksum",
            ),
            ("chain_id = 1", "chain_id = one", "profile p.toml, line 3: "),
            (
                "decimals = 18",
                "decimals = 18\nmax_head_age = \"ten\"",
                "line 6: max_head_age \"ten\" is not a time; write one such as 10m, or \"off\"",
            ),
            ("decimals = 18", "decimals = 18\nmulticall3 = \"0x1\"", "line 6: contract \"0x1\" "),
            ("symbol", "smybol", "profile p.toml, line 4: unknown field `smybol`"),
            (
                "decimals = 18",
                "decimals = 78",
                "profile p.toml, line 5: decimals must be at most 77",
            ),
            (
                "balanceOf(address)",
                "balanceOf(",
                "profile p.toml, line 12: \"balanceOf(\" is not a function signature",
            ),
            (
                "balanceOf(address)",
                "totalSupply()",
                "profile p.toml, line 12: function \"totalSupply()\" must have one parameter, an address",
            ),
            (
                "\"from\", \"to\"",
                "\"from\", \"too\"",
                "profile p.toml, line 28: event Transfer has no parameter \"too\"; use from or to",
            ),
            (
                "\"from\", \"to\"",
                "\"value\"",
                "profile p.toml, line 28: parameter \"value\" of event Transfer is not indexed; use from or to",
            ),
            (
                "of = \"claimer\"",
                "of = \"rewards\"",
                "parameter \"rewards\" of event Claim is not an address; use claimer",
            ),
            (
                "uint256 value)\"",
                "uint256 value) anonymous\"",
                "profile p.toml, line 27: event \"Transfer(address indexed from, address indexed to, uint256 value) anonymous\" is anonymous",
            ),
            ("wallets = [\"user\"]", "wallets = []", "line 33: wallets is empty; use user"),
            ("decimals", "events = \"some\"\ndecimals", "line 5: events can only be \"none\""),
            ("decimals", "events = []\ndecimals", "line 5: events can only be \"none\""),
            (
                "decimals",
                "events = \"none\"\ndecimals",
                "line 5: events is \"none\", but there is an [[event]]; remove one of them",
            ),
            (
                "function = \"balanceOf(address)\"",
                "function = \"balanceOf(address)\"\ncolumn = \"balance\"",
                "profile p.toml, line 13: column \"balance\" has another meaning in the table",
            ),
        ];
        for (from, to, expected) in cases {
            let error = broken(from, to);
            assert!(error.contains(expected), "{from} -> {to}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_duplicate_read_is_refused() {
        let text = include_str!("audius.toml");
        let first = "\n[[read]]\ncontract = \"0x18aaa7115705e8be94bffebde57af9bfc265b998\"\n\
                     function = \"balanceOf(address)\"\n";
        let error = Profile::parse("p", &format!("{text}{first}")).unwrap_err().to_string();
        assert!(error.contains("this [[read]] is a duplicate"), "{error}");
        assert!(
            error.starts_with(&format!("profile p, line {}", text.lines().count() + 2)),
            "{error}"
        );
    }

    #[test]
    fn keys_that_may_be_left_out_have_a_default_and_a_word_for_none() {
        let profile = |keys: &str| {
            let text =
                include_str!("audius.toml").replacen("decimals", &format!("{keys}\ndecimals"), 1);
            Profile::parse("p", &text).unwrap()
        };
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        let usual = profile("");
        assert_eq!((usual.multicall3, usual.max_head_age), (Some(MULTICALL3), minutes(10)));
        let none = profile("multicall3 = 'none'\nmax_head_age = 'off'");
        assert_eq!((none.multicall3, none.max_head_age), (None, None));
        let own = profile(&format!("multicall3 = '0x{}'\nmax_head_age = '2h'", "ab".repeat(20)));
        let address = Address::repeat_byte(0xab);
        assert_eq!((own.multicall3, own.max_head_age), (Some(address), minutes(120)));
    }

    #[test]
    fn a_total_needs_a_read() {
        let text = "name='n'\nchain_id=1\nsymbol='S'\ndecimals=0\ncheckpoint='c'\nread = []\n";
        let error = Profile::parse("p", text).unwrap_err().to_string();
        assert_eq!(error, "profile p, line 6: a total needs at least one [[read]]");
    }

    #[test]
    fn parts_with_the_same_name_get_distinct_names() {
        let text = include_str!("audius.toml").replace("totalStakedFor", "balanceOf");
        let names = Profile::parse("p", &text).unwrap().part_names();
        assert_eq!(names[1], "balanceOf@0xe6d97b2099f142513be7a2a068be040656ae4591");
        assert_eq!(names[2], "getTotalDelegatorStake");
    }
}
