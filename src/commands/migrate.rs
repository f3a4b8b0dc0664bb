//! `migrate`: create or upgrade the tables.

use serde::Serialize;

use crate::{
    app::App,
    report::{CommandOutput, Styler, Verdict},
    store::Access,
    tally::RunError,
};

#[derive(Serialize)]
struct Migrated {
    command: &'static str,
    applied: Vec<String>,
}

impl CommandOutput for Migrated {
    fn text(&self, _: &Styler) -> String {
        match self.applied.as_slice() {
            [] => "migrate complete: the tables were up to date".into(),
            applied => format!("migrate complete applied: {}", applied.join(", ")),
        }
    }
}

pub(super) async fn run(app: &App) -> Result<Verdict, RunError> {
    let store = app.open(Access::Write).await?;
    let applied = store.migrate().await;
    store.close().await;
    let applied = applied?;
    app.report.result(&Migrated { command: "migrate", applied })?;
    Ok(Verdict::Pass)
}
