//! What a node's failure means, and what to do about it.
//!
//! How each provider words its failures is in `quirks`.

use std::time::Duration;

use alloy::{
    rpc::json_rpc::{ErrorPayload, RpcError},
    transports::{TransportError, TransportErrorKind},
};
use thiserror::Error;

use super::{http::HttpFailure, quirks::Symptoms};
use crate::{redact, tally::Stopped};

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The provider wants fewer requests a second.
    SlowDown,
    /// The plan's quota is used up.
    QuotaGone,
    /// The endpoint refuses us: a bad key, a wrong path, a method it does not serve.
    Refused,
    /// One request asked for too much: gas, bytes, time or blocks.
    TooMuch,
    /// The call reverted as a whole.
    Reverted,
    /// The node does not have the block or its state.
    Behind,
    /// No answer, or one that makes no sense.
    Transport,
    /// An answer was begun or waited for, and cut off.
    CutOff,
    /// An error that the table does not know.
    Unknown,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait, then ask again.
    Retry,
    /// Ask the next endpoint; this one again after a pause.
    NextEndpoint,
    /// Ask for less in one request.
    Split,
    /// Never ask this endpoint again; with no other left, stop.
    Stop,
}

impl Class {
    /// What to do about a failure of this class.
    pub const fn action(self) -> Action {
        match self {
            Self::SlowDown => Action::Retry,
            Self::Behind | Self::Transport | Self::CutOff | Self::Unknown => Action::NextEndpoint,
            Self::TooMuch | Self::Reverted => Action::Split,
            Self::QuotaGone | Self::Refused => Action::Stop,
        }
    }

    /// What an operator can do about it.
    const fn remedy(self) -> &'static str {
        match self {
            Self::SlowDown => "; lower --rps or --concurrency, or raise --retries",
            Self::QuotaGone => "; the plan's quota is used up: raise it or give another --rpc-url",
            Self::Refused => "; check the URL and its key",
            Self::Behind => {
                "; the node lacks that block or its state: give --block, or another --rpc-url"
            }
            Self::Transport => "; check that the node is up, or give a second --rpc-url",
            Self::CutOff => "; lower --chunk, raise --timeout, or give a second --rpc-url",
            Self::TooMuch => "; lower --chunk",
            Self::Reverted | Self::Unknown => "",
        }
    }
}

/// A request that failed at one endpoint.
#[derive(Debug, Error)]
#[error("{endpoint}: {message}{}", .class.remedy())]
pub struct Failure {
    /// What kind of failure it is.
    pub class: Class,
    /// Scheme and host of the endpoint.
    pub endpoint: String,
    /// What the node or the connection said, one line.
    pub message: String,
    /// How long the provider asks to wait.
    pub pause: Option<Duration>,
    /// What the connection said below that.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// An answer of `endpoint` that makes no sense.
    pub(super) fn nonsense(endpoint: &str, message: String) -> Self {
        Self::new(endpoint, Class::Transport, message)
    }

    pub(super) fn new(endpoint: &str, class: Class, message: String) -> Self {
        // Some nodes repeat the key, and a message is also stored and printed as a reason.
        let message = redact::clean(&message);
        Self { class, endpoint: endpoint.to_owned(), message, pause: None, cause: None }
    }

    /// Whether it is but a stop that was asked for.
    pub fn is_stop(&self) -> bool {
        self.cause.as_ref().is_some_and(|cause| cause.is::<Stopped>())
    }

    /// Classifies what alloy reports of a request to `endpoint`.
    pub(super) fn of(endpoint: &str, error: TransportError) -> Self {
        match error {
            RpcError::ErrorResp(payload) => Self::of_error_object(endpoint, None, &payload),
            RpcError::Transport(TransportErrorKind::Custom(error)) => {
                match error.downcast::<HttpFailure>() {
                    Ok(failure) => Self::of_http(endpoint, *failure),
                    Err(error) => Self::nonsense(endpoint, error.to_string()),
                }
            }
            RpcError::DeserError { err, .. } => {
                Self::nonsense(endpoint, format!("the answer is not of the expected form: {err}"))
            }
            RpcError::NullResp => Self::nonsense(endpoint, "the answer is null".into()),
            error => Self::nonsense(endpoint, error.to_string()),
        }
    }

    fn of_http(endpoint: &str, failure: HttpFailure) -> Self {
        let message = failure.to_string();
        match failure {
            HttpFailure::Status { status, retry_after, body } => {
                let mut failure = match error_object(&body) {
                    Some(payload) => {
                        Self::of_error_object(endpoint, Some(status.as_u16()), &payload)
                    }
                    None => {
                        let symptoms =
                            Symptoms { status: Some(status.as_u16()), code: None, text: &body };
                        Self::new(endpoint, symptoms.class(), message)
                    }
                };
                failure.pause = retry_after.or(failure.pause);
                failure
            }
            HttpFailure::NoAnswer { source, .. } => {
                let class = if source.is_connect() { Class::Transport } else { Class::CutOff };
                Self {
                    // What lies between says but "client error".
                    cause: Some(anyhow::Error::from(source).root_cause().to_string().into()),
                    ..Self::new(endpoint, class, message)
                }
            }
            HttpFailure::Garbled { .. } => Self::nonsense(endpoint, message),
        }
    }

    fn of_error_object(endpoint: &str, status: Option<u16>, payload: &ErrorPayload) -> Self {
        let data = payload.data.as_ref().map_or("", |data| data.get());
        let text = format!("{} {data}", payload.message);
        let symptoms = Symptoms { status, code: Some(payload.code), text: &text };
        Self {
            pause: asked_pause(&payload.message),
            ..Self::new(
                endpoint,
                symptoms.class(),
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

/// The pause in a message such as "rate limited, try again in 4ms".
fn asked_pause(message: &str) -> Option<Duration> {
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
    fn the_pause_that_a_message_asks_for_is_heard() {
        for (message, pause) in [
            ("rate limited, try again in 4ms", Some(Duration::from_millis(4))),
            ("try again in 1.5s", Some(Duration::from_millis(1500))),
            ("try again in 2 minutes", Some(Duration::from_secs(120))),
            ("try again in a while", None),
            ("try again later", None),
        ] {
            assert_eq!(asked_pause(message), pause, "{message}");
        }
    }

    #[test]
    fn an_error_object_in_an_http_error_is_read_with_its_status() {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let body =
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"busy"}}"#.to_owned();
        let retry_after = Some(Duration::from_secs(7));
        let failure =
            Failure::of_http("https://host", HttpFailure::Status { status, retry_after, body });
        assert_eq!(failure.class, Class::SlowDown);
        assert_eq!(failure.pause, retry_after);
        assert_eq!(failure.message, "error -32000: busy");
    }
}
