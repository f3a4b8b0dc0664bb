//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// A pause of 1 s that doubles with each failure, up to 60 s, less up to half of it at random, so
/// that many who lost the same node do not come back at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);

    /// The pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        let full = Self::FIRST.saturating_mul(1 << self.failures.min(6)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// It works again.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_from_one_second_to_sixty() {
        let mut backoff = Backoff::default();
        for full in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let pause = backoff.pause().as_secs_f64();
            assert!(pause >= full / 2.0 && pause <= full, "{pause} of {full}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_secs(1));
    }
}
