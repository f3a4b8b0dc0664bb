//! What `watch` looks up in the database now and then, for its metrics and its page.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::exposition::Exposition;

/// What the table looks like.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TableState {
    /// Rows.
    pub rows: u64,
    /// Rows that were never read.
    pub never_read: u64,
    /// Wallets on the record of failures.
    pub unreadable: u64,
    /// When the row that was read longest ago was read, changed or not; placeholders do not count.
    pub oldest_read: Option<DateTime<Utc>>,
    /// Rows past the limit, if one is given.
    #[serde(skip)]
    pub stale: Option<u64>,
    /// Rows by age, the youngest first.
    pub age_bands: Vec<AgeBand>,
}

/// The rows of one age.
#[derive(Clone, Debug, Serialize)]
pub struct AgeBand {
    /// Such as `under 1h`.
    pub name: &'static str,
    /// Rows younger than that, and not younger than the band before.
    pub rows: u64,
}

/// A run on the record.
#[derive(Clone, Debug, Serialize)]
pub struct LastRun {
    /// The name of the command.
    pub command: String,
    /// Its part of the wallets; `None` for all.
    pub shard: Option<String>,
    /// How it ended, or `running`.
    pub outcome: String,
    /// When it ended; while it is running, when it last said so.
    pub ended_at: DateTime<Utc>,
    /// Its exit status; `None` while it is running.
    pub exit_status: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
}

impl TableState {
    /// Adds its metrics.
    pub fn expose(&self, to: &Exposition) {
        to.gauge("rows", "Rows in the table", Some(self.rows as f64));
        to.gauge("rows_never_read", "Rows that were never read", Some(self.never_read as f64));
        let help = "Wallets that could not be read or stored, and are retried";
        to.gauge("unreadable_wallets", help, Some(self.unreadable as f64));
        to.gauge(
            "oldest_row_timestamp_seconds",
            "When the row that was read longest ago was read or confirmed; rows that were never read do not count",
            self.oldest_read.map(|time| time.timestamp() as f64),
        );
        let help = "Rows older than --max-age";
        to.gauge("stale_rows", help, self.stale.map(|stale| stale as f64));
    }
}
