//! `backfill`: take wallets in from a CSV file.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use futures_util::{Stream, TryStreamExt, stream};
use serde::Serialize;

use super::story::{RunCounts, Story, verdict};
use crate::{
    app::{App, PAGE},
    cli::BackfillArgs,
    intake::{self, Intake, Reject},
    report::{CommandOutput, Report, RunOutcome, Styler, Verdict},
    store::{Access, Store},
    tally::{Retries, RunError, RunSummary, Wallet},
};

/// How many bad rows are shown; all of them go to `--rejects`.
const REJECTS_SHOWN: u64 = 10;

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
    let input = open(&args.from_csv)?;
    let story = Story::open(app, "backfill", reader, Access::Write).await?;
    let store = story.store.as_ref();
    let Intake { rows, rejected, without_wallets, wallets } = take_in(app, &args, input).await?;
    let mut seen = Seen::default();
    let mut run = match args.placeholders {
        true => store_placeholders(app, store, pages(wallets), &mut seen).await,
        false => {
            let pages = wanted_pages(store, wallets, args.resume, &mut seen);
            story.run(store, rows - rejected, pages, &Retries::default(), |_, _, _| {}).await
        }
    };
    if let Some(found) = without_wallets {
        let error = RunError::settings(format!("{}: {found}", name_of(&args.from_csv)));
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

/// Reads the file; when a stop is asked for meanwhile, nothing is taken in.
async fn take_in(
    app: &App,
    args: &BackfillArgs,
    input: Box<dyn Read + Send>,
) -> Result<Intake, RunError> {
    let name = name_of(&args.from_csv);
    if let Some(rejects) = &args.rejects
        && is_same_file(rejects, &args.from_csv)
    {
        return Err(RunError::settings(format!(
            "{name}: --rejects would overwrite it; give another file"
        )));
    }
    let mut rejects = Rejects::new(app.report.clone(), args.rejects.as_deref())?;
    let (column, shutdown) = (args.column.clone(), app.shutdown.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let intake = intake::read(input, column.as_deref(), &shutdown, |row| rejects.take(row))?;
        rejects.finish()?;
        Ok::<_, RunError>(intake)
    });
    tokio::select! {
        read = reading => match read {
            Ok(Err(_)) if app.shutdown.is_requested() => Ok(Intake::default()),
            Ok(read) => read.map_err(|error| error.context(name)),
            Err(panicked) => Err(RunError::settings(panicked)),
        },
        // Standard input may never end.
        () = app.shutdown.requested() => Ok(Intake::default()),
    }
}

/// The file, or standard input.
fn open(path: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).with_context(|| {
        format!("{}: cannot be read; check the path of --from-csv", name_of(path))
    })?;
    Ok(Box::new(file))
}

fn name_of(path: &Path) -> String {
    if path.as_os_str() == "-" {
        "standard input".into()
    } else {
        format!("file {}", path.display())
    }
}

/// Whether both paths lead to one file that exists, by whatever links.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let id = |path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    id(one).is_some_and(|found| id(other) == Some(found))
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

/// Rows without a valid wallet address: the first ones are noted on stderr, all are written to a file.
struct Rejects {
    report: Report,
    file: Option<(PathBuf, csv::Writer<File>)>,
    seen: u64,
}

impl Rejects {
    fn new(report: Report, path: Option<&Path>) -> anyhow::Result<Self> {
        let open = |path: &Path| {
            let file = File::create(path).with_context(|| {
                format!("file {}: cannot be written; check the path of --rejects", path.display())
            })?;
            let mut writer = csv::Writer::from_writer(file);
            writer.write_record(["line", "value", "reason"])?;
            anyhow::Ok((path.to_owned(), writer))
        };
        Ok(Self { report, file: path.map(open).transpose()?, seen: 0 })
    }

    fn take(&mut self, reject: &Reject) -> Result<(), RunError> {
        self.seen += 1;
        if self.seen <= REJECTS_SHOWN {
            self.report.note(&reject.to_string());
        }
        if self.seen == REJECTS_SHOWN + 1 {
            self.report.note("further bad rows are not shown; --rejects FILE lists all of them");
        }
        let Some((path, writer)) = &mut self.file else { return Ok(()) };
        writer
            .write_record([&reject.line.to_string(), &reject.value, &reject.reason])
            .with_context(|| format!("file {}: cannot be written", path.display()))?;
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        let Some((path, mut writer)) = self.file else { return Ok(()) };
        writer.flush().with_context(|| format!("file {}: cannot be written", path.display()))
    }
}
