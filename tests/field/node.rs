//! A simulated endpoint: JSON-RPC in, JSON-RPC out, from one of its backends, and with its faults.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::primitives::{Address, B256, Bytes, hex};
use async_trait::async_trait;
use ethtally::rpc::{HeaderMap, HttpError, HttpResponse, Transport};
use rand::{RngExt, rngs::StdRng};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    answers::{self, Trouble},
    faults::{Fault, Kind},
    field::{Fate, Field},
    words::{Meaning, Wording},
};

/// How a node takes state overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overrides {
    Takes,
    Refuses,
    /// As if there were no third parameter.
    Ignores,
}

/// What an endpoint is like, for good.
#[derive(Clone, Debug)]
pub(crate) struct Character {
    /// How far behind each of its backends is.
    pub(crate) lags: Vec<Duration>,
    /// How long after a block its logs are found.
    pub(crate) indexing: Duration,
    pub(crate) latency: Duration,
    /// Gas of a call.
    pub(crate) gas: u64,
    /// Bytes of a request and of a response.
    pub(crate) bytes: usize,
    /// Blocks in a range.
    pub(crate) range: u64,
    /// Of how many blocks the state is kept.
    pub(crate) keeps: u64,
    /// Calls return nothing where the state is not kept.
    pub(crate) empty_when_gone: bool,
    pub(crate) hashes: bool,
    pub(crate) overrides: Overrides,
    /// Unknown blocks have no logs, instead of an error.
    pub(crate) empty_when_unknown: bool,
    /// Blocks that were replaced are as unknown.
    pub(crate) forgets_replaced: bool,
    pub(crate) wording: BTreeMap<Meaning, Wording>,
    pub(crate) faults: Vec<Fault>,
}

/// A simulated endpoint.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) field: Arc<Field>,
    pub(crate) character: Character,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) random: StdRng,
    pub(crate) last_answer: Option<Vec<u8>>,
    names_other_chain: bool,
}

/// What a backend sees of the chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    /// As of when.
    pub(crate) time: Duration,
    /// How far the head is set back.
    pub(crate) back: u64,
    pub(crate) is_new: bool,
    pub(crate) other_chain: bool,
}

pub(crate) type Response = Result<HttpResponse, HttpError>;

impl Node {
    pub(crate) fn new(
        index: usize,
        field: Arc<Field>,
        character: Character,
        random: StdRng,
    ) -> Self {
        Self {
            index,
            field,
            character,
            state: Mutex::new(State { random, last_answer: None, names_other_chain: false }),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws from the node's own randomness.
    pub(crate) fn with_random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.state().random)
    }

    pub(crate) fn faults_now(&self, now: Duration) -> impl Iterator<Item = &Fault> {
        self.character.faults.iter().filter(move |fault| fault.is_on(now))
    }

    /// The fault that strikes this request, if one does.
    fn strike(&self, now: Duration, method: &str) -> Option<Kind> {
        let mut struck = None;
        for fault in self.faults_now(now) {
            let strikes = self.state().random.random_range(0..100) < fault.percent;
            let fits = match fault.kind {
                Kind::EmptyCall | Kind::OlderBlock | Kind::Newest => method == "eth_call",
                Kind::OtherChain if method == "eth_chainId" => {
                    // Never twice in a row: that would be a node of that chain.
                    let mut state = self.state();
                    state.names_other_chain = strikes && !state.names_other_chain;
                    state.names_other_chain
                }
                Kind::OtherChain => method == "eth_call",
                Kind::OtherHeader => method.starts_with("eth_getBlock"),
                Kind::NoLogs | Kind::OtherLogs => method == "eth_getLogs",
                Kind::OddNumbers => {
                    method == "eth_blockNumber" || method.starts_with("eth_getBlock")
                }
                Kind::WrongChain | Kind::Resyncs | Kind::Frozen | Kind::GoesBack(_) => false,
                _ => true,
            };
            if strikes && fits {
                struck = struck.or(Some(fault.kind));
            }
        }
        struck
    }

    /// What one of the backends sees now.
    fn sight(&self, now: Duration) -> Sight {
        let lags = &self.character.lags;
        let lag = lags[self.state().random.random_range(0..lags.len())];
        let mut sight =
            Sight { time: now.saturating_sub(lag), back: 0, is_new: false, other_chain: false };
        for fault in self.faults_now(now) {
            match fault.kind {
                Kind::Frozen => sight.time = sight.time.min(fault.from),
                Kind::GoesBack(blocks) => sight.back = blocks,
                Kind::Resyncs => sight.is_new = true,
                Kind::WrongChain => sight.other_chain = true,
                _ => {}
            }
        }
        sight
    }

