//! What a transaction that writes totals looks at first, in one statement.

use super::{dialect::Dialect, error::StoreError, parts, session::Session};

/// What decides how totals are written. It is looked up under the transaction's locks: whatever would decide otherwise
/// about the rows that it writes waits for its end.
pub(super) struct Standing {
    /// All columns of parts that the table has.
    pub(super) columns: Vec<String>,
    /// The newest block at which any bucket was confirmed.
    confirmed: Option<i64>,
    /// The newest block of which `watch` has followed the events, or from which on it follows them.
    followed: Option<i64>,
}

impl Standing {
    /// Looks it up in the database.
    ///
    /// # Errors
    /// If the table lacks a column of the run's profile, or one holds another part.
    pub(super) async fn look_up<D: Dialect>(
        session: &mut Session<'_, D>,
    ) -> Result<Self, StoreError> {
        type Found = (Option<String>, Option<String>, Option<i64>, Option<i64>);
        let found: Vec<Found> = session.fetch(D::SQL.standing, &[]).await?;
        let blocks = |&(_, _, confirmed, followed): &Found| (confirmed, followed);
        let (confirmed, followed) = found.first().map(blocks).unwrap_or_default();
        // If there is no column, the only row has no name.
        let columns = found.into_iter().filter_map(|(name, holds, ..)| name.zip(holds)).collect();
        Ok(Self { columns: parts::complete(session.columns(), columns)?, confirmed, followed })
    }

    /// Whether a bucket may be confirmed at a newer block than one of these reads.
    pub(super) fn may_supersede(&self, read_blocks: &[i64]) -> bool {
        is_beyond(self.confirmed, read_blocks)
    }

    /// Whether events of blocks may be followed that are newer than one of these reads.
    pub(super) fn follows_beyond(&self, read_blocks: &[i64]) -> bool {
        is_beyond(self.followed, read_blocks)
    }
}

fn is_beyond(block: Option<i64>, read_blocks: &[i64]) -> bool {
    read_blocks.iter().min().is_some_and(|lowest| block > Some(*lowest))
}
