//! A connection's way through the socket: upgrade, the node behind, and messages back and forth.

use std::{collections::BTreeMap, future, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use axum::http::{StatusCode, Uri};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config, client_async_with_config,
    tungstenite::{
        Message,
        handshake::server::{Callback, ErrorResponse, Request, Response},
        protocol::WebSocketConfig,
    },
};

use super::{
    book::{Book, End, Hold, Place, Seat},
    line::Line,
};

type Peer = WebSocketStream<Line>;

/// How long the program may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The node behind.
#[derive(Debug, Clone)]
pub(super) struct Node {
    uri: Uri,
    address: String,
}

impl Node {
    pub(super) fn new(url: &str) -> Result<Self> {
        let uri: Uri = url.parse().context("the URL behind the socket is none")?;
        ensure!(uri.scheme_str() == Some("ws"), "the socket passes on to ws:// URLs only");
        let host = uri.host().unwrap_or_default();
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self { uri, address })
    }

    async fn connect(&self) -> Result<Peer> {
        let line = Line::new(TcpStream::connect(&self.address).await?);
        Ok(client_async_with_config(&self.uri, line, Some(config())).await?.0)
    }
}

pub(super) async fn serve(listener: TcpListener, book: Arc<Book>, node: Node) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let (book, node) = (Arc::clone(&book), node.clone());
            tokio::spawn(async move { accept(stream, &book, &node).await });
        } else {
            // Out of file descriptors, most likely: some will come back.
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A limit is the node's affair, or the program's.
fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(None).max_frame_size(None)
}

async fn accept(stream: TcpStream, book: &Arc<Book>, node: &Node) {
    let node = node.connect().await;
    let mut place = None;
    let door = Door { enter: || node.is_ok().then(|| book.enter()).flatten(), place: &mut place };
    let accepted = accept_hdr_async_with_config(Line::new(stream), door, Some(config())).await;
    if let (Ok(program), Ok(node), Some(place)) = (accepted, node, place) {
        attend(program, node, place).await;
    }
}

/// Answers an upgrade.
struct Door<'a, F> {
    enter: F,
    place: &'a mut Option<Place>,
}

impl<F: FnOnce() -> Option<Place>> Callback for Door<'_, F> {
    fn on_request(self, _: &Request, response: Response) -> Result<Response, ErrorResponse> {
        *self.place = (self.enter)();
        if self.place.is_some() {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(Some("Service Unavailable".to_owned()));
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Err(refusal)
    }
}

/// Passes on until the test, the program or the node makes an end.
async fn attend(mut program: Peer, mut node: Peer, place: Place) {
    let Place { seat, mut ended, said, stalled } = place;
    let held = Held::default();
    let relay = Relay { program: &mut program, node: &mut node, seat: &seat, said, stalled, held };
    let end = tokio::select! {
        biased;
        Ok(end) = &mut ended => end,
        end = relay.run() => end,
    };
    drop(seat);
    match end {
        End::Gone => {}
        End::Cut => program.into_inner().reset(),
        End::Close(frame) => {
            let closing = async {
                gag(&mut program, false).await;
                program.close(frame).await?;
                // The program's own close frame, and then the end.
                while program.next().await.transpose()?.is_some() {}
                anyhow::Ok(())
            };
            let _ = timeout(CLOSE_TIMEOUT, closing).await;
        }
    }
}

struct Relay<'a> {
    program: &'a mut Peer,
    node: &'a mut Peer,
    seat: &'a Seat,
    said: mpsc::UnboundedReceiver<(Message, Hold)>,
    stalled: watch::Receiver<bool>,
    held: Held,
}

impl Relay<'_> {
    async fn run(mut self) -> End {
        let mut stalled = self.stalled.clone();
        let mut until = async |on| {
            // It fails without a book, and the seat has one.
            let _ = stalled.wait_for(|stalled| *stalled == on).await;
        };
        loop {
            tokio::select! {
                biased;
                () = until(true) => {}
                end = self.pass() => return end,
            }
            self.held = Held::default();
            tokio::select! {
                biased;
                () = until(false) => {}
                end = self.keep_silent() => return end,
            }
            gag(self.program, false).await;
            gag(self.node, false).await;
        }
    }

    async fn pass(&mut self) -> End {
        loop {
            while let Some(message) = self.held.take_due() {
                if self.program.send(message).await.is_err() {
                    return End::Gone;
                }
            }
            let due = self.held.due();
            tokio::select! {
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                Some((message, hold)) = self.said.recv() => self.held.put(message, &hold),
                message = self.program.next() => match message {
                    Some(Ok(message)) => {
                        let passes = is_data(&message)
                            && self.seat.hear_program(&message.clone().into_data());
                        if passes && self.node.send(message).await.is_err() {
                            return End::Cut;
                        }
                    }
                    _ => return End::Gone,
                },
                message = self.node.next() => match message {
                    Some(Ok(Message::Close(frame))) => return End::Close(frame),
                    Some(Ok(message)) if is_data(&message) => {
                        if let Some(hold) = self.seat.hear_node(&message.clone().into_data()) {
                            self.held.put(message, &hold);
                        }
                    }
                    Some(Ok(_)) => {}
                    _ => return End::Cut,
                },
            }
        }
    }

    /// Drops whatever comes, and lets neither end notice that the other one is gone. [`Relay::pass`] will see it.
    async fn keep_silent(&mut self) -> End {
        let mut broken = false;
        gag(self.program, true).await;
        gag(self.node, true).await;
        loop {
            tokio::select! {
                message = self.program.next(), if !broken => match message {
                    Some(Ok(Message::Close(_))) => {
                        self.seat.leave();
                        broken = true;
                    }
                    Some(Ok(_)) => {}
                    _ => return End::Gone,
                },
                message = self.node.next(), if !broken => {
                    broken = !matches!(&message, Some(Ok(message)) if !message.is_close());
                }
                Some(_) = self.said.recv() => {}
                else => future::pending().await,
            }
        }
    }
}

/// Pings are answered by either side for itself.
fn is_data(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}

async fn gag(peer: &mut Peer, on: bool) {
    // If it fails, the connection is gone, as the next to read from it will see.
    let _ = peer.flush().await;
    peer.get_mut().gag(on);
}

/// Messages to the program, in the order of when they are due.
#[derive(Debug, Default)]
struct Held {
    messages: BTreeMap<(Instant, usize), Message>,
    /// When the last one is due of those that must keep their order.
    last: Option<Instant>,
    count: usize,
}

impl Held {
    fn put(&mut self, message: Message, hold: &Hold) {
        let due = (Instant::now() + hold.all).max(self.last.unwrap_or_else(Instant::now));
        self.last = Some(due);
        self.messages.insert((due + hold.alone, self.count), message);
        self.count += 1;
    }

    fn due(&self) -> Option<Instant> {
        self.messages.keys().next().map(|(due, _)| *due)
    }

    fn take_due(&mut self) -> Option<Message> {
        let first = self.messages.first_entry()?;
        (first.key().0 <= Instant::now()).then(|| first.remove())
    }
}
