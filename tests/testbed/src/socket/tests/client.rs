//! A WebSocket client for the tests.

use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message},
};

use super::Socket;

pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for a message that must not arrive.
pub(super) const SILENCE: Duration = Duration::from_millis(250);

/// A client of the proxy.
pub(super) struct Client {
    pub(super) stream: WebSocketStream<TcpStream>,
    count: u64,
    /// Messages that arrived while it waited for another one.
    pub(super) early: VecDeque<Value>,
}

impl Client {
    pub(super) async fn connect(url: &str) -> Result<Self, Error> {
        let address = url.trim_start_matches("ws://").split('/').next().unwrap();
        let stream = TcpStream::connect(address).await?;
        let (stream, _) =
            timeout(PATIENCE, client_async(url, stream)).await.expect("an upgrade")?;
        Ok(Self { stream, count: 0, early: VecDeque::new() })
    }

    pub(super) async fn to(socket: &Socket) -> Self {
        Self::connect(&socket.url()).await.unwrap()
    }

    /// The status with which an upgrade is refused.
    pub(super) async fn refused(socket: &Socket) -> u16 {
        match Self::connect(&socket.url()).await {
            Err(Error::Http(response)) => response.status().as_u16(),
            other => panic!("{:?}", other.map(|_| "accepted")),
        }
    }

    pub(super) async fn say(&mut self, text: String) {
        self.stream.send(text.into()).await.unwrap();
    }

    /// Sends a request and returns its id.
    pub(super) async fn request(&mut self, method: &str, params: Value) -> u64 {
        self.count += 1;
        let (id, version) = (self.count, "2.0");
        let request = json!({ "jsonrpc": version, "id": id, "method": method, "params": params });
        self.say(request.to_string()).await;
        id
    }

    /// The result of a request.
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params).await;
        loop {
            let mut message = self.next().await;
            if message["id"] == id {
                return message["result"].take();
            }
            self.early.push_back(message);
        }
    }

    pub(super) async fn subscribe(&mut self, params: Value) -> String {
        self.ask("eth_subscribe", params).await.as_str().expect("a subscription").to_owned()
    }

    /// The next message. Panics if it is not JSON, and at the end of the stream.
    pub(super) async fn next(&mut self) -> Value {
        match self.next_raw().await {
            Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn next_raw(&mut self) -> Option<Result<Message, Error>> {
        timeout(PATIENCE, self.stream.next()).await.expect("a message, or an end")
    }

    /// The next notification: its subscription and its result.
    pub(super) async fn notified(&mut self) -> (String, Value) {
        let mut message = match self.early.pop_front() {
            Some(message) => message,
            None => self.next().await,
        };
        assert_eq!(message["method"], "eth_subscription", "{message}");
        let id = message["params"]["subscription"].as_str().unwrap().to_owned();
        (id, message["params"]["result"].take())
    }

    /// The number of the next head.
    pub(super) async fn head(&mut self) -> Value {
        self.notified().await.1["number"].take()
    }

    pub(super) async fn receives_nothing(&mut self) {
        assert_eq!(self.early, VecDeque::<Value>::new());
        if let Ok(message) = timeout(SILENCE, self.stream.next()).await {
            panic!("{message:?}");
        }
    }

    /// Whether the connection ended without a close frame.
    pub(super) async fn is_cut(&mut self) -> bool {
        matches!(self.next_raw().await, Some(Err(Error::Io(_) | Error::Protocol(_))))
    }
}
