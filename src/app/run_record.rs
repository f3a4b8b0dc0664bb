//! Puts this run on record, beside the table that it writes to.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use anyhow::anyhow;
use tokio::time::timeout;
use tracing::debug;

use super::App;
use crate::{
    redact,
    report::{Conclusion, Verdict},
    store::{Access, RUNNING, RunRecord},
    tally::RunError,
};

/// How long putting a run on record may take.
const LIMIT: Duration = Duration::from_secs(3);
/// The same once a signal has come.
const LIMIT_ON_SIGNAL: Duration = Duration::from_secs(1);

impl App {
    /// Puts a run on record that lasts until it is stopped, or says that it is still running. That it cannot be is not
    /// an error.
    pub async fn record_running(&self, command: &'static str, counts: Option<&str>) {
        let run = RunRecord {
            command,
            shard: None,
            elapsed: self.started.elapsed(),
            outcome: RUNNING,
            exit_status: None,
            counts,
            error: None,
        };
        if let Err(error) = self.record(&run).await {
            debug!("this run is not on record: {}", redact::clean_error(&error));
        }
    }

    /// Puts on record how this run ended, if it could write to the table. That it cannot be is not an error, but
    /// worth a note.
    pub async fn record_run(
        &self,
        command: &'static str,
        shard: Option<&str>,
        ended: &Result<Verdict, RunError>,
    ) {
        let is_ready = self.opened.migrated.get().is_some();
        let writes = self.opened.access.get().is_some_and(|access| *access != Access::Read);
        // Tables that could not be upgraded may be there; those of a newer version are left alone.
        if !writes || !is_ready && !matches!(ended, Err(RunError::Database(_))) {
            return;
        }
        let conclusion = Conclusion::of(ended, &self.shutdown);
        let counts = self.report.counts();
        let run = RunRecord {
            command,
            shard,
            elapsed: self.started.elapsed(),
            outcome: self.report.outcome(&conclusion).name(),
            exit_status: Some(conclusion.exit_status),
            counts: counts.as_deref(),
            error: conclusion.error.as_deref(),
        };
        let Err(error) = self.record(&run).await else { return };
        let text = format!("this run is not on record: {}", redact::clean_error(&error));
        match ended {
            Ok(_) => self.report.note(&text),
            // It has an error already.
            Err(_) => debug!("{text}"),
        }
    }

    async fn record(&self, run: &RunRecord<'_>) -> Result<(), RunError> {
        let Some(store) = self.opened.store.get() else { return Ok(()) };
        let limit = if self.shutdown.signal().is_some() { LIMIT_ON_SIGNAL } else { LIMIT };
        let error = run.error.map(redact::excerpt);
        let run = RunRecord { error: error.as_deref(), ..*run };
        let id = Some(self.opened.run.load(Relaxed)).filter(|id| *id > 0);
        match timeout(limit, store.record_run(id, &run)).await {
            Ok(recorded) => {
                self.opened.run.store(recorded?, Relaxed);
                Ok(())
            }
            Err(_) => Err(RunError::Database(anyhow!(
                "the database did not take it in {} s",
                limit.as_secs()
            ))),
        }
    }
}
