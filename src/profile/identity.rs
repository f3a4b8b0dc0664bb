//! What all totals of one table have in common.

use std::collections::BTreeSet;

use alloy::primitives::keccak256;
use serde::{Deserialize, Serialize};

use super::model::{Event, Profile, View};

/// The chain and the reads that make up a total. Profiles with the same identity give the same totals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    chain_id: u64,
    /// Function and contract of each, as people read them.
    reads: BTreeSet<String>,
}

impl Profile {
    /// Its identity: neither names, columns, units and events nor the order of the reads belong to it.
    pub fn identity(&self) -> Identity {
        let reads = self.reads.iter().map(|read| read.view.to_string());
        Identity { chain_id: self.chain_id, reads: reads.collect() }
    }
}

impl Profile {
    /// The events that `watch` follows, as a text: the same for events that change the totals of the same wallets.
    pub fn events_text(&self) -> String {
        let event = |event: &Event| {
            let members = event.members.as_ref().map(|members| {
                let View { contract, function } = &members.view;
                format!(" and {} of {contract:#x} for {}", function.signature(), members.of)
            });
            let wallets: BTreeSet<_> = event.wallets.iter().map(String::as_str).collect();
            format!(
                "{} of {:#x}: {}{}",
                event.event.full_signature(),
                event.contract,
                wallets.into_iter().collect::<Vec<_>>().join(", "),
                members.unwrap_or_default()
            )
        };
        let events: BTreeSet<_> = self.events.iter().map(event).collect();
        keccak256(events.into_iter().collect::<Vec<_>>().join("\n")).to_string()
    }
}

impl Identity {
    /// The identity in a text that [`Identity::text`] made.
    ///
    /// # Errors
    /// When it is not such a text.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The identity as a text, the same for the same identity.
    pub fn text(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// True if both are of one chain.
    pub const fn is_of_chain_of(&self, other: &Self) -> bool {
        self.chain_id == other.chain_id
    }

    /// How this identity differs from another one.
    pub fn difference_from(&self, other: &Self) -> String {
        let chain = (!self.is_of_chain_of(other))
            .then(|| format!("chain {}, not {}", self.chain_id, other.chain_id));
        let reads = |what: &str, one: &Self, without: &Self| {
            let reads: Vec<_> = one.reads.difference(&without.reads).map(String::as_str).collect();
            (!reads.is_empty()).then(|| format!("{what} {}", reads.join(" and ")))
        };
        let more = [reads("with", self, other), reads("without", other, self)];
        let all: Vec<_> = chain.into_iter().chain(more.into_iter().flatten()).collect();
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(from: &str, to: &str) -> Identity {
        let text = include_str!("audius.toml");
        assert!(text.contains(from), "{from}");
        Profile::parse("p.toml", &text.replace(from, to)).expect("a profile").identity()
    }

    fn audius() -> Identity {
        Profile::audius().identity()
    }

    #[test]
    fn names_units_and_notation_are_not_part_of_it() {
        let text = include_str!("audius.toml");
        let (before, events) = text.split_at(text.find("[[event]]").expect("events"));
        let (head, reads) = before.split_at(before.find("[[read]]").expect("reads"));
        let mut reads: Vec<_> = reads.split("[[read]]").skip(1).collect();
        reads.reverse();
        let reversed = format!("{head}[[read]]{}{events}", reads.join("\n[[read]]"));
        let lower = text.replace(
            "0x18aAA7115705e8be94bfFEBDE57Af9BFc265B998",
            "0x18aaa7115705e8be94bffebde57af9bfc265b998",
        );
        let more = format!("max_head_age = \"2h\"\nmulticall3 = \"none\"\n{text}");
        for text in [before, &reversed, &lower, &more] {
            assert_eq!(Profile::parse("p.toml", text).expect("a profile").identity(), audius());
        }
        for (from, to) in [
            ("name = \"audius\"", "name = \"other\""),
            ("symbol = \"AUDIO\"", "symbol = \"OTHER\""),
            ("decimals = 18", "decimals = 6"),
            ("checkpoint = \"audio_transfers\"", "checkpoint = \"other\""),
            ("balanceOf(address)", "balanceOf(address who) view returns (uint256)"),
            ("function = \"balanceOf", "column = \"held\"\nfunction = \"balanceOf"),
        ] {
            assert_eq!(identity(from, to), audius(), "{to}");
        }
    }

    #[test]
    fn other_events_have_another_text() {
        let text = |from: &str, to: &str| {
            let text = include_str!("audius.toml");
            assert!(text.contains(from), "{from}");
            let profile = Profile::parse("p.toml", &text.replace(from, to));
            profile.expect("a profile").events_text()
        };
        let ours = Profile::audius().events_text();
        for same in [
            ("name = \"audius\"", "name = \"other\""),
            ("wallets = [\"from\", \"to\"]", "wallets = [\"to\", \"from\"]"),
        ] {
            assert_eq!(text(same.0, same.1), ours, "{same:?}");
        }
        for other in [
            ("wallets = [\"from\", \"to\"]", "wallets = [\"from\"]"),
            (
                "of = \"target\" }",
                "of = \"target\" }\n\n[[event]]\ncontract = \"0x18aAA7115705e8be94bfFEBDE57Af9BFc265B998\"\nevent = \"Other(address indexed who)\"\nwallets = [\"who\"]",
            ),
            ("getDelegatorsList(address)", "others(address)"),
        ] {
            assert_ne!(text(other.0, other.1), ours, "{other:?}");
        }
    }

    #[test]
    fn what_differs_is_named() {
        let other = identity("chain_id = 1", "chain_id = 5");
        assert_eq!(audius().difference_from(&other), "chain 1, not 5");
        let other = identity("totalStakedFor(address)", "staked(address)");
        let difference = audius().difference_from(&other);
        assert!(difference.starts_with("with totalStakedFor(address) of 0x"), "{difference}");
        assert!(difference.contains(", without staked(address) of 0x"), "{difference}");
        assert_eq!(Identity::parse(&other.text()).expect("a text"), other);
        assert_ne!(other.text(), audius().text());
    }
}
