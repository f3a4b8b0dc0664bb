//! One search for "how much is too much": wallets in an `eth_call`, blocks in an `eth_getLogs`.
//!
//! Pure: it takes what was tried and how it ended, and gives what to try next. It begins with what most endpoints take,
//! tries larger sizes while requests succeed, several at the same time and each twice the last, and closes in on the
//! limit once one was too large. Where a few requests of a size that succeeds are enough for all that is left, none is
//! risked. Limits are not sharp: wallets and blocks differ, and one bad moment of a node can fail any request. So a size
//! that succeeded before and now fails is reduced by a small step first, and a size that failed is tried again after
//! more and more successes.

/// A small step is 1/2⁵ of a size. The search ends when the failing size is no further above the good one.
const SMALL_STEP: u32 = 5;
/// From 1/2⁴ on it is in no hurry: a size between the two is tried only once it is time for the failing one.
const CLOSE: u32 = 4;
/// How far above what succeeded sizes are tried at the same time, each twice the last.
const AHEAD: usize = 8;
/// How far below what failed sizes are tried at the same time where none succeeded, each half of the last.
const BELOW: usize = 1 << LOST;
/// How many sizes that are.
const LOST: usize = 4;
/// So few may well be halved where they are, down to one.
const FEW: usize = 200;
/// The last requests, if they are so few, are not worth the risk of trying to do with fewer.
const FEW_REQUESTS: usize = 4;
/// Successes before another size is tried between one that succeeded and one that failed: few requests do without it.
const REST: u32 = 4;
/// What succeeded is near what failed if it is at least one part in this many of it.
const NEAR: usize = 2;
/// Successes before the size that failed is tried again, the first time.
const PATIENCE: u32 = 16;
/// The same where the node does not say that the size was too large.
const DOUBT: u32 = 4;
/// The same after many failures.
const LONGEST_PATIENCE: u32 = 256;

/// What is known of the sizes that one endpoint takes.
#[derive(Clone, Debug)]
pub struct LimitSearch {
    /// Where it begins.
    first: usize,
    /// What most endpoints take: before anything has succeeded, larger sizes than the first are tried up to this.
    usual: usize,
    /// The largest to try.
    ceiling: usize,
    /// What an earlier search found, until it is tried.
    hint: Option<Found>,
    /// The largest that succeeded.
    proven: usize,
    /// The largest that succeeds as far as is known; 0 for none.
    good: usize,
    /// The smallest above it that failed.
    bad: Option<usize>,
    /// True if `bad` has succeeded, too: it is where the limit is not sharp.
    is_edge: bool,
    /// The smallest size that failed and never succeeded, while `bad` is not that.
    bad_above: Option<usize>,
    /// What to try next, if anything.
    untried: Option<usize>,
    /// The sizes that requests under way are trying.
    trying: Vec<usize>,
    /// A step up, as part of what succeeded: all of it at first, 1/2ⁿ after a failure.
    up: u32,
    /// A step down from what succeeded before, as part of it: 1/2ⁿ.
    down: u32,
    /// Successes until a size between `good` and `bad` is tried.
    rest: u32,
    /// Successes until `bad` is tried again.
    wait: u32,
    /// What `wait` was set to last.
    patience: u32,
}

/// What a search has found, for a later one to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The largest size that succeeded; at least 1.
    pub good: usize,
    /// The smallest above it that failed, if one did.
    pub bad: Option<usize>,
}

/// A size to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// The most that the request may ask for; at least 1.
    pub len: usize,
    /// True if it is not known to succeed, and this request is the one that tries it.
    pub is_untried: bool,
}

impl LimitSearch {
    /// A search from `first` up to `ceiling`, both at least 1.
    pub fn from(first: usize, ceiling: usize) -> Self {
        let first = first.min(ceiling);
        Self {
            first,
            usual: AHEAD.saturating_mul(first),
            ceiling,
            hint: None,
            proven: 0,
            good: 0,
            bad: None,
            is_edge: false,
            bad_above: None,
            untried: Some(first),
            trying: Vec::new(),
            up: 0,
            down: SMALL_STEP,
            rest: 0,
            wait: 0,
            patience: PATIENCE,
        }
    }

