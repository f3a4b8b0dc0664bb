//! The story that `sweep`, `refresh` and `backfill` share: open node and table, read wallets and store them, report
//! the counts, and decide the verdict.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use futures_util::Stream;
use serde::Serialize;
use tokio::time::timeout;
use tracing::debug;

use crate::{
    app::{App, Claimed},
    read::NodeReader,
    report::{CommandOutput, RunOutcome, Styler, Verdict},
    store::{Access, Store},
    tally::{Counts, Ledger, Outcome, Pipeline, Retries, RunError, RunSummary, Unreadable, Wallet},
};

/// How long remembering what endpoints take may take.
const HINTS_LIMIT: Duration = Duration::from_secs(2);

/// A command that reads wallets and stores their totals.
pub(super) struct Story<'a> {
    app: &'a App,
    command: &'static str,
    started: Instant,
    /// `None` where no node is called.
    reader: Option<NodeReader>,
    pub(super) store: Arc<dyn Store>,
}

impl<'a> Story<'a> {
    /// Opens the node, unless `reader` is `None`, and the table, which is migrated first.
    ///
    /// # Errors
    /// When the settings are wrong, or the database fails.
    pub(super) async fn open(
        app: &'a App,
        command: &'static str,
        reader: Option<NodeReader>,
        access: Access,
    ) -> Result<Self, RunError> {
        let started = Instant::now();
        let store = app.store(access).await?;
        if let Some(reader) = &reader {
            reader.has_stored(store.newest_read_block().await?);
            // Without them, the run searches again.
            reader.take_hints(&store.hints().await.unwrap_or_default());
        }
        Ok(Self { app, command, started, reader, store })
    }

    /// Reads the wallets of `pages` and stores their totals in `ledger`, under a bar for `expected` of them; `each` sees
    /// what became of every wallet, and at which block. Failures of `retries` decide nothing.
    pub(super) async fn run(
        &self,
        ledger: &dyn Ledger,
        expected: u64,
        pages: impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send,
        retries: &Retries,
        each: impl FnMut(u64, Wallet, &Outcome) + Send,
    ) -> RunSummary {
        let Some(reader) = &self.reader else { return RunSummary::default() };
        let bar = self.app.report.bar(self.command, expected);
        let ledger = &Claimed { app: self.app, store: self.store.as_ref(), ledger };
        let shutdown = &self.app.shutdown;
        let pipeline = Pipeline { reader, ledger, shutdown, progress: &bar, retries };
        let run = pipeline.run(pages, each).await;
        if !matches!(run.error, Some(RunError::Database(_))) {
            self.remember(reader).await;
        }
        run
    }

    /// Remembers what was found of the endpoints, for the next run. That it cannot be is not an error.
    async fn remember(&self, reader: &NodeReader) {
        let hints = reader.hints();
        if hints.is_empty() {
            return;
        }
        let recorded = timeout(HINTS_LIMIT, self.store.record_hints(&hints)).await;
        if let Ok(Err(error)) = recorded {
            debug!("what endpoints take was not remembered: {error}");
        }
    }

    /// The counts of a run, so far.
    pub(super) fn counts(&self, run: &RunSummary) -> RunCounts {
        RunCounts {
            updated: run.counts.updated,
            failed: run.counts.failed,
            superseded: run.counts.superseded,
            unchanged: run.counts.unchanged,
            calls: self.reader.as_ref().map_or(0, NodeReader::calls),
            block: run.counts.block,
            elapsed_ms: self.started.elapsed().as_millis(),
            skipped: false,
            interrupted: self.app.shutdown.signal().is_some(),
            ending: match run.error {
                Some(_) => RunOutcome::Failed,
                None if self.app.shutdown.signal().is_some() => RunOutcome::Interrupted,
                None if self.app.shutdown.is_requested() => RunOutcome::CutShort,
                None => RunOutcome::Complete,
            },
        }
    }

