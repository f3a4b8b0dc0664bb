//! Everything that a person or a script sees: stdout, stderr, bars.
//!
//! stdout carries the result and nothing else. Nothing outside this module prints. Printing hands a line to
//! a thread in `writer`, so it never waits for a reader; [`Report::flush`] does, at the end.

mod bar;
mod changes;
mod conclusion;
mod line;
mod log;
mod log_filter;
mod panics;
mod streams;
mod style;
mod usage;
mod writer;

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::error::ErrorKind;
use indicatif::MultiProgress;
use serde::Serialize;
use serde_json::Value;
use tracing::Level;

pub use bar::Bar;
pub use changes::ChangeLines;
pub use conclusion::{Conclusion, RunOutcome, Verdict, worst};
pub use log_filter::LogFilter;
pub use style::{BAD, ColorChoice, GOOD, LogFormat, NOTE, ReportSettings, Styler};

use crate::tally::RunError;
use conclusion::HeldResult;
use line::{LineKind, LineMaker};
use writer::{Pending, Writer};

/// The result of a command.
pub trait CommandOutput: Serialize {
    /// The result for people: lines without a last line break.
    fn text(&self, styler: &Styler) -> String;

    /// How the run ended, as far as the result tells.
    fn outcome(&self) -> RunOutcome {
        RunOutcome::Complete
    }
}

/// How long a reader that reads nothing is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long both streams are waited for in all once the process was asked to stop, however they are read.
const LAST_SECONDS: Duration = Duration::from_secs(2);
/// The same where the reader reads nothing, for each of them.
const LAST_SECOND: Duration = Duration::from_secs(1);

/// The one printer.
#[derive(Clone)]
pub struct Report {
    settings: ReportSettings,
    on_stdout: Styler,
    lines: LineMaker,
    bars: MultiProgress,
    stdout: Writer,
    stderr: Writer,
    held: HeldResult,
    /// Whether this is the printer of one profile of several.
    is_of_profile: bool,
    /// True if stdout is for changes, so that a text is not.
    has_changes: Arc<AtomicBool>,
}

impl Report {
    /// Sets up printing and logging for this process; `filter` says what is logged besides what `settings` do.
    pub fn new(settings: ReportSettings, filter: Option<&LogFilter>) -> Self {
        let format = settings.log_format;
        let lines = LineMaker {
            format,
            is_stamped: settings.service.is_some() || settings.verbosity > 0 || filter.is_some(),
            styler: Styler::new(settings.color, io::stderr().is_terminal()).unless_json(format),
        };
        let bars = MultiProgress::new();
        let [stdout, stderr] = streams::start(settings, lines, &bars);
        log::start(settings, filter, lines, stderr.clone());
        let on_stdout = Styler::new(settings.color, io::stdout().is_terminal());
        let held = HeldResult::default();
        let has_changes = Arc::default();
        let report = Self {
            settings,
            on_stdout,
            lines,
            bars,
            stdout,
            stderr,
            held,
            is_of_profile: false,
            has_changes,
        };
        if let Some(doubt) = filter.and_then(LogFilter::doubt).filter(|_| !settings.quiet) {
            report.stderr.offer(lines.line(LineKind::Note(Level::WARN), &doubt));
        }
        report
    }

    /// From now on a panic, which is a mistake of this program, is one line of stderr too.
    pub fn catch_panics(&self) {
        panics::catch(self.lines);
    }

    /// Names the command, for a result in JSON.
    pub fn command(&self, name: &'static str) {
        self.held.command(name);
    }

    /// Names the profile, for a result in JSON.
    pub fn profile(&self, name: &str) {
        self.held.profile(name);
    }

    /// A printer for one profile of several: what it prints begins with that profile's name, but for JSON.
    #[must_use]
    pub fn of_profile(&self) -> Self {
        let (held, has_changes) = (self.held.anew(), Arc::default());
        Self { held, has_changes, is_of_profile: true, ..self.clone() }
    }

    /// The name of the profile, if this is the printer of one of several.
    pub fn profile_of_several(&self) -> Option<String> {
        if self.is_of_profile { self.held.profile_name() } else { None }
    }

    /// The text with the name of the profile before it, if this is the printer of one of several.
    fn named(&self, separator: &str, text: &str) -> String {
        match self.profile_of_several() {
            Some(profile) => format!("{profile}:{separator}{text}"),
            None => text.to_owned(),
        }
    }

    /// Prints the result of a command; with `--json`, [`Report::conclude`] does. Whether it could be written is known
    /// to [`Report::flush`].
    ///
    /// # Errors
    /// When it cannot be expressed in JSON.
    pub fn result(&self, output: &impl CommandOutput) -> anyhow::Result<()> {
        self.held.result(serde_json::to_string(output)?, output.outcome());
        if self.settings.json {
            return Ok(());
        }
        if self.has_changes.load(Relaxed) {
            self.note(&output.text(&Styler::default()));
            return Ok(());
        }
        self.text(&output.text(&self.on_stdout))
    }

