//! The two real streams of the process: which of them share a queue, and what is said where lines were dropped.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
};

use chrono::{SecondsFormat, Utc};
use indicatif::MultiProgress;
use serde_json::json;
use tracing::{Level, warn};

use super::{
    line::{LineKind, LineMaker},
    style::ReportSettings,
    writer::{Capacity, Sink, Writer},
};

/// For a command that runs until it is stopped.
const OF_A_SERVICE: Capacity = Capacity { lines: 1_024, bytes: 1 << 20 };
/// For one that ends: a burst of notes is no reason to lose any.
const OF_A_COMMAND: Capacity = Capacity { lines: usize::MAX, bytes: 16 << 20 };

/// Starts writing to stdout and stderr. Where both lead to the same place, one thread writes to both, as the
/// order of their lines is seen there.
pub(super) fn start(
    settings: ReportSettings,
    lines: LineMaker,
    bars: &MultiProgress,
) -> [Writer; 2] {
    let capacity = if settings.service.is_some() { OF_A_SERVICE } else { OF_A_COMMAND };
    let sinks = [stdout_sink(settings, bars), stderr_sink(lines, bars)];
    if lead_to_same_place() {
        return Writer::start(capacity, sinks);
    }
    sinks.map(|sink| {
        let [writer] = Writer::start(capacity, [sink]);
        writer
    })
}

fn stdout_sink(settings: ReportSettings, bars: &MultiProgress) -> Sink {
    let stdout = io::stdout();
    Sink {
        bars: stdout.is_terminal().then(|| bars.clone()),
        // As a text, events go to stderr, and a result is never dropped.
        dropped: Box::new(move |count| {
            let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
            let command = settings.service;
            let event = "lines_dropped";
            let line = json!({"command": command, "event": event, "count": count, "time": time});
            format!("{line}\n")
        }),
        failed: |error| {
            warn!("cannot write to stdout: {error}; lines are lost until there is room again");
        },
        stream: unbuffered(stdout.as_fd()).unwrap_or_else(|_| Box::new(io::stdout())),
    }
}

fn stderr_sink(lines: LineMaker, bars: &MultiProgress) -> Sink {
    let stderr = io::stderr();
    Sink {
        bars: stderr.is_terminal().then(|| bars.clone()),
        dropped: Box::new(move |count| {
            let (what, were) = if count == 1 { ("line", "was") } else { ("lines", "were") };
            let message = format!("{count} {what} {were} dropped because nobody was reading");
            lines.line(LineKind::Note(Level::WARN), &message)
        }),
        // There is nobody to tell.
        failed: |_| {},
        stream: unbuffered(stderr.as_fd()).unwrap_or_else(|_| Box::new(io::stderr())),
    }
}

/// The stream without the lock and the buffer of the standard library, so that each write that the reader
/// takes is seen.
fn unbuffered(stream: BorrowedFd<'_>) -> io::Result<Box<dyn Write + Send>> {
    Ok(Box::new(File::from(stream.try_clone_to_owned()?)))
}

fn lead_to_same_place() -> bool {
    let place = |stream: BorrowedFd<'_>| {
        let found = File::from(stream.try_clone_to_owned()?).metadata()?;
        io::Result::Ok((found.dev(), found.ino()))
    };
    let places = (place(io::stdout().as_fd()), place(io::stderr().as_fd()));
    matches!(places, (Ok(stdout), Ok(stderr)) if stdout == stderr)
}
