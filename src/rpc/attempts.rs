//! What a request may still try after its failures: failures in, verdicts out. Sends nothing.

use std::{iter, time::Duration};

use tokio::time::Instant;

use super::{error::NodeError, kind::ErrorKind};

/// How long a rate limit without a hint is waited out, whatever the number of retries. So is the failure of a small
/// request to an endpoint that answers others.
const RATE_LIMIT_PATIENCE: Duration = Duration::from_secs(30);
/// Attempts after which a request that can be split is given back.
const BEFORE_SPLIT: u32 = 3;
/// Attempts at an endpoint whose answer to a request that can be split is one that nobody knows.
const SAME_ANSWER: u32 = 2;

/// The attempts of one request.
pub(super) struct Attempts {
    /// True if what is asked for may be too large, or revert; other requests cannot.
    is_sized: bool,
    /// True unless nothing is asked for again.
    may_retry: bool,
    can_split: bool,
    left: u32,
    began: Instant,
    rate_limited_since: Option<Instant>,
    /// Attempts that were answered, if with an error, or waited for in vain.
    answered: u32,
    /// By their places.
    endpoints: Vec<AtEndpoint>,
    /// The place of the endpoint that failed last.
    last: Option<usize>,
}

#[derive(Default)]
struct AtEndpoint {
    failures: u32,
    is_done: bool,
    last: Option<NodeError>,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask again, the same endpoint or another.
    Retry,
    /// Give the failure back.
    Return,
}

impl Attempts {
    /// The attempts of a request of this method that begins now, at this number of endpoints.
    pub(super) fn new(method: &str, endpoints: usize, retries: u32, can_split: bool) -> Self {
        Self {
            is_sized: matches!(method, "eth_call" | "eth_getLogs"),
            can_split,
            may_retry: retries > 0,
            // Failing over is not a retry.
            left: retries.saturating_add(endpoints as u32),
            began: Instant::now(),
            rate_limited_since: None,
            answered: 0,
            endpoints: iter::repeat_with(AtEndpoint::default).take(endpoints).collect(),
            last: None,
        }
    }

    /// The attempts of a request to the endpoint at this place only.
    pub(super) fn at(method: &str, index: usize, retries: u32) -> Self {
        Self { left: retries.saturating_add(1), ..Self::new(method, index + 1, retries, false) }
    }

    /// True if the endpoint at this place may be asked again.
    pub(super) fn may_ask(&self, index: usize) -> bool {
        !self.endpoints[index].is_done
    }

    /// True if no endpoint has given its last word, so that it is worth waiting for one.
    pub(super) fn may_wait(&self) -> bool {
        !self.endpoints.iter().any(|endpoint| endpoint.is_done)
    }

    /// How many attempts have failed.
    pub(super) fn failures(&self) -> u32 {
        self.endpoints.iter().map(|endpoint| endpoint.failures).sum()
    }

    /// An attempt failed. If the block is unavailable, it is worth asking this endpoint again for `patience`; `None`
    /// for as long as there are retries.
    /// `is_alive` if the endpoint answered another request lately: then it fails now and then, and is not down.
    pub(super) fn failed(
        &mut self,
        failure: NodeError,
        patience: Option<Duration>,
        is_alive: bool,
    ) -> Next {
        let kind = failure.kind;
        let waited = self.began.elapsed();
        let is_pruned = failure.is_pruned();
        let is_answer = failure.is_answer();
        let index = failure.endpoint.index();
        let endpoint = &mut self.endpoints[index];
        endpoint.last = Some(failure);
        endpoint.failures += 1;
        self.last = Some(index);
        // A vague limit may be one on the size of the request.
        let is_limited = kind == ErrorKind::RateLimited && !(self.can_split && is_answer);
        if is_limited {
            self.rate_limited_since.get_or_insert_with(Instant::now);
        }
        let waits = |since: Instant| since.elapsed() < RATE_LIMIT_PATIENCE;
        let is_waited_out = self.rate_limited_since.is_some_and(waits);
        // What is waited out is no failure.
        if !(is_limited && is_waited_out) {
            self.left = self.left.saturating_sub(1);
        }
        let is_spent = self.left == 0 || is_limited;
        match kind {
            ErrorKind::TooLarge | ErrorKind::Reverted if self.can_split => return Next::Return,
            ErrorKind::TooLarge | ErrorKind::Reverted => endpoint.is_done = self.is_sized,
            ErrorKind::BlockReplaced => endpoint.is_done = true,
            kind if kind.is_odd_answer() && self.can_split => {
                endpoint.is_done = endpoint.failures >= SAME_ANSWER;
            }
            // A vague one may be meant otherwise.
            ErrorKind::BlockUnavailable if !is_answer => {
                endpoint.is_done = is_pruned || patience.is_some_and(|patience| waited >= patience);
            }
            _ if is_limited => {}
            _ if self.can_split && is_answer => {
                self.answered += 1;
                if self.answered >= BEFORE_SPLIT {
                    return Next::Return;
                }
            }
            _ => {}
        }
        let all_done = self.endpoints.iter().all(|endpoint| endpoint.is_done);
        let may_pass = is_alive && self.may_retry && !self.is_sized && waits(self.began);
        let is_over = is_spent && !is_waited_out && !may_pass;
        if all_done || is_over { Next::Return } else { Next::Retry }
    }

