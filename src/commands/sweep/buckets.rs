//! The rows of a sweep that confirms buckets: those that were never read first, then the buckets that were not confirmed
//! for longest, each as a whole.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::Stream;

use super::pages::{self, Place, Rows, page_size, share};
use crate::{
    app::PAGE,
    store::{BucketCursor, Stale, Store},
    tally::{Bucket, Confirming, Retries, RunError, Wallet},
};

/// Buckets whose numbers are held in memory at once.
const BUCKETS: u32 = 1 << 16;
/// Buckets whose wallets are selected at once, at most.
const AT_ONCE: usize = 1_024;
/// Rows that are selected at once, at most. The more there are, the more often one page of the table holds several of them;
/// two selections are in memory.
const ROWS: u64 = 150_000;
/// How long reading what is selected at once may take: a selection that is old confirms an earlier time, and is followed by
/// more writes.
const READ_WITHIN: Duration = Duration::from_secs(4);

/// The rows that were not taken yet.
struct Buckets<'a> {
    store: &'a dyn Store,
    confirming: &'a Confirming<'a>,
    stale: Stale,
    /// Rows that were never read.
    unread: Place,
    /// Buckets that were never confirmed, and those that were, which come after them.
    new: VecDeque<Bucket>,
    confirmed: VecDeque<Bucket>,
    after: Option<BucketCursor>,
    is_last_page: bool,
    pace: Pace,
}

/// How much is selected at once.
struct Pace {
    /// How many rows, by how quickly they are read.
    rows: u64,
    /// How many buckets, by how many wallets the last ones had.
    at_once: usize,
    /// When rows were selected last.
    since: Option<Instant>,
}

impl Pace {
    /// Another selection is asked for: what was selected before the last one has been read.
    fn next(&mut self) {
        let elapsed = self.since.replace(Instant::now()).map(|since| since.elapsed());
        self.rows = match elapsed {
            Some(elapsed) if elapsed > READ_WITHIN => (self.rows / 2).max(PAGE.into()),
            Some(elapsed) if elapsed < READ_WITHIN / 2 => ROWS.min(2 * self.rows),
            _ => self.rows,
        };
    }

    /// Adapts the number of buckets: the last selection found this many wallets in this many buckets.
    fn learn(&mut self, buckets: usize, wallets: usize) {
        let of_each = (wallets / buckets).max(1);
        let fitting = usize::try_from(self.rows).unwrap_or(usize::MAX) / of_each;
        self.at_once = fitting.clamp(1, 2 * self.at_once).min(AT_ONCE);
    }
}

/// The wallets to sweep in pages: at most `limit`, and the rest of the last bucket. The buckets are announced to
/// `confirming`; wallets that are retries are added to `retries`.
pub(super) fn pages<'a>(
    store: &'a dyn Store,
    confirming: &'a Confirming<'a>,
    stale: Stale,
    limit: u64,
    retries: &'a Retries,
) -> impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send + 'a {
    let buckets = Buckets {
        store,
        confirming,
        stale,
        unread: Place::After(None),
        new: VecDeque::new(),
        confirmed: VecDeque::new(),
        after: None,
        is_last_page: false,
        pace: Pace { rows: PAGE.into(), at_once: 1, since: None },
    };
    pages::pages(buckets, store, stale, limit, retries)
}

/// How many wallets all pages hold.
pub(super) async fn count(store: &dyn Store, stale: &Stale, limit: u64) -> Result<u64, RunError> {
    let due = store.count_due(stale).await?;
    let with_due = |rows: u64| rows + due.min(share(limit));
    let mut rows = store.count_stale(&unread(stale)).await?;
    if with_due(rows) >= limit {
        return Ok(limit);
    }
    let mut after = None;
    loop {
        let page = store.stale_buckets(stale, after.as_ref(), BUCKETS).await?;
        let buckets: Vec<_> = page.new.into_iter().chain(page.confirmed).collect();
        let (mut buckets, mut at_once) = (buckets.as_slice(), 16);
        while !buckets.is_empty() {
            let (chunk, rest) = buckets.split_at(at_once.min(buckets.len()));
            for wallets in store.count_in_buckets(chunk, stale.before).await? {
                rows += wallets;
                if with_due(rows) >= limit {
                    return Ok(with_due(rows));
                }
            }
            (buckets, at_once) = (rest, AT_ONCE.min(2 * at_once));
        }
        match page.next {
            Some(next) => after = Some(next),
            None if rows == 0 => return Ok(due.min(limit)),
            None => return Ok(with_due(rows)),
        }
    }
}

/// Before when a bucket must have a row that was last written, to be swept. Rows of a new bucket may be newer than the
/// run: it may have filled them itself. Those of a confirmed one are, most of them, as old as the confirmation.
fn rows_before(stale: &Stale, is_new: bool) -> Option<DateTime<Utc>> {
    (is_new || stale.before < stale.due).then_some(stale.before)
}

/// The stale rows that were never read.
fn unread(stale: &Stale) -> Stale {
    let first_day = DateTime::UNIX_EPOCH + chrono::Days::new(1);
    Stale { before: first_day.min(stale.before), ..*stale }
}

#[async_trait]
impl Rows for Buckets<'_> {
    fn page(&self) -> u64 {
        match self.unread {
            Place::After(_) => PAGE.into(),
            Place::End => self.pace.rows,
        }
    }

    fn are_over(&self) -> bool {
        self.is_last_page && self.has_no_bucket()
    }

    async fn next(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError> {
        match &self.unread {
            Place::After(_) => self.unread(limit).await,
            Place::End => self.whole_buckets(limit).await,
        }
    }
}

impl Buckets<'_> {
    /// The next rows that were never read.
    async fn unread(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError> {
        let Place::After(after) = &self.unread else { return Ok(Vec::new()) };
        let unread = unread(&self.stale);
        let page = self.store.stale_page(&unread, after.as_ref(), page_size(limit)).await?;
        self.unread = Place::of(page.next);
        self.confirming.announce(&page.wallets);
        Ok(page.wallets)
    }

    fn has_no_bucket(&self) -> bool {
        self.new.is_empty() && self.confirmed.is_empty()
    }

    /// The wallets of the next buckets: until there are `limit` of them.
    async fn whole_buckets(&mut self, limit: u64) -> Result<Vec<Wallet>, RunError> {
        if self.has_no_bucket() && !self.is_last_page {
            let page = self.store.stale_buckets(&self.stale, self.after.as_ref(), BUCKETS).await?;
            self.is_last_page = page.next.is_none();
            self.after = page.next;
            (self.new, self.confirmed) = (page.new.into(), page.confirmed.into());
        }
        self.pace.next();
        let is_new = !self.new.is_empty();
        let queue = if is_new { &mut self.new } else { &mut self.confirmed };
        let buckets: Vec<_> = queue.drain(..self.pace.at_once.min(queue.len())).collect();
        if buckets.is_empty() {
            return Ok(Vec::new());
        }
        let before = rows_before(&self.stale, is_new);
        let selected = self.store.select_buckets(&buckets, before).await?;
        let (mut wallets, mut selected) = (Vec::new(), selected.into_iter());
        while (wallets.len() as u64) < limit
            && let Some(selection) = selected.next()
        {
            wallets.extend(self.confirming.expect(selection));
        }
        // The rest is for the next page.
        selected.rev().for_each(|selection| queue.push_front(selection.bucket));
        self.pace.learn(buckets.len(), wallets.len());
        Ok(wallets)
    }
}
