//! Which wallets the chain's events touched: logs in, wallets out.
//!
//! New blocks are asked for one by one, by their hashes: a node that does not have one says so.
//! What lies further back is asked for in ranges of numbers, as wide as the provider wants them, and
//! an answer counts only from an endpoint that has the range's last block.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter, slice,
    sync::{Arc, Mutex, PoisonError},
};

use alloy::primitives::{B256, U64};
use anyhow::Context;
use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{
    Action, Class, Client, Failure, NodeReader, Proof, Request,
    logs::{Blocks, Log, Named, Terms, newest},
    quirks,
    ranges::Width,
};
use crate::{
    follow::{Block, Source, Touched},
    profile::Profile,
    tally::Wallet,
};

/// So many blocks behind the newest, a node that lags may not have a block. Of several nodes behind one
/// URL, one may answer for a range and another say that it has the blocks, so these are not asked
/// for as a range.
const NEAR: u64 = 16;

/// The events of a profile, on a chain.
pub struct Events {
    client: Arc<Client>,
    reader: Arc<NodeReader>,
    terms: Terms,
    chain_id: u64,
    concurrency: usize,
    width: Mutex<Width>,
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

impl Events {
    /// The events of `profile`; `concurrency` requests at once.
    pub fn new(
        client: Arc<Client>,
        reader: Arc<NodeReader>,
        profile: &Profile,
        concurrency: usize,
    ) -> Self {
        let terms = Terms::of(profile);
        let chain_id = profile.chain_id;
        Self { client, reader, terms, chain_id, concurrency, width: Mutex::default() }
    }

    /// What to subscribe to.
    pub(super) fn filter(&self) -> Value {
        self.terms.filter()
    }

    /// The wallets that a log names, without those who belong to them.
    pub(super) fn wallets_in(&self, log: &Log) -> BTreeSet<Wallet> {
        self.terms.named_in(slice::from_ref(log)).wallets.into_keys().collect()
    }

    /// The chain that it is about.
    pub(super) const fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// Scheme, host and port of every HTTP endpoint.
    pub(super) fn endpoints(&self) -> String {
        self.client.endpoints()
    }

    /// The block `to` and those before it, back to `from`, newest first; a few at most.
    async fn last_blocks(&self, from: u64, to: &Block) -> anyhow::Result<Vec<Block>> {
        let mut blocks = vec![*to];
        while let Some(block) = blocks.last().filter(|block| block.number > from)
            && (blocks.len() as u64) < NEAR
        {
            let parent = self.parent(block).await?;
            blocks.push(parent);
        }
        Ok(blocks)
    }

    /// What the logs of one block name.
    async fn in_block(&self, block: &Block) -> anyhow::Result<Named> {
        let filter = self.terms.filter_of(Blocks::One { block_hash: block.hash });
        let request = Request {
            method: "eth_getLogs",
            params: (filter,),
            retries: self.client.retries(),
            proof: Proof::BlockOfHash(block.hash),
        };
        let read = |logs: Vec<Log>| match logs.iter().find(|log| log.block_hash != block.hash) {
            Some(other) => Err(format!("a log of block {} was not asked for", other.block_hash)),
            None => Ok(logs),
        };
        let logs = self.client.send(request, read).await?;
        Ok(self.terms.named_in(&logs))
    }

    /// What the logs of the blocks from `from` to `to` name, piece by piece, several at once.
    async fn in_range(&self, from: u64, to: u64) -> anyhow::Result<Named> {
        let mut named = Named::default();
        let mut next = from;
        // One at a time, until it is known how wide a piece may be.
        while next <= to && !self.width().is_known() {
            if let Some((more, end)) = self.beginning(next, to).await? {
                named = named.merge(more);
                next = end + 1;
            }
        }
        // Each piece is cut when its turn comes, as wide as is known to go well by then.
        let pieces = iter::from_fn(|| {
            let from = next;
            let end = self.end_of_piece(from, to);
            next = end + 1;
            (from <= to).then_some((from, end))
        });
        stream::iter(pieces)
            .map(|(from, to)| self.in_piece(from, to))
            .buffered(self.concurrency)
            .try_fold(named, |all, named| async { Ok(all.merge(named)) })
            .await
    }

    /// What the logs of a piece name, in pieces of it if it turns out to be too wide.
    async fn in_piece(&self, from: u64, to: u64) -> anyhow::Result<Named> {
        let mut named = Named::default();
        let mut next = from;
        while next <= to {
            if let Some((more, end)) = self.beginning(next, to).await? {
                named = named.merge(more);
                next = end + 1;
            }
        }
        Ok(named)
    }

    fn end_of_piece(&self, from: u64, to: u64) -> u64 {
        from.saturating_add(self.width().blocks() - 1).min(to)
    }

    /// What the logs at the beginning of a range name, and where that ends; `None` if it was too much
    /// to ask for, and less is to be asked for next time.
    async fn beginning(&self, from: u64, to: u64) -> anyhow::Result<Option<(Named, u64)>> {
        self.client.go_on()?;
        let end = self.end_of_piece(from, to);
        let blocks = end - from + 1;
        match self.logs(from, end).await {
            Ok(logs) => {
                self.with_width(|width| width.went_well(blocks));
                Ok(Some((self.terms.named_in(&logs), end)))
            }
            Err(error) => match error.downcast_ref::<Failure>() {
                Some(failure) if blocks > 1 && may_be_too_wide(failure) => {
                    let allowed = quirks::allowed_blocks(&failure.message);
                    self.with_width(|width| width.too_wide(blocks, allowed));
                    info!(blocks, narrowed_to = self.width().blocks(), "{}", failure.message);
                    Ok(None)
                }
                _ => Err(error),
            },
        }
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
    async fn with_members(&self, named: Named, at: &Block) -> anyhow::Result<Touched> {
        let Named { logs, mut wallets, owners } = named;
        for (index, view) in self.terms.views.iter().enumerate() {
            let of_view: BTreeMap<Wallet, u64> = (owners.iter())
                .filter(|((view, _), _)| *view == index)
                .map(|((_, owner), block)| (*owner, *block))
                .collect();
            let asked: Vec<_> = of_view.keys().copied().collect();
            for (owner, members) in self.reader.lists(view, &asked, at.number, at.hash).await? {
                match members {
                    Ok(members) => {
                        for member in members {
                            newest(&mut wallets, Wallet::from(member), of_view[&owner]);
                        }
                    }
                    // It will not be otherwise next time, and must not hold everything up.
                    Err(reason) => warn!(
                        "who belongs to {owner} cannot be read at block {}, a sweep will have to find \
                         what changed for them: {reason}",
                        at.number
                    ),
                }
            }
        }
        Ok(Touched { logs, wallets })
    }
}

/// Whether fewer blocks may do: it says so, or was cut off again and again, or says something new.
fn may_be_too_wide(failure: &Failure) -> bool {
    failure.class.action() == Action::Split
        || matches!(failure.class, Class::CutOff | Class::Unknown)
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
        let last = match at.number - to.number {
            ..NEAR => self.last_blocks(from, to).await?,
            _ => Vec::new(),
        };
        let before = last.last().map_or(to.number + 1, |first| first.number);
        let by_hash = stream::iter(last)
            .map(|block| async move { self.in_block(&block).await })
            .buffered(self.concurrency)
            .try_fold(Named::default(), |all, named| async { Ok(all.merge(named)) });
        let mut named = by_hash.await?;
        if from < before {
            named = named.merge(self.in_range(from, before - 1).await?);
        }
        self.with_members(named, at).await
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
