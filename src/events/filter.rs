//! What a profile's events look like in logs: filters out, wallets in.
//!
//! Pure.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, Bloom, U64};
use itertools::Itertools;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    profile::{Event, Profile, View},
    rpc::in_range,
    tally::Wallet,
};

/// What a profile's events look like in logs.
#[derive(Clone, Debug)]
pub(super) struct EventFilter {
    events: Vec<Pattern>,
    /// Views that list the members of a wallet, each once.
    pub(super) views: Vec<View>,
}

/// How to find an event's wallets in a log.
#[derive(Clone, Debug)]
struct Pattern {
    contract: Address,
    selector: B256,
    /// How many topics its logs have.
    topics: usize,
    /// In which topics the wallets are.
    wallets: Vec<usize>,
    /// Which view lists the members of the wallet in which topic.
    members: Option<(usize, usize)>,
    /// The bits of contract and selector in a bloom.
    bloom: Bloom,
}

/// Which logs to ask for; without contracts and topics, all of the blocks.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Vec<Address>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<[Vec<B256>; 1]>,
    #[serde(flatten)]
    blocks: Blocks,
}

/// Of which blocks.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(super) enum Blocks {
    One { block_hash: B256 },
    Range { from_block: U64, to_block: U64 },
}

/// A log, as far as it is needed.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Log {
    address: Address,
    topics: Vec<B256>,
    #[serde(deserialize_with = "in_range")]
    pub(super) block_number: U64,
    pub(super) block_hash: B256,
    #[serde(default)]
    pub(super) removed: bool,
}

/// What some logs name.
#[derive(Clone, Debug, Default)]
pub(super) struct LogMatches {
    pub(super) logs: u64,
    /// Wallets, each with the newest block of an event for it.
    pub(super) wallets: BTreeMap<Wallet, u64>,
    /// The same for wallets whose members are affected too, with the view that lists them.
    pub(super) owners: BTreeMap<(usize, Wallet), u64>,
}

impl LogMatches {
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.logs += other.logs;
        for (wallet, block) in other.wallets {
            newest(&mut self.wallets, wallet, block);
        }
        for (owner, block) in other.owners {
            newest(&mut self.owners, owner, block);
        }
        self
    }
}

/// Keeps the newest block of each key.
pub(super) fn newest<K: Ord>(blocks: &mut BTreeMap<K, u64>, key: K, block: u64) {
    let kept = blocks.entry(key).or_insert(block);
    *kept = block.max(*kept);
}

impl EventFilter {
    pub(super) fn of_profile(profile: &Profile) -> Self {
        Self::of_profiles([profile])
    }

    /// The events of all these profiles.
    pub(super) fn of_profiles<'a>(profiles: impl IntoIterator<Item = &'a Profile>) -> Self {
        let mut views: Vec<View> = Vec::new();
        let events = profiles.into_iter().flat_map(|profile| &profile.events);
        let events = events.map(|event| pattern(event, &mut views)).collect();
        Self { events, views }
    }

    /// Whether a log is of one of the events.
    pub(super) fn fits(&self, log: &Log) -> bool {
        self.events.iter().any(|event| event.fits(log))
    }

    /// Contracts and selectors, as `eth_getLogs` and `eth_subscribe` take them.
    pub(super) fn subscription(&self) -> Value {
        json!({ "address": self.contracts(), "topics": [self.selectors()] })
    }

    fn contracts(&self) -> Vec<Address> {
        self.events.iter().map(|event| event.contract).unique().collect()
    }

    fn selectors(&self) -> Vec<B256> {
        self.events.iter().map(|event| event.selector).unique().collect()
    }

    pub(super) fn of(&self, blocks: Blocks) -> Filter {
        Filter { address: Some(self.contracts()), topics: Some([self.selectors()]), blocks }
    }

    /// Whether a block with this bloom may hold a log of an event that none of `logs` is of.
    pub(super) fn may_hold_more(&self, bloom: &Bloom, logs: &[&Log]) -> bool {
        self.events.iter().any(|event| {
            event.may_be_in(bloom) && !logs.iter().any(|log| event.has_selector_of(log))
        })
    }

    /// What these logs name.
    pub(super) fn matches_in<'a>(&self, logs: impl IntoIterator<Item = &'a Log>) -> LogMatches {
        let mut matches = LogMatches::default();
        for log in logs {
            // A filter asks for contracts and selectors in every combination.
            let mut events = self.events.iter().filter(|event| event.fits(log)).peekable();
            matches.logs += u64::from(events.peek().is_some());
            let block = log.block_number.to();
            let wallet = |topic: usize| Wallet::from(Address::from_word(log.topics[topic]));
            for event in events {
                for topic in &event.wallets {
                    newest(&mut matches.wallets, wallet(*topic), block);
                }
                if let Some((view, topic)) = event.members {
                    newest(&mut matches.owners, (view, wallet(topic)), block);
                }
            }
        }
        matches
    }
}

