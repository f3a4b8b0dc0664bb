//! A proxy in front of a node that knows gzip, in one way or another: Anvil does not.

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex},
};

use alloy::transports::http::reqwest;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use tokio::{net::TcpListener, task::JoinHandle};

/// What it does with a compressed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requests {
    Taken,
    /// Refused with this status.
    Status(u16),
    /// Read as if it were not compressed.
    ParseError,
    /// Answered with bytes that are no JSON.
    Garbage,
}

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Plain,
    /// Plain, with a header that says that compressed requests are taken.
    Offering,
    Compressed,
    /// The answers to calls are hundreds of megabytes, compressed.
    Bomb,
    /// The answers to calls say that they are compressed, and are not.
    Lie,
}

/// A request that it got.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) is_compressed: bool,
    /// True if the answer may be compressed.
    pub(crate) accepts_gzip: bool,
    pub(crate) is_call: bool,
    /// Bytes as sent, and after decompression.
    pub(crate) bytes: (usize, usize),
}

/// A proxy that ends when it is dropped. Its test needs several worker threads.
pub(crate) struct GzipNode {
    url: String,
    node: Arc<Node>,
    serving: JoinHandle<()>,
}

struct Node {
    upstream: String,
    client: reqwest::Client,
    requests: Requests,
    answers: Answers,
    seen: Mutex<Vec<Seen>>,
}

impl GzipNode {
    /// Starts it in front of the node at this URL.
    pub(crate) async fn start(upstream: &str, requests: Requests, answers: Answers) -> Self {
        let node = Arc::new(Node {
            upstream: upstream.to_owned(),
            client: reqwest::Client::new(),
            requests,
            answers,
            seen: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let app = Router::new()
            .fallback(respond)
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&node));
        let serving = tokio::spawn(async { axum::serve(listener, app).await.expect("it serves") });
        Self { url, node, serving }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The requests that it got, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.node.seen.lock().expect("no panic").clone()
    }

    /// How many requests were compressed.
    pub(crate) fn compressed(&self) -> usize {
        self.seen().iter().filter(|seen| seen.is_compressed).count()
    }
}

impl Drop for GzipNode {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn respond(State(node): State<Arc<Node>>, headers: HeaderMap, sent: Bytes) -> Response {
    let names_gzip = |name| headers.get(name).is_some_and(|value| value == "gzip");
    let is_compressed = names_gzip(header::CONTENT_ENCODING);
    let body = if is_compressed { decompressed(&sent) } else { sent.to_vec() };
    let is_call = String::from_utf8_lossy(&body).contains(r#""method":"eth_call""#);
    let seen = Seen {
        is_compressed,
        accepts_gzip: names_gzip(header::ACCEPT_ENCODING),
        is_call,
        bytes: (sent.len(), body.len()),
    };
    node.seen.lock().expect("no panic").push(seen);
    if is_compressed {
        match node.requests {
            Requests::Taken => {}
            Requests::Status(status) => {
                return StatusCode::from_u16(status).expect("a status").into_response();
            }
            Requests::ParseError => {
                return r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}"#
                    .into_response();
            }
            Requests::Garbage => return [0xff_u8, 0, 7].to_vec().into_response(),
        }
    }
    let json = "application/json";
    let request = node.client.post(&node.upstream).header(header::CONTENT_TYPE, json);
    let answer = request.body(body).send().await.expect("an answer");
    let (status, answer) = (answer.status(), answer.bytes().await.expect("a body"));
    let gzip = [(header::CONTENT_ENCODING, "gzip")];
    match node.answers {
        Answers::Bomb if is_call => (gzip, bomb()).into_response(),
        Answers::Lie if is_call => (gzip, answer).into_response(),
        Answers::Plain => (status, answer).into_response(),
        Answers::Offering => (status, [(header::ACCEPT_ENCODING, "gzip")], answer).into_response(),
        Answers::Compressed | Answers::Bomb | Answers::Lie => {
            (status, gzip, compressed(&answer)).into_response()
        }
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("it compresses");
    encoder.finish().expect("it compresses")
}

fn decompressed(bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut whole).expect("a compressed request");
    whole
}

/// Some kilobytes that stand for 400 MB.
fn bomb() -> Vec<u8> {
    compressed(&vec![b' '; 1 << 20]).repeat(400)
}
