//! Health and metrics over HTTP, in a task of its own: no work of `watch` delays an answer.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::TEXT_FORMAT;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Monitor;
use crate::tally::RunError;

/// How long a request that is being answered may hold up the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

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
    pub async fn bind(address: &str, monitor: Arc<Monitor>) -> Result<Self, RunError> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("--listen {address}: cannot listen there"))?;
        let router = Router::new()
            .route("/eth/health", get(health))
            .route("/healthz", get(health))
            .route("/readyz", get(ready_to_serve))
            .route("/metrics", get(metrics))
            .with_state(monitor);
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
        let stopped = stop.clone().cancelled_owned();
        let serve = axum::serve(self.listener, self.router).with_graceful_shutdown(stopped);
        RunningServer { task: tokio::spawn(serve.into_future()), stop: stop.drop_guard() }
    }
}

/// A server that answers until it is stopped or dropped.
pub struct RunningServer {
    task: JoinHandle<io::Result<()>>,
    stop: DropGuard,
}

impl RunningServer {
    /// Returns only if it fails.
    pub async fn failure(&mut self) -> RunError {
        let error = match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("it stopped answering"),
            Ok(Err(error)) => error.into(),
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

async fn health(State(monitor): State<Arc<Monitor>>) -> Response {
    let health = monitor.health();
    (status(health.is_well()), Json(health)).into_response()
}

async fn ready_to_serve(State(monitor): State<Arc<Monitor>>) -> Response {
    let health = monitor.health();
    let ready = health.is_ready();
    let body = json!({
        "ready": ready,
        "role": health.role,
        "checkpoint_block": health.checkpoint_block,
        "head_block": health.head_block,
    });
    (status(ready), Json(body)).into_response()
}

async fn metrics(State(monitor): State<Arc<Monitor>>) -> Response {
    ([(CONTENT_TYPE, TEXT_FORMAT)], monitor.metrics()).into_response()
}
