//! Which endpoint is asked, and for how long.
//!
//! The first available endpoint is asked. A failure lets an endpoint cool down, so that the next one is asked
//! meanwhile, and the first again as soon as it may have recovered.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use async_trait::async_trait;
use itertools::Itertools;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::{
    attempts::{Attempts, Next},
    checks::{CheckFailure, Checker},
    client::Client,
    endpoint::{Availability, Endpoint, SILENT, Unfit},
    error::{NodeError, RequestError},
};

/// What is sent to one endpoint after another until it is answered.
#[async_trait]
pub(super) trait Attempt: Sync {
    /// What it is answered with.
    type Answer;

    /// One attempt at this endpoint.
    async fn at(&self, endpoint: &Endpoint) -> Result<Self::Answer, RequestError>;

    /// The method, for logs.
    fn method(&self) -> &'static str;

    /// As in [`super::request::Request`].
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

impl Client {
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
                        let next = attempts.failed(failure, None, endpoint.answered_lately());
                        // The only endpoint has had every retry.
                        let is_left = has_others || self.ends_pauses(endpoint);
                        if next == Next::Return || !is_left {
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
            let next = attempts.failed(failure, patience, endpoint.answered_lately());
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
            ahead: (endpoint.id.index() == 0).then_some(&self.ahead),
            shutdown: &self.shutdown,
        }
    }

    /// True if another endpoint can be asked instead of this one.
    fn has_others(&self, endpoint: &Endpoint) -> bool {
        let mut others = self.endpoints.iter().filter(|other| other.id != endpoint.id);
        others.any(|other| unfit(other).is_none())
    }

    /// Once this endpoint is given up, asks those again that are only passed over for a time. Returns false if it is not
    /// given up, or there are none.
    fn ends_pauses(&self, endpoint: &Endpoint) -> bool {
        let is_given_up = matches!(endpoint.availability(), Availability::GivenUp(_));
        is_given_up && self.endpoints.iter().filter(|other| other.ends_pause()).count() > 0
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

/// Why this endpoint cannot be used now.
fn unfit(endpoint: &Endpoint) -> Option<Unfit> {
    match endpoint.availability() {
        Availability::GivenUp(unfit) | Availability::Unfit(unfit, _) => Some(unfit),
        Availability::From(_) => None,
    }
}
