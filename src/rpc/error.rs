//! Why a request has no answer.

#[cfg(test)]
mod tests;

use std::{sync::LazyLock, time::Duration};

use chrono::Utc;
use regex::Regex;
use reqwest::StatusCode;
use thiserror::Error;
use url::Url;

use super::{
    endpoint_id::EndpointId,
    json::ErrorObject,
    kind::ErrorKind,
    rules::{Decision, ErrorSignature},
    transport::{HeaderMap, HttpError, HttpResponse},
    wait,
};
use crate::{redact, tally::RunError};

/// The longest wait that is not worth a word: a longer one is told.
const SHORT_WAIT: Duration = Duration::from_secs(120);

/// A request that failed at one endpoint.
#[derive(Debug, Error)]
#[error(
    "{endpoint}: {message}{}{}{}",
    long_wait(*.wait),
    .remedy.unwrap_or(.kind.remedy()),
    also(.elsewhere)
)]
pub struct NodeError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// Which endpoint failed.
    pub endpoint: EndpointId,
    /// What the node or the connection said: one line of at most 1,000 characters, without control characters.
    pub message: String,
    /// How long the provider asks to wait.
    pub wait: Option<Duration>,
    /// What the connection said below that; `None` if the node answered.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// What failed at other endpoints, each with its name.
    pub elsewhere: Box<[String]>,
    /// False if only a vague word, a code that is used for several things, or nothing at all has decided the kind.
    is_certain: bool,
    /// True if the node says that it no longer has the state of the block.
    is_pruned: bool,
    /// What an operator can do about it, where that is not the usual remedy of its kind.
    remedy: Option<&'static str>,
}

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum RequestError {
    /// It failed, at every endpoint or with every retry.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Every endpoint was given up; for these reasons.
    #[error("no endpoint is left: {0}")]
    NoEndpoint(String),
    /// An endpoint does not fit the settings: it is of another chain, or a contract has no code.
    #[error("{0}")]
    Settings(String),
    /// A shutdown came first; the text says what was waited for.
    #[error("{0}")]
    Stopped(String),
}

impl RequestError {
    /// A shutdown came before it was done.
    pub(crate) fn stopped() -> Self {
        Self::Stopped("stopped before it was done".to_owned())
    }

    /// True if the node failed in this way.
    pub fn is(&self, kind: ErrorKind) -> bool {
        matches!(self, Self::Node(failure) if failure.kind == kind)
    }
}

impl From<RequestError> for RunError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Node(failure) => Self::Node(failure.into()),
            RequestError::NoEndpoint(_) => Self::node(error),
            RequestError::Settings(message) => Self::settings(message),
            RequestError::Stopped(waited) => Self::Stopped(waited),
        }
    }
}

impl NodeError {
    /// An answer of `endpoint` that makes no sense.
    pub(super) fn malformed(endpoint: &EndpointId, message: String) -> Self {
        Self { is_certain: false, ..Self::new(endpoint, ErrorKind::Unreachable, message) }
    }

    pub(super) fn new(endpoint: &EndpointId, kind: ErrorKind, message: String) -> Self {
        // Some nodes repeat the key, and a message is also stored and printed as a reason.
        let message = redact::excerpt(&message);
        let endpoint = endpoint.clone();
        let is_certain = kind != ErrorKind::Unknown;
        let (wait, cause, remedy, is_pruned) = (None, None, None, false);
        let elsewhere = Box::default();
        Self { kind, endpoint, message, wait, cause, elsewhere, is_certain, is_pruned, remedy }
    }

    /// The same with this remedy instead of the usual one of its kind; it begins with `; `.
    pub(super) fn with_remedy(self, remedy: &'static str) -> Self {
        Self { remedy: Some(remedy), ..self }
    }

    /// True if it has another remedy than the usual one of its kind.
    pub(super) const fn has_remedy(&self) -> bool {
        self.remedy.is_some()
    }

    /// True if the endpoint answered or let us wait in vain, so that asking for less may help; false if it is down, or
    /// has refused us, or lacks the block.
    pub const fn is_answer(&self) -> bool {
        match self.kind {
            ErrorKind::Refused | ErrorKind::QuotaExhausted | ErrorKind::BlockReplaced => false,
            ErrorKind::Unreachable => self.cause.is_none(),
            // A vague answer may be meant otherwise.
            ErrorKind::RateLimited | ErrorKind::BlockUnavailable => self.is_ambiguous(),
            ErrorKind::TooLarge
            | ErrorKind::Reverted
            | ErrorKind::TimedOut
            | ErrorKind::NotUnderstood
            | ErrorKind::Unknown => true,
        }
    }

