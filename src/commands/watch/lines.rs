//! What `watch` prints: one line for each event, and the counts.

use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use tracing::warn;

use crate::{
    follow::{Observer, Transport, WatchEvent},
    monitor::{Monitor, WatchCounts},
    redact,
    report::{CommandOutput, Report, Styler},
};

/// Passes every event to the monitor, and prints those that a person wants to know of.
pub(super) struct EventPrinter {
    pub(super) monitor: Arc<Monitor>,
    pub(super) report: Report,
    /// Whether the connection is shared, and printed by [`ConnectionPrinter`].
    pub(super) shares_connection: bool,
}

/// Prints connections that several profiles share, once.
pub(super) struct ConnectionPrinter(pub(super) Report);

impl Observer for ConnectionPrinter {
    fn notify(&self, event: &WatchEvent) {
        if let Some(what) = body_of(event) {
            print_event(&self.0, what);
        }
    }
}

impl Observer for EventPrinter {
    fn notify(&self, event: &WatchEvent) {
        self.monitor.notify(event);
        let is_of_connection =
            matches!(event, WatchEvent::Connected { .. } | WatchEvent::Disconnected { .. });
        if is_of_connection && self.shares_connection {
            return;
        }
        if let Some(what) = body_of(event) {
            print_event(&self.report, what);
        }
    }
}

/// What is printed of an event; `None` for one that nobody wants to read.
pub(super) fn body_of(event: &WatchEvent) -> Option<EventBody> {
    Some(match event {
        WatchEvent::Head(_) | WatchEvent::Stored(_) | WatchEvent::CaughtUp(_) => return None,
        WatchEvent::Standby => EventBody::Standby,
        WatchEvent::Active { checkpoint } => EventBody::Active { checkpoint_block: *checkpoint },
        WatchEvent::Began(block) => EventBody::Began { checkpoint_block: *block },
        WatchEvent::Connected { via, endpoint } => {
            EventBody::Connected { via: via.name(), endpoint: endpoint.clone() }
        }
        WatchEvent::Disconnected { reason, pause } => EventBody::Disconnected {
            reason: redact::clean(reason),
            retry_in_ms: pause.as_millis(),
        },
        WatchEvent::GapFilled(filled) => EventBody::GapFilled {
            from_block: filled.from,
            to_block: filled.to,
            logs: filled.logs,
            updated: filled.updated,
            elapsed_ms: filled.elapsed.as_millis(),
        },
        WatchEvent::Reorg { from, to, wallets } => {
            EventBody::Reorg { from_block: *from, to_block: *to, wallets: *wallets }
        }
        WatchEvent::DeepReorg { fork, to, deeper_than } => {
            EventBody::DeepReorg { from_block: fork + 1, to_block: *to, deeper_than: *deeper_than }
        }
        WatchEvent::Failed { error, pause } => {
            EventBody::Error { error: redact::clean_error(error), retry_in_ms: pause.as_millis() }
        }
    })
}

/// Prints an event. An error must not end the watch: others read the table.
pub(super) fn print_event(report: &Report, what: EventBody) {
    let is_trouble = matches!(what, EventBody::Disconnected { .. } | EventBody::Error { .. });
    if let Err(error) = report.event(&EventLine::now(report, what), is_trouble) {
        warn!("{}", redact::clean_error(error.as_ref()));
    }
}

/// A line of `watch`.
#[derive(Serialize)]
pub(super) struct EventLine {
    command: &'static str,
    #[serde(flatten)]
    what: EventBody,
    /// The profile, where there are several; the connection is that of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

impl EventLine {
    pub(super) fn now(report: &Report, what: EventBody) -> Self {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        Self { command: "watch", what, profile: report.profile_of_several(), time: Some(time) }
    }

