//! What endpoints took last time, for the next run, as commands see it.

use async_trait::async_trait;

use crate::tally::{NodeHint, RunError};

/// What endpoints took last time.
#[async_trait]
pub trait HintLog: Send + Sync {
    /// What runs of the last week have found.
    ///
    /// # Errors
    /// If the database fails, as for every method below.
    async fn hints(&self) -> Result<Vec<NodeHint>, RunError>;

    /// Remembers what a run has found, and forgets what is a month old.
    async fn record_hints(&self, hints: &[NodeHint]) -> Result<(), RunError>;
}