    /// A search that begins with `number` and never exceeds it.
    pub fn at_most(number: usize) -> Self {
        // If it turns out to be too large, half of it is as likely as not.
        Self { good: number, untried: None, down: 1, ..Self::from(number, number) }
    }

    /// The same search, where most endpoints take this size.
    pub fn with_usual(self, usual: usize) -> Self {
        Self { usual, ..self }
    }

    /// The same search, which goes on with what an earlier one found. One request tries that; if it fails, the search
    /// begins as without it.
    pub fn with_hint(self, hint: Found) -> Self {
        let good = hint.good.clamp(1, self.ceiling);
        Self { hint: Some(Found { good, ..hint }), untried: Some(good), ..self }
    }

    /// What was found; `None` while that is less than a search begins with.
    pub fn found(&self) -> Option<Found> {
        let good = self.good.min(self.proven);
        let is_telling = self.bad.is_some() || good >= self.first;
        (good > 0 && self.hint.is_none() && is_telling).then_some(Found { good, bad: self.bad })
    }

    /// True once a size has succeeded.
    pub const fn is_known(&self) -> bool {
        self.good > 0
    }

    /// How many requests may be under way: any number, but few while none has succeeded and some have failed; one where
    /// those were of few, which may have failed for another reason than their size.
    pub const fn at_once(&self) -> usize {
        match self.bad {
            Some(bad) if self.good == 0 && bad / 2 < FEW => 1,
            Some(_) if self.good == 0 => LOST,
            _ => usize::MAX,
        }
    }

    /// True if what failed is to be part of other requests, which will ask for less; false if it is to be halved: so few
    /// cost little, or a request of this size has succeeded before, far from what is too large, so that the size is not
    /// why it failed.
    pub fn gives_back(&self, len: usize) -> bool {
        len >= FEW && (len > self.proven || self.is_close(len))
    }

    /// The smallest size that failed and never succeeded.
    const fn never_succeeded(&self) -> Option<usize> {
        if self.is_edge { self.bad_above } else { self.bad }
    }

    /// True if this is close to what never succeeded, so that it may be too large for some requests.
    fn is_close(&self, len: usize) -> bool {
        self.never_succeeded().is_some_and(|bad| len + part(len, CLOSE) >= bad)
    }

    /// The most that the next request may ask for.
    pub fn largest(&self) -> usize {
        let trying = self.trying.iter().copied().max();
        self.untried.max(trying).unwrap_or(self.good).max(self.good)
    }

    /// The size of the next request.
    pub fn next_size(&mut self) -> Size {
        if let Some(len) = self.next_untried() {
            self.trying.push(len);
            return Size { len, is_untried: true };
        }
        let len = match (self.good, self.bad) {
            (0, Some(bad)) if bad > BELOW => bad / BELOW,
            (0, Some(bad)) => (bad / 2).max(1),
            _ => self.expected(),
        };
        Size { len, is_untried: false }
    }

    /// What is expected to succeed: no less than where the search begins, until that has failed.
    fn expected(&self) -> usize {
        match (self.bad, self.hint) {
            (None, None) => self.good.max(self.first),
            (None, Some(hint)) => self.good.max(self.first.min(hint.good)),
            (Some(_), _) => self.good,
        }
    }

    /// If the next request would try more than is expected to succeed: how much `at_once` requests can ask for without
    /// that. If no more is left, [`LimitSearch::last_size`] is the next size.
    pub fn enough_without_trying(&self, at_once: usize) -> Option<usize> {
        let expected = self.expected();
        let is_trying = self.good > 0 && self.next_untried().is_some_and(|len| len > expected);
        is_trying.then(|| expected.saturating_mul(at_once.min(FEW_REQUESTS)))
    }

