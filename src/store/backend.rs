//! What each database does in a way of its own, with connections of a [`Dialect`]: locks, upgrades.

use async_trait::async_trait;

use super::{LockKey, dialect::Dialect, error::StoreError, schema::Migration, session::Database};
use crate::tally::{Check, Lock};

/// A database with locks and migrations.
#[async_trait]
pub(super) trait Backend: Dialect {
    /// Its migrations.
    const MIGRATIONS: &'static [Migration];

    /// Applies missing migrations, one process at a time; returns their names.
    async fn migrate(database: &Database<Self>) -> Result<Vec<String>, StoreError>;

    /// Takes a lock between processes; `None` if another one holds it.
    async fn lock(
        database: &Database<Self>,
        key: LockKey<'_>,
    ) -> Result<Option<Box<dyn Lock>>, StoreError>;

    /// Checks version, rights, and how the server is set up; changes nothing.
    async fn examine(database: &Database<Self>) -> Result<Vec<Check>, StoreError>;

    /// Who holds a lock, as far as the database tells.
    async fn holder(database: &Database<Self>, key: LockKey<'_>) -> Option<String>;
}
