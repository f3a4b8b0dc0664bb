//! `profile`: print what a total is made of.

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use crate::{
    App,
    report::{Outcome, Paint, Verdict},
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

impl Outcome for Shown<'_> {
    fn text(&self, _: &Paint) -> String {
        self.source.to_owned()
    }
}

pub(super) fn run(app: &App) -> anyhow::Result<Verdict> {
    let source = &app.profile.source;
    let tables = toml::from_str(source).context("the profile cannot be shown as JSON")?;
    app.report.result(&Shown { command: "profile", tables, source })?;
    Ok(Verdict::Well)
}