fn pattern(event: &Event, views: &mut Vec<View>) -> Pattern {
    let indexed: Vec<_> = event.event.inputs.iter().filter(|input| input.indexed).collect();
    // The first topic is the selector. That each name is an indexed address the profile has seen to.
    let topic =
        |name: &String| indexed.iter().position(|input| input.name == *name).map(|at| at + 1);
    let members = event.members.as_ref().and_then(|members| {
        let same = |view: &View| {
            view.contract == members.view.contract && view.function == members.view.function
        };
        let view = views.iter().position(same).unwrap_or_else(|| {
            views.push(members.view.clone());
            views.len() - 1
        });
        Some((view, topic(&members.of)?))
    });
    let mut bloom = Bloom::ZERO;
    bloom.accrue_raw_log(event.contract, &[event.event.selector()]);
    Pattern {
        contract: event.contract,
        selector: event.event.selector(),
        bloom,
        topics: indexed.len() + 1,
        wallets: event.wallets.iter().filter_map(topic).collect(),
        members,
    }
}

impl Pattern {
    fn fits(&self, log: &Log) -> bool {
        self.has_selector_of(log) && log.topics.len() == self.topics
    }

    fn has_selector_of(&self, log: &Log) -> bool {
        log.address == self.contract && log.topics.first() == Some(&self.selector)
    }

    fn may_be_in(&self, bloom: &Bloom) -> bool {
        bloom.contains(&self.bloom)
    }
}

impl Filter {
    /// All logs of these blocks.
    pub(super) const fn all_of(blocks: Blocks) -> Self {
        Self { address: None, topics: None, blocks }
    }
}

impl Log {
    /// Whether a block with this bloom may hold it.
    pub(super) fn may_be_in(&self, bloom: &Bloom) -> bool {
        bloom.contains_raw_log(self.address, &self.topics)
    }

