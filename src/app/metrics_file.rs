//! `--metrics-file`: how a run ended, for the textfile collector of Prometheus' node_exporter.
//!
//! Every series is labelled by the command, so that the files of several commands can lie beside each other.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::Context;
use chrono::Utc;
use prometheus::proto::MetricFamily;
use serde_json::{Map, Value};

use crate::{
    monitor::{Exposition, LastRun, RUN_ENDS, TableState, encode, encode_each},
    report::{Conclusion, Report},
    store::Run,
};

/// What becomes of wallets, by the names that results have for it.
const RESULTS: [&str; 8] = [
    "requested",
    "updated",
    "failed",
    "superseded",
    "sampled",
    "in_sync",
    "unreadable",
    "unchecked",
];

/// The file, and what is known of the run so far.
pub struct MetricsFile {
    path: PathBuf,
    command: &'static str,
    /// The profile, where there are several.
    profile: Option<String>,
    started: Instant,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    runs: Vec<LastRun>,
    table: Option<TableState>,
}

impl MetricsFile {
    /// A file for a run of this command that starts now.
    pub fn new(path: PathBuf, command: &'static str) -> Self {
        Self { path, command, profile: None, started: Instant::now(), known: Mutex::default() }
    }

    /// The same file, for one profile of several.
    pub fn of_profile(&self, profile: &str) -> Self {
        Self { profile: Some(profile.to_owned()), ..Self::new(self.path.clone(), self.command) }
    }

    /// What the record of runs says of this command.
    pub fn runs(&self, runs: impl IntoIterator<Item = LastRun>) {
        let runs = runs.into_iter().filter(|run| run.command == self.command);
        self.known().runs = runs.collect();
    }

    /// What the table looks like.
    pub fn table(&self, table: TableState) {
        self.known().table = Some(table);
    }

    /// Replaces the file at once with how the runs of all profiles ended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_each(runs: &[(Arc<Self>, &Report, Conclusion)]) -> anyhow::Result<()> {
        let [(first, ..), ..] = runs else { return Ok(()) };
        let of_profiles = runs.iter().map(|(file, report, conclusion)| {
            let profile = file.profile.clone().unwrap_or_default();
            (profile, file.families(report, conclusion))
        });
        let text = match &first.profile {
            Some(_) => encode_each(of_profiles),
            None => encode(of_profiles.flat_map(|(_, families)| families).collect()),
        };
        let what = || format!("--metrics-file {}: cannot be written", first.path.display());
        replace(&first.path, &text).with_context(what)
    }

    fn families(&self, report: &Report, conclusion: &Conclusion) -> Vec<MetricFamily> {
        let known = self.known();
        let command = || [self.command.to_owned()];
        let to = Exposition::default();
        to.run_ends(self.ends(&known.runs, report.outcome(conclusion).name()));
        to.gauges(
            "last_run_exit_status",
            "The exit status of the last run of this command",
            ["command"],
            [(command(), f64::from(conclusion.exit_status))],
        );
        to.gauges(
            "last_run_duration_seconds",
            "How long the last run of this command took",
            ["command"],
            [(command(), self.started.elapsed().as_secs_f64())],
        );
        let counts = report.counts().and_then(|counts| serde_json::from_str(&counts).ok());
        self.expose_counts(&counts.unwrap_or_default(), &to);
        if let Some(table) = &known.table {
            table.expose(&to);
        }
        to.families(Vec::new())
    }

    /// The numbers of the result.
    fn expose_counts(&self, counts: &Map<String, Value>, to: &Exposition) {
        let count = |name: &str| counts.get(name).and_then(Value::as_f64);
        // `status` counts the wallets of the table, not those of a run.
        if self.command != "status" {
            let results = RESULTS.iter().filter_map(|name| Some((*name, count(name)?)));
            to.gauges(
                "last_run_wallets",
                "What became of wallets in the last run of this command",
                ["command", "result"],
                results.map(|(name, count)| ([self.command.to_owned(), name.to_owned()], count)),
            );
        }
        if self.command == "verify" {
            let kinds = ["moved", "wrong"].into_iter();
            to.gauges(
                "verify_drifted_wallets",
                "Rows of the last sample that differ from the chain: those whose wallets have changed since they \
                 were read, and those that were never right",
                ["kind"],
                kinds.filter_map(|kind| Some(([kind.to_owned()], count(kind)?))),
            );
        }
    }

    /// When the newest run of each outcome ended: of the record, of the file before, and this one.
    fn ends(&self, runs: &[LastRun], outcome: &str) -> Vec<([String; 2], f64)> {
        let mut ends = self.ends_before();
        for run in runs.iter().filter(|run| run.exit_status.is_some()) {
            let end = ends.entry(run.outcome.clone()).or_default();
            *end = end.max(run.ended_at.timestamp() as f64);
        }
        ends.insert(outcome.to_owned(), Utc::now().timestamp() as f64);
        ends.into_iter().map(|(outcome, end)| ([self.command.to_owned(), outcome], end)).collect()
    }

    /// What the file says so far, as the database may not be reached, and does not know of commands that only read.
    fn ends_before(&self) -> BTreeMap<String, f64> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let start = format!("ethtally_{RUN_ENDS}{{command=\"{}\",outcome=\"", self.command);
        let end_of_labels = match &self.profile {
            Some(profile) => format!("\",profile=\"{profile}\"}} "),
            None => "\"} ".to_owned(),
        };
        let end = |line: &str| {
            let (outcome, value) = line.strip_prefix(&start)?.split_once(&*end_of_labels)?;
            Some((outcome.to_owned(), value.trim().parse().ok()?))
        };
        text.lines().filter_map(end).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run on record, for metrics and the page of watch.
pub fn last_run(run: Run) -> LastRun {
    let Run { command, shard, outcome, ended_at, exit_status, error, .. } = run;
    LastRun { command, shard, outcome, ended_at, exit_status, error }
}

/// Writes a file beside it that the collector does not read, and puts it in its place.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".ethtally-")
        .suffix(".tmp")
        // The collector is another user.
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}
