//! Why a request has no answer.

use std::time::Duration;

use thiserror::Error;

use super::{
    endpoint_id::EndpointId,
    json::ErrorObject,
    kind::ErrorKind,
    rules::ErrorSignature,
    transport::{HeaderMap, HttpError, HttpResponse},
};
use crate::{redact, tally::RunError};

/// A request that failed at one endpoint.
#[derive(Debug, Error)]
#[error("{endpoint}: {message}{}{}", .kind.remedy(), also(.elsewhere))]
pub struct NodeError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// Which endpoint failed.
    pub endpoint: EndpointId,
    /// What the node or the connection said, one line.
    pub message: String,
    /// How long the provider asks to wait.
    pub wait: Option<Duration>,
    /// What the connection said below that; `None` if the node answered.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// What failed at other endpoints, each with its name.
    pub elsewhere: Vec<String>,
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
        Self::new(endpoint, ErrorKind::Unreachable, message)
    }

    pub(super) fn new(endpoint: &EndpointId, kind: ErrorKind, message: String) -> Self {
        // Some nodes repeat the key, and a message is also stored and printed as a reason.
        let message = redact::clean(&message);
        Self {
            kind,
            endpoint: endpoint.clone(),
            message,
            wait: None,
            cause: None,
            elsewhere: Vec::new(),
        }
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
            HttpError::NoConnection { cause } | HttpError::Broken { cause } => Some(cause.into()),
            HttpError::TimedOut | HttpError::TooLong(_) => None,
        };
        Self { cause, ..Self::new(endpoint, kind, message) }
    }

    /// `endpoint` answered with an HTTP error, and perhaps with an error of its own in the body.
    pub(super) fn of_response(endpoint: &EndpointId, response: &HttpResponse) -> Self {
        let HttpResponse { status, headers, body } = response;
        if let Some(error) = ErrorObject::in_body(body) {
            return Self::of_error_object(endpoint, *status, headers, &error);
        }
        let text = String::from_utf8_lossy(body);
        let signature = ErrorSignature { status: Some(*status), code: None, text: &text };
        Self {
            wait: retry_after(headers),
            ..Self::new(endpoint, signature.kind(), format!("HTTP {status}{}", excerpt(&text)))
        }
    }

    /// `endpoint` answered with an error.
    pub(super) fn of_error_object(
        endpoint: &EndpointId,
        status: u16,
        headers: &HeaderMap,
        error: &ErrorObject,
    ) -> Self {
        let ErrorObject { code, message, data } = error;
        let data = data.as_ref().map(ToString::to_string).unwrap_or_default();
        let text = format!("{message} {data}");
        let status = Some(status).filter(|status| !(200..300).contains(status));
        let signature = ErrorSignature { status, code: *code, text: &text };
        let shown = match code {
            Some(code) => format!("error {code}: {message}"),
            None => format!("error: {message}"),
        };
        Self {
            wait: retry_after(headers).or_else(|| asked_wait(message)),
            ..Self::new(endpoint, signature.kind(), shown)
        }
    }
}

/// What failed at other endpoints, as the end of an error.
fn also(elsewhere: &[String]) -> String {
    elsewhere.iter().map(|other| format!("; and {other}")).collect()
}

/// The beginning of a body, for an error of one line.
pub(super) fn excerpt(body: &str) -> String {
    const LENGTH: usize = 160;
    // First of all: of a secret that is cut in two nobody would know.
    let words = redact::clean(body);
    match words.char_indices().nth(LENGTH) {
        _ if words.is_empty() => String::new(),
        Some((end, _)) => format!(": {}…", &words[..end]),
        None => format!(": {words}"),
    }
}

/// The seconds that `Retry-After` asks for.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("retry-after")?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// The wait in a message such as "rate limited, try again in 4ms".
fn asked_wait(message: &str) -> Option<Duration> {
    let (_, rest) = message.split_once("try again in ")?;
    let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = rest.split_at(number_end);
    let letters = unit.trim_start().chars().take_while(char::is_ascii_alphabetic);
    let seconds = match letters.collect::<String>().as_str() {
        "ms" | "milliseconds" => 0.001,
        "s" | "sec" | "second" | "seconds" => 1.0,
        "m" | "min" | "minute" | "minutes" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_that_a_message_asks_for_is_read() {
        for (message, wait) in [
            ("rate limited, try again in 4ms", Some(Duration::from_millis(4))),
            ("try again in 1.5s", Some(Duration::from_millis(1500))),
            ("try again in 2 minutes", Some(Duration::from_secs(120))),
            ("try again in a while", None),
            ("try again later", None),
        ] {
            assert_eq!(asked_wait(message), wait, "{message}");
        }
    }

    #[test]
    fn an_error_object_in_an_http_error_is_read_with_its_status() {
        let body = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"busy"}}"#.to_vec();
        let headers = HeaderMap::from_iter([("retry-after".parse().unwrap(), 7.into())]);
        let failure = NodeError::of_response(
            &EndpointId::labelled("https://host"),
            &HttpResponse { status: 429, headers, body },
        );
        assert_eq!(failure.kind, ErrorKind::RateLimited);
        assert_eq!(failure.wait, Some(Duration::from_secs(7)));
        assert_eq!(failure.message, "error -32000: busy");
    }
}