    /// Adds it to a bloom.
    pub(super) fn accrue(&self, bloom: &mut Bloom) {
        bloom.accrue_raw_log(self.address, &self.topics);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event_filter() -> EventFilter {
        EventFilter::of_profile(&Profile::audius())
    }

    fn wallet(n: u8) -> Wallet {
        Wallet::from(Address::with_last_byte(n))
    }

    /// A log of the profile's event number `event`, with these wallets behind the selector.
    fn log(event: usize, wallets: &[u8], block: u64) -> Log {
        let event = &event_filter().events[event];
        let mut topics = vec![event.selector];
        topics.extend(wallets.iter().map(|n| Address::with_last_byte(*n).into_word()));
        topics.resize(event.topics, B256::ZERO);
        let block_number = U64::from(block);
        let block_hash = B256::repeat_byte(9);
        Log { address: event.contract, topics, block_number, block_hash, removed: false }
    }

    #[test]
    fn the_filter_names_each_contract_and_selector_once() {
        let filter = event_filter().subscription();
        assert_eq!(filter["address"].as_array().unwrap().len(), 3);
        assert_eq!(filter["topics"][0].as_array().unwrap().len(), 9);
        let range = Blocks::Range { from_block: U64::from(16), to_block: U64::from(255) };
        let filter = json!(event_filter().of(range));
        assert_eq!((&filter["fromBlock"], &filter["toBlock"]), (&json!("0x10"), &json!("0xff")));
        let block_hash = B256::repeat_byte(1);
        let filter = json!(event_filter().of(Blocks::One { block_hash }));
        assert_eq!(filter["blockHash"], json!(block_hash));
    }

    #[test]
    fn a_wallet_keeps_the_newest_block_of_its_events() {
        let matches = event_filter().matches_in(&[log(0, &[1, 2], 7), log(0, &[2, 3], 5)]);
        assert_eq!(matches.logs, 2);
        let expected = BTreeMap::from([(wallet(1), 7), (wallet(2), 7), (wallet(3), 5)]);
        assert_eq!(matches.wallets, expected);
        assert!(matches.owners.is_empty());
    }

    #[test]
    fn a_bloom_may_hold_an_event_only_with_its_contract_and_its_selector() {
        let event_filter = event_filter();
        let (transfer, staked) = (log(0, &[1, 2], 7), log(1, &[1], 7));
        let bloom_of = |address, topic: B256| {
            let mut bloom = Bloom::ZERO;
            bloom.accrue_raw_log(address, &[topic]);
            bloom
        };
        let transfers = bloom_of(transfer.address, transfer.topics[0]);
        assert!(event_filter.may_hold_more(&transfers, &[]));
        assert!(!event_filter.may_hold_more(&transfers, &[&transfer]));
        assert!(event_filter.may_hold_more(&transfers, &[&staked]), "of another event");
        for other in [
            Bloom::ZERO,
            // The token's contract with an event of staking.
            bloom_of(transfer.address, staked.topics[0]),
            bloom_of(Address::with_last_byte(1), transfer.topics[0]),
        ] {
            assert!(!event_filter.may_hold_more(&other, &[]));
        }
    }

    #[test]
    fn a_log_with_a_number_out_of_range_is_refused() {
        let log = |number: &str| {
            serde_json::from_value::<Log>(json!({
                "address": Address::ZERO, "topics": [], "blockHash": B256::ZERO,
                "blockNumber": number, "removed": true,
            }))
        };
        log("0x7fffffffffffffff").unwrap();
        log("0x8000000000000000").unwrap_err();
    }

    #[test]
    fn two_tables_of_one_event_both_count() {
        let mut event_filter = event_filter();
        let mut other = event_filter.events[0].clone();
        event_filter.events[0].wallets = vec![1];
        other.wallets = vec![2];
        event_filter.events.push(other);
        let matches = event_filter.matches_in(&[log(0, &[1, 2], 7)]);
        assert_eq!((matches.logs, matches.wallets.len()), (1, 2));
    }

    #[test]
    fn claims_and_slashes_have_members() {
        let event_filter = event_filter();
        let matches = event_filter.matches_in(&[log(7, &[1], 3), log(8, &[2], 4)]);
        // Both name the same view.
        assert_eq!(event_filter.views.len(), 1);
        assert_eq!(matches.owners, BTreeMap::from([((0, wallet(1)), 3), ((0, wallet(2)), 4)]));
    }

    #[test]
    fn parameters_are_found_in_whichever_order_the_event_has_them() {
        // RemoveDelegatorRequestEvaluated(serviceProvider, delegator, amount).
        let mut removed = event_filter();
        removed.events[6].wallets.truncate(1); // "delegator"
        let matches = removed.matches_in(&[log(6, &[1, 2], 3)]);
        assert_eq!(matches.wallets, BTreeMap::from([(wallet(2), 3)]));
    }

    #[test]
    fn what_is_no_event_of_the_profile_is_passed_over() {
        let mut elsewhere = log(0, &[1, 2], 3);
        elsewhere.address = event_filter().events[1].contract;
        let mut other_topics = log(0, &[1, 2], 3);
        other_topics.topics.push(B256::ZERO);
        let mut none = log(0, &[1, 2], 3);
        none.topics.clear();
        assert_eq!(event_filter().matches_in(&[elsewhere, other_topics, none]).logs, 0);
    }
}
