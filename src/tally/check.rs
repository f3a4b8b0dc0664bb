//! What `doctor` finds: one check, how it ended, and what helps.

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// All is well.
    Ok,
    /// It works, but not as well as it might.
    Warn,
    /// A command would fail.
    Fail,
}

/// A check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What is checked, as one word.
    pub name: &'static str,
    /// The database or the endpoint.
    pub target: String,
    /// How it ended.
    pub status: CheckStatus,
    /// What was found.
    pub detail: String,
    /// A command or a setting that helps; `None` if nothing needs help.
    pub remedy: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(name: &'static str, target: &str, detail: impl Into<String>) -> Self {
        let (target, detail) = (target.to_owned(), detail.into());
        Self { name, target, status: CheckStatus::Ok, detail, remedy: None }
    }

    /// It works, but not as well as it might.
    pub fn warn(
        name: &'static str,
        target: &str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { status: CheckStatus::Warn, remedy, ..Self::ok(name, target, detail) }
    }

    /// A command would fail.
    pub fn fail(
        name: &'static str,
        target: &str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { status: CheckStatus::Fail, remedy, ..Self::ok(name, target, detail) }
    }

    /// A command would fail with this error, which ends with the remedy behind a semicolon; `remedy` if it
    /// names none.
    pub fn error(name: &'static str, target: &str, error: &str, remedy: &str) -> Self {
        let error = error.strip_prefix(&format!("{target}: ")).unwrap_or(error);
        match error.split_once("; ") {
            Some((detail, remedy)) => Self::fail(name, target, detail, remedy),
            None => Self::fail(name, target, error, remedy),
        }
    }
}
