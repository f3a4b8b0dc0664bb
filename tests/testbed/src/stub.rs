//! A stub node: an HTTP proxy in front of a real node that injects faults which providers show and a local node never does, and
//! records all requests.
//!
//! - `fault`: the faults; `when`: which requests they affect. Neither knows HTTP.
//! - `aggregate3` and `packed`: decode these calls and corrupt their results; `blocks`: the block of a request.
//! - `proxy`: from request to response; `connection`: TCP connections that can be broken.

mod aggregate3;
mod blocks;
mod connection;
mod fault;
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
pub use packed::Corruption;
pub use when::When;

use crate::server::Server;
use proxy::{Proxy, Upstream};

/// A JSON-RPC request that a stub received. Each request of a batch is recorded on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedRequest {
    /// When it arrived.
    pub at: Instant,
    /// Its method; empty if the body was not JSON-RPC.
    pub method: String,
    /// Its parameters, or null: see [`Stub::keep_params`].
    pub params: Value,
    /// The size of its HTTP body.
    pub bytes: usize,
    /// Number of HTTP requests in flight when it arrived, including its own.
    pub in_flight: usize,
    /// `passed`, or the name of the fault it got: see [`Fault::name`].
    pub answered: String,
}

impl RecordedRequest {
    /// Number of wallets it asks about, if it is a packed call or an `aggregate3` with this many parts per wallet.
    pub fn wallets(&self, parts: usize) -> Option<usize> {
        fault::wallets_of(&self.request(), parts)
    }

    /// Whether it is an `eth_call` with a state override that sets the called code.
    pub fn is_packed(&self) -> bool {
        packed::wallets(&self.request()).is_some()
    }

    fn request(&self) -> Value {
        json!({ "method": self.method, "params": self.params })
    }
}

/// A node with faults. It serves HTTP on every path of its own port until it is dropped.
///
/// It runs in its own thread, so that it responds while a test waits for a process.
#[derive(Debug)]
pub struct Stub {
    proxy: Arc<Proxy>,
    server: Server,
}

impl Stub {
    /// Starts a stub in front of the node at this `http://` URL. The node may start later or stop.
    ///
    /// # Errors
    /// If the URL is not an `http://` URL, or there is no free port.
    pub fn in_front_of(upstream_url: &str) -> Result<Self> {
        let proxy = Arc::new(Proxy::new(Upstream::new(upstream_url)?));
        let served = Arc::clone(&proxy);
        let server = Server::start("stub-node", |listener| proxy::serve(listener, served))?;
        Ok(Self { proxy, server })
    }

    /// The URL of a port that refuses connections for the life of this process.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn dead() -> String {
        // Bound but never listening, so that no other process can use the port.
        static SOCKET: OnceLock<(TcpSocket, SocketAddr)> = OnceLock::new();
        let (_, address) = SOCKET.get_or_init(|| {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
            let address = socket.local_addr().expect("a bound socket has an address");
            (socket, address)
        });
        format!("http://{address}")
    }

    /// Its URL: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Its URL with a path, where providers put their keys: `stub.url_with_path("/v2/SECRETKEY")`.
    pub fn url_with_path(&self, path: &str) -> String {
        format!("{}/{}", self.url(), path.trim_start_matches('/'))
    }

    /// Adds a rule. Rules are tried in the order they were added, and the first that matches a request decides; only
    /// [`Fault::Delay`] delays the request and lets later rules apply too.
    pub fn fault(&self, fault: Fault, when: When) {
        self.proxy.add_rule(when.with_fault(fault));
    }

    /// Adds a rule that gives the first matching request the first of these faults, the second request the second, and so on until
    /// they are used up. [`Fault::Pass`] stands for a request without a fault.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>, when: When) {
        self.proxy.add_rule(when.with_script(faults.into_iter().collect()));
    }

    /// Removes all rules, so that everything passes.
    pub fn clear(&self) {
        self.proxy.clear_rules();
    }

    /// The requests recorded so far, in order of arrival.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.proxy.journal().clone()
    }

    /// The `eth_call`s recorded so far, in order of arrival.
    pub fn eth_calls(&self) -> Vec<RecordedRequest> {
        let journal = self.proxy.journal();
        journal.iter().filter(|request| request.method == "eth_call").cloned().collect()
    }

    /// Number of recorded requests of this method.
    pub fn count(&self, method: &str) -> usize {
        self.proxy.journal().iter().filter(|seen| seen.method == method).count()
    }

    /// The highest number of HTTP requests in flight at the same time.
    pub fn max_in_flight(&self) -> usize {
        self.proxy.max_in_flight()
    }

    /// Clears the recorded requests and the highest number in flight; keeps the rules.
    pub fn forget(&self) {
        self.proxy.forget();
    }

    /// Whether recorded requests include their parameters, which is the default. They take much memory in a long run.
    pub fn keep_params(&self, keep: bool) {
        self.proxy.keep_params(keep);
    }
}

#[cfg(test)]
mod tests;