    /// The size of the next request where a few requests are enough for the `left` that is left.
    pub fn last_size(&self, left: usize) -> Size {
        let requests = left.div_ceil(self.expected().max(1)).max(1);
        // All of the same size, so that they end together.
        Size { len: left.div_ceil(requests).max(1), is_untried: false }
    }

    /// A size that is not known to succeed, if one more is worth trying now.
    fn next_untried(&self) -> Option<usize> {
        let untried = self.untried?;
        let trying = || self.trying.iter().copied();
        match self.bad {
            _ if self.trying.is_empty() => Some(untried),
            None if self.hint.is_none() && self.up == 0 => {
                let highest = trying().max().unwrap_or(0);
                let next = if highest < untried { untried } else { self.twice(highest) };
                let most = if self.good < self.first { self.usual } else { AHEAD * self.good };
                (next > highest && next <= most).then_some(next)
            }
            Some(bad) if self.good == 0 && bad > BELOW => {
                let lowest = trying().filter(|len| *len < bad).min();
                let next = lowest.map_or(untried, |lowest| lowest / 2);
                (next > bad / BELOW).then_some(next)
            }
            _ => None,
        }
    }

    /// The request of this size has ended, whatever became of it.
    pub fn ended(&mut self, size: Size) {
        if let Some(place) = self.trying.iter().position(|len| size.is_untried && *len == size.len)
        {
            self.trying.swap_remove(place);
        }
    }

    /// A request of this size succeeded.
    pub fn succeeded(&mut self, len: usize) {
        let len = len.min(self.ceiling);
        self.proven = self.proven.max(len);
        if let Some(bad) = self.bad.filter(|bad| *bad <= len) {
            if self.is_edge && self.wait > 0 {
                // It was under way when another one failed: it would fail, too, as likely as not.
                self.wait -= 1;
                self.untried = self.untried.or((self.wait == 0).then_some(bad));
                return;
            }
            self.bad = self.bad_above.take().filter(|bad| *bad > len);
            (self.is_edge, self.wait) = (false, self.patience);
        }
        if len >= self.good {
            self.good = len;
            self.down = SMALL_STEP;
        }
        if let Some(hint) = self.hint.filter(|hint| hint.good <= len) {
            self.hint = None;
            self.bad = hint.bad.filter(|bad| *bad > len);
            if self.bad.is_some() {
                (self.wait, self.rest, self.up) = (self.patience, REST, SMALL_STEP);
                self.untried = None;
            }
        }
        if self.untried.is_some_and(|untried| untried <= len) {
            (self.rest, self.wait) = (0, self.wait.max(DOUBT));
            self.untried = self.between(CLOSE).or_else(|| self.above());
        } else if self.untried.is_none() && self.bad.is_none() {
            // Another one has succeeded with what was too large.
            self.untried = self.above();
        } else if self.untried.is_none() {
            self.wait = self.wait.saturating_sub(1);
            self.rest = self.rest.saturating_sub(1);
            let again = || self.between(SMALL_STEP).or(self.bad).filter(|_| self.wait == 0);
            self.untried = self.between(CLOSE).filter(|_| self.rest == 0).or_else(again);
        }
    }

