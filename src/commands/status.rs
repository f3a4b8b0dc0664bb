//! `status`: how fresh the table is. `picture` draws, `covered` says what `watch` keeps current, `reasons` why wallets are unreadable, `runs` what ran last.

mod covered;
mod picture;
mod reasons;
mod runs;

use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::Serialize;

use self::{
    covered::Covered,
    picture::{ago, bar, share, sparkline},
    reasons::Reason,
    runs::RunStatus,
};
use super::verify::rfc3339;
use crate::{
    app::App,
    cli::StatusArgs,
    monitor::{AgeBand, TableState},
    report::{BAD, CommandOutput, GOOD, Styler, Verdict},
    store::{Access, Checkpoint, Run, Store, TableCounts, TableFreshness},
    tally::RunError,
};

/// What the text says instead of an age.
const NEVER_READ: &str = "never read";
/// The ends of the age bands, in seconds, and how they are called.
const BANDS: [(u64, &str); 7] = [
    (60, "under 1m"),
    (600, "under 10m"),
    (3_600, "under 1h"),
    (6 * 3_600, "under 6h"),
    (86_400, "under 1d"),
    (3 * 86_400, "under 3d"),
    (7 * 86_400, "under 7d"),
];
/// How many sweeps the sparkline shows.
const SWEEPS: u32 = 24;

#[derive(Serialize)]
struct Status {
    command: &'static str,
    wallets: u64,
    never_read: u64,
    unreadable: u64,
    unreadable_reasons: Vec<Reason>,
    oldest_updated_at: Option<String>,
    /// `null` for an empty table.
    age_seconds: Option<Ages>,
    age_bands: Vec<Band>,
    /// Rows past `--max-age`; `null` without it.
    stale: Option<u64>,
    checkpoint: Option<CheckpointStatus>,
    last_runs: Vec<RunStatus>,
    #[serde(flatten)]
    covered: Covered,
    #[serde(skip)]
    max_age: Option<Duration>,
    /// The newest first.
    #[serde(skip)]
    sweeps: Vec<Run>,
    /// Rows that were never read are dated 1970, which is this many seconds ago.
    #[serde(skip)]
    age_of_placeholders: u64,
}

/// The greatest age in seconds of half of the rows, of nine tenths, and of all.
#[derive(Clone, Copy, Serialize)]
struct Ages {
    p50: u64,
    p90: u64,
    max: u64,
}

/// The rows younger than this, and not younger than the band before; those that were never read are in none.
#[derive(Serialize)]
struct Band {
    /// `null` for the last one.
    under_seconds: Option<u64>,
    wallets: u64,
    #[serde(skip)]
    name: &'static str,
}

#[derive(Serialize)]
struct CheckpointStatus {
    name: String,
    last_block: i64,
    updated_at: String,
    #[serde(skip)]
    age: u64,
}

impl Status {
    /// A bar for each age band.
    fn bands_text(&self, styler: &Styler) -> String {
        let never_read = Band { under_seconds: None, wallets: self.never_read, name: NEVER_READ };
        let bands = || self.age_bands.iter().chain([&never_read]);
        let most = bands().map(|band| band.wallets).max().unwrap_or(0);
        let digits = most.to_string().len();
        let is_past = |band: &Band| match (self.max_age, band.under_seconds) {
            (Some(limit), Some(under)) => under > limit.as_secs() && band.wallets > 0,
            (limit, None) => limit.is_some(),
            (None, _) => false,
        };
        let line = |band: &Band| {
            let drawn = bar(band.wallets, most, styler);
            let drawn = if is_past(band) { styler.style(BAD, &drawn) } else { drawn };
            let (wallets, share) = (band.wallets, share(band.wallets, self.wallets));
            let line = format!("  {:<10} {wallets:>digits$} {share:>5}  {drawn}", band.name);
            format!("\n{}", line.trim_end())
        };
        bands().map(line).collect()
    }
}

