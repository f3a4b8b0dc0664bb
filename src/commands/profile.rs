//! `profile`: print what a total is made of.

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use crate::{
    app::App,
    report::{CommandOutput, Styler, Verdict},
    tally::RunError,
};

/// The profile: as TOML for people, its tables as JSON for scripts.
#[derive(Serialize)]
struct Shown<'a> {
    command: &'static str,
    #[serde(flatten)]
    tables: Value,
    #[serde(skip)]
    source: &'a str,
}

impl CommandOutput for Shown<'_> {
    fn text(&self, _: &Styler) -> String {
        self.source.to_owned()
    }
}

pub(super) fn run(app: &App) -> Result<Verdict, RunError> {
    let source = &app.profile.source;
    let tables = toml::from_str(source).context("the profile cannot be shown as JSON")?;
    app.report.result(&Shown { command: "profile", tables, source })?;
    Ok(Verdict::Pass)
}
