//! How many wallets to ask for in one call: begins modest, doubles while calls succeed, and closes in
//! on the limit once one was too much.
//!
//! Pure: what was tried and how it went in, what to try next out. Limits are not sharp, as wallets differ,
//! and a call may be too much because of one of its wallets, or of a node's bad moment. So what
//! succeeded and then failed is gone back from by a small step first, and what failed is tried again
//! after more and more calls.

use super::ChunkLimit;

/// Where the search begins.
const BEGIN: usize = 200;
/// A small step is 1/2⁵ of a size. The search is over where what failed is no further from what succeeded.
const SMALL_STEP: u32 = 5;
/// After how many successes the size that failed is tried again, the first time.
const PATIENCE: u32 = 16;
/// And at last.
const LONGEST_PATIENCE: u32 = 256;

/// What is known of the sizes that one endpoint takes.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    /// The largest to try.
    ceiling: usize,
    /// The largest that succeeded, or that is taken on trust; 0 for none.
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
pub(super) struct Size {
    pub(super) wallets: usize,
    /// Not known to succeed. One call at a time tries such a size.
    pub(super) is_untried: bool,
}

impl Sizes {
    /// No search goes above `ceiling`, and neither does a number that was asked for.
    pub(super) fn new(limit: ChunkLimit, ceiling: usize) -> Self {
        // A number is taken on trust; if it is too much, half of it is as likely as not.
        let (ceiling, good, untried, down) = match limit {
            ChunkLimit::Auto => (ceiling, 0, Some(BEGIN.min(ceiling)), SMALL_STEP),
            ChunkLimit::AtMost(number) => (number.get(), number.get(), None, 1),
        };
        Self {
            ceiling,
            good,
            bad: None,
            untried,
            trying: false,
            up: 0,
            down,
            wait: 0,
            patience: PATIENCE,
        }
    }

    /// Whether it is not yet known how much is too much. Calls are few as long as they go one by one.
    pub(super) const fn is_doubling(&self) -> bool {
        self.bad.is_none() && self.up == 0 && self.untried.is_some()
    }

    /// The most that the next call may ask for.
    pub(super) fn largest(&self) -> usize {
        self.untried.unwrap_or(self.good).max(self.good)
    }

    /// What the next call is to ask for.
    pub(super) fn next(&mut self) -> Size {
        match self.untried {
            Some(wallets) if !self.trying => {
                self.trying = true;
                Size { wallets, is_untried: true }
            }
            untried => {
                // While nothing is known, the half of what is tried is as good a guess as any.
                let guess = (untried.unwrap_or(self.ceiling) / 2).max(1);
                let wallets = if self.good > 0 { self.good } else { guess };
                Size { wallets, is_untried: false }
            }
        }
    }

    /// A call that [`Sizes::next`] gave is over, whatever became of it.
    pub(super) fn over(&mut self, size: Size) {
        self.trying &= !size.is_untried;
    }

    /// A call for so many succeeded.
    pub(super) fn took(&mut self, wallets: usize) {
        let wallets = wallets.min(self.ceiling);
        if wallets >= self.good {
            self.good = wallets;
            self.down = SMALL_STEP;
        }
        if self.bad.is_some_and(|bad| bad <= wallets) {
            self.bad = None;
        }
        if self.untried.is_some_and(|untried| untried <= wallets) {
            self.untried = self.between().or_else(|| self.above());
        } else if self.untried.is_none() && self.bad.is_some() {
            self.wait = self.wait.saturating_sub(1);
            let again = self.bad.filter(|_| self.wait == 0);
            self.untried = again.or_else(|| self.between());
        }
    }

