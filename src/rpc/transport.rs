//! One HTTP POST to one endpoint: bytes out, bytes in. Knows no JSON-RPC.

use std::fmt;

use anyhow::Context;
use async_trait::async_trait;
use reqwest::{Client, header, redirect};
use thiserror::Error;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

pub use reqwest::header::HeaderMap;

/// What requests to one endpoint go through.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Posts a JSON body, and returns the response whatever its status. The caller ends a wait that is too long.
    ///
    /// # Errors
    /// If no whole response comes, or one of more than `limit` bytes.
    async fn post(&self, body: Vec<u8>, limit: usize) -> Result<HttpResponse, HttpError>;
}

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a request got no complete response. Never contains the URL, which may contain a key.
#[derive(Clone, Debug, Error)]
pub enum HttpError {
    /// No connection could be made.
    #[error("no connection")]
    NoConnection {
        /// What the connection said.
        cause: String,
    },
    /// The connection ended before the response did.
    #[error("the connection broke")]
    Broken {
        /// What the connection said.
        cause: String,
    },
    /// Nothing came in time.
    #[error("no answer within --timeout")]
    TimedOut,
    /// The response is longer than the limit in bytes.
    #[error("the response is longer than {0} bytes")]
    TooLong(usize),
}

/// Posts to a URL over HTTP.
#[derive(Clone)]
pub(super) struct HttpTransport {
    client: Client,
    url: Url,
}

impl HttpTransport {
    /// One for each URL; they share their connections.
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub(super) fn of_each(urls: &[Url]) -> anyhow::Result<Vec<Self>> {
        // Fails only where a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            Client::builder()
                // A redirect would send the key, and take totals, elsewhere.
                .redirect(redirect::Policy::none())
                .user_agent(concat!("ethtally/", env!("CARGO_PKG_VERSION")))
        };
        // Where no CA certificates are installed, only endpoints with https:// are out of reach.
        let without_roots = |_| builder().tls_certs_only([]).build();
        let client = builder().build().or_else(without_roots).context("no HTTP client")?;
        Ok(urls.iter().map(|url| Self { client: client.clone(), url: url.clone() }).collect())
    }

    async fn send(self, body: Vec<u8>, limit: usize) -> Result<HttpResponse, HttpError> {
        let request = self.client.post(self.url).header(header::CONTENT_TYPE, "application/json");
        let mut response = request.body(body).send().await.map_err(HttpError::of)?;
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(HttpError::of)? {
            if body.len() + piece.len() > limit {
                return Err(HttpError::TooLong(limit));
            }
            body.extend_from_slice(&piece);
        }
        Ok(HttpResponse { status, headers, body })
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn post(&self, body: Vec<u8>, limit: usize) -> Result<HttpResponse, HttpError> {
        // A task of its own: whoever waits for it may be held up meanwhile, by a database for one, and a response
        // that has come is not to be taken for a late one.
        let sent = AbortOnDropHandle::new(tokio::spawn(self.clone().send(body, limit)));
        sent.await.unwrap_or_else(|error| Err(HttpError::Broken { cause: error.to_string() }))
    }
}

impl HttpError {
    fn of(error: reqwest::Error) -> Self {
        let is_connect = error.is_connect();
        // The errors in between only say "client error".
        let cause = anyhow::Error::from(error.without_url()).root_cause().to_string();
        if is_connect { Self::NoConnection { cause } } else { Self::Broken { cause } }
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}
