//! `--dry-run`: what a run would cost.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use itertools::Itertools;
use serde::Serialize;

use crate::{
    app::App,
    report::{CommandOutput, Styler},
};

/// What a run would do, on a node with the usual limits.
#[derive(Serialize)]
pub(super) struct Plan {
    command: &'static str,
    dry_run: bool,
    wallets: u64,
    calls: u64,
    compute_units: u64,
    seconds_at_rps: Option<u64>,
    seconds_at_cups: Option<u64>,
    /// Why these are not the exact numbers.
    #[serde(skip)]
    about: &'static str,
}

impl CommandOutput for Plan {
    fn text(&self, _: &Styler) -> String {
        let at = |seconds: Option<u64>, limit: &str| {
            let time = Duration::from_secs(seconds?);
            Some(format!("{} at {limit}", humantime::format_duration(time)))
        };
        let times = [at(self.seconds_at_rps, "--rps"), at(self.seconds_at_cups, "--cups")];
        let times = times.into_iter().flatten().join(", ");
        let times =
            if times.is_empty() { "give --rps or --cups for the time it takes" } else { &times };
        format!(
            "{} would read wallets:{} calls:{} compute_units:{}; {times}{}",
            self.command, self.wallets, self.calls, self.compute_units, self.about
        )
    }
}

impl Plan {
    /// The cost of reading this many wallets with at most `max_calls` calls.
    pub(super) fn new(
        app: &App,
        command: &'static str,
        wallets: u64,
        max_calls: Option<NonZeroU64>,
    ) -> Self {
        let node = &app.settings.node;
        let (settings, parts) = (app.reader_settings(), app.profile.reads.len());
        let needed = settings.expected_calls(parts, wallets, app.concurrency().get());
        let budget = max_calls.map_or(u64::MAX, NonZeroU64::get);
        let calls = needed.min(budget);
        let compute_units = calls * u64::from(node.cu_per_call.get());
        let seconds = |rate: Option<NonZeroU32>, amount: u64| {
            rate.map(|rate| amount.div_ceil(u64::from(rate.get())))
        };
        Self {
            command,
            dry_run: true,
            wallets,
            calls,
            compute_units,
            seconds_at_rps: seconds(node.rps, calls),
            seconds_at_cups: seconds(node.cups, compute_units),
            about: if needed > budget {
                "; --max-calls ends it before all are read"
            } else if settings.depends_on_limits(parts) {
                "; as for a node that allows 50M gas and 2 MB in a call"
            } else {
                ""
            },
        }
    }
}
