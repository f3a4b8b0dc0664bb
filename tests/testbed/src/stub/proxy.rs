//! A request's way through the stub: rules, journal, the node behind, and the answer.

use std::{
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
    Seen,
    blocks::lag,
    fault::Fault,
    line::{Line, Lines},
    when::{Moment, Rule},
};

const HTML: &str = "<!DOCTYPE html><html><body><h1>We'll be right back</h1></body></html>\n";

/// The node behind.
///
/// hyper's client and not reqwest's, which would need a TLS provider as soon as anything in the build turns TLS on, and would obey
/// the environment's proxy settings.
#[derive(Debug)]
pub(super) struct Upstream {
    client: Client<HttpConnector, Body>,
    uri: Uri,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: String,
    pub(super) body: Bytes,
}

impl Upstream {
    pub(super) fn new(url: &str) -> Result<Self> {
        let uri: Uri = url.parse().context("the URL behind the stub node is none")?;
        ensure!(uri.scheme_str() == Some("http"), "the stub node passes on to http:// URLs only");
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), uri })
    }

    pub(super) async fn post(&self, body: Bytes) -> Result<Answer> {
        let request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body))?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Ok(Answer {
            status: head.status,
            content_type: content_type.unwrap_or("application/json").to_owned(),
            body: axum::body::to_bytes(Body::new(body), usize::MAX).await?,
        })
    }

    async fn head(&self) -> Option<u64> {
        let request =
            json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": [] });
        let answer = self.post(request.to_string().into()).await.ok()?;
        let answer: Value = serde_json::from_slice(&answer.body).ok()?;
        u64::from_str_radix(answer["result"].as_str()?.trim_start_matches("0x"), 16).ok()
    }
}