    /// True if the endpoint let us wait in vain.
    pub const fn is_silent(&self) -> bool {
        matches!(self.kind, ErrorKind::TimedOut) && self.cause.is_none()
    }

    /// True if the failure may be of another kind than it seems, so that a caller may hold it against evidence.
    pub const fn is_ambiguous(&self) -> bool {
        !self.is_certain
    }

    /// True if the node says that it no longer has the state of the block, so that asking it again is of no use.
    pub const fn is_pruned(&self) -> bool {
        self.is_pruned
    }

    /// How long the provider asks to wait, in words.
    pub fn asked_wait_text(&self) -> Option<String> {
        self.wait.map(wait::in_words)
    }

    /// No whole response came from `endpoint`.
    pub(super) fn of_http(endpoint: &EndpointId, error: HttpError) -> Self {
        let kind = match error {
            HttpError::NoConnection { .. } => ErrorKind::Unreachable,
            HttpError::Broken { .. } | HttpError::TimedOut => ErrorKind::TimedOut,
            HttpError::TooLong(_) => ErrorKind::TooLarge,
        };
        let message = error.to_string();
        let cause = match error {
            HttpError::NoConnection { cause } | HttpError::Broken { cause } => {
                Some(redact::excerpt(&cause))
            }
            HttpError::TimedOut | HttpError::TooLong(_) => None,
        };
        let remedy = cause.as_deref().and_then(remedy_for_tls);
        let remedy = remedy.or_else(|| {
            let is_broken = kind == ErrorKind::TimedOut && cause.is_some();
            is_broken.then_some("; check the node and the network, or give a second --rpc-url")
        });
        let cause = cause.map(Into::into);
        // A response that ends early, or never comes, may have been too large.
        let is_certain = kind != ErrorKind::TimedOut;
        Self { cause, remedy, is_certain, ..Self::new(endpoint, kind, message) }
    }

    /// `endpoint` answered with an HTTP error, and perhaps with an error of its own in the body.
    pub(super) fn of_response(endpoint: &EndpointId, response: &HttpResponse) -> Self {
        let HttpResponse { status, headers, body } = response;
        if let Some(failure) = Self::of_redirect(endpoint, *status, headers) {
            return failure;
        }
        if let Some(error) = ErrorObject::in_body(body) {
            return Self::of_error_object(endpoint, *status, headers, &error);
        }
        let text = String::from_utf8_lossy(&body[..body.len().min(LONGEST_PAGE)]);
        let signature =
            ErrorSignature { status: Some(*status), message: &text, ..ErrorSignature::default() };
        let shown = format!("{}{}", status_line(*status), beyond(*status, &excerpt(&text)));
        Self::decided(endpoint, &signature, headers, shown)
    }

    /// `endpoint` answered with an error.
    pub(super) fn of_error_object(
        endpoint: &EndpointId,
        status: u16,
        headers: &HeaderMap,
        error: &ErrorObject,
    ) -> Self {
        let ErrorObject { code, message, data } = error;
        let status = Some(status).filter(|status| !(200..300).contains(status));
        let data = data.as_ref();
        let signature = ErrorSignature { status, code: *code, message, data, is_own: true };
        let line = |status| format!("{}: ", status_line(status));
        let status = status.map(line).unwrap_or_default();
        let shown = match code {
            Some(code) => format!("{status}error {code}: {message}"),
            None => format!("{status}error: {message}"),
        };
        Self::decided(endpoint, &signature, headers, shown)
    }

    fn decided(
        endpoint: &EndpointId,
        signature: &ErrorSignature<'_>,
        headers: &HeaderMap,
        shown: String,
    ) -> Self {
        let Decision { kind, is_certain, is_pruned, .. } = signature.decide();
        let is_about_rate =
            kind == ErrorKind::RateLimited || matches!(signature.status, Some(429 | 503));
        let asked = || wait::asked(headers, signature.data, signature.message, Utc::now());
        let remedy = match (kind, signature.status) {
            _ if is_pruned => Some(
                "; the node has pruned the state of that block: use an archive node or a newer --block",
            ),
            (ErrorKind::Unreachable, None) => Some(
                "; the node answers with an error of its own: see its log, or give a second --rpc-url",
            ),
            (ErrorKind::TimedOut, Some(_)) => {
                Some("; the gateway has given up: lower --chunk, or give a second --rpc-url")
            }
            (ErrorKind::RateLimited, _) if !is_certain => {
                Some("; a limit of the provider was reached")
            }
            (ErrorKind::BlockUnavailable, _) if !is_certain => {
                Some("; the node may lack that block or its state")
            }
            _ => None,
        };
        let wait = is_about_rate.then(asked).flatten();
        Self { wait, is_certain, is_pruned, remedy, ..Self::new(endpoint, kind, shown) }
    }

