//! How long `watch` waits before it retries what failed.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Pauses of half a second to a second at first, twice as long after each failure, up to half a minute to a minute. At
/// random, so that many who lost the same node do not come back at once.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        let policy = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(500))
            .with_max_delay(Duration::from_secs(30))
            .with_jitter()
            .without_max_times();
        Self(policy.build())
    }
}

impl Backoff {
    /// The pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        self.0.next().expect("the policy has no end")
    }

    /// Starts again, as it works again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_from_half_a_second_to_a_minute() {
        let mut backoff = Backoff::default();
        for least in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            let pause = backoff.pause().as_secs_f64();
            assert!(pause >= least && pause <= 2.0 * least, "{pause} of {least}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_secs(1));
    }
}
