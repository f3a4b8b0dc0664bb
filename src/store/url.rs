//! From a database URL to a [`Store`]: its scheme picks the backend.

use super::{Store, postgres::PostgresStore, sqlite::SqliteStore};
use crate::tally::RunError;

/// What a command may do with the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read rows; create and change nothing.
    Read,
    /// Write rows; an SQLite file is made if it is missing.
    Write,
}

/// Opens the database at `url`: `sqlite:PATH` or `postgres://…`.
///
/// # Errors
/// When the URL is of another kind, or the database cannot be opened. Shows no secret of the URL.
pub async fn open(url: &str, access: Access) -> Result<Box<dyn Store>, RunError> {
    match url.split_once(':') {
        Some(("sqlite", _)) => Ok(Box::new(SqliteStore::open(url, access).await?)),
        Some(("postgres" | "postgresql", _)) => Ok(Box::new(PostgresStore::open(url).await?)),
        _ => Err(RunError::settings(
            "--database-url is of a kind that is not known; give sqlite:PATH or a postgres:// URL",
        )),
    }
}
