//! What `watch` has done, counted for Prometheus. Owns the names of the metrics.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use chrono::Utc;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, Registry, process_collector::ProcessCollector,
    proto::MetricFamily,
};

use serde::Serialize;

use super::{
    Health,
    exposition::Exposition,
    table::{LastRun, TableState},
};
use crate::{
    follow::{Stored, WatchEvent},
    tally::{RequestCounts, RequestSeries},
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
    requests: Requests,
    table: Mutex<Option<TableState>>,
    runs: Mutex<Vec<LastRun>>,
    blocks: IntCounter,
    logs: IntCounter,
    refreshed: IntCounter,
    unreadable: IntCounter,
    superseded: IntCounter,
    eth_calls: IntCounter,
    retries: IntCounter,
    connections: IntCounter,
    reconnects: IntCounter,
    gaps: IntCounter,
    reorgs: IntCounter,
    errors: IntCounter,
    latency: Histogram,
}

/// What was sent to the node so far.
pub(super) struct Requests {
    pub(super) counts: Box<dyn Fn() -> RequestCounts + Send + Sync>,
    pub(super) series: Box<dyn Fn() -> Vec<RequestSeries> + Send + Sync>,
}

/// From one block a second to a node that is days behind, in seconds.
const LATENCIES: [f64; 14] =
    [0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

impl Metrics {
    pub(super) fn new(requests: Requests) -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("ethtally_{name}"), help).expect("a good name");
            registry.register(Box::new(counter.clone())).expect("each name once");
            counter
        };
        registry.register(Box::new(ProcessCollector::for_self())).expect("each name once");
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
            eth_calls: counter("eth_calls_total", "eth_calls among the requests"),
            retries: counter("retries_total", "Requests retried after a failure"),
            connections: counter("connections_total", "Connections made, over WebSocket or HTTP"),
            reconnects: counter("reconnects_total", "Connections made after the first one"),
            gaps: counter("gaps_filled_total", "Gaps of missed blocks that were filled"),
            reorgs: counter("reorgs_total", "Reorganisations (replaced blocks)"),
            errors: counter("errors_total", "Failures and lost connections; all are retried"),
            latency,
            registry,
            requests,
            table: Mutex::default(),
            runs: Mutex::default(),
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

    pub(super) fn table(&self, table: TableState) {
        *lock(&self.table) = Some(table);
    }

    pub(super) fn runs(&self, runs: Vec<LastRun>) {
        *lock(&self.runs) = runs;
    }

    /// The table and the last runs, as far as they are known.
    pub(super) fn looked_up(&self) -> (Option<TableState>, Vec<LastRun>) {
        (lock(&self.table).clone(), lock(&self.runs).clone())
    }

    pub(super) fn counts(&self) -> WatchCounts {
        WatchCounts {
            blocks: self.blocks.get(),
            logs: self.logs.get(),
            updated: self.refreshed.get(),
            failed: self.unreadable.get(),
            superseded: self.superseded.get(),
            calls: (self.requests.counts)().eth_calls,
            reorgs: self.reorgs.get(),
            errors: self.errors.get(),
        }
    }

    /// All metrics; what others count is asked for now.
    pub(super) fn families(&self, health: &Health) -> Vec<MetricFamily> {
        let exposition = Exposition::default();
        exposition.build_info();
        expose_chain(health, &exposition);
        // One at a time, so that nothing is counted twice.
        let table = lock(&self.table);
        let requests = (self.requests.counts)();
        for (counter, now) in
            [(&self.eth_calls, requests.eth_calls), (&self.retries, requests.retries)]
        {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
        if let Some(table) = &*table {
            table.expose(&exposition);
            exposition.gauge(
                "oldest_row_age_seconds",
                "Age of the row that was read longest ago, looked up every 5 minutes",
                table.oldest_read.map(|oldest| (Utc::now() - oldest).as_seconds_f64()),
            );
        }
        let sent = (self.requests.series)().into_iter();
        exposition.counters(
            "requests_total",
            "HTTP requests to the node, retries included",
            ["method", "endpoint", "outcome"],
            sent.map(|sent| {
                ([sent.method.to_owned(), sent.endpoint, sent.outcome.to_owned()], sent.count)
            }),
        );
        // One that is running has not ended.
        let runs = lock(&self.runs).clone();
        let ended = runs.into_iter().filter(|run| run.exit_status.is_some());
        let ends = ended.map(|run| ([run.command, run.outcome], run.ended_at.timestamp() as f64));
        exposition.run_ends(ends);
        exposition.families(self.registry.gather())
    }
}

/// Adds what is known of the chain: a standby does not follow it.
fn expose_chain(health: &Health, to: &Exposition) {
    let is_active = health.role == "active";
    let known = |value: Option<u64>| value.filter(|_| is_active).map(|value| value as f64);
    let help = "1 while following the chain, 0 on standby";
    to.gauge("active", help, Some(f64::from(u8::from(is_active))));
    let help = "1 while new blocks are being received, else 0";
    to.gauge("connected", help, Some(f64::from(u8::from(health.connected))));
    let help = "The last block whose wallets are stored";
    to.gauge("checkpoint_block", help, known(health.checkpoint_block));
    let help = "The newest block that the node announced";
    to.gauge("head_block", help, known(health.head_block));
    let help = "The time of the newest block that the node announced";
    to.gauge("head_timestamp_seconds", help, known(health.head_timestamp));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