#[derive(Debug)]
pub(super) struct Proxy {
    upstream: Upstream,
    rules: Mutex<Vec<Rule>>,
    journal: Mutex<Vec<Seen>>,
    without_params: AtomicBool,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

pub(super) async fn serve(listener: tokio::net::TcpListener, proxy: Arc<Proxy>) {
    let router = Router::new()
        .fallback(
            async |State(proxy): State<Arc<Proxy>>,
                   ConnectInfo(line): ConnectInfo<Line>,
                   body: Bytes| {
                let on_hand = OnHand::new(&proxy);
                proxy.answer(&line, body, on_hand.count).await
            },
        )
        // A limit is the node's affair, or a fault's.
        .layer(DefaultBodyLimit::disable())
        .with_state(proxy);
    let service = router.into_make_service_with_connect_info::<Line>();
    // It ends never, and so fails never.
    let _ = axum::serve(Lines(listener), service).await;
}

impl Proxy {
    pub(super) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            rules: Mutex::default(),
            journal: Mutex::default(),
            without_params: AtomicBool::new(false),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        }
    }

    pub(super) fn add_rule(&self, rule: Rule) {
        lock(&self.rules).push(rule);
    }

    pub(super) fn clear_rules(&self) {
        lock(&self.rules).clear();
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Vec<Seen>> {
        lock(&self.journal)
    }

    pub(super) fn most_at_once(&self) -> usize {
        self.most_at_once.load(Ordering::Acquire)
    }

    pub(super) fn forget(&self) {
        self.journal().clear();
        self.most_at_once.store(self.at_once.load(Ordering::Acquire), Ordering::Release);
    }

    pub(super) fn keep_params(&self, keep: bool) {
        self.without_params.store(!keep, Ordering::Release);
    }

    async fn answer(&self, line: &Line, body: Bytes, on_hand: usize) -> Response {
        let (mut requests, is_batch) = match serde_json::from_slice(&body) {
            Ok(Value::Array(requests)) => (requests, true),
            Ok(request) => (vec![request], false),
            // The rules are asked all the same: a fault of the whole answer needs no JSON-RPC.
            Err(_) => (vec![Value::Null], false),
        };
        let needs_head = lock(&self.rules).iter().any(Rule::needs_head);
        let head = if needs_head { self.upstream.head().await } else { None };
        let moment = Moment { at: Instant::now(), bytes: body.len(), on_hand, head };
        let (faults, delay) = self.meet(&requests, moment);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(response) = whole_answer(&faults, line).await {
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

        let half = answer.body.len() / 2;
        if faults.contains(&Fault::Truncated) {
            answer.body.truncate(half);
        } else if faults.contains(&Fault::BrokenOff) {
            line.break_off_after(half as u64);
        }
        (answer.status, [(CONTENT_TYPE, answer.content_type)], answer.body).into_response()
    }

    /// Asks the rules and writes the journal. Returns each request's fault, and how long all of them are held up.
    fn meet(&self, requests: &[Value], moment: Moment) -> (Vec<Fault>, Duration) {
        let mut longest = Duration::ZERO;
        let mut faults = Vec::with_capacity(requests.len());
        let mut seen = Vec::with_capacity(requests.len());
        let mut rules = lock(&self.rules);
        for request in requests {
            let mut delay = None;
            let mut met = Fault::Pass;
            for rule in rules.iter_mut() {
                match rule.meet(request, &moment) {
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
            seen.push(Seen {
                at: moment.at,
                method: request["method"].as_str().unwrap_or_default().to_owned(),
                params: if keep { request["params"].clone() } else { Value::Null },
                bytes: moment.bytes,
                on_hand: moment.on_hand,
                answered,
            });
            longest = longest.max(delay.unwrap_or_default());
            faults.push(met);
        }
        // Before the rules are let go of, so that the journal is in the order that the rules counted in.
        self.journal().append(&mut seen);
        (faults, longest)
    }

    async fn pass(&self, body: Bytes) -> Answer {
        self.upstream.post(body).await.unwrap_or_else(|error| Answer {
            status: StatusCode::BAD_GATEWAY,
            content_type: "text/plain".to_owned(),
            body: format!("the stub node cannot reach the node behind it: {error:#}").into(),
        })
    }

    /// Passes on those requests that have no answer yet, if any.
    async fn pass_some(
        &self,
        requests: &[Value],
        answers: &[Option<Value>],
        is_batch: bool,
    ) -> Answer {
        let open: Vec<&Value> = requests
            .iter()
            .zip(answers)
            .filter_map(|(request, answer)| answer.is_none().then_some(request))
            .collect();
        let body = match open.as_slice() {
            [] => {
                return Answer {
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

/// The answer that hits all requests alike, if one of the faults is of that kind.
async fn whole_answer(faults: &[Fault], line: &Line) -> Option<Response> {
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
                // A test asked for a status or header that HTTP doesn't have: it will read this.
                (StatusCode::INTERNAL_SERVER_ERROR, format!("{fault:?}: {error}")).into_response()
            }));
        }
        match fault {
            Fault::NotJson => return Some(([(CONTENT_TYPE, "text/html")], HTML).into_response()),
            Fault::Hang => std::future::pending().await,
            Fault::Reset => {
                line.reset();
                return Some(().into_response());
            }
            _ => {}
        }
    }
    None
}

/// Makes one answer of the node's and the stub's own, in the order of the requests. A node's answer that is no JSON-RPC stays.
fn put_together(
    answer: &mut Answer,
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
            fault.tamper(&mut answer);
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

/// Counts a request while it is on hand, even if its client goes away.
struct OnHand<'a> {
    proxy: &'a Proxy,
    /// How many there are, this one among them.
    count: usize,
}

impl<'a> OnHand<'a> {
    fn new(proxy: &'a Proxy) -> Self {
        let count = proxy.at_once.fetch_add(1, Ordering::AcqRel) + 1;
        proxy.most_at_once.fetch_max(count, Ordering::AcqRel);
        Self { proxy, count }
    }
}

impl Drop for OnHand<'_> {
    fn drop(&mut self) {
        self.proxy.at_once.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A test's closure that panics under a lock must not take all later requests with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