    /// Says how to go on where a signal or `--max-calls` ended the run. A spent budget is not a failure: what had
    /// failed until then is part of the note.
    pub(super) fn note_rest(&self, run: &mut RunSummary, next: &str) {
        if self.counts(run).ending == RunOutcome::Interrupted {
            self.app.report.note(next);
            return;
        }
        if !self.reader.as_ref().is_some_and(NodeReader::is_spent) {
            return;
        }
        let failed = run.cut_short_by.take().filter(|error| !error.is_stopped());
        let failed =
            failed.map_or_else(String::new, |error| format!("; the last failure: {error}"));
        self.app.report.note(&format!("--max-calls reached; {next}{failed}"));
    }
}

/// The counts of a run, as the contract words them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct RunCounts {
    updated: u64,
    failed: u64,
    superseded: u64,
    #[serde(skip_serializing_if = "is_zero")]
    unchanged: u64,
    calls: u64,
    block: Option<u64>,
    elapsed_ms: u128,
    skipped: bool,
    interrupted: bool,
    /// How the run ended, whether or not some wallets were unreadable.
    #[serde(skip)]
    pub(super) ending: RunOutcome,
}

impl RunCounts {
    /// Nothing was done, as another process is doing it.
    pub(super) fn skipped(mut self) -> Self {
        (self.skipped, self.ending) = (true, RunOutcome::Skipped);
        self
    }

    /// How the run ended.
    pub(super) const fn outcome(&self) -> RunOutcome {
        match self.ending {
            RunOutcome::Complete if self.failed > 0 => RunOutcome::Partial,
            ending => ending,
        }
    }

    /// The counts as words, from `updated:` on.
    pub(super) fn text(&self) -> String {
        let block = self.block.map_or_else(|| "none".to_owned(), |block| block.to_string());
        let unchanged = match self.unchanged {
            0 => String::new(),
            unchanged => format!(" unchanged:{unchanged}"),
        };
        format!(
            "updated:{} failed:{} superseded:{}{unchanged} calls:{} block:{block} in {} ms",
            self.updated, self.failed, self.superseded, self.calls, self.elapsed_ms
        )
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The result of `sweep`, and of `refresh` with its wallets beside it.
#[derive(Debug, Serialize)]
pub(super) struct RunOutput {
    pub(super) command: &'static str,
    pub(super) requested: u64,
    #[serde(flatten)]
    pub(super) counts: RunCounts,
}

impl CommandOutput for RunOutput {
    fn text(&self, _: &Styler) -> String {
        let Self { command, requested, counts } = self;
        format!("{command} {} requested:{requested} {}", counts.ending, counts.text())
    }

    fn outcome(&self) -> RunOutcome {
        self.counts.outcome()
    }
}

/// What a run that was reported means for the exit status.
pub(super) fn verdict(run: RunSummary, strict: bool) -> Result<Verdict, RunError> {
    let has_only_failures = run.has_only_failures();
    let Counts { updated, superseded, unchanged, failed, .. } = run.counts;
    let stored_nothing = updated + superseded + unchanged + failed == 0;
    if let Some(error) = run.error {
        return Err(error);
    }
    if let Some(error) = run.cut_short_by.filter(|_| stored_nothing) {
        // A node that never answers is an error, however short the time was.
        return Err(error);
    }
    let wallets = run.counts.requested;
    match (run.first_refused, run.first_failure) {
        (Some(Unreadable { wallet, reason }), _) if has_only_failures => {
            Err(RunError::Database(anyhow!(
                "not one of {wallets} wallets could be stored; check the triggers and constraints \
                 of eth_wallet_balances: {wallet}: {reason}"
            )))
        }
        (None, Some(Unreadable { wallet, reason })) if has_only_failures => {
            Err(RunError::Unreadable(format!(
                "not one of {wallets} wallets could be read; check the profile and --block: \
                 {wallet}: {reason}"
            )))
        }
        (Some(_), _) | (_, Some(_)) if strict => Ok(Verdict::Fail),
        _ => Ok(Verdict::Pass),
    }
}
