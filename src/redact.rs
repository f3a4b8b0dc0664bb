//! Secrets do not reach an output.
//!
//! Of every URL in a text only scheme, host and port are left; and what was taken out of
//! the URLs that the program was given is taken out wherever else it shows.

use std::sync::{Mutex, PoisonError};

use url::Url;

/// Passwords and keys of the URLs that this process was given.
static SECRETS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What stands in the place of a secret.
const MASK: &str = "***";

/// Looks for URLs in a command-line argument or a variable, and remembers the secrets in them.
///
/// Done before anything is parsed, so that not even a usage error can show one.
pub fn remember(text: &str) {
    let mut secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let value = match text.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => value,
        _ => text,
    };
    // A comma stands between URLs, or in a password.
    for url in value.split(',').chain([value]).filter(|url| url.contains("://")) {
        secrets.extend(secrets_of(url.trim()));
    }
    // A secret may hold another one: the longest goes first.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.dedup();
}

/// The parts of a URL that are worth hiding on their own: a password, and keys in path or query.
fn secrets_of(text: &str) -> Vec<String> {
    let Ok(url) = Url::parse(text) else {
        // Not a URL after all, such as one with a bare `/` in its password: hide it whole.
        return vec![text.to_owned()];
    };
    let looks_like_a_key = |text: &&str| {
        text.len() >= 16 || text.len() >= 8 && text.bytes().any(|byte| byte.is_ascii_digit())
    };
    let public = |text: &str| text == url.username() || Some(text) == url.host_str();
    let password = url.password().filter(|password| password.len() >= 4 && !public(password));
    let is_database = matches!(url.scheme(), "postgres" | "postgresql" | "sqlite");
    let keys = (url.path().split('/').filter(|_| !is_database)).filter(looks_like_a_key);
    let user = Some(url.username()).filter(|_| !is_database);
    let mut secrets: Vec<String> = (password.into_iter().chain(keys))
        .chain(user.filter(looks_like_a_key))
        .map(str::to_owned)
        .collect();
    secrets.extend(
        url.query_pairs()
            .map(|(_, value)| value.into_owned())
            .filter(|value| looks_like_a_key(&value.as_str())),
    );
    let decoded: Vec<_> = secrets.iter().filter_map(|secret| percent_decoded(secret)).collect();
    secrets.extend(decoded);
    secrets
}

/// The text without its percent-encoding, where it has one.
fn percent_decoded(text: &str) -> Option<String> {
    let encoded = format!("key={text}");
    let (_, value) = url::form_urlencoded::parse(encoded.as_bytes()).next()?;
    (value != text).then(|| value.into_owned())
}

/// The text without secrets, on one line.
pub fn clean(text: &str) -> String {
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for secret in SECRETS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        text = text.replace(secret.as_str(), MASK);
    }
    without_urls(&text)
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
        let text =
            "bad key abcdef0123456789, token zyxwvu987654, password s3cr/et or s3cr%2Fet of app";
        assert_eq!(clean(text), "bad key ***, token ***, password *** or *** of app");
    }

    #[test]
    fn a_text_becomes_one_line() {
        assert_eq!(clean("one\n  two\tthree"), "one two three");
    }
}
