//! `sweep`: re-read the stalest wallets. `queue` says which, and in which order; `buckets` does where rows are
//! confirmed instead of written, and `uncovered` for rows that no `watch` keeps current.

mod buckets;
mod pages;
mod queue;
mod uncovered;

use std::time::Duration;

use chrono::TimeDelta;
use tokio::task::JoinHandle;

use super::{
    plan::Plan,
    story::{RunOutput, Story, verdict},
};
use crate::{
    app::App,
    cli::{SweepArgs, WriteChoice},
    report::Verdict,
    store::{Access, Coverage, LockKey, Stale, Store},
    tally::{Confirming, Lock, Locked, Retries, RunError, RunSummary, Shard, Shutdown},
};

/// What comes after a run that ended early.
const CONTINUES: &str = "the next run continues with the oldest rows";

pub(super) async fn run(app: &App, args: SweepArgs) -> Result<Verdict, RunError> {
    if args.not_covered {
        check_events(app)?;
    }
    let timer = args.max_duration.map(|limit| TimeLimit::start(limit, &app.shutdown));
    let ended = match args.dry_run {
        true => dry_run(app, &args).await,
        false => sweep(app, &args).await,
    };
    if !timer.is_some_and(|timer| timer.is_over()) {
        return ended;
    }
    if ended.is_ok() {
        app.report.note(&format!("--max-duration reached; {CONTINUES}"));
    }
    ended.map_err(|error| error.context("--max-duration reached"))
}

async fn sweep(app: &App, args: &SweepArgs) -> Result<Verdict, RunError> {
    let reader = app.reader(args.budget.max_calls)?;
    reader.check_ahead();
    let story = Story::open(app, "sweep", Some(reader), Access::Update).await?;
    let store = story.store.as_ref();
    let shard = args.shard.unwrap_or(Shard::ALL);
    let key = LockKey::Sweep(shard);
    let Some(lock) = store.lock(key).await? else {
        let holder = store.holder(key).await;
        return skip(app, args, &story, holder);
    };
    let swept = sweep_locked(app, args, &story, lock.as_ref()).await;
    lock.release().await;
    swept
}

/// Sweeps under the lock of the shard.
async fn sweep_locked(
    app: &App,
    args: &SweepArgs,
    story: &Story<'_>,
    lock: &dyn Lock,
) -> Result<Verdict, RunError> {
    let store = story.store.as_ref();
    let stale = stale(store, args).await?;
    let coverage = coverage(app, args, store).await?;
    let mut run = match (&coverage, digits(store, args.write).await?) {
        (Some(coverage), digits) => {
            let digits = digits.filter(|_| args.write == WriteChoice::Changed);
            let run = sweep_uncovered(app, args, story, (coverage, stale), lock, digits).await?;
            if run.error.is_none() {
                store.tidy_coverage(coverage).await?;
            }
            run
        }
        (None, None) => sweep_rows(app, args, story, stale, lock).await?,
        (None, Some(digits)) => sweep_buckets(app, args, story, stale, lock, digits).await?,
    };
    story.note_rest(&mut run, CONTINUES);
    if run.counts.superseded > 0 && run.counts.updated + run.counts.unchanged == 0 {
        app.report.note(
            "the table holds newer reads than this run made; is the node behind, or --block old?",
        );
    }
    if run.error.is_none() && run.counts.requested == 0 {
        note_if_empty(app, store).await?;
    }
    let counts = story.counts(&run);
    app.report.result(&RunOutput { command: "sweep", requested: run.counts.requested, counts })?;
    verdict(run, args.strict.strict)
}

/// How many digits the table's buckets have; `None` if it has none and needs none.
async fn digits(store: &dyn Store, write: WriteChoice) -> Result<Option<u8>, RunError> {
    match write {
        WriteChoice::All => store.bucket_digits().await,
        WriteChoice::Changed => store.create_buckets().await.map(Some),
    }
}

