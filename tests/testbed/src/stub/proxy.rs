//! From request to response: rules, journal, the upstream node.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::{Request, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use super::{
    RecordedRequest,
    blocks::{hash_in, lag, without_block},
    connection::{BreakableListener, ConnectionHandle},
    fault::Fault,
    when::{RequestContext, Rule},
};

const HTML: &str = "<!DOCTYPE html><html><body><h1>We'll be right back</h1></body></html>\n";

/// The upstream node.
///
/// Uses hyper's client: reqwest's needs a TLS provider as soon as anything in the build enables TLS, and obeys the environment's
/// proxy settings.
#[derive(Debug)]
pub(super) struct Upstream {
    client: Client<HttpConnector, Body>,
    uri: Uri,
}

pub(super) struct UpstreamResponse {
    pub(super) status: StatusCode,
    pub(super) content_type: String,
    pub(super) body: Bytes,
}

impl Upstream {
    pub(super) fn new(url: &str) -> Result<Self> {
        let uri: Uri = url.parse().context("the upstream URL is invalid")?;
        ensure!(uri.scheme_str() == Some("http"), "the upstream URL must be http://");
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), uri })
    }

    pub(super) async fn post(&self, body: Bytes) -> Result<UpstreamResponse> {
        let request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body))?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Ok(UpstreamResponse {
            status: head.status,
            content_type: content_type.unwrap_or("application/json").to_owned(),
            body: axum::body::to_bytes(Body::new(body), usize::MAX).await?,
        })
    }

    async fn head(&self) -> Option<u64> {
        let request =
            json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": [] });
        number_in(&self.ask(&request).await?["result"])
    }

    /// The number of the block with this hash.
    async fn number_of(&self, hash: &str) -> Option<u64> {
        let request = json!({
            "jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByHash", "params": [hash, false],
        });
        number_in(&self.ask(&request).await?["result"]["number"])
    }

    async fn ask(&self, request: &Value) -> Option<Value> {
        let answer = self.post(request.to_string().into()).await.ok()?;
        serde_json::from_slice(&answer.body).ok()
    }
}

fn number_in(text: &Value) -> Option<u64> {
    u64::from_str_radix(text.as_str()?.trim_start_matches("0x"), 16).ok()
}

#[derive(Debug)]
pub(super) struct Proxy {
    upstream: Upstream,
    /// When which head was first seen, for [`Fault::Pool`].
    heads: Mutex<Vec<(Instant, u64)>>,
    rules: Mutex<Vec<Rule>>,
    journal: Mutex<Vec<RecordedRequest>>,
    /// The last response to each method.
    last_responses: Mutex<HashMap<String, Bytes>>,
    without_params: AtomicBool,
    in_flight_now: AtomicUsize,
    max_in_flight: AtomicUsize,
}

pub(super) async fn serve(listener: tokio::net::TcpListener, proxy: Arc<Proxy>) {
    let router = Router::new()
        .fallback(
            async |State(proxy): State<Arc<Proxy>>,
                   ConnectInfo(connection): ConnectInfo<ConnectionHandle>,
                   body: Bytes| {
                let in_flight = InFlight::new(&proxy);
                proxy.answer(&connection, body, in_flight.count).await
            },
        )
        // No limit: that is up to the node or a fault.
        .layer(DefaultBodyLimit::disable())
        .with_state(proxy);
    let service = router.into_make_service_with_connect_info::<ConnectionHandle>();
    // It never ends, so it never fails.
    let _ = axum::serve(BreakableListener(listener), service).await;
}

