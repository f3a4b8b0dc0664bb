//! The two forms of a URL: `postgres://…`, and libpq's list of settings. What is given, not what it means.

use super::known::use_of;
use crate::{
    redact::{self, percent_decoded},
    tally::RunError,
};

/// The form of a URL, as a remedy.
const FORM: &str = "write USER:PASSWORD@HOST:PORT/DATABASE behind postgres://";
/// The remedy for characters that mean something else in a URL.
const ENCODE: &str = "percent-encode special characters in user, password and database";

/// Names and values, in the order in which they were given.
pub(super) type Given = Vec<(String, String)>;

/// True for libpq's other form, which begins with the name of a parameter and `=`.
pub(super) fn is_list(text: &str) -> bool {
    let name = text.split_once('=').map(|(name, _)| name.trim());
    name.is_some_and(|name| !name.contains(['/', ':', ' ', '.']) && use_of(name).is_some())
}

/// What a URL, or a list of settings, gives.
pub(super) fn given(text: &str) -> Result<Given, RunError> {
    if is_list(text) { of_list(text) } else { of_url(text) }
}

/// What is given in `postgresql://[user[:password]@][host[:port]][,…][/dbname][?name=value[&…]]`.
fn of_url(text: &str) -> Result<Given, RunError> {
    let invalid = |remedy| refused(format_args!("is not a valid postgres:// URL; {remedy}"));
    if redact::is_ambiguous(text) {
        return Err(invalid(ENCODE));
    }
    let (_scheme, rest) = text.split_once("://").ok_or_else(|| invalid(FORM))?;
    let (main, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = main.split_once('/').unwrap_or((main, ""));
    // Part of a password, then.
    if database.contains('@') {
        return Err(invalid(ENCODE));
    }
    let mut given = Given::new();
    let mut give = |name: &str, value: &str| {
        if !value.is_empty() {
            given.push((name.to_owned(), percent_decoded(value)));
        }
    };
    let hosts = match authority.rsplit_once('@') {
        Some((user, hosts)) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            give("user", user);
            give("password", password);
            hosts
        }
        None => authority,
    };
    let hosts = hosts.split(',').map(host_and_port).collect::<Option<Vec<_>>>();
    let hosts = hosts.ok_or_else(|| invalid(FORM))?;
    let (names, ports): (Vec<_>, Vec<_>) = hosts.into_iter().unzip();
    if names.len() > 1 || !names.concat().is_empty() {
        give("host", &names.join(","));
    }
    if !ports.concat().is_empty() {
        give("port", &ports.join(","));
    }
    give("dbname", database);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or_else(|| {
            refused("has a parameter without a value; write NAME=VALUE, and & in a value as %26")
        })?;
        given.push((percent_decoded(name), percent_decoded(value)));
    }
    Ok(given)
}

/// Host and port of `host`, `host:port` or `[address]:port`; `None` if the port is none.
fn host_and_port(text: &str) -> Option<(&str, &str)> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(address) => address.split_once(']')?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = if rest.is_empty() { "" } else { rest.strip_prefix(':')? };
    (port.is_empty() || port.parse::<u16>().is_ok()).then_some((host, port))
}

/// What is given in `name=value name='value'`, where `\` escapes a character.
fn of_list(text: &str) -> Result<Given, RunError> {
    let invalid =
        || refused("is not a valid list of settings; write NAME='VALUE' with \\ before ' and \\");
    let (mut given, mut rest) = (Given::new(), text);
    while !rest.is_empty() {
        let (name, behind) = rest.split_once('=').ok_or_else(invalid)?;
        let behind = behind.trim_start();
        let is_quoted = behind.starts_with('\'');
        let mut characters = behind.char_indices().skip(usize::from(is_quoted));
        let mut value = String::new();
        let end = loop {
            match characters.next() {
                Some((_, '\\')) => value.extend(characters.next().map(|(_, c)| c)),
                Some((at, '\'')) if is_quoted => break at + 1,
                Some((at, c)) if !is_quoted && c.is_whitespace() => break at,
                Some((_, c)) => value.push(c),
                None if is_quoted => return Err(invalid()),
                None => break behind.len(),
            }
        };
        given.push((name.trim().to_owned(), value));
        rest = behind[end..].trim_start();
    }
    Ok(given)
}

/// A URL that is refused, for this reason.
pub(super) fn refused(text: impl std::fmt::Display) -> RunError {
    RunError::settings(format!("--database-url {text}"))
}
