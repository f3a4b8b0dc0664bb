//! Secrets do not reach an output.
//!
//! Of every URL in a text only scheme, host and port are left; and what was taken out of
//! the URLs that the program was given is taken out wherever else it shows. What others say
//! is also one line without control characters, and not long.

mod encoded;
mod printable;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
};

use url::Url;

pub use self::encoded::percent_decoded;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// What begins a URL that may hold a secret.
const SCHEMES: [&str; 6] = ["http", "https", "ws", "wss", "postgres", "postgresql"];

/// Secrets shorter than this would take half of a text with them.
const SHORTEST: usize = 4;

/// Characters of a text that others have written, at most.
const LONGEST: usize = 1_000;

/// Characters of an error with its causes, at most: it may name several endpoints.
const LONGEST_ERROR: usize = 4_000;

/// Bytes of such a text that are searched for secrets, at most.
const BOUND: usize = 64 << 10;

/// What this process was given and must not show.
static SECRETS: Mutex<Vec<Secret>> = Mutex::new(Vec::new());

/// A text to replace, and its replacement.
#[derive(PartialEq, Eq)]
struct Secret {
    text: String,
    shown: String,
}

impl Secret {
    fn masked(text: String) -> Self {
        Self { text, shown: MASK.to_owned() }
    }

    /// The text as it is, on one line, and as it looks between quotes.
    fn spellings(text: &str, shown: &str) -> [Self; 3] {
        [text.to_owned(), one_line(text), text.escape_debug().to_string()]
            .map(|text| Self { text, shown: shown.to_owned() })
    }
}

/// Remembers what a file of secrets holds: each line whole, whether or not it is a URL, and the secrets in it.
pub fn remember_contents(text: &str) {
    for line in text.lines().chain([text]) {
        remember(line);
        let pieces = line.split(',').map(str::trim).filter(|piece| !piece.contains("://"));
        for piece in pieces.filter(|piece| !piece.starts_with("sqlite:")) {
            hide_from_now_on(with_spellings(piece, MASK));
        }
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
    // libpq's list of settings, such as `host=db password='a word'`.
    if let Some((_, password)) = value.split_once("password").filter(|_| !value.contains("://"))
        && let Some(password) = password.trim_start().strip_prefix('=')
    {
        let password = password.trim_start();
        // A quote behind a backslash belongs to the password.
        let unescaped = password.replace("\\'", "\u{0}");
        let value = match unescaped.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next(),
            None => unescaped.split_whitespace().next(),
        };
        let escaped = value.unwrap_or_default().replace('\0', "\\'");
        found.extend(Secret::spellings(password, MASK));
        found.extend(Secret::spellings(&escaped, MASK));
        found.extend(Secret::spellings(&escaped.replace('\\', ""), MASK));
    }
    if found.is_empty() && !value.contains("://") && !value.starts_with("sqlite:") {
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
            found.extend(with_spellings(&secret, MASK));
            found.extend(with_spellings(&percent_decoded(&secret), MASK));
        }
        for credentials in encoded::basic_credentials(url) {
            found.extend(encoded::forms(&credentials).map(Secret::masked));
        }
    }
    hide_from_now_on(found);
}

/// A text and what it looks like when it is encoded.
fn with_spellings(text: &str, shown: &str) -> Vec<Secret> {
    let encoded = encoded::forms(text).map(Secret::masked);
    Secret::spellings(text, shown).into_iter().chain(encoded).collect()
}

/// Adds secrets, the longest first.
fn hide_from_now_on(found: Vec<Secret>) {
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

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text without secrets and control characters, on one line.
pub fn clean(text: &str) -> String {
    // Hidden again, as what stood in a secret may have kept it apart.
    without_urls(&hide(&one_line(&printable::only(&hide(text)))))
}

/// Of a text that others have written, what is fit to be stored and shown: clean, and of at most 1,000 characters.
pub fn excerpt(text: &str) -> String {
    clean_and_cut(text, LONGEST)
}

fn clean_and_cut(text: &str, longest: usize) -> String {
    let bounded = bounded(text);
    let is_cut = bounded.len() < text.len();
    let clean = clean(bounded);
    match clean.char_indices().nth(longest - 1) {
        Some((end, _)) if is_cut || clean[end..].chars().nth(1).is_some() => {
            format!("{}…", &clean[..end])
        }
        _ if is_cut => format!("{clean}…"),
        _ => clean,
    }
}

/// The beginning of a text that is too long to be searched. It ends where no secret and no URL is cut in two.
fn bounded(text: &str) -> &str {
    if text.len() <= BOUND {
        return text;
    }
    let begin = &text[..text.floor_char_boundary(BOUND)];
    // A URL has no blank in it.
    let begin = match begin.rfind(|c: char| c.is_ascii_whitespace()) {
        Some(blank) if begin[blank..].contains("://") => &begin[..blank],
        None if begin.contains("://") => begin.split("://").next().unwrap_or_default(),
        _ => begin,
    };
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let longest_start = |secret: &Secret| {
        let whole = secret.text.as_bytes();
        (1..whole.len()).rev().find(|len| begin.as_bytes().ends_with(&whole[..*len]))
    };
    let started = secrets.iter().filter_map(longest_start).max().unwrap_or(0);
    &begin[..begin.floor_char_boundary(begin.len() - started)]
}

/// An error and its causes as one line without secrets.
pub fn clean_error(error: &(dyn Error + 'static)) -> String {
    clean_and_cut(&with_causes(error), LONGEST_ERROR)
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
