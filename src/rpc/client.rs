//! Requests to one chain through several endpoints: rate-limited, retried, failed over.
//!
//! The first available endpoint is asked. A failure lets an endpoint cool down, so that the next one is asked
//! meanwhile, and the first again as soon as it may have recovered.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use itertools::Itertools;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep_until};
use tracing::info;
use url::Url;

use super::{
    attempts::{Attempts, Next},
    block::BlockChoice,
    checks::{CheckFailure, Checker, Clock, Contracts, Expected},
    endpoint::{Availability, Endpoint, SILENT, Unfit},
    endpoint_id::EndpointId,
    error::{NodeError, RequestError},
    limiter::{Permit, RateLimits},
    request::{Freshness, Request},
    sender::{Rejected, Sender},
    transport::{HttpTransport, Transport},
};
use crate::{
    profile::Profile,
    tally::{RequestCounts, Shutdown},
};

/// How long an endpoint is asked for a block that it had, or that is named by its hash: another backend may be behind.
pub(super) const LAG: Duration = Duration::from_secs(2);

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
    endpoints: Vec<Endpoint>,
    pub(super) sender: Sender,
    expected: Expected,
    retries: u32,
    retried: AtomicU64,
    /// The newest block of a total in the table.
    newest_stored: AtomicU64,
    shutdown: Shutdown,
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
            shutdown,
        }
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

    /// True once the limit on `eth_call`s was reached.
    pub fn is_spent(&self) -> bool {
        self.sender.is_spent()
    }

    /// Waits until one more `eth_call` may be in flight; `cap` may lower the limit for this one.
    pub async fn permit(&self, cap: impl Fn() -> usize) -> Permit<'_> {
        self.sender.permit(cap).await
    }

    /// The endpoint that would be asked now.
    pub fn preferred(&self) -> &Endpoint {
        let available = self.endpoints.iter().find(|endpoint| endpoint.is_available());
        available.unwrap_or(&self.endpoints[0])
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

    /// Sends a request with the usual retries.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn request<P, R, T>(
        &self,
        method: &'static str,
        params: P,
        read: impl Fn(R) -> Result<T, String> + Sync,
    ) -> Result<T, RequestError>
    where
        P: Serialize + Send + Sync,
        R: DeserializeOwned + Send,
        T: Send,
    {
        self.send(Request::new(method, params), read).await
    }

    /// Sends a request until it is answered; `read` decodes the answer.
    ///
    /// # Errors
    /// [`RequestError::Node`] when every retry is spent; of a request that can be split, as soon as that may help.
    pub async fn send<P, R, T>(
        &self,
        request: Request<P>,
        read: impl Fn(R) -> Result<T, String> + Sync,
    ) -> Result<T, RequestError>
    where
        P: Serialize + Send + Sync,
        R: DeserializeOwned + Send,
        T: Send,
    {
        Ok(self.send_and_tell(request, read).await?.0)
    }

    /// The same; returns also which endpoint answered.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_and_tell<P, R, T>(
        &self,
        request: Request<P>,
        read: impl Fn(R) -> Result<T, String> + Sync,
    ) -> Result<(T, &Endpoint), RequestError>
    where
        P: Serialize + Send + Sync,
        R: DeserializeOwned + Send,
        T: Send,
    {
        self.send_strictly(request, |result| read(result).map_err(Rejected::from)).await
    }

    /// The same; `read` may also say that there is no such block.
    pub(super) async fn send_strictly<P, R, T>(
        &self,
        request: Request<P>,
        read: impl Fn(R) -> Result<T, Rejected> + Sync,
    ) -> Result<(T, &Endpoint), RequestError>
    where
        P: Serialize + Send + Sync,
        R: DeserializeOwned + Send,
        T: Send,
    {
        self.attempt(&AnyRequest { sender: &self.sender, request, read, form: PhantomData }).await
    }

    /// Makes attempts at one endpoint after another, until one succeeds or no further one helps.
    pub(super) async fn attempt<A: Attempt>(
        &self,
        attempt: &A,
    ) -> Result<(A::Answer, &Endpoint), RequestError> {
        let (can_split, state_of) = (attempt.can_split(), attempt.state_of());
        let mut attempts =
            Attempts::new(attempt.method(), self.endpoints.len(), self.retries, can_split);
        loop {
            let endpoint = match self.next_endpoint(&attempts, attempt).await {
                Ok(endpoint) => endpoint,
                Err(error) => return Err(self.failed(attempts, error)),
            };
            if !endpoint.is_checked() {
                let has_others = self.has_others(endpoint);
                match self.checker(endpoint).check().await {
                    Ok(()) => {}
                    Err(CheckFailure::Unfit(unfit, time)) => {
                        self.pass_over(endpoint, unfit, time).await;
                        continue;
                    }
                    Err(CheckFailure::Request(RequestError::Node(failure))) => {
                        if failure.is_silent() {
                            let reason = failure.to_string();
                            let unfit = Unfit { reason, is_mistake: false };
                            self.pass_over(endpoint, unfit, SILENT).await;
                        }
                        let next = attempts.failed(failure, None);
                        // The only endpoint has had every retry.
                        if next == Next::Return || !has_others {
                            return Err(self.failed(attempts, RequestError::stopped()));
                        }
                        continue;
                    }
                    Err(CheckFailure::Request(error)) => return Err(self.failed(attempts, error)),
                }
            }
            let failure = match attempt.at(endpoint).await {
                Ok(answer) => return Ok((answer, endpoint)),
                Err(RequestError::Node(failure)) => failure,
                Err(error) => return Err(self.failed(attempts, error)),
            };
            info!(method = attempt.method(), kind = ?failure.kind, "{failure}");
            let patience = attempt.patience(endpoint);
            if !failure.kind.is_of_request() {
                // After an odd answer the endpoint is as well as before.
                let is_odd = failure.kind.is_odd_answer();
                let failures = if is_odd { 0 } else { attempts.failures() };
                endpoint.let_cool_down(&failure, failures, self.endpoints.len() == 1);
            }
            let next = attempts.failed(failure, patience);
            if let Some(block) = state_of.filter(|_| !attempts.may_ask(endpoint.id.index())) {
                endpoint.refused_block(block);
            }
            if next == Next::Return || self.shutdown.is_requested() {
                return Err(self.failed(attempts, RequestError::stopped()));
            }
            self.retried.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn checker<'a>(&'a self, endpoint: &'a Endpoint) -> Checker<'a> {
        Checker {
            sender: &self.sender,
            expected: &self.expected,
            endpoint,
            retries: self.retries,
            is_only_one: self.endpoints.len() == 1,
            has_others: self.has_others(endpoint),
            newest_stored: self.newest_stored.load(Relaxed),
            shutdown: &self.shutdown,
        }
    }

    /// True if another endpoint can be asked instead of this one.
    fn has_others(&self, endpoint: &Endpoint) -> bool {
        let mut others = self.endpoints.iter().filter(|other| other.id != endpoint.id);
        others.any(|other| unfit(other).is_none())
    }

    /// Passes an endpoint over for this time, and then checks it again.
    pub(super) async fn pass_over(&self, endpoint: &Endpoint, unfit: Unfit, time: Duration) {
        endpoint.check_again().await;
        endpoint.pass_over(unfit, time, self.endpoints.len() == 1);
    }

    /// The first endpoint that may be asked, as soon as there is one; if possible, one that is not known to lack the
    /// state that is needed.
    async fn next_endpoint<A: Attempt>(
        &self,
        attempts: &Attempts,
        attempt: &A,
    ) -> Result<&Endpoint, RequestError> {
        let block = attempt.state_of();
        loop {
            let now = Instant::now();
            let mut earliest: Option<Instant> = None;
            let mut available = None;
            let asked = |endpoint: &&Endpoint| {
                attempts.may_ask(endpoint.id.index()) && attempt.suits(endpoint)
            };
            for endpoint in self.endpoints.iter().filter(asked) {
                let Availability::From(then) = endpoint.availability() else { continue };
                if then > now {
                    earliest = Some(earliest.map_or(then, |earliest| earliest.min(then)));
                    continue;
                }
                if block.is_none_or(|block| endpoint.may_have_state(block)) {
                    return Ok(endpoint);
                }
                available = available.or(Some(endpoint));
            }
            if let Some(endpoint) = available {
                return Ok(endpoint);
            }
            let earliest = earliest.filter(|_| attempts.may_wait());
            let Some(earliest) = earliest else { return Err(self.no_endpoint()) };
            tokio::select! {
                () = sleep_until(earliest) => {}
                () = self.shutdown.requested() => return Err(RequestError::stopped()),
            }
        }
    }

    /// The error of a request: what its attempts say, or `otherwise` if there were none.
    fn failed(&self, attempts: Attempts, otherwise: RequestError) -> RequestError {
        let Some((mut failure, others)) = attempts.into_failures() else { return otherwise };
        let mut seen: Vec<_> = others.iter().map(|other| other.endpoint.index()).collect();
        seen.push(failure.endpoint.index());
        let unseen = self.endpoints.iter().filter(|other| !seen.contains(&other.id.index()));
        let unfit = unseen.filter_map(unfit).map(|unfit| unfit.reason);
        failure.elsewhere = others.iter().map(NodeError::to_string).chain(unfit).collect();
        failure.into()
    }

    fn no_endpoint(&self) -> RequestError {
        let unfit: Vec<_> = self.endpoints.iter().filter_map(unfit).collect();
        let reasons = unfit.iter().map(|unfit| &unfit.reason).join("; ");
        match !unfit.is_empty() && unfit.iter().all(|unfit| unfit.is_mistake) {
            true => RequestError::Settings(reasons),
            false => RequestError::NoEndpoint(reasons),
        }
    }
}

/// What is sent to one endpoint after another until it is answered.
#[async_trait]
pub(super) trait Attempt: Sync {
    /// What it is answered with.
    type Answer;

    /// One attempt at this endpoint.
    async fn at(&self, endpoint: &Endpoint) -> Result<Self::Answer, RequestError>;

    /// The method, for logs.
    fn method(&self) -> &'static str;

    /// As in [`Request`].
    fn can_split(&self) -> bool;

    /// How long it is worth asking this endpoint for a block that is unavailable; `None` while there are retries.
    fn patience(&self, endpoint: &Endpoint) -> Option<Duration>;

    /// The block whose state it needs.
    fn state_of(&self) -> Option<u64> {
        None
    }

    /// False if this endpoint is known not to understand it.
    fn suits(&self, _endpoint: &Endpoint) -> bool {
        true
    }
}

/// A request that is the same for every endpoint.
struct AnyRequest<'a, P, R, F> {
    sender: &'a Sender,
    request: Request<P>,
    read: F,
    form: PhantomData<fn(R)>,
}

