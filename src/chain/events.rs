//! Which wallets the chain's events touched: logs in, wallets out.
//!
//! One new block is asked for by its hash: a node that does not have it says so. A range is asked
//! for by numbers, in as many pieces as the provider wants, and its answer counts only from a node
//! that has the range's last block.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter, slice,
    sync::{Arc, Mutex, PoisonError},
};

use alloy::primitives::{Address, B256, U64};
use anyhow::Context;
use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use itertools::Itertools;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{Action, Client, Failure, MulticallReader, Proof, Request, quirks, ranges::Width};
use crate::{
    follow::{Block, Source, Touched},
    profile::{Event, Profile, View},
    tally::Wallet,
};

/// The events of a profile, on a chain.
pub struct Events {
    client: Arc<Client>,
    reader: Arc<MulticallReader>,
    terms: Terms,
    concurrency: usize,
    width: Mutex<Width>,
}

/// What a profile's events look like in logs.
#[derive(Clone, Debug)]
struct Terms {
    events: Vec<Pattern>,
    /// Views that list the members of a wallet, each once.
    views: Vec<View>,
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
}

/// Which logs to ask for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    address: Vec<Address>,
    topics: [Vec<B256>; 1],
    #[serde(flatten)]
    blocks: Blocks,
}

/// Of which blocks.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Blocks {
    One { block_hash: B256 },
    Range { from_block: U64, to_block: U64 },
}

/// A log, as far as it is needed.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Log {
    address: Address,
    topics: Vec<B256>,
    pub(super) block_number: U64,
    pub(super) block_hash: B256,
    #[serde(default)]
    pub(super) removed: bool,
}

/// A block's header, as far as it is needed.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    number: U64,
    hash: B256,
    parent_hash: B256,
    timestamp: U64,
}

impl From<Header> for Block {
    fn from(header: Header) -> Self {
        Self {
            number: header.number.to(),
            hash: header.hash,
            parent: header.parent_hash,
            timestamp: header.timestamp.to(),
        }
    }
}

/// What some logs name.
#[derive(Clone, Debug, Default)]
struct Named {
    logs: u64,
    /// Wallets, each with the newest block of an event for it.
    wallets: BTreeMap<Wallet, u64>,
    /// The same for wallets whose members are touched too, with the view that lists them.
    owners: BTreeMap<(usize, Wallet), u64>,
}

