//! Which method reads a chunk; `auto` compares two: an endpoint's first chunk is read by both.

use std::{collections::HashMap, sync::Arc};

use alloy::primitives::U256;
use tracing::{info, warn};

use super::{
    bisect::ChunkRead,
    calls::{Calls, ReadError, may_be_of_request},
    method::TotalsMethod,
    packed::{Packed, PackedResult},
    settings::MethodChoice,
};
use crate::{
    rpc::{Client, Endpoint, EndpointId, Feature, NodeError, RequestError, Support},
    tally::{Reading, Wallet},
};

/// The methods, and the choice between them.
pub(super) struct Methods {
    pub(super) choice: MethodChoice,
    /// Reads through Multicall3; on a chain without it, each part by a call of its own.
    pub(super) plain: Arc<dyn TotalsMethod>,
    pub(super) packed: Packed,
}

impl Methods {
    /// The endpoint that the next chunk is cut for.
    pub(super) fn preferred<'a>(&self, client: &'a Client) -> &'a Endpoint {
        match self.choice {
            MethodChoice::Packed => self.packed.preferred(client),
            MethodChoice::Multicall3 | MethodChoice::Auto => client.preferred(),
        }
    }

    /// The method for an endpoint's next chunk.
    pub(super) fn of(&self, endpoint: &Endpoint) -> &dyn TotalsMethod {
        if self.is_packed(endpoint) { &self.packed } else { self.plain.as_ref() }
    }

    /// The method that `verify` compares single parts with.
    pub(super) fn batched(&self) -> &dyn TotalsMethod {
        match self.choice {
            MethodChoice::Packed => &self.packed,
            MethodChoice::Multicall3 | MethodChoice::Auto => self.plain.as_ref(),
        }
    }

    /// True if the endpoint's next chunk shows whether it can be read by the packed reader.
    pub(super) fn is_trial(&self, endpoint: &Endpoint) -> bool {
        self.is_packed(endpoint) && endpoint.support(Feature::Overrides) == Support::Untried
    }

    fn is_packed(&self, endpoint: &Endpoint) -> bool {
        match self.choice {
            MethodChoice::Multicall3 => false,
            MethodChoice::Packed => true,
            MethodChoice::Auto => self.packed.suits(endpoint),
        }
    }

    /// Reads a chunk that was cut for this endpoint.
    pub(super) async fn read(
        &self,
        endpoint: &Endpoint,
        calls: &Calls<'_>,
        wallets: Vec<Wallet>,
    ) -> ChunkRead<U256> {
        if self.choice == MethodChoice::Auto && self.is_packed(endpoint) {
            return self.read_auto(endpoint, calls, wallets).await;
        }
        self.of(endpoint).read(calls, wallets).await
    }

    async fn read_auto(
        &self,
        endpoint: &Endpoint,
        calls: &Calls<'_>,
        wallets: Vec<Wallet>,
    ) -> ChunkRead<U256> {
        let client = calls.client();
        let is_untried =
            |id: &EndpointId| client.endpoint(id).support(Feature::Overrides) != Support::Works;
        let is_trial = is_untried(&endpoint.id);
        let mut result = self.packed.read_packed(calls, wallets.clone(), is_untried).await;
        let untried: Vec<_> =
            result.answered_by.iter().filter(|id| is_untried(id)).cloned().collect();
        match result.error.take() {
            Some(ReadError::Unsupported { endpoint, reason, .. }) => {
                self.do_without(client, &endpoint, &reason);
                self.plain.read_all(calls, wallets).await
            }
            None if !untried.is_empty() => self.compare(calls, wallets, result, &untried).await,
            Some(ReadError::Request(RequestError::Node(failure)))
                if may_be_of_request(&failure) && is_untried(&failure.endpoint) =>
            {
                self.try_without(calls, wallets, failure).await
            }
            // The endpoint that takes overrides fails, and another is there that does not; it may be paused.
            Some(_) if self.needs_other_method(client) => self.plain.read_all(calls, wallets).await,
            // What was read so far was not compared with anything.
            Some(error) if is_trial => (Vec::new(), Some(error)),
            error => self.packed.complete(calls, PackedResult { error, ..result }).await,
        }
    }

    /// True if the endpoint that would be asked now, or each one that is left, does not take the packed reader.
    fn needs_other_method(&self, client: &Client) -> bool {
        let suits = |endpoint: &Endpoint| self.packed.suits(endpoint);
        !suits(client.preferred()) || !client.is_left(suits) && client.is_left(|_| true)
    }

    /// Reads through Multicall3 what the packed reader has read. If both are equal, the endpoints that answered
    /// are read from by the packed reader from now on.
    async fn compare(
        &self,
        calls: &Calls<'_>,
        wallets: Vec<Wallet>,
        result: PackedResult,
        untried: &[EndpointId],
    ) -> ChunkRead<U256> {
        let count = wallets.len();
        let (readings, error) = self.plain.read_all(calls, wallets).await;
        if error.is_some() || readings.len() < count {
            // Nothing was learnt.
            return (readings, error);
        }
        let client = calls.client();
        let packed: HashMap<_, _> = result.totals.into_iter().collect();
        // A wallet that is marked is read through Multicall3 in any case; if all are, the packed reader is of no use.
        let differs = |(wallet, total): &&Reading| match packed.get(wallet) {
            Some(by_it) => total.as_ref() != Ok(by_it),
            None => packed.is_empty() && total.is_ok(),
        };
        match readings.iter().find(differs) {
            // Not one total could be compared.
            None if packed.is_empty() => {}
            None => {
                info!(wallets = count, "the packed reader gives what multicall3 gives");
                for id in untried {
                    client.endpoint(id).learn(Feature::Overrides, Support::Works);
                }
            }
            Some((wallet, total)) => {
                let shown = |total: Option<&U256>| total.map_or("none".into(), U256::to_string);
                let reason = format!(
                    "the total of {wallet} is {} by it and {} through multicall3",
                    shown(packed.get(wallet)),
                    shown(total.as_ref().ok()),
                );
                untried.iter().for_each(|id| self.do_without(client, id, &reason));
            }
        }
        (readings, error)
    }

    /// Reads through Multicall3 what the packed reader failed with; if that succeeds, the form of the request
    /// was what failed.
    async fn try_without(
        &self,
        calls: &Calls<'_>,
        wallets: Vec<Wallet>,
        failure: NodeError,
    ) -> ChunkRead<U256> {
        let count = wallets.len();
        let (readings, second) = self.plain.read_all(calls, wallets).await;
        if second.is_none() && readings.len() == count {
            let reason = format!("{}: {}", failure.endpoint, failure.message);
            self.do_without(calls.client(), &failure.endpoint, &reason);
        }
        (readings, second)
    }

    /// From now on this endpoint is read from through Multicall3.
    fn do_without(&self, client: &Client, endpoint: &EndpointId, why: &str) {
        if self.packed.give_up(client, endpoint, why) {
            warn!(
                "totals are read through multicall3, as the packed reader does not work here: {why}"
            );
        }
    }
}
