//! Requests to one chain through several endpoints: metered, retried, failed over.
//!
//! The first endpoint that is not resting is asked; a failure lets an endpoint rest, so
//! that the next one is asked meanwhile, and the first again as soon as it may have
//! recovered. It knows nothing of wallets.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use alloy::{
    primitives::Bytes,
    rpc::json_rpc::{RpcRecv, RpcSend},
};
use anyhow::Context;
use itertools::Itertools;
use tokio::time::Instant;
use tracing::{debug, info};
use url::Url;

use super::{
    Action, BlockChoice, Class, Contracts, Failure, PaceSettings, Proof,
    block::At,
    call::{Call, CallParams},
    endpoint::{Endpoint, State},
    lanes::Lanes,
    pace::Pace,
    preflight::Expected,
};
use crate::{
    profile::Profile,
    tally::{Stop, Stopped},
};

/// How to reach the chain.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The endpoints, in order of preference. Not empty.
    pub urls: Vec<Url>,
    /// How fast requests may follow each other, and how many calls there may be.
    pub pace: PaceSettings,
    /// `eth_call`s in flight, at most; at least 1.
    pub concurrency: usize,
    /// How often a request is tried again.
    pub retries: u32,
    /// How long to wait for one answer.
    pub timeout: Duration,
    /// Where to look whether the contracts exist.
    pub block: BlockChoice,
    /// Which contracts must exist.
    pub contracts: Contracts,
}

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests of every kind, every attempt counted.
    pub requests: u64,
    /// `eth_call`s among them.
    pub eth_calls: u64,
    /// Attempts that were made because one before had failed.
    pub retries: u64,
}

/// JSON-RPC over HTTP to one chain.
pub struct Client {
    endpoints: Vec<Endpoint>,
    pace: Pace,
    lanes: Lanes,
    retries: u32,
    max_calls: u64,
    is_spent: AtomicBool,
    pub(super) expected: Expected,
    requests: AtomicU64,
    eth_calls: AtomicU64,
    retried: AtomicU64,
    stop: Stop,
}

/// A request, and how it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<P> {
    /// The method.
    pub method: &'static str,
    /// Its parameters.
    pub params: P,
    /// How often it is tried again; each endpoint is tried once in any case.
    pub retries: u32,
    /// When the answer counts.
    pub proof: Proof,
}

impl Client {
    /// A client for the chain and the contracts of `profile`. Sends nothing yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(settings: ClientSettings, profile: &Profile, stop: Stop) -> anyhow::Result<Self> {
        // Fails only where a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(settings.timeout)
            .user_agent(concat!("ethtally/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("the HTTP client cannot be made")?;
        let endpoint = |url| Endpoint::new(http.clone(), url);
        Ok(Self {
            endpoints: settings.urls.into_iter().map(endpoint).collect(),
            pace: Pace::new(settings.pace),
            lanes: Lanes::new(settings.concurrency),
            retries: settings.retries,
            max_calls: settings.pace.max_calls.unwrap_or(u64::MAX),
            is_spent: AtomicBool::new(false),
            expected: Expected::of(profile, settings.contracts, settings.block),
            requests: AtomicU64::new(0),
            eth_calls: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            stop,
        })
    }

    /// How often a request is tried again.
    pub const fn retries(&self) -> u32 {
        self.retries
    }

    /// Fails once a stop was asked for, so that no more of a long work is begun.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn go_on(&self) -> Result<(), Stopped> {
        if self.stop.is_asked() { Err(Stopped) } else { Ok(()) }
    }

    /// Scheme, host and port of every endpoint.
    pub fn endpoints(&self) -> String {
        self.endpoints.iter().map(|endpoint| &endpoint.label).join(", ")
    }