/// Sweeps row by row.
async fn sweep_rows(
    app: &App,
    args: &SweepArgs,
    story: &Story<'_>,
    stale: Stale,
    lock: &dyn Lock,
) -> Result<RunSummary, RunError> {
    let (store, limit, retries) = (story.store.as_ref(), limit(args), Retries::default());
    let expected = match app.report.shows_bars() {
        true => queue::count(store, &stale, limit).await?,
        false => 0,
    };
    let pages = queue::pages(store, stale, limit, &retries);
    let ledger = Locked { ledger: store, lock };
    let work = story.run(&ledger, expected, pages, &retries, |_, _, _| {});
    Ok(while_held(lock, &app.shutdown, work).await)
}

/// Sweeps bucket by bucket.
async fn sweep_buckets(
    app: &App,
    args: &SweepArgs,
    story: &Story<'_>,
    stale: Stale,
    lock: &dyn Lock,
    digits: u8,
) -> Result<RunSummary, RunError> {
    let (store, limit, retries) = (story.store.as_ref(), limit(args), Retries::default());
    let expected = match app.report.shows_bars() {
        true => buckets::count(store, &stale, limit).await?,
        false => 0,
    };
    let (confirmer, locked) = (store, Locked { ledger: store, lock });
    let confirming = Confirming::new(confirmer, locked, digits, args.write == WriteChoice::All);
    let pages = buckets::pages(store, &confirming, stale, limit, &retries);
    let work = story.run(&confirming, expected, pages, &retries, |_, _, _| {});
    let run = while_held(lock, &app.shutdown, work).await;
    Ok(finish(&confirming, run).await)
}

/// What `watch` keeps current, with `--not-covered`; `None` if every row is to be swept.
async fn coverage(
    app: &App,
    args: &SweepArgs,
    store: &dyn Store,
) -> Result<Option<Coverage>, RunError> {
    if !args.not_covered {
        return Ok(None);
    }
    let events = app.profile.events_text();
    let coverage = store.coverage(&app.profile.checkpoint, &events).await?;
    if coverage.is_none() {
        app.report.note("no watch has followed the events of this profile, so no row is covered");
    }
    Ok(coverage)
}

/// Refuses a profile whose totals no `watch` can keep current.
fn check_events(app: &App) -> Result<(), RunError> {
    match app.profile.is_without_events {
        false => Ok(()),
        true => Err(RunError::settings(format!(
            "profile {} has events = \"none\", so that watch keeps no row current and --not-covered leaves none out; \
             sweep without it",
            app.profile.name
        ))),
    }
}

/// Sweeps the rows that `watch` does not keep current: buckets of which it keeps few as a whole if there are `digits`.
async fn sweep_uncovered(
    app: &App,
    args: &SweepArgs,
    story: &Story<'_>,
    (coverage, stale): (&Coverage, Stale),
    lock: &dyn Lock,
    digits: Option<u8>,
) -> Result<RunSummary, RunError> {
    let (store, limit, retries) = (story.store.as_ref(), limit(args), Retries::default());
    let expected = match app.report.shows_bars() {
        true => uncovered::count(store, coverage, &stale, limit).await?,
        false => 0,
    };
    let ledger = Locked { ledger: store, lock };
    let Some(digits) = digits else {
        let pages = uncovered::pages(store, coverage, None, stale, limit, &retries);
        let work = story.run(&ledger, expected, pages, &retries, |_, _, _| {});
        return Ok(while_held(lock, &app.shutdown, work).await);
    };
    let confirmer: &dyn Store = store;
    let confirming = Confirming::new(confirmer, ledger, digits, false);
    let pages = uncovered::pages(store, coverage, Some(&confirming), stale, limit, &retries);
    let work = story.run(&confirming, expected, pages, &retries, |_, _, _| {});
    let run = while_held(lock, &app.shutdown, work).await;
    Ok(finish(&confirming, run).await)
}

