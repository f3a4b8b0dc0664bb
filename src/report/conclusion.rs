//! How a run ended: what every JSON result says besides its own fields.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{SecondsFormat, Utc};
use serde::Serialize;

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// It did all that was asked.
    #[default]
    Complete,
    /// It did, but some wallets were unreadable.
    Partial,
    /// Another run was doing it.
    Skipped,
    /// A limit of time or calls was reached.
    CutShort,
    /// A signal ended it.
    Interrupted,
    /// It failed.
    Failed,
}

impl fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Skipped => "skipped",
            Self::CutShort => "stopped",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        })
    }
}

/// What is known of a run at its end.
#[derive(Clone, Copy, Debug)]
pub struct Conclusion<'a> {
    /// The signal that interrupted it, if one did.
    pub is_interrupted: bool,
    /// The exit status.
    pub exit_status: u8,
    /// What is printed of the error, if it failed.
    pub error: Option<&'a str>,
}

/// The JSON result of a run, held back until its end is known.
#[derive(Clone, Default)]
pub(super) struct HeldResult(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    command: &'static str,
    profile: Option<String>,
    /// A JSON object.
    result: Option<String>,
    outcome: RunOutcome,
}

impl HeldResult {
    pub(super) fn command(&self, command: &'static str) {
        self.held().command = command;
    }

    pub(super) fn profile(&self, name: &str) {
        self.held().profile = Some(name.to_owned());
    }

    pub(super) fn result(&self, result: String, outcome: RunOutcome) {
        let mut held = self.held();
        (held.result, held.outcome) = (Some(result), outcome);
    }

    /// The result was printed otherwise.
    pub(super) fn is_printed(&self) {
        self.held().command = "";
    }

    /// The whole object, unless the result was printed otherwise. A run that failed before it had a result has one
    /// that names its command.
    pub(super) fn conclude(&self, conclusion: Conclusion<'_>) -> Option<String> {
        #[derive(Serialize)]
        struct Common<'a> {
            time: String,
            version: &'static str,
            profile: Option<&'a str>,
            outcome: RunOutcome,
            exit_status: u8,
            error: Option<&'a str>,
        }
        let held = self.held();
        if held.command.is_empty() {
            return None;
        }
        let outcome = match (held.outcome, conclusion) {
            (RunOutcome::Skipped, _) => RunOutcome::Skipped,
            (_, Conclusion { is_interrupted: true, .. }) => RunOutcome::Interrupted,
            (_, Conclusion { error: Some(_), .. }) => RunOutcome::Failed,
            (outcome, _) => outcome,
        };
        let common = Common {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            version: env!("CARGO_PKG_VERSION"),
            profile: held.profile.as_deref(),
            outcome,
            exit_status: conclusion.exit_status,
            error: conclusion.error,
        };
        let common = serde_json::to_string(&common).unwrap_or_default();
        let own = match &held.result {
            Some(result) => result.clone(),
            None => format!("{{\"command\":\"{}\"}}", held.command),
        };
        // Both are objects with fields: their own first, so that they are read first.
        let own = own.strip_suffix('}').unwrap_or(&own);
        Some(format!("{own},{}", common.strip_prefix('{').unwrap_or(&common)))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn concluded(held: &HeldResult, conclusion: Conclusion<'_>) -> Value {
        let mut value: Value = serde_json::from_str(&held.conclude(conclusion).unwrap()).unwrap();
        assert!(value["time"].take().is_string());
        value
    }

    #[test]
    fn a_result_comes_first_and_ends_with_how_the_run_ended() {
        let held = HeldResult::default();
        held.command("sweep");
        let failed =
            Conclusion { is_interrupted: false, exit_status: 2, error: Some("no \"profile\"") };
        assert_eq!(
            concluded(&held, failed),
            json!({"command": "sweep", "time": null, "version": env!("CARGO_PKG_VERSION"), "profile": null,
                   "outcome": "failed", "exit_status": 2, "error": "no \"profile\""})
        );
        held.profile("audius");
        held.result(r#"{"command":"sweep","of":{"a":{}}}"#.to_owned(), RunOutcome::Partial);
        let ended = Conclusion { is_interrupted: false, exit_status: 0, error: None };
        let text = held.conclude(ended).unwrap();
        assert!(text.starts_with(r#"{"command":"sweep","of":{"a":{}},"time":""#), "{text}");
        let value = concluded(&held, ended);
        assert_eq!((&value["outcome"], &value["error"]), (&json!("partial"), &Value::Null));
        assert_eq!(value["profile"], "audius");
        let stopped = Conclusion { is_interrupted: true, exit_status: 143, error: None };
        assert_eq!(concluded(&held, stopped)["outcome"], "interrupted");
    }
}
