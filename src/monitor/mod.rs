//! How following the chain is doing: kept as it happens, so that nobody who asks costs a query.
//!
//! [`Monitor`] hears all [`WatchEvent`]; `health` judges, `metrics` counts, `server` answers over HTTP.

mod health;
mod metrics;
mod server;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};

pub use health::Health;
pub use metrics::WatchCounts;
pub use server::Server;

use crate::{
    follow::{Observer, WatchEvent},
    tally::RequestCounts,
};
use health::State;
use metrics::Metrics;

/// Keeps what there is to know.
pub struct Monitor {
    state: Mutex<State>,
    metrics: Metrics,
}

impl Monitor {
    /// Judges by these limits. `requests` says what was sent to the node so far.
    pub fn new(
        max_lag: Duration,
        confirmations: u64,
        requests: impl Fn() -> RequestCounts + Send + Sync + 'static,
    ) -> Self {
        Self {
            state: Mutex::new(State::new(max_lag, confirmations)),
            metrics: Metrics::new(Box::new(requests)),
        }
    }

    /// How it is doing.
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

    /// When the oldest row was last written, as somebody looked it up just now.
    pub fn oldest_row(&self, updated_at: Option<DateTime<Utc>>) {
        self.metrics.oldest_row(updated_at);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Monitor {
    fn notify(&self, event: &WatchEvent) {
        self.metrics.notify(event);
        self.state().notify(event);
    }
}
