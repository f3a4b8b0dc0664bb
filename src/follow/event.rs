//! Events of following the chain, for people, health checks and metrics.

use std::time::Duration;

use super::Block;
use crate::tally::{Counts, RunError};

/// How new blocks are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A subscription over WebSocket.
    WebSocket,
    /// Polling over HTTP.
    Http,
}

impl Transport {
    /// As outputs name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Http => "http",
        }
    }
}

/// Missed blocks that are stored now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilledGap {
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
    /// Logs in them.
    pub logs: u64,
    /// Totals that were written.
    pub updated: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Blocks whose wallets have been stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The first block.
    pub from: u64,
    /// The last block, to which the checkpoint has moved.
    pub to: u64,
    /// Logs in these blocks.
    pub logs: u64,
    /// What became of their wallets.
    pub counts: Counts,
    /// When the last block was made, in seconds since 1970, if its wallets were stored now.
    pub made: Option<u64>,
}

/// A block that was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub timestamp: u64,
}

impl From<&Block> for Head {
    fn from(block: &Block) -> Self {
        Self { number: block.number, timestamp: block.timestamp }
    }
}

/// An event of `watch`.
#[derive(Debug)]
pub enum WatchEvent {
    /// Another process follows the chain; this one waits until it ends.
    Standby,
    /// This process begins to follow the chain.
    Active {
        /// The last block whose wallets are stored.
        checkpoint: Option<u64>,
    },
    /// The first checkpoint was made, at this block.
    Began(u64),
    /// A connection was made.
    Connected {
        /// How.
        via: Transport,
        /// Scheme, host and port.
        endpoint: String,
    },
    /// The connection was lost, or none could be made.
    Disconnected {
        /// Why.
        reason: String,
        /// When the next try comes.
        pause: Duration,
    },
    /// The newest block that the node announced.
    Head(Head),
    /// Wallets were stored.
    Stored(Stored),
    /// All blocks that were missed have been caught up with.
    GapFilled(FilledGap),
    /// A reorganisation replaced blocks.
    Reorg {
        /// The first replaced block.
        from: u64,
        /// The last replaced block.
        to: u64,
        /// Wallets that are read again.
        wallets: u64,
    },
    /// A reorganisation replaced more blocks than are remembered.
    DeepReorg {
        /// The last block that is on the chain still, as far as is known: every row that was read above is read again.
        fork: u64,
        /// The last replaced block.
        to: u64,
        /// How many blocks it replaced at least.
        deeper_than: u64,
    },
    /// Everything up to this block, the newest that is to be followed, is stored.
    CaughtUp(u64),
    /// Something failed and is tried again.
    Failed {
        /// What, with its causes.
        error: RunError,
        /// When the next try comes.
        pause: Duration,
    },
}

/// Receives events.
pub trait Observer: Send + Sync {
    /// Takes an event; must return quickly.
    fn notify(&self, event: &WatchEvent);
}
