//! Requests to one chain through several endpoints: rate-limited, retried, failed over.
//!
//! The first available endpoint is asked. A failure lets an endpoint cool down, so that the next one is asked
//! meanwhile, and the first again as soon as it may have recovered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use alloy::primitives::Bytes;
use itertools::Itertools;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tracing::{info, warn};
use url::Url;

use super::{
    block::{BlockChoice, BlockRef},
    checks::{Contracts, Expected},
    endpoint::{Availability, Endpoint, Feature, Support},
    endpoint_id::EndpointId,
    error::RequestError,
    kind::{Action, ErrorKind},
    limiter::{Permit, RateLimits},
    request::{Call, CallParams, Request},
    sender::Sender,
    transport::{HttpTransport, Transport},
};
use crate::{
    profile::Profile,
    tally::{RequestCounts, Shutdown},
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
}

/// JSON-RPC over HTTP to one chain.
pub struct Client {
    endpoints: Vec<Endpoint>,
    sender: Sender,
    expected: Expected,
    retries: u32,
    retried: AtomicU64,
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
        let transports = transports.map(|http| Arc::new(http) as _).collect();
        Ok(Self::through(transports, rand::random(), settings, profile, shutdown))
    }

    /// The same through these transports, one for each URL. All that is random follows from `seed`.
    pub fn through(
        transports: Vec<Arc<dyn Transport>>,
        seed: u64,
        settings: ClientSettings,
        profile: &Profile,
        shutdown: Shutdown,
    ) -> Self {
        let endpoints = settings.urls.iter().zip(transports).enumerate();
        let endpoint = |(index, (url, transport))| {
            Endpoint::new(EndpointId::new(index, url), transport, settings.timeout, seed)
        };
        Self {
            endpoints: endpoints.map(endpoint).collect(),
            sender: Sender::new(settings.rates, settings.concurrency, shutdown.clone()),
            expected: Expected::of(profile, settings.contracts, settings.block),
            retries: settings.retries,
            retried: AtomicU64::new(0),
            shutdown,
        }
    }

    /// Retries per request.
    pub const fn retries(&self) -> u32 {
        self.retries
    }

    /// Scheme, host and port of every endpoint.
    pub fn endpoints(&self) -> String {
        self.endpoints.iter().map(|endpoint| &endpoint.id).join(", ")
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

    /// The endpoint with this id.
    pub fn endpoint(&self, id: &EndpointId) -> &Endpoint {
        &self.endpoints[id.index()]
    }

    /// Gives endpoints that were given up another chance, for a process that outlives a quota.
    pub fn revive(&self) {
        self.endpoints.iter().for_each(Endpoint::revive);
    }

    /// An `eth_call` at this block, by its hash where that is known and understood; `read` decodes the returned
    /// bytes. Returns also which endpoint answered. `once` is as in [`Request`].
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn eth_call<T>(
        &self,
        permit: &Permit<'_>,
        once: bool,
        call: Call,
        block: BlockRef,
        read: impl Fn(Bytes) -> Result<T, String>,
    ) -> Result<(T, &Endpoint), RequestError> {
        let send = async |block: BlockRef| {
            let request = Request { once, ..Request::new("eth_call", ()) };
            let params = |endpoint: &Endpoint| {
                let takes_hash = endpoint.support(Feature::BlockHash) != Support::Missing;
                let hash = block.hash.filter(|_| takes_hash);
                CallParams(call.clone(), BlockRef { hash, ..block })
            };
            self.send_to_any(request, params, &read, Some((permit, block.number))).await
        };
        match send(block).await {
            Err(RequestError::Node(failure))
                if block.hash.is_some() && failure.kind == ErrorKind::Unknown =>
            {
                let (answer, endpoint) = send(block.number.into()).await?;
                if failure.endpoint == endpoint.id
                    && endpoint.learn(Feature::BlockHash, Support::Missing) != Support::Missing
                {
                    warn!(
                        "totals are read by block number, as {} does not take hashes: {}",
                        endpoint.id, failure.message
                    );
                }
                Ok((answer, endpoint))
            }
            called => called,
        }
    }

    /// Sends a request with the usual retries.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn request<P: Serialize, R: DeserializeOwned, T>(
        &self,
        method: &'static str,
        params: P,
        read: impl Fn(R) -> Result<T, String>,
    ) -> Result<T, RequestError> {
        self.send(Request::new(method, params), read).await
    }

    /// Sends a request until it is answered; `read` decodes the answer.
    ///
    /// # Errors
    /// [`RequestError::Node`] with [`Action::Split`] at once, with any other action when every retry is spent.
    pub async fn send<P: Serialize, R: DeserializeOwned, T>(
        &self,
        request: Request<P>,
        read: impl Fn(R) -> Result<T, String>,
    ) -> Result<T, RequestError> {
        Ok(self.send_and_tell(request, read).await?.0)
    }

    /// The same; returns also which endpoint answered.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_and_tell<P: Serialize, R: DeserializeOwned, T>(
        &self,
        Request { method, params, once, freshness }: Request<P>,
        read: impl Fn(R) -> Result<T, String>,
    ) -> Result<(T, &Endpoint), RequestError> {
        let request = Request { method, params: (), once, freshness };
        self.send_to_any(request, |_| &params, &read, None).await
    }

    async fn send_to_any<P: Serialize, R: DeserializeOwned, T>(
        &self,
        request: Request<()>,
        params: impl Fn(&Endpoint) -> P,
        read: &impl Fn(R) -> Result<T, String>,
        call: Option<(&Permit<'_>, u64)>,
    ) -> Result<(T, &Endpoint), RequestError> {
        let Request { method, once, freshness, .. } = request;
        let retries = if once { 0 } else { self.retries as usize };
        let mut attempts_left = retries + self.endpoints.len();
        let mut last = None;
        for attempt in 0.. {
            let endpoint = match self.available_endpoint(call.map(|(_, block)| block)).await {
                Ok(endpoint) => endpoint,
                Err(error) => return Err(last.map_or(error, RequestError::Node)),
            };
            let sent = async {
                endpoint
                    .checked()
                    .get_or_try_init(|| self.sender.check(endpoint, &self.expected))
                    .await?;
                if let Some((permit, _)) = call {
                    self.sender.unless_stopped(endpoint, permit.renew()).await?;
                }
                let answer = self.sender.ask(endpoint, method, params(endpoint), read).await?;
                self.sender.require_fresh(endpoint, freshness).await?;
                Ok(answer)
            };
            let failure = match sent.await {
                Ok(answer) => return Ok((answer, endpoint)),
                Err(RequestError::Node(failure)) => failure,
                // That a request failed says more than that nothing was sent any more.
                Err(RequestError::Stopped(_)) if last.is_some() => break,
                Err(error) => return Err(error),
            };
            if let (Some((_, block)), ErrorKind::BlockUnavailable) = (call, failure.kind) {
                endpoint.refused_block(block);
            }
            attempts_left -= 1;
            if failure.kind == ErrorKind::Unknown {
                // It is an answer, and the next one will hardly be another.
                attempts_left = attempts_left.min(usize::from(attempt == 0));
            }
            let action = failure.kind.action();
            info!(method, ?action, "{failure}");
            if action == Action::Split {
                return Err(failure.into());
            }
            endpoint.let_cool_down(&failure, attempt, self.endpoints.len() == 1);
            last = Some(failure);
            if attempts_left == 0 || self.shutdown.is_requested() {
                break;
            }
            self.retried.fetch_add(1, Relaxed);
        }
        Err(last.expect("the loop ends after a failure").into())
    }

    /// The first endpoint that may be asked, as soon as there is one; if possible, one that is not known to lack the
    /// state of `block`.
    async fn available_endpoint(&self, block: Option<u64>) -> Result<&Endpoint, RequestError> {
        loop {
            let now = Instant::now();
            let mut earliest: Option<Instant> = None;
            let mut available = None;
            for endpoint in &self.endpoints {
                match endpoint.availability() {
                    Availability::From(then) if then <= now => {
                        if block.is_none_or(|block| endpoint.may_have_state(block)) {
                            return Ok(endpoint);
                        }
                        available = available.or(Some(endpoint));
                    }
                    Availability::From(then) => {
                        earliest = Some(earliest.map_or(then, |earliest| earliest.min(then)));
                    }
                    Availability::GivenUp(_) => {}
                }
            }
            if let Some(endpoint) = available {
                return Ok(endpoint);
            }
            let Some(earliest) = earliest else { return Err(self.no_endpoint()) };
            tokio::select! {
                () = tokio::time::sleep_until(earliest) => {}
                () = self.shutdown.requested() => {
                    return Err(RequestError::Stopped("stopped before it was done".to_owned()));
                }
            }
        }
    }

    fn no_endpoint(&self) -> RequestError {
        let reasons = self.endpoints.iter().filter_map(|endpoint| match endpoint.availability() {
            Availability::GivenUp(reason) => Some(reason),
            Availability::From(_) => None,
        });
        RequestError::NoEndpoint(reasons.collect::<Vec<_>>().join("; "))
    }
}
