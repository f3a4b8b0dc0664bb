//! Everything that a person or a script sees: stdout, stderr, bars, the exit status.
//!
//! stdout carries the result and nothing else. Nothing outside this module prints.

mod bar;
mod log;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use clap::ValueEnum;
use indicatif::MultiProgress;
use serde::Serialize;

pub use bar::Bar;

use crate::redact;

/// Good news.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What is worth knowing.
const NOTE: Style = AnsiColor::Cyan.on_default();
/// Bad news.
pub const BAD: Style = AnsiColor::Red.on_default();

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What and how much is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportSettings {
    /// The result as one JSON object.
    pub json: bool,
    /// How much is logged: 0 warnings, 1 what is done, 2 everything.
    pub verbosity: u8,
    /// Errors only.
    pub quiet: bool,
    /// When to use colours.
    pub color: ColorChoice,
}

/// How a command ended, when it could do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, and all is well: exit status 0.
    Pass,
    /// Done, and the answer is no: exit status 1.
    Fail,
}

/// The result of a command.
pub trait CommandOutput: Serialize {
    /// The result for people: lines without a last line break.
    fn text(&self, styler: &Styler) -> String;
}

/// Colours a text, or, by default, leaves it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Styler(bool);

impl Styler {
    fn new(choice: ColorChoice, terminal: bool) -> Self {
        Self(match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        })
    }

    /// The text in this style.
    pub fn style(self, style: Style, text: &str) -> String {
        if self.0 { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// The one printer.
#[derive(Clone)]
pub struct Report {
    settings: ReportSettings,
    stdout: Styler,
    stderr: Styler,
    bars: MultiProgress,
}

impl Report {
    /// Sets up printing and logging for this process.
    pub fn new(settings: ReportSettings) -> Self {
        let report = Self {
            settings,
            stdout: Styler::new(settings.color, io::stdout().is_terminal()),
            stderr: Styler::new(settings.color, io::stderr().is_terminal()),
            bars: MultiProgress::new(),
        };
        log::start(&report);
        report
    }

    /// Prints the result of a command.
    ///
    /// # Errors
    /// When stdout cannot be written; that its reader has gone away is no error.
    pub fn result(&self, output: &impl CommandOutput) -> anyhow::Result<()> {
        let text = match self.settings.json {
            true => serde_json::to_string(output)?,
            false => output.text(&self.stdout),
        };
        self.text(&text)
    }

    /// Prints a text as the result, with a line break at its end.
    ///
    /// # Errors
    /// As [`Report::result`].
    pub fn text(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        let printed =
            writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush());
        match printed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            printed => printed.context("the result could not be written to stdout"),
        }
    }

    /// Tells something that is no error and not the result.
    pub fn note(&self, text: &str) {
        if !self.settings.quiet {
            self.line(NOTE, "note", text);
        }
    }

    /// Tells of something that happened while a command goes on: with `--json` as a line on stdout,
    /// else as a note. Trouble is told also where only errors are to be.
    ///
    /// # Errors
    /// As [`Report::result`].
    pub fn event(&self, event: &impl CommandOutput, is_trouble: bool) -> anyhow::Result<()> {
        if self.settings.json {
            return self.result(event);
        }
        if is_trouble || !self.settings.quiet {
            self.line(NOTE, "note", &event.text(&Styler::default()));
        }
        Ok(())
    }

    /// Tells why a command could not be done: the thing, what is wrong, the remedy, then the causes.
    pub fn error(&self, error: &(dyn std::error::Error + 'static)) {
        self.line(BAD.bold(), "error", &redact::clean_error(error));
    }

    /// A bar for so many wallets; hidden unless a person watches.
    pub fn bar(&self, what: &'static str, wallets: u64) -> Bar {
        let shown = self.shows_bars();
        Bar::new(shown.then(|| self.bars.clone()), what, wallets)
    }

    /// Whether a bar would be seen.
    pub fn shows_bars(&self) -> bool {
        !self.settings.json && !self.settings.quiet && io::stderr().is_terminal()
    }

    fn line(&self, style: Style, kind: &str, text: &str) {
        let line =
            format!("{} {}", self.stderr.style(style, &format!("{kind}:")), redact::clean(text));
        // Where stderr is gone there is nobody to tell.
        self.bars.suspend(|| drop(writeln!(io::stderr(), "{line}")));
    }
}

/// Prints what clap has to say: help and version on stdout, a usage error as one line on stderr.
pub fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    // A secret may hold an empty line.
    let text = redact::hide(&error.render().to_string());
    // The paragraphs are: what is wrong, perhaps tips, the usage, where to find help.
    let what: Vec<_> = (text.split("\n\n"))
        .take_while(|paragraph| !paragraph.starts_with("Usage:"))
        .map(str::trim)
        .filter(|paragraph| !paragraph.starts_with("For more information"))
        .collect();
    let what = what.join("; ");
    let report = Report {
        settings: ReportSettings::default(),
        stdout: Styler::default(),
        stderr: Styler::new(ColorChoice::Auto, io::stderr().is_terminal()),
        bars: MultiProgress::new(),
    };
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    report.error(anyhow::anyhow!("{what}; see --help").as_ref());
    ExitCode::from(2)
}

/// The exit status of a command: 0, 1, 2, or 128 and the signal that interrupted it.
pub fn exit_code(ended: Result<Verdict, ()>, signal: Option<i32>) -> ExitCode {
    match (signal, ended) {
        (Some(signal), _) => ExitCode::from(128 + u8::try_from(signal).unwrap_or(0)),
        (None, Ok(Verdict::Pass)) => ExitCode::SUCCESS,
        (None, Ok(Verdict::Fail)) => ExitCode::from(1),
        (None, Err(())) => ExitCode::from(2),
    }
}
