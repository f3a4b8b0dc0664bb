//! `--changes`: totals that changed, as JSON lines in a file or on stdout.
//!
//! Lines wait in a bounded queue for a thread that writes them, so that neither a slow reader nor a full disk holds up what
//! stores. A file that cannot be written gets no more lines.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::FileTypeExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;
use serde_json::json;
use tracing::warn;

use super::writer::{Capacity, Sink, Writer};
use crate::tally::{Change, ChangeSink, Wallet};

/// What may wait to be written.
const CAPACITY: Capacity = Capacity { lines: 100_000, bytes: 16 << 20 };
/// How long a reader that reads nothing is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes changes.
pub struct ChangeLines {
    writer: Writer,
}

#[derive(Serialize)]
struct Line<'a> {
    wallet: Wallet,
    old: Option<&'a str>,
    new: String,
    block: u64,
}

impl ChangeLines {
    /// Appends to this file; `-` is stdout. A named pipe is opened once it is read.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let is_pipe = || fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo());
        let stream = if path.as_os_str() == "-" {
            Target::Open(File::from(io::stdout().as_fd().try_clone_to_owned()?))
        } else if is_pipe() {
            Target::Pipe(path.to_owned())
        } else {
            let file = OpenOptions::new().append(true).create(true).open(path);
            Target::Open(file.with_context(|| {
                format!("--changes {}: cannot be written; check the path", path.display())
            })?)
        };
        let sink = Sink {
            stream: Box::new(stream),
            bars: None,
            dropped: Box::new(|count| {
                format!("{}\n", json!({"event": "lines_dropped", "count": count}))
            }),
            failed: |error| {
                warn!(
                    "--changes cannot be written: {error}; no more changes are written, but totals are stored"
                );
            },
        };
        let [writer] = Writer::start(CAPACITY, [sink]);
        Ok(Self { writer })
    }

    /// Waits until everything is written, as long as the reader reads; once `is_stopped`, only for a moment.
    pub fn finish(&self, is_stopped: impl Fn() -> bool) {
        let patience = |stopped| if stopped { Duration::from_secs(1) } else { PATIENCE };
        let mut is_given_up = false;
        let _ = self.writer.drain(|pending| {
            is_given_up = pending.stuck > patience(is_stopped());
            is_given_up
        });
        if is_given_up {
            warn!("--changes is not read; the last changes are not written");
        }
    }
}

impl ChangeSink for ChangeLines {
    fn changed(&self, changes: &[Change]) {
        for Change { wallet, old, new, block } in changes {
            let line =
                Line { wallet: *wallet, old: old.as_deref(), new: new.to_string(), block: *block };
            if let Ok(line) = serde_json::to_string(&line) {
                self.writer.offer(line + "\n");
            }
        }
    }
}

/// Where lines are written, until that fails.
enum Target {
    /// A named pipe, which is not opened yet: that waits for a reader.
    Pipe(PathBuf),
    Open(File),
    Broken,
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self {
            Self::Broken => return Ok(bytes.len()),
            Self::Open(file) => file.write(bytes),
            Self::Pipe(path) => match OpenOptions::new().write(true).open(path) {
                Ok(file) => {
                    *self = Self::Open(file);
                    return Err(io::ErrorKind::Interrupted.into());
                }
                Err(error) => Err(error),
            },
        };
        written.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => error,
            // By its kind, a closed pipe would pass without a word.
            _ => {
                *self = Self::Broken;
                io::Error::other(error.to_string())
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
