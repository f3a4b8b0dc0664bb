//! `status`: how fresh the table is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::verify::rfc3339;
use crate::{
    app::App,
    cli::StatusArgs,
    report::{BAD, CommandOutput, GOOD, Styler, Verdict},
    store::{Access, Checkpoint},
    tally::RunError,
};

/// What the text says instead of an age.
const NEVER_READ: &str = "never read";

#[derive(Serialize)]
struct Status {
    command: &'static str,
    wallets: u64,
    never_read: u64,
    unreadable: u64,
    oldest_updated_at: Option<String>,
    /// `null` for an empty table.
    age_seconds: Option<Ages>,
    checkpoint: Option<CheckpointStatus>,
    /// Whether a row is past `--max-age`.
    #[serde(skip)]
    stale: bool,
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

#[derive(Serialize)]
struct CheckpointStatus {
    name: String,
    last_block: i64,
    updated_at: String,
}

impl From<Checkpoint> for CheckpointStatus {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            name: checkpoint.name,
            last_block: checkpoint.last_block,
            updated_at: rfc3339(checkpoint.updated_at),
        }
    }
}

impl CommandOutput for Status {
    fn text(&self, styler: &Styler) -> String {
        let age = |seconds| match seconds >= self.age_of_placeholders {
            true => NEVER_READ.to_owned(),
            false => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
        };
        let mut text = format!(
            "wallets     {}\nnever read  {}\nunreadable  {}",
            self.wallets, self.never_read, self.unreadable
        );
        if let (Some(oldest), Some(ages)) = (&self.oldest_updated_at, self.age_seconds) {
            let max = age(ages.max);
            let oldest = if max == NEVER_READ { NEVER_READ } else { oldest };
            let max = if self.stale { styler.style(BAD, &max) } else { styler.style(GOOD, &max) };
            text.push_str(&format!(
                "\noldest      {oldest}\n\
                 age         p50 {}, p90 {}, max {max}",
                age(ages.p50),
                age(ages.p90),
            ));
        }
        let checkpoint = self.checkpoint.as_ref().map_or_else(
            || "none".to_owned(),
            |point| format!("{} at block {}, {}", point.name, point.last_block, point.updated_at),
        );
        text.push_str(&format!("\ncheckpoint  {checkpoint}"));
        text
    }
}

pub(super) async fn run(app: &App, args: StatusArgs) -> Result<Verdict, RunError> {
    let store = app.store(Access::Read).await?;
    let counts = store.counts().await?;
    let now = store.now().await?;
    let age = |time: DateTime<Utc>| (now - time).num_seconds().max(0).unsigned_abs();
    // Nearest rank: the age that at least so many rows are within.
    let within = |tenths: u64| counts.wallets - (counts.wallets * tenths).div_ceil(10);
    let oldest = store.nth_oldest(0).await?;
    let ages = match oldest {
        None => None,
        Some(oldest) => Some(Ages {
            p50: store.nth_oldest(within(5)).await?.map_or(0, age),
            p90: store.nth_oldest(within(9)).await?.map_or(0, age),
            max: age(oldest),
        }),
    };
    let limit = args.max_age.map_or(u64::MAX, |limit| limit.as_secs());
    let stale = ages.is_some_and(|ages| ages.max > limit);
    app.report.result(&Status {
        command: "status",
        wallets: counts.wallets,
        never_read: counts.never_read,
        unreadable: counts.unreadable,
        oldest_updated_at: oldest.map(rfc3339),
        age_seconds: ages,
        checkpoint: store.checkpoint(&app.profile.checkpoint).await?.map(Into::into),
        stale,
        age_of_placeholders: age(DateTime::UNIX_EPOCH),
    })?;
    let is_empty = oldest.is_none() && args.max_age.is_some();
    if is_empty {
        app.report.note("the table is empty");
    }
    Ok(if stale || is_empty { Verdict::Fail } else { Verdict::Pass })
}
