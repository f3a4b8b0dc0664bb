//! Rows that were read at a newer block than the one to compare them at.

use std::fmt;

use crate::{rpc::BlockChoice, tally::RunError};

/// The block to compare a row at is older than the row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stale {
    /// The newest block of the node, or the one that the user chose.
    pub(super) newest: u64,
    /// The block at which the row was read.
    pub(super) row: u64,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { newest, row } = self;
        write!(f, "the node's newest block {newest} is older than the read at block {row}")
    }
}

impl Stale {
    /// Why `rows` could not be compared: the node is behind, or the block was chosen so.
    pub(super) fn error(self, choice: BlockChoice, rows: &str) -> RunError {
        let Self { newest, row } = self;
        match choice {
            BlockChoice::Latest => RunError::node(format!(
                "{rows} cannot be compared (stale_node): {self}; check that the node is in sync, or \
                 give another --rpc-url"
            )),
            BlockChoice::Number(_) => RunError::settings(format!(
                "{rows} cannot be compared: --block {newest} is older than the read at block {row}; \
                 give a newer --block, or leave it out"
            )),
            tag => RunError::settings(format!(
                "{rows} cannot be compared: --block {tag} is block {newest}, which is older than the \
                 read at block {row}; leave --block out"
            )),
        }
    }
}
