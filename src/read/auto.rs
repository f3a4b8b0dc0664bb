//! Which method reads a chunk; `auto` compares two, by some wallets of an endpoint's first chunk.
//!
//! The comparison is made beside the main reading, so that it takes no time of its own. What the packed reader gives
//! meanwhile waits for its outcome.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use itertools::Itertools;
use tokio::sync::{Mutex, MutexGuard};
use tracing::{info, warn};

use super::{
    bisect::ChunkRead,
    calls::{Calls, ReadError, may_be_of_request},
    method::TotalsMethod,
    packed::{Packed, PackedResult},
    settings::MethodChoice,
};
use crate::{
    rpc::{Client, Endpoint, EndpointId, Feature, NodeError, Permit, RequestError, Support},
    tally::{Reading, Total, Wallet},
};

/// What the packed reader needs of an endpoint.
const OVERRIDES: Feature = Feature::Overrides;

/// Wallets that are read by both methods.
pub(super) const COMPARED: usize = 100;

/// The methods, and the choice between them.
pub(super) struct Methods {
    pub(super) choice: MethodChoice,
    /// Reads through Multicall3; on a chain without it, each part by a call of its own.
    pub(super) plain: Arc<dyn TotalsMethod>,
    pub(super) packed: Packed,
    /// Held by the chunk that compares.
    pub(super) trial: Mutex<()>,
}

