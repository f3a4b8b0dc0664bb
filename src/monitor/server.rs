//! Health and metrics over HTTP.

use std::{net::SocketAddr, sync::Arc};

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
use tokio::net::TcpListener;

use super::Monitor;

/// Listens already, answers once it runs.
pub struct Server {
    listener: TcpListener,
    router: Router,
}

impl Server {
    /// Listens on `address`, `HOST:PORT`.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn bind(address: &str, monitor: Arc<Monitor>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("--listen {address}: cannot listen there"))?;
        let router = Router::new()
            .route("/eth/health", get(health))
            .route("/healthz", get(health))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(monitor);
        Ok(Self { listener, router })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers, for ever.
    ///
    /// # Errors
    /// When it can no longer listen.
    pub async fn run(self) -> anyhow::Result<()> {
        axum::serve(self.listener, self.router).await.context("--listen")
    }
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn health(State(monitor): State<Arc<Monitor>>) -> Response {
    let health = monitor.health();
    (status(health.is_well()), Json(health)).into_response()
}

async fn ready(State(monitor): State<Arc<Monitor>>) -> Response {
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
