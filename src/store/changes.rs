//! Which totals a write changed, for `--changes`.
//!
//! `record` compares rows before and after the write, in the same transaction; changes are reported once that is committed.
//! Nothing is compared if nobody asked for changes.

use super::{dialect::Dialect, session::Database};
use crate::tally::Change;

/// What a transaction returns, and the changes to tell once it is committed.
pub(super) type WithChanges<T> = (T, Vec<Change>);

impl<D: Dialect> Database<D> {
    /// True if changes are to be reported.
    pub(super) fn tells_changes(&self) -> bool {
        self.changes.get().is_some()
    }

    /// Reports what a committed transaction changed.
    pub(super) fn committed<T>(&self, (value, changes): WithChanges<T>) -> T {
        if let Some(sink) = self.changes.get().filter(|_| !changes.is_empty()) {
            sink.changed(&changes);
        }
        value
    }
}
