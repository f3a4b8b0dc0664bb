//! What `doctor` finds: one check, how it ended, and what helps.

use std::error::Error;

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
        Self::ok(name, target, detail).with(CheckStatus::Warn, remedy)
    }

    /// A command would fail.
    pub fn fail(
        name: &'static str,
        target: &str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::ok(name, target, detail).with(CheckStatus::Fail, remedy)
    }

    fn with(self, status: CheckStatus, remedy: impl Into<String>) -> Self {
        Self { status, remedy: Some(remedy.into()), ..self }
    }

    /// A command would fail with this error, which names the remedy behind a semicolon; `remedy` if it names none.
    pub fn error(
        name: &'static str,
        target: &str,
        error: &(dyn Error + 'static),
        remedy: &str,
    ) -> Self {
        let (mut details, mut found, mut next) = (Vec::new(), None, Some(error));
        while let Some(error) = next {
            let text = error.to_string();
            match text.split_once("; ").filter(|_| found.is_none()) {
                Some((detail, remedy)) => {
                    details.push(detail.to_owned());
                    // Some name the cause last. `run: grant …` names none.
                    let cause = remedy.split_once(": ").filter(|_| !remedy.contains("run: "));
                    details.extend(cause.map(|(_, cause)| cause.to_owned()));
                    found = Some(cause.map_or(remedy, |(remedy, _)| remedy).to_owned());
                }
                None => details.push(text),
            }
            next = error.source();
        }
        // Some libraries' errors end with their cause's own words.
        details.dedup_by(|cause, error| error.ends_with(cause.as_str()));
        let detail = details.join(": ");
        let detail = detail.strip_prefix(&format!("{target}: ")).unwrap_or(&detail);
        Self::fail(name, target, detail, found.unwrap_or_else(|| remedy.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_of_an_error_stands_apart_from_its_causes() {
        let cause = anyhow::anyhow!("Connection refused");
        let error = cause.context("http://a: no connection; check that the node is up");
        let check = Check::error("chain", "http://a", error.as_ref(), "wait");
        assert_eq!(check.detail, "no connection: Connection refused");
        assert_eq!(check.remedy.as_deref(), Some("check that the node is up"));
        let error = anyhow::anyhow!("b: no file; check its folder: no such file; run: ls");
        assert_eq!(Check::error("rights", "b", error.as_ref(), "wait").detail, "no file");
        let error = anyhow::anyhow!("b: no file; check its folder: no such file");
        let check = Check::error("rights", "b", error.as_ref(), "wait");
        assert_eq!(check.detail, "no file: no such file");
        assert_eq!(check.remedy.as_deref(), Some("check its folder"));
        let check = Check::error("chain", "b", anyhow::anyhow!("broken").as_ref(), "wait");
        assert_eq!((check.detail.as_str(), check.remedy.as_deref()), ("broken", Some("wait")));
    }
}
