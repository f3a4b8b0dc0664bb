//! Which wallets the chain's events affect: blocks in, wallets out.
//!
//! New blocks are asked for one by one, by their hashes: a node that does not have one says so. Older ones are asked
//! for in ranges of numbers, and an answer counts only from an endpoint that has the range's last block. That a block holds
//! no events is believed only where its header proves it, see `proof`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use serde_json::Value;
use tracing::warn;

use super::{
    filter::{EventFilter, Log, LogMatches, newest},
    logs::LogReader,
    proof::ProvenLogs,
    requests::LogRequests,
    shared::SharedLogs,
};
use crate::{
    follow::{AffectedWallets, Block, Source},
    profile::Profile,
    read::NodeReader,
    rpc::{BlockRef, Client, Header},
    tally::{RunError, Shutdown, Wallet},
};

/// This many blocks behind the newest, a node that is behind may lack a block. Of several nodes behind one URL, one may
/// answer for a range and another say that it has the blocks, so these are not asked for as a range.
const NEAR: u64 = 16;

/// The events of a profile, on a chain.
pub struct Events {
    client: Arc<Client>,
    /// Reads who the members of a wallet are.
    reader: Arc<NodeReader>,
    logs: LogReader,
    chain_id: u64,
    /// Whether the events of some new blocks are asked for together.
    in_one_request: bool,
}

impl From<Header> for Block {
    fn from(header: Header) -> Self {
        Self {
            number: header.number.to(),
            hash: header.hash,
            parent: header.parent_hash,
            timestamp: header.timestamp.to(),
            logs_bloom: header.logs_bloom,
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
        shutdown: Shutdown,
    ) -> Self {
        let filter = EventFilter::of_profile(profile);
        let requests = LogRequests::new(Arc::clone(&client), filter, concurrency, shutdown.clone());
        let logs =
            LogReader { proven: ProvenLogs::new(requests), shared: None, concurrency, shutdown };
        Self { client, reader, logs, chain_id: profile.chain_id, in_one_request: false }
    }

    /// The same, with the events of new blocks asked for in one `eth_getLogs`, where their headers form one chain.
    #[must_use]
    pub fn in_one_request(self) -> Self {
        Self { in_one_request: true, ..self }
    }

    /// The same, with the logs of single blocks from those that several profiles share.
    #[must_use]
    pub fn sharing(self, shared: Arc<SharedLogs>) -> Self {
        Self { logs: LogReader { shared: Some(shared), ..self.logs }, ..self }
    }

    fn filter(&self) -> &EventFilter {
        &self.logs.proven.requests.filter
    }

    /// What to subscribe to.
    pub(super) fn subscription(&self) -> Value {
        match &self.logs.shared {
            Some(shared) => shared.subscription(),
            None => self.filter().subscription(),
        }
    }

    /// The wallets that a log names, without their members.
    pub(super) fn wallets_in(&self, log: &Log) -> BTreeSet<Wallet> {
        self.filter().matches_in([log]).wallets.into_keys().collect()
    }

    /// The chain that they are of.
    pub(super) const fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// Scheme, host and port of every HTTP endpoint.
    pub(super) fn endpoints(&self) -> String {
        self.client.endpoints()
    }

    /// The block `to` and those before it, back to `from`, newest first; a few at most.
    async fn last_blocks(&self, from: u64, to: &Block) -> Result<Vec<Block>, RunError> {
        let mut blocks = vec![*to];
        while let Some(block) = blocks.last().filter(|block| block.number > from)
            && (blocks.len() as u64) < NEAR
        {
            let parent = self.parent(block).await?;
            blocks.push(parent);
        }
        Ok(blocks)
    }

    /// Adds the members of those wallets that have any.
    async fn with_members(
        &self,
        matches: LogMatches,
        at: &Block,
    ) -> Result<AffectedWallets, RunError> {
        let LogMatches { logs, mut wallets, owners } = matches;
        let mut unlisted = None;
        let block = BlockRef { number: at.number, hash: Some(at.hash) };
        for (index, view) in self.filter().views.iter().enumerate() {
            let of_view: BTreeMap<Wallet, u64> = (owners.iter())
                .filter(|((view, _), _)| *view == index)
                .map(|((_, owner), block)| (*owner, *block))
                .collect();
            let asked: Vec<_> = of_view.keys().copied().collect();
            for (owner, members) in self.reader.lists(view, &asked, block).await? {
                match members {
                    Ok(members) => {
                        for member in members {
                            newest(&mut wallets, Wallet::from(member), of_view[&owner]);
                        }
                    }
                    // The next try would give no other answer, and must not hold everything up.
                    Err(reason) => {
                        unlisted = unlisted.max(Some(of_view[&owner]));
                        warn!(
                            "cannot read the members of {owner} at block {}; a sweep will catch up: {reason}",
                            at.number
                        );
                    }
                }
            }
        }
        Ok(AffectedWallets { logs, wallets, unlisted })
    }
}

#[async_trait]
impl Source for Events {
    async fn newest(&self) -> Result<Block, RunError> {
        Ok(self.client.newest_header().await?.into())
    }

    async fn block(&self, number: u64, seen: u64) -> Result<Option<Block>, RunError> {
        Ok(self.client.header(number, seen).await?.map(Block::from))
    }

    async fn parent(&self, block: &Block) -> Result<Block, RunError> {
        let parent = self.client.header_by_hash(block.parent).await;
        let named =
            |error| RunError::from(error).context(format!("the parent of block {}", block.number));
        Ok(parent.map_err(named)?.into())
    }

    async fn affected(
        &self,
        from: u64,
        to: &Block,
        at: &Block,
    ) -> Result<AffectedWallets, RunError> {
        if self.in_one_request
            && to == at
            && let Some(matches) = self.logs.of_chain(from, to).await?
        {
            return self.with_members(matches, at).await;
        }
        let last = match at.number - to.number {
            ..NEAR => self.last_blocks(from, to).await?,
            _ => Vec::new(),
        };
        let before = last.last().map_or(to.number + 1, |first| first.number);
        let mut matches = self.logs.of_blocks(last).await?;
        if from < before {
            matches = matches.merge(self.logs.of_range(from, before - 1, at.number).await?);
        }
        self.with_members(matches, at).await
    }

    fn revive(&self) {
        self.client.revive();
    }
}
