//! Secrets do not reach an output.
//!
//! Of every URL in a text only scheme, host and port are left; and what was taken out of
//! the URLs that the program was given is taken out wherever else it shows.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
};

use url::Url;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// What begins a URL that may hold a secret.
const SCHEMES: [&str; 6] = ["http", "https", "ws", "wss", "postgres", "postgresql"];

/// Secrets shorter than this would take half of a text with them.
const SHORTEST: usize = 4;

/// What this process was given and must not show.
static SECRETS: Mutex<Vec<Secret>> = Mutex::new(Vec::new());

/// A text to replace, and its replacement.
#[derive(PartialEq, Eq)]
struct Secret {
    text: String,
    shown: String,
}

impl Secret {
    /// The text as it is, on one line, and as it looks between quotes.
    fn spellings(text: &str, shown: &str) -> [Self; 3] {
        [text.to_owned(), one_line(text), text.escape_debug().to_string()]
            .map(|text| Self { text, shown: shown.to_owned() })
    }
}

/// Looks for URLs in a command-line argument or a variable, and remembers the secrets in them.
///
/// Done before anything is parsed, so that not even a usage error can show one.
pub fn remember(text: &str) {
    let mut found = Vec::new();
    let value = match text.split_once('=') {
        Some((flag, value)) if flag.starts_with('-') && !flag.contains("://") => value,
        Some((flag, _)) if flag.starts_with('-') => {
            // A usage error names a flag without what follows its `=`.
            found.extend(Secret::spellings(flag, MASK));
            text
        }
        _ => text,
    };
    // A URL parser takes one slash, or none, for two.
    let mended = SCHEMES
        .iter()
        .find_map(|scheme| Some((scheme, value.strip_prefix(scheme)?.strip_prefix(':')?)))
        .filter(|(_, rest)| !rest.starts_with("//"))
        .map(|(scheme, rest)| format!("{scheme}://{}", rest.trim_start_matches('/')));
    if mended.is_some() {
        found.extend(Secret::spellings(value, MASK));
    }
    let value = mended.as_deref().unwrap_or(value);
    if !value.contains("://") && !value.starts_with("sqlite:") {
        return;
    }
    // The longest is replaced first: no part of a URL shows because another part was hidden.
    if value.contains("://") {
        let shown = origin(value).unwrap_or_else(|| MASK.to_owned());
        found.extend(Secret::spellings(value, &shown));
    }
    // A comma stands between URLs, or in a password.
    for url in value.split(',').chain([value]).map(str::trim) {
        for secret in secrets_of(url) {
            found.extend(Secret::spellings(&secret, MASK));
            found.extend(Secret::spellings(&percent_decoded(&secret), MASK));
        }
    }
    let mut secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    secrets.extend(found.into_iter().filter(|secret| secret.text.len() >= SHORTEST));
    secrets.sort_by(|one, other| {
        other.text.len().cmp(&one.text.len()).then_with(|| one.text.cmp(&other.text))
    });
    secrets.dedup();
}

/// True if the start of a password may be taken for a port: one with a bare `/`, `?` or `#` behind digits,
/// such as `postgres://app:47/11@db`. Such a URL has a host that is none, and must not be used or shown.
pub fn is_ambiguous(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let Some(authority_end) = rest.find(['/', '\\', '?', '#']) else { return false };
    let (authority, tail) = rest.split_at(authority_end);
    // Behind a path, a query may hold an `@` of its own.
    let path = tail.trim_start_matches(['/', '\\']);
    let path = path.split(['?', '#']).next().filter(|path| !path.is_empty());
    let tail = if tail.starts_with(['/', '\\']) { path.unwrap_or(tail) } else { tail };
    authority.contains(':') && !authority.contains('@') && tail.contains('@')
}

/// Scheme, host and port of a URL that can be told apart from its secrets.
fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|_| !is_ambiguous(text))?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}://{}{port}", url.scheme(), url.host_str()?))
}

/// The parts of a URL that are worth hiding on their own: a password, and keys in path or query.
fn secrets_of(text: &str) -> Vec<String> {
    let looks_like_a_key = |text: &&str| {
        text.len() >= 16 || text.len() >= 8 && text.bytes().any(|byte| byte.is_ascii_digit())
    };
    let mut secrets = Vec::new();
    let (main, query) = text.split_once('?').unwrap_or((text, ""));
    for parameter in query.split(['&', '#']) {
        let (name, value) = parameter.split_once('=').unwrap_or(("", parameter));
        let name = name.to_lowercase();
        let is_named = ["pass", "pwd", "key", "token", "secret", "auth"];
        if looks_like_a_key(&value) || is_named.iter().any(|word| name.contains(word)) {
            secrets.push(value.to_owned());
        }
    }
    let Some((scheme, rest)) = text.split_once("://") else { return secrets };
    let is_database = matches!(scheme, "postgres" | "postgresql" | "sqlite");
    // As it was meant, with whatever stands in it bare.
    if let Some((user, host)) = rest.rsplit_once('@') {
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let host = host.split([':', '/', '?', '#']).next();
        if password != user && Some(password) != host {
            secrets.push(password.to_owned());
        }
        secrets.extend(
            Some(user).filter(looks_like_a_key).filter(|_| !is_database).map(str::to_owned),
        );
    }
    let Ok(url) = Url::parse(text) else {
        // Not a URL after all, such as one with a bare `/` in its password: hide it whole.
        secrets.push(text.to_owned());
        return secrets;
    };
    // As it is understood.
    let public = |text: &str| text == url.username() || Some(text) == url.host_str();
    secrets.extend(url.password().filter(|password| !public(password)).map(str::to_owned));
    if !is_database {
        let path = main.split_once("://").map_or("", |(_, rest)| rest);
        let keys = path.split(['/', '#']).skip(1).chain(url.fragment());
        secrets.extend(keys.filter(looks_like_a_key).map(str::to_owned));
    }
    secrets
}

