//! Health and metrics over HTTP, in a task of its own: no work of `watch` delays an answer.
//!
//! Clients that are slow or idle cost little and keep nobody out: connections end after a time, and where there are
//! too many, the oldest ends for the newest.

use std::{collections::VecDeque, net::SocketAddr, pin::pin, time::Duration};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus::TEXT_FORMAT;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Monitors, page};
use crate::tally::RunError;

/// How long a request that is being answered may hold up the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Maximum connections at once.
const CONNECTIONS: usize = 100;
/// How long a client may take to send the head of a request, from the connection or the last answer on.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION: Duration = Duration::from_secs(60);
/// How long its last answer may then take.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// Listens, and answers once it is started.
pub struct Server {
    listener: TcpListener,
    router: Router,
}

impl Server {
    /// Listens on `address`, `HOST:PORT`.
    ///
    /// # Errors
    /// When the address is in use or not local.
    pub async fn bind(address: &str, monitors: Monitors) -> Result<Self, RunError> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("--listen {address}: cannot listen there"))?;
        let router = Router::new()
            .route("/eth/health", get(health))
            .route("/healthz", get(health))
            .route("/readyz", get(ready_to_serve))
            .route("/metrics", get(metrics))
            .merge(page::routes())
            .with_state(monitors);
        Ok(Self { listener, router })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> Result<SocketAddr, RunError> {
        Ok(self.listener.local_addr().context("--listen")?)
    }

    /// Answers from now on, in a task.
    pub fn start(self) -> RunningServer {
        let stop = CancellationToken::new();
        let serve = serve(self.listener, self.router, stop.clone());
        RunningServer { task: tokio::spawn(serve), stop: stop.drop_guard() }
    }
}

/// Accepts connections until it is stopped, and then waits for the answers in progress.
async fn serve(mut listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    loop {
        let (stream, _) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = Listener::accept(&mut listener) => accepted,
        };
        while connections.try_join_next().is_some() {}
        oldest_first.retain(|connection: &AbortHandle| !connection.is_finished());
        if oldest_first.len() >= CONNECTIONS
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        let answered = answer(stream, router.clone(), stop.clone());
        oldest_first.push_back(connections.spawn(answered));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Answers the requests of one connection.
async fn answer(stream: TcpStream, router: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A client that breaks its connection gets no answer, and needs none.
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(CONNECTION) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER, connection).await;
}

/// A server that answers until it is stopped or dropped.
pub struct RunningServer {
    task: JoinHandle<()>,
    stop: DropGuard,
}

impl RunningServer {
    /// Returns only if it fails.
    pub async fn failure(&mut self) -> RunError {
        let error = match (&mut self.task).await {
            Ok(()) => anyhow::anyhow!("it stopped answering"),
            Err(error) => error.into(),
        };
        error.context("--listen").into()
    }

    /// Finishes the requests in progress and ends.
    pub async fn stop(self) {
        drop(self.stop);
        if !self.task.is_finished() {
            // Its task ends with the process at the latest.
            let _ = timeout(LAST_ANSWERS, self.task).await;
        }
    }
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn health(State(monitors): State<Monitors>) -> Response {
    let (is_well, body) = monitors.health();
    (status(is_well), Json(body)).into_response()
}

async fn ready_to_serve(State(monitors): State<Monitors>) -> Response {
    let (is_ready, body) = monitors.readiness();
    (status(is_ready), Json(body)).into_response()
}

async fn metrics(State(monitors): State<Monitors>) -> Response {
    ([(CONTENT_TYPE, TEXT_FORMAT)], monitors.metrics()).into_response()
}
