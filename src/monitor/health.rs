//! Whether `watch` is healthy, and if not, why. Judges by what it was notified of; asks nobody.

use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::{
    follow::{Head, Transport, WatchEvent},
    redact,
};

/// A head this far below the checkpoint does not come from a node that is only a little behind.
const FAR_BELOW: u64 = 64;
/// What a healthy `watch` keeps within.
#[derive(Clone, Copy, Debug)]
pub struct HealthLimits {
    /// How long there may be no new block, or nothing stored while there is one.
    pub max_lag: Duration,
    /// How old the newest block may be; `None` for a chain that stands still.
    pub max_head_age: Option<Duration>,
    /// How many blocks to stay behind the newest.
    pub confirmations: u64,
}

/// What the health is judged by.
#[derive(Debug)]
pub(super) struct HealthState {
    limits: HealthLimits,
    active: bool,
    /// Whether another process is known to be active.
    stands_by: bool,
    via: Option<Transport>,
    disconnected: Option<String>,
    /// The highest block that was announced lately.
    head: Option<Head>,
    head_moved: Instant,
    /// When that block was last announced.
    head_seen: Instant,
    /// The block that was announced last, and since when all announced ones are below the checkpoint.
    below: Option<(u64, Instant)>,
    seen: Option<u64>,
    checkpoint: Option<u64>,
    /// Whether something was stored since it is active.
    has_stored: bool,
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
    /// The time of that block, seconds since 1970.
    #[serde(skip)]
    pub head_timestamp: Option<u64>,
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

    /// Whether it does its job: it has caught up with a chain that advances, or stands by.
    pub fn is_ready(&self) -> bool {
        self.stands_by || self.caught_up
    }
}

impl HealthState {
    pub(super) fn new(limits: HealthLimits) -> Self {
        Self {
            limits,
            active: false,
            stands_by: false,
            via: None,
            disconnected: None,
            head: None,
            head_moved: Instant::now(),
            head_seen: Instant::now(),
            below: None,
            has_stored: false,
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
                self.has_stored = false;
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
            WatchEvent::Head(head) => self.head(*head),
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
                self.failing = None;
                // A lower block than the checkpoint is followed, but nothing is stored for it.
                self.has_stored |= self.checkpoint.is_some_and(|checkpoint| checkpoint <= *block);
            }
            WatchEvent::Failed { error, .. } => {
                let error = redact::clean_error(error);
                self.failing = Some(error.clone());
                self.failed(error);
            }
            WatchEvent::GapFilled(_) | WatchEvent::Reorg { .. } | WatchEvent::DeepReorg { .. } => {}
        }
    }

    fn failed(&mut self, error: String) {
        self.errors += 1;
        self.last_error = Some(error);
    }

    fn head(&mut self, head: Head) {
        if self.behind() == 0 {
            self.in_time = Instant::now();
        }
        let highest = self.head.map(|head| head.number);
        if Some(head.number) >= highest {
            self.head_seen = Instant::now();
        }
        if Some(head.number) > highest {
            self.head_moved = Instant::now();
        }
        // One that was not announced again for long is not on the chain, or never was.
        if Some(head.number) > highest || self.head_seen.elapsed() > self.limits.max_lag {
            self.head = Some(head);
            self.head_seen = Instant::now();
        }
        let is_below = Some(head.number) < self.checkpoint;
        let since = self.below.map_or_else(Instant::now, |(_, since)| since);
        self.below = is_below.then_some((head.number, since));
    }

    fn stored(&mut self, block: u64) {
        self.seen = Some(block);
        self.checkpoint = self.checkpoint.max(Some(block));
        self.has_stored = true;
        self.failing = None;
        self.in_time = Instant::now();
    }

    /// The newest block, if it is below the checkpoint, and not only as one answer came from a node that is behind.
    fn head_below(&self) -> Option<u64> {
        let (number, since) = self.below?;
        let is_far = self.checkpoint > Some(number.saturating_add(FAR_BELOW));
        (is_far || !self.has_stored || since.elapsed() > self.limits.max_lag).then_some(number)
    }

    fn is_frozen(&self) -> bool {
        self.head_moved.elapsed() > self.limits.max_lag
    }

    /// How old the newest block is, where its time can be true.
    fn head_age(&self) -> Option<u64> {
        let head = self.head?;
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(head.timestamp);
        Some(made.elapsed().ok()?.as_secs())
    }

    /// How old the newest block is, if that is too old.
    fn too_old(&self) -> Option<u64> {
        let oldest = self.limits.max_head_age?.max(self.limits.max_lag).as_secs();
        self.head_age().filter(|age| *age > oldest)
    }

    /// Number of blocks that are still to be stored.
    fn behind(&self) -> u64 {
        let (Some(head), Some(checkpoint)) = (self.head, self.checkpoint) else { return 0 };
        head.number.saturating_sub(self.limits.confirmations).saturating_sub(checkpoint)
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
            head_block: self.head_below().or(self.head.map(|head| head.number)),
            head_timestamp: self.head.map(|head| head.timestamp),
            last_event_at: (self.last_event_at)
                .map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)),
            errors: self.errors,
            last_error: self.last_error.clone(),
            reasons,
            caught_up: (self.caught_up)
                .is_some_and(|when| self.behind() == 0 || when.elapsed() <= self.limits.max_lag)
                && !self.is_frozen()
                && self.too_old().is_none()
                && self.head_below().is_none(),
            stands_by: self.stands_by,
        }
    }

    /// Whether blocks have waited for longer than `--max-lag`.
    fn is_late(&self) -> bool {
        self.behind() > 0 && self.in_time.elapsed() > self.limits.max_lag
    }

    fn standby_reasons(&self) -> Vec<String> {
        let what = if self.stands_by { "cannot take over" } else { "nothing is stored yet" };
        self.failing.iter().map(|error| format!("{what}: {error}")).collect()
    }

    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.via.is_none() {
            let why = self.disconnected.iter().map(|reason| format!(": {reason}"));
            reasons.push(format!("not connected{}", why.collect::<String>()));
        }
        if let (Some(head), Some(checkpoint)) = (self.head_below(), self.checkpoint) {
            reasons.push(format!("the head ({head}) is below the checkpoint ({checkpoint})"));
        }
        let silent = self.head_moved.elapsed();
        let age = self.head_age();
        if self.is_frozen() {
            let age = age.map(|age| format!("; it is {age} s old")).unwrap_or_default();
            reasons.push(format!("the head has not advanced for {} s{age}", silent.as_secs()));
        } else if let Some(age) = self.too_old() {
            reasons.push(format!("the head is {age} s old"));
        }
        if !self.has_stored {
            let waited = self.in_time.elapsed();
            let late = || format!("no block for {} s", waited.as_secs());
            let why = self.failing.clone().or_else(|| (waited > self.limits.max_lag).then(late));
            reasons.extend(why.map(|why| format!("nothing is stored yet: {why}")));
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
