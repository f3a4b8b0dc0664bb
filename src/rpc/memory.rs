//! What an endpoint remembers: notes what is learnt of it, and tells what is known.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::{sync::OnceCell, time::Instant};

use super::{
    endpoint::Endpoint,
    error::NodeError,
    kind::ErrorKind,
    learnt::{Checks, Feature, Head, Support, lock},
};
use crate::{
    limit::{Found, LimitSearch, Size},
    tally::NodeHint,
};

/// The kind of hint that says whether requests may be compressed.
const GZIP: &str = "gzip";

/// How long a form that did not work is not tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(600);

impl Endpoint {
    /// True once it is known to be of the right chain, fresh, and with every contract.
    pub(super) fn is_checked(&self) -> bool {
        self.learnt.is_checked.load(Relaxed)
    }

    /// Every check has passed.
    pub(super) fn passed_checks(&self) {
        self.learnt.is_checked.store(true, Relaxed);
    }

    /// It has to pass every check again.
    pub(super) async fn check_again(&self) {
        *self.checks().await = Checks::default();
        self.learnt.is_checked.store(false, Relaxed);
    }

    /// How far the checks have come; held while they go on, so that they are made once.
    pub(super) async fn checks(&self) -> tokio::sync::MutexGuard<'_, Checks> {
        self.learnt.checks.lock().await
    }

    /// Set once it is known whether it refuses to give the logs of a block that it does not have.
    pub(super) const fn refuses_unknown_blocks(&self) -> &OnceCell<bool> {
        &self.learnt.refuses_unknown_blocks
    }

    /// The highest block that it is known to have.
    pub(super) fn head(&self) -> Option<Head> {
        *lock(&self.learnt.head)
    }

    /// It has this block.
    pub(super) fn has_block(&self, number: u64) {
        let mut head = lock(&self.learnt.head);
        if head.is_none_or(|head| head.number <= number) {
            *head = Some(Head { number, seen: Instant::now() });
        }
    }

    /// True if it is known to have had this block.
    pub(super) fn had_block(&self, number: u64) -> bool {
        self.head().is_some_and(|head| head.number >= number)
    }

    /// It refused this block. If it has had it, it lacks that block's state, and so that of older ones.
    pub(super) fn refused_block(&self, number: u64) {
        if self.had_block(number) {
            self.learnt.state_from.fetch_max(number.saturating_add(1), Relaxed);
        }
    }

    /// It has the state of this block after all.
    pub(super) fn has_state(&self, number: u64) {
        self.learnt.state_from.fetch_min(number, Relaxed);
    }

    /// False if it is known to lack the state of this block.
    pub(super) fn may_have_state(&self, number: u64) -> bool {
        number >= self.learnt.state_from.load(Relaxed)
    }

    /// Whether it has this feature, as far as is known.
    pub fn support(&self, feature: Feature) -> Support {
        match lock(&self.learnt.features).get(&feature) {
            Some((Support::Missing, seen)) if seen.elapsed() > TRY_AGAIN_AFTER => Support::Untried,
            Some((support, _)) => *support,
            None => Support::Untried,
        }
    }

    /// Remembers whether it has this feature; returns what was known before.
    pub fn learn(&self, feature: Feature, support: Support) -> Support {
        let mut features = lock(&self.learnt.features);
        let before = features.insert(feature, (support, Instant::now()));
        before.map_or(Support::Untried, |(support, _)| support)
    }

    /// True if it is worth to send it a compressed request: it is known to take them, or may, as it knows gzip.
    pub(super) fn may_take_gzip(&self) -> bool {
        match self.support(Feature::GzipRequests) {
            Support::Works => true,
            Support::Untried => self.learnt.knows_gzip.load(Relaxed),
            Support::Missing => false,
        }
    }

    /// A compressed request was answered.
    pub(super) fn took_gzip(&self) {
        if self.support(Feature::GzipRequests) == Support::Untried {
            self.learn(Feature::GzipRequests, Support::Works);
        }
    }

    /// A compressed request failed. Unless the failure shows that it was understood, none is sent for a while, and this
    /// one has to be sent again as it is: then this returns true.
    pub(super) fn refused_gzip(&self, failure: &NodeError) -> bool {
        let was_understood = match failure.kind {
            ErrorKind::RateLimited | ErrorKind::QuotaExhausted => true,
            ErrorKind::TooLarge
            | ErrorKind::Reverted
            | ErrorKind::BlockUnavailable
            | ErrorKind::BlockReplaced => !failure.is_ambiguous(),
            // A connection may break at any time.
            ErrorKind::TimedOut => self.support(Feature::GzipRequests) == Support::Works,
            ErrorKind::Refused
            | ErrorKind::NotUnderstood
            | ErrorKind::Unreachable
            | ErrorKind::Unknown => false,
        };
        if was_understood {
            return false;
        }
        self.learn(Feature::GzipRequests, Support::Missing);
        true
    }

    /// The search for the largest request of this kind.
    pub fn limit<T>(&self, limit: Limit, work: impl FnOnce(&mut LimitSearch) -> T) -> T {
        let mut limits = lock(&self.learnt.limits);
        let new = || match limit.at_most {
            Some(number) => LimitSearch::at_most(number),
            None => {
                let search = LimitSearch::from(limit.first, limit.ceiling).with_usual(limit.usual);
                match lock(&self.learnt.hints).get(limit.kind) {
                    Some(hint) => search.with_hint(Found {
                        good: usize::try_from(hint.accepted).unwrap_or(usize::MAX),
                        bad: hint.refused.and_then(|refused| usize::try_from(refused).ok()),
                    }),
                    None => search,
                }
            }
        };
        work(limits.entry(limit.kind).or_insert_with(new))
    }

    /// A request of this kind and size failed, as it seems for its size: the node says so, or smaller ones work.
    pub fn too_large(&self, limit: Limit, len: usize, failure: &NodeError) {
        // Neither a bad moment nor a failing wallet reverts the whole call, so the call was too large.
        let says_so = matches!(failure.kind, ErrorKind::TooLarge | ErrorKind::Reverted);
        self.limit(limit, |search| match says_so {
            true => search.too_large(len, None),
            false => search.may_be_too_large(len),
        });
    }

    /// Remembers what earlier runs found of it.
    pub(super) fn take_hints(&self, hints: &[NodeHint]) {
        let key = self.id.key();
        let ours = hints.iter().filter(|hint| hint.endpoint == key);
        for hint in ours {
            if hint.kind == GZIP {
                let taken = if hint.accepted > 0 { Support::Works } else { Support::Missing };
                self.learn(Feature::GzipRequests, taken);
            }
            lock(&self.learnt.hints).insert(hint.kind.clone(), hint.clone());
        }
    }

    /// What was found of it that is not remembered yet.
    pub(super) fn hints(&self) -> Vec<NodeHint> {
        let hint = |kind: &str, accepted: usize, refused: Option<usize>| NodeHint {
            endpoint: self.id.key(),
            kind: kind.to_owned(),
            accepted: accepted as u64,
            refused: refused.map(|refused| refused as u64),
            is_old: false,
        };
        let mut found: Vec<_> = lock(&self.learnt.limits)
            .iter()
            .filter_map(|(kind, search)| {
                let Found { good, bad } = search.found()?;
                Some(hint(kind, good, bad))
            })
            .collect();
        match self.support(Feature::GzipRequests) {
            Support::Untried => {}
            Support::Works => found.push(hint(GZIP, 1, None)),
            Support::Missing => found.push(hint(GZIP, 0, None)),
        }
        let known = lock(&self.learnt.hints);
        found.retain(|hint| known.get(&hint.kind).is_none_or(|known| !known.says(hint)));
        found
    }

    /// The size of the next request of this kind.
    pub fn next_size(&self, limit: Limit) -> SizeInUse<'_> {
        let size = self.limit(limit, LimitSearch::next_size);
        SizeInUse { endpoint: self, limit, size }
    }

    /// The same where a few requests are enough for the `left` that is left to ask for.
    pub fn last_size(&self, limit: Limit, left: usize) -> SizeInUse<'_> {
        let size = self.limit(limit, |search| search.last_size(left));
        SizeInUse { endpoint: self, limit, size }
    }
}

/// A kind of request whose largest size is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Its name.
    pub kind: &'static str,
    /// Where the search begins; at least 1.
    pub first: usize,
    /// What most endpoints take.
    pub usual: usize,
    /// The largest size to try; at least 1.
    pub ceiling: usize,
    /// Where the user set an upper limit: the search begins with it.
    pub at_most: Option<usize>,
}

/// A size that a request under way is trying.
pub struct SizeInUse<'a> {
    endpoint: &'a Endpoint,
    limit: Limit,
    size: Size,
}

impl SizeInUse<'_> {
    /// The most that the request may ask for.
    pub const fn get(&self) -> usize {
        self.size.len
    }
}

impl Drop for SizeInUse<'_> {
    fn drop(&mut self) {
        self.endpoint.limit(self.limit, |search| search.ended(self.size));
    }
}