/// The text without its percent-encoding.
fn percent_decoded(text: &str) -> String {
    // In a form a plus is a space; in a password it is a plus.
    let encoded = format!("key={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(encoded.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text without secrets, on one line.
pub fn clean(text: &str) -> String {
    without_urls(&hide(&one_line(&hide(text))))
}

/// An error and its causes as one line without secrets.
pub fn clean_error(error: &(dyn Error + 'static)) -> String {
    clean(&with_causes(error))
}

/// An error and its causes, each once: some libraries' errors end with their cause's own words.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

/// The text without the secrets that are remembered; lines stay as they are.
pub fn hide(text: &str) -> String {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(&secret.text, &secret.shown))
}

/// Cuts every URL down to scheme, host and port.
fn without_urls(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let ends_url = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`' | '<' | '>');
        let (url, behind) = after.split_at(after.find(ends_url).unwrap_or(after.len()));
        // The host ends at the first character that is none of a host's; user and password stand before `@`.
        let host = url.rsplit_once('@').map_or(url, |(_, host)| host);
        let host_end = host.find(|c: char| {
            !c.is_alphanumeric() && !matches!(c, '.' | '-' | ':' | '[' | ']' | '*' | '_')
        });
        let (host, tail) = host.split_at(host_end.unwrap_or(host.len()));
        clean.push_str(host);
        // What follows a bare host, such as `;` or `)`, belongs to the sentence.
        if !tail.is_empty() && !tail.starts_with(['/', '?', '#']) {
            clean.push_str(tail.get(..1).unwrap_or_default());
        }
        rest = behind;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_url_only_scheme_and_host_are_left() {
        for (text, expected) in [
            ("https://eth.host/v2/KEY failed", "https://eth.host failed"),
            ("at https://user:word@host:8545/x?key=1: no", "at https://host:8545 no"),
            ("invalid value 'https://host/KEY' for", "invalid value 'https://host' for"),
            ("postgres://u:pa/ss@db/x", "postgres://db"),
            ("postgres://u:p@ss@db/x", "postgres://db"),
            (
                "database postgres://127.0.0.1:5432: refused",
                "database postgres://127.0.0.1:5432: refused",
            ),
            ("http://[::1]:8545/x and wss://b/y", "http://[::1]:8545 and wss://b"),
            ("no URL at all", "no URL at all"),
        ] {
            assert_eq!(without_urls(text), expected);
        }
    }

    #[test]
    fn what_a_url_hid_is_hidden_on_its_own_too() {
        remember("https://eth.host/v2/abcdef0123456789?token=zyxwvu987654");
        remember("--database-url=postgres://app:s3cr%2Fet@db/x");
        remember("http:/host/v3/0123456789slash");
        let text =
            "bad key abcdef0123456789, token zyxwvu987654, password s3cr/et or s3cr%2Fet of app";
        assert_eq!(clean(text), "bad key ***, token ***, password *** or *** of app");
        assert_eq!(clean("no project 0123456789slash"), "no project ***");
    }

    #[test]
    fn a_password_that_looks_like_a_port_makes_a_url_ambiguous() {
        for url in [
            "postgres://app:47/11@db/x",
            "postgres://app:47?11@db/x",
            "https://app:47#11@host",
            "https://app:47\\11@host",
            "https://app:47/?11@host",
        ] {
            assert!(is_ambiguous(url), "{url}");
        }
        for url in [
            "postgres://app:47%2F11@db:5432/x",
            "postgres://db:5432/x?user=app@server",
            "https://host:8545/v2/key?mail=a@b",
            "https://host/@team/key",
            "https://host",
            "sqlite:a@b.db",
        ] {
            assert!(!is_ambiguous(url), "{url}");
        }
    }

    #[test]
    fn an_error_tells_each_cause_once() {
        let refused = anyhow::anyhow!("refused");
        let error = refused.context("no connection: refused").context("http://host");
        assert_eq!(clean_error(error.as_ref()), "http://host: no connection: refused");
    }

    #[test]
    fn a_text_becomes_one_line() {
        assert_eq!(clean("one\n  two\tthree"), "one two three");
    }
}
