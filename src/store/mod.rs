//! Everything that talks to a database, and all SQL.
//!
//! [`Store`] in `table` is what commands see, and [`open`] returns one. `sql_store` is the one flow of every
//! method: which statements it executes and what their rows mean. `postgres` and `sqlite` hold the
//! statements in their dialect of SQL, and how to connect, lock and name an error. `record` writes totals, and
//! `halves` finds the rows that the database refuses.

mod backend;
mod connections;
mod dialect;
mod error;
mod halves;
mod postgres;
mod record;
mod rows;
mod schema;
mod session;
mod sql_store;
mod sqlite;
mod table;

use std::path::Path;

pub use table::{
    Access, Checkpoint, Cursor, LockKey, Page, Row, Stale, Store, TableCounts, TableProfile,
};

use crate::tally::{RunError, Shutdown};

/// Opens the database at `url`: `sqlite:PATH` or `postgres://…`. Waits for other processes and for
/// the server until `shutdown`, which also ends the waits of [`Store::migrate`].
///
/// # Errors
/// [`RunError::Settings`] if the URL or what it names is at fault, [`RunError::Database`] if the
/// database fails, [`RunError::Stopped`] after a shutdown. No error shows a secret of the URL.
pub async fn open(
    url: &str,
    access: Access,
    shutdown: &Shutdown,
) -> Result<Box<dyn Store>, RunError> {
    if url.trim().is_empty() {
        return Err(RunError::settings(
            "the database URL is empty; set --database-url or DATABASE_URL to sqlite:PATH or \
             postgres://…, or unset DATABASE_URL for sqlite:ethtally.db",
        ));
    }
    match url.split_once(':') {
        Some(("sqlite", _)) => Ok(Box::new(sqlite::open(url, access, shutdown).await?)),
        Some(("postgres" | "postgresql", _)) => {
            Ok(Box::new(postgres::open(url, access, shutdown).await?))
        }
        None if is_file_name(url) => Err(RunError::settings(format!(
            "unsupported database URL; for a SQLite file write sqlite:{url}"
        ))),
        _ => Err(RunError::settings(
            "unsupported database URL; use sqlite:PATH or a postgres:// URL",
        )),
    }
}

/// True for the usual names of SQLite files. Other texts may be a secret, and are not shown.
fn is_file_name(text: &str) -> bool {
    let extension = Path::new(text).extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("db" | "db3" | "sqlite" | "sqlite3")) && !text.contains('@')
}
