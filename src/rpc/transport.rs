//! One HTTP POST to one endpoint, as alloy's transport.
//!
//! alloy's own HTTP transport drops the status and `Retry-After` of an error whose body
//! is JSON-RPC; this one keeps everything that a failure is classified by.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use alloy::{
    rpc::json_rpc::{RequestPacket, ResponsePacket},
    transports::{TransportError, TransportErrorKind, TransportFut},
};
use reqwest::{Client, StatusCode, header};
use thiserror::Error;
use tokio_util::task::AbortOnDropHandle;
use tower_service::Service;
use url::Url;

use crate::redact;

/// Which endpoint: its place in the list, and all of its URL that may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId {
    index: usize,
    label: Arc<str>,
}

/// Scheme, host and port.
impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl EndpointId {
    pub(super) fn new(index: usize, url: &Url) -> Self {
        Self { index, label: url.origin().ascii_serialization().into() }
    }

    #[cfg(test)]
    pub(super) fn labelled(label: &str) -> Self {
        Self { index: 0, label: label.into() }
    }

    /// Its place in the list of endpoints.
    pub(super) const fn index(&self) -> usize {
        self.index
    }
}

/// Posts JSON-RPC requests to one URL.
#[derive(Clone)]
pub(super) struct HttpPost {
    client: Client,
    url: Url,
}

/// Why a POST failed. Never holds the URL, which may hold a key.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    /// The server answered with an error status.
    #[error("HTTP {status}{}", excerpt(.body))]
    Status {
        /// The status.
        status: StatusCode,
        /// The seconds that `Retry-After` asks for.
        retry_after: Option<Duration>,
        /// The body.
        body: String,
    },
    /// No whole answer came.
    #[error("{what}")]
    NoAnswer {
        /// What happened, one phrase.
        what: &'static str,
        /// The HTTP client's error, without the URL.
        source: reqwest::Error,
    },
    /// The answer is not JSON-RPC.
    #[error("the answer is not JSON-RPC: {error}{}", excerpt(.body))]
    Garbled {
        /// What does not fit.
        error: serde_json::Error,
        /// The body.
        body: String,
    },
}

/// The beginning of a body, for an error of one line.
fn excerpt(body: &str) -> String {
    const LENGTH: usize = 160;
    // First of all: of a secret that is cut in two nobody would know.
    let words = redact::clean(body);
    match words.char_indices().nth(LENGTH) {
        _ if words.is_empty() => String::new(),
        Some((end, _)) => format!(": {}…", &words[..end]),
        None => format!(": {words}"),
    }
}

impl HttpPost {
    pub(super) const fn new(client: Client, url: Url) -> Self {
        Self { client, url }
    }

    async fn post(self, request: RequestPacket) -> Result<ResponsePacket, HttpError> {
        let body = serde_json::to_vec(&request)
            .map_err(|error| HttpError::Garbled { error, body: String::new() })?;
        let sent = self.client.post(self.url).header(header::CONTENT_TYPE, "application/json");
        let response = sent.body(body).send().await.map_err(HttpError::no_answer)?;
        let status = response.status();
        let retry_after = (response.headers().get(header::RETRY_AFTER))
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let body = response.bytes().await.map_err(HttpError::no_answer)?;
        if !status.is_success() {
            let body = String::from_utf8_lossy(&body).into_owned();
            return Err(HttpError::Status { status, retry_after, body });
        }
        serde_json::from_slice(&body).map_err(|error| HttpError::Garbled {
            error,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

impl HttpError {
    fn no_answer(error: reqwest::Error) -> Self {
        let what = if error.is_timeout() {
            "no answer within --timeout"
        } else if error.is_connect() {
            "no connection"
        } else {
            "the connection broke"
        };
        Self::NoAnswer { what, source: error.without_url() }
    }
}

impl fmt::Debug for HttpPost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPost").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl Service<RequestPacket> for HttpPost {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        // A task of its own: whoever waits for it may be held up meanwhile, by a database for one, and
        // an answer that has come is not to be taken for a late one.
        let post = AbortOnDropHandle::new(tokio::spawn(self.clone().post(request)));
        Box::pin(async {
            let posted = post.await.map_err(TransportErrorKind::custom)?;
            posted.map_err(TransportErrorKind::custom)
        })
    }
}
