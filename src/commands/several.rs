//! One command for several profiles: one after another, or for `watch` all together.

use std::sync::Arc;

use super::{run, watch};
use crate::{
    app::{App, MetricsFile},
    cli::Command,
    report::{Conclusion, Report, Verdict},
    tally::RunError,
};

/// How the run for one profile ended.
pub struct ProfileRun {
    /// Its printer.
    pub report: Report,
    /// How it ended.
    pub ended: Result<Verdict, RunError>,
    /// Whether its error was printed.
    pub is_reported: bool,
    /// Its file of metrics, if one is wanted.
    pub metrics_file: Option<Arc<MetricsFile>>,
}

impl ProfileRun {
    /// A run that ended like this, whose error is still to be printed.
    pub fn new(report: &Report, ended: Result<Verdict, RunError>) -> Self {
        Self { report: report.clone(), ended, is_reported: false, metrics_file: None }
    }

    /// The same, with its error printed now.
    fn reported(app: &App, ended: Result<Verdict, RunError>) -> Self {
        if let Some(error) = Conclusion::of(&ended, &app.shutdown).error {
            app.report.error(&error);
        }
        Self { is_reported: true, ..Self::new(&app.report, ended) }
    }
}

/// Does what was asked for with each profile, in order. One that fails does not keep the others from running; after a
/// signal none is begun. `report` prints what is of all profiles.
pub async fn run_each(apps: &[App], command: Command, report: &Report) -> Vec<ProfileRun> {
    if let Command::Watch(args) = &command
        && !args.once
        && apps.len() > 1
    {
        let ends = watch::run_together(apps, args, report).await.into_iter();
        return ends.map(|(report, ended)| ProfileRun::new(&report, ended)).collect();
    }
    let mut runs = Vec::with_capacity(apps.len());
    for app in apps {
        let ended = match apps.len() > 1 && app.shutdown.signal().is_some() {
            true => Err(RunError::stopped()),
            false => run(app, command.clone()).await,
        };
        app.close().await;
        let run = match apps.len() {
            1 => ProfileRun::new(&app.report, ended),
            _ => ProfileRun::reported(app, ended),
        };
        runs.push(ProfileRun { metrics_file: app.metrics_file.clone(), ..run });
    }
    runs
}
