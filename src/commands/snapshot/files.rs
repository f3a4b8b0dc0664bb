//! What the forms of `snapshot` share: work on files, and whose files they are.

use std::path::Path;

use crate::{app::App, profile::Identity, snapshot::Manifest, tally::RunError};

/// Runs what reads and writes files, beside what waits for the network.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, RunError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(panicked) => Err(RunError::settings(panicked)),
    }
}

/// Refuses what is of another profile than this run.
pub(super) fn require_profile(
    app: &App,
    what: &str,
    name: &str,
    identity: &Identity,
) -> Result<(), RunError> {
    let ours = app.profile.identity();
    if *identity == ours {
        return Ok(());
    }
    Err(RunError::settings(format!(
        "{what} has totals of profile {name:?}, not of {:?} ({}); give the --profile that it was taken with",
        app.profile.name,
        identity.difference_from(&ours)
    )))
}

/// The manifest of a snapshot of this run's profile.
pub(super) fn manifest_of(app: &App, file: &Path) -> Result<Manifest, RunError> {
    let manifest = Manifest::of(file)?;
    let what = file.display().to_string();
    require_profile(app, &what, &manifest.profile, &manifest.identity)?;
    Ok(manifest)
}
