//! Announces new blocks: from a subscription over WebSocket, or by polling while there is none.
//!
//! Every new connection is reported, as blocks may have been missed before it. New heads are its heartbeat; a
//! connection that is silent for too long is dropped.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use alloy::{
    providers::{Provider, RootProvider},
    pubsub::{ConnectionHandle, PubSubConnect, Subscription},
    rpc::client::RpcClient,
    transports::{Authorization, TransportErrorKind, TransportResult, ws::WsConnect},
};
use anyhow::{anyhow, bail};
use serde_json::Value;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::info;
use url::Url;

use super::{
    Events, Listeners,
    filter::{EventFilter, Log},
};
use crate::{
    follow::{Backoff, Block, Signal, Source, Transport, WatchEvent},
    profile::Profile,
    redact,
    rpc::Header,
};

/// How often the node is polled while there is no WebSocket.
const POLL_EVERY: Duration = Duration::from_secs(3);
/// Notifications that may wait.
const BUFFER: usize = 4_096;

/// The source of new blocks.
pub struct Heads {
    /// The WebSocket.
    pub url: Url,
    /// How long a connection may take.
    pub timeout: Duration,
    /// How long a connection may be silent.
    pub max_lag: Duration,
    /// Which logs to subscribe to, and the node to poll instead.
    pub events: Arc<Events>,
    /// Those who follow.
    pub listeners: Arc<Listeners>,
}

/// The subscriptions of one connection.
struct Session {
    heads: Subscription<Header>,
    logs: Subscription<Log>,
    /// The connection lives as long as it.
    _provider: RootProvider,
}

/// User and password of a URL. alloy would send them percent-encoded.
fn authorization(url: &Url) -> Option<Authorization> {
    let has_user = !url.username().is_empty() || url.password().is_some();
    let [user, password] =
        [url.username(), url.password().unwrap_or_default()].map(redact::percent_decoded);
    has_user.then(|| Authorization::basic(user, password))
}

/// Connects once: alloy would reconnect and subscribe again without a word.
#[derive(Clone, Debug)]
struct Once(WsConnect);

impl PubSubConnect for Once {
    fn is_local(&self) -> bool {
        self.0.is_local()
    }

    async fn connect(&self) -> TransportResult<ConnectionHandle> {
        self.0.connect().await
    }

    async fn try_reconnect(&self) -> TransportResult<ConnectionHandle> {
        Err(TransportErrorKind::non_retryable_str("the connection broke"))
    }
}

/// The state of polling.
#[derive(Default)]
struct Polling {
    /// True if the node answers.
    answers: bool,
    /// True once it was reported that it does not.
    reported: bool,
    last: Option<Block>,
}

/// Connects and subscribes to new blocks and to logs like `logs`.
async fn subscribe(
    url: &Url,
    expected: u64,
    logs: Value,
    patience: Duration,
) -> anyhow::Result<Session> {
    let session = timeout(patience, async {
        let connect = WsConnect::new(url.as_str());
        let connect = Once(connect.with_auth_opt(authorization(url)));
        let client = RpcClient::connect_pubsub(connect).await?;
        client.set_channel_size(BUFFER);
        let provider = RootProvider::new(client);
        let chain_id = provider.get_chain_id().await?;
        if chain_id != expected {
            bail!("it is of chain {chain_id}, not {expected}; check --ws-url");
        }
        let heads = provider.subscribe(("newHeads",)).await?;
        let logs = provider.subscribe(("logs", logs)).await?;
        Ok::<_, anyhow::Error>(Session { heads, logs, _provider: provider })
    });
    session.await.map_err(|_| anyhow!("no answer within {} s", patience.as_secs()))?
}

/// Subscribes as `watch` does for `profile`, and ends the connection.
///
/// # Errors
/// If it cannot connect, the node is on another chain, or it refuses subscriptions.
pub async fn try_subscription(
    url: &Url,
    profile: &Profile,
    patience: Duration,
) -> anyhow::Result<()> {
    let logs = EventFilter::of_profile(profile).subscription();
    subscribe(url, profile.chain_id, logs, patience).await.map(drop)
}

impl Heads {
    /// Announces blocks without end, connected while there is a listener. Dropping the future ends the connection.
    pub async fn run(&self) -> Infallible {
        loop {
            self.listeners.any().await;
            tokio::select! {
                never = self.announce() => match never {},
                () = self.listeners.none() => self.listeners.forget_connection(),
            }
        }
    }

