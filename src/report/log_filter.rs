//! `ETHTALLY_LOG`: what is logged, in the words of `RUST_LOG`.

use tracing::level_filters::LevelFilter;

/// The variable that says what is logged.
const VARIABLE: &str = "ETHTALLY_LOG";
/// The levels, as an error lists them.
const LEVELS: &str = "off, error, warn, info, debug and trace";

/// What is logged: a level for everything, and levels for targets, such as `warn,hyper=debug`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    default: Option<LevelFilter>,
    targets: Vec<(String, LevelFilter)>,
    /// Targets without a level.
    bare: Vec<String>,
}

impl LogFilter {
    /// What `ETHTALLY_LOG` says; `None` if it is not set, or set to nothing.
    ///
    /// # Errors
    /// A line that says what is wrong with it.
    pub fn from_variable() -> Result<Option<Self>, String> {
        match std::env::var(VARIABLE) {
            Ok(text) => Self::parse(&text),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(format!("{VARIABLE} is not UTF-8")),
        }
    }

    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        let mut filter = Self::default();
        for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            match directive.split_once('=') {
                None => match level(directive) {
                    Some(level) => filter.default = Some(level),
                    // As `RUST_LOG` has it: everything of this target.
                    None => {
                        let target = target(directive).ok_or_else(|| refusal(directive))?;
                        filter.targets.push((target.clone(), LevelFilter::TRACE));
                        filter.bare.push(target);
                    }
                },
                Some((name, value)) => {
                    let level = level(value.trim()).ok_or_else(|| refusal(directive))?;
                    let target = target(name.trim()).ok_or_else(|| refusal(directive))?;
                    filter.targets.push((target, level));
                }
            }
        }
        Ok((filter != Self::default()).then_some(filter))
    }

    /// The level for everything that no target names.
    pub(super) const fn default_level(&self) -> Option<LevelFilter> {
        self.default
    }

    /// The targets with their levels.
    pub(super) fn targets(&self) -> Vec<(String, LevelFilter)> {
        self.targets.clone()
    }

    /// A word that may be a misspelt level.
    pub(super) fn doubt(&self) -> Option<String> {
        let word = self.bare.iter().find(|target| !target.contains("::"))?;
        Some(format!(
            "{VARIABLE}: '{word}' is not a level, so it is taken for a target; write {word}=trace if that is meant \
             (levels are {LEVELS})"
        ))
    }
}

fn level(text: &str) -> Option<LevelFilter> {
    const NAMES: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    NAMES.iter().any(|name| text.eq_ignore_ascii_case(name)).then(|| text.parse().ok())?
}

/// A path of modules. `RUST_LOG`'s spans and regular expressions are not for this log.
fn target(text: &str) -> Option<String> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-' | '.');
    (!text.is_empty() && text.chars().all(is_path)).then(|| text.to_owned())
}

fn refusal(directive: &str) -> String {
    format!(
        "{VARIABLE}: '{directive}' is neither a level nor TARGET=LEVEL, such as hyper=debug; levels are {LEVELS}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_those_of_rust_log() {
        let parsed = |text: &str| LogFilter::parse(text).unwrap();
        for empty in ["", " ", ",", " , "] {
            assert_eq!(parsed(empty), None, "{empty:?}");
        }
        let filter = parsed("Warn, hyper=DEBUG,ethtally::rpc = trace,tungstenite=off,").unwrap();
        assert_eq!(filter.default_level(), Some(LevelFilter::WARN));
        let named = [
            ("hyper", LevelFilter::DEBUG),
            ("ethtally::rpc", LevelFilter::TRACE),
            ("tungstenite", LevelFilter::OFF),
        ];
        assert_eq!(filter.targets(), named.map(|(name, level)| (name.to_owned(), level)));
        assert_eq!(filter.doubt(), None);
        let doubt = parsed("inof").unwrap().doubt().unwrap();
        assert!(doubt.contains("'inof' is not a level"), "{doubt}");
        assert_eq!(parsed("ethtally::rpc").unwrap().doubt(), None);
        for wrong in ["hyper=loud", "=info", "hyper=", "a b", "!", "hyper[span]=info", "x=info=y"] {
            let error = LogFilter::parse(wrong).unwrap_err();
            assert!(error.contains(&format!("'{wrong}' is neither a level nor")), "{error}");
        }
    }
}
