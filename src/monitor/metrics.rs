//! What `watch` has done, counted for Prometheus. Owns the names of the metrics.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Registry, TextEncoder,
};

use serde::Serialize;

use super::Health;
use crate::{
    follow::{Stored, WatchEvent},
    tally::RequestCounts,
};

/// What `watch` has done so far, or within a minute.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct WatchCounts {
    /// Blocks whose wallets were stored.
    pub blocks: u64,
    /// Logs in them.
    pub logs: u64,
    /// Totals written.
    pub updated: u64,
    /// Wallets that could not be read.
    pub failed: u64,
    /// Totals not written because the table holds a newer read.
    pub superseded: u64,
    /// `eth_call`s.
    pub calls: u64,
    /// Reorganisations.
    pub reorgs: u64,
    /// Errors.
    pub errors: u64,
}

impl WatchCounts {
    /// What was done since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            blocks: self.blocks - before.blocks,
            logs: self.logs - before.logs,
            updated: self.updated - before.updated,
            failed: self.failed - before.failed,
            superseded: self.superseded - before.superseded,
            calls: self.calls - before.calls,
            reorgs: self.reorgs - before.reorgs,
            errors: self.errors - before.errors,
        }
    }
}

/// The metrics by their names.
pub(super) struct Metrics {
    registry: Registry,
    requests_so_far: Box<dyn Fn() -> RequestCounts + Send + Sync>,
    oldest: Mutex<Option<DateTime<Utc>>>,
    blocks: IntCounter,
    logs: IntCounter,
    refreshed: IntCounter,
    unreadable: IntCounter,
    superseded: IntCounter,
    requests: IntCounter,
    eth_calls: IntCounter,
    retries: IntCounter,
    connections: IntCounter,
    reconnects: IntCounter,
    gaps: IntCounter,
    reorgs: IntCounter,
    errors: IntCounter,
    checkpoint: IntGauge,
    head: IntGauge,
    connected: IntGauge,
    active: IntGauge,
    oldest_age: Gauge,
    latency: Histogram,
}

/// From one block a second to a node that is days behind, in seconds.
const LATENCIES: [f64; 14] =
    [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

impl Metrics {
    pub(super) fn new(requests_so_far: Box<dyn Fn() -> RequestCounts + Send + Sync>) -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("ethtally_{name}"), help).expect("a good name");
            registry.register(Box::new(counter.clone())).expect("each name once");
            counter
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("ethtally_{name}"), help).expect("a good name");
            registry.register(Box::new(gauge.clone())).expect("each name once");
            gauge
        };
        let oldest_age = Gauge::new(
            "ethtally_oldest_row_age_seconds",
            "Age of the row that was updated longest ago, looked up once a minute; NaN if there are no rows",
        )
        .expect("a good name");
        registry.register(Box::new(oldest_age.clone())).expect("each name once");
        let latency = HistogramOpts::new(
            "ethtally_block_to_stored_seconds",
            "Time from a new block's timestamp until its wallets are stored",
        );
        let latency =
            Histogram::with_opts(latency.buckets(LATENCIES.into())).expect("good buckets");
        registry.register(Box::new(latency.clone())).expect("each name once");
        Self {
            blocks: counter("blocks_total", "Blocks whose wallets were stored"),
            logs: counter("logs_total", "Logs of the profile's events"),
            refreshed: counter("wallets_refreshed_total", "Totals written"),
            unreadable: counter("wallets_unreadable_total", "Failed reads of a wallet"),
            superseded: counter(
                "wallets_superseded_total",
                "Totals not written because the table holds a newer read",
            ),
            requests: counter("requests_total", "HTTP requests to the node, retries included"),
            eth_calls: counter("eth_calls_total", "eth_calls among the requests"),
            retries: counter("retries_total", "Requests retried after a failure"),
            connections: counter("connections_total", "Connections made, over WebSocket or HTTP"),
            reconnects: counter("reconnects_total", "Connections made after the first one"),
            gaps: counter("gaps_filled_total", "Gaps of missed blocks that were filled"),
            reorgs: counter("reorgs_total", "Reorganisations (replaced blocks)"),
            errors: counter("errors_total", "Failures and lost connections; all are retried"),
            checkpoint: gauge("checkpoint_block", "The last block whose wallets are stored"),
            head: gauge("head_block", "The newest block that the node announced"),
            connected: gauge("connected", "1 while new blocks are being received, else 0"),
            active: gauge("active", "1 while following the chain, 0 on standby"),
            oldest_age,
            latency,
            registry,
            requests_so_far,
            oldest: Mutex::default(),
        }
    }

    pub(super) fn notify(&self, event: &WatchEvent) {
        match event {
            WatchEvent::Connected { .. } => {
                if self.connections.get() > 0 {
                    self.reconnects.inc();
                }
                self.connections.inc();
            }
            WatchEvent::Stored(stored) => self.stored(stored),
            WatchEvent::GapFilled(_) => self.gaps.inc(),
            WatchEvent::Reorg { .. } => self.reorgs.inc(),
            WatchEvent::Failed { .. } | WatchEvent::Disconnected { .. } => self.errors.inc(),
            WatchEvent::Standby
            | WatchEvent::Active { .. }
            | WatchEvent::Began(_)
            | WatchEvent::Head(_)
            | WatchEvent::DeepReorg { .. }
            | WatchEvent::CaughtUp(_) => {}
        }
    }

    fn stored(&self, stored: &Stored) {
        self.blocks.inc_by((stored.to + 1).saturating_sub(stored.from));
        self.logs.inc_by(stored.logs);
        self.refreshed.inc_by(stored.counts.updated);
        self.unreadable.inc_by(stored.counts.failed);
        self.superseded.inc_by(stored.counts.superseded);
        if let Some(made) = stored.made {
            let made = SystemTime::UNIX_EPOCH + Duration::from_secs(made);
            self.latency.observe(made.elapsed().unwrap_or_default().as_secs_f64());
        }
    }

    pub(super) fn oldest_row(&self, updated_at: Option<DateTime<Utc>>) {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = updated_at;
    }

    pub(super) fn counts(&self) -> WatchCounts {
        WatchCounts {
            blocks: self.blocks.get(),
            logs: self.logs.get(),
            updated: self.refreshed.get(),
            failed: self.unreadable.get(),
            superseded: self.superseded.get(),
            calls: (self.requests_so_far)().eth_calls,
            reorgs: self.reorgs.get(),
            errors: self.errors.get(),
        }
    }

    /// All metrics as text; what others count is asked for now.
    pub(super) fn text(&self, health: &Health) -> String {
        // One at a time, so that nothing is counted twice.
        let oldest = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        let requests = (self.requests_so_far)();
        for (counter, now) in [
            (&self.requests, requests.requests),
            (&self.eth_calls, requests.eth_calls),
            (&self.retries, requests.retries),
        ] {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
        for (gauge, block) in
            [(&self.checkpoint, health.checkpoint_block), (&self.head, health.head_block)]
        {
            gauge.set(block.and_then(|block| block.try_into().ok()).unwrap_or(0));
        }
        self.connected.set(health.connected.into());
        self.active.set((health.role == "active").into());
        let age = oldest.map(|oldest| (Utc::now() - oldest).as_seconds_f64());
        self.oldest_age.set(age.unwrap_or(f64::NAN));
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        encoded.expect("what is registered can be written to memory");
        String::from_utf8(text).expect("names and numbers are UTF-8")
    }
}
