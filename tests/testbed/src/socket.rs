//! A man in the middle between a program and a node's WebSocket, for the faults that Anvil never shows: connections that break or
//! fall silent, notifications that are lost, late or withdrawn.
//!
//! - `book`: what is known of every connection and its subscriptions, and what is to be done to them.
//! - `relay`: one connection's way from the program to the node and back; `line`: the TCP stream below it.

mod book;
mod line;
mod relay;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use serde_json::Value;

use crate::server::Server;
use book::{Book, End};
use relay::Node;

/// A WebSocket with faults. It serves on any path of a port of its own until it is dropped, and connects to the node anew for each
/// connection it accepts.
///
/// It runs in a thread of its own, so that it answers while a test waits for a process. What a method does to connections is not
/// to be seen at the other end before the network has brought it there.
#[derive(Debug)]
pub struct Socket {
    book: Arc<Book>,
    server: Server,
}

impl Socket {
    /// Starts a socket that passes on to the node at this `ws://` URL. The node may come later, and go: without it, an upgrade is
    /// answered with HTTP 503.
    ///
    /// # Errors
    /// If the URL is not one of WebSocket without TLS, or there is no port to listen on.
    pub fn in_front_of(ws_url: &str) -> Result<Self> {
        let book = Arc::new(Book::default());
        let (node, kept) = (Node::new(ws_url)?, Arc::clone(&book));
        let server = Server::start("socket", |listener| relay::serve(listener, kept, node))?;
        Ok(Self { book, server })
    }

    /// Where it serves: `ws://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("ws://{}", self.server.address())
    }

    /// The same with a path, as providers put their keys there: `socket.url_with_path("/v2/SECRETKEY")`.
    pub fn url_with_path(&self, path: &str) -> String {
        format!("{}/{}", self.url(), path.trim_start_matches('/'))
    }

    /// Breaks every open connection off at once, by a TCP reset and without a word of WebSocket. New ones are accepted.
    pub fn cut(&self) {
        self.book.end_all(&End::Cut);
    }

    /// Closes every open connection with a WebSocket close frame of this code, for example 1008. New ones are accepted.
    pub fn close(&self, code: u16) {
        self.book.end_all(&End::close(code));
    }

    /// While on, an upgrade is answered with HTTP 503. What is open is cut when it begins.
    pub fn refuse(&self, on: bool) {
        self.book.set(|rules| rules.refuse = on);
        if on {
            self.cut();
        }
    }

    /// While on, connections stay open and nothing passes in either direction; not even a ping is answered, nor a close frame. New
    /// connections are upgraded, and then silent too. What was said in the meantime, or had been held up before, is lost.
    pub fn stall(&self, on: bool) {
        self.book.stall(on);
    }

    /// Holds every message from the node up this long from now on. The order is kept, so that a shorter time, or zero, makes itself
    /// felt once what is held up already has arrived.
    pub fn delay(&self, time: Duration) {
        self.book.set(|rules| rules.delay = time);
    }

    /// Swallows the next so many notifications of `newHeads`, whatever connection they are for. A new count replaces the rest of
    /// the old one.
    pub fn drop_heads(&self, count: usize) {
        self.book.set(|rules| rules.heads_to_drop = count);
    }

    /// While on, notifications of `newHeads` are swallowed. They do not count for [`Socket::drop_heads`].
    pub fn mute_heads(&self, on: bool) {
        self.book.set(|rules| rules.heads_muted = on);
    }

    /// Holds answers to requests of this method up this long from now on, for example `eth_subscribe`; zero ends it. All else
    /// overtakes them, notifications of the very subscription among it.
    pub fn hold_answers_to(&self, method: &str, time: Duration) {
        self.book.set(|rules| {
            rules.holds.insert(method.to_owned(), time);
        });
    }

    /// Sends these logs, as `eth_getLogs` returns them, to every open subscription of `logs` as removed, as a node does after a
    /// reorg. No subscription's filter is asked.
    ///
    /// # Panics
    /// If a log is no JSON object.
    pub fn send_removed_logs(&self, logs: Vec<Value>) {
        let removed = |mut log: Value| {
            log["removed"] = true.into();
            log
        };
        self.book.notify("logs", &logs.into_iter().map(removed).collect::<Vec<_>>());
    }

    /// Sends these headers to every open subscription of `newHeads`. They are swallowed neither by [`Socket::drop_heads`] nor by
    /// [`Socket::mute_heads`].
    pub fn notify_heads(&self, headers: Vec<Value>) {
        self.book.notify("newHeads", &headers);
    }

    /// How many connections were upgraded so far.
    pub fn connections(&self) -> usize {
        self.book.accepted()
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        self.book.open()
    }

    /// How many requests of this method it passed on to the node so far. Each request of a batch is one.
    pub fn requests(&self, method: &str) -> usize {
        self.book.requests(method)
    }

    /// How many subscriptions of this kind, for example `newHeads` or `logs`, are open: the node has answered them, nobody has
    /// ended them, and their connection is open.
    pub fn subscriptions(&self, kind: &str) -> usize {
        self.book.subscriptions(kind)
    }
}

#[cfg(test)]
mod tests;
