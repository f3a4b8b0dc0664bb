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

/// Where the tables of a URL are, as a text that is the same for the same place; `None` if the URL is refused.
pub(in crate::store) fn place(text: &str, schema: Option<&str>) -> Option<String> {
    let Target { hosts, schema, .. } = parse(text, schema).ok()?;
    let host = |host: &sqlx::postgres::PgConnectOptions| {
        let database = host.get_database().unwrap_or(host.get_username()).to_owned();
        // Without a schema, the search path of the role or of the connection decides.
        let path = schema.is_none().then(|| (host.get_username(), host.get_options()));
        format!("{:?}", (host.get_host(), host.get_socket(), host.get_port(), database, path))
    };
    Some(format!("{:?} {schema:?}", hosts.iter().map(host).collect::<Vec<_>>()))
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
