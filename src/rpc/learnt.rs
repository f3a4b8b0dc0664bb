//! What was learnt of an endpoint. Everything here is about one endpoint; nothing is concluded of its host, or of others.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
};

use alloy::primitives::Address;
use tokio::{sync::OnceCell, time::Instant};

use crate::{limit::LimitSearch, tally::NodeHint};

/// What was learnt of an endpoint.
#[derive(Default)]
pub(super) struct Learnt {
    /// True once it is known to be of the right chain, fresh, and with every contract.
    pub(super) is_checked: AtomicBool,
    /// What was checked so far. Held while it is checked.
    pub(super) checks: tokio::sync::Mutex<Checks>,
    /// When it last answered a request.
    pub(super) answered: Mutex<Option<Instant>>,
    /// The highest block that it is known to have, and when it was seen to.
    pub(super) head: Mutex<Option<Head>>,
    /// One more than the highest block that it has, or had, but whose state it lacked.
    pub(super) state_from: AtomicU64,
    /// Whether it refuses to give the logs of a block that it does not have.
    pub(super) refuses_unknown_blocks: OnceCell<bool>,
    /// Which forms of requests it takes, and when that was seen.
    pub(super) features: Mutex<HashMap<Feature, (Support, Instant)>>,
    /// How large requests may be, by kind.
    pub(super) limits: Mutex<HashMap<&'static str, LimitSearch>>,
    /// What earlier runs found, by kind.
    pub(super) hints: Mutex<HashMap<String, NodeHint>>,
    /// True once it has answered with a compressed body, or said that it takes one.
    pub(super) knows_gzip: AtomicBool,
}

/// How far the checks of an endpoint have come.
#[derive(Default)]
pub(super) struct Checks {
    pub(super) is_of_chain: bool,
    /// True if its newest block is new enough.
    pub(super) is_fresh: bool,
    /// Contracts that have code.
    pub(super) contracts: HashSet<Address>,
}

/// A block that an endpoint is known to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) number: u64,
    /// When it was last seen to have that block, or a higher one.
    pub(super) seen: Instant,
}

/// A form of request, or a property of the chain's EVM, that is not the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// The hash of a block in an `eth_call` (EIP-1898).
    BlockHash,
    /// State overrides in an `eth_call`.
    Overrides,
    /// The EVM's block number is that of the block. On Arbitrum it is that of another chain's block.
    BlockNumber,
    /// The `logsBloom` of a header holds the block's logs.
    LogsBloom,
    /// Requests compressed by gzip.
    GzipRequests,
}

/// Whether an endpoint has a [`Feature`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Support {
    /// Not tried yet, or not for a long time.
    #[default]
    Untried,
    /// It was seen to work.
    Works,
    /// It was seen not to work.
    Missing,
}

/// Locks what a panic elsewhere cannot have left half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
