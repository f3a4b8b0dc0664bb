//! The log on stderr: only this crate's own words, without secrets.

use std::io::{self, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use super::{
    style::{ReportSettings, Styler},
    writer::Writer,
};
use crate::redact;

/// Starts logging; a second start in one process changes nothing.
pub(super) fn start(settings: ReportSettings, styler: Styler, stderr: Writer) {
    let level = match (settings.quiet, settings.verbosity) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    let layer = fmt::layer()
        .with_ansi(styler.has_colors())
        .with_target(false)
        .without_time()
        .with_writer(move || Line { stderr: stderr.clone(), bytes: Vec::new() })
        // Libraries log URLs and statements.
        .with_filter(Targets::new().with_target(env!("CARGO_CRATE_NAME"), level));
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

/// One event, offered to stderr when it is whole.
struct Line {
    stderr: Writer,
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
        self.stderr.offer(redact::clean_styled(&String::from_utf8_lossy(&self.bytes)) + "\n");
    }
}
