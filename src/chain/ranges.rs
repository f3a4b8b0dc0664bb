//! How many blocks one `eth_getLogs` may span: found out by asking, as every provider has its own limit.

/// The width of ranges, in blocks.
///
/// Shrinks as soon as a range is too wide: to what the provider says, else to the widest that went
/// well, or by half if that is more. Grows slowly, and not to what was too wide a while ago.
#[derive(Clone, Copy, Debug)]
pub(super) struct Width {
    blocks: u64,
    /// The widest range that went well.
    good: u64,
    /// The narrowest range that was too wide lately, less one.
    ceiling: u64,
    /// Ranges of this width that went well in a row.
    streak: u32,
    /// Ranges that went well since one was too wide.
    calm: u32,
}

impl Default for Width {
    fn default() -> Self {
        Self { blocks: Self::FIRST, good: 0, ceiling: u64::MAX, streak: 0, calm: 0 }
    }
}

impl Width {
    /// What most providers with a limit allow, at least to those who pay.
    const FIRST: u64 = 10_000;
    /// So many ranges have to go well before a wider one is tried.
    const PATIENCE: u32 = 8;
    /// After so many the ceiling is forgotten: there may have been more logs in those blocks.
    const MEMORY: u32 = 250;

    /// How many blocks the next range may span.
    pub(super) const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Whether any range went well yet.
    pub(super) const fn is_known(&self) -> bool {
        self.good > 0
    }

    /// A range of so many blocks went well.
    pub(super) fn went_well(&mut self, blocks: u64) {
        self.good = self.good.max(blocks);
        self.calm += 1;
        if self.calm >= Self::MEMORY {
            self.calm = 0;
            self.ceiling = u64::MAX;
        }
        // A shorter range, such as the last one, says nothing of this width.
        if blocks == self.blocks {
            self.streak += 1;
            if self.streak >= Self::PATIENCE {
                self.streak = 0;
                // Half the way to what was too wide, if that is near.
                let room = (self.ceiling - self.blocks).div_ceil(2);
                self.blocks += self.blocks.div_ceil(4).min(room);
            }
        }
    }

    /// A range of so many blocks was too wide; `allowed` is the width that the provider suggests.
    pub(super) fn too_wide(&mut self, blocks: u64, allowed: Option<u64>) {
        if self.good >= blocks {
            self.good = 0;
        }
        let allowed = allowed.filter(|allowed| *allowed < blocks);
        let narrower = match (allowed, self.good) {
            (Some(allowed), _) => allowed,
            (None, good) => good.max(blocks / 2),
        };
        self.ceiling = self.ceiling.min(allowed.unwrap_or(blocks - 1)).max(1);
        // Several ranges are under way at once, and each may fail.
        self.blocks = self.blocks.min(narrower).clamp(1, self.ceiling);
        self.streak = 0;
        self.calm = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for so many ranges of a provider with this limit; returns how often it refused.
    fn ask(width: &mut Width, limit: u64, says: bool, times: u32) -> u32 {
        let mut refused = 0;
        for _ in 0..times {
            let blocks = width.blocks();
            if blocks <= limit {
                width.went_well(blocks);
            } else {
                refused += 1;
                width.too_wide(blocks, says.then_some(limit));
            }
        }
        refused
    }

    #[test]
    fn a_limit_that_is_told_is_met_at_once_and_kept() {
        let mut width = Width::default();
        assert_eq!(ask(&mut width, 10, true, 1), 1);
        assert_eq!(width.blocks(), 10);
        // After every 250 it tries more, and is told again.
        assert_eq!(ask(&mut width, 10, true, 720), 2);
        assert_eq!(width.blocks(), 10);
    }

    #[test]
    fn a_limit_that_is_not_told_is_found_by_halving() {
        for limit in [1, 10, 50, 1_000, 9_999] {
            let mut width = Width::default();
            let refused = ask(&mut width, limit, false, 1_000);
            assert!(refused <= 30, "{refused} refusals of ranges over {limit}");
            assert!(width.blocks() * 10 >= limit * 8, "{} of {limit}", width.blocks());
        }
    }

    #[test]
    fn it_grows_slowly_and_without_end_while_all_goes_well() {
        let mut width = Width::default();
        assert_eq!(ask(&mut width, u64::MAX, false, 7), 0);
        assert_eq!(width.blocks(), 10_000);
        ask(&mut width, u64::MAX, false, 1);
        assert_eq!(width.blocks(), 12_500);
    }

    #[test]
    fn what_was_too_wide_among_many_logs_is_tried_again_later() {
        let mut width = Width::default();
        ask(&mut width, 100, false, 100);
        assert!(width.blocks() <= 100);
        ask(&mut width, u64::MAX, false, 1_200);
        assert!(width.blocks() > 200, "{}", width.blocks());
    }

    #[test]
    fn several_refusals_at_once_count_as_one() {
        let mut width = Width::default();
        for _ in 0..4 {
            width.too_wide(10_000, None);
        }
        assert_eq!(width.blocks(), 5_000);
    }

    #[test]
    fn it_never_falls_below_one_block() {
        let mut width = Width::default();
        for allowed in [Some(0), None, Some(7)] {
            width.too_wide(1, allowed);
            assert_eq!(width.blocks(), 1);
        }
    }
}
