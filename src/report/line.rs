//! One line of stderr: how it looks as text and as JSON. The stream has one format, whoever prints.

use anstyle::{AnsiColor, Style};
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value};
use tracing::Level;

use super::style::{BAD, LogFormat, NOTE, Styler};
use crate::redact;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    /// Why a command failed.
    Error,
    /// What is worth knowing, of this level.
    Note(Level),
    /// A message of the log.
    Log(Level),
}

impl LineKind {
    const fn level(self) -> Level {
        match self {
            Self::Error => Level::ERROR,
            Self::Note(level) | Self::Log(level) => level,
        }
    }
}

/// Makes the lines of stderr.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineMaker {
    pub(super) format: LogFormat,
    /// Whether a line of text has its time and level.
    pub(super) is_stamped: bool,
    pub(super) styler: Styler,
}

impl LineMaker {
    /// The line, with its line break and without secrets.
    pub(super) fn line(self, kind: LineKind, message: &str) -> String {
        self.line_with(kind, message, Map::new())
    }

    /// The line, which as JSON has these fields too.
    pub(super) fn line_with(
        self,
        kind: LineKind,
        message: &str,
        more: Map<String, Value>,
    ) -> String {
        let (time, level) = (now(), kind.level());
        let message = redact::clean(message);
        if self.format == LogFormat::Json {
            let own = [("time", time), ("level", level.to_string()), ("message", message)];
            let own = own.map(|(name, text)| (name.to_owned(), Value::String(text)));
            let object: Map<_, _> = more.into_iter().chain(own).collect();
            return format!("{}\n", in_order(object));
        }
        let style = |text: &str| self.styler.style(style_of(kind), text);
        match kind {
            _ if self.is_stamped => {
                let padding = " ".repeat(5 - level.as_str().len());
                format!("{time} {}{padding} {message}\n", style(level.as_str()))
            }
            LineKind::Error => format!("{} {message}\n", style("error:")),
            LineKind::Note(_) => format!("{} {message}\n", style("note:")),
            LineKind::Log(level) => format!("{} {message}\n", style(prefix_of(level))),
        }
    }
}

/// Time, level and message come first, as they are read first.
fn in_order(mut object: Map<String, Value>) -> String {
    let mut text = String::from("{");
    for name in ["time", "level", "message"] {
        let value = object.remove(name).unwrap_or_default();
        text.push_str(&format!("\"{name}\":{value},"));
    }
    let rest = Value::Object(object).to_string();
    let rest = rest.strip_prefix('{').unwrap_or_default();
    format!("{}{}{rest}", text.trim_end_matches(','), if rest == "}" { "" } else { "," })
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn style_of(kind: LineKind) -> Style {
    match (kind, kind.level()) {
        (LineKind::Error, _) => BAD.bold(),
        (_, Level::ERROR) => BAD,
        (_, Level::WARN) => AnsiColor::Yellow.on_default(),
        (_, Level::INFO) => NOTE,
        _ => Style::new().dimmed(),
    }
}

/// What begins a message of the log where lines have no level.
const fn prefix_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error:",
        Level::WARN => "warning:",
        Level::INFO => "info:",
        Level::DEBUG => "debug:",
        Level::TRACE => "trace:",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_of_text_has_time_and_level_where_it_is_stamped() {
        let plain = LineMaker::default();
        assert_eq!(plain.line(LineKind::Error, "no\nnode"), "error: no node\n");
        assert_eq!(plain.line(LineKind::Note(Level::WARN), "failed"), "note: failed\n");
        assert_eq!(plain.line(LineKind::Log(Level::WARN), "slow"), "warning: slow\n");
        let stamped = LineMaker { is_stamped: true, ..plain };
        for (kind, level) in [
            (LineKind::Error, "ERROR"),
            (LineKind::Note(Level::INFO), "INFO "),
            (LineKind::Log(Level::WARN), "WARN "),
        ] {
            let line = stamped.line(kind, "at https://host/key");
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok() && time.ends_with('Z'));
            assert_eq!(rest, format!("{level} at https://host\n"));
        }
    }

    #[test]
    fn a_line_of_json_begins_with_time_level_and_message() {
        let maker = LineMaker { format: LogFormat::Json, ..LineMaker::default() };
        let more = json!({"event": "error", "message": "hides", "at": {"block": 1}});
        let line = maker.line_with(
            LineKind::Error,
            "a \"b\"\u{1b}[31m",
            more.as_object().unwrap().clone(),
        );
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["level"], &value["message"]), (&json!("ERROR"), &json!("a \"b\"")));
        assert_eq!((&value["event"], &value["at"]["block"]), (&json!("error"), &json!(1)));
        assert!(line.starts_with("{\"time\":\"20") && line.ends_with("}\n"), "{line}");
        let bare = maker.line(LineKind::Log(Level::INFO), "x");
        assert!(bare.ends_with("\",\"level\":\"INFO\",\"message\":\"x\"}\n"), "{bare}");
    }
}
