//! The rows of `sweep --not-covered`: those that no `watch` keeps current.
//!
//! Where rows are confirmed, buckets of which most rows are not covered come first, each as a whole. The other rows are
//! taken one by one.

use std::collections::{HashSet, VecDeque};

use async_trait::async_trait;
use futures_util::Stream;

use super::pages::{self, Rows, page_size};
use crate::{
    store::{Coverage, Stale, Store, UncoveredWallet},
    tally::{Bucket, Confirming, Retries, RunError, Wallet},
};

/// Wallets that are selected at once and held in memory, at most.
const AT_ONCE: u64 = 100_000;
/// Buckets whose wallets are selected at once.
const BUCKETS: usize = 4;

/// Where the rows that are taken one by one come from.
enum Rest {
    NotYet,
    Listed(VecDeque<Wallet>),
    /// Page by page, behind this key.
    After(String),
    End,
}

/// The rows that were not taken yet.
struct Uncovered<'a> {
    store: &'a dyn Store,
    coverage: &'a Coverage,
    /// Confirms buckets; `None` where every row is written.
    confirming: Option<&'a Confirming<'a>>,
    stale: Stale,
    buckets: Option<VecDeque<Bucket>>,
    /// The buckets that were taken as a whole, and how many digits they have.
    taken: HashSet<Bucket>,
    digits: u8,
    rest: Rest,
}

/// The wallets to sweep in pages: at most `limit`, and the rest of the last bucket. Buckets are announced to `confirming`;
/// wallets that are retries are added to `retries`.
pub(super) fn pages<'a>(
    store: &'a dyn Store,
    coverage: &'a Coverage,
    confirming: Option<&'a Confirming<'a>>,
    stale: Stale,
    limit: u64,
    retries: &'a Retries,
) -> impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send + 'a {
    let uncovered = Uncovered {
        store,
        coverage,
        confirming,
        stale,
        buckets: None,
        taken: HashSet::new(),
        digits: 1,
        rest: Rest::NotYet,
    };
    pages::pages(uncovered, store, stale, limit, retries)
}

/// How many wallets all pages hold, but for covered rows of buckets that are taken as a whole.
pub(super) async fn count(
    store: &dyn Store,
    coverage: &Coverage,
    stale: &Stale,
    limit: u64,
) -> Result<u64, RunError> {
    let counts = store.count_uncovered(coverage, stale.shard).await?;
    let due = store.count_due(stale).await?;
    Ok(pages::count(counts.rows - counts.failing, due, limit))
}

#[async_trait]
impl Rows for Uncovered<'_> {
    fn are_over(&self) -> bool {
        matches!(self.rest, Rest::End)
    }

    async fn next(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError> {
        let wallets = self.whole_buckets(limit).await?;
        if wallets.is_empty() { self.rest(limit).await } else { Ok(wallets) }
    }
}

impl Uncovered<'_> {
    /// The wallets of the next buckets: until there are `limit` of them.
    async fn whole_buckets(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError> {
        let Some(confirming) = self.confirming else { return Ok(Vec::new()) };
        if self.buckets.is_none() {
            let buckets = self.store.uncovered_buckets(self.coverage, self.stale.shard).await?;
            self.digits = buckets.first().map_or(self.digits, |bucket| bucket.digits());
            self.buckets = Some(buckets.into());
        }
        let mut wallets = Vec::new();
        while (wallets.len() as u64) < limit
            && let Some(buckets) = self.buckets.as_mut().filter(|buckets| !buckets.is_empty())
        {
            let next: Vec<_> = buckets.drain(..BUCKETS.min(buckets.len())).collect();
            let before = Some(self.stale.before);
            for selection in self.store.select_buckets(&next, before).await? {
                self.taken.insert(selection.bucket);
                wallets.extend(confirming.expect(selection));
            }
        }
        Ok(wallets)
    }

    /// The next rows that are taken one by one, at most `limit`.
    async fn rest(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError> {
        if matches!(self.rest, Rest::NotYet) {
            let counts = self.store.count_uncovered(self.coverage, self.stale.shard).await?;
            self.rest = match counts.rows {
                ..=AT_ONCE => {
                    let listed = self.store.list_uncovered(self.coverage, self.stale.shard).await?;
                    Rest::Listed(self.without_taken(listed).into())
                }
                _ => Rest::After(String::new()),
            };
        }
        match &mut self.rest {
            Rest::NotYet | Rest::End => Ok(Vec::new()),
            Rest::Listed(listed) => {
                let count = usize::try_from(limit).unwrap_or(usize::MAX).min(listed.len());
                let wallets = listed.drain(..count).collect();
                if listed.is_empty() {
                    self.rest = Rest::End;
                }
                Ok(wallets)
            }
            Rest::After(after) => {
                let (coverage, shard) = (self.coverage, self.stale.shard);
                let page = self.store.uncovered_page(coverage, shard, after, page_size(limit));
                let (page, last) = page.await?;
                self.rest = last.map_or(Rest::End, Rest::After);
                Ok(self.without_taken(page))
            }
        }
    }

    /// Those that no bucket was taken with. Placeholders are no part of a bucket.
    fn without_taken(&self, page: Vec<UncoveredWallet>) -> Vec<Wallet> {
        let is_left = |row: &UncoveredWallet| {
            row.is_placeholder
                || self.taken.is_empty()
                || !self.taken.contains(&Bucket::of(row.wallet, self.digits))
        };
        page.into_iter().filter(is_left).map(|row| row.wallet).collect()
    }
}
