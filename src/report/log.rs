//! The log on stderr: this crate's own words, and those of libraries that `ETHTALLY_LOG` asks for; without secrets.

use std::fmt::{self, Write};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{
    Layer,
    filter::Targets,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

use super::{
    line::{LineKind, LineMaker},
    log_filter::LogFilter,
    style::ReportSettings,
    writer::Writer,
};

/// The target of this crate's own messages, with all below it.
const OWN: &str = env!("CARGO_CRATE_NAME");

/// Starts logging; a second start in one process changes nothing.
pub(super) fn start(
    settings: ReportSettings,
    filter: Option<&LogFilter>,
    lines: LineMaker,
    stderr: Writer,
) {
    let targets = targets(settings, filter);
    let _ = tracing_subscriber::registry().with(targets).with(Log { lines, stderr }).try_init();
}

/// What is logged. `-v` and `-q` decide about this crate's own messages, the variable about all others.
fn targets(settings: ReportSettings, filter: Option<&LogFilter>) -> Targets {
    let own = |level: LevelFilter| Targets::new().with_target(OWN, level);
    let Some(filter) = filter.filter(|_| !settings.quiet) else {
        return own(match (settings.quiet, settings.verbosity) {
            (true, _) => LevelFilter::ERROR,
            (false, 0) => LevelFilter::WARN,
            (false, 1) => LevelFilter::INFO,
            (false, _) => LevelFilter::DEBUG,
        });
    };
    let mut targets = Targets::new();
    match (settings.verbosity, filter.default_level()) {
        (0, Some(level)) => targets = targets.with_default(level),
        (0, None) => targets = own(LevelFilter::WARN),
        (_, level) => targets = targets.with_default(level.unwrap_or(LevelFilter::OFF)),
    }
    targets = targets.with_targets(filter.targets());
    match settings.verbosity {
        0 => targets,
        1 => targets.with_target(OWN, LevelFilter::INFO),
        _ => targets.with_target(OWN, LevelFilter::DEBUG),
    }
}

/// Offers each event to stderr as one line.
struct Log {
    lines: LineMaker,
    stderr: Writer,
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Of what libraries log through the crate `log`, it knows the origin.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut said = Said::default();
        event.record(&mut said);
        let mut more = Map::new();
        if !metadata.target().starts_with(OWN) {
            more.insert("target".to_owned(), Value::from(metadata.target()));
            said.message.insert_str(0, &format!("{}: ", metadata.target()));
        }
        let level = *metadata.level();
        let line = self.lines.line_with(LineKind::Log(level), &(said.message + &said.fields), more);
        self.stderr.offer(line);
    }
}

/// The words of an event.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            // Where a line of the crate `log` comes from.
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => self.message.write_str(value),
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn flags_decide_about_own_messages_and_the_variable_about_others() {
        let shows = |verbosity: u8, quiet: bool, filter: &str, target: &str, level: Level| {
            let settings = ReportSettings { verbosity, quiet, ..ReportSettings::default() };
            let filter = LogFilter::parse(filter).unwrap();
            targets(settings, filter.as_ref()).would_enable(target, &level)
        };
        for (verbosity, quiet, filter, own, of_hyper) in [
            (0, false, "", Level::WARN, None),
            (1, false, "", Level::INFO, None),
            (2, false, "", Level::DEBUG, None),
            (0, true, "", Level::ERROR, None),
            (0, false, "debug", Level::DEBUG, Some(Level::DEBUG)),
            (0, false, "hyper=info", Level::WARN, Some(Level::INFO)),
            (0, false, "hyper=trace,ethtally=error", Level::ERROR, Some(Level::TRACE)),
            (1, false, "warn", Level::INFO, Some(Level::WARN)),
            (2, false, "hyper=warn,ethtally=error", Level::DEBUG, Some(Level::WARN)),
            (0, true, "trace", Level::ERROR, None),
        ] {
            let at_most = |target: &str| {
                let all = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
                all.into_iter().find(|level| shows(verbosity, quiet, filter, target, *level))
            };
            assert_eq!(at_most("ethtally::rpc"), Some(own), "{verbosity} {quiet} {filter}");
            assert_eq!(at_most("hyper::client"), of_hyper, "{verbosity} {quiet} {filter}");
        }
    }
}
