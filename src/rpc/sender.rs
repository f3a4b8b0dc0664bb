//! One attempt: a request to one endpoint, within the limits of rate, concurrency and number, and until a shutdown.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    endpoint::Endpoint,
    endpoint_id::EndpointId,
    error::{NodeError, RequestError},
    kind::ErrorKind,
    learnt::lock,
    limiter::{ConcurrencyLimiter, Permit, RateLimiter, RateLimits},
    request_log::RequestLog,
};
use crate::tally::{RequestCounts, RequestSeries, Shutdown};

/// Bytes that a response may have beside the result: an error repeats the request, or worse.
const ROOM_FOR_ERROR: usize = 8 << 20;
/// Bytes of a response, at most.
const LONGEST_RESPONSE: usize = 64 << 20;

/// Why a result does not count.
pub(super) enum Rejected {
    /// It makes no sense.
    Malformed(String),
    /// The endpoint does not have the block.
    NoBlock(String),
}

impl From<String> for Rejected {
    fn from(message: String) -> Self {
        Self::Malformed(message)
    }
}

impl Rejected {
    pub(super) fn by(self, endpoint: &EndpointId) -> NodeError {
        match self {
            Self::Malformed(message) => NodeError::malformed(endpoint, message),
            Self::NoBlock(message) => {
                NodeError::new(endpoint, ErrorKind::BlockUnavailable, message)
            }
        }
    }
}

/// Sends requests, each once.
pub(super) struct Sender {
    rates: RateLimiter,
    concurrency: ConcurrencyLimiter,
    max_calls: u64,
    is_spent: AtomicBool,
    requests: AtomicU64,
    eth_calls: AtomicU64,
    log: RequestLog,
    shutdown: Shutdown,
}

impl Sender {
    pub(super) fn new(rates: RateLimits, concurrency: usize, shutdown: Shutdown) -> Self {
        Self {
            rates: RateLimiter::new(rates),
            concurrency: ConcurrencyLimiter::new(concurrency),
            max_calls: rates.max_calls.unwrap_or(u64::MAX),
            is_spent: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            eth_calls: AtomicU64::new(0),
            log: RequestLog::default(),
            shutdown,
        }
    }

    /// Requests sent so far; their retries are not known here.
    pub(super) fn counts(&self) -> RequestCounts {
        RequestCounts {
            requests: self.requests.load(Relaxed),
            eth_calls: self.eth_calls.load(Relaxed),
            retries: 0,
        }
    }

    /// The same by method, endpoint and outcome, of requests that have ended.
    pub(super) fn series(&self) -> Vec<RequestSeries> {
        self.log.series()
    }

    /// True once the limit on `eth_call`s was reached.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent.load(Relaxed)
    }

    /// Waits until one more `eth_call` may be in flight; `cap` may lower the limit for this one.
    pub(super) async fn permit(&self, cap: impl Fn() -> usize) -> Permit<'_> {
        self.concurrency.acquire(cap).await
    }

    /// A permit, if one more `eth_call` may be in flight now.
    pub(super) fn try_permit(&self) -> Option<Permit<'_>> {
        self.concurrency.try_acquire()
    }

    /// How many `eth_call`s may be in flight now.
    pub(super) fn calls_at_once(&self) -> usize {
        self.concurrency.limit()
    }

    /// Sends a request to an endpoint, once.
    pub(super) async fn ask<P: Serialize, R: DeserializeOwned, T>(
        &self,
        endpoint: &Endpoint,
        method: &'static str,
        params: P,
        read: impl Fn(R) -> Result<T, Rejected>,
    ) -> Result<T, RequestError> {
        self.ask_long(endpoint, method, &params, None, read).await
    }

    /// The same for a result of `returned` bytes in hexadecimal, if that is known.
    pub(super) async fn ask_long<P: Serialize, R: DeserializeOwned, T>(
        &self,
        endpoint: &Endpoint,
        method: &'static str,
        params: &P,
        returned: Option<usize>,
        read: impl Fn(R) -> Result<T, Rejected>,
    ) -> Result<T, RequestError> {
        let needed = returned.map_or(usize::MAX, |bytes| 2 * bytes + ROOM_FOR_ERROR);
        let limit = needed.min(LONGEST_RESPONSE);
        let first = self.send(endpoint, method, params, limit, &read).await?;
        match first {
            (Err(failure), true) if endpoint.refused_gzip(&failure) => {
                info!(method, "{failure}; sending it again, uncompressed");
                Ok(self.send(endpoint, method, params, limit, &read).await?.0?)
            }
            (answer, is_compressed) => {
                if is_compressed && answer.is_ok() {
                    endpoint.took_gzip();
                }
                Ok(answer?)
            }
        }
    }

    /// One request, within the limits; whether it was compressed.
    async fn send<P: Serialize, R: DeserializeOwned, T>(
        &self,
        endpoint: &Endpoint,
        method: &'static str,
        params: &P,
        limit: usize,
        read: impl Fn(R) -> Result<T, Rejected>,
    ) -> Result<(Result<T, NodeError>, bool), RequestError> {
        self.unless_stopped(endpoint, self.rates.until_ready(method)).await?;
        if method == "eth_call" && !self.may_call() {
            return Err(no_answer(endpoint));
        }
        debug!(method, endpoint = %endpoint.id, "sending");
        self.requests.fetch_add(1, Relaxed);
        let mut counted = self.log.sent(method, &endpoint.id);
        let sent = Instant::now();
        let (answer, is_compressed) = tokio::select! {
            answer = endpoint.request::<P, R>(method, params, limit) => answer,
            () = self.shutdown.overdue() => return Err(no_answer(endpoint)),
        };
        match &answer {
            Ok(_) => {
                self.concurrency.succeeded();
                *lock(&endpoint.learnt.answered) = Some(Instant::now());
            }
            Err(failure) if failure.kind == ErrorKind::RateLimited => {
                self.concurrency.rate_limited(sent);
            }
            Err(_) => {}
        }
        let read = answer.and_then(|answer| read(answer).map_err(|why| why.by(&endpoint.id)));
        counted.ended(read.as_ref().err().map(|failure| failure.kind));
        Ok((read, is_compressed))
    }

    /// Waits for this, unless a shutdown comes first.
    pub(super) async fn unless_stopped<T>(
        &self,
        endpoint: &Endpoint,
        wait: impl Future<Output = T>,
    ) -> Result<T, RequestError> {
        tokio::select! {
            biased;
            done = wait => Ok(done),
            () = self.shutdown.requested() => Err(no_answer(endpoint)),
        }
    }

    /// Counts an `eth_call`; requests a shutdown instead once there were enough.
    fn may_call(&self) -> bool {
        let one_more = |calls: u64| (calls < self.max_calls).then_some(calls + 1);
        let counted = self.eth_calls.fetch_update(Relaxed, Relaxed, one_more).is_ok();
        if !counted {
            self.is_spent.store(true, Relaxed);
            self.shutdown.drain();
        }
        counted
    }
}

/// A shutdown came before the endpoint answered.
fn no_answer(endpoint: &Endpoint) -> RequestError {
    let waited = NodeError::malformed(&endpoint.id, "no answer yet".to_owned());
    RequestError::Stopped(waited.to_string())
}
