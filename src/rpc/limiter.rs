//! How fast requests may follow each other, and how many `eth_call`s may be in flight.

use std::{
    num::NonZeroU32,
    pin::pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use governor::{DefaultDirectRateLimiter, Quota};
use tokio::{sync::Notify, time::Instant};

/// Compute units of an `eth_call` with Alchemy.
///
/// Source: <https://www.alchemy.com/docs/reference/compute-unit-costs>
pub const UNITS_PER_CALL: NonZeroU32 = NonZeroU32::new(26).expect("not 0");
/// Compute units of an `eth_getLogs` there.
const UNITS_PER_LOGS: NonZeroU32 = NonZeroU32::new(60).expect("not 0");
/// The most compute units of any other request of this program there.
const UNITS_PER_OTHER: NonZeroU32 = NonZeroU32::new(20).expect("not 0");

/// How fast, and how much.
#[derive(Clone, Copy, Debug)]
pub struct RateLimits {
    /// Requests a second, all endpoints together; `None` for no limit.
    pub requests_per_second: Option<NonZeroU32>,
    /// Compute units a second, all endpoints together; `None` for no limit.
    pub units_per_second: Option<NonZeroU32>,
    /// Compute units of an `eth_call`.
    pub units_per_call: NonZeroU32,
    /// `eth_call`s in all, every attempt counted; `None` for no limit.
    pub max_calls: Option<u64>,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            requests_per_second: None,
            units_per_second: None,
            units_per_call: UNITS_PER_CALL,
            max_calls: None,
        }
    }
}

/// Lets requests through at the rates that the user set.
pub(super) struct RateLimiter {
    requests: Option<DefaultDirectRateLimiter>,
    units: Option<DefaultDirectRateLimiter>,
    units_per_call: NonZeroU32,
}

impl RateLimiter {
    pub(super) fn new(limits: RateLimits) -> Self {
        // No bursts: a provider counts them against us.
        let limiter =
            |rate, burst| governor::RateLimiter::direct(Quota::per_second(rate).allow_burst(burst));
        let dearest = limits.units_per_call.max(UNITS_PER_LOGS);
        Self {
            requests: limits.requests_per_second.map(|rate| limiter(rate, NonZeroU32::MIN)),
            units: limits.units_per_second.map(|rate| limiter(rate, dearest)),
            units_per_call: limits.units_per_call,
        }
    }

    /// Waits until a request of this method may be sent.
    pub(super) async fn until_ready(&self, method: &str) {
        if let Some(requests) = &self.requests {
            requests.until_ready().await;
        }
        if let Some(units) = &self.units {
            let ready = units.until_n_ready(self.units_of(method)).await;
            ready.expect("the dearest request fits the bucket");
        }
    }

    fn units_of(&self, method: &str) -> NonZeroU32 {
        match method {
            "eth_call" => self.units_per_call,
            "eth_getLogs" => UNITS_PER_LOGS,
            _ => UNITS_PER_OTHER,
        }
    }
}

/// How many `eth_call`s may be in flight: as many as `--concurrency` allows, fewer while rate-limited.
///
/// Additive increase, multiplicative decrease, as in TCP: a refused burst halves the limit, and each answer
/// raises it by a fraction of one.
#[derive(Debug)]
pub(super) struct ConcurrencyLimiter {
    most: usize,
    state: Mutex<Concurrency>,
    released: Notify,
}

#[derive(Debug)]
struct Concurrency {
    /// The limit; its whole part counts.
    limit: f64,
    in_use: usize,
    /// Those of them whose holders send nothing, as they wait for another one.
    parked: usize,
    /// When the limit was last reduced.
    reduced_at: Option<Instant>,
}

/// Leave to have one `eth_call` in flight; dropping it gives it back.
#[derive(Debug)]
pub struct Permit<'a> {
    limiter: &'a ConcurrencyLimiter,
    is_held: AtomicBool,
}

impl ConcurrencyLimiter {
    /// A limit of `most`, at least 1.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        let state = Concurrency { limit: most as f64, in_use: 0, parked: 0, reduced_at: None };
        Self { most, state: Mutex::new(state), released: Notify::new() }
    }

    /// How many permits there are now.
    pub(super) fn limit(&self) -> usize {
        self.state().limit as usize
    }

    /// Waits for a permit. `cap` may lower the limit for this permit; it is asked again after each release.
    pub(super) async fn acquire(&self, cap: impl Fn() -> usize) -> Permit<'_> {
        self.enter(cap, true).await;
        Permit { limiter: self, is_held: AtomicBool::new(true) }
    }

    /// A permit, if there is one now.
    pub(super) fn try_acquire(&self) -> Option<Permit<'_>> {
        let mut state = self.state();
        if state.in_use >= state.limit as usize {
            return None;
        }
        state.in_use += 1;
        Some(Permit { limiter: self, is_held: AtomicBool::new(true) })
    }

    /// Waits for room. For one that has been let in before, those that are parked leave room.
    async fn enter(&self, cap: impl Fn() -> usize, is_new: bool) {
        loop {
            let mut released = pin!(self.released.notified());
            // From here on no release is missed.
            released.as_mut().enable();
            let cap = cap();
            {
                let mut state = self.state();
                let parked = if is_new { 0 } else { state.parked };
                if state.in_use - parked < cap.min(state.limit as usize) {
                    state.in_use += 1;
                    return;
                }
            }
            released.await;
        }
    }

    fn leave(&self) {
        self.state().in_use -= 1;
        self.released.notify_waiters();
    }

    /// True if more are in use than the limit allows, as it has fallen.
    fn is_over(&self) -> bool {
        let state = self.state();
        state.in_use - state.parked > state.limit as usize
    }

    /// An `eth_call` was answered.
    pub(super) fn succeeded(&self) {
        let mut state = self.state();
        state.limit = (state.limit + 1.0 / state.limit).min(self.most as f64);
    }

    /// An `eth_call` sent at `sent` was rate-limited. Others of its burst, in flight when the limit was
    /// reduced, say nothing new.
    pub(super) fn rate_limited(&self, sent: Instant) {
        let mut state = self.state();
        if state.reduced_at.is_none_or(|reduced_at| reduced_at < sent) {
            state.limit = (state.limit / 2.0).max(1.0);
            state.reduced_at = Some(Instant::now());
        }
    }

    fn state(&self) -> MutexGuard<'_, Concurrency> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// Gives the permit back and waits for another one if the limit has fallen below the number in use.
    pub(super) async fn renew(&self) {
        if self.limiter.is_over() && self.is_held.swap(false, Relaxed) {
            self.limiter.leave();
        }
        if !self.is_held.load(Relaxed) {
            self.limiter.enter(|| usize::MAX, false).await;
            self.is_held.store(true, Relaxed);
        }
    }
}

