//! A stub node: it stands in front of a real one, passes JSON-RPC through, and injects the faults that real providers show and a
//! local node never does. It keeps a journal of all that it was asked.
//!
//! - `fault`: what can go wrong; `when`: to which requests. Neither knows of HTTP servers.
//! - `aggregate3` and `packed`: the calls whose wallets are counted and whose answers are tampered with; `blocks`: of which block.
//! - `proxy`: a request's way from rule to answer; `line`: connections that can be broken.

mod aggregate3;
mod blocks;
mod fault;
mod line;
mod packed;
mod proxy;
mod when;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Instant,
};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

pub use fault::Fault;
pub use packed::Lie;
pub use when::When;

use crate::server::Server;
use proxy::{Proxy, Upstream};

/// A JSON-RPC request that a stub was asked. Each request of a batch is one of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// When it arrived.
    pub at: Instant,
    /// Its method; empty if the body was no JSON-RPC.
    pub method: String,
    /// Its parameters, or null: see [`Stub::keep_params`].
    pub params: Value,
    /// The size of the HTTP body that it came in.
    pub bytes: usize,
    /// How many HTTP requests were on hand when it arrived, its own among them.
    pub on_hand: usize,
    /// `passed`, or the name of the fault it met: see [`Fault::name`].
    pub answered: String,
}

impl Seen {
    /// How many wallets it asks about, if it is a packed call or an `aggregate3` with so many parts a wallet.
    pub fn wallets(&self, parts: usize) -> Option<usize> {
        fault::wallets_of(&self.request(), parts)
    }

    /// Whether it is a call that brings the code along which answers it.
    pub fn is_packed(&self) -> bool {
        packed::wallets(&self.request()).is_some()
    }

    fn request(&self) -> Value {
        json!({ "method": self.method, "params": self.params })
    }
}

/// A node with faults. It serves HTTP on any path of a port of its own until it is dropped.
///
/// It runs in a thread of its own, so that it answers while a test waits for a process.
#[derive(Debug)]
pub struct Stub {
    proxy: Arc<Proxy>,
    server: Server,
}

impl Stub {
    /// Starts a stub that passes on to the node at this `http://` URL. The node may come later, and go.
    ///
    /// # Errors
    /// If the URL is not one of HTTP, or there is no port to listen on.
    pub fn in_front_of(upstream_url: &str) -> Result<Self> {
        let proxy = Arc::new(Proxy::new(Upstream::new(upstream_url)?));
        let served = Arc::clone(&proxy);
        let server = Server::start("stub-node", |listener| proxy::serve(listener, served))?;
        Ok(Self { proxy, server })
    }

    /// The URL of a port that refuses connections, for as long as this process lives.
    ///
    /// # Panics
    /// If this machine has no port left.
    pub fn dead() -> String {
        // Bound and never listened on, so that nobody else can get the port and listen.
        static SOCKET: OnceLock<(TcpSocket, SocketAddr)> = OnceLock::new();
        let (_, address) = SOCKET.get_or_init(|| {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
            let address = socket.local_addr().expect("a bound socket has an address");
            (socket, address)
        });
        format!("http://{address}")
    }

    /// Where it serves: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// The same with a path, as providers put their keys there: `stub.url_with_path("/v2/SECRETKEY")`.
    pub fn url_with_path(&self, path: &str) -> String {
        format!("{}/{}", self.url(), path.trim_start_matches('/'))
    }

    /// Adds a rule. Rules are tried in the order they were added, and the first that matches a request answers it; only
    /// [`Fault::Delay`] holds the request up and lets the rules after it have their say too.
    pub fn fault(&self, fault: Fault, when: When) {
        self.proxy.add_rule(when.always_with(fault));
    }

    /// Adds a rule that answers the first request it matches with the first of these faults, the second with the second and so
    /// on, and no more once they are used up. [`Fault::Pass`] stands for a request without a fault.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>, when: When) {
        self.proxy.add_rule(when.one_by_one(faults.into_iter().collect()));
    }

    /// Removes all rules: from now on everything passes.
    pub fn clear(&self) {
        self.proxy.clear_rules();
    }

    /// What it was asked so far, in order of arrival.
    pub fn requests(&self) -> Vec<Seen> {
        self.proxy.journal().clone()
    }

    /// How often it was asked this method so far.
    pub fn count(&self, method: &str) -> usize {
        self.proxy.journal().iter().filter(|seen| seen.method == method).count()
    }

    /// How many HTTP requests it had on its hands at the same time, at most.
    pub fn most_at_once(&self) -> usize {
        self.proxy.most_at_once()
    }

    /// Empties the journal and begins to count anew; the rules stay.
    pub fn forget(&self) {
        self.proxy.forget();
    }

    /// Whether the journal keeps parameters, as it does at first. A long benchmark had better not: they are most of its traffic.
    pub fn keep_params(&self, keep: bool) {
        self.proxy.keep_params(keep);
    }
}

#[cfg(test)]
mod tests;
