//! Why a request has no answer.

use std::time::Duration;

use alloy::{
    rpc::json_rpc::{ErrorPayload, RpcError},
    transports::{TransportError, TransportErrorKind},
};
use thiserror::Error;

use super::{
    kind::ErrorKind,
    rules::ErrorSignature,
    transport::{EndpointId, HttpError},
};
use crate::{redact, tally::RunError};

/// A request that failed at one endpoint.
#[derive(Debug, Error)]
#[error("{endpoint}: {message}{}", .kind.remedy())]
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
    pub(super) const fn settings(message: String) -> Self {
        Self::Settings(message)
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
        Self { kind, endpoint: endpoint.clone(), message, wait: None, cause: None }
    }

    /// Classifies what alloy reports of a request to `endpoint`.
    pub(crate) fn of(endpoint: &EndpointId, error: TransportError) -> Self {
        match error {
            RpcError::ErrorResp(payload) => Self::of_error_object(endpoint, None, &payload),
            RpcError::Transport(TransportErrorKind::Custom(error)) => {
                match error.downcast::<HttpError>() {
                    Ok(failure) => Self::of_http(endpoint, *failure),
                    Err(error) => Self::malformed(endpoint, error.to_string()),
                }
            }
            RpcError::DeserError { err, .. } => {
                Self::malformed(endpoint, format!("the answer is not of the expected form: {err}"))
            }
            RpcError::NullResp => Self::malformed(endpoint, "the answer is null".into()),
            error => Self::malformed(endpoint, error.to_string()),
        }
    }

    fn of_http(endpoint: &EndpointId, failure: HttpError) -> Self {
        let message = failure.to_string();
        match failure {
            HttpError::Status { status, retry_after, body } => {
                let mut failure = match error_object(&body) {
                    Some(payload) => {
                        Self::of_error_object(endpoint, Some(status.as_u16()), &payload)
                    }
                    None => {
                        let signature = ErrorSignature {
                            status: Some(status.as_u16()),
                            code: None,
                            text: &body,
                        };
                        Self::new(endpoint, signature.kind(), message)
                    }
                };
                failure.wait = retry_after.or(failure.wait);
                failure
            }
            HttpError::NoAnswer { source, .. } => {
                let kind =
                    if source.is_connect() { ErrorKind::Unreachable } else { ErrorKind::TimedOut };
                Self {
                    // The errors in between only say "client error".
                    cause: Some(anyhow::Error::from(source).root_cause().to_string().into()),
                    ..Self::new(endpoint, kind, message)
                }
            }
            HttpError::Garbled { .. } => Self::malformed(endpoint, message),
        }
    }

    fn of_error_object(endpoint: &EndpointId, status: Option<u16>, payload: &ErrorPayload) -> Self {
        let data = payload.data.as_ref().map_or("", |data| data.get());
        let text = format!("{} {data}", payload.message);
        let signature = ErrorSignature { status, code: Some(payload.code), text: &text };
        Self {
            wait: asked_wait(&payload.message),
            ..Self::new(
                endpoint,
                signature.kind(),
                format!("error {}: {}", payload.code, payload.message),
            )
        }
    }
}

/// The JSON-RPC error in the body of an HTTP error, if there is one.
fn error_object(body: &str) -> Option<ErrorPayload> {
    #[derive(serde::Deserialize)]
    struct Envelope {
        error: ErrorPayload,
    }
    serde_json::from_str::<Envelope>(body).ok().map(|envelope| envelope.error)
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
    use reqwest::StatusCode;

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
        let status = StatusCode::TOO_MANY_REQUESTS;
        let body =
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"busy"}}"#.to_owned();
        let retry_after = Some(Duration::from_secs(7));
        let failure = NodeError::of_http(
            &EndpointId::labelled("https://host"),
            HttpError::Status { status, retry_after, body },
        );
        assert_eq!(failure.kind, ErrorKind::RateLimited);
        assert_eq!(failure.wait, retry_after);
        assert_eq!(failure.message, "error -32000: busy");
    }
}
