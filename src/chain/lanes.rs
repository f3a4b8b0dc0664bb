//! How many requests may be under way at once: as many as `--concurrency` allows, fewer where the
//! provider wants it slower.
//!
//! Additive increase, multiplicative decrease, as TCP does it: a burst that was refused halves what is
//! allowed, and each answer gives a fraction of one back.

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

/// Lets so many in at once, and others as these leave.
#[derive(Debug, Default)]
pub(super) struct Gate {
    inside: Mutex<usize>,
    left: Notify,
}

/// Being inside of a [`Gate`].
#[derive(Debug)]
pub(super) struct Inside<'a>(&'a Gate);

impl Gate {
    /// Waits until fewer than `limit` are inside. What the limit is, is asked whenever one leaves.
    pub(super) async fn enter(&self, limit: impl Fn() -> usize) -> Inside<'_> {
        loop {
            let mut left = pin!(self.left.notified());
            // From here on no leaving is missed.
            left.as_mut().enable();
            {
                let mut inside = self.inside();
                if *inside < limit() {
                    *inside += 1;
                    return Inside(self);
                }
            }
            left.await;
        }
    }

    fn inside(&self) -> MutexGuard<'_, usize> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *self.0.inside() -= 1;
        self.0.left.notify_waiters();
    }
}

/// The lanes to a provider, each for one request at a time.
#[derive(Debug)]
pub(super) struct Lanes {
    gate: Gate,
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    /// How many lanes; whole ones count.
    lanes: f64,
    /// When some were closed last.
    closed_at: Option<Instant>,
}

impl Lanes {
    /// So many at most; at least one.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        let open = Open { lanes: most as f64, closed_at: None };
        Self { gate: Gate::default(), most, open: Mutex::new(open) }
    }

    /// How many are open now; at least one.
    pub(super) fn open(&self) -> usize {
        self.state().lanes as usize
    }

    /// Waits for a lane.
    pub(super) async fn enter(&self) -> Inside<'_> {
        self.gate.enter(|| self.open()).await
    }

    /// A request was answered.
    pub(super) fn went_well(&self) {
        let mut open = self.state();
        open.lanes = (open.lanes + 1.0 / open.lanes).min(self.most as f64);
    }

    /// A request that was sent at `sent` met a rate limit. Those that were under way when lanes were
    /// closed for another of their burst say nothing new.
    pub(super) fn slow_down(&self, sent: Instant) {
        let mut open = self.state();
        if open.closed_at.is_none_or(|closed_at| closed_at < sent) {
            open.lanes = (open.lanes / 2.0).max(1.0);
            open.closed_at = Some(Instant::now());
        }
    }

    fn state(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_refused_burst_halves_the_lanes_once_and_answers_open_them_again() {
        let lanes = Lanes::new(16);
        let sent = Instant::now();
        for _ in 0..14 {
            lanes.slow_down(sent);
        }
        assert_eq!(lanes.open(), 8);
        let later = || Instant::now() + std::time::Duration::from_secs(1);
        for expected in [4, 2, 1, 1] {
            lanes.slow_down(later());
            lanes.state().closed_at = Some(sent);
            assert_eq!(lanes.open(), expected);
        }
        // One more lane takes as many answers as there are lanes.
        lanes.went_well();
        assert_eq!(lanes.open(), 2);
        lanes.went_well();
        lanes.went_well();
        assert_eq!(lanes.open(), 2);
        lanes.went_well();
        assert_eq!(lanes.open(), 3);
        (0..1000).for_each(|_| lanes.went_well());
        assert_eq!(lanes.open(), 16);
    }

    #[test]
    fn nobody_enters_a_full_gate_until_one_leaves() {
        let gate = Gate::default();
        let first = gate.enter(|| 1).now_or_never().unwrap();
        let mut second = Box::pin(gate.enter(|| 1));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let _second = second.now_or_never().unwrap();
        assert!(gate.enter(|| 1).now_or_never().is_none());
        assert!(gate.enter(|| 2).now_or_never().is_some());
    }
}