    fn wording(&self, meaning: Meaning) -> &Wording {
        &self.character.wording[&meaning]
    }

    pub(crate) fn page(&self, status: u16, body: impl Into<Vec<u8>>) -> Response {
        self.field.book().statuses.insert(status);
        Ok(HttpResponse { status, headers: HeaderMap::new(), body: body.into() })
    }

    pub(crate) fn error(&self, meaning: Meaning, id: &str) -> Response {
        let wording = self.wording(meaning);
        self.field.book().codes.insert(wording.code);
        self.page(wording.status, wording.body(id))
    }

    /// The response, before it is spoilt.
    pub(crate) fn answer(
        &self,
        asked: &Asked,
        kind: Option<Kind>,
        now: Duration,
    ) -> (Response, Fate) {
        let sight = self.sight(now);
        let spoilt = kind.map_or(Fate::Answered, |kind| Fate::Struck(kind.name()));
        let answer = answers::answer(self, asked, sight, kind);
        match answer {
            Ok(result) => {
                let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, asked.id);
                (self.page(200, body), spoilt)
            }
            Err(Trouble::Late(meaning)) => (self.error(meaning, &asked.id), Fate::Struck("lag")),
            Err(Trouble::LateAndEmpty) => {
                let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":[]}}"#, asked.id);
                let fate = if kind.is_some() { spoilt } else { Fate::Struck("lag") };
                (self.page(200, body), fate)
            }
            Err(Trouble::Says(meaning)) => (self.error(meaning, &asked.id), spoilt),
            Err(Trouble::BadRequest) => {
                let body = format!(
                    r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32601,"message":"no such method"}}}}"#,
                    asked.id
                );
                (self.page(200, body), Fate::Answered)
            }
        }
    }
}

/// A request, taken apart.
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) method: String,
    pub(crate) params: Value,
    pub(crate) bytes: usize,
}

impl Asked {
    fn of(body: &[u8]) -> Self {
        let mut request: Value = serde_json::from_slice(body).expect("requests are JSON");
        Self {
            id: request["id"].to_string(),
            method: request["method"].as_str().unwrap_or_default().to_owned(),
            params: request["params"].take(),
            bytes: body.len(),
        }
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.method, self.params.to_string()).hash(&mut hasher);
        hasher.finish()
    }

    /// For the trace.
    fn shown(&self) -> String {
        let mut text = self.params.to_string();
        if self.method == "eth_call" {
            let data = self.params[0]["data"].as_str().unwrap_or_default();
            text =
                format!("{}+{} at {}", &data[..data.len().min(10)], data.len() / 2, self.params[1]);
        }
        text.truncate(160);
        format!("{} {text}", self.method)
    }
}

#[async_trait]
impl Transport for Node {
    async fn post(&self, body: Vec<u8>, _: usize) -> Response {
        let asked = Asked::of(&body);
        if !self.field.count() {
            return std::future::pending().await;
        }
        let half = self.character.latency.mul_f64(self.state().random.random_range(0.1..0.5));
        let (name, shown) = (self.index, asked.shown());
        self.field.tell(format!("{name} #{} <- {shown}", asked.id));
        sleep(half).await;
        let now = self.field.now();
        let key = asked.key();
        let kind = self.strike(now, &asked.method);
        let (response, fate) = match kind {
            Some(kind) => self.spoilt(&asked, kind, now, key).await,
            None => self.answer(&asked, None, now),
        };
        let has_failed = fate != Fate::Answered;
        self.field.note(key, fate);
        sleep(half).await;
        let told = match &response {
            Ok(response) => {
                let mut text = String::from_utf8_lossy(&response.body).into_owned();
                if text.len() > 140 {
                    let end = (0..=140).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
                    text.truncate(end);
                }
                format!("{} {text}", response.status)
            }
            Err(error) => error.to_string(),
        };
        let fate = if has_failed { format!("{fate:?} ") } else { String::new() };
        self.field.tell(format!("{name} #{} -> {fate}{told}", asked.id));
        if let Ok(response) = &response {
            self.state().last_answer = Some(response.body.clone());
        }
        response
    }
}

/// The bytes of a text in hexadecimal.
pub(crate) fn bytes_of(value: &Value) -> Option<Bytes> {
    hex::decode(value.as_str()?).ok().map(Bytes::from)
}

/// The number of a text in hexadecimal.
pub(crate) fn number_of(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// The address in a text.
pub(crate) fn address_of(value: &Value) -> Option<Address> {
    value.as_str()?.parse().ok()
}

/// The hash in a text.
pub(crate) fn hash_of(value: &Value) -> Option<B256> {
    value.as_str()?.parse().ok()
}
