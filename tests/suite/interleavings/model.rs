//! A model of the transactions that write totals and confirm buckets: one row, two writers, one confirmation.
//!
//! It does every step of each transaction in every order that the locks allow, as under PostgreSQL's READ COMMITTED: a
//! statement sees what was committed before it began, and a statement that waits for a row looks at the row again. To
//! show that the model can find a fault, it also runs without each of the two locks, and then must find one.

use std::collections::HashSet;

use itertools::iproduct;

use super::{HISTORIES, History};

/// The row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    total: u64,
    /// `None` for a placeholder.
    read_block: Option<u64>,
    created_at: u8,
    updated_at: u8,
}

/// The row of the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Confirmed {
    block: u64,
    selected_at: u8,
}

impl Row {
    fn is_covered(&self, confirmed: Confirmed) -> bool {
        let before = confirmed.selected_at;
        self.read_block.is_some() && self.updated_at < before && self.created_at < before
    }

    /// The block at which it is known to be right.
    fn known(&self, confirmed: Confirmed) -> Option<u64> {
        let block = Some(confirmed.block).filter(|_| self.is_covered(confirmed));
        self.read_block.max(block)
    }
}

/// Where a writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Begin,
    /// It has the lock that it shares with other writers.
    Locked,
    /// Its statement began at this time, and sees this confirmation.
    Started(Confirmed, u8),
    /// What it wrote is visible to others once it commits.
    Wrote(Option<Row>),
    Done,
}

/// Where the confirmation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Confirmation {
    Begin,
    /// All that was written before this time is visible.
    Timed(u8),
    /// The row as it was selected, if it is one to read.
    Selected(u8, Option<Row>),
    Locked(u8, Option<Row>),
    /// The row as it compared it, and when the bucket is selected if it is confirmed.
    Compared(Option<Row>, Option<u8>),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    clock: u8,
    row: Option<Row>,
    confirmed: Confirmed,
    writers: [Writer; 2],
    confirmation: Confirmation,
    /// The newest block at which the row was known to be right, at any time.
    known: Option<u64>,
}

/// What is the same in all states of one exploration.
#[derive(Clone, Copy, Debug)]
struct Setting {
    history: History,
    /// The blocks at which the writers and the confirmation read.
    writers: [u64; 2],
    confirmation: u64,
    locks: Locks,
}

/// Which locks a confirmation takes.
#[derive(Clone, Copy, Debug)]
struct Locks {
    /// Before it selects: it waits for writers.
    at_selection: bool,
    /// While it compares: it excludes writers.
    at_comparison: bool,
}

impl Setting {
    fn total(&self, block: u64) -> u64 {
        self.history[block as usize - 1]
    }

    fn next_states(&self, state: &State) -> Vec<State> {
        let writers = (0..2).filter_map(|writer| self.write(state, writer));
        let later = |mut next: State| {
            next.clock += 1;
            next
        };
        writers.chain(self.confirm(state)).map(later).collect()
    }

    /// The next step of a writer, if it does not wait.
    fn write(&self, state: &State, writer: usize) -> Option<State> {
        let mut next = *state;
        let block = self.writers[writer];
        next.writers[writer] = match state.writers[writer] {
            Writer::Begin => {
                let is_confirming = matches!(
                    state.confirmation,
                    Confirmation::Locked(..) | Confirmation::Compared(..)
                );
                if self.locks.at_comparison && is_confirming {
                    return None;
                }
                Writer::Locked
            }
            Writer::Locked => Writer::Started(state.confirmed, state.clock),
            Writer::Started(confirmed, now) => {
                if self.holds_row(state, Some(writer)) {
                    return None;
                }
                let stored = state.row;
                let is_older = |row: Row| {
                    row.read_block.is_some_and(|read_block| read_block > block)
                        || confirmed.block > block && row.is_covered(confirmed)
                };
                let created_at = stored.map_or(now, |row| row.created_at);
                let (total, read_block) = (self.total(block), Some(block));
                let written = Row { total, read_block, created_at, updated_at: now };
                Writer::Wrote((!stored.is_some_and(is_older)).then_some(written))
            }
            Writer::Wrote(written) => {
                next.row = written.or(state.row);
                Writer::Done
            }
            Writer::Done => return None,
        };
        Some(next)
    }

