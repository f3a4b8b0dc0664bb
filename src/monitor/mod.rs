//! How `watch` is doing: kept as it happens, so that a health check costs no query.
//!
//! [`Monitor`] observes every [`WatchEvent`]; `health` judges, `metrics` counts, `table` is what is looked
//! up now and then, `server` answers over HTTP, and `page` is what people see.

mod exposition;
mod health;
mod metrics;
mod monitors;
mod page;
mod server;
mod table;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use exposition::{Exposition, RUN_ENDS, encode, encode_each};
pub use health::{Health, HealthLimits};
pub use metrics::WatchCounts;
pub use monitors::Monitors;
pub use server::{RunningServer, Server};
pub use table::{AgeBand, LastRun, TableState};

use prometheus::proto::MetricFamily;

use crate::{
    follow::{Observer, WatchEvent},
    tally::{RequestCounts, RequestSeries},
};
use health::HealthState;
use metrics::{Metrics, Requests};

/// Health and metrics of one `watch`.
pub struct Monitor {
    profile: String,
    state: Mutex<HealthState>,
    metrics: Metrics,
}

impl Monitor {
    /// Watches for this profile and judges by these limits; `counts` and `series` return what was sent to the node so far.
    pub fn new(
        profile: &str,
        limits: HealthLimits,
        counts: impl Fn() -> RequestCounts + Send + Sync + 'static,
        series: impl Fn() -> Vec<RequestSeries> + Send + Sync + 'static,
    ) -> Self {
        let requests = Requests { counts: Box::new(counts), series: Box::new(series) };
        Self {
            profile: profile.to_owned(),
            state: Mutex::new(HealthState::new(limits)),
            metrics: Metrics::new(requests),
        }
    }

    /// The health at this moment.
    pub fn health(&self) -> Health {
        self.state().health()
    }

    /// The name of the profile.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// What was done so far.
    pub fn counts(&self) -> WatchCounts {
        self.metrics.counts()
    }

    /// All metrics.
    fn metric_families(&self) -> Vec<MetricFamily> {
        let health = self.health();
        self.metrics.families(&health)
    }

    /// Sets what the table looks like now.
    pub fn table(&self, table: TableState) {
        self.metrics.table(table);
    }

    /// Sets the newest run of each command and outcome, by command, the newest first.
    pub fn runs(&self, runs: Vec<LastRun>) {
        self.metrics.runs(runs);
    }

    /// The table and the last runs, as far as they are known.
    pub fn looked_up(&self) -> (Option<TableState>, Vec<LastRun>) {
        self.metrics.looked_up()
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