    /// Writes changes to this file; `-` is stdout, and then a result that is a text is printed to stderr.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn changes(&self, path: &Path) -> anyhow::Result<ChangeLines> {
        self.has_changes.store(path.as_os_str() == "-", Relaxed);
        ChangeLines::open(path)
    }

    /// How a run ended that has this conclusion.
    pub fn outcome(&self, conclusion: &Conclusion) -> RunOutcome {
        self.held.outcome(conclusion)
    }

    /// The numbers of the result so far, and how long its lists are, as a JSON object.
    pub fn counts(&self) -> Option<String> {
        self.held.counts()
    }

    /// Prints the result in JSON, with how the run ended.
    pub fn conclude(&self, conclusion: &Conclusion) {
        if let Some(result) = self.concluded(conclusion) {
            self.stdout.result(result + "\n");
        }
    }

    /// Prints the results of several printers in JSON, as one array.
    pub fn conclude_each<'a>(&self, results: impl IntoIterator<Item = (&'a Self, &'a Conclusion)>) {
        if self.settings.json {
            let results = results.into_iter();
            let results = results.filter_map(|(report, conclusion)| report.concluded(conclusion));
            self.stdout.result(format!("[{}]\n", results.collect::<Vec<_>>().join(",")));
        }
    }

    fn concluded(&self, conclusion: &Conclusion) -> Option<String> {
        self.settings.json.then(|| self.held.conclude(conclusion)).flatten()
    }

    /// Prints a text as the result, with a line break at its end.
    ///
    /// # Errors
    /// None so far.
    pub fn text(&self, text: &str) -> anyhow::Result<()> {
        self.held.is_printed();
        self.stdout.result(format!("{}\n", self.named("\n", text.trim_end_matches('\n'))));
        Ok(())
    }

    /// Prints something that is neither an error nor the result.
    pub fn note(&self, text: &str) {
        if !self.settings.quiet {
            let text = self.named(" ", text);
            self.stderr.offer(self.lines.line(LineKind::Note(Level::INFO), &text));
        }
    }

    /// Prints what happens while a command runs: with `--json` a line on stdout, else a note. Trouble is
    /// printed with `--quiet` too.
    ///
    /// # Errors
    /// When it cannot be expressed in JSON.
    pub fn event(&self, event: &impl CommandOutput, is_trouble: bool) -> anyhow::Result<()> {
        if self.settings.json {
            self.stdout.offer(serde_json::to_string(event)? + "\n");
        } else if is_trouble || !self.settings.quiet {
            let fields = match serde_json::to_value(event)? {
                Value::Object(fields) if self.lines.format == LogFormat::Json => fields,
                _ => serde_json::Map::new(),
            };
            let kind = LineKind::Note(if is_trouble { Level::WARN } else { Level::INFO });
            let text = self.named(" ", &event.text(&Styler::default()));
            self.stderr.offer(self.lines.line_with(kind, &text, fields));
        }
        Ok(())
    }

    /// Prints why a command failed: the thing, what is wrong, the remedy, then the causes.
    pub fn error(&self, text: &str) {
        self.stderr.insist(self.lines.line(LineKind::Error, &self.named(" ", text)));
    }

    /// A bar for this many wallets; hidden unless a person watches.
    pub fn bar(&self, what: &'static str, wallets: u64) -> Bar {
        match self.shows_bars() {
            true => Bar::shown(self.bars.clone(), self.stderr.clone(), what, wallets),
            false => Bar::hidden(),
        }
    }

    /// Whether a bar would be seen.
    pub fn shows_bars(&self) -> bool {
        let is_text = !self.settings.json && self.lines.format == LogFormat::Text;
        is_text && !self.settings.quiet && io::stderr().is_terminal()
    }

    /// Waits until everything is written: the result of a command that ends by itself for as long as it
    /// takes, everything else as long as the reader reads. Once `is_stopped`, it does not wait for long.
    ///
    /// # Errors
    /// When a result could not be written; a reader that has gone away is not an error.
    pub fn flush(&self, is_stopped: impl Fn() -> bool) -> Result<(), RunError> {
        let is_service = self.settings.service.is_some();
        let mut stopped = None;
        let mut gives_up = |pending: Pending| {
            if is_service || is_stopped() {
                let stopped: &mut Instant = stopped.get_or_insert_with(Instant::now);
                return pending.stuck > LAST_SECOND || stopped.elapsed() > LAST_SECONDS;
            }
            !pending.has_result && pending.stuck > PATIENCE
        };
        let result = self.stdout.drain(&mut gives_up);
        let notes = self.stderr.drain(gives_up);
        result.and(notes).map_err(|error| {
            anyhow::Error::from(error).context("the result could not be written to stdout").into()
        })
    }
}

/// Prints help and version to stdout, and a usage error as one line to stderr, in this format as far as it is known
/// by then. The help that answers a missing command is a usage error too.
pub fn usage(error: &clap::Error, format: LogFormat) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = match (error.kind(), format) {
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, LogFormat::Text) => {
            let _ = error.print();
            return ExitCode::from(2);
        }
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, LogFormat::Json) => {
            "no command is given; see `ethtally --help`".to_owned()
        }
        _ => usage::line(error),
    };
    let styler = Styler::new(ColorChoice::Auto, io::stderr().is_terminal()).unless_json(format);
    let lines = LineMaker { format, is_stamped: false, styler };
    // Nothing else runs yet that this could hold up.
    let _ = io::stderr().write_all(lines.line(LineKind::Error, &text).as_bytes());
    ExitCode::from(2)
}