/// Stores what was read of buckets that were not confirmed yet.
async fn finish(confirming: &Confirming<'_>, mut run: RunSummary) -> RunSummary {
    if !matches!(run.error, Some(RunError::Database(_))) {
        let (recorded, error) = confirming.finish().await;
        run.count_later(recorded);
        run.error = run.error.or(error);
    }
    run
}

/// Another sweep is at work.
fn skip(
    app: &App,
    args: &SweepArgs,
    story: &Story<'_>,
    holder: Option<String>,
) -> Result<Verdict, RunError> {
    let holder = holder.map(|holder| format!(" ({holder})")).unwrap_or_default();
    let shard = args.shard.unwrap_or(Shard::ALL);
    let said =
        format!("another sweep of shard {shard} of this database is running{holder}; nothing done");
    let counts = story.counts(&RunSummary::default()).skipped();
    let output = RunOutput { command: "sweep", requested: 0, counts };
    if args.fail_if_locked {
        app.report.result(&output)?;
        return Err(RunError::Locked(said));
    }
    app.report.note(&said);
    app.report.result(&output)?;
    Ok(Verdict::Pass)
}

/// Does `work` while the lock is held. Once it is lost, the work stops without storing more.
async fn while_held(
    lock: &dyn Lock,
    shutdown: &Shutdown,
    work: impl Future<Output = RunSummary>,
) -> RunSummary {
    let mut work = std::pin::pin!(work);
    let reason = tokio::select! {
        run = &mut work => return run,
        reason = lock.lost() => reason,
    };
    shutdown.request();
    let mut run = work.await;
    run.error = Some(RunError::lock_lost(&reason));
    run
}

/// Says so if there is nothing to sweep, now and later.
async fn note_if_empty(app: &App, store: &dyn Store) -> Result<(), RunError> {
    if store.is_empty().await? {
        app.report.note("the table is empty; fill it with `ethtally backfill`");
    }
    Ok(())
}

/// How many wallets to sweep at most.
fn limit(args: &SweepArgs) -> u64 {
    if args.all { u64::MAX } else { args.batch }
}

/// Which rows count as stale: those before now, or before `--older-than`.
async fn stale(store: &dyn Store, args: &SweepArgs) -> Result<Stale, RunError> {
    let now = store.now().await?;
    let age = TimeDelta::from_std(args.older_than.unwrap_or_default()).ok();
    let before = age
        .and_then(|age| now.checked_sub_signed(age))
        .ok_or_else(|| RunError::settings("--older-than reaches back beyond the calendar"))?;
    Ok(Stale { before, due: now, shard: args.shard.unwrap_or(Shard::ALL) })
}

/// Asks for a shutdown when the time of `--max-duration` is over.
pub(super) struct TimeLimit {
    timer: JoinHandle<()>,
}

impl TimeLimit {
    pub(super) fn start(limit: Duration, shutdown: &Shutdown) -> Self {
        let shutdown = shutdown.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            shutdown.request();
        });
        Self { timer }
    }

    pub(super) fn is_over(&self) -> bool {
        self.timer.is_finished()
    }
}

impl Drop for TimeLimit {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

async fn dry_run(app: &App, args: &SweepArgs) -> Result<Verdict, RunError> {
    let store = app.store(Access::Read).await?;
    let stale = stale(store.as_ref(), args).await?;
    let coverage = coverage(app, args, store.as_ref()).await?;
    let wallets = match store.bucket_digits().await? {
        _ if let Some(coverage) = &coverage => {
            uncovered::count(store.as_ref(), coverage, &stale, limit(args)).await?
        }
        Some(_) => buckets::count(store.as_ref(), &stale, limit(args)).await?,
        None => queue::count(store.as_ref(), &stale, limit(args)).await?,
    };
    if wallets == 0 {
        note_if_empty(app, store.as_ref()).await?;
    }
    app.report.result(&Plan::new(app, "sweep", wallets, args.budget.max_calls))?;
    Ok(Verdict::Pass)
}
