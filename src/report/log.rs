//! The log on stderr: only this crate's own words, cleaned of secrets, clear of the bars.

use std::io::{self, Write};

use indicatif::MultiProgress;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use super::Report;
use crate::redact;

/// Starts logging; a second start in one process changes nothing.
pub(super) fn start(report: &Report) {
    let level = match (report.settings.quiet, report.settings.verbosity) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    let bars = report.bars.clone();
    let layer = fmt::layer()
        .with_ansi(report.stderr.0)
        .with_target(false)
        .without_time()
        .with_writer(move || Line { bars: bars.clone(), bytes: Vec::new() })
        // Libraries log URLs and statements.
        .with_filter(Targets::new().with_target(env!("CARGO_CRATE_NAME"), level));
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

/// One event, written when it is whole.
struct Line {
    bars: MultiProgress,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let line = redact::clean(&String::from_utf8_lossy(&self.bytes));
        self.bars.suspend(|| drop(writeln!(io::stderr(), "{line}")));
    }
}