    async fn announce(&self) -> Infallible {
        let label = self.url.origin().ascii_serialization();
        let mut backoff = Backoff::default();
        let mut pause = Duration::ZERO;
        let mut polling: Option<Polling> = None;
        loop {
            match self.next_session(pause, &mut polling).await {
                Ok(session) => {
                    polling = None;
                    self.connected(Transport::WebSocket, &label);
                    let (reason, had_blocks) = self.forward(session).await;
                    if had_blocks {
                        backoff.reset();
                    }
                    pause = backoff.pause();
                    self.disconnected(reason, pause);
                }
                Err(error) => {
                    pause = backoff.pause();
                    let why = redact::excerpt(&redact::clean_error(error.as_ref()));
                    let reason = format!("no WebSocket at {label}: {why}");
                    match &polling {
                        Some(Polling { answers: true, .. }) => info!(?pause, "{reason}"),
                        _ => self.disconnected(reason, pause),
                    }
                    polling.get_or_insert_default();
                }
            }
        }
    }

    /// A connection after a pause. If that takes long, the node is polled meanwhile.
    async fn next_session(
        &self,
        pause: Duration,
        polling: &mut Option<Polling>,
    ) -> anyhow::Result<Session> {
        let mut attempt = pin!(async {
            sleep(pause).await;
            self.subscribe().await
        });
        if polling.is_none()
            && let Ok(session) = timeout(POLL_EVERY, &mut attempt).await
        {
            return session;
        }
        tokio::select! {
            session = attempt => session,
            never = self.poll(polling.get_or_insert_default()) => match never {},
        }
    }

    fn connected(&self, via: Transport, endpoint: &str) {
        self.listeners.connected(via, endpoint);
    }

    fn disconnected(&self, reason: String, pause: Duration) {
        self.listeners.disconnected(&WatchEvent::Disconnected { reason, pause });
    }

    /// Announces a block.
    fn head(&self, block: Block, signal: impl FnOnce(Block) -> Signal) {
        self.listeners.notify(&WatchEvent::Head((&block).into()));
        self.listeners.send(&signal(block));
    }

    /// A connection with both subscriptions.
    async fn subscribe(&self) -> anyhow::Result<Session> {
        let patience = self.timeout.min(self.max_lag);
        subscribe(&self.url, self.events.chain_id(), self.events.subscription(), patience).await
    }

    /// Forwards the notifications of a connection; returns why it ended, and whether it announced a block.
    async fn forward(&self, mut session: Session) -> (String, bool) {
        let mut newest = None;
        let mut alive_until = Instant::now() + self.max_lag;
        loop {
            let notification = tokio::select! {
                head = session.heads.recv_result() => head.map(|head| {
                    alive_until = Instant::now() + self.max_lag;
                    head.map(|header| {
                        let block = Block::from(header);
                        newest = Some(block.number);
                        self.head(block, Signal::Head);
                    })
                }),
                log = session.logs.recv_result() => {
                    log.map(|log| log.map(|log| self.log(&log, &mut newest)))
                }
                () = sleep_until(alive_until) => {
                    let reason = format!("no new block for {} s", self.max_lag.as_secs());
                    return (reason, newest.is_some());
                }
            };
            match notification {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    info!("cannot read a notification: {error}");
                    self.listeners.send(&Signal::Hint);
                }
                Err(RecvError::Lagged(count)) => {
                    info!(count, "notifications were lost");
                    self.listeners.send(&Signal::Missed);
                }
                Err(RecvError::Closed) => {
                    return ("the connection broke".to_owned(), newest.is_some());
                }
            }
        }
    }

    /// A log is only a hint: a block was replaced, or one came whose head was not announced.
    fn log(&self, log: &Log, newest: &mut Option<u64>) {
        let number = log.block_number.to();
        if log.removed {
            self.listeners.removed(log);
        } else if Some(number) > *newest {
            *newest = Some(number);
            self.listeners.send(&Signal::Hint);
        }
    }

    /// Polls the newest block without end.
    async fn poll(&self, state: &mut Polling) -> Infallible {
        loop {
            match self.events.newest().await {
                Ok(block) => {
                    if !std::mem::replace(&mut state.answers, true) {
                        state.reported = false;
                        self.connected(Transport::Http, &self.events.endpoints());
                    }
                    if state.last.replace(block) != Some(block) {
                        self.head(block, Signal::Newest);
                    }
                }
                Err(error) => {
                    state.answers = false;
                    if !std::mem::replace(&mut state.reported, true) {
                        self.disconnected(redact::clean_error(&error), POLL_EVERY);
                    }
                    self.events.revive();
                }
            }
            sleep(POLL_EVERY).await;
        }
    }
}