impl Named {
    fn merge(mut self, other: Self) -> Self {
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
fn newest<K: Ord>(blocks: &mut BTreeMap<K, u64>, key: K, block: u64) {
    let kept = blocks.entry(key).or_insert(block);
    *kept = block.max(*kept);
}

impl Terms {
    fn of(profile: &Profile) -> Self {
        let mut views: Vec<View> = Vec::new();
        let events = profile.events.iter().map(|event| pattern(event, &mut views)).collect();
        Self { events, views }
    }

    /// Contracts and selectors, as `eth_getLogs` and `eth_subscribe` take them.
    fn filter(&self) -> Value {
        json!({ "address": self.contracts(), "topics": [self.selectors()] })
    }

    fn contracts(&self) -> Vec<Address> {
        self.events.iter().map(|event| event.contract).unique().collect()
    }

    fn selectors(&self) -> Vec<B256> {
        self.events.iter().map(|event| event.selector).unique().collect()
    }

    fn filter_of(&self, blocks: Blocks) -> Filter {
        Filter { address: self.contracts(), topics: [self.selectors()], blocks }
    }

    /// What these logs name.
    fn named_in(&self, logs: &[Log]) -> Named {
        let mut named = Named::default();
        for log in logs {
            // A filter asks for contracts and selectors in every combination.
            let Some(event) = self.events.iter().find(|event| event.fits(log)) else { continue };
            named.logs += 1;
            let block = log.block_number.to();
            let wallet = |topic: usize| Wallet::from(Address::from_word(log.topics[topic]));
            for topic in &event.wallets {
                newest(&mut named.wallets, wallet(*topic), block);
            }
            if let Some((view, topic)) = event.members {
                newest(&mut named.owners, (view, wallet(topic)), block);
            }
        }
        named
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
    Pattern {
        contract: event.contract,
        selector: event.event.selector(),
        topics: indexed.len() + 1,
        wallets: event.wallets.iter().filter_map(topic).collect(),
        members,
    }
}

impl Pattern {
    fn fits(&self, log: &Log) -> bool {
        log.address == self.contract
            && log.topics.len() == self.topics
            && log.topics.first() == Some(&self.selector)
    }
}

impl Events {
    /// The events of `profile`; `concurrency` requests at once.
    pub fn new(
        client: Arc<Client>,
        reader: Arc<MulticallReader>,
        profile: &Profile,
        concurrency: usize,
    ) -> Self {
        let terms = Terms::of(profile);
        Self { client, reader, terms, concurrency, width: Mutex::default() }
    }

    /// What to subscribe to.
    pub(super) fn filter(&self) -> Value {
        self.terms.filter()
    }

    /// The wallets that a log names, without those who belong to them.
    pub(super) fn wallets_in(&self, log: &Log) -> BTreeSet<Wallet> {
        self.terms.named_in(slice::from_ref(log)).wallets.into_keys().collect()
    }

    /// Scheme, host and port of every HTTP endpoint.
    pub(super) fn endpoints(&self) -> String {
        self.client.endpoints()
    }

    /// What the logs of one block name.
    async fn in_block(&self, block: &Block) -> anyhow::Result<Named> {
        let filter = self.terms.filter_of(Blocks::One { block_hash: block.hash });
        let logs = self.client.request("eth_getLogs", (filter,), |logs: Vec<Log>| {
            match logs.iter().find(|log| log.block_hash != block.hash) {
                Some(other) => {
                    Err(format!("a log of block {} was not asked for", other.block_hash))
                }
                None => Ok(logs),
            }
        });
        Ok(self.terms.named_in(&logs.await?))
    }

    /// What the logs of the blocks from `from` to `to` name, piece by piece, several at once.
    async fn in_range(&self, from: u64, to: u64) -> anyhow::Result<Named> {
        let mut next = from;
        // Each piece is cut when its turn comes, as wide as is known to go well by then.
        let pieces = iter::from_fn(|| {
            let from = next;
            let end = from.saturating_add(self.width().blocks() - 1).min(to);
            next = end + 1;
            (from <= to).then_some((from, end))
        });
        stream::iter(pieces)
            .map(|(from, to)| self.in_piece(from, to))
            .buffered(self.concurrency)
            .try_fold(Named::default(), |all, named| async { Ok(all.merge(named)) })
            .await
    }

    /// What the logs of a range name that may turn out to be too wide.
    async fn in_piece(&self, from: u64, to: u64) -> anyhow::Result<Named> {
        let mut next = from;
        let mut named = Named::default();
        while next <= to {
            self.client.go_on()?;
            let end = next.saturating_add(self.width().blocks() - 1).min(to);
            let blocks = end - next + 1;
            match self.logs(next, end).await {
                Ok(logs) => {
                    self.with_width(|width| width.went_well(blocks));
                    named = named.merge(self.terms.named_in(&logs));
                    next = end + 1;
                }
                Err(error) => match error.downcast_ref::<Failure>() {
                    Some(failure) if failure.class.action() == Action::Split && blocks > 1 => {
                        let allowed = quirks::allowed_blocks(&failure.message);
                        self.with_width(|width| width.too_wide(blocks, allowed));
                        info!(blocks, narrowed_to = self.width().blocks(), "{}", failure.message);
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(named)
    }

    async fn logs(&self, from: u64, to: u64) -> anyhow::Result<Vec<Log>> {
        let blocks = Blocks::Range { from_block: U64::from(from), to_block: U64::from(to) };
        let request = Request {
            method: "eth_getLogs",
            params: (self.terms.filter_of(blocks),),
            retries: self.client.retries(),
            proof: Proof::Block(to),
        };
        self.client.send(request, Ok).await
    }

    fn width(&self) -> Width {
        *self.width.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_width(&self, change: impl FnOnce(&mut Width)) {
        change(&mut self.width.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds the members of those wallets that have any.
    async fn with_members(&self, named: Named, at: u64) -> anyhow::Result<Touched> {
        let Named { logs, mut wallets, owners } = named;
        for (index, view) in self.terms.views.iter().enumerate() {
            let of_view: BTreeMap<Wallet, u64> = (owners.iter())
                .filter(|((view, _), _)| *view == index)
                .map(|((_, owner), block)| (*owner, *block))
                .collect();
            let asked: Vec<_> = of_view.keys().copied().collect();
            for (owner, members) in self.reader.lists(view, &asked, at).await? {
                match members {
                    Ok(members) => {
                        for member in members {
                            newest(&mut wallets, Wallet::from(member), of_view[&owner]);
                        }
                    }
                    // It will not be otherwise next time, and must not hold everything up.
                    Err(reason) => warn!(
                        "who belongs to {owner} cannot be read at block {at}, a sweep will have to find \
                         what changed for them: {reason}"
                    ),
                }
            }
        }
        Ok(Touched { logs, wallets })
    }
}

#[async_trait]
impl Source for Events {
    async fn newest(&self) -> anyhow::Result<Block> {
        let newest = self.client.header("latest".into(), None).await?;
        Ok(newest.context("the node has no block")?.into())
    }

    async fn block(&self, number: u64, seen: u64) -> anyhow::Result<Option<Block>> {
        let block = self.client.header(json!(U64::from(number)), Some(seen)).await?;
        Ok(block.map(Block::from))
    }

    async fn parent(&self, block: &Block) -> anyhow::Result<Block> {
        let read = |header: Option<Header>| header.ok_or_else(|| "header not found".to_owned());
        let parent = self.client.request("eth_getBlockByHash", (block.parent, false), read).await;
        let parent = parent.with_context(|| format!("the parent of block {}", block.number))?;
        Ok(parent.into())
    }

    async fn touched(&self, from: u64, to: &Block, at: &Block) -> anyhow::Result<Touched> {
        let named = match from == to.number {
            true => self.in_block(to).await?,
            false => self.in_range(from, to.number).await?,
        };
        self.with_members(named, at.number).await
    }

    fn revive(&self) {
        self.client.revive();
    }
}

impl Client {
    /// A block's header if there is one, from an endpoint that has the block `seen` as well.
    async fn header(&self, block: Value, seen: Option<u64>) -> anyhow::Result<Option<Header>> {
        let request = Request {
            method: "eth_getBlockByNumber",
            params: (block, false),
            retries: self.retries(),
            proof: seen.map_or(Proof::Unneeded, Proof::Block),
        };
        self.send(request, Ok).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms::of(&Profile::audius())
    }

    fn wallet(n: u8) -> Wallet {
        Wallet::from(Address::with_last_byte(n))
    }

    /// A log of the profile's event number `event`, with these wallets behind the selector.
    fn log(event: usize, wallets: &[u8], block: u64) -> Log {
        let event = &terms().events[event];
        let mut topics = vec![event.selector];
        topics.extend(wallets.iter().map(|n| Address::with_last_byte(*n).into_word()));
        topics.resize(event.topics, B256::ZERO);
        let block_number = U64::from(block);
        let block_hash = B256::repeat_byte(9);
        Log { address: event.contract, topics, block_number, block_hash, removed: false }
    }

    #[test]
    fn the_filter_names_each_contract_and_selector_once() {
        let filter = terms().filter();
        assert_eq!(filter["address"].as_array().unwrap().len(), 3);
        assert_eq!(filter["topics"][0].as_array().unwrap().len(), 9);
        let range = Blocks::Range { from_block: U64::from(16), to_block: U64::from(255) };
        let filter = json!(terms().filter_of(range));
        assert_eq!((&filter["fromBlock"], &filter["toBlock"]), (&json!("0x10"), &json!("0xff")));
        let block_hash = B256::repeat_byte(1);
        let filter = json!(terms().filter_of(Blocks::One { block_hash }));
        assert_eq!(filter["blockHash"], json!(block_hash));
    }

    #[test]
    fn a_wallet_keeps_the_newest_block_of_its_events() {
        let named = terms().named_in(&[log(0, &[1, 2], 7), log(0, &[2, 3], 5)]);
        assert_eq!(named.logs, 2);
        let expected = BTreeMap::from([(wallet(1), 7), (wallet(2), 7), (wallet(3), 5)]);
        assert_eq!(named.wallets, expected);
        assert!(named.owners.is_empty());
    }

    #[test]
    fn claims_and_slashes_have_members() {
        let terms = terms();
        let named = terms.named_in(&[log(7, &[1], 3), log(8, &[2], 4)]);
        // Both name the same view.
        assert_eq!(terms.views.len(), 1);
        assert_eq!(named.owners, BTreeMap::from([((0, wallet(1)), 3), ((0, wallet(2)), 4)]));
    }

    #[test]
    fn parameters_are_found_in_whichever_order_the_event_has_them() {
        // RemoveDelegatorRequestEvaluated(serviceProvider, delegator, amount).
        let mut removed = terms();
        removed.events[6].wallets.truncate(1); // "delegator"
        let named = removed.named_in(&[log(6, &[1, 2], 3)]);
        assert_eq!(named.wallets, BTreeMap::from([(wallet(2), 3)]));
    }

    #[test]
    fn what_is_no_event_of_the_profile_is_passed_over() {
        let mut elsewhere = log(0, &[1, 2], 3);
        elsewhere.address = terms().events[1].contract;
        let mut other_topics = log(0, &[1, 2], 3);
        other_topics.topics.push(B256::ZERO);
        let mut none = log(0, &[1, 2], 3);
        none.topics.clear();
        assert_eq!(terms().named_in(&[elsewhere, other_topics, none]).logs, 0);
    }
}
