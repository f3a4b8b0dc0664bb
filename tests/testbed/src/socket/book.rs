//! What is known of every connection, and what is to be done to it. It knows JSON-RPC, and nothing of connections themselves.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

#[derive(Debug, Default)]
pub(super) struct Book {
    inner: Mutex<Inner>,
    stalled: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Rules,
    requests: HashMap<String, usize>,
    accepted: usize,
    open: HashMap<usize, Connection>,
}

/// What was asked for by the test.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) refuse: bool,
    pub(super) delay: Duration,
    pub(super) heads_to_drop: usize,
    pub(super) heads_muted: bool,
    /// By method.
    pub(super) holds: HashMap<String, Duration>,
}

#[derive(Debug)]
struct Connection {
    end: oneshot::Sender<End>,
    say: mpsc::UnboundedSender<(Message, Hold)>,
    /// Method and first parameter of the requests without an answer, by id.
    asked: HashMap<String, (String, Value)>,
    /// Kind by id.
    subscriptions: HashMap<String, String>,
}

/// How a connection ends.
#[derive(Debug, Clone)]
pub(super) enum End {
    Cut,
    Close(Option<CloseFrame>),
    /// The program is gone already.
    Gone,
}

impl End {
    pub(super) fn close(code: u16) -> Self {
        Self::Close(Some(CloseFrame { code: code.into(), reason: "".into() }))
    }
}

/// How long a message of the node's is held up: with all that come after it, and by itself.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Hold {
    pub(super) all: Duration,
    pub(super) alone: Duration,
}

impl Book {
    pub(super) fn set(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.lock().rules);
    }

    pub(super) fn stall(&self, on: bool) {
        self.stalled.send_replace(on);
    }

    pub(super) fn end_all(&self, end: &End) {
        for (_, connection) in self.lock().open.drain() {
            let _ = connection.end.send(end.clone());
        }
    }

    /// Sends these to every open subscription of a kind.
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
                    let hold = Hold { all: inner.rules.delay, alone: Duration::ZERO };
                    let _ = connection.say.send((notification.to_string().into(), hold));
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

    /// Takes a new connection in, unless none is to be.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let (end, ended) = oneshot::channel();
        let (say, said) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        if inner.rules.refuse {
            return None;
        }
        let number = inner.accepted;
        inner.accepted += 1;
        let connection =
            Connection { end, say, asked: HashMap::new(), subscriptions: HashMap::new() };
        inner.open.insert(number, connection);
        let seat = Seat { book: Arc::clone(self), number };
        Some(Place { seat, ended, said, stalled: self.stalled.subscribe() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's side of the book.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) seat: Seat,
    /// How the test wants it to end.
    pub(super) ended: oneshot::Receiver<End>,
    /// What the test wants the program to hear.
    pub(super) said: mpsc::UnboundedReceiver<(Message, Hold)>,
    pub(super) stalled: watch::Receiver<bool>,
}

/// Counts a connection as open until it is left or dropped.
#[derive(Debug)]
pub(super) struct Seat {
    book: Arc<Book>,
    number: usize,
}

impl Seat {
    pub(super) fn leave(&self) {
        self.book.lock().open.remove(&self.number);
    }

    /// Takes note of what the program says. Returns whether it passes.
    pub(super) fn hear_program(&self, message: &[u8]) -> bool {
        let mut inner = self.book.lock();
        let Inner { requests, open, .. } = &mut *inner;
        let Some(connection) = open.get_mut(&self.number) else {
            return false;
        };
        for request in each(message) {
            if let Some(method) = request["method"].as_str() {
                *requests.entry(method.to_owned()).or_default() += 1;
                let asked = (method.to_owned(), request["params"][0].clone());
                connection.asked.insert(request["id"].to_string(), asked);
            }
        }
        true
    }

    /// Takes note of what the node says. Returns how long that is held up, or nothing if it does not pass at all.
    pub(super) fn hear_node(&self, message: &[u8]) -> Option<Hold> {
        let mut inner = self.book.lock();
        let Inner { rules, open, .. } = &mut *inner;
        let connection = open.get_mut(&self.number)?;
        let mut hold = Hold { all: rules.delay, alone: Duration::ZERO };
        for said in each(message) {
            if said["method"] == "eth_subscription" {
                let id = said["params"]["subscription"].as_str().unwrap_or_default();
                let is_head =
                    connection.subscriptions.get(id).is_some_and(|kind| kind == "newHeads");
                if is_head && rules.swallow_head() {
                    return None;
                }
            } else if let Some((method, param)) = connection.asked.remove(&said["id"].to_string()) {
                connection.answered(&method, &param, &said["result"]);
                hold.alone = hold.alone.max(rules.holds.get(&method).copied().unwrap_or_default());
            }
        }
        Some(hold)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Rules {
    fn swallow_head(&mut self) -> bool {
        if self.heads_muted {
            return true;
        }
        let swallow = self.heads_to_drop > 0;
        self.heads_to_drop = self.heads_to_drop.saturating_sub(1);
        swallow
    }
}

impl Connection {
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

/// Each part of a batch, or the only one. None if it is no JSON.
fn each(message: &[u8]) -> Vec<Value> {
    match serde_json::from_slice(message) {
        Ok(Value::Array(parts)) => parts,
        Ok(only) => vec![only],
        Err(_) => Vec::new(),
    }
}
