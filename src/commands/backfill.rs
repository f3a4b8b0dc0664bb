//! `backfill`: take wallets in from a CSV file.

use std::io;

use anyhow::Context;
use futures_util::{Stream, TryStreamExt, stream};
use serde::Serialize;

use super::{
    csv_file::CsvFile,
    story::{RunCounts, Story, verdict},
};
use crate::{
    app::{App, PAGE},
    cli::BackfillArgs,
    intake::Intake,
    report::{CommandOutput, RunOutcome, Styler, Verdict},
    store::{Access, Store},
    tally::{Retries, RunError, RunSummary, Wallet},
};

#[derive(Serialize)]
struct Backfilled {
    command: &'static str,
    rows: u64,
    wallets: u64,
    duplicates: u64,
    rejected: u64,
    /// Wallets that the table had already: a read total with `--resume`, any row with `--placeholders`.
    kept: u64,
    #[serde(flatten)]
    counts: RunCounts,
}

impl CommandOutput for Backfilled {
    fn text(&self, _: &Styler) -> String {
        format!(
            "backfill {} rows:{} wallets:{} duplicates:{} rejected:{} kept:{} {}",
            self.counts.ending,
            self.rows,
            self.wallets,
            self.duplicates,
            self.rejected,
            self.kept,
            self.counts.text()
        )
    }

    fn outcome(&self) -> RunOutcome {
        self.counts.outcome()
    }
}

/// What was seen of the wallets on their way.
#[derive(Default)]
struct Seen {
    wallets: u64,
    kept: u64,
}

pub(super) async fn run(app: &App, args: BackfillArgs) -> Result<Verdict, RunError> {
    // Mistakes in the settings are found before a long file is read.
    let reader = if args.placeholders { None } else { Some(app.reader(args.budget.max_calls)?) };
    let file = CsvFile::open(&args.from_csv)?;
    let name = file.name();
    let story = Story::open(app, "backfill", reader, Access::Write).await?;
    let store = story.store.as_ref();
    let Intake { rows, rejected, without_wallets, wallets } =
        file.read(app, args.column.as_deref(), args.rejects.as_deref()).await?;
    let mut seen = Seen::default();
    let mut run = match args.placeholders {
        true => store_placeholders(app, store, pages(wallets), &mut seen).await,
        false => {
            let pages = wanted_pages(store, wallets, args.resume, &mut seen);
            story.run(store, rows - rejected, pages, &Retries::default(), |_, _, _| {}).await
        }
    };
    if let Some(found) = without_wallets {
        let error = RunError::settings(format!("{name}: {found}"));
        run.error.get_or_insert(error);
    }
    story.note_rest(&mut run, "run it again with --resume to continue");
    let counts = story.counts(&run);
    app.report.result(&Backfilled {
        command: "backfill",
        rows,
        wallets: seen.wallets,
        // The rows that a run cut short did not reach may hold more.
        duplicates: if counts.ending == RunOutcome::Complete {
            rows - rejected - seen.wallets
        } else {
            0
        },
        rejected,
        kept: seen.kept,
        counts,
    })?;
    verdict(run, args.strict.strict)
}

/// The wallets in pages.
fn pages(
    wallets: Box<dyn Iterator<Item = io::Result<Wallet>> + Send>,
) -> impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send {
    stream::try_unfold(wallets, move |mut wallets| async move {
        let page: Result<Vec<Wallet>, io::Error> = wallets.by_ref().take(PAGE as usize).collect();
        let page = page.context("a temporary file cannot be read")?;
        Ok((!page.is_empty()).then_some((page, wallets)))
    })
}

/// The wallets that are to be read, in pages; with `resume` without those that the table has.
fn wanted_pages<'a>(
    store: &'a dyn Store,
    wallets: Box<dyn Iterator<Item = io::Result<Wallet>> + Send>,
    resume: bool,
    seen: &'a mut Seen,
) -> impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send + 'a {
    let start = (Box::pin(pages(wallets)), seen);
    stream::try_unfold(start, move |(mut pages, seen)| async move {
        let Some(mut page) = pages.try_next().await? else { return Ok(None) };
        seen.wallets += page.len() as u64;
        if resume {
            let known = store.with_read_total(&page).await?;
            page.retain(|wallet| !known.contains(wallet));
            seen.kept += known.len() as u64;
        }
        Ok(Some((page, (pages, seen))))
    })
}

/// Stores wallets unread.
async fn store_placeholders(
    app: &App,
    store: &dyn Store,
    pages: impl Stream<Item = Result<Vec<Wallet>, RunError>>,
    seen: &mut Seen,
) -> RunSummary {
    let mut run = RunSummary::default();
    let mut pages = std::pin::pin!(pages);
    while !app.shutdown.is_requested() {
        let stored = async {
            let Some(page) = pages.try_next().await? else { return Ok(None) };
            app.claim_table(store).await?;
            Ok::<_, RunError>(Some((page.len() as u64, store.insert_placeholders(&page).await?)))
        };
        match stored.await {
            Ok(Some((wallets, stored))) => {
                let (refused, left) = (stored.refused.len() as u64, stored.left.len() as u64);
                seen.wallets += wallets;
                run.kept += wallets - left - refused - stored.updated;
                seen.kept = run.kept;
                run.counts.requested += wallets;
                run.counts.updated += stored.updated;
                run.counts.failed += refused;
                run.first_refused = run.first_refused.or(stored.refused.into_iter().next());
            }
            Ok(None) => break,
            Err(error) => {
                run.error = Some(error);
                break;
            }
        }
    }
    run
}
