//! How `watch` is doing: kept as it happens, so that a health check costs no query.
//!
//! [`Monitor`] observes every [`WatchEvent`]; `health` judges, `metrics` counts, `server` answers over HTTP.

mod health;
mod metrics;
mod server;

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

pub use health::{Health, HealthLimits};
pub use metrics::WatchCounts;
pub use server::{RunningServer, Server};

use crate::{
    follow::{Observer, WatchEvent},
    tally::RequestCounts,
};
use health::HealthState;
use metrics::Metrics;

/// Health and metrics of one `watch`.
pub struct Monitor {
    state: Mutex<HealthState>,
    metrics: Metrics,
}

impl Monitor {
    /// Judges by these limits; `requests` returns what was sent to the node so far.
    pub fn new(
        limits: HealthLimits,
        requests: impl Fn() -> RequestCounts + Send + Sync + 'static,
    ) -> Self {
        Self {
            state: Mutex::new(HealthState::new(limits)),
            metrics: Metrics::new(Box::new(requests)),
        }
    }

    /// The health at this moment.
    pub fn health(&self) -> Health {
        self.state().health()
    }

    /// What was done so far.
    pub fn counts(&self) -> WatchCounts {
        self.metrics.counts()
    }

    /// All metrics as Prometheus text.
    pub fn metrics(&self) -> String {
        let health = self.health();
        self.metrics.text(&health)
    }

    /// Sets when the row that is oldest now was updated.
    pub fn oldest_row(&self, updated_at: Option<DateTime<Utc>>) {
        self.metrics.oldest_row(updated_at);
    }

    fn state(&self) -> MutexGuard<'_, HealthState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Monitor {
    fn notify(&self, event: &WatchEvent) {
        self.metrics.notify(event);
        self.state().notify(event);
    }
}
