//! What the blooms in the headers of this chain tell: which logs a block cannot hold.
//!
//! Some chains give blooms without a bit, or with all, whatever their blocks hold; some leave out some logs. Such blooms
//! prove nothing. That is found out by a log that its block's bloom does not hold.
//!
//! Pure, but for a line in the log.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use alloy::primitives::Bloom;
use tracing::warn;

use super::filter::Log;

/// How many blocks without a bit, and indeed without logs, are looked into before such are believed: then the chain is quiet.
const DOUBTED: u32 = 8;

/// What is known of the blooms of a chain.
#[derive(Debug, Default)]
pub(super) struct Blooms {
    /// One with a bit was seen.
    have_bits: AtomicBool,
    /// How many blocks were looked into.
    doubted: AtomicU32,
    /// A log was seen that its block's bloom does not hold.
    are_useless: AtomicBool,
}

impl Blooms {
    /// The bloom of a header, if it tells anything.
    pub(super) fn usable(&self, bloom: Option<Bloom>) -> Option<Bloom> {
        let bloom = bloom.filter(|bloom| *bloom != Bloom::repeat_byte(0xff))?;
        if bloom != Bloom::ZERO {
            self.have_bits.store(true, Relaxed);
        }
        (!self.are_useless.load(Relaxed)).then_some(bloom)
    }

    /// Whether none of these blooms has a bit, and none was seen before: it may be that all of this chain are so, whatever
    /// the blocks hold.
    pub(super) fn are_all_empty(&self, blooms: impl IntoIterator<Item = Option<Bloom>>) -> bool {
        blooms.into_iter().all(|bloom| bloom == Some(Bloom::ZERO)) && !self.have_bits.load(Relaxed)
    }

    /// Whether a block with this bloom is to be looked into: it may be empty only because all of this chain are.
    pub(super) fn are_in_doubt(&self, bloom: &Bloom) -> bool {
        *bloom == Bloom::ZERO
            && !self.have_bits.load(Relaxed)
            && self.doubted.fetch_add(1, Relaxed) < DOUBTED
    }

    /// Takes note that the bloom of block `number` does not hold one of its logs.
    pub(super) fn lack(&self, number: u64) {
        if !self.are_useless.swap(true, Relaxed) {
            warn!(
                "the blooms of this chain do not hold all logs (block {number}); a block counts as without events \
                 when two answers say so"
            );
        }
    }
}

/// Whether a block with this bloom may hold all of these logs.
pub(super) fn may_hold<'a>(bloom: &Bloom, logs: impl IntoIterator<Item = &'a Log>) -> bool {
    logs.into_iter().all(|log| log.may_be_in(bloom))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blooms_tell_something_until_one_lacks_a_log() {
        let blooms = Blooms::default();
        let some = Bloom::repeat_byte(1);
        assert!(!blooms.are_in_doubt(&some));
        assert_eq!((0..20).filter(|_| blooms.are_in_doubt(&Bloom::ZERO)).count(), 8);
        assert_eq!(blooms.usable(Some(Bloom::ZERO)), Some(Bloom::ZERO));
        assert_eq!(blooms.usable(Some(some)), Some(some));
        let blooms = Blooms::default();
        assert_eq!(blooms.usable(Some(some)), Some(some));
        assert!(!blooms.are_in_doubt(&Bloom::ZERO), "this chain has others");
        assert_eq!(
            (blooms.usable(None), blooms.usable(Some(Bloom::repeat_byte(0xff)))),
            (None, None)
        );
        blooms.lack(7);
        assert_eq!(blooms.usable(Some(some)), None);
    }
}