    /// The last one: its time is that of every result.
    pub(super) const fn last(what: EventBody) -> Self {
        Self { command: "watch", what, profile: None, time: None }
    }
}

/// What a line is about.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum EventBody {
    Listening {
        address: String,
    },
    Standby,
    Active {
        checkpoint_block: Option<u64>,
    },
    Began {
        checkpoint_block: u64,
    },
    Connected {
        via: &'static str,
        endpoint: String,
    },
    Disconnected {
        reason: String,
        retry_in_ms: u128,
    },
    GapFilled {
        from_block: u64,
        to_block: u64,
        logs: u64,
        updated: u64,
        elapsed_ms: u128,
    },
    Reorg {
        from_block: u64,
        to_block: u64,
        wallets: u64,
    },
    DeepReorg {
        from_block: u64,
        to_block: u64,
        deeper_than: u64,
    },
    Error {
        error: String,
        retry_in_ms: u128,
    },
    Counts {
        #[serde(flatten)]
        done: WatchCounts,
        head_block: Option<u64>,
        checkpoint_block: Option<u64>,
    },
    Stopped {
        #[serde(flatten)]
        done: WatchCounts,
        checkpoint_block: Option<u64>,
        interrupted: bool,
    },
}

/// The counts as words.
pub(super) fn text_of(counts: &WatchCounts) -> String {
    let WatchCounts { blocks, logs, updated, failed, superseded, calls, reorgs, errors } = counts;
    format!(
        "blocks:{blocks} logs:{logs} updated:{updated} failed:{failed} superseded:{superseded} \
         calls:{calls} reorgs:{reorgs} errors:{errors}"
    )
}

pub(super) fn block(number: Option<u64>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

fn blocks(from: u64, to: u64) -> String {
    if from == to { format!("block {from}") } else { format!("blocks {from}–{to}") }
}

fn blocks_were(from: u64, to: u64) -> String {
    format!("{} {}", blocks(from, to), if from == to { "was" } else { "were" })
}

/// A pause for people, in seconds with one decimal.
fn seconds(milliseconds: u128) -> String {
    format!("{}.{} s", milliseconds / 1_000, milliseconds % 1_000 / 100)
}

impl CommandOutput for EventLine {
    fn text(&self, _: &Styler) -> String {
        self.words()
    }
}

impl EventLine {
    /// What a person reads.
    pub(super) fn words(&self) -> String {
        match &self.what {
            EventBody::Listening { address } => format!("health and metrics at http://{address}"),
            EventBody::Standby => "another watch is running; standing by to take over".to_owned(),
            EventBody::Active { checkpoint_block: Some(block) } => {
                format!("following the chain from the checkpoint at block {block}")
            }
            EventBody::Active { checkpoint_block: None } => "following the chain".to_owned(),
            EventBody::Began { checkpoint_block } => {
                format!("no checkpoint yet; starting at block {checkpoint_block}")
            }
            EventBody::Connected { via, endpoint } if *via == Transport::WebSocket.name() => {
                format!("connected to {endpoint}")
            }
            EventBody::Connected { endpoint, .. } => {
                format!("polling {endpoint}; retrying the WebSocket meanwhile")
            }
            EventBody::Disconnected { reason, retry_in_ms } => {
                format!("not connected: {reason}; retrying in {}", seconds(*retry_in_ms))
            }
            EventBody::GapFilled { from_block, to_block, logs, updated, elapsed_ms } => format!(
                "gap filled: {} logs:{logs} updated:{updated} in {elapsed_ms} ms",
                blocks(*from_block, *to_block)
            ),
            EventBody::Reorg { from_block, to_block, wallets } => format!(
                "{} replaced; re-reading {wallets} {}",
                blocks_were(*from_block, *to_block),
                if *wallets == 1 { "wallet" } else { "wallets" }
            ),
            EventBody::DeepReorg { from_block, deeper_than, .. } => format!(
                "reorganisation deeper than {deeper_than} {}; re-reading every wallet read above block {}",
                if *deeper_than == 1 { "block" } else { "blocks" },
                from_block - 1
            ),
            EventBody::Error { error, retry_in_ms } => {
                format!("failed: {error}; retrying in {}", seconds(*retry_in_ms))
            }
            EventBody::Counts { done, head_block, checkpoint_block } => format!(
                "in the last minute {} head:{} checkpoint:{}",
                text_of(done),
                block(*head_block),
                block(*checkpoint_block)
            ),
            EventBody::Stopped { done, checkpoint_block, interrupted } => {
                let ending = if *interrupted { "interrupted" } else { "stopped" };
                format!("watch {ending} {} checkpoint:{}", text_of(done), block(*checkpoint_block))
            }
        }
    }
}