impl CommandOutput for Status {
    fn text(&self, styler: &Styler) -> String {
        let age = |seconds| match seconds >= self.age_of_placeholders {
            true => NEVER_READ.to_owned(),
            false => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
        };
        let of_all = |count: u64| match count {
            0 => "0".to_owned(),
            count => format!("{count} ({})", share(count, self.wallets)),
        };
        let mut text =
            format!("wallets     {}\nnever read  {}", self.wallets, of_all(self.never_read));
        if let (Some(limit), Some(stale)) = (self.max_age, self.stale) {
            let style = if stale > 0 { BAD } else { GOOD };
            let past = format!("past {}", humantime::format_duration(limit));
            text.push_str(&format!("\n{past:<11} {}", styler.style(style, &of_all(stale))));
        }
        text.push_str(&format!("\nunreadable  {}", self.unreadable));
        for Reason { reason, count } in &self.unreadable_reasons {
            text.push_str(&format!("\n  {count:>8}  {reason}"));
        }
        if let (Some(oldest), Some(ages)) = (&self.oldest_updated_at, self.age_seconds) {
            let max = age(ages.max);
            let oldest = if max == NEVER_READ { NEVER_READ } else { oldest };
            let style = if self.stale.is_some_and(|stale| stale > 0) { BAD } else { GOOD };
            let max = styler.style(style, &max);
            text.push_str(&format!(
                "\noldest      {oldest}\n\
                 age         p50 {}, p90 {}, max {max}",
                age(ages.p50),
                age(ages.p90),
            ));
            text.push_str(&self.bands_text(styler));
        }
        let checkpoint = self.checkpoint.as_ref().map_or_else(
            || "none".to_owned(),
            |point| {
                let CheckpointStatus { name, last_block, updated_at, age } = point;
                format!("{name} at block {last_block}, {updated_at} ({} ago)", ago(*age))
            },
        );
        text.push_str(&format!("\ncheckpoint  {checkpoint}"));
        text.push_str(&self.covered.text(self.wallets));
        if !self.sweeps.is_empty() {
            text.push_str(&format!("\nsweeps      {}", sparkline(&self.sweeps, styler)));
        }
        for (n, run) in self.last_runs.iter().enumerate() {
            let label = if n == 0 { "last runs" } else { "" };
            text.push_str(&format!("\n{label:<11} {}", run.text(styler)));
        }
        text
    }
}

pub(super) async fn run(app: &App, args: StatusArgs) -> Result<Verdict, RunError> {
    let opened = app.store(Access::Read).await?;
    let store = opened.as_ref();
    let counts = store.counts().await?;
    let now = store.now().await?;
    let age = |time: DateTime<Utc>| (now - time).num_seconds().max(0).unsigned_abs();
    let seen = Ageing::look(store, counts, now, args.max_age).await?;
    let checkpoint = store.checkpoint(&app.profile.checkpoint).await?;
    let checkpoint = checkpoint.map(|Checkpoint { name, last_block, updated_at }| {
        let age = age(updated_at);
        CheckpointStatus { name, last_block, updated_at: rfc3339(updated_at), age }
    });
    let Ageing { stale, oldest, ages, .. } = seen;
    if let Some(file) = &app.metrics_file {
        file.table(TableState { stale, ..state_of(counts, &seen) });
    }
    app.report.result(&Status {
        command: "status",
        wallets: counts.wallets,
        never_read: counts.never_read,
        unreadable: counts.unreadable,
        unreadable_reasons: reasons::most_frequent(store).await?,
        oldest_updated_at: oldest.map(rfc3339),
        age_seconds: ages,
        age_bands: seen.bands,
        stale,
        checkpoint,
        last_runs: runs::newest(store.last_runs().await?, age),
        covered: Covered::of(app, store).await?,
        max_age: args.max_age,
        sweeps: store.recent_runs("sweep", SWEEPS).await?,
        age_of_placeholders: age(DateTime::UNIX_EPOCH),
    })?;
    let is_empty = oldest.is_none() && args.max_age.is_some();
    if is_empty {
        app.report.note("the table is empty");
    }
    let is_stale = stale.is_some_and(|stale| stale > 0);
    Ok(if is_stale || is_empty { Verdict::Fail } else { Verdict::Pass })
}

