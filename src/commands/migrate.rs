//! `migrate`: create or upgrade the tables.

use serde::Serialize;

use crate::{
    app::{App, identity_of},
    cli::MigrateArgs,
    report::{CommandOutput, Styler, Verdict},
    store::{Access, Store},
    tally::RunError,
};

#[derive(Serialize)]
struct Migrated {
    command: &'static str,
    applied: Vec<String>,
    /// The profile that the table is of now, with `--adopt-profile`.
    #[serde(rename = "adopted_profile", skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
}

impl CommandOutput for Migrated {
    fn text(&self, _: &Styler) -> String {
        let mut text = match self.applied.as_slice() {
            [] => "migrate complete: the tables were up to date".to_owned(),
            applied => format!("migrate complete applied: {}", applied.join(", ")),
        };
        if let Some(profile) = &self.profile {
            text.push_str(&format!("; profile: {profile}"));
        }
        text
    }
}

pub(super) async fn run(app: &App, args: MigrateArgs) -> Result<Verdict, RunError> {
    let store = app.open(Access::Write).await?;
    let applied = app.migrate(store.as_ref()).await?;
    let profile = match args.adopt_profile {
        true => Some(adopt_profile(app, store.as_ref()).await?),
        false => None,
    };
    app.report.result(&Migrated { command: "migrate", applied, profile })?;
    Ok(Verdict::Pass)
}

/// Makes the table one of this run's profile; returns its name.
async fn adopt_profile(app: &App, store: &dyn Store) -> Result<String, RunError> {
    let (before, ours) = (store.profile().await?, app.table_profile());
    // What another program wrote there is replaced like any other.
    let before = before.map(|of| (of.name.clone(), identity_of(&of).ok()));
    let identity = app.profile.identity();
    let is_other_chain = matches!(&before, Some((_, Some(of))) if !of.is_of_chain_of(&identity));
    store.adopt(&ours, is_other_chain).await?;
    if let Some((name, of)) = before
        && of != Some(identity)
        && !store.is_empty().await?
    {
        app.report.note(&format!(
            "rows have totals of profile {name:?} until they are read again; run `ethtally sweep --all`"
        ));
    }
    Ok(ours.name)
}
