//! What is shown and how: settings, colours.

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;

/// Good news.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What is worth knowing.
pub const NOTE: Style = AnsiColor::Cyan.on_default();
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

/// How lines on stderr look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text
    #[default]
    Text,
    /// One JSON object per line
    Json,
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
    /// How lines on stderr look.
    pub log_format: LogFormat,
    /// The name of the command, if it runs until it is stopped: it must not run out of memory where nobody
    /// reads, so that lines may be dropped.
    pub service: Option<&'static str>,
}

/// Colours a text, or, by default, leaves it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Styler {
    has_colors: bool,
    is_terminal: bool,
}

impl Styler {
    pub(super) fn new(choice: ColorChoice, terminal: bool) -> Self {
        let has_colors = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        Self { has_colors, is_terminal: terminal }
    }

    /// Whether a person sees it on a terminal, so that bars may be drawn with block characters.
    pub const fn is_terminal(self) -> bool {
        self.is_terminal
    }

    /// Never colours in JSON.
    pub(super) fn unless_json(self, format: LogFormat) -> Self {
        Self { has_colors: self.has_colors && format == LogFormat::Text, ..self }
    }

    /// The text in this style.
    pub fn style(self, style: Style, text: &str) -> String {
        if self.has_colors { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}