    /// `endpoint` answered with a redirect. None is followed: it would take the key, and the totals, elsewhere.
    fn of_redirect(endpoint: &EndpointId, status: u16, headers: &HeaderMap) -> Option<Self> {
        if !(300..400).contains(&status) {
            return None;
        }
        let here = Url::parse(&endpoint.to_string()).ok();
        let target = headers.get("location").and_then(|location| {
            let location = location.to_str().ok()?;
            match &here {
                Some(here) => here.join(location).ok(),
                None => Url::parse(location).ok(),
            }
        });
        let target = target.as_ref().filter(|target| target.has_host()).map(Url::origin);
        let (message, remedy) = match target {
            None => (
                format!("HTTP {status}: redirects elsewhere, which is not followed"),
                "; check the URL",
            ),
            Some(target) if here.is_some_and(|here| here.origin() == target) => (
                format!("HTTP {status}: redirects to another path, which is not followed"),
                "; check the path of the URL",
            ),
            Some(target) => {
                let target = target.ascii_serialization();
                (
                    format!("HTTP {status}: redirects to {target}, which is not followed"),
                    "; give that endpoint as --rpc-url",
                )
            }
        };
        let remedy = Some(remedy);
        // A gateway may redirect one request of many.
        Some(Self { remedy, ..Self::new(endpoint, ErrorKind::Unreachable, message) })
    }
}

/// "HTTP 401 Unauthorized".
fn status_line(status: u16) -> String {
    match reason_phrase(status) {
        Some(phrase) => format!("HTTP {status} {phrase}"),
        None => format!("HTTP {status}"),
    }
}

fn reason_phrase(status: u16) -> Option<&'static str> {
    StatusCode::from_u16(status).ok()?.canonical_reason()
}

/// The beginning of a body, unless it only repeats the status.
fn beyond(status: u16, excerpt: &str) -> &str {
    let said = excerpt.trim_start_matches([':', ' ']).trim_start_matches(&*status.to_string());
    if reason_phrase(status) == Some(said.trim()) { "" } else { excerpt }
}

/// What failed at other endpoints, as the end of an error.
fn also(elsewhere: &[String]) -> String {
    elsewhere.iter().map(|other| format!("; and {other}")).collect()
}

/// A wait that is too long to be waited, as part of an error.
fn long_wait(wait: Option<Duration>) -> String {
    let long = wait.filter(|wait| *wait > SHORT_WAIT);
    long.map_or_else(String::new, |wait| format!("; it asks to wait {}", wait::in_words(wait)))
}

/// What helps where no secure connection could be made.
fn remedy_for_tls(cause: &str) -> Option<&'static str> {
    if cause.contains("certificate") {
        return Some(
            "; its certificate is not trusted here: install CA certificates, or set SSL_CERT_FILE",
        );
    }
    let is_no_tls = cause.contains("InvalidContentType") || cause.contains("corrupt message");
    is_no_tls.then_some("; it does not speak TLS: give an http:// URL, or another port")
}

/// Bytes of a page that are looked at.
const LONGEST_PAGE: usize = 64 << 10;

/// The beginning of a body, for an error of one line.
pub(super) fn excerpt(body: &str) -> String {
    const LENGTH: usize = 160;
    static MARKUP: LazyLock<Regex> = LazyLock::new(|| {
        let hidden = "(?s)<script.*?</script>|<style.*?</style>|<!--.*?-->";
        Regex::new(&format!("{hidden}|<[!/a-zA-Z][^>]*>")).expect("a valid pattern")
    });
    // First of all: of a secret that is cut in two nobody would know.
    let words = redact::excerpt(body);
    let text = redact::excerpt(&MARKUP.replace_all(&words, " "));
    let words = if text.is_empty() { words } else { text };
    match words.char_indices().nth(LENGTH) {
        _ if words.is_empty() => String::new(),
        Some((end, _)) => format!(": {}…", &words[..end]),
        None => format!(": {words}"),
    }
}