    /// The failure that says most of the request, and the last ones at other endpoints; `None` if none failed.
    pub(super) fn into_failures(self) -> Option<(NodeError, Vec<NodeError>)> {
        let place = |is_telling: fn(ErrorKind) -> bool| {
            let kind = |endpoint: &AtEndpoint| endpoint.last.as_ref().map(|failure| failure.kind);
            self.endpoints.iter().position(|endpoint| kind(endpoint).is_some_and(is_telling))
        };
        let telling = place(ErrorKind::is_of_request).or_else(|| place(ErrorKind::is_odd_answer));
        let telling = telling.or(self.last)?;
        let (mut first, mut others) = (None, Vec::new());
        for (index, endpoint) in self.endpoints.into_iter().enumerate() {
            match endpoint.last {
                Some(failure) if index == telling => first = Some(failure),
                other => others.extend(other),
            }
        }
        Some((first?, others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::EndpointId;

    fn failure(index: usize, kind: ErrorKind) -> NodeError {
        let url = format!("http://host{index}").parse().unwrap();
        NodeError::new(&EndpointId::new(index, &url), kind, format!("{kind:?}"))
    }

    /// How many failures of this kind one endpoint may have.
    fn tries(kind: ErrorKind, can_split: bool) -> usize {
        let mut attempts = Attempts::new("eth_call", 1, 5, can_split);
        let failed = |_: &usize| attempts.failed(failure(0, kind), None, false) == Next::Retry;
        (0..100).take_while(failed).count() + 1
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_has_every_retry_and_an_answer_that_stays_has_few() {
        for kind in [
            ErrorKind::Unreachable,
            ErrorKind::TimedOut,
            ErrorKind::BlockUnavailable,
            ErrorKind::Unknown,
        ] {
            assert_eq!(tries(kind, false), 6, "{kind:?}");
        }
        assert_eq!(tries(ErrorKind::BlockReplaced, false), 1);
        for (kind, expected) in [
            (ErrorKind::TooLarge, 1),
            (ErrorKind::Reverted, 1),
            (ErrorKind::Unknown, 2),
            (ErrorKind::Unreachable, 3),
            (ErrorKind::TimedOut, 3),
        ] {
            assert_eq!(tries(kind, true), expected, "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_limit_is_waited_out_for_half_a_minute() {
        let mut attempts = Attempts::new("eth_call", 1, 0, false);
        let mut failed = || attempts.failed(failure(0, ErrorKind::RateLimited), None, false);
        assert_eq!((0..9).map(|_| failed()).filter(|next| *next == Next::Retry).count(), 9);
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(failed(), Next::Return);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_limit_that_is_waited_out_costs_no_retry() {
        let mut attempts = Attempts::new("eth_call", 1, 2, false);
        let mut failed = |kind| attempts.failed(failure(0, kind), None, false);
        (0..9).for_each(|_| assert_eq!(failed(ErrorKind::RateLimited), Next::Retry));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(failed(ErrorKind::TimedOut), Next::Retry);
        assert_eq!(failed(ErrorKind::TimedOut), Next::Retry);
        assert_eq!(failed(ErrorKind::TimedOut), Next::Return);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_answers_others_is_asked_for_half_a_minute() {
        for (method, retries, expected) in
            [("eth_chainId", 5, 50), ("eth_chainId", 0, 1), ("eth_call", 5, 6)]
        {
            let mut attempts = Attempts::new(method, 1, retries, false);
            let mut failed = || attempts.failed(failure(0, ErrorKind::Unknown), None, true);
            let tries = (0..49).take_while(|_| failed() == Next::Retry).count() + 1;
            assert_eq!(tries, expected, "{method} {retries}");
            tokio::time::advance(Duration::from_secs(31)).await;
            assert_eq!(failed(), Next::Return);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_is_asked_for_only_as_long_as_it_may_still_come() {
        let mut attempts = Attempts::new("eth_call", 1, 5, false);
        let patience = Some(Duration::from_secs(2));
        let mut failed =
            || attempts.failed(failure(0, ErrorKind::BlockUnavailable), patience, false);
        assert_eq!(failed(), Next::Retry);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(failed(), Next::Return);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_endpoint_is_asked_before_a_request_is_called_too_large() {
        let mut attempts = Attempts::new("eth_call", 2, 5, false);
        assert_eq!(attempts.failed(failure(0, ErrorKind::TooLarge), None, false), Next::Retry);
        assert!(!attempts.may_ask(0) && attempts.may_ask(1) && !attempts.may_wait());
        assert_eq!(attempts.failed(failure(1, ErrorKind::Unreachable), None, false), Next::Retry);
        let (telling, others) = attempts.into_failures().unwrap();
        assert_eq!((telling.kind, others.len()), (ErrorKind::TooLarge, 1));
    }
}