    /// The next step of the confirmation, if it does not wait.
    fn confirm(&self, state: &State) -> Option<State> {
        let mut next = *state;
        let block = self.confirmation;
        let is_writing = |writer: &Writer| !matches!(writer, Writer::Begin | Writer::Done);
        let is_any_writing = state.writers.iter().any(is_writing);
        next.confirmation = match state.confirmation {
            Confirmation::Begin => {
                if self.locks.at_selection && is_any_writing {
                    return None;
                }
                Confirmation::Timed(state.clock)
            }
            Confirmation::Timed(at) => {
                let is_read = |row: &Row| row.read_block.is_some();
                Confirmation::Selected(at, state.row.filter(is_read))
            }
            Confirmation::Selected(at, row) => {
                if self.locks.at_comparison && is_any_writing {
                    return None;
                }
                Confirmation::Locked(at, row)
            }
            Confirmation::Locked(at, selected_row) => {
                let selected = Confirmed { block, selected_at: at };
                let is_unchanged = |row: &Row| {
                    row.read_block.is_none_or(|read| read <= block)
                        && row.is_covered(selected)
                        && row.total == self.total(block)
                };
                let written_since = state.row.filter(|row| row.updated_at >= at);
                let again = match selected_row {
                    Some(row) if is_unchanged(&row) => written_since,
                    Some(_) => state.row,
                    None => None,
                };
                let written = again.filter(|row| {
                    let is_superseded = row.read_block.is_some_and(|read| read > block);
                    let is_newer =
                        state.confirmed.block <= block || !row.is_covered(state.confirmed);
                    !is_superseded && !is_unchanged(row) && is_newer
                });
                let written = written.map(|row| Row {
                    total: self.total(block),
                    read_block: Some(block),
                    updated_at: state.clock,
                    ..row
                });
                let confirms = state.confirmed.block <= block;
                Confirmation::Compared(written, confirms.then_some(at))
            }
            Confirmation::Compared(written, at) => {
                // The row's lock belongs to the statement that wrote it.
                if written.is_some() && self.holds_row(state, None) {
                    return None;
                }
                next.row = written.or(state.row);
                if let Some(selected_at) = at {
                    next.confirmed = Confirmed { block, selected_at };
                }
                Confirmation::Done
            }
            Confirmation::Done => return None,
        };
        Some(next)
    }

    /// Whether another writer has written the row and did not commit yet.
    fn holds_row(&self, state: &State, but: Option<usize>) -> bool {
        (0..2)
            .filter(|writer| Some(*writer) != but)
            .any(|writer| matches!(state.writers[writer], Writer::Wrote(Some(_))))
    }

    /// What is wrong after the step from `before` to `after`.
    fn fault(&self, before: &State, after: &State) -> Option<String> {
        let Some(row) = after.row else {
            return before.row.map(|_| "the row is gone".to_owned());
        };
        let known = row.known(after.confirmed)?;
        if row.total != self.total(known) {
            return Some(format!("wrong at block {known}"));
        }
        let is_changed = before.row.is_none_or(|before| before.total != row.total);
        (is_changed && Some(known) < before.known)
            .then(|| format!("changed by a read at {known}, known at {:?}", before.known))
    }

    /// The first fault in any interleaving from this row on, and how many states there are.
    fn explore(&self, row: Option<Row>, confirmed: Confirmed) -> (Option<String>, usize) {
        let known = row.and_then(|row| row.known(confirmed));
        let (writers, confirmation) = ([Writer::Begin; 2], Confirmation::Begin);
        let start = State { clock: 10, row, confirmed, writers, confirmation, known };
        let (mut seen, mut open) = (HashSet::from([start]), vec![start]);
        while let Some(state) = open.pop() {
            let next = self.next_states(&state);
            let is_over =
                state.writers == [Writer::Done; 2] && state.confirmation == Confirmation::Done;
            assert!(is_over || !next.is_empty(), "all wait for each other: {state:?}");
            for mut after in next {
                if let Some(fault) = self.fault(&state, &after) {
                    return (Some(format!("{fault}: {self:?}, {state:?}, {after:?}")), seen.len());
                }
                after.known = after.known.max(after.row.and_then(|row| row.known(after.confirmed)));
                if seen.insert(after) {
                    open.push(after);
                }
            }
        }
        (None, seen.len())
    }
}

/// The first fault that any setting has, and the number of states until then.
fn explore_all(locks: Locks) -> (Option<String>, usize) {
    let blocks = [1, 2, 3];
    let mut states = 0;
    for (history, first, second, confirmation) in iproduct!(HISTORIES, blocks, blocks, blocks) {
        if first > second {
            // As with the writers exchanged.
            continue;
        }
        let setting = Setting { history, writers: [first, second], confirmation, locks };
        let read_at = |block: u64| Row {
            total: setting.total(block),
            read_block: Some(block),
            created_at: 0,
            updated_at: 1,
        };
        let placeholder = Row { total: 0, read_block: None, created_at: 0, updated_at: 0 };
        let rows = [None, Some(placeholder), Some(read_at(1)), Some(read_at(2))];
        for (row, confirmed_at) in iproduct!(rows, [0, 1, 2]) {
            let confirmed = Confirmed { block: confirmed_at, selected_at: confirmed_at as u8 * 2 };
            // A confirmation that would have found another total.
            let is_right = row.is_none_or(|row| {
                row.known(confirmed).is_none_or(|known| row.total == setting.total(known))
            });
            if is_right {
                let (fault, count) = setting.explore(row, confirmed);
                states += count;
                if fault.is_some() {
                    return (fault, states);
                }
            }
        }
    }
    (None, states)
}

#[test]
fn no_interleaving_changes_a_row_by_an_older_read_or_confirms_a_wrong_one() {
    let (fault, states) = explore_all(Locks { at_selection: true, at_comparison: true });
    assert_eq!(fault, None);
    assert!(states > 100_000, "only {states} states");
}

#[test]
fn without_one_of_the_locks_the_model_finds_a_fault() {
    for at_selection in [true, false] {
        let locks = Locks { at_selection, at_comparison: !at_selection };
        let (fault, _) = explore_all(locks);
        assert!(fault.is_some(), "{locks:?}");
    }
}
