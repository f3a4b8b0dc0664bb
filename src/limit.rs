//! One search for "how much is too much": wallets in an `eth_call`, blocks in an `eth_getLogs`.
//!
//! Pure: it takes what was tried and how it ended, and gives what to try next. It begins with a guess, doubles while
//! requests succeed, and closes in on the limit once one was too large. Limits are not sharp: wallets and blocks
//! differ, and one bad moment of a node can fail any request. So a size that succeeded before and now fails is
//! reduced by a small step first, and a size that failed is tried again after more and more successes.

/// A small step is 1/2⁵ of a size. The search ends when the failing size is no further above the good one.
const SMALL_STEP: u32 = 5;
/// Successes before the size that failed is tried again, the first time.
const PATIENCE: u32 = 16;
/// The same where the node does not say that the size was too large.
const DOUBT: u32 = 4;
/// The same after many failures.
const LONGEST_PATIENCE: u32 = 256;

/// What is known of the sizes that one endpoint takes.
#[derive(Clone, Debug)]
pub struct LimitSearch {
    /// The largest to try.
    ceiling: usize,
    /// The largest that succeeded, or is assumed to; 0 for none.
    good: usize,
    /// The smallest above it that failed.
    bad: Option<usize>,
    /// What to try next, if anything.
    untried: Option<usize>,
    /// Whether a call that tries it is under way.
    trying: bool,
    /// A step up, as part of what succeeded: all of it at first, 1/2ⁿ after a failure.
    up: u32,
    /// A step down from what succeeded before, as part of it: 1/2ⁿ.
    down: u32,
    /// Successes until `bad` is tried again.
    wait: u32,
    /// What `wait` was set to last.
    patience: u32,
}

/// A size to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// The most that the request may ask for; at least 1.
    pub len: usize,
    /// True if it is not known to succeed. One request at a time tries such a size.
    pub is_untried: bool,
}

impl LimitSearch {
    /// A search from `first` up to `ceiling`, both at least 1.
    pub fn from(first: usize, ceiling: usize) -> Self {
        Self {
            ceiling,
            good: 0,
            bad: None,
            untried: Some(first.min(ceiling)),
            trying: false,
            up: 0,
            down: SMALL_STEP,
            wait: 0,
            patience: PATIENCE,
        }
    }

    /// A search that begins with `number` and never exceeds it.
    pub fn at_most(number: usize) -> Self {
        // If it turns out to be too large, half of it is as likely as not.
        Self { good: number, untried: None, down: 1, ..Self::from(number, number) }
    }

    /// True until a size was too large. One request at a time keeps the search cheap until then.
    pub const fn is_doubling(&self) -> bool {
        self.bad.is_none() && self.up == 0 && self.untried.is_some()
    }

    /// True once a size has succeeded.
    pub const fn is_known(&self) -> bool {
        self.good > 0
    }

    /// The most that the next request may ask for.
    pub fn largest(&self) -> usize {
        self.untried.unwrap_or(self.good).max(self.good)
    }

    /// The size of the next request.
    pub fn next_size(&mut self) -> Size {
        match self.untried {
            Some(len) if !self.trying => {
                self.trying = true;
                Size { len, is_untried: true }
            }
            untried => {
                // While nothing is known, the half of what is tried is as good a guess as any.
                let guess = (untried.unwrap_or(self.ceiling) / 2).max(1);
                let len = if self.good > 0 { self.good } else { guess };
                Size { len, is_untried: false }
            }
        }
    }

    /// The request of this size has ended, whatever became of it.
    pub fn ended(&mut self, size: Size) {
        self.trying &= !size.is_untried;
    }

    /// A request of this size succeeded.
    pub fn succeeded(&mut self, len: usize) {
        let len = len.min(self.ceiling);
        if len >= self.good {
            self.good = len;
            self.down = SMALL_STEP;
        }
        if self.bad.is_some_and(|bad| bad <= len) {
            self.bad = None;
        }
        if self.untried.is_some_and(|untried| untried <= len) {
            self.untried = self.between().or_else(|| self.above());
        } else if self.untried.is_none() && self.bad.is_some() {
            self.wait = self.wait.saturating_sub(1);
            let again = self.bad.filter(|_| self.wait == 0);
            self.untried = again.or_else(|| self.between());
        }
    }

    /// A request of this size was too large; `allowed` is the size that the node suggests instead.
    pub fn too_large(&mut self, len: usize, allowed: Option<usize>) {
        if len <= 1 {
            // Its size cannot be the cause.
            return;
        }
        if let Some(allowed) = allowed.filter(|allowed| (1..len).contains(allowed)) {
            // What a node states holds for long.
            self.patience = LONGEST_PATIENCE;
            (self.wait, self.up) = (self.patience, SMALL_STEP);
            self.bad = Some(allowed + 1);
            self.untried = (self.good < allowed).then_some(allowed);
            self.good = self.good.min(allowed);
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
            self.good = len - part(len, self.down);
            self.down = self.down.saturating_sub(1).max(1);
            self.bad = Some(len);
            self.untried = None;
        } else {
            self.bad = Some(self.bad.map_or(len, |bad| bad.min(len)));
            self.untried = self.between();
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

    /// Half way between what succeeded and what failed; nothing where these are close.
    fn between(&self) -> Option<usize> {
        let bad = self.bad?;
        (bad - self.good > part(self.good, SMALL_STEP)).then(|| self.good.midpoint(bad))
    }

    /// A step up from what succeeded, where nothing above it has failed.
    fn above(&mut self) -> Option<usize> {
        if self.bad.is_some() || self.good >= self.ceiling {
            return None;
        }
        let above = (self.good + part(self.good, self.up)).min(self.ceiling);
        self.up = self.up.saturating_sub(1);
        if self.up == 0 {
            self.patience = PATIENCE;
        }
        Some(above)
    }

    /// How many requests `total` takes on a node that takes `limit` in each.
    pub fn requests_for(mut self, mut total: u64, limit: usize) -> u64 {
        let mut requests = 0;
        while total > 0 {
            let size = self.next_size();
            let asked = total.min(size.len as u64);
            let fits = asked <= limit as u64;
            // What is too large is asked for again in halves.
            requests += if fits { 1 } else { 3 };
            match fits {
                true => self.succeeded(asked as usize),
                false => self.too_large(asked as usize, None),
            }
            self.ended(size);
            total -= asked;
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