impl Proxy {
    pub(super) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            heads: Mutex::default(),
            rules: Mutex::default(),
            journal: Mutex::default(),
            last_responses: Mutex::default(),
            without_params: AtomicBool::new(false),
            in_flight_now: AtomicUsize::new(0),
            max_in_flight: AtomicUsize::new(0),
        }
    }

    pub(super) fn add_rule(&self, rule: Rule) {
        lock(&self.rules).push(rule);
    }

    pub(super) fn clear_rules(&self) {
        lock(&self.rules).clear();
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Vec<RecordedRequest>> {
        lock(&self.journal)
    }

    pub(super) fn max_in_flight(&self) -> usize {
        self.max_in_flight.load(Ordering::Acquire)
    }

    pub(super) fn forget(&self) {
        self.journal().clear();
        self.max_in_flight.store(self.in_flight_now.load(Ordering::Acquire), Ordering::Release);
    }

    pub(super) fn keep_params(&self, keep: bool) {
        self.without_params.store(!keep, Ordering::Release);
    }

    async fn answer(
        &self,
        connection: &ConnectionHandle,
        body: Bytes,
        in_flight: usize,
    ) -> Response {
        let (mut requests, is_batch) = match serde_json::from_slice(&body) {
            Ok(Value::Array(requests)) => (requests, true),
            Ok(request) => (vec![request], false),
            // The rules apply all the same: a fault of the whole HTTP response needs no JSON-RPC.
            Err(_) => (vec![Value::Null], false),
        };
        let needs_head = lock(&self.rules).iter().any(Rule::needs_head);
        let head = if needs_head { self.upstream.head().await } else { None };
        let context = RequestContext { at: Instant::now(), bytes: body.len(), in_flight, head };
        let (faults, delay) = self.meet(&requests, context);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(response) = whole_answer(&faults, connection).await {
            return response;
        }

        let mut answers = Vec::with_capacity(requests.len());
        let mut changed = false;
        for (request, fault) in requests.iter_mut().zip(&faults) {
            let own = match fault {
                Fault::Lagging(blocks) => {
                    changed = true;
                    self.upstream
                        .head()
                        .await
                        .and_then(|head| lag(request, head.saturating_sub(*blocks)))
                }
                Fault::AtBlock(block) => {
                    changed = true;
                    request["params"][1] = json!(format!("{block:#x}"));
                    None
                }
                Fault::AnsweredBy(url) => by_another(url, request).await,
                Fault::Pool(delays) | Fault::Unindexed(delays) => {
                    changed = true;
                    self.behind(request, delays).await
                }
                Fault::IgnoresOverrides => {
                    changed = true;
                    if let Some(params) = request["params"].as_array_mut() {
                        params.truncate(2);
                    }
                    None
                }
                Fault::GasCap(gas) => {
                    changed = true;
                    request["params"][0]["gas"] = json!(format!("{gas:#x}"));
                    None
                }
                fault => fault.own_answer(request),
            };
            answers.push(own.map(|(field, value)| {
                let mut answer = json!({ "jsonrpc": "2.0", "id": request["id"] });
                answer[field] = value;
                answer
            }));
        }

        let mut answer = if answers.iter().all(Option::is_none) && !changed {
            self.pass(body).await
        } else {
            self.pass_some(&requests, &answers, is_batch).await
        };
        if answers.iter().any(Option::is_some) || faults.iter().any(Fault::tampers) {
            put_together(&mut answer, &requests, answers, &faults, is_batch);
        }

        let method = requests.first().and_then(|request| request["method"].as_str());
        let method = method.unwrap_or_default().to_owned();
        let before = lock(&self.last_responses).insert(method, answer.body.clone());
        if let Some(before) = before.filter(|_| faults.contains(&Fault::ResponseBefore)) {
            answer.body = before;
        }

        let half = answer.body.len() / 2;
        if faults.contains(&Fault::Truncated) {
            answer.body.truncate(half);
        } else if faults.contains(&Fault::BrokenOff) {
            connection.break_off_after(half as u64);
        }
        (answer.status, [(CONTENT_TYPE, answer.content_type)], answer.body).into_response()
    }

    /// Treats a request like one of several nodes, each this far behind.
    async fn behind(
        &self,
        request: &mut Value,
        delays: &[Duration],
    ) -> Option<(&'static str, Value)> {
        let newest = self.upstream.head().await?;
        let asked = match hash_in(request) {
            Some(hash) => Some(self.upstream.number_of(hash).await?),
            None => None,
        };
        let now = Instant::now();
        let head = {
            let mut heads = lock(&self.heads);
            if heads.last().is_none_or(|(_, head)| *head < newest) {
                heads.push((now, newest));
            }
            // What was there at first, each has.
            let delay = delays[rand::random_range(0..delays.len())];
            let seen = heads.iter().rev().find(|(when, _)| *when + delay <= now);
            seen.or(heads.first()).map_or(newest, |(_, head)| *head).min(newest)
        };
        match asked {
            Some(asked) => (asked > head).then(|| without_block(request)),
            None => lag(request, head),
        }
    }

    /// Applies the rules and writes the journal. Returns each request's fault, and the delay of all.
    fn meet(&self, requests: &[Value], context: RequestContext) -> (Vec<Fault>, Duration) {
        let mut longest = Duration::ZERO;
        let mut faults = Vec::with_capacity(requests.len());
        let mut seen = Vec::with_capacity(requests.len());
        let mut rules = lock(&self.rules);
        for request in requests {
            let mut delay = None;
            let mut met = Fault::Pass;
            for rule in rules.iter_mut() {
                match rule.meet(request, &context) {
                    None => {}
                    Some(Fault::Delay(time)) => delay = Some(delay.unwrap_or_default() + time),
                    Some(fault) => {
                        met = fault;
                        break;
                    }
                }
            }
            let answered = match (&met, delay) {
                (Fault::Pass, Some(time)) => Fault::Delay(time).name(),
                (fault, _) => fault.name(),
            };
            let keep = !self.without_params.load(Ordering::Acquire);
            seen.push(RecordedRequest {
                at: context.at,
                method: request["method"].as_str().unwrap_or_default().to_owned(),
                params: if keep { request["params"].clone() } else { Value::Null },
                bytes: context.bytes,
                in_flight: context.in_flight,
                answered,
            });
            longest = longest.max(delay.unwrap_or_default());
            faults.push(met);
        }
        // Before the rules are unlocked, so that the journal has the order in which the rules counted.
        self.journal().append(&mut seen);
        (faults, longest)
    }

    async fn pass(&self, body: Bytes) -> UpstreamResponse {
        self.upstream.post(body).await.unwrap_or_else(|error| UpstreamResponse {
            status: StatusCode::BAD_GATEWAY,
            content_type: "text/plain".to_owned(),
            body: format!("the stub node cannot reach its upstream: {error:#}").into(),
        })
    }

    /// Forwards the requests that have no response yet, if any.
    async fn pass_some(
        &self,
        requests: &[Value],
        answers: &[Option<Value>],
        is_batch: bool,
    ) -> UpstreamResponse {
        let open: Vec<&Value> = requests
            .iter()
            .zip(answers)
            .filter_map(|(request, answer)| answer.is_none().then_some(request))
            .collect();
        let body = match open.as_slice() {
            [] => {
                return UpstreamResponse {
                    status: StatusCode::OK,
                    content_type: "application/json".to_owned(),
                    body: Bytes::from_static(b"[]"),
                };
            }
            [request] if !is_batch => request.to_string(),
            _ => json!(open).to_string(),
        };
        self.pass(body.into()).await
    }
}

