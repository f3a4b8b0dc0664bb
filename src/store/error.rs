//! What can go wrong in a database, typed for the store; [`super::sql_store::SqlStore`] turns it into a [`RunError`].
//!
//! [`RunError`]: crate::tally::RunError

use std::{error::Error, io, path::PathBuf};

use sqlx::migrate::MigrateError;
use thiserror::Error;

use crate::tally::Shutdown;

/// A failure, before it is put in words.
#[derive(Debug, Error)]
pub(super) enum StoreError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    #[error("the tables cannot be upgraded: {0}")]
    Upgrade(#[source] MigrateError),
    #[error(
        "its tables are missing or older than this version needs; run `ethtally migrate` first"
    )]
    TablesMissing,
    #[error("its tables belong to a newer version of ethtally (migration {0}); upgrade ethtally")]
    TablesTooNew(i64),
    #[error(
        "the tables cannot be upgraded while another session holds them, for {0} s by now; end its \
         transaction (pg_stat_activity shows it), or try again later"
    )]
    TablesHeld(u64),
    #[error("lock file {}: {source}; check that its folder exists and is writable", path.display())]
    LockFile { path: PathBuf, source: io::Error },
    #[error("stopped while waiting for {0}")]
    Stopped(String),
}

impl StoreError {
    /// The driver's error behind it.
    pub(super) const fn sql(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Sql(error)
            | Self::Upgrade(
                MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _),
            ) => Some(error),
            _ => None,
        }
    }

    /// The database's code for it.
    pub(super) fn code(&self) -> Option<String> {
        self.sql().and_then(code)
    }
}

/// The database's code for an error.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// The text of an error that is not a database's answer, without sqlx's own words around an I/O error.
pub(super) fn driver_text(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Tls(error) => format!("no TLS connection: {}", innermost(error.as_ref())),
        error => error.to_string(),
    }
}

fn innermost<'a>(mut error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// Does `work`, unless a shutdown comes first; `what` names what is waited for.
pub(super) async fn unless_stopped<T>(
    shutdown: &Shutdown,
    what: &str,
    work: impl Future<Output = T>,
) -> Result<T, StoreError> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = shutdown.requested() => Err(StoreError::Stopped(what.to_owned())),
    }
}
