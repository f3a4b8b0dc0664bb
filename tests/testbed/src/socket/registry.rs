//! The open connections, their requests and subscriptions, and the faults to inject. It knows JSON-RPC, but no network.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

#[derive(Debug, Default)]
pub(super) struct Registry {
    inner: Mutex<State>,
    stalled: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    settings: Settings,
    requests: HashMap<String, usize>,
    accepted: usize,
    open: HashMap<usize, ConnectionState>,
}

/// The faults that the test has set.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) refuse: bool,
    pub(super) delay: Duration,
    pub(super) heads_to_drop: usize,
    pub(super) heads_muted: bool,
    /// By method.
    pub(super) response_delays: HashMap<String, Duration>,
}

#[derive(Debug)]
struct ConnectionState {
    end: oneshot::Sender<Termination>,
    inject: mpsc::UnboundedSender<(Message, Hold)>,
    /// Method and first parameter of the pending requests, by id.
    pending: HashMap<String, (String, Value)>,
    /// Kind by id.
    subscriptions: HashMap<String, String>,
}

/// How a connection ends.
#[derive(Debug, Clone)]
pub(super) enum Termination {
    Reset,
    Close(Option<CloseFrame>),
    /// The program has closed it already.
    ClientGone,
}

impl Termination {
    pub(super) fn close(code: u16) -> Self {
        Self::Close(Some(CloseFrame { code: code.into(), reason: "".into() }))
    }
}

/// How long a message from the node is delayed: together with all after it, and on its own.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Hold {
    pub(super) all: Duration,
    pub(super) alone: Duration,
}

impl Registry {
    pub(super) fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.lock().settings);
    }

    pub(super) fn stall(&self, on: bool) {
        self.stalled.send_replace(on);
    }

    pub(super) fn end_all(&self, end: &Termination) {
        for (_, connection) in self.lock().open.drain() {
            let _ = connection.end.send(end.clone());
        }
    }

    /// Sends these results to every open subscription of a kind.
    pub(super) fn notify(&self, kind: &str, results: &[Value]) {
        let inner = self.lock();
        for connection in inner.open.values() {
            for (id, of_kind) in &connection.subscriptions {
                for result in results.iter().filter(|_| of_kind == kind) {
                    let notification = json!({
                        "jsonrpc": "2.0",
                        "method": "eth_subscription",
                        "params": { "subscription": id, "result": result },
                    });
                    let hold = Hold { all: inner.settings.delay, alone: Duration::ZERO };
                    let _ = connection.inject.send((notification.to_string().into(), hold));
                }
            }
        }
    }

    pub(super) fn accepted(&self) -> usize {
        self.lock().accepted
    }

    pub(super) fn open(&self) -> usize {
        self.lock().open.len()
    }

    pub(super) fn requests(&self, method: &str) -> usize {
        self.lock().requests.get(method).copied().unwrap_or_default()
    }

    pub(super) fn subscriptions(&self, kind: &str) -> usize {
        let inner = self.lock();
        let kinds = inner.open.values().flat_map(|connection| connection.subscriptions.values());
        kinds.filter(|of_kind| *of_kind == kind).count()
    }

    /// Registers a new connection, unless connections are refused.
    pub(super) fn register(self: &Arc<Self>) -> Option<Session> {
        let (end, ended) = oneshot::channel();
        let (inject, injected) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        if inner.settings.refuse {
            return None;
        }
        let number = inner.accepted;
        inner.accepted += 1;
        let connection =
            ConnectionState { end, inject, pending: HashMap::new(), subscriptions: HashMap::new() };
        inner.open.insert(number, connection);
        let registration = Registration { registry: Arc::clone(self), number };
        Some(Session { registration, ended, injected, stalled: self.stalled.subscribe() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the relay of a connection gets from the registry.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) registration: Registration,
    /// The end that the test asks for.
    pub(super) ended: oneshot::Receiver<Termination>,
    /// Messages from the test to the program.
    pub(super) injected: mpsc::UnboundedReceiver<(Message, Hold)>,
    pub(super) stalled: watch::Receiver<bool>,
}

/// Counts a connection as open until it is removed or dropped.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Arc<Registry>,
    number: usize,
}

impl Registration {
    pub(super) fn remove(&self) {
        self.registry.lock().open.remove(&self.number);
    }

    /// Records a message from the program. Returns whether it passes.
    pub(super) fn record_from_program(&self, message: &[u8]) -> bool {
        let mut inner = self.registry.lock();
        let State { requests, open, .. } = &mut *inner;
        let Some(connection) = open.get_mut(&self.number) else {
            return false;
        };
        for request in each(message) {
            if let Some(method) = request["method"].as_str() {
                *requests.entry(method.to_owned()).or_default() += 1;
                let pending = (method.to_owned(), request["params"][0].clone());
                connection.pending.insert(request["id"].to_string(), pending);
            }
        }
        true
    }

    /// Records a message from the node. Returns its delay, or `None` if it is dropped.
    pub(super) fn record_from_node(&self, message: &[u8]) -> Option<Hold> {
        let mut inner = self.registry.lock();
        let State { settings, open, .. } = &mut *inner;
        let connection = open.get_mut(&self.number)?;
        let mut hold = Hold { all: settings.delay, alone: Duration::ZERO };
        for response in each(message) {
            if response["method"] == "eth_subscription" {
                let id = response["params"]["subscription"].as_str().unwrap_or_default();
                let is_head =
                    connection.subscriptions.get(id).is_some_and(|kind| kind == "newHeads");
                if is_head && settings.drops_head() {
                    return None;
                }
            } else if let Some((method, param)) =
                connection.pending.remove(&response["id"].to_string())
            {
                connection.answered(&method, &param, &response["result"]);
                hold.alone = hold
                    .alone
                    .max(settings.response_delays.get(&method).copied().unwrap_or_default());
            }
        }
        Some(hold)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Settings {
    fn drops_head(&mut self) -> bool {
        if self.heads_muted {
            return true;
        }
        let drops = self.heads_to_drop > 0;
        self.heads_to_drop = self.heads_to_drop.saturating_sub(1);
        drops
    }
}

impl ConnectionState {
    fn answered(&mut self, method: &str, param: &Value, result: &Value) {
        match (method, param.as_str(), result) {
            ("eth_subscribe", Some(kind), Value::String(id)) => {
                self.subscriptions.insert(id.clone(), kind.to_owned());
            }
            ("eth_unsubscribe", Some(id), Value::Bool(true)) => {
                self.subscriptions.remove(id);
            }
            _ => {}
        }
    }
}

/// The requests or responses of a message, which may be a batch. Empty if it is not JSON.
fn each(message: &[u8]) -> Vec<Value> {
    match serde_json::from_slice(message) {
        Ok(Value::Array(parts)) => parts,
        Ok(only) => vec![only],
        Err(_) => Vec::new(),
    }
}
