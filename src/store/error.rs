//! What can go wrong in a database, typed for the store; [`super::sql_store::SqlStore`] turns it into a [`RunError`].
//!
//! [`RunError`]: crate::tally::RunError

use std::{error::Error, io, path::PathBuf};

use thiserror::Error;

use super::rows::TooLarge;
use crate::tally::Shutdown;

/// A failure, before it is put in words.
#[derive(Debug, Error)]
pub(super) enum StoreError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// No connection.
    #[error(transparent)]
    Connect(sqlx::Error),
    /// The statement failed because of a lock that this session holds.
    #[error("{error}")]
    Blocked { error: sqlx::Error, by: String },
    #[error(
        "no answer in {0} s; check that the server is up, and the host and port in --database-url"
    )]
    NoAnswer(u64),
    #[error(
        "the server did not begin a transaction in {0} s; check that it answers; a pooler must have \
         two connections for each run"
    )]
    NoSession(u64),
    #[error("the server stopped answering, and the connection was closed")]
    Silent,
    #[error(
        "the server takes no writes: it is a standby, or set to read-only; --database-url must \
         name the primary server"
    )]
    ReadOnly,
    #[error(
        "no server is {0}, as target_session_attrs in --database-url asks for; name one that is, or \
         change that parameter"
    )]
    WrongServer(&'static str),
    #[error("schema {0:?} does not exist; run `ethtally migrate` to create it, or check --schema")]
    SchemaMissing(String),
    #[error("role {role:?} may not use schema {name:?}; run: {grant}")]
    SchemaForbidden { role: String, name: String, grant: String },
    #[error("PostgreSQL {0} is too old; ethtally needs version 13 or later")]
    ServerTooOld(u32),
    /// The tables could not be created or upgraded.
    #[error(transparent)]
    Upgrade(sqlx::Error),
    #[error(
        "its tables are missing or older than this version needs; run `ethtally migrate` first"
    )]
    TablesMissing,
    #[error("its tables belong to a newer version of ethtally (migration {0}); upgrade ethtally")]
    TablesTooNew(i64),
    #[error(
        "eth_wallet_balances lacks columns of the profile ({}); run `ethtally migrate` with this \
         --profile",
        .0.join(", ")
    )]
    ColumnsMissing(Vec<String>),
    #[error(
        "column {name} of eth_wallet_balances holds {holds}, not {wanted}; name another column in \
         the profile, or drop this one"
    )]
    ColumnOfOtherPart { name: String, holds: String, wanted: String },
    #[error(
        "eth_wallet_balances has a column {0} that ethtally did not add; name another column in \
         the profile"
    )]
    ColumnOfOthers(String),
    #[error(
        "the tables cannot be upgraded while {by} holds them, for {seconds} s by now; end its \
         transaction, or try again later"
    )]
    TablesHeld { by: String, seconds: u64 },
    #[error("lock file {}: {source}; check that its folder exists and is writable", path.display())]
    LockFile { path: PathBuf, source: io::Error },
    #[error("stopped while waiting for {0}")]
    Stopped(String),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl StoreError {
    /// The driver's error behind it.
    pub(super) const fn sql(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Sql(error)
            | Self::Connect(error)
            | Self::Upgrade(error)
            | Self::Blocked { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The database's code for it.
    pub(super) fn code(&self) -> Option<String> {
        self.sql().and_then(code)
    }

    /// The same, with the session that held the lock which was waited for.
    pub(super) fn blocked_by(self, blocker: Option<String>) -> Self {
        match (self, blocker) {
            (Self::Sql(error), Some(by)) => Self::Blocked { error, by },
            (error, _) => error,
        }
    }

    /// The same, as of an upgrade of the tables.
    pub(super) fn during_upgrade(self) -> Self {
        match self {
            Self::Sql(error) | Self::Blocked { error, .. } => Self::Upgrade(error),
            error => error,
        }
    }

    /// True if the database gives no further connection, but may have others that serve.
    pub(super) fn is_out_of_connections(&self) -> bool {
        // too_many_connections
        self.code().as_deref() == Some("53300")
    }

    /// True if the session is still in order, so that only its transaction failed.
    pub(super) fn leaves_session(&self) -> bool {
        self.sql().is_some_and(|error| error.as_database_error().is_some()) && !self.is_lost()
    }

    /// True if the session no longer serves: a new one may do what it did not.
    pub(super) fn is_lost(&self) -> bool {
        match self.code().as_deref() {
            // read_only_sql_transaction; the timeouts of idle sessions and transactions
            Some("25006" | "25P03" | "25P04" | "57P05") => true,
            // connection exceptions; admin_shutdown, crash_shutdown, cannot_connect_now
            Some(code) => code.starts_with("08") || code.starts_with("57P0"),
            None => {
                matches!(self, Self::Silent)
                    || matches!(self.sql(), Some(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)))
            }
        }
    }
}

/// Why the database refuses a row.
#[derive(Debug)]
pub(super) struct RowFault {
    /// The same for all rows that are refused for one reason.
    pub(super) kind: String,
    /// What the database says.
    pub(super) text: String,
}

/// The database's code for an error.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// The text of an error that is not a database's answer, without sqlx's own words around an I/O error.
pub(super) fn driver_text(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection".to_owned()
        }
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
