//! `watch --once`: from the checkpoint to the newest block, for cron.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::Serialize;
use tracing::warn;

use super::{
    super::sweep::TimeLimit,
    lines::{EventLine, block, body_of, text_of},
    setup::{access, check_table, follower_settings, note_ignored, open_node, overdue},
};
use crate::{
    app::App,
    cli::WatchArgs,
    events::Events,
    follow::{Context, Follower, Observer, OneRun, Source, WatchEvent},
    monitor::{Monitor, WatchCounts},
    read::NodeReader,
    report::{CommandOutput, Report, RunOutcome, Styler, Verdict},
    rpc::Contracts,
    store::{LockKey, Store},
    tally::{Lock, Locked, RunError},
};

/// What comes after a run that ended early.
const CONTINUES: &str = "the next run continues at the checkpoint";

/// The result.
#[derive(Serialize)]
struct OnceOutput {
    command: &'static str,
    /// The first block whose events were followed; null if there was no new one.
    from_block: Option<u64>,
    /// The last of them.
    to_block: Option<u64>,
    #[serde(flatten)]
    counts: WatchCounts,
    /// The last block whose wallets are stored.
    checkpoint_block: Option<u64>,
    elapsed_ms: u128,
    skipped: bool,
    interrupted: bool,
    #[serde(skip)]
    outcome: RunOutcome,
}

impl CommandOutput for OnceOutput {
    fn text(&self, _: &Styler) -> String {
        let Self { counts, checkpoint_block, elapsed_ms, .. } = self;
        let (counts, checkpoint) = (text_of(counts), block(*checkpoint_block));
        format!("watch {} {counts} checkpoint:{checkpoint} in {elapsed_ms} ms", self.outcome)
    }

    fn outcome(&self) -> RunOutcome {
        self.outcome
    }
}

/// Counts what happens, and notes what a person wants to know of.
struct Counter {
    monitor: Arc<Monitor>,
    report: Report,
    /// The first and the last block that were followed.
    blocks: Mutex<Option<(u64, u64)>>,
}

impl Counter {
    fn blocks(&self) -> MutexGuard<'_, Option<(u64, u64)>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Counter {
    fn notify(&self, event: &WatchEvent) {
        self.monitor.notify(event);
        let said = match event {
            WatchEvent::Stored(stored) if stored.from <= stored.to => {
                let mut blocks = self.blocks();
                let (from, to) = blocks.unwrap_or((stored.from, stored.to));
                *blocks = Some((from.min(stored.from), to.max(stored.to)));
                return;
            }
            WatchEvent::Began(_) | WatchEvent::Reorg { .. } | WatchEvent::DeepReorg { .. } => {
                body_of(event)
            }
            _ => return,
        };
        if let Some(said) = said {
            self.report.note(&EventLine::now(&self.report, said).words());
        }
    }
}

/// A run that has opened everything.
struct Once<'a> {
    app: &'a App,
    args: &'a WatchArgs,
    reader: Arc<NodeReader>,
    events: Events,
    counter: Counter,
    started: Instant,
}

pub(super) async fn run(app: &App, args: &WatchArgs) -> Result<Verdict, RunError> {
    let timer = args.max_duration.map(|limit| TimeLimit::start(limit, &app.shutdown));
    let started = Instant::now();
    let client = app.client(Contracts::OfEvents, None)?;
    let (reader, events, monitor) = open_node(app, args, client);
    let counter = Counter { monitor, report: app.report.clone(), blocks: Mutex::default() };
    let once = Once { app, args, reader, events: events.in_one_request(), counter, started };
    let ended = tokio::select! {
        ended = once.follow() => ended,
        // Nothing is lost: what is not stored comes after the checkpoint.
        () = overdue(&app.shutdown) => {
            warn!("node or database take too long; stopping without waiting for them");
            Ok(true)
        }
    };
    let is_over = timer.is_some_and(|timer| timer.is_over());
    let ended = ended.map_err(|error| match is_over {
        true => error.context("--max-duration reached"),
        false => error,
    });
    let outcome = match &ended {
        Err(RunError::Locked(_)) | Ok(false) => RunOutcome::Skipped,
        Err(_) => RunOutcome::Failed,
        Ok(true) if app.shutdown.signal().is_some() => RunOutcome::Interrupted,
        Ok(true) if app.shutdown.is_requested() => RunOutcome::CutShort,
        Ok(true) if once.counter.monitor.counts().failed > 0 => RunOutcome::Partial,
        Ok(true) => RunOutcome::Complete,
    };
    match outcome {
        RunOutcome::CutShort => app.report.note(&format!("--max-duration reached; {CONTINUES}")),
        RunOutcome::Interrupted => app.report.note(CONTINUES),
        _ => {}
    }
    app.report.result(&once.output(outcome))?;
    ended.map(|_| Verdict::Pass)
}

impl Once<'_> {
    fn output(&self, outcome: RunOutcome) -> OnceOutput {
        let blocks = *self.counter.blocks();
        OnceOutput {
            command: "watch",
            from_block: blocks.map(|(from, _)| from),
            to_block: blocks.map(|(_, to)| to),
            counts: self.counter.monitor.counts(),
            checkpoint_block: self.counter.monitor.health().checkpoint_block,
            elapsed_ms: self.started.elapsed().as_millis(),
            skipped: outcome == RunOutcome::Skipped,
            interrupted: self.app.shutdown.signal().is_some(),
            outcome,
        }
    }

    /// Follows the chain under the lock of its checkpoint; returns false if another process does.
    async fn follow(&self) -> Result<bool, RunError> {
        let opened = self.app.store(access(self.args)).await?;
        let store = opened.as_ref();
        let key = LockKey::Watch(&self.app.profile.checkpoint);
        let Some(lock) = store.lock(key).await? else {
            let holder = store.holder(key).await;
            let holder = holder.map(|holder| format!(" ({holder})")).unwrap_or_default();
            let said = format!("another watch of this database is running{holder}; nothing done");
            if self.args.fail_if_locked {
                return Err(RunError::Locked(said));
            }
            self.app.report.note(&said);
            return Ok(false);
        };
        let followed = self.follow_locked(store, lock.as_ref()).await;
        lock.release().await;
        followed.map(|()| true)
    }

    async fn follow_locked(&self, store: &dyn Store, lock: &dyn Lock) -> Result<(), RunError> {
        let Self { app, args, events, counter, .. } = self;
        self.reader.has_stored(store.newest_read_block().await?);
        let newest = events.newest().await?;
        check_table(app, args, store, newest.number).await?;
        if app.shutdown.is_requested() {
            return Ok(());
        }
        app.claim_table(store).await?;
        let context = Context {
            source: events,
            reader: self.reader.as_ref(),
            ledger: &Locked { ledger: store, lock },
            journal: store,
            observer: counter,
            shutdown: &app.shutdown,
        };
        let follower = Follower::new(context, follower_settings(app, args)).await?;
        note_ignored(app, args, follower.next());
        let run = OneRun { follower, source: events, shutdown: &app.shutdown, lock };
        run.run(newest).await
    }
}
