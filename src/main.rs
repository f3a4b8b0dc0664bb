//! The program: parse, start tokio, do it, exit. The only place that decides the exit status.

use std::process::ExitCode;

use clap::Parser;
use ethtally::{
    app::App,
    cli::Cli,
    commands, redact,
    report::{self, Report, ReportSettings, Verdict},
    tally::{RunError, Shutdown},
};
use tokio::signal::unix::{SignalKind, signal};

/// Variables that are read, beside those that begin with `ETH`.
const OTHERS: [&str; 2] = ["DATABASE_URL", "JOB_COMPLETION_INDEX"];

fn main() -> ExitCode {
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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report::usage(&error),
    };
    let output = &cli.settings.output;
    let report = Report::new(ReportSettings {
        json: output.json,
        verbosity: output.verbose,
        quiet: output.quiet,
        color: output.color,
    });
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            report.error(&error);
            return report::exit_code(Err(()), None);
        }
    };
    let code = runtime.block_on(run(cli, &report));
    // A thread that waits for standard input must not hold the exit up.
    runtime.shutdown_background();
    code
}

async fn run(cli: Cli, report: &Report) -> ExitCode {
    let shutdown = Shutdown::default();
    let work = async {
        let app = App::new(cli.settings, report.clone(), shutdown.clone())?;
        let ended = commands::run(&app, cli.command).await;
        app.close().await;
        ended
    };
    let ended: Result<Verdict, RunError> = tokio::select! {
        ended = work => ended,
        // The second signal ends it at once.
        () = signals(&shutdown) => Ok(Verdict::Pass),
    };
    let signal = shutdown.signal();
    let ended = ended.map_err(|error| {
        // That something was not done because of the signal is no news.
        if signal.is_none() || !error.is_stopped() {
            report.error(&error);
        }
    });
    report::exit_code(ended, signal)
}

/// Asks for a stop at the first SIGINT or SIGTERM; returns at the second.
async fn signals(shutdown: &Shutdown) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    };
    shutdown.interrupt(next().await);
    next().await;
}
