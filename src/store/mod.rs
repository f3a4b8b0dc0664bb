//! Everything that talks to a database, and all SQL.
//!
//! [`Store`] in `table` is what commands see, and [`open`] returns one. `sql_store` is the one flow of every
//! method: which statements it executes and what their rows mean. `postgres` and `sqlite` hold the
//! statements in their dialect of SQL, and how to connect, lock and name an error. `record` writes totals,
//! `parts` knows the columns of their parts, `changes` tells which totals changed, `halves` finds the rows that the database
//! refuses, `confirmations` confirms rows that need no write, `freshness` says how old all rows are, and `coverage` and
//! `uncovered` know which rows need no read, as `watch` follows their events. `sample` draws random rows, and `hints`
//! keeps what endpoints took last time.

mod backend;
mod buckets;
mod changes;
mod columns;
mod confirmations;
mod connections;
mod coverage;
mod dialect;
mod error;
mod freshness;
mod halves;
mod hint_log;
mod hints;
mod parts;
mod postgres;
mod record;
mod rows;
mod run_log;
mod runs;
mod sample;
mod schema;
mod selections;
mod session;
mod sql_store;
mod sqlite;
mod standing;
mod table;
mod uncovered;

use std::path::Path;

pub use columns::PartColumn;
pub use hint_log::HintLog;
pub use run_log::{RUNNING, Run, RunLog, RunRecord};
pub use table::{
    Access, BucketCursor, BucketPage, Checkpoint, Confirmed, Coverage, Cursor, LockKey, Page, Row,
    Stale, Store, TableCounts, TableFreshness, TableProfile, UncoveredCounts, UncoveredWallet,
};

use crate::tally::{RunError, Shutdown};

/// Opens the database at `url`: `sqlite:PATH` or `postgres://…`, with its tables in `schema` if one is given. Totals are
/// written with their parts in these `columns`. Waits for other processes and for the server until `shutdown`, which also
/// ends the waits of [`Store::migrate`].
///
/// # Errors
/// [`RunError::Settings`] if the URL or what it names is at fault, [`RunError::Database`] if the
/// database fails, [`RunError::Stopped`] after a shutdown. No error shows a secret of the URL.
pub async fn open(
    url: &str,
    schema: Option<&str>,
    columns: Vec<PartColumn>,
    access: Access,
    shutdown: &Shutdown,
) -> Result<Box<dyn Store>, RunError> {
    if postgres::is_postgres(url) {
        return Ok(Box::new(postgres::open(url, schema, columns, access, shutdown).await?));
    }
    if url.starts_with("sqlite:") {
        if schema.is_some_and(|schema| !schema.is_empty()) {
            return Err(RunError::settings(
                "--schema needs PostgreSQL: an SQLite file has no schemas; give each profile a \
                 file of its own",
            ));
        }
        return Ok(Box::new(sqlite::open(url, columns, access, shutdown).await?));
    }
    Err(RunError::settings(match url.trim() {
        "" => "the database URL is empty; set --database-url or DATABASE_URL to sqlite:PATH or \
               postgres://…, or unset DATABASE_URL for sqlite:ethtally.db"
            .to_owned(),
        url if is_file_name(url) => {
            let path = url.trim_start_matches("file:");
            format!("unsupported database URL; for a SQLite file write sqlite:{path}")
        }
        _ => "unsupported database URL; use sqlite:PATH or a postgres:// URL".to_owned(),
    }))
}

/// Where the table of this URL and schema is, as a text that is the same for the same place. Asks no server.
pub fn place(url: &str, schema: Option<&str>) -> String {
    let found =
        if postgres::is_postgres(url) { postgres::place(url, schema) } else { sqlite::place(url) };
    // A URL that is refused is refused when it is opened.
    found.unwrap_or_else(|| url.to_owned())
}

/// True for the usual names of SQLite files. Other texts may be a secret, and are not shown.
fn is_file_name(text: &str) -> bool {
    let extension = Path::new(text).extension().and_then(|extension| extension.to_str());
    let is_path = !text.contains('@') && (!text.contains(':') || text.starts_with("file:"));
    matches!(extension, Some("db" | "db3" | "sqlite" | "sqlite3")) && is_path
}
