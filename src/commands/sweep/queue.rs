//! The rows of a sweep that writes each of them: the stalest first.

use async_trait::async_trait;
use futures_util::Stream;

use super::pages::{self, Place, Rows, page_size};
use crate::{
    store::{Stale, Store},
    tally::{Retries, RunError, Wallet},
};

/// The rows that were not taken yet.
struct Queue<'a> {
    store: &'a dyn Store,
    stale: Stale,
    place: Place,
}

/// The wallets to sweep in pages, at most `limit`; those that are retries are added to `retries`.
pub(super) fn pages<'a>(
    store: &'a dyn Store,
    stale: Stale,
    limit: u64,
    retries: &'a Retries,
) -> impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send + 'a {
    let queue = Queue { store, stale, place: Place::After(None) };
    pages::pages(queue, store, stale, limit, retries)
}

/// How many wallets all pages hold.
pub(super) async fn count(store: &dyn Store, stale: &Stale, limit: u64) -> Result<u64, RunError> {
    let (rows, due) = (store.count_stale(stale).await?, store.count_due(stale).await?);
    Ok(pages::count(rows, due, limit))
}

#[async_trait]
impl Rows for Queue<'_> {
    fn are_over(&self) -> bool {
        matches!(self.place, Place::End)
    }

    /// Those that are not on the record of failures. Rows that hold no wallet do not count: else they would fill every
    /// batch for ever.
    async fn next(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError> {
        let Place::After(after) = &self.place else { return Ok(Vec::new()) };
        let page = self.store.stale_page(&self.stale, after.as_ref(), page_size(limit)).await?;
        self.place = Place::of(page.next);
        Ok(page.wallets)
    }
}