    /// A request of this size was too large; `allowed` is the size that the node suggests instead.
    pub fn too_large(&mut self, len: usize, allowed: Option<usize>) {
        if len <= 1 {
            // Its size cannot be the cause.
            return;
        }
        if self.hint.take().is_some() && len > self.first {
            // It is of no use, and neither is this size.
            self.untried = if self.good < self.first { Some(self.first) } else { self.above() };
            return;
        }
        if let Some(allowed) = allowed.filter(|allowed| (1..len).contains(allowed)) {
            // What a node states holds for long.
            self.patience = LONGEST_PATIENCE;
            (self.wait, self.up) = (self.patience, SMALL_STEP);
            self.bad = Some(allowed + 1);
            self.untried = (self.good < allowed).then_some(allowed);
            self.good = self.good.min(allowed);
            (self.is_edge, self.bad_above) = (false, None);
            return;
        }
        let failed_again = self.bad == Some(len) && self.wait == 0;
        let fell = len <= self.good && self.down == SMALL_STEP;
        if failed_again || fell {
            self.patience = (2 * self.patience).min(LONGEST_PATIENCE);
        }
        self.wait = self.patience;
        self.up = SMALL_STEP;
        if len <= self.good {
            (self.is_edge, self.bad_above) =
                (fell && len >= FEW && self.is_close(len), self.never_succeeded());
            self.good = len - part(len, self.down);
            self.down = self.down.saturating_sub(1).max(1);
            self.bad = Some(len);
            self.untried = None;
        } else {
            let bad = self.bad.map_or(len, |bad| bad.min(len));
            self.bad = Some(bad);
            if self.good < bad / NEAR {
                // Each request that rests meanwhile asks for far less than it might.
                self.rest = 0;
                self.untried = Some(self.good.midpoint(bad).max(1));
            } else {
                self.rest = REST;
                self.untried = None;
            }
        }
    }

    /// A request of this size failed where a smaller one worked. It may have been a bad moment, so that the size is soon
    /// tried again; if it fails then, it is too large.
    pub fn may_be_too_large(&mut self, len: usize) {
        if self.bad == Some(len) && self.wait == 0 {
            return self.too_large(len, None);
        }
        let (patience, up) = (self.patience, self.up);
        self.too_large(len, None);
        (self.patience, self.up) = (patience, up);
        self.wait = self.wait.min(DOUBT);
    }

    /// Half way between what succeeded and what failed; nothing where these are no further apart than 1/2ⁿ.
    fn between(&self, n: u32) -> Option<usize> {
        let bad = self.bad?;
        (bad - self.good > part(self.good, n)).then(|| self.good.midpoint(bad))
    }

    /// A step up from what succeeded, where nothing above it has failed.
    fn above(&mut self) -> Option<usize> {
        if self.bad.is_some() || self.good >= self.ceiling {
            return None;
        }
        let above = match self.up {
            0 => self.twice(self.good),
            up => (self.good + part(self.good, up)).min(self.ceiling),
        };
        self.up = self.up.saturating_sub(1);
        if self.up == 0 {
            self.patience = PATIENCE;
        }
        Some(above)
    }

    /// Twice this size; close to the ceiling, half way there.
    fn twice(&self, len: usize) -> usize {
        match 2 * len {
            twice if twice <= self.ceiling => twice,
            _ if len + part(len, SMALL_STEP) < self.ceiling / 4 * 3 => len.midpoint(self.ceiling),
            _ => self.ceiling,
        }
    }

    /// How many requests `total` takes, `at_once` of them at a time, on a node that takes `limit` in each.
    pub fn requests_for(mut self, mut total: u64, limit: usize, at_once: usize) -> u64 {
        let (mut requests, at_once) = (0, at_once.max(1));
        while total > 0 {
            let mut left = total;
            let mut under_way = Vec::new();
            while left > 0 && under_way.len() < at_once {
                let size = match self.enough_without_trying(at_once) {
                    Some(enough) if left <= enough as u64 => self.last_size(left as usize),
                    _ => self.next_size(),
                };
                let asked = left.min(size.len as u64) as usize;
                left -= asked as u64;
                under_way.push((size, asked));
            }
            for (size, asked) in under_way {
                requests += 1;
                if asked <= limit.max(1) {
                    self.succeeded(asked);
                    total -= asked as u64;
                } else {
                    // It is asked for again.
                    self.too_large(asked, None);
                }
                self.ended(size);
            }
        }
        requests
    }
}

/// 1/2ⁿ of a size, at least 1.
fn part(size: usize, n: u32) -> usize {
    (size >> n).max(1)
}

#[cfg(test)]
mod tests;
