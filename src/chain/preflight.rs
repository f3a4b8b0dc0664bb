//! What an endpoint must be before it is read from: of the right chain, with every contract.

use std::collections::BTreeMap;

use alloy::primitives::{Address, Bytes, U64};
use anyhow::bail;
use futures_util::future::try_join_all;
use tracing::info;

use super::{BlockChoice, Client, endpoint::Endpoint};
use crate::profile::Profile;

/// The contracts of a profile that are looked for at each endpoint, Multicall3 beside them.
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
    /// Address and what it is called in errors.
    contracts: BTreeMap<Address, String>,
    block: BlockChoice,
}

impl Expected {
    /// What `profile` wants; code is looked for at `block`.
    pub(super) fn of(profile: &Profile, which: Contracts, block: BlockChoice) -> Self {
        let mut contracts: BTreeMap<Address, String> =
            [(super::MULTICALL3, "Multicall3".to_owned())].into();
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

impl Client {
    /// Whether the endpoint is of the right chain and has every contract.
    ///
    /// # Errors
    /// A [`Failure`] when the endpoint does not answer; another error when it answers wrong.
    pub(super) async fn check(&self, endpoint: &Endpoint) -> anyhow::Result<()> {
        let label = &endpoint.label;
        let chain_id = self.ask(endpoint, "eth_chainId", (), |id: U64| Ok(id.to::<u64>())).await?;
        let Expected { chain_id: expected, profile, contracts, block } = &self.expected;
        if chain_id != *expected {
            bail!(
                "{label} is a node of chain {chain_id}, but profile {profile} is for chain {expected}; \
                 give --rpc-url a node of chain {expected}, or another --profile"
            );
        }
        try_join_all(contracts.iter().map(async |(address, what)| {
            let params = (*address, block.to_string());
            let code = self.ask(endpoint, "eth_getCode", params, |code: Bytes| Ok(code)).await?;
            if code.is_empty() {
                bail!(
                    "{label} has no code at {address} ({what}) on chain {chain_id} at block {block}; \
                     check the profile and --block"
                );
            }
            Ok(())
        }))
        .await?;
        info!("{label}: chain {chain_id}, every contract is there");
        Ok(())
    }
}
