//! What is checked of an endpoint: its chain and contracts before it is used, and of some answers that they are fresh.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, Bytes, U64, address, keccak256};
use futures_util::future::try_join_all;
use serde::de::IgnoredAny;
use serde_json::json;
use tracing::info;

use super::{
    block::BlockChoice,
    endpoint::Endpoint,
    error::{NodeError, RequestError},
    kind::ErrorKind,
    request::Freshness,
    sender::Sender,
};
use crate::profile::Profile;

/// Multicall3, at the same address on every chain.
///
/// Source: <https://www.multicall3.com>
pub const MULTICALL3: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");

/// An endpoint with a block this far above another is assumed to have that one too.
const SURELY_HAS: u64 = 256;

/// The contracts of a profile that every endpoint must have, beside Multicall3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contracts {
    /// Those whose views make up a total.
    OfTotals,
    /// Those of events and their members as well.
    OfEvents,
}

/// What every endpoint must have before it is read from.
pub(super) struct Expected {
    chain_id: u64,
    profile: String,
    /// Address, and what it is called in errors.
    contracts: BTreeMap<Address, String>,
    block: BlockChoice,
}

impl Expected {
    /// What `profile` needs; code is looked for at `block`.
    pub(super) fn of(profile: &Profile, which: Contracts, block: BlockChoice) -> Self {
        let mut contracts: BTreeMap<Address, String> =
            [(MULTICALL3, "Multicall3".to_owned())].into();
        let mut expect = |address: Address, name: &str| {
            contracts.entry(address).or_insert_with(|| format!("the contract of {name}"));
        };
        for read in &profile.reads {
            expect(read.contract, &read.function.name);
        }
        let events = profile.events.iter();
        for event in events.filter(|_| which == Contracts::OfEvents) {
            expect(event.contract, &event.event.name);
            if let Some(members) = &event.members {
                expect(members.view.contract, &members.view.function.name);
            }
        }
        Self { chain_id: profile.chain_id, profile: profile.name.clone(), contracts, block }
    }
}

impl Sender {
    /// Checks that the endpoint is of the right chain and has every contract.
    pub(super) async fn check(
        &self,
        endpoint: &Endpoint,
        expected: &Expected,
    ) -> Result<(), RequestError> {
        let label = &endpoint.id;
        let chain_id = self.ask(endpoint, "eth_chainId", (), |id: U64| Ok(id.to::<u64>())).await?;
        let Expected { chain_id: expected, profile, contracts, block } = expected;
        if chain_id != *expected {
            return Err(RequestError::settings(format!(
                "{label} is a node of chain {chain_id}, but profile {profile} is for chain {expected}; \
                 give --rpc-url a node of chain {expected}, or another --profile"
            )));
        }
        try_join_all(contracts.iter().map(async |(address, what)| {
            let params = (*address, block.to_string());
            let code = self.ask(endpoint, "eth_getCode", params, |code: Bytes| Ok(code)).await?;
            if code.is_empty() {
                return Err(RequestError::settings(format!(
                    "{label} has no code at {address} ({what}) on chain {chain_id} at block {block}; \
                     check the profile and --block"
                )));
            }
            Ok(())
        }))
        .await?;
        info!("{label}: chain {chain_id}, every contract has code");
        Ok(())
    }

    /// Checks that what the endpoint answered counts.
    pub(super) async fn require_fresh(
        &self,
        endpoint: &Endpoint,
        freshness: Freshness,
    ) -> Result<(), RequestError> {
        match freshness {
            Freshness::Any => Ok(()),
            Freshness::HasBlock(block) => self.require_block(endpoint, block).await,
            Freshness::HasHash(hash) => {
                let refuses = endpoint.refuses_unknown_blocks();
                match refuses.get_or_try_init(|| self.try_unknown_block(endpoint)).await? {
                    true => Ok(()),
                    false => self.require_hash(endpoint, hash).await,
                }
            }
        }
    }

    /// Asks for the logs of a block that no node has.
    async fn try_unknown_block(&self, endpoint: &Endpoint) -> Result<bool, RequestError> {
        let filter = json!({ "blockHash": keccak256("a block that nobody has") });
        let asked = self.ask(endpoint, "eth_getLogs", (filter,), |_: IgnoredAny| Ok(()));
        match asked.await {
            Ok(()) => {
                info!("{}: answers for unknown blocks with an empty list", endpoint.id);
                Ok(false)
            }
            Err(RequestError::Node(failure)) => match failure.kind {
                ErrorKind::BlockUnavailable => Ok(true),
                // Whatever it means, it does not mean that the block is unknown.
                ErrorKind::Unknown => Ok(false),
                _ => Err(failure.into()),
            },
            Err(error) => Err(error),
        }
    }

    async fn require_block(&self, endpoint: &Endpoint, block: u64) -> Result<(), RequestError> {
        if endpoint.head().is_some_and(|head| head.number >= block.saturating_add(SURELY_HAS)) {
            return Ok(());
        }
        let params = (U64::from(block), false);
        let header: Option<IgnoredAny> =
            self.ask(endpoint, "eth_getBlockByNumber", params, Ok).await?;
        if header.is_none() {
            return Err(lacks_block(endpoint, block.to_string()));
        }
        endpoint.has_block(block);
        Ok(())
    }

    async fn require_hash(&self, endpoint: &Endpoint, hash: B256) -> Result<(), RequestError> {
        let params = (hash, false);
        let header: Option<IgnoredAny> =
            self.ask(endpoint, "eth_getBlockByHash", params, Ok).await?;
        header.map(drop).ok_or_else(|| lacks_block(endpoint, hash.to_string()))
    }
}

fn lacks_block(endpoint: &Endpoint, block: String) -> RequestError {
    let known = endpoint.head().map_or_else(String::new, |head| {
        let age = head.seen.elapsed().as_secs();
        format!("; the newest block it was seen to have is {}, {age} s ago", head.number)
    });
    let message = format!("header not found: it does not have block {block} yet{known}");
    NodeError::new(&endpoint.id, ErrorKind::BlockUnavailable, message).into()
}
