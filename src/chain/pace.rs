//! How fast requests may follow each other, and how many calls there may be in all.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// What an `eth_call` costs with Alchemy, in compute units.
///
/// Source: <https://www.alchemy.com/docs/reference/compute-unit-costs>
pub const UNITS_PER_CALL: NonZeroU32 = NonZeroU32::new(26).expect("not 0");
/// What an `eth_getLogs` costs there.
const UNITS_PER_LOGS: NonZeroU32 = NonZeroU32::new(60).expect("not 0");
/// What any other request that this program makes costs there, at most.
const UNITS_PER_OTHER: NonZeroU32 = NonZeroU32::new(20).expect("not 0");

/// How fast and how much.
#[derive(Clone, Copy, Debug)]
pub struct PaceSettings {
    /// Requests a second, all endpoints together; `None` for no limit.
    pub requests_per_second: Option<NonZeroU32>,
    /// Compute units a second, all endpoints together; `None` for no limit.
    pub units_per_second: Option<NonZeroU32>,
    /// What an `eth_call` costs, in compute units.
    pub units_per_call: NonZeroU32,
    /// `eth_call`s in all, every attempt counted; `None` for no limit.
    pub max_calls: Option<u64>,
}

impl Default for PaceSettings {
    fn default() -> Self {
        Self {
            requests_per_second: None,
            units_per_second: None,
            units_per_call: UNITS_PER_CALL,
            max_calls: None,
        }
    }
}

/// Lets requests through at their pace.
pub(super) struct Pace {
    requests: Option<DefaultDirectRateLimiter>,
    units: Option<DefaultDirectRateLimiter>,
    units_per_call: NonZeroU32,
}

impl Pace {
    pub(super) fn new(settings: PaceSettings) -> Self {
        // No bursts: a provider counts them against us.
        let limiter = |rate, burst| RateLimiter::direct(Quota::per_second(rate).allow_burst(burst));
        let dearest = settings.units_per_call.max(UNITS_PER_LOGS);
        Self {
            requests: settings.requests_per_second.map(|rate| limiter(rate, NonZeroU32::MIN)),
            units: settings.units_per_second.map(|rate| limiter(rate, dearest)),
            units_per_call: settings.units_per_call,
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn compute_units_are_spent_at_their_rate() {
        let number = |number| NonZeroU32::new(number).unwrap();
        let pace = Pace::new(PaceSettings {
            units_per_second: Some(number(1_000)),
            units_per_call: number(100),
            ..PaceSettings::default()
        });
        let started = Instant::now();
        for _ in 0..4 {
            pace.until_ready("eth_call").await;
        }
        // The first goes at once, and so never much faster than this.
        assert!(started.elapsed().as_millis() >= 290, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_request_that_costs_more_than_a_second_gives_is_sent_all_the_same() {
        let pace = Pace::new(PaceSettings {
            units_per_second: NonZeroU32::new(10),
            units_per_call: NonZeroU32::new(500).unwrap(),
            ..PaceSettings::default()
        });
        pace.until_ready("eth_call").await;
    }
}
