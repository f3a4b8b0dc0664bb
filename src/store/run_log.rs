//! The record of runs, as commands see it: how the commands that write ended.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use crate::tally::RunError;

/// The outcome of a run that has not ended.
pub const RUNNING: &str = "running";

/// A run, as it is put on record.
#[derive(Clone, Copy, Debug)]
pub struct RunRecord<'a> {
    /// The name of the command.
    pub command: &'a str,
    /// Its part of the wallets; `None` for all.
    pub shard: Option<&'a str>,
    /// How long it has taken so far.
    pub elapsed: Duration,
    /// How it ended, or [`RUNNING`].
    pub outcome: &'a str,
    /// Its exit status; `None` while it is running.
    pub exit_status: Option<u8>,
    /// The numbers of its result, as a JSON object.
    pub counts: Option<&'a str>,
    /// Why it failed, without secrets.
    pub error: Option<&'a str>,
}

/// A run on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The name of the command.
    pub command: String,
    /// Its part of the wallets; `None` for all.
    pub shard: Option<String>,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// When it ended; while it is running, when it last said so.
    pub ended_at: DateTime<Utc>,
    /// `complete`, `partial`, `skipped`, `cut_short`, `interrupted`, `failed`, or [`RUNNING`].
    pub outcome: String,
    /// Its exit status; `None` while it is running.
    pub exit_status: Option<i64>,
    /// The numbers of its result, as a JSON object; null if it had none.
    pub counts: Json,
    /// Why it failed.
    pub error: Option<String>,
}

/// The record of runs.
#[async_trait]
pub trait RunLog: Send + Sync {
    /// Puts a run on record, or with `id` what has become of the run that has this number; returns its number. Forgets
    /// all but the newest thousand runs of the command.
    ///
    /// # Errors
    /// If the database fails, as for every method below.
    async fn record_run(&self, id: Option<i64>, run: &RunRecord<'_>) -> Result<i64, RunError>;

    /// The newest run of each command and outcome, by command, the newest first.
    async fn last_runs(&self) -> Result<Vec<Run>, RunError>;

    /// The newest runs of a command, the newest first.
    async fn recent_runs(&self, command: &str, limit: u32) -> Result<Vec<Run>, RunError>;
}
