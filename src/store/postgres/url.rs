//! A database URL, in every form that libpq takes: which servers to try, as whom, and where the tables are.
//!
//! Shows names of parameters in errors, and never a value that may be a secret.

mod forms;
mod known;
mod parameters;
#[cfg(test)]
mod tests;

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use self::parameters::Parameters;
use crate::tally::RunError;

/// What a URL leads to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The servers, in the order to try them; at least one.
    pub(super) hosts: Vec<PgConnectOptions>,
    /// Which of them serve.
    pub(super) session: TargetSession,
    /// How long connecting to one of them may take, unless the default applies.
    pub(super) connect_timeout: Option<Duration>,
    /// Where the tables are, if not where the role's search path leads.
    pub(super) schema: Option<String>,
}

/// libpq's `target_session_attrs`: which servers serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TargetSession {
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// True for a URL of PostgreSQL, and for libpq's list of settings such as `host=db dbname=tally`.
pub(in crate::store) fn is_postgres(text: &str) -> bool {
    let scheme = text.split("://").next().unwrap_or_default();
    let scheme = scheme.split_once('+').map_or(scheme, |(scheme, _driver)| scheme);
    let is_url = |text: &str| matches!(text, "postgres" | "postgresql" | "jdbc:postgresql");
    is_url(scheme) || text.split(':').next().is_some_and(is_url) || forms::is_list(text)
}

/// Reads a URL. `schema` is that of `--schema`, as it was given.
///
/// # Errors
/// If it has no form that is known, or asks for something that ethtally does not do.
pub(super) fn parse(text: &str, schema: Option<&str>) -> Result<Target, RunError> {
    let text = text.trim();
    let parameters = Parameters::of(forms::given(text)?)?;
    Ok(Target {
        hosts: parameters.hosts()?,
        session: parameters.session()?,
        connect_timeout: parameters.connect_timeout()?,
        schema: parameters.schema(schema)?,
    })
}

fn refused(text: impl std::fmt::Display) -> RunError {
    RunError::settings(format!("--database-url {text}"))
}