impl Permit<'_> {
    /// Lets others go on that have been let in before, until this is dropped: nothing is sent meanwhile. Without it, whoever
    /// waits for another one while the limit falls might keep that one from its calls.
    pub fn park(&self) -> Parked<'_> {
        let is_parked = self.is_held.load(Relaxed);
        if is_parked {
            self.limiter.state().parked += 1;
            self.limiter.released.notify_waiters();
        }
        Parked { limiter: self.limiter, is_parked }
    }
}

/// A permit that is not used.
#[derive(Debug)]
pub struct Parked<'a> {
    limiter: &'a ConcurrencyLimiter,
    is_parked: bool,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        if self.is_parked {
            self.limiter.state().parked -= 1;
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_held.load(Relaxed) {
            self.limiter.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn compute_units_are_spent_at_their_rate() {
        let number = |number| NonZeroU32::new(number).unwrap();
        let limiter = RateLimiter::new(RateLimits {
            units_per_second: Some(number(1_000)),
            units_per_call: number(100),
            ..RateLimits::default()
        });
        let started = Instant::now();
        for _ in 0..4 {
            limiter.until_ready("eth_call").await;
        }
        // The first is sent at once, and so never much faster than this.
        assert!(started.elapsed().as_millis() >= 290, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_request_that_costs_more_than_a_second_gives_is_sent_all_the_same() {
        let limiter = RateLimiter::new(RateLimits {
            units_per_second: NonZeroU32::new(10),
            units_per_call: NonZeroU32::new(500).unwrap(),
            ..RateLimits::default()
        });
        limiter.until_ready("eth_call").await;
    }

    #[test]
    fn a_refused_burst_halves_the_limit_once_and_answers_raise_it_again() {
        let limiter = ConcurrencyLimiter::new(16);
        let limit = || limiter.state().limit as usize;
        let sent = Instant::now();
        for _ in 0..14 {
            limiter.rate_limited(sent);
        }
        assert_eq!(limit(), 8);
        for expected in [4, 2, 1, 1] {
            limiter.rate_limited(Instant::now() + Duration::from_secs(1));
            limiter.state().reduced_at = Some(sent);
            assert_eq!(limit(), expected);
        }
        // One more takes as many answers as the limit is high.
        for expected in [2, 2, 2, 3] {
            limiter.succeeded();
            assert_eq!(limit(), expected);
        }
        (0..1000).for_each(|_| limiter.succeeded());
        assert_eq!(limit(), 16);
    }

    #[test]
    fn a_permit_is_given_only_while_fewer_than_the_limit_and_the_cap_are_in_use() {
        let limiter = ConcurrencyLimiter::new(2);
        let first = limiter.acquire(|| 1).now_or_never().unwrap();
        assert!(limiter.acquire(|| 1).now_or_never().is_none());
        let _second = limiter.acquire(|| 9).now_or_never().unwrap();
        let mut third = Box::pin(limiter.acquire(|| 9));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn a_permit_that_is_parked_leaves_room_for_one_that_was_let_in_before() {
        let limiter = ConcurrencyLimiter::new(2);
        let acquire = || limiter.acquire(|| 2).now_or_never();
        let (first, second) = (acquire().unwrap(), acquire().unwrap());
        limiter.rate_limited(Instant::now());
        let mut renewed = Box::pin(first.renew());
        assert!(renewed.as_mut().now_or_never().is_none(), "the other one holds the only permit");
        let parked = second.park();
        renewed.now_or_never().unwrap();
        assert!(acquire().is_none(), "and none for a new one");
        drop(parked);
        assert!(second.renew().now_or_never().is_none());
    }

    #[test]
    fn a_permit_above_a_limit_that_fell_is_given_back_until_there_is_room() {
        let limiter = ConcurrencyLimiter::new(2);
        let (first, second) =
            (limiter.acquire(|| 2).now_or_never().unwrap(), limiter.acquire(|| 2).now_or_never());
        limiter.rate_limited(Instant::now());
        let mut renewed = Box::pin(first.renew());
        assert!(renewed.as_mut().now_or_never().is_none());
        assert_eq!(limiter.state().in_use, 1);
        drop(second);
        renewed.now_or_never().unwrap();
        drop(first);
        assert_eq!(limiter.state().in_use, 0);
    }
}
