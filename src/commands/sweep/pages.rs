//! Pages of wallets: rows, and beside them retries of failures.
//!
//! Wallets on the record of failures whose retry is due get at most a quarter of a batch, and come last in it: however
//! many they are, and however long they take, the other rows are read. Only if no other row is stale does the whole
//! batch go to them.

use std::collections::HashSet;

use async_trait::async_trait;
use futures_util::{Stream, stream};

use crate::{
    app::PAGE,
    store::{Cursor, Stale, Store},
    tally::{Retries, RunError, Wallet},
};

/// At most one wallet in this many is a retry, as long as there are other rows.
const SHARE: u64 = 4;

/// Which rows a sweep reads, and in which order.
#[async_trait]
pub(super) trait Rows: Send {
    /// How many wallets a page may hold.
    fn page(&self) -> u64 {
        PAGE.into()
    }

    /// True if all were taken.
    fn are_over(&self) -> bool;

    /// Wallets of the next rows: about `limit` of them, which is at least 1. An empty list does not mean that all were taken.
    async fn next(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError>;
}

/// How far the rows of one kind were taken.
pub(super) enum Place {
    After(Option<Cursor>),
    End,
}

impl Place {
    pub(super) fn of(next: Option<Cursor>) -> Self {
        next.map_or(Self::End, |cursor| Self::After(Some(cursor)))
    }
}

/// The wallets on the record of failures that a sweep tries again.
struct Due<'a> {
    store: &'a dyn Store,
    stale: Stale,
    retries: &'a Retries,
    place: Place,
    /// How many more to take.
    left: u64,
}

impl Due<'_> {
    /// The next ones, at most `limit`.
    async fn next(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError> {
        let Place::After(after) = &self.place else { return Ok(Vec::new()) };
        let limit = limit.min(self.left);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let page = self.store.due_page(&self.stale, after.as_ref(), page_size(limit)).await?;
        self.place = Place::of(page.next);
        self.left -= page.wallets.len() as u64;
        self.retries.add(&page.wallets);
        Ok(page.wallets)
    }

    /// True if all were taken.
    const fn are_over(&self) -> bool {
        self.left == 0 || matches!(self.place, Place::End)
    }
}

/// The wallets of a sweep that were not taken yet.
struct Pages<'a, R> {
    rows: R,
    due: Due<'a>,
    /// True once a row was taken.
    has_rows: bool,
    /// How many more wallets to take.
    left: u64,
}

/// The wallets to sweep in pages, at most `limit` and as many more as `rows` gives at once; those that are retries are
/// added to `retries`.
pub(super) fn pages<'a>(
    rows: impl Rows + 'a,
    store: &'a dyn Store,
    stale: Stale,
    limit: u64,
    retries: &'a Retries,
) -> impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send + 'a {
    let due = Due { store, stale, retries, place: Place::After(None), left: share(limit) };
    let pages = Pages { rows, due, has_rows: false, left: limit };
    stream::try_unfold(pages, |mut pages| async move {
        Ok(pages.next().await?.map(|page| (page, pages)))
    })
}

/// How many wallets all pages hold, given the number of rows and that of retries.
pub(super) fn count(rows: u64, due: u64, limit: u64) -> u64 {
    let due = if rows == 0 { due } else { due.min(share(limit)) };
    (rows + due).min(limit)
}

impl<R: Rows> Pages<'_, R> {
    async fn next(&mut self) -> Result<Option<Vec<Wallet>>, RunError> {
        while self.left > 0 {
            let size = self.left.min(self.rows.page());
            let are_rows_over = self.rows.are_over();
            if are_rows_over && !self.has_rows {
                // Nothing else is stale.
                self.due.left = self.left;
            }
            let due = self.due.next(if are_rows_over { size } else { share(size) }).await?;
            let rows = match size - due.len() as u64 {
                0 => Vec::new(),
                room => self.rows.next(room).await?,
            };
            if rows.is_empty() && due.is_empty() {
                if are_rows_over && self.due.are_over() {
                    break;
                }
                continue;
            }
            self.has_rows |= !rows.is_empty();
            let page = joined(rows, due);
            self.left = self.left.saturating_sub(page.len() as u64);
            return Ok(Some(page));
        }
        Ok(None)
    }
}

/// Both, each wallet once: another process may have taken one off the record between the two.
fn joined(mut rows: Vec<Wallet>, due: Vec<Wallet>) -> Vec<Wallet> {
    if !due.is_empty() {
        let retried: HashSet<_> = due.iter().copied().collect();
        rows.retain(|wallet| !retried.contains(wallet));
        rows.extend(due);
    }
    rows
}

/// How many retries a batch of `limit` wallets may hold beside other rows.
pub(super) fn share(limit: u64) -> u64 {
    if limit == u64::MAX { limit } else { (limit / SHARE).max(1) }
}

pub(super) fn page_size(limit: u64) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX).min(PAGE)
}
