//! Why a row differs from the chain: its wallet has moved since it was read, or the row is wrong.
//!
//! A row is read again at the block at which it was read. Where the node no longer has that block's state, an event of
//! the wallet since then explains the difference, and nothing else does.

use alloy::primitives::U256;
use serde::Serialize;

use super::both_ways::OnChain;
use crate::{
    store::Row,
    tally::{RunError, Wallet},
};

/// Why a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Drift {
    /// It was right when it was read, or was never read: the wallet has changed since.
    Moved,
    /// It was not right when it was read, or nothing shows that it was.
    Wrong,
}

/// A row that differs, and the block at which it does.
pub(super) struct Drifted {
    pub(super) row: Row,
    pub(super) block: u64,
    /// What the two ways of reading gave, if that is not the same.
    pub(super) disagree: Option<(U256, U256)>,
}

/// A row that differs, and why.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) wallet: Wallet,
    pub(super) drift: Drift,
    /// What shows that.
    pub(super) reason: String,
}

/// What became of rows that differ.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    pub(super) judged: Vec<Judged>,
    /// Why the others could not be judged.
    pub(super) error: Option<RunError>,
}

impl Drifted {
    pub(super) fn new(row: Row, on_chain: &OnChain) -> Self {
        let disagree = (!on_chain.agrees()).then_some((on_chain.total, on_chain.batched));
        Self { row, block: on_chain.block, disagree }
    }

    pub(super) fn is(&self, drift: Drift, reason: impl Into<String>) -> Judged {
        Judged { wallet: self.row.wallet, drift, reason: reason.into() }
    }

    /// Whether it holds what the chain said when it was read.
    pub(super) fn against(&self, total: U256, block: u64) -> Option<Judged> {
        let stored = &self.row.total;
        match (*stored == total.to_string(), self.row.read_at()) {
            (true, _) => Some(self.is(
                Drift::Moved,
                format!(
                    "the stored total was right at block {block}; the wallet has changed since"
                ),
            )),
            (false, Some(_)) => Some(self.is(
                Drift::Wrong,
                format!(
                    "the total at block {block}, where it was read, is {total} wei, not {stored}"
                ),
            )),
            // A row of the original was read at that block or later.
            (false, None) => None,
        }
    }

    pub(super) fn unexplained(&self, but: &str) -> Judged {
        let since =
            self.row.since().map_or_else(String::new, |block| format!(" since block {block}"));
        self.is(Drift::Wrong, format!("nothing explains the difference{since}: {but}"))
    }
}

impl Judgement {
    pub(super) fn merge(&mut self, other: Self) {
        self.judged.extend(other.judged);
        self.error = self.error.take().or(other.error);
    }
}