    /// A call for so many was too much.
    pub(super) fn refused(&mut self, wallets: usize) {
        if wallets <= 1 {
            // It cannot be its size.
            return;
        }
        let failed_again = self.bad == Some(wallets) && self.wait == 0;
        let fell = wallets <= self.good && self.down == SMALL_STEP;
        if failed_again || fell {
            self.patience = (2 * self.patience).min(LONGEST_PATIENCE);
        }
        self.wait = self.patience;
        self.up = SMALL_STEP;
        if wallets <= self.good {
            self.good = wallets - part(wallets, self.down);
            self.down = self.down.saturating_sub(1).max(1);
            self.bad = Some(wallets);
            self.untried = None;
        } else {
            self.bad = Some(self.bad.map_or(wallets, |bad| bad.min(wallets)));
            self.untried = self.between();
        }
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

    /// How many calls `wallets` take on a node that takes `limit` in each.
    pub(super) fn calls_for(mut self, mut wallets: u64, limit: usize) -> u64 {
        let mut calls = 0;
        while wallets > 0 {
            let size = self.next();
            let asked = wallets.min(size.wallets as u64);
            let fits = asked <= limit as u64;
            // What is too much is asked for again in halves.
            calls += if fits { 1 } else { 3 };
            match fits {
                true => self.took(asked as usize),
                false => self.refused(asked as usize),
            }
            self.over(size);
            wallets -= asked;
        }
        calls
    }
}

/// 1/2ⁿ of a size, at least 1.
fn part(size: usize, n: u32) -> usize {
    (size >> n).max(1)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;

    fn auto(ceiling: usize) -> Sizes {
        Sizes::new(ChunkLimit::Auto, ceiling)
    }

    /// Sizes asked for one after another on a node that takes `limit`, with how each went.
    fn tries(sizes: &mut Sizes, limit: usize, calls: usize) -> Vec<(usize, bool)> {
        (0..calls)
            .map(|_| {
                let size = sizes.next();
                let fits = size.wallets <= limit;
                if fits {
                    sizes.took(size.wallets)
                } else {
                    sizes.refused(size.wallets)
                }
                sizes.over(size);
                (size.wallets, fits)
            })
            .collect()
    }

    #[test]
    fn a_limit_is_closed_in_on() {
        let tried = tries(&mut auto(60_000), 2_300, 9);
        let expected = [
            (200, true),
            (400, true),
            (800, true),
            (1_600, true),
            (3_200, false),
            (2_400, false),
            (2_000, true),
            (2_200, true),
            (2_300, true),
        ];
        assert_eq!(tried, expected);
    }

    #[test]
    fn a_node_that_takes_fewer_than_the_first_try_is_found_out() {
        let mut sizes = auto(60_000);
        let tried = tries(&mut sizes, 100, 6);
        assert_eq!(tried[0], (200, false));
        assert_eq!(tried[1], (100, true));
        assert!(tried[5].0 >= 94 && tried[5].0 <= 106, "{tried:?}");
    }

    /// Wallets differ, so that the limit is not sharp: what succeeds once may fail the next time.
    #[test]
    fn near_the_limit_few_calls_are_lost() {
        let mut sizes = auto(60_000);
        let (mut lost, mut asked) = (0, 0);
        for call in 0..600 {
            let limit = 5_900 + (call * 7_919) % 200;
            let (wallets, fits) = tries(&mut sizes, limit, 1)[0];
            asked += wallets;
            lost += usize::from(!fits);
        }
        assert!(lost <= 16, "{lost} calls were too much");
        assert!(asked / 600 >= 5_300, "{} wallets a call", asked / 600);
    }

    /// As where another node answers behind the same URL.
    #[test]
    fn a_limit_that_falls_is_followed_and_one_that_rises_too() {
        let mut sizes = auto(60_000);
        tries(&mut sizes, 5_000, 30);
        let fallen = tries(&mut sizes, 500, 20);
        assert!(fallen.iter().filter(|(_, fits)| !fits).count() <= 10, "{fallen:?}");
        assert!((450..=500).contains(&fallen.last().unwrap().0), "{fallen:?}");
        let risen = tries(&mut sizes, 5_000, 2_000);
        assert!(risen.last().unwrap().0 >= 4_600, "{:?}", risen.last());
    }

    #[test]
    fn a_number_is_a_ceiling_from_the_start() {
        let number = ChunkLimit::AtMost(NonZeroUsize::new(500).unwrap());
        let mut sizes = Sizes::new(number, 60_000);
        assert!(!sizes.is_doubling());
        assert!(tries(&mut sizes, 10_000, 50).iter().all(|tried| *tried == (500, true)));
        sizes.refused(500);
        let tried = tries(&mut sizes, 10_000, 100);
        assert_eq!(tried[0].0, 485);
        assert!(tried.iter().all(|(wallets, _)| *wallets <= 500));
        assert_eq!(tried.last(), Some(&(500, true)), "what failed once succeeds later");
    }

    #[test]
    fn an_untried_size_is_tried_by_one_call_at_a_time() {
        let mut sizes = auto(60_000);
        tries(&mut sizes, 60_000, 1);
        assert_eq!(sizes.next(), Size { wallets: 400, is_untried: true });
        let meanwhile = sizes.next();
        assert_eq!(meanwhile, Size { wallets: 200, is_untried: false });
        sizes.over(meanwhile);
        assert_eq!(sizes.next(), Size { wallets: 200, is_untried: false });
        sizes.over(Size { wallets: 400, is_untried: true });
        assert_eq!(sizes.next(), Size { wallets: 400, is_untried: true });
    }

    #[test]
    fn one_poisoned_chunk_makes_the_next_ones_little_smaller() {
        let mut sizes = auto(60_000);
        let before = tries(&mut sizes, 5_000, 40).last().unwrap().0;
        sizes.refused(before);
        let after = tries(&mut sizes, 5_000, 60);
        assert!(after.iter().all(|(wallets, _)| *wallets >= before * 15 / 16), "{after:?}");
    }

    #[test]
    fn a_number_that_is_too_much_is_halved_and_the_limit_closed_in_on() {
        for (number, limit) in [(5_000, 1_488), (20_000, 5_050), (2_000, 1_000)] {
            let limit_asked = ChunkLimit::AtMost(NonZeroUsize::new(number).unwrap());
            let sizes = Sizes::new(limit_asked, 60_000);
            let calls = sizes.calls_for(1_000_000, limit);
            let fewest = 1_000_000 / limit as u64;
            assert!(calls <= fewest * 11 / 10 + 20, "{number}, {limit}: {calls} of {fewest}");
        }
    }

    #[test]
    fn one_wallet_that_fails_alone_says_nothing_of_sizes() {
        let mut sizes = auto(60_000);
        sizes.refused(1);
        assert_eq!(sizes.next().wallets, 200);
    }

    #[test]
    fn the_plan_of_a_table_is_near_the_fewest_calls() {
        // 50M gas at 9.8k and at 21k a wallet, and 2 MB at 1,344 bytes a wallet.
        for (limit, most) in [(5_100, 700), (2_380, 1_450), (1_560, 2_300)] {
            let calls = auto(60_000).calls_for(3_150_000, limit);
            let fewest = 3_150_000_u64.div_ceil(limit as u64);
            assert!(calls >= fewest && calls <= most, "{limit}: {calls} of {fewest}");
        }
        let number = ChunkLimit::AtMost(NonZeroUsize::new(200).unwrap());
        assert_eq!(Sizes::new(number, 60_000).calls_for(1_001, 5_000), 6);
        assert_eq!(auto(60_000).calls_for(3, 5_000), 1);
        assert_eq!(auto(60_000).calls_for(0, 5_000), 0);
    }

    proptest! {
        /// Whatever fails and succeeds, the next size is one that may be asked for.
        #[test]
        fn a_size_is_never_none_and_never_above_the_ceiling(
            ceiling in 1_usize..5_000, outcomes in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut sizes = auto(ceiling);
            for fits in outcomes {
                let size = sizes.next();
                prop_assert!((1..=ceiling).contains(&size.wallets));
                if fits { sizes.took(size.wallets) } else { sizes.refused(size.wallets) }
                sizes.over(size);
            }
        }

        /// On a node with a fixed limit, 20 calls are enough to come near.
        #[test]
        fn a_fixed_limit_is_found(limit in 1_usize..50_000) {
            let mut sizes = auto(60_000);
            tries(&mut sizes, limit, 20);
            let settled = tries(&mut sizes, limit, 12);
            let best = settled.iter().filter(|(_, fits)| *fits).map(|(wallets, _)| *wallets).max();
            prop_assert!(best.unwrap() * 18 >= limit * 16, "{limit}: {settled:?}");
        }
    }
}