/// The right to compare the two methods.
pub(super) struct Trial<'a> {
    turn: MutexGuard<'a, ()>,
    /// For the call beside the main reading; `None` if no other may be in flight.
    beside: Option<Permit<'a>>,
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
        self.is_packed(endpoint) && is_untried(endpoint)
    }

    /// The right to compare, for the endpoint's next chunk; `None` if another has it, or nothing is to be compared.
    pub(super) fn begin_trial<'a>(
        &'a self,
        endpoint: &Endpoint,
        client: &'a Client,
    ) -> Option<Trial<'a>> {
        let is_trial = self.choice == MethodChoice::Auto && self.is_trial(endpoint);
        let turn = is_trial.then(|| self.trial.try_lock().ok()).flatten()?;
        Some(Trial { turn, beside: client.try_permit() })
    }

    fn is_packed(&self, endpoint: &Endpoint) -> bool {
        match self.choice {
            MethodChoice::Multicall3 => false,
            MethodChoice::Packed => true,
            MethodChoice::Auto => self.packed.suits(endpoint),
        }
    }

    /// Reads a chunk that was cut for this endpoint. Wallets that are left without a reading are to be read in other chunks.
    pub(super) async fn read(
        &self,
        endpoint: &Endpoint,
        calls: &Calls<'_>,
        wallets: Vec<Wallet>,
        trial: Option<Trial<'_>>,
    ) -> ChunkRead<Total> {
        if self.choice == MethodChoice::Auto && self.is_packed(endpoint) {
            return self.read_auto(calls, wallets, trial).await;
        }
        self.of(endpoint).read(calls, wallets).await
    }

    async fn read_auto(
        &self,
        calls: &Calls<'_>,
        wallets: Vec<Wallet>,
        trial: Option<Trial<'_>>,
    ) -> ChunkRead<Total> {
        let client = calls.client();
        let untried = |id: &EndpointId| is_untried(client.endpoint(id));
        let packed = self.packed.read_packed(calls, wallets.clone(), untried);
        let (turn, beside) = trial.map(|trial| (trial.turn, trial.beside)).unzip();
        let (mut result, compared) = match beside.flatten() {
            None => (packed.await, None),
            Some(permit) => {
                let plain = async {
                    let beside = calls.beside(permit);
                    self.plain.read_all(&beside, compared(&wallets).to_vec()).await
                };
                let packed = async { (packed.await, calls.park()) };
                let ((result, _parked), compared) = tokio::join!(packed, plain);
                (result, Some(compared))
            }
        };
        if !is_undecided(client, &result) {
            return match compared {
                // It was too large for a call, but these were read.
                Some(compared) if result.error.is_none() && result.is_empty() => compared,
                _ => self.finish(calls, result).await,
            };
        }
        let _turn = match turn {
            Some(turn) => turn,
            None => {
                let _parked = calls.park();
                self.trial.lock().await
            }
        };
        if is_undecided(client, &result) {
            return self.compare(calls, &wallets, result, compared).await;
        }
        // Another chunk has found out meanwhile.
        if result.error.as_ref().is_some_and(ReadError::may_be_of_request)
            && asked(&result).all(|id| client.endpoint(id).support(OVERRIDES) == Support::Works)
        {
            result = self.packed.read_packed(calls, wallets, |_| false).await;
        }
        self.finish(calls, result).await
    }

    /// Reads what the packed reader has no total for.
    async fn finish(&self, calls: &Calls<'_>, mut result: PackedResult) -> ChunkRead<Total> {
        let client = calls.client();
        if asked(&result).any(|id| client.endpoint(id).support(OVERRIDES) == Support::Missing) {
            return (Vec::new(), None);
        }
        match result.error.take() {
            Some(ReadError::Unsupported { endpoint, reason, .. }) => {
                self.do_without(client, &endpoint, &reason);
                (Vec::new(), None)
            }
            // The endpoint that takes overrides fails, and another is there that does not.
            Some(_) if !self.packed.suits(client.preferred()) => (Vec::new(), None),
            // What was read so far was not compared with anything.
            Some(error) if result.answered_by.iter().any(|id| is_untried(client.endpoint(id))) => {
                (Vec::new(), Some(error))
            }
            error => self.packed.complete(calls, PackedResult { error, ..result }).await,
        }
    }

    /// Reads some of a chunk's wallets through Multicall3, too, unless that was done. If the totals are equal, the
    /// endpoints that answered are read from by the packed reader from now on.
    async fn compare(
        &self,
        calls: &Calls<'_>,
        wallets: &[Wallet],
        mut result: PackedResult,
        compared_before: Option<ChunkRead<Total>>,
    ) -> ChunkRead<Total> {
        let client = calls.client();
        let sample = compared(wallets);
        let (mut readings, error) = match compared_before {
            Some(read) => read,
            None => self.plain.read_all(calls, sample.to_vec()).await,
        };
        if error.is_some() || readings.len() < sample.len() {
            // Nothing was learnt.
            return (readings, error);
        }
        if let Some(ReadError::Request(RequestError::Node(failure))) = result.error.take() {
            result = match self.try_few(calls, wallets, &failure).await {
                Some(few) => few,
                None => {
                    let reason = format!("{}: {}", failure.endpoint, failure.message);
                    self.do_without(client, &failure.endpoint, &reason);
                    return (readings, None);
                }
            };
        }
        let untried: HashSet<_> = result.answered_by.iter().cloned().collect();
        let untried = untried.into_iter().filter(|id| is_untried(client.endpoint(id)));
        let seen: HashSet<_> = sample.iter().copied().collect();
        match difference(&readings, &result) {
            Comparison::None => return (readings, None),
            Comparison::Equal => {
                info!(wallets = sample.len(), "the packed reader gives what multicall3 gives");
                for id in untried {
                    client.endpoint(&id).learn(OVERRIDES, Support::Works);
                }
            }
            Comparison::Different(reason) => {
                untried.for_each(|id| self.do_without(client, &id, &reason));
                return (readings, None);
            }
        }
        result.totals.retain(|(wallet, _)| !seen.contains(wallet));
        result.marked.retain(|wallet| !seen.contains(wallet));
        let (rest, error) = self.packed.complete(calls, result).await;
        readings.extend(rest);
        (readings, error)
    }

    /// Whether it is for its size that a chunk has failed where its first wallets can be read through Multicall3: then
    /// what the packed reader gives for these. `None` if it fails with them, too.
    async fn try_few(
        &self,
        calls: &Calls<'_>,
        wallets: &[Wallet],
        failure: &NodeError,
    ) -> Option<PackedResult> {
        let few = compared(wallets);
        if few.len() == wallets.len() {
            return None;
        }
        let result = self.packed.read_packed(calls, few.to_vec(), |_| true).await;
        if result.error.is_some() {
            return None;
        }
        let endpoint = calls.client().endpoint(&failure.endpoint);
        endpoint.too_large(self.packed.limit(), wallets.len(), failure);
        Some(result)
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

/// What a comparison has shown.
enum Comparison {
    /// Not one total could be compared.
    None,
    Equal,
    /// A total differs, as this says.
    Different(String),
}

/// Compares what was read through Multicall3 with what the packed reader gave. A wallet that it has no total for is read
/// through Multicall3 in any case; if it has none for any, it is of no use.
fn difference(readings: &[Reading], result: &PackedResult) -> Comparison {
    let packed: HashMap<_, _> =
        result.totals.iter().map(|(wallet, total)| (*wallet, total)).collect();
    let marked: HashSet<_> = result.marked.iter().copied().collect();
    let has_any = readings.iter().any(|(wallet, _)| packed.contains_key(wallet));
    let differs = |(wallet, total): &&Reading| match packed.get(wallet) {
        Some(by_it) => total.as_ref() != Ok(*by_it),
        None => !has_any && marked.contains(wallet) && total.is_ok(),
    };
    let shown = |total: Option<&Total>| total.map_or("none".into(), shown);
    match readings.iter().find(differs) {
        Some((wallet, total)) => Comparison::Different(format!(
            "the total of {wallet} is {} by it and {} through multicall3",
            shown(packed.get(wallet).copied()),
            shown(total.as_ref().ok()),
        )),
        None if has_any => Comparison::Equal,
        None => Comparison::None,
    }
}

/// The wallets of a chunk by which the methods are compared.
fn compared(wallets: &[Wallet]) -> &[Wallet] {
    &wallets[..wallets.len().min(COMPARED)]
}

/// True if it is not known whether the packed reader works with this endpoint.
fn is_untried(endpoint: &Endpoint) -> bool {
    endpoint.support(OVERRIDES) != Support::Works
}

/// True if a chunk may be read or have failed as it is because the packed reader does not work there.
fn is_undecided(client: &Client, result: &PackedResult) -> bool {
    asked(result).any(|id| client.endpoint(id).support(OVERRIDES) == Support::Untried)
}

/// The endpoints that have answered; if the request itself may be why one failed, only that one.
fn asked(result: &PackedResult) -> impl Iterator<Item = &EndpointId> {
    let failed = match &result.error {
        Some(ReadError::Request(RequestError::Node(failure))) if may_be_of_request(failure) => {
            Some(&failure.endpoint)
        }
        _ => None,
    };
    let answered = result.answered_by.iter().filter(|_| result.error.is_none());
    failed.into_iter().chain(answered)
}
/// A total, with the parts that are stored beside it.
fn shown(total: &Total) -> String {
    match total.parts.as_ref() {
        [] => total.sum.to_string(),
        parts => format!("{} ({})", total.sum, parts.iter().join(", ")),
    }
}
