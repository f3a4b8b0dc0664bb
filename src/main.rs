//! The program: parse, hear signals, start tokio, run the command, exit. The only place that exits.

mod signals;

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use ethtally::{
    app::{self, MetricsFile},
    cli::{self, Cli, Command},
    commands::{self, ProfileRun},
    redact,
    report::{self, Conclusion, LogFilter, Report, ReportSettings},
    tally::{RunError, Shutdown},
};
use tokio::runtime::Runtime;
use tracing::error;

fn main() -> ExitCode {
    remember_secrets();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return report::usage(&error, cli::log_format(std::env::args_os())),
    };
    let filter = LogFilter::from_variable();
    let report = Report::new(report_settings(&cli), filter.as_ref().ok().and_then(Option::as_ref));
    report.catch_panics();
    report.command(cli.command.name());
    let shutdown = Shutdown::default();
    let metrics_file = metrics_file(&cli).map(Arc::new);
    // A service prints a line for each, as it ends.
    let in_array = cli.settings.node.profile.len() > 1
        && !cli.command.is_service()
        && !cli.command.is_for_packagers();
    let ran = filter.map_err(RunError::settings).and_then(|_| {
        signals::listen(shutdown.clone(), report.clone(), note_on_signal(&cli.command))?;
        run(cli, &report, &shutdown, metrics_file.clone())
    });
    let runs = ran.unwrap_or_else(|error| vec![ProfileRun::new(&report, Err(error))]);
    let files = runs.iter().filter_map(|run| {
        // A run that was refused has the one of the command.
        let file = run.metrics_file.clone().or_else(|| metrics_file.clone())?;
        Some((file, &run.report, Conclusion::of(&run.ended, &shutdown)))
    });
    if let Err(error) = MetricsFile::write_each(&files.collect::<Vec<_>>()) {
        // The run is what it is; who watches the file sees that it is old.
        error!("{}", redact::clean_error(error.as_ref()));
    }
    exit_status(runs, in_array, &report, &shutdown)
}

/// Before anything is parsed, so that not even a usage error shows one.
fn remember_secrets() {
    /// Variables that are read, besides those that begin with `ETH`.
    const OTHERS: [&str; 3] = ["DATABASE_URL", "DATABASE_URL_FILE", "JOB_COMPLETION_INDEX"];
    for argument in std::env::args_os() {
        redact::remember(&argument.to_string_lossy());
    }
    // A URL may be given to the wrong variable, and a proxy has a password too.
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy().to_uppercase();
        if name.starts_with("ETH") || name.ends_with("_PROXY") || OTHERS.contains(&&*name) {
            let value = value.to_string_lossy();
            value.lines().chain([&*value]).for_each(redact::remember);
        }
    }
}

fn report_settings(cli: &Cli) -> ReportSettings {
    let output = &cli.settings.output;
    ReportSettings {
        json: output.json,
        verbosity: output.verbose,
        quiet: output.quiet,
        color: output.color,
        log_format: output.log_format,
        service: cli.command.is_service().then_some("watch"),
    }
}

/// The file of `--metrics-file`; none for a command that has no use for it, and for what a sweep would do.
fn metrics_file(cli: &Cli) -> Option<MetricsFile> {
    let path = cli.settings.output.metrics_file.clone()?;
    let is_plan = match &cli.command {
        Command::Sweep(args) => args.dry_run,
        Command::Snapshot(args) => args.dry_run,
        _ => false,
    };
    let has_none = is_plan || cli.command.is_service();
    let command = cli.command.name();
    (!has_none && cli::uses_flag(command, "metrics-file")).then(|| MetricsFile::new(path, command))
}

/// What a person reads at once after Ctrl-C, where the end may take a moment.
fn note_on_signal(command: &Command) -> Option<&'static str> {
    let saves = match command {
        Command::Sweep(args) => !args.dry_run,
        Command::Watch(args) => args.once,
        Command::Refresh(_) | Command::Backfill(_) => true,
        Command::Snapshot(args) => args.file.is_none() && !args.dry_run,
        _ => false,
    };
    saves.then_some("stopping; saving what was read")
}

fn run(
    mut cli: Cli,
    report: &Report,
    shutdown: &Shutdown,
    metrics_file: Option<Arc<MetricsFile>>,
) -> Result<Vec<ProfileRun>, RunError> {
    let runtime = Runtime::new().context("cannot start the async runtime")?;
    let ended = runtime.block_on(async {
        app::read_url_files(&mut cli.settings, cli.command.name(), shutdown).await?;
        let apps = app::apps_of_each(cli.settings, &cli.command, report, shutdown, metrics_file)?;
        Ok(commands::run_each(&apps, cli.command, report).await)
    });
    // A thread that waits for standard input must not delay the exit.
    runtime.shutdown_background();
    ended
}

/// Prints how the command ended, and waits until everything is printed.
fn exit_status(
    mut runs: Vec<ProfileRun>,
    in_array: bool,
    report: &Report,
    shutdown: &Shutdown,
) -> ExitCode {
    let is_stopped = || shutdown.signal().is_some();
    let conclusions: Vec<_> = runs.iter().map(|run| Conclusion::of(&run.ended, shutdown)).collect();
    let mut results = runs.iter().map(|run| &run.report).zip(&conclusions);
    match in_array {
        true => report.conclude_each(results),
        false => results.by_ref().for_each(|(report, conclusion)| report.conclude(conclusion)),
    }
    let printed = report.flush(is_stopped);
    if let Err(error) = printed
        && let Some(run) = runs.iter_mut().find(|run| run.ended.is_ok())
    {
        *run = ProfileRun::new(report, Err(error));
    }
    let unreported = runs.iter().filter(|run| !run.is_reported);
    for run in unreported {
        if let Some(error) = Conclusion::of(&run.ended, shutdown).error {
            run.report.error(&error);
            // What this reports was a result, and there is none left.
            let _ = report.flush(is_stopped);
        }
    }
    // A signal may have come while the reader was waited for.
    let status = |run: &ProfileRun| Conclusion::of(&run.ended, shutdown).exit_status;
    ExitCode::from(report::worst(runs.iter().map(status)))
}