/// What the table looks like, for metrics and the page of watch.
pub(super) async fn table_state(store: &dyn Store) -> Result<TableState, RunError> {
    let counts = store.counts().await?;
    let seen = Ageing::look(store, counts, store.now().await?, None).await?;
    Ok(state_of(counts, &seen))
}

fn state_of(counts: TableCounts, seen: &Ageing) -> TableState {
    let TableCounts { wallets: rows, never_read, unreadable } = counts;
    let band = |Band { name, wallets: rows, .. }: &Band| AgeBand { name, rows: *rows };
    let age_bands = seen.bands.iter().map(band).collect();
    TableState {
        rows,
        never_read,
        unreadable,
        oldest_read: seen.oldest_read,
        stale: None,
        age_bands,
    }
}

/// How old the rows are, by the newer of each row's write and its bucket's confirmation.
struct Ageing {
    oldest: Option<DateTime<Utc>>,
    /// The same without those that were never read.
    oldest_read: Option<DateTime<Utc>>,
    ages: Option<Ages>,
    /// The youngest first; nothing for an empty table.
    bands: Vec<Band>,
    /// Rows past a limit, if there is one.
    stale: Option<u64>,
}

impl Ageing {
    async fn look(
        store: &dyn Store,
        TableCounts { wallets, never_read, .. }: TableCounts,
        now: DateTime<Utc>,
        limit: Option<Duration>,
    ) -> Result<Self, RunError> {
        // Nearest rank: the age that at least so many rows are within. Placeholders are dated before all others.
        let within = |tenths: u64| wallets - (wallets * tenths).div_ceil(10);
        let ranks = [0, never_read, within(5), within(9)];
        let mut bounds: Vec<_> =
            BANDS.iter().map(|(under, _)| now - TimeDelta::seconds(under.cast_signed())).collect();
        let before = limit.and_then(|limit| reaching_back(now, limit));
        bounds.extend(before);
        let TableFreshness { older, at } = store.freshness(wallets, &bounds, &ranks).await?;
        let (older, past) = older.split_at(BANDS.len());

        let age = |time: DateTime<Utc>| (now - time).num_seconds().max(0).unsigned_abs();
        let ages = |oldest| Ages {
            p50: at[2].map_or(0, age),
            p90: at[3].map_or(0, age),
            max: age(oldest),
        };
        Ok(Self {
            oldest: at[0],
            oldest_read: at[1],
            ages: at[0].map(ages),
            bands: if wallets == 0 { Vec::new() } else { bands(older, wallets, never_read) },
            stale: limit.map(|_| past.first().copied().unwrap_or(0)),
        })
    }
}

/// The time that is so long ago; `None` beyond the calendar, where no row is older.
fn reaching_back(now: DateTime<Utc>, limit: Duration) -> Option<DateTime<Utc>> {
    let before = TimeDelta::from_std(limit).ok().and_then(|limit| now.checked_sub_signed(limit));
    before.filter(|before| before.year() > 0)
}

/// The age bands, by how many rows are older than each of [`BANDS`].
fn bands(older: &[u64], wallets: u64, never_read: u64) -> Vec<Band> {
    let mut left = wallets;
    let mut bands = Vec::with_capacity(BANDS.len() + 1);
    for ((under, name), older) in BANDS.into_iter().zip(older) {
        let wallets = left.saturating_sub(*older);
        bands.push(Band { under_seconds: Some(under), wallets, name });
        left = *older;
    }
    let wallets = left.saturating_sub(never_read);
    bands.push(Band { under_seconds: None, wallets, name: "older" });
    bands
}
