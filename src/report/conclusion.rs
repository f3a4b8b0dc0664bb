//! How a run ended: what every JSON result says besides its own fields.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{
    redact,
    tally::{RunError, Shutdown},
};

/// How a command ended, when it could do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done, and all is well: exit status 0.
    Pass,
    /// Done, and the answer is no: exit status 1.
    Fail,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

impl RunOutcome {
    /// Its name, as scripts see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Skipped => "skipped",
            Self::CutShort => "cut_short",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

impl Serialize for RunOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for RunOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CutShort => "stopped",
            outcome => outcome.name(),
        })
    }
}

/// What is known of a run at its end.
#[derive(Clone, Debug)]
pub struct Conclusion {
    /// True if a signal interrupted it.
    pub is_interrupted: bool,
    /// The exit status: 0 to 5, or 128 and the signal.
    pub exit_status: u8,
    /// What is printed of the error, if it failed.
    pub error: Option<String>,
}

impl Conclusion {
    /// The conclusion of a run that ended like this.
    pub fn of(ended: &Result<Verdict, RunError>, shutdown: &Shutdown) -> Self {
        let signal = shutdown.signal();
        // That something was not done because of a signal is not worth a line.
        let error = ended.as_ref().err().filter(|error| !(error.is_stopped() && signal.is_some()));
        Self {
            is_interrupted: signal.is_some(),
            exit_status: exit_status(ended, signal),
            error: error.map(|error| redact::clean_error(error)),
        }
    }
}

/// The exit status of several runs: after a signal that of the signal, else the worst. What trying again does not help
/// comes first, then the database, the node, a lock, and a no.
pub fn worst(statuses: impl IntoIterator<Item = u8>) -> u8 {
    const WORST_FIRST: [u8; 5] = [2, 4, 3, 5, 1];
    let rank = |status: &u8| match status {
        0 => usize::MAX,
        status => WORST_FIRST.iter().position(|other| other == status).map_or(0, |at| at + 1),
    };
    statuses.into_iter().min_by_key(rank).unwrap_or(0)
}

fn exit_status(ended: &Result<Verdict, RunError>, signal: Option<i32>) -> u8 {
    if let Some(signal) = signal {
        return 128 + u8::try_from(signal).unwrap_or(0);
    }
    match ended {
        Ok(Verdict::Pass) => 0,
        Ok(Verdict::Fail) => 1,
        Err(RunError::Settings(_)) => 2,
        // What a run waited for when its time was over was the node, mostly.
        Err(RunError::Node(_) | RunError::Unreadable(_) | RunError::Stopped(_)) => 3,
        Err(RunError::Database(_)) => 4,
        Err(RunError::Locked(_)) => 5,
    }
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

    /// Holds another result of the same command.
    pub(super) fn anew(&self) -> Self {
        let held = Held { command: self.held().command, ..Held::default() };
        Self(Arc::new(Mutex::new(held)))
    }

    pub(super) fn profile_name(&self) -> Option<String> {
        self.held().profile.clone()
    }

    pub(super) fn result(&self, result: String, outcome: RunOutcome) {
        let mut held = self.held();
        (held.result, held.outcome) = (Some(result), outcome);
    }

    /// The result was printed otherwise.
    pub(super) fn is_printed(&self) {
        self.held().command = "";
    }

    /// How a run ended that has this conclusion.
    pub(super) fn outcome(&self, conclusion: &Conclusion) -> RunOutcome {
        match (self.held().outcome, conclusion) {
            (RunOutcome::Skipped, _) => RunOutcome::Skipped,
            (_, Conclusion { is_interrupted: true, .. }) => RunOutcome::Interrupted,
            (_, Conclusion { error: Some(_), .. }) => RunOutcome::Failed,
            (outcome, _) => outcome,
        }
    }

    /// The numbers of the result, and how long its lists are, as a JSON object.
    pub(super) fn counts(&self) -> Option<String> {
        let result: Map<String, Value> = serde_json::from_str(self.held().result.as_ref()?).ok()?;
        let counts = result.into_iter().filter_map(|(name, value)| match value {
            Value::Number(_) => Some((name, value)),
            Value::Array(list) => Some((name, list.len().into())),
            _ => None,
        });
        Some(Value::Object(counts.collect()).to_string())
    }

    /// The whole object, unless the result was printed otherwise. A run that failed before it had a result has one
    /// that names its command.
    pub(super) fn conclude(&self, conclusion: &Conclusion) -> Option<String> {
        #[derive(Serialize)]
        struct Common<'a> {
            time: String,
            version: &'static str,
            profile: Option<&'a str>,
            outcome: RunOutcome,
            exit_status: u8,
            error: Option<&'a str>,
        }
        let outcome = self.outcome(conclusion);
        let held = self.held();
        if held.command.is_empty() {
            return None;
        }
        let common = Common {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            version: env!("CARGO_PKG_VERSION"),
            profile: held.profile.as_deref(),
            outcome,
            exit_status: conclusion.exit_status,
            error: conclusion.error.as_deref(),
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

    fn concluded(held: &HeldResult, conclusion: &Conclusion) -> Value {
        let mut value: Value = serde_json::from_str(&held.conclude(conclusion).unwrap()).unwrap();
        assert!(value["time"].take().is_string());
        value
    }

    #[test]
    fn a_result_comes_first_and_ends_with_how_the_run_ended() {
        let held = HeldResult::default();
        held.command("sweep");
        let error = Some("no \"profile\"".to_owned());
        let failed = Conclusion { is_interrupted: false, exit_status: 2, error };
        assert_eq!(
            concluded(&held, &failed),
            json!({"command": "sweep", "time": null, "version": env!("CARGO_PKG_VERSION"), "profile": null,
                   "outcome": "failed", "exit_status": 2, "error": "no \"profile\""})
        );
        held.profile("audius");
        held.result(r#"{"command":"sweep","of":{"a":{}}}"#.to_owned(), RunOutcome::Partial);
        let ended = Conclusion { is_interrupted: false, exit_status: 0, error: None };
        let text = held.conclude(&ended).unwrap();
        assert!(text.starts_with(r#"{"command":"sweep","of":{"a":{}},"time":""#), "{text}");
        let value = concluded(&held, &ended);
        assert_eq!((&value["outcome"], &value["error"]), (&json!("partial"), &Value::Null));
        assert_eq!(value["profile"], "audius");
        let stopped = Conclusion { is_interrupted: true, exit_status: 143, error: None };
        assert_eq!(concluded(&held, &stopped)["outcome"], "interrupted");
    }

    #[test]
    fn the_worst_of_several_statuses_wins() {
        for (statuses, expected) in [
            (&[0, 0][..], 0),
            (&[0, 1], 1),
            (&[1, 5, 0], 5),
            (&[5, 3, 1], 3),
            (&[3, 4], 4),
            (&[4, 2, 3], 2),
            (&[0, 143, 2], 143),
            (&[], 0),
        ] {
            assert_eq!(worst(statuses.iter().copied()), expected, "{statuses:?}");
        }
    }

    #[test]
    fn the_counts_of_a_result_are_its_numbers_and_the_lengths_of_its_lists() {
        let held = HeldResult::default();
        assert_eq!(held.counts(), None);
        let result =
            r#"{"command":"refresh","updated":2,"block":null,"skipped":false,"wallets":[{},{}]}"#;
        held.result(result.to_owned(), RunOutcome::Complete);
        assert_eq!(held.counts().unwrap(), r#"{"updated":2,"wallets":2}"#);
    }
}
