//! Which method reads a chunk; `auto` compares two: an endpoint's first chunk is read by both.

use std::{collections::HashMap, sync::Arc};

use alloy::primitives::U256;
use tracing::{info, warn};

use super::{
    bisect::{Calls, ChunkRead, ReadError},
    method::TotalsMethod,
    multicall::Multicall3,
    packed::{Packed, PackedResult},
    settings::MethodChoice,
};
use crate::{
    rpc::{Client, Endpoint, EndpointId, ErrorKind, Feature, RequestError, Support},
    tally::{Reading, Wallet},
};

/// The methods, and the choice between them.
pub(super) struct Methods {
    pub(super) choice: MethodChoice,
    pub(super) multicall3: Arc<Multicall3>,
    pub(super) packed: Packed,
}

impl Methods {
    /// The method for an endpoint's next chunk.
    pub(super) fn of(&self, endpoint: &Endpoint) -> &dyn TotalsMethod {
        if self.is_packed(endpoint) { &self.packed } else { self.multicall3.as_ref() }
    }

    /// True if the endpoint's next chunk shows whether it can be read by the packed reader.
    pub(super) fn is_trial(&self, endpoint: &Endpoint) -> bool {
        self.is_packed(endpoint) && endpoint.support(Feature::Overrides) == Support::Untried
    }

    fn is_packed(&self, endpoint: &Endpoint) -> bool {
        match self.choice {
            MethodChoice::Multicall3 => false,
            MethodChoice::Packed => true,
            MethodChoice::Auto => endpoint.support(Feature::Overrides) != Support::Missing,
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
        let mut result = self.packed.read_packed(calls, wallets.clone()).await;
        let is_untried =
            |id: &EndpointId| client.endpoint(id).support(Feature::Overrides) != Support::Works;
        let untried: Vec<_> =
            result.answered_by.iter().filter(|id| is_untried(id)).cloned().collect();
        let is_trial =
            !untried.is_empty() || result.answered_by.is_empty() && is_untried(&endpoint.id);
        match result.error.take() {
            Some(ReadError::Unsupported { endpoint, reason }) => {
                do_without(client, &endpoint, &reason);
                self.multicall3.read_all(calls, wallets).await
            }
            None if is_trial => self.compare(calls, wallets, result, &untried).await,
            // What was read so far was not compared with anything.
            Some(error) if is_trial => match refused_by(&error) {
                Some(endpoint) => {
                    let endpoint = endpoint.clone();
                    self.try_without(calls, wallets, &endpoint, error).await
                }
                None => (Vec::new(), Some(error)),
            },
            error => self.packed.complete(calls, PackedResult { error, ..result }).await,
        }
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
        let (readings, error) = self.multicall3.read_all(calls, wallets).await;
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
                untried.iter().for_each(|id| do_without(client, id, &reason));
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
        endpoint: &EndpointId,
        error: ReadError,
    ) -> ChunkRead<U256> {
        let count = wallets.len();
        let (readings, second) = self.multicall3.read_all(calls, wallets).await;
        if second.is_none() && readings.len() == count {
            do_without(calls.client(), endpoint, &error.to_string());
            return (readings, None);
        }
        (readings, Some(error))
    }
}

/// From now on this endpoint is read from through Multicall3.
fn do_without(client: &Client, endpoint: &EndpointId, why: &str) {
    let before = client.endpoint(endpoint).learn(Feature::Overrides, Support::Missing);
    if before != Support::Missing {
        warn!("totals are read through multicall3, as the packed reader does not work here: {why}");
    }
}

/// The endpoint that answered with this error, and may have refused the form of the request.
fn refused_by(error: &ReadError) -> Option<&EndpointId> {
    let ReadError::Request(RequestError::Node(failure)) = error else { return None };
    let is_refusal = matches!(failure.kind, ErrorKind::Unreachable | ErrorKind::Refused);
    (is_refusal && failure.cause.is_none()).then_some(&failure.endpoint)
}
