//! The newest run of each command, as status shows it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::{super::verify::rfc3339, picture::ago};
use crate::{
    report::{BAD, RunOutcome, Styler},
    store::{RUNNING, Run},
};

/// Seconds without a sign of life after which a running command counts as killed; it gives one each minute.
const SILENT: u64 = 180;
/// The numbers of a result that are shown, where it has them.
const SHOWN: [&str; 10] = [
    "applied",
    "rows",
    "wallets",
    "sampled",
    "in_sync",
    "drifted",
    "updated",
    "failed",
    "superseded",
    "errors",
];

/// The newest run of a command.
#[derive(Serialize)]
pub(super) struct RunStatus {
    command: String,
    shard: Option<String>,
    outcome: String,
    /// When it ended; while it is running, when it last said so.
    time: String,
    started_at: String,
    exit_status: Option<i64>,
    counts: Value,
    error: Option<String>,
    /// Seconds since `time`.
    #[serde(skip)]
    age: u64,
}

/// The newest of these runs for each command; `runs` are sorted by command, the newest first.
pub(super) fn newest(runs: Vec<Run>, age: impl Fn(DateTime<Utc>) -> u64) -> Vec<RunStatus> {
    let mut newest = runs;
    newest.dedup_by(|later, first| later.command == first.command);
    let last = |run: Run| RunStatus {
        command: run.command,
        shard: run.shard,
        outcome: run.outcome,
        time: rfc3339(run.ended_at),
        started_at: rfc3339(run.started_at),
        exit_status: run.exit_status,
        counts: run.counts,
        error: run.error,
        age: age(run.ended_at),
    };
    newest.into_iter().map(last).collect()
}

impl RunStatus {
    /// The run as a line.
    pub(super) fn text(&self, styler: &Styler) -> String {
        let shard = self.shard.as_ref().map(|shard| format!(" {shard}")).unwrap_or_default();
        let name = format!("{}{shard}", self.command);
        let outcome = match self.outcome.as_str() {
            RUNNING if self.age > SILENT => {
                styler.style(BAD, &format!("silent for {}; was it killed?", ago(self.age)))
            }
            RUNNING => format!("running, seen {} ago", ago(self.age)),
            outcome => {
                let failed = outcome == RunOutcome::Failed.name();
                let word = outcome.replace('_', " ");
                let word = if failed { styler.style(BAD, &word) } else { word };
                format!("{word} {} ago", ago(self.age))
            }
        };
        let numbers: String = SHOWN
            .iter()
            .filter_map(|name| Some(format!(" {name}:{}", self.counts[*name].as_u64()?)))
            .collect();
        let error = self.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        format!("{name:<9} {outcome}{numbers}{error}")
    }
}