/// What the node at this URL answers: a `result` or an `error` field with its value.
async fn by_another(url: &str, request: &Value) -> Option<(&'static str, Value)> {
    let answer = Upstream::new(url).ok()?.post(request.to_string().into()).await.ok()?;
    let answer: Value = serde_json::from_slice(&answer.body).ok()?;
    let field = if answer["error"].is_null() { "result" } else { "error" };
    Some((field, answer[field].clone()))
}

/// The response to the whole HTTP request, if one of the faults demands it.
async fn whole_answer(faults: &[Fault], connection: &ConnectionHandle) -> Option<Response> {
    for fault in faults {
        if let Some(Fault::Status { status, headers, body }) = fault.as_status() {
            let content_type = match body.as_bytes().first() {
                Some(b'<') => "text/html",
                Some(b'{') => "application/json",
                _ => "text/plain",
            };
            let mut response =
                Response::builder().status(status).header(CONTENT_TYPE, content_type);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            let response = response.body(Body::from(body));
            return Some(response.unwrap_or_else(|error| {
                // The test set an invalid status or header: report it.
                (StatusCode::INTERNAL_SERVER_ERROR, format!("{fault:?}: {error}")).into_response()
            }));
        }
        match fault {
            Fault::NotJson => return Some(([(CONTENT_TYPE, "text/html")], HTML).into_response()),
            Fault::Hang => std::future::pending().await,
            Fault::Reset => {
                connection.reset();
                return Some(().into_response());
            }
            _ => {}
        }
    }
    None
}

/// Merges the node's responses and the stub's own, in the order of the requests. Leaves a response that is not JSON-RPC as it is.
fn put_together(
    answer: &mut UpstreamResponse,
    requests: &[Value],
    own: Vec<Option<Value>>,
    faults: &[Fault],
    is_batch: bool,
) {
    let mut passed: Vec<Value> = match serde_json::from_slice(&answer.body) {
        Ok(Value::Array(answers)) => answers,
        Ok(answer) => vec![answer],
        Err(_) => return,
    };
    let mut all = Vec::with_capacity(requests.len());
    for ((request, own), fault) in requests.iter().zip(own).zip(faults) {
        let theirs = || {
            let position = passed.iter().position(|answer| answer["id"] == request["id"])?;
            let mut answer = passed.swap_remove(position);
            fault.tamper(request, &mut answer);
            Some(answer)
        };
        all.extend(own.or_else(theirs));
    }
    answer.body = match all.pop() {
        Some(only) if !is_batch => only.to_string().into(),
        last => {
            all.extend(last);
            json!(all).to_string().into()
        }
    };
}

/// Counts a request while it is in flight, even if its client disconnects.
struct InFlight<'a> {
    proxy: &'a Proxy,
    /// Number in flight, including this one.
    count: usize,
}

impl<'a> InFlight<'a> {
    fn new(proxy: &'a Proxy) -> Self {
        let count = proxy.in_flight_now.fetch_add(1, Ordering::AcqRel) + 1;
        proxy.max_in_flight.fetch_max(count, Ordering::AcqRel);
        Self { proxy, count }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.proxy.in_flight_now.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Ignores poisoning: a test's closure that panics under a lock must not fail all later requests.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
