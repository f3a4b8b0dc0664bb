//! A chain through several endpoints. `send` and `call` send requests to it, and `failover` picks the endpoint.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use itertools::Itertools;
use url::Url;

use super::{
    block::BlockChoice,
    checks::{Ahead, Clock, Contracts, Expected},
    endpoint::Endpoint,
    endpoint_id::EndpointId,
    learnt::lock,
    limiter::{Permit, RateLimits},
    sender::Sender,
    transport::{HttpTransport, Transport},
};
use crate::{
    profile::Profile,
    tally::{NodeHint, RequestCounts, RequestSeries, Shutdown},
};

/// How to reach the chain.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The endpoints, in order of preference. Not empty.
    pub urls: Vec<Url>,
    /// How fast requests may follow each other, and how many calls there may be.
    pub rates: RateLimits,
    /// `eth_call`s in flight, at most; at least 1.
    pub concurrency: usize,
    /// Retries per request.
    pub retries: u32,
    /// How long to wait for one answer.
    pub timeout: Duration,
    /// The block at which contracts must exist.
    pub block: BlockChoice,
    /// Which contracts must exist.
    pub contracts: Contracts,
    /// How old the newest block may be; `None` for a chain that stands still.
    pub max_head_age: Option<Duration>,
}

/// What a client takes from its surroundings; a simulation has its own.
pub struct Ambient {
    /// What requests go through, one for each URL.
    pub transports: Vec<Arc<dyn Transport>>,
    /// All that is random follows from it.
    pub seed: u64,
    /// Tells the time.
    pub clock: Clock,
}

/// JSON-RPC over HTTP to one chain.
pub struct Client {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) sender: Sender,
    pub(super) expected: Expected,
    /// Retries per request.
    pub(super) retries: u32,
    pub(super) retried: AtomicU64,
    /// The newest block of a total in the table.
    pub(super) newest_stored: AtomicU64,
    /// Checks of the first endpoint that were begun ahead, until they are used.
    pub(super) ahead: Mutex<Option<Ahead>>,
    pub(super) shutdown: Shutdown,
}

impl Client {
    /// A client for the chain and the contracts of `profile`. Sends nothing yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(
        settings: ClientSettings,
        profile: &Profile,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let transports = HttpTransport::of_each(&settings.urls)?.into_iter();
        let ambient = Ambient {
            transports: transports.map(|http| Arc::new(http) as _).collect(),
            seed: rand::random(),
            clock: Arc::new(SystemTime::now),
        };
        Ok(Self::within(ambient, settings, profile, shutdown))
    }

    /// The same within these surroundings.
    pub fn within(
        Ambient { transports, seed, clock }: Ambient,
        settings: ClientSettings,
        profile: &Profile,
        shutdown: Shutdown,
    ) -> Self {
        let endpoints = settings.urls.iter().zip(transports).enumerate();
        let endpoint = |(index, (url, transport))| {
            let seed = seed.wrapping_add(index as u64);
            Endpoint::new(EndpointId::new(index, url), transport, settings.timeout, seed)
        };
        let ClientSettings { contracts, block, max_head_age, .. } = settings;
        Self {
            endpoints: endpoints.map(endpoint).collect(),
            sender: Sender::new(settings.rates, settings.concurrency, shutdown.clone()),
            expected: Expected::of(profile, contracts, block, max_head_age, clock),
            retries: settings.retries,
            retried: AtomicU64::new(0),
            newest_stored: AtomicU64::new(0),
            ahead: Mutex::default(),
            shutdown,
        }
    }

    /// Begins to check the first endpoint, so that the answers are there when the first request needs them.
    pub fn check_ahead(self: &Arc<Self>) {
        let client = Arc::clone(self);
        let ahead = async move { client.checker(&client.endpoints[0]).ask_ahead().await };
        *lock(&self.ahead) = Some(tokio::spawn(ahead));
    }

    /// The table holds a total that was read at this block: an endpoint far behind it is passed over.
    pub fn has_stored(&self, block: u64) {
        self.newest_stored.fetch_max(block, Relaxed);
    }

    /// Retries per request.
    pub const fn retries(&self) -> u32 {
        self.retries
    }

    /// Scheme, host and port of every endpoint.
    pub fn endpoints(&self) -> String {
        self.endpoints.iter().map(|endpoint| &endpoint.id).join(", ")
    }

    /// True if there is another endpoint to ask.
    pub const fn has_several_endpoints(&self) -> bool {
        self.endpoints.len() > 1
    }

    /// Requests sent so far, retries and halved chunks included.
    pub fn counts(&self) -> RequestCounts {
        RequestCounts { retries: self.retried.load(Relaxed), ..self.sender.counts() }
    }

    /// Requests that have ended, by method, endpoint and outcome.
    pub fn series(&self) -> Vec<RequestSeries> {
        self.sender.series()
    }

    /// True once the limit on `eth_call`s was reached.
    pub fn is_spent(&self) -> bool {
        self.sender.is_spent()
    }

    /// Waits until one more `eth_call` may be in flight; `cap` may lower the limit for this one.
    pub async fn permit(&self, cap: impl Fn() -> usize) -> Permit<'_> {
        self.sender.permit(cap).await
    }

    /// A permit, if one more `eth_call` may be in flight now.
    pub fn try_permit(&self) -> Option<Permit<'_>> {
        self.sender.try_permit()
    }

    /// How many `eth_call`s may be in flight now.
    pub fn calls_at_once(&self) -> usize {
        self.sender.calls_at_once()
    }

    /// Remembers what earlier runs found of the endpoints.
    pub fn take_hints(&self, hints: &[NodeHint]) {
        self.endpoints.iter().for_each(|endpoint| endpoint.take_hints(hints));
    }

    /// What was found of the endpoints, as far as it is worth to be remembered and not remembered yet.
    pub fn hints(&self) -> Vec<NodeHint> {
        self.endpoints.iter().flat_map(Endpoint::hints).collect()
    }

    /// The endpoint that would be asked now, or after its pause.
    pub fn preferred(&self) -> &Endpoint {
        let first = |is_meant: fn(&Endpoint) -> bool| self.endpoints.iter().find(|it| is_meant(it));
        let left = first(Endpoint::is_available).or_else(|| first(Endpoint::is_left));
        left.unwrap_or(&self.endpoints[0])
    }

    /// The endpoint that would be asked now, of those that `suits` is true for; `None` if it is for none.
    pub fn preferred_of(&self, suits: impl Fn(&Endpoint) -> bool) -> Option<&Endpoint> {
        let suitable = || self.endpoints.iter().filter(|endpoint| suits(endpoint));
        suitable().find(|endpoint| endpoint.is_available()).or_else(|| suitable().next())
    }

    /// Another endpoint that may be asked now.
    pub fn other_than(&self, endpoint: &Endpoint) -> Option<&Endpoint> {
        let mut others = self.endpoints.iter().filter(|other| other.id != endpoint.id);
        others.find(|other| other.is_checked() && other.is_available())
    }

    /// The endpoint with this id.
    pub fn endpoint(&self, id: &EndpointId) -> &Endpoint {
        &self.endpoints[id.index()]
    }

    /// Gives endpoints that were given up another chance, for a process that outlives a quota.
    pub fn revive(&self) {
        self.endpoints.iter().for_each(Endpoint::revive);
    }
}