#[async_trait]
impl<P, R, T, F> Attempt for AnyRequest<'_, P, R, F>
where
    P: Serialize + Send + Sync,
    R: DeserializeOwned + Send,
    T: Send,
    F: Fn(R) -> Result<T, Rejected> + Sync,
{
    type Answer = T;

    async fn at(&self, endpoint: &Endpoint) -> Result<T, RequestError> {
        let Request { method, params, freshness, .. } = &self.request;
        let answer = self.sender.ask(endpoint, method, params, &self.read).await?;
        self.sender.require_fresh(endpoint, *freshness).await?;
        Ok(answer)
    }

    fn method(&self) -> &'static str {
        self.request.method
    }

    fn can_split(&self) -> bool {
        self.request.can_split
    }

    fn patience(&self, endpoint: &Endpoint) -> Option<Duration> {
        match self.request.freshness {
            Freshness::Any | Freshness::HasHash(_) => Some(LAG),
            Freshness::HasBlock(block) => endpoint.had_block(block).then_some(LAG),
        }
    }
}

/// Why this endpoint cannot be used now.
fn unfit(endpoint: &Endpoint) -> Option<Unfit> {
    match endpoint.availability() {
        Availability::GivenUp(unfit) | Availability::Unfit(unfit, _) => Some(unfit),
        Availability::From(_) => None,
    }
}
