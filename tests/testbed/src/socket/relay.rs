//! One connection through the proxy: the upgrade, the connection to the node, and the messages.

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
    connection::FaultyStream,
    registry::{Hold, Registration, Registry, Session, Termination},
};

type Peer = WebSocketStream<FaultyStream>;

/// Time limit for the program's close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The upstream node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    uri: Uri,
    address: String,
}

impl Node {
    pub(super) fn new(url: &str) -> Result<Self> {
        let uri: Uri = url.parse().context("the upstream URL is invalid")?;
        ensure!(uri.scheme_str() == Some("ws"), "the upstream URL must be ws://");
        let host = uri.host().unwrap_or_default();
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self { uri, address })
    }

    async fn connect(&self) -> Result<Peer> {
        let stream = FaultyStream::new(TcpStream::connect(&self.address).await?);
        Ok(client_async_with_config(&self.uri, stream, Some(config())).await?.0)
    }
}

pub(super) async fn serve(listener: TcpListener, registry: Arc<Registry>, node: Node) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let (registry, node) = (Arc::clone(&registry), node.clone());
            tokio::spawn(async move { accept(stream, &registry, &node).await });
        } else {
            // Probably out of file descriptors: retry later.
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// No limits: these are up to the node and the program.
fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(None).max_frame_size(None)
}

async fn accept(stream: TcpStream, registry: &Arc<Registry>, node: &Node) {
    let node = node.connect().await;
    let mut session = None;
    let callback = UpgradeCallback {
        register: || node.is_ok().then(|| registry.register()).flatten(),
        session: &mut session,
    };
    let accepted =
        accept_hdr_async_with_config(FaultyStream::new(stream), callback, Some(config())).await;
    if let (Ok(program), Ok(node), Some(session)) = (accepted, node, session) {
        relay_until_end(program, node, session).await;
    }
}

/// Accepts or refuses an upgrade.
struct UpgradeCallback<'a, F> {
    register: F,
    session: &'a mut Option<Session>,
}

impl<F: FnOnce() -> Option<Session>> Callback for UpgradeCallback<'_, F> {
    fn on_request(self, _: &Request, response: Response) -> Result<Response, ErrorResponse> {
        *self.session = (self.register)();
        if self.session.is_some() {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(Some("Service Unavailable".to_owned()));
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Err(refusal)
    }
}

/// Relays messages until the test, the program or the node ends the connection.
async fn relay_until_end(mut program: Peer, mut node: Peer, session: Session) {
    let Session { registration, mut ended, injected, stalled } = session;
    let queue = DelayQueue::default();
    let relay = Relay {
        program: &mut program,
        node: &mut node,
        registration: &registration,
        injected,
        stalled,
        queue,
    };
    let end = tokio::select! {
        biased;
        Ok(end) = &mut ended => end,
        end = relay.run() => end,
    };
    drop(registration);
    match end {
        Termination::ClientGone => {}
        Termination::Reset => program.into_inner().reset(),
        Termination::Close(frame) => {
            let closing = async {
                mute(&mut program, false).await;
                program.close(frame).await?;
                // The program's close frame, then the end of the stream.
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
    registration: &'a Registration,
    injected: mpsc::UnboundedReceiver<(Message, Hold)>,
    stalled: watch::Receiver<bool>,
    queue: DelayQueue,
}

impl Relay<'_> {
    async fn run(mut self) -> Termination {
        let mut stalled = self.stalled.clone();
        let mut until = async |on| {
            // It fails only without a registry, and the registration holds one.
            let _ = stalled.wait_for(|stalled| *stalled == on).await;
        };
        loop {
            tokio::select! {
                biased;
                () = until(true) => {}
                end = self.pass() => return end,
            }
            self.queue = DelayQueue::default();
            tokio::select! {
                biased;
                () = until(false) => {}
                end = self.discard_all() => return end,
            }
            mute(self.program, false).await;
            mute(self.node, false).await;
        }
    }

    async fn pass(&mut self) -> Termination {
        loop {
            while let Some(message) = self.queue.take_due() {
                if self.program.send(message).await.is_err() {
                    return Termination::ClientGone;
                }
            }
            let due = self.queue.due();
            tokio::select! {
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                Some((message, hold)) = self.injected.recv() => self.queue.put(message, &hold),
                message = self.program.next() => match message {
                    Some(Ok(message)) => {
                        let passes = is_data(&message)
                            && self.registration.record_from_program(&message.clone().into_data());
                        if passes && self.node.send(message).await.is_err() {
                            return Termination::Reset;
                        }
                    }
                    _ => return Termination::ClientGone,
                },
                message = self.node.next() => match message {
                    Some(Ok(Message::Close(frame))) => return Termination::Close(frame),
                    Some(Ok(message)) if is_data(&message) => {
                        if let Some(hold) = self.registration.record_from_node(&message.clone().into_data()) {
                            self.queue.put(message, &hold);
                        }
                    }
                    Some(Ok(_)) => {}
                    _ => return Termination::Reset,
                },
            }
        }
    }

    /// Discards all messages, and hides from each end that the other one has closed. [`Relay::pass`] notices that later.
    async fn discard_all(&mut self) -> Termination {
        let mut broken = false;
        mute(self.program, true).await;
        mute(self.node, true).await;
        loop {
            tokio::select! {
                message = self.program.next(), if !broken => match message {
                    Some(Ok(Message::Close(_))) => {
                        self.registration.remove();
                        broken = true;
                    }
                    Some(Ok(_)) => {}
                    _ => return Termination::ClientGone,
                },
                message = self.node.next(), if !broken => {
                    broken = !matches!(&message, Some(Ok(message)) if !message.is_close());
                }
                Some(_) = self.injected.recv() => {}
                else => future::pending().await,
            }
        }
    }
}

/// Pings are excluded: each side answers its own.
fn is_data(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}

async fn mute(peer: &mut Peer, on: bool) {
    // If it fails, the connection is broken, and the next read reports it.
    let _ = peer.flush().await;
    peer.get_mut().mute(on);
}

/// Messages to the program, ordered by when they are due.
#[derive(Debug, Default)]
struct DelayQueue {
    messages: BTreeMap<(Instant, usize), Message>,
    /// When the last of the ordered messages is due.
    last: Option<Instant>,
    count: usize,
}

impl DelayQueue {
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
