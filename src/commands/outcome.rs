//! What the commands that read and store have in common: counts, and what they mean.

use std::time::Instant;

use anyhow::anyhow;
use serde::Serialize;

use crate::{
    App,
    chain::{Failure, NodeReader},
    report::{Outcome, Paint, Verdict},
    tally::{Counts, Run},
};

/// The counts of a run, as the contract words them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Tallied {
    updated: u64,
    failed: u64,
    superseded: u64,
    calls: u64,
    block: Option<u64>,
    elapsed_ms: u128,
    skipped: bool,
    interrupted: bool,
    /// Ended early, by a signal, `--max-duration` or `--max-calls`.
    #[serde(skip)]
    stopped: bool,
}

impl Tallied {
    pub(super) fn new(app: &App, counts: &Counts, calls: u64, started: Instant) -> Self {
        Self {
            updated: counts.updated,
            failed: counts.failed,
            superseded: counts.superseded,
            calls,
            block: counts.block,
            elapsed_ms: started.elapsed().as_millis(),
            skipped: false,
            interrupted: app.stop.signal().is_some(),
            stopped: app.stop.is_asked(),
        }
    }

    /// Nothing was done, as another process is at it.
    pub(super) fn skipped(mut self) -> Self {
        self.skipped = true;
        self
    }

    /// `complete`, or how else it ended.
    pub(super) fn ending(&self, run: &Run) -> &'static str {
        match run.error {
            Some(_) => "failed",
            None if self.interrupted => "interrupted",
            None if self.stopped => "stopped",
            None => "complete",
        }
    }

    /// The counts as words, from `updated:` on.
    pub(super) fn text(&self) -> String {
        let block = self.block.map_or_else(|| "none".to_owned(), |block| block.to_string());
        format!(
            "updated:{} failed:{} superseded:{} calls:{} block:{block} in {} ms",
            self.updated, self.failed, self.superseded, self.calls, self.elapsed_ms
        )
    }
}

/// The result of `sweep`, and of `refresh` with its wallets beside it.
#[derive(Debug, Serialize)]
pub(super) struct TallyOutcome {
    pub(super) command: &'static str,
    pub(super) requested: u64,
    #[serde(flatten)]
    pub(super) tallied: Tallied,
    #[serde(skip)]
    pub(super) ending: &'static str,
}

impl Outcome for TallyOutcome {
    fn text(&self, _: &Paint) -> String {
        format!(
            "{} {} requested:{} {}",
            self.command,
            self.ending,
            self.requested,
            self.tallied.text()
        )
    }
}

/// Says so where `--max-calls` ended a run, and what had failed until then: a budget that is spent is
/// no failure.
pub(super) fn note_budget(app: &App, reader: &NodeReader, run: &mut Run, next: &str) {
    if !reader.is_spent() {
        return;
    }
    let is_stop =
        |error: &anyhow::Error| error.downcast_ref::<Failure>().is_some_and(Failure::is_stop);
    let failed = run.cut_short_by.take().filter(|error| !is_stop(error));
    let failed = failed.map_or_else(String::new, |error| format!("; what failed last: {error}"));
    app.report.note(&format!("--max-calls are spent; {next}{failed}"));
}

/// What a run that was reported means for the exit status.
pub(super) fn verdict(run: Run, strict: bool) -> anyhow::Result<Verdict> {
    let read_nothing = run.read_nothing();
    let stored_nothing = run.counts.updated + run.counts.superseded + run.counts.failed == 0;
    if let Some(error) = run.error {
        return Err(error);
    }
    if let Some(error) = run.cut_short_by.filter(|_| stored_nothing) {
        // A node that never answers is an error, however short the time was.
        return Err(error);
    }
    match run.first_failure {
        Some(first) if read_nothing => Err(anyhow!(
            "not one of {} wallets could be read; check the profile and --block: {}: {}",
            run.counts.requested,
            first.wallet,
            first.reason
        )),
        Some(_) if strict => Ok(Verdict::No),
        _ => Ok(Verdict::Well),
    }
}
