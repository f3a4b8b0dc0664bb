//! Which rows `watch` keeps current, as status shows it.

use serde::Serialize;

use crate::{
    app::App,
    store::Store,
    tally::{RunError, Shard},
};

/// How many rows are not known to be right up to the checkpoint.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Covered {
    /// The block up to which covered rows are right, as far as the profile's events tell; `null` where nobody follows them.
    current_to_block: Option<u64>,
    /// The other rows.
    not_covered: Option<u64>,
}

impl Covered {
    pub(super) async fn of(app: &App, store: &dyn Store) -> Result<Self, RunError> {
        let events = app.profile.events_text();
        let Some(coverage) = store.coverage(&app.profile.checkpoint, &events).await? else {
            return Ok(Self { current_to_block: None, not_covered: None });
        };
        let counts = store.count_uncovered(&coverage, Shard::ALL).await?;
        Ok(Self { current_to_block: Some(coverage.to()), not_covered: Some(counts.rows) })
    }

    /// The line for a table with this number of rows; none if no `watch` follows the events.
    pub(super) fn text(&self, wallets: u64) -> String {
        match (self.current_to_block, self.not_covered) {
            (Some(block), Some(0)) => format!("\ncovered     all rows, up to block {block}"),
            (Some(block), Some(rest)) => {
                let covered = wallets.saturating_sub(rest);
                format!("\ncovered     {covered} of {wallets} rows, up to block {block}")
            }
            _ => String::new(),
        }
    }
}
