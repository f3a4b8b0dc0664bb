//! What `watch` says: one line for each thing that happens, and the counts.

use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use tracing::warn;

use crate::{
    follow::{News, Observer, Via},
    monitor::{Monitor, Totals},
    redact,
    report::{Outcome, Paint, Report},
};

/// Tells the monitor everything and people what they want to know.
pub(super) struct Teller {
    pub(super) monitor: Arc<Monitor>,
    pub(super) report: Report,
}

impl Observer for Teller {
    fn hear(&self, news: &News) {
        self.monitor.hear(news);
        let what = match news {
            News::Head(_) | News::Stored(_) | News::CaughtUp(_) => return,
            News::Standby => What::Standby,
            News::Active { checkpoint } => What::Active { checkpoint_block: *checkpoint },
            News::Began(block) => What::Began { checkpoint_block: *block },
            News::Connected { via, endpoint } => {
                What::Connected { via: via.name(), endpoint: endpoint.clone() }
            }
            News::Disconnected { reason, pause } => {
                What::Disconnected { reason: redact::clean(reason), retry_in_ms: pause.as_millis() }
            }
            News::GapFilled(filled) => What::GapFilled {
                from_block: filled.from,
                to_block: filled.to,
                logs: filled.logs,
                updated: filled.updated,
                elapsed_ms: filled.elapsed.as_millis(),
            },
            News::Reorg { from, to, wallets } => {
                What::Reorg { from_block: *from, to_block: *to, wallets: *wallets }
            }
            News::Failed { error, pause } => {
                What::Error { error: redact::clean_error(error), retry_in_ms: pause.as_millis() }
            }
        };
        tell(&self.report, what);
    }
}

/// Tells it. That stdout cannot be written must not end the watch: others read the table.
pub(super) fn tell(report: &Report, what: What) {
    let is_trouble = matches!(what, What::Disconnected { .. } | What::Error { .. });
    if let Err(error) = report.event(&Told::now(what), is_trouble) {
        warn!("{}", redact::clean_error(&error));
    }
}

/// A line of `watch`.
#[derive(Serialize)]
pub(super) struct Told {
    command: &'static str,
    #[serde(flatten)]
    what: What,
    time: String,
}

impl Told {
    pub(super) fn now(what: What) -> Self {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        Self { command: "watch", what, time }
    }
}

/// What a line is about.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum What {
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
    Error {
        error: String,
        retry_in_ms: u128,
    },
    Counts {
        #[serde(flatten)]
        done: Done,
        head_block: Option<u64>,
        checkpoint_block: Option<u64>,
    },
    Stopped {
        #[serde(flatten)]
        done: Done,
        checkpoint_block: Option<u64>,
        interrupted: bool,
    },
}

/// What was done, in a minute or in all.
#[derive(Serialize)]
pub(super) struct Done {
    blocks: u64,
    logs: u64,
    updated: u64,
    failed: u64,
    superseded: u64,
    calls: u64,
    reorgs: u64,
    errors: u64,
}

impl Done {
    pub(super) fn of(totals: &Totals) -> Self {
        let Totals { blocks, logs, updated, failed, superseded, calls, reorgs, errors } = *totals;
        Self { blocks, logs, updated, failed, superseded, calls, reorgs, errors }
    }

    fn text(&self) -> String {
        format!(
            "blocks:{} logs:{} updated:{} failed:{} superseded:{} calls:{} reorgs:{} errors:{}",
            self.blocks,
            self.logs,
            self.updated,
            self.failed,
            self.superseded,
            self.calls,
            self.reorgs,
            self.errors
        )
    }
}

fn block(number: Option<u64>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

/// A pause for people, in seconds with one decimal.
fn seconds(milliseconds: u128) -> String {
    format!("{}.{} s", milliseconds / 1_000, milliseconds % 1_000 / 100)
}

impl Outcome for Told {
    fn text(&self, _: &Paint) -> String {
        match &self.what {
            What::Listening { address } => format!("health and metrics at http://{address}"),
            What::Standby => {
                "another watch of this database is running; standing by to take over".to_owned()
            }
            What::Active { checkpoint_block: Some(block) } => {
                format!("following the chain from the checkpoint at block {block}")
            }
            What::Active { checkpoint_block: None } => "following the chain".to_owned(),
            What::Began { checkpoint_block } => {
                format!("there was no checkpoint; it is at block {checkpoint_block} now")
            }
            What::Connected { via, endpoint } if *via == Via::WebSocket.name() => {
                format!("connected to {endpoint}")
            }
            What::Connected { endpoint, .. } => {
                format!("polling {endpoint}; the WebSocket is tried again meanwhile")
            }
            What::Disconnected { reason, retry_in_ms } => {
                format!("not connected: {reason}; next try in {}", seconds(*retry_in_ms))
            }
            What::GapFilled { from_block, to_block, logs, updated, elapsed_ms } => format!(
                "gap filled: blocks {from_block} to {to_block} logs:{logs} updated:{updated} in \
                 {elapsed_ms} ms"
            ),
            What::Reorg { from_block, to_block, wallets } => format!(
                "reorganisation: blocks {from_block} to {to_block} went; wallets to read again: \
                 {wallets}"
            ),
            What::Error { error, retry_in_ms } => {
                format!("failed: {error}; next try in {}", seconds(*retry_in_ms))
            }
            What::Counts { done, head_block, checkpoint_block } => format!(
                "in the last minute {} head:{} checkpoint:{}",
                done.text(),
                block(*head_block),
                block(*checkpoint_block)
            ),
            What::Stopped { done, checkpoint_block, interrupted } => {
                let ending = if *interrupted { "interrupted" } else { "stopped" };
                format!("watch {ending} {} checkpoint:{}", done.text(), block(*checkpoint_block))
            }
        }
    }
}
