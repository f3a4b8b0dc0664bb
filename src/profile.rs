//! The profile: which contracts make up a total, as data.
//!
//! Everything that is particular to AUDIO is in `profile/audius.toml`; nothing
//! else in the crate knows of it.

mod document;

use std::{fs, ops::Range, path::Path};

use self::document::Document;
use alloy::{
    json_abi::{Event as AbiEvent, Function},
    primitives::Address,
};
use thiserror::Error;

/// What a total is made of, and how it is shown.
#[derive(Clone, Debug)]
pub struct Profile {
    /// A name for people.
    pub name: String,
    /// The chain that the contracts are on; an endpoint of another chain is refused.
    pub chain_id: u64,
    /// The symbol of the unit that totals are shown in.
    pub symbol: String,
    /// How many decimal digits that unit has: 1 unit = 10^decimals wei.
    pub decimals: u8,
    /// The row of `eth_indexer_checkpoints` that says how far events were followed.
    pub checkpoint: String,
    /// The views whose values are summed, in this order. Never empty.
    pub reads: Vec<View>,
    /// The events that change a total.
    pub events: Vec<Event>,
    /// The TOML text that all this was read from.
    pub source: String,
}

/// A view of one `address` parameter, on one contract.
#[derive(Clone, Debug)]
pub struct View {
    /// The contract.
    pub contract: Address,
    /// The function, such as `balanceOf(address)`.
    pub function: Function,
}

/// An event that changes the totals of some wallets.
#[derive(Clone, Debug)]
pub struct Event {
    /// The contract that emits it.
    pub contract: Address,
    /// The event with its parameters.
    pub event: AbiEvent,
    /// Names of the indexed address parameters whose totals it changes.
    pub wallets: Vec<String>,
    /// More wallets whose totals it changes, which a view lists.
    pub members: Option<Members>,
}

/// A view that lists wallets which belong to one that an event names.
#[derive(Clone, Debug)]
pub struct Members {
    /// The view; it returns `address[]`.
    pub view: View,
    /// The event parameter that the view is called with.
    pub of: String,
}

/// Why a profile is refused.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("profile {path}: it cannot be read; --profile takes the path of a TOML file")]
    Read {
        /// The path as given.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The text is no profile.
    #[error("profile {origin}, line {line}: {message}")]
    Invalid {
        /// The path, or the name of a built-in profile.
        origin: String,
        /// The line at which the fault stands, from 1.
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
        Self::parse("audius (built in)", include_str!("profile/audius.toml"))
            .expect("the built-in profile parses")
    }

    /// Reads a profile from a file.
    ///
    /// # Errors
    /// When the file cannot be read or is no profile; the error names the line.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let origin = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|source| ProfileError::Read { path: origin.clone(), source })?;
        Self::parse(&origin, &text)
    }

    /// Reads a profile from its text; `origin` is named in errors.
    ///
    /// # Errors
    /// [`ProfileError::Invalid`] with the line and what is wrong there.
    pub fn parse(origin: &str, text: &str) -> Result<Self, ProfileError> {
        let fault = |span: Option<Range<usize>>, message: &str| {
            let before = &text[..span.map_or(0, |span| span.start.min(text.len()))];
            ProfileError::Invalid {
                origin: origin.to_owned(),
                line: before.matches('\n').count() + 1,
                message: message.trim().replace('\n', " "),
            }
        };
        let document: Document =
            toml::from_str(text).map_err(|error| fault(error.span(), error.message()))?;
        document.check().map_err(|(span, message)| fault(Some(span), &message))?;
        Ok(document.into_profile(text))
    }

    /// The name of each part of a total, in the order of [`Profile::reads`]: the
    /// function's name, and its contract too where two parts share that name.
    pub fn part_names(&self) -> Vec<String> {
        let shared =
            |name: &str| self.reads.iter().filter(|read| read.function.name == name).count() > 1;
        let name = |read: &View| match &read.function.name {
            name if shared(name) => format!("{name}@{:#x}", read.contract),
            name => name.clone(),
        };
        self.reads.iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::hex;

    use super::*;

    #[test]
    fn the_built_in_profile_holds_the_selectors_and_events_of_audius() {
        let profile = Profile::audius();
        let selectors: Vec<_> =
            profile.reads.iter().map(|read| hex::encode(read.function.selector())).collect();
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
        let text = include_str!("profile/audius.toml");
        assert!(text.contains(from), "{from}");
        Profile::parse("p.toml", &text.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_line() {
        let cases = [
            (
                "0x18aAA7",
                "0x18aaA7",
                "profile p.toml, line 11: contract 0x18aaA7115705e8be94bfFEBDE57Af9BFc265B998: its EIP-55 checksum is wrong",
            ),
            ("chain_id = 1", "chain_id = one", "profile p.toml, line 3: "),
            ("symbol", "smybol", "profile p.toml, line 4: unknown field `smybol`"),
            (
                "decimals = 18",
                "decimals = 78",
                "profile p.toml, line 5: decimals must be at most 77",
            ),
            (
                "balanceOf(address)",
                "balanceOf(",
                "profile p.toml, line 12: function \"balanceOf(\" is no signature",
            ),
            (
                "balanceOf(address)",
                "totalSupply()",
                "profile p.toml, line 12: function \"totalSupply()\" must take one address",
            ),
            (
                "\"from\", \"to\"",
                "\"from\", \"too\"",
                "profile p.toml, line 28: event Transfer has no parameter \"too\"",
            ),
            (
                "\"from\", \"to\"",
                "\"value\"",
                "profile p.toml, line 28: event Transfer has no indexed parameter \"value\"",
            ),
            (
                "of = \"claimer\"",
                "of = \"rewards\"",
                "event Claim has no address parameter \"rewards\"",
            ),
            (
                "uint256 value)\"",
                "uint256 value) anonymous\"",
                "profile p.toml, line 27: event \"Transfer(address indexed from, address indexed to, uint256 value) anonymous\" is anonymous",
            ),
            ("wallets = [\"user\"]", "wallets = []", "line 33: wallets names no parameter"),
        ];
        for (from, to, expected) in cases {
            let error = broken(from, to);
            assert!(error.contains(expected), "{from} -> {to}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_part_counts_once() {
        let text = include_str!("profile/audius.toml");
        let first = "\n[[read]]\ncontract = \"0x18aaa7115705e8be94bffebde57af9bfc265b998\"\n\
                     function = \"balanceOf(address)\"\n";
        let error = Profile::parse("p", &format!("{text}{first}")).unwrap_err().to_string();
        assert!(error.contains("this [[read]] stands above already"), "{error}");
        assert!(
            error.starts_with(&format!("profile p, line {}", text.lines().count() + 2)),
            "{error}"
        );
    }

    #[test]
    fn a_total_needs_a_part() {
        let text = "name='n'\nchain_id=1\nsymbol='S'\ndecimals=0\ncheckpoint='c'\nread = []\n";
        let error = Profile::parse("p", text).unwrap_err().to_string();
        assert_eq!(error, "profile p, line 6: a total needs at least one [[read]]");
    }

    #[test]
    fn parts_that_share_a_name_are_told_apart() {
        let text = include_str!("profile/audius.toml").replace("totalStakedFor", "balanceOf");
        let names = Profile::parse("p", &text).unwrap().part_names();
        assert_eq!(names[1], "balanceOf@0xe6d97b2099f142513be7a2a068be040656ae4591");
        assert_eq!(names[2], "getTotalDelegatorStake");
    }
}
