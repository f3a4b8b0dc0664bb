//! One HTTP POST to one endpoint: bytes out, bytes in. Knows no JSON-RPC.

use std::{
    fmt,
    io::{Read, Write},
};

use anyhow::Context;
use async_trait::async_trait;
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
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

    /// The same with the body compressed by gzip, where the transport can do that.
    ///
    /// # Errors
    /// As [`Transport::post`].
    async fn post_compressed(
        &self,
        body: Vec<u8>,
        limit: usize,
    ) -> Result<HttpResponse, HttpError> {
        self.post(body, limit).await
    }
}

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, decompressed.
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// True if the server has compressed the body, or says that it takes compressed ones (RFC 9110, 12.5.3).
    pub(super) fn shows_gzip(&self) -> bool {
        let names = [header::CONTENT_ENCODING, header::ACCEPT_ENCODING];
        names.iter().any(|name| names_gzip(&self.headers, name))
    }
}

/// True if a header lists gzip.
fn names_gzip(headers: &HeaderMap, name: &header::HeaderName) -> bool {
    let lists = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let codings = lists.flat_map(|list| list.split(','));
    codings
        .map(|coding| coding.split(';').next().unwrap_or_default().trim())
        .any(|coding| coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip"))
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
                // By HTTP/2 all calls share a connection, and most servers let each send 64 KB a round trip: a body of
                // 200 KB then takes ten times as long over 50 ms as by connections of its own.
                .http1_only()
                // A redirect would send the key, and take totals, elsewhere.
                .redirect(redirect::Policy::none())
                .user_agent(concat!("ethtally/", env!("CARGO_PKG_VERSION")))
        };
        // Where no CA certificates are installed, only endpoints with https:// are out of reach.
        let without_roots = |_| builder().tls_certs_only([]).build();
        let client = builder().build().or_else(without_roots).context("no HTTP client")?;
        Ok(urls.iter().map(|url| Self { client: client.clone(), url: url.clone() }).collect())
    }

    async fn send(
        self,
        body: Vec<u8>,
        is_compressed: bool,
        limit: usize,
    ) -> Result<HttpResponse, HttpError> {
        let mut request = self
            .client
            .post(self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT_ENCODING, "gzip");
        if is_compressed {
            request = request.header(header::CONTENT_ENCODING, "gzip");
        }
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
        if names_gzip(&headers, &header::CONTENT_ENCODING) {
            body = decompressed(&body, limit)?;
        }
        Ok(HttpResponse { status, headers, body })
    }

    /// Sends in a task of its own: whoever waits for it may be held up meanwhile, by a database for one, and a response
    /// that has come is not to be taken for a late one.
    async fn in_a_task(
        &self,
        body: Vec<u8>,
        is_compressed: bool,
        limit: usize,
    ) -> Result<HttpResponse, HttpError> {
        let sending = self.clone().send(body, is_compressed, limit);
        let sent = AbortOnDropHandle::new(tokio::spawn(sending));
        sent.await.unwrap_or_else(|error| Err(HttpError::Broken { cause: error.to_string() }))
    }
}

/// A body without its compression.
///
/// # Errors
/// If it is broken, or longer than `limit`: a few bytes may stand for any number.
fn decompressed(body: &[u8], limit: usize) -> Result<Vec<u8>, HttpError> {
    let mut whole = Vec::new();
    let decoded = MultiGzDecoder::new(body).take(limit as u64 + 1).read_to_end(&mut whole);
    match decoded {
        Ok(_) if whole.len() > limit => Err(HttpError::TooLong(limit)),
        Ok(_) => Ok(whole),
        Err(error) => Err(HttpError::Broken { cause: format!("its gzip cannot be read: {error}") }),
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn post(&self, body: Vec<u8>, limit: usize) -> Result<HttpResponse, HttpError> {
        self.in_a_task(body, false, limit).await
    }

    async fn post_compressed(
        &self,
        body: Vec<u8>,
        limit: usize,
    ) -> Result<HttpResponse, HttpError> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        match encoder.write_all(&body).and_then(|()| encoder.finish()) {
            Ok(compressed) => self.in_a_task(compressed, true, limit).await,
            // It is in memory, so that this does not happen.
            Err(_) => self.in_a_task(body, false, limit).await,
        }
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
