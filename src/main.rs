//! The program: parse, hear signals, start tokio, run the command, exit. The only place that exits.

mod signals;

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use ethtally::{
    app::{self, App, MetricsFile},
    cli::{self, Cli, Command},
    commands, redact,
    report::{self, Conclusion, LogFilter, Report, ReportSettings, Verdict},
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
    let ended = filter.map_err(RunError::settings).and_then(|_| {
        signals::listen(shutdown.clone(), report.clone(), note_on_signal(&cli.command))?;
        run(cli, &report, &shutdown, metrics_file.clone())
    });
    if let Some(file) = metrics_file
        && let Err(error) = file.write(&report, &Conclusion::of(&ended, &shutdown))
    {
        // The run is what it is; who watches the file sees that it is old.
        error!("{}", redact::clean_error(error.as_ref()));
    }
    exit_status(ended, &report, &shutdown)
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
            redact::remember(&value.to_string_lossy());
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
        service: is_service(&cli.command).then_some("watch"),
    }
}

/// True for a command that runs until it is stopped; it serves its metrics.
fn is_service(command: &Command) -> bool {
    matches!(command, Command::Watch(args) if !args.once)
}

/// The file of `--metrics-file`; none for a command that has no use for it, and for what a sweep would do.
fn metrics_file(cli: &Cli) -> Option<MetricsFile> {
    let path = cli.settings.output.metrics_file.clone()?;
    let is_plan = match &cli.command {
        Command::Sweep(args) => args.dry_run,
        Command::Snapshot(args) => args.dry_run,
        _ => false,
    };
    let has_none = is_plan || is_service(&cli.command);
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
) -> Result<Verdict, RunError> {
    let runtime = Runtime::new().context("cannot start the async runtime")?;
    let ended = runtime.block_on(async {
        app::read_url_files(&mut cli.settings, cli.command.name(), shutdown).await?;
        let mut app = App::new(cli.settings, report.clone(), shutdown.clone())?;
        app.metrics_file = metrics_file;
        let ended = commands::run(&app, cli.command).await;
        app.close().await;
        ended
    });
    // A thread that waits for standard input must not delay the exit.
    runtime.shutdown_background();
    ended
}

/// Prints how the command ended, and waits until everything is printed.
fn exit_status(ended: Result<Verdict, RunError>, report: &Report, shutdown: &Shutdown) -> ExitCode {
    let is_stopped = || shutdown.signal().is_some();
    report.conclude(&Conclusion::of(&ended, shutdown));
    let printed = report.flush(is_stopped);
    let ended = ended.and_then(|verdict| printed.map(|()| verdict));
    if let Some(error) = Conclusion::of(&ended, shutdown).error {
        report.error(&error);
        // What this reports was a result, and there is none left.
        let _ = report.flush(is_stopped);
    }
    // A signal may have come while the reader was waited for.
    ExitCode::from(Conclusion::of(&ended, shutdown).exit_status)
}
