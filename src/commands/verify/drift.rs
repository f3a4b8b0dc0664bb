//! Why a row differs from the chain: its wallet has moved since it was read, or the row is wrong.
//!
//! A row is read again at the block at which it was read. Where the node no longer has that block's state, an event of
//! the wallet since then explains the difference, and nothing else does.

use itertools::Itertools;
use serde::Serialize;

use super::both_ways::OnChain;
use crate::{
    store::Row,
    tally::{RunError, Total, Wallet},
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
    pub(super) disagree: Option<(Total, Total)>,
    /// If all that it holds is right: the columns of those parts that were never read.
    pub(super) never_read: Option<String>,
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
        let OnChain { block, total, batched, .. } = on_chain;
        let disagree = (!on_chain.agrees()).then(|| (total.clone(), batched.clone()));
        let lacking = row.parts.iter().filter(|(_, part)| part.is_none());
        let never_read =
            wrong(&row, total).is_none().then(|| lacking.map(|(name, _)| name).join(", "));
        Self { row, block: *block, disagree, never_read }
    }

    pub(super) fn is(&self, drift: Drift, reason: impl Into<String>) -> Judged {
        Judged { wallet: self.row.wallet, drift, reason: reason.into() }
    }

    /// True if it holds this total, and of its parts those that were read.
    pub(super) fn was(&self, total: &Total) -> bool {
        wrong(&self.row, total).is_none()
    }

    /// Whether it holds what the chain said when it was read.
    pub(super) fn against(&self, total: &Total, block: u64) -> Option<Judged> {
        match (wrong(&self.row, total), self.row.read_at()) {
            (None, _) => Some(self.is(
                Drift::Moved,
                format!(
                    "the stored total was right at block {block}; the wallet has changed since"
                ),
            )),
            (Some((what, read, stored)), Some(_)) => Some(self.is(
                Drift::Wrong,
                format!("{what} at block {block}, where it was read, is {read} wei, not {stored}"),
            )),
            // A row of the original was read at that block or later.
            (Some(_), None) => None,
        }
    }

    pub(super) fn unexplained(&self, but: &str) -> Judged {
        let since =
            self.row.since().map_or_else(String::new, |block| format!(" since block {block}"));
        self.is(Drift::Wrong, format!("nothing explains the difference{since}: {but}"))
    }
}

/// What a row holds other than this total, what it should be, and what it is. A part that was never read is not wrong.
fn wrong(row: &Row, total: &Total) -> Option<(String, String, String)> {
    let sum = total.sum.to_string();
    if row.total != sum {
        return Some(("the total".to_owned(), sum, row.total.clone()));
    }
    let mut parts = row.parts_other_than(total);
    parts.find_map(|(name, part, stored)| {
        Some((name.to_owned(), part.to_string(), stored?.to_owned()))
    })
}

impl Judgement {
    pub(super) fn merge(&mut self, other: Self) {
        self.judged.extend(other.judged);
        self.error = self.error.take().or(other.error);
    }
}
