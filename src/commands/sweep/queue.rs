//! Which wallets a sweep takes, and in which order.
//!
//! The stalest rows first. Wallets on the record of failures whose retry is due get at most a quarter of a batch, and
//! come last in it: however many they are, and however long they take, the other rows are read. Only if no other row is
//! stale does the whole batch go to them.

use futures_util::{Stream, stream};
use itertools::Itertools;

use crate::{
    app::PAGE,
    store::{Cursor, Stale, Store},
    tally::{Retries, RunError, Wallet},
};

/// One of so many wallets may be a retry.
const SHARE: u64 = 4;

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
pub(super) struct Due<'a> {
    store: &'a dyn Store,
    stale: Stale,
    retries: &'a Retries,
    place: Place,
    /// How many more to take.
    pub(super) left: u64,
}

impl<'a> Due<'a> {
    /// The retries of a sweep of at most `limit` wallets; those that are taken are added to `retries`.
    pub(super) fn new(
        store: &'a dyn Store,
        stale: Stale,
        limit: u64,
        retries: &'a Retries,
    ) -> Self {
        Self { store, stale, retries, place: Place::After(None), left: share(limit) }
    }

    /// The next ones, at most `limit`.
    pub(super) async fn next(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError> {
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
    pub(super) const fn is_over(&self) -> bool {
        self.left == 0 || matches!(self.place, Place::End)
    }
}

/// The wallets of a sweep that were not taken yet.
struct Queue<'a> {
    store: &'a dyn Store,
    stale: Stale,
    rows: Place,
    due: Due<'a>,
    /// True once a row was taken.
    has_rows: bool,
    /// How many more wallets to take.
    left: u64,
}

/// How many retries a batch of `limit` wallets may hold beside other rows.
pub(super) fn share(limit: u64) -> u64 {
    if limit == u64::MAX { limit } else { (limit / SHARE).max(1) }
}

/// The wallets to sweep in pages, at most `limit`; those that are retries are added to `retries`.
pub(super) fn pages<'a>(
    store: &'a dyn Store,
    stale: Stale,
    limit: u64,
    retries: &'a Retries,
) -> impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send + 'a {
    let due = Due::new(store, stale, limit, retries);
    let queue = Queue { store, stale, rows: Place::After(None), due, has_rows: false, left: limit };
    stream::try_unfold(queue, |mut queue| async move {
        Ok(queue.next().await?.map(|page| (page, queue)))
    })
}

/// How many wallets all pages hold.
pub(super) async fn count(store: &dyn Store, stale: &Stale, limit: u64) -> Result<u64, RunError> {
    let (rows, due) = (store.count_stale(stale).await?, store.count_due(stale).await?);
    let due = if rows == 0 { due } else { due.min(share(limit)) };
    Ok((rows + due).min(limit))
}

impl Queue<'_> {
    async fn next(&mut self) -> Result<Option<Vec<Wallet>>, RunError> {
        while self.left > 0 {
            let size = self.left.min(PAGE.into());
            let of_page = match self.rows {
                Place::After(_) => share(size),
                Place::End => size,
            };
            let due = self.due.next(of_page).await?;
            let rows = self.rows(size - due.len() as u64).await?;
            if rows.is_empty() && due.is_empty() {
                if matches!(self.rows, Place::End) && self.due.is_over() {
                    break;
                }
                continue;
            }
            self.left -= (rows.len() + due.len()) as u64;
            // Another process may have taken a wallet off the record between the two.
            return Ok(Some(rows.into_iter().chain(due).unique().collect()));
        }
        Ok(None)
    }

    /// The next rows of wallets that are not on the record of failures. Rows that hold no wallet do not count: else
    /// they would fill every batch for ever.
    async fn rows(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError> {
        let Place::After(after) = &self.rows else { return Ok(Vec::new()) };
        if limit == 0 {
            return Ok(Vec::new());
        }
        let page = self.store.stale_page(&self.stale, after.as_ref(), page_size(limit)).await?;
        self.rows = Place::of(page.next);
        self.has_rows |= !page.wallets.is_empty();
        if matches!(self.rows, Place::End) && !self.has_rows {
            // Nothing else is stale.
            self.due.left = self.left;
        }
        Ok(page.wallets)
    }
}

pub(super) fn page_size(limit: u64) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX).min(PAGE)
}
