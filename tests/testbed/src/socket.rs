//! A WebSocket proxy in front of a node that injects faults which Anvil never shows: connections that break or stall,
//! notifications that are lost, late or removed.
//!
//! - `registry`: the open connections, their subscriptions, and the faults to inject.
//! - `relay`: relays one connection between program and node; `connection`: the TCP stream below it.

mod connection;
mod registry;
mod relay;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use serde_json::Value;

use crate::server::Server;
use registry::{Registry, Termination};
use relay::Node;

/// A WebSocket proxy with faults. It serves every path of its own port until it is dropped, and opens a connection to the node for
/// each connection it accepts.
///
/// It runs in its own thread, so that it responds while a test waits for a process. The other end sees the effect of a method only
/// once the network has delivered it.
#[derive(Debug)]
pub struct Socket {
    registry: Arc<Registry>,
    server: Server,
}

impl Socket {
    /// Starts a proxy for the node at this `ws://` URL. The node may start later or stop: while it is down, an upgrade gets HTTP 503.
    ///
    /// # Errors
    /// If the URL is not a `ws://` URL, or there is no free port.
    pub fn in_front_of(ws_url: &str) -> Result<Self> {
        let registry = Arc::new(Registry::default());
        let (node, kept) = (Node::new(ws_url)?, Arc::clone(&registry));
        let server = Server::start("socket", |listener| relay::serve(listener, kept, node))?;
        Ok(Self { registry, server })
    }

    /// Its URL: `ws://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("ws://{}", self.server.address())
    }

    /// Its URL with a path, where providers put their keys: `socket.url_with_path("/v2/SECRETKEY")`.
    pub fn url_with_path(&self, path: &str) -> String {
        format!("{}/{}", self.url(), path.trim_start_matches('/'))
    }

    /// Resets every open TCP connection, without a close frame. New connections are accepted.
    pub fn cut(&self) {
        self.registry.end_all(&Termination::Reset);
    }

    /// Closes every open connection with a close frame of this code, for example 1008. New connections are accepted.
    pub fn close(&self, code: u16) {
        self.registry.end_all(&Termination::close(code));
    }

    /// While on, an upgrade gets HTTP 503. Turning it on resets the open connections.
    pub fn refuse(&self, on: bool) {
        self.registry.set(|settings| settings.refuse = on);
        if on {
            self.cut();
        }
    }

    /// While on, connections stay open and nothing passes in either direction, not even pongs or close frames. New connections are
    /// upgraded and then stall too. Messages sent meanwhile, or delayed before, are lost.
    pub fn stall(&self, on: bool) {
        self.registry.stall(on);
    }

    /// Delays every message from the node by this time from now on. The order is kept, so a shorter time takes effect once the
    /// messages that are already delayed have arrived.
    pub fn delay(&self, time: Duration) {
        self.registry.set(|settings| settings.delay = time);
    }

    /// Drops the next `count` notifications of `newHeads`, on any connection. A new count replaces the old one.
    pub fn drop_heads(&self, count: usize) {
        self.registry.set(|settings| settings.heads_to_drop = count);
    }

    /// While on, drops notifications of `newHeads`. They do not count for [`Socket::drop_heads`].
    pub fn mute_heads(&self, on: bool) {
        self.registry.set(|settings| settings.heads_muted = on);
    }

    /// Delays responses to this method, for example `eth_subscribe`, by this time from now on; zero ends it. Everything else
    /// overtakes them, including notifications of that subscription.
    pub fn delay_responses_to(&self, method: &str, time: Duration) {
        self.registry.set(|settings| {
            settings.response_delays.insert(method.to_owned(), time);
        });
    }

    /// Sends these logs, as `eth_getLogs` returns them, as removed to every open subscription of `logs`, as a node does after a
    /// reorganisation. Ignores the subscriptions' filters.
    ///
    /// # Panics
    /// If a log is not a JSON object.
    pub fn send_removed_logs(&self, logs: Vec<Value>) {
        let removed = |mut log: Value| {
            log["removed"] = true.into();
            log
        };
        self.registry.notify("logs", &logs.into_iter().map(removed).collect::<Vec<_>>());
    }

    /// Sends these headers to every open subscription of `newHeads`, unaffected by [`Socket::drop_heads`] and
    /// [`Socket::mute_heads`].
    pub fn notify_heads(&self, headers: Vec<Value>) {
        self.registry.notify("newHeads", &headers);
    }

    /// Number of connections upgraded so far.
    pub fn connections(&self) -> usize {
        self.registry.accepted()
    }

    /// Number of open connections.
    pub fn open(&self) -> usize {
        self.registry.open()
    }

    /// Number of requests of this method forwarded to the node so far. Each request of a batch counts.
    pub fn requests(&self, method: &str) -> usize {
        self.registry.requests(method)
    }

    /// Number of open subscriptions of this kind, for example `newHeads` or `logs`: confirmed by the node, not cancelled, and on an
    /// open connection.
    pub fn subscriptions(&self, kind: &str) -> usize {
        self.registry.subscriptions(kind)
    }
}

#[cfg(test)]
mod tests;