    /// What was sent so far, retries and halved chunks included.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Relaxed),
            eth_calls: self.eth_calls.load(Relaxed),
            retries: self.retried.load(Relaxed),
        }
    }

    /// Whether there may be no more `eth_call`s, as the greatest number of them was reached.
    pub fn is_spent(&self) -> bool {
        self.is_spent.load(Relaxed)
    }

    /// `eth_call`s that may be in flight now, as the provider takes them.
    pub(super) fn open_lanes(&self) -> usize {
        self.lanes.open()
    }

    /// The endpoint that would be asked now.
    pub(super) fn preferred(&self) -> &str {
        let now = Instant::now();
        let rested = |endpoint: &&Endpoint| match endpoint.state() {
            State::RestingUntil(then) => then <= now,
            State::Gone(_) => false,
        };
        let first = self.endpoints.iter().find(rested).or_else(|| self.endpoints.first());
        first.map_or("", |endpoint| &endpoint.label)
    }

    /// Gives endpoints that were given up another chance, for a process that outlives a quota.
    pub fn revive(&self) {
        self.endpoints.iter().for_each(Endpoint::revive);
    }

    /// An `eth_call` at this block, tried again `retries` times at most; `read` makes sense of the
    /// returned bytes. Returns also which endpoint answered.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub(super) async fn eth_call<T>(
        &self,
        retries: u32,
        call: Call,
        block: At,
        read: impl Fn(Bytes) -> Result<T, String>,
    ) -> anyhow::Result<(T, &str)> {
        let params = CallParams(call, block);
        let request = Request { method: "eth_call", params, retries, proof: Proof::Unneeded };
        let (answer, endpoint) = self.send_to_any(request, read).await?;
        Ok((answer, &endpoint.label))
    }

    /// Sends a request with the usual number of retries.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn request<P: RpcSend, R: RpcRecv, T>(
        &self,
        method: &'static str,
        params: P,
        read: impl Fn(R) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let retries = self.retries;
        self.send(Request { method, params, retries, proof: Proof::Unneeded }, read).await
    }

    /// Sends a request until it is answered, and lets `read` make sense of the answer.
    ///
    /// # Errors
    /// A [`Failure`] inside, where a node failed: with [`Action::Split`] at once, with
    /// any other when every retry is spent or no endpoint is left. Any other error is
    /// about the configuration: an endpoint of a wrong chain, a contract without code.
    pub async fn send<P: RpcSend, R: RpcRecv, T>(
        &self,
        request: Request<P>,
        read: impl Fn(R) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        Ok(self.send_to_any(request, read).await?.0)
    }

    /// The same; returns also which endpoint answered.
    async fn send_to_any<P: RpcSend, R: RpcRecv, T>(
        &self,
        request: Request<P>,
        read: impl Fn(R) -> Result<T, String>,
    ) -> anyhow::Result<(T, &Endpoint)> {
        let Request { method, params, retries, proof } = request;
        let mut attempts_left = retries as usize + self.endpoints.len();
        let mut attempt = 0;
        let mut last = None;
        loop {
            let endpoint = match self.rested_endpoint().await {
                Ok(Some(endpoint)) => endpoint,
                Ok(None) => return Err(last.unwrap_or_else(|| self.no_endpoint())),
                Err(stopped) => return Err(last.unwrap_or(stopped.into())),
            };
            let sent = match endpoint.checked.get_or_try_init(|| self.check(endpoint)).await {
                Ok(()) => self.ask(endpoint, method, params.clone(), &read).await,
                Err(error) => Err(error.downcast::<Failure>()?),
            };
            let proven = match sent {
                Ok(answer) => self.prove(endpoint, proof).await.map(|()| answer),
                Err(failure) => Err(failure),
            };
            let failure = match proven {
                Ok(answer) => return Ok((answer, endpoint)),
                Err(failure) => failure,
            };
            attempts_left -= 1;
            if failure.class == Class::Unknown {
                // It is an answer, and the next one will hardly be another.
                attempts_left = attempts_left.min(usize::from(attempt == 0));
            }
            let action = failure.class.action();
            info!(method, ?action, "{failure}");
            if action == Action::Split {
                return Err(failure.into());
            }
            endpoint.let_rest(&failure, attempt, self.endpoints.len() == 1);
            last = match last {
                // It says more than that nothing was sent any more.
                Some(before) if failure.is_stop() => Some(before),
                _ => Some(failure.into()),
            };
            if attempts_left == 0 || self.stop.is_asked() {
                return Err(last.expect("just set"));
            }
            attempt += 1;
            self.retried.fetch_add(1, Relaxed);
        }
    }

    /// The first endpoint that may be asked, as soon as there is one; `None` when all are gone.
    async fn rested_endpoint(&self) -> Result<Option<&Endpoint>, Stopped> {
        loop {
            let now = Instant::now();
            let mut earliest: Option<Instant> = None;
            for endpoint in &self.endpoints {
                match endpoint.state() {
                    State::RestingUntil(then) if then <= now => return Ok(Some(endpoint)),
                    State::RestingUntil(then) => {
                        earliest = Some(earliest.map_or(then, |earliest| earliest.min(then)));
                    }
                    State::Gone(_) => {}
                }
            }
            let Some(earliest) = earliest else { return Ok(None) };
            tokio::select! {
                () = tokio::time::sleep_until(earliest) => {}
                () = self.stop.asked() => return Err(Stopped),
            }
        }
    }

    /// Sends a request to an endpoint, once.
    pub(super) async fn ask<P: RpcSend, R: RpcRecv, T>(
        &self,
        endpoint: &Endpoint,
        method: &'static str,
        params: P,
        read: impl Fn(R) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let stopped = || Failure {
            cause: Some(Box::new(Stopped)),
            ..Failure::nonsense(&endpoint.label, "no answer yet".into())
        };
        let is_call = method == "eth_call";
        let ready = async {
            let lane = if is_call { Some(self.lanes.enter().await) } else { None };
            self.pace.until_ready(method).await;
            lane
        };
        let _lane = tokio::select! {
            biased;
            lane = ready => lane,
            () = self.stop.asked() => return Err(stopped()),
        };
        if is_call && !self.may_call() {
            return Err(stopped());
        }
        debug!(method, endpoint = endpoint.label, "sending");
        self.requests.fetch_add(1, Relaxed);
        let sent = Instant::now();
        let answer = tokio::select! {
            answer = endpoint.rpc.request::<P, R>(method, params) => answer,
            () = self.stop.overdue() => return Err(stopped()),
        };
        let answer = answer.map_err(|error| Failure::of(&endpoint.label, error));
        match &answer {
            Ok(_) => self.lanes.went_well(),
            Err(failure) if failure.class == Class::SlowDown => self.lanes.slow_down(sent),
            Err(_) => {}
        }
        read(answer?).map_err(|message| Failure::nonsense(&endpoint.label, message))
    }

    /// Counts an `eth_call`; asks for a stop instead when there were enough.
    fn may_call(&self) -> bool {
        let one_more = |calls: u64| (calls < self.max_calls).then_some(calls + 1);
        let counted = self.eth_calls.fetch_update(Relaxed, Relaxed, one_more).is_ok();
        if !counted {
            self.is_spent.store(true, Relaxed);
            self.stop.wind_down();
        }
        counted
    }

    /// Why there is no endpoint to ask.
    fn no_endpoint(&self) -> anyhow::Error {
        let reasons: Vec<_> = (self.endpoints.iter())
            .filter_map(|endpoint| match endpoint.state() {
                State::Gone(reason) => Some(reason),
                State::RestingUntil(_) => None,
            })
            .collect();
        anyhow::anyhow!("no endpoint is left: {}", reasons.join("; "))
    }
}
