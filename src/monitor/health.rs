//! Whether `watch` is healthy, and if not, why. Judges by what it was notified of; asks nobody.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::{
    follow::{Transport, WatchEvent},
    redact,
};

/// What the health is judged by.
#[derive(Debug)]
pub(super) struct HealthState {
    max_lag: Duration,
    confirmations: u64,
    active: bool,
    /// Whether another process is known to be active.
    stands_by: bool,
    via: Option<Transport>,
    disconnected: Option<String>,
    head: Option<u64>,
    head_moved: Instant,
    seen: Option<u64>,
    checkpoint: Option<u64>,
    /// When the checkpoint last moved, or was where it should be.
    in_time: Instant,
    /// When everything up to the newest block was last stored.
    caught_up: Option<Instant>,
    last_event_at: Option<DateTime<Utc>>,
    errors: u64,
    last_error: Option<String>,
    /// What failed last, until something succeeds.
    failing: Option<String>,
}

/// The health of `watch`, as `/healthz` reports it.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// `ok` or `unhealthy`.
    pub status: &'static str,
    /// `active`, or `standby` while another process follows the chain.
    pub role: &'static str,
    /// Whether new blocks are being received.
    pub connected: bool,
    /// How: `websocket` or `http`.
    pub transport: Option<&'static str>,
    /// The last block whose events were processed.
    pub last_block_seen: Option<u64>,
    /// The last block whose wallets are stored.
    pub checkpoint_block: Option<u64>,
    /// The newest block that the node announced.
    pub head_block: Option<u64>,
    /// When the last log was seen.
    pub last_event_at: Option<String>,
    /// Number of errors since the start.
    pub errors: u64,
    /// The last error.
    pub last_error: Option<String>,
    /// Why it is unhealthy; empty if it is healthy.
    pub reasons: Vec<String>,
    /// Whether everything up to the newest block is stored, or was within `--max-lag`.
    #[serde(skip)]
    pub caught_up: bool,
    /// Whether another process is known to be active; false until the lock was first tried.
    #[serde(skip)]
    pub stands_by: bool,
}

impl Health {
    /// Whether there is no reason to call it unhealthy.
    pub fn is_well(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Whether it does its job: it has caught up, or stands by.
    pub fn is_ready(&self) -> bool {
        self.stands_by || self.caught_up
    }
}

impl HealthState {
    pub(super) fn new(max_lag: Duration, confirmations: u64) -> Self {
        Self {
            max_lag,
            confirmations,
            active: false,
            stands_by: false,
            via: None,
            disconnected: None,
            head: None,
            head_moved: Instant::now(),
            seen: None,
            checkpoint: None,
            in_time: Instant::now(),
            caught_up: None,
            last_event_at: None,
            errors: 0,
            last_error: None,
            failing: None,
        }
    }

    pub(super) fn notify(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Standby => {
                self.active = false;
                self.stands_by = true;
                self.via = None;
                self.caught_up = None;
                self.failing = None;
            }
            WatchEvent::Active { checkpoint } => {
                self.active = true;
                self.stands_by = false;
                self.failing = None;
                self.checkpoint = *checkpoint;
                self.head_moved = Instant::now();
                self.in_time = Instant::now();
            }
            WatchEvent::Began(block) => self.stored(*block),
            WatchEvent::Connected { via, .. } => {
                self.via = Some(*via);
                self.disconnected = None;
            }
            WatchEvent::Disconnected { reason, .. } => {
                self.via = None;
                let reason = redact::clean(reason);
                self.failed(reason.clone());
                self.disconnected = Some(reason);
            }
            WatchEvent::Head(number) => self.head(*number),
            WatchEvent::Stored(stored) => {
                self.stored(stored.to);
                if stored.logs > 0 {
                    self.last_event_at = Some(Utc::now());
                }
            }
            WatchEvent::CaughtUp(block) => {
                self.seen = self.seen.max(Some(*block));
                self.in_time = Instant::now();
                self.caught_up = Some(Instant::now());
            }
            WatchEvent::Failed { error, .. } => {
                let error = redact::clean_error(error);
                self.failing = Some(error.clone());
                self.failed(error);
            }
            WatchEvent::GapFilled(_) | WatchEvent::Reorg { .. } => {}
        }
    }

    fn failed(&mut self, error: String) {
        self.errors += 1;
        self.last_error = Some(error);
    }

    fn head(&mut self, number: u64) {
        if self.behind() == 0 {
            self.in_time = Instant::now();
        }
        if Some(number) > self.head {
            self.head = Some(number);
            self.head_moved = Instant::now();
        }
    }

    fn stored(&mut self, block: u64) {
        self.seen = Some(block);
        self.checkpoint = self.checkpoint.max(Some(block));
        self.in_time = Instant::now();
    }

    /// Number of blocks that are still to be stored.
    fn behind(&self) -> u64 {
        let (Some(head), Some(checkpoint)) = (self.head, self.checkpoint) else { return 0 };
        head.saturating_sub(self.confirmations).saturating_sub(checkpoint)
    }

    pub(super) fn health(&self) -> Health {
        let reasons = if self.active { self.reasons() } else { self.standby_reasons() };
        Health {
            status: if reasons.is_empty() { "ok" } else { "unhealthy" },
            role: if self.active { "active" } else { "standby" },
            connected: self.via.is_some(),
            transport: self.via.map(Transport::name),
            last_block_seen: self.seen,
            checkpoint_block: self.checkpoint,
            head_block: self.head,
            last_event_at: (self.last_event_at)
                .map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)),
            errors: self.errors,
            last_error: self.last_error.clone(),
            reasons,
            caught_up: (self.caught_up)
                .is_some_and(|when| self.behind() == 0 || when.elapsed() <= self.max_lag),
            stands_by: self.stands_by,
        }
    }

    /// Whether blocks have waited for longer than `--max-lag`.
    fn is_late(&self) -> bool {
        self.behind() > 0 && self.in_time.elapsed() > self.max_lag
    }

    fn standby_reasons(&self) -> Vec<String> {
        self.failing.iter().map(|error| format!("cannot take over: {error}")).collect()
    }

    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.via.is_none() {
            let why = self.disconnected.iter().map(|reason| format!(": {reason}"));
            reasons.push(format!("not connected{}", why.collect::<String>()));
        }
        let silent = self.head_moved.elapsed();
        if silent > self.max_lag {
            reasons.push(format!("the head has not advanced for {} s", silent.as_secs()));
        }
        if self.is_late() {
            reasons.push(format!(
                "the checkpoint is {} blocks behind the head and has not moved for {} s",
                self.behind(),
                self.in_time.elapsed().as_secs()
            ));
        }
        reasons
    }
}
