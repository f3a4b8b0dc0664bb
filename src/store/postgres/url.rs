//! A database URL, in every form that libpq takes: which servers to try, as whom, and where the tables are.
//!
//! Shows names of parameters in errors, and never a value that may be a secret.

mod forms;
mod known;
mod parameters;
mod target;
#[cfg(test)]
mod tests;

pub(super) use self::target::{Target, TargetSession};

use self::parameters::Parameters;
use crate::tally::RunError;

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
