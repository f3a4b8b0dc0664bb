//! What the signals that have come are about, until `watch` has dealt with them.

use std::time::Duration;

use tokio::time::Instant;

use super::{Block, BlockReads, Signal, signals::SignalQueue};

/// How long after blocks may have been missed the newest one is asked for once more: the first answer may have been of a
/// node that is behind.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Blocks of removed logs that wait, at most.
const MOST_REMOVED: usize = 1_024;

/// What the signals came to since the last time.
#[derive(Default)]
pub(super) struct PendingSignals {
    /// The newest block has to be asked for.
    pub(super) ask: bool,
    /// The newest announced block.
    pub(super) head: Option<Block>,
    /// The last block announced on this connection.
    pub(super) announced: Option<Block>,
    pub(super) removed: Vec<BlockReads>,
    /// The first and the last of the blocks that were announced and then replaced.
    pub(super) replaced: Option<(u64, u64)>,
    pub(super) gap: Option<Gap>,
    /// When to ask for the newest block, whatever is announced.
    pub(super) ask_at: Option<Instant>,
    /// What came during a step, and is handled after it.
    pub(super) meanwhile: SignalQueue,
}

/// Blocks that may have been missed, while they are caught up with.
pub(super) struct Gap {
    pub(super) from: Option<u64>,
    pub(super) logs: u64,
    pub(super) updated: u64,
    pub(super) since: Instant,
}

impl PendingSignals {
    pub(super) fn take(&mut self, signal: Signal, next: Option<u64>) {
        match signal {
            Signal::Head(block) => {
                if let Some(last) = self.announced {
                    if block.number > last.number + 1 {
                        self.open_gap(next);
                    }
                    if block.replaces(&last) {
                        self.replace(block.number.min(last.number), last.number);
                    }
                }
                self.announced = Some(block);
                self.head = Some(block);
            }
            Signal::Newest(block) => self.head = Some(block),
            Signal::Hint => self.ask = true,
            Signal::Missed => self.miss(next),
            Signal::Lost { replaced } => {
                if let Some((from, to)) = replaced {
                    self.replace(from, to);
                }
                self.miss(next);
            }
            Signal::Removed(log) => {
                self.removed.push(log);
                if self.removed.len() > MOST_REMOVED {
                    // They wait for a database that fails. Rows that were read there are found by their block.
                    for log in std::mem::take(&mut self.removed) {
                        self.replace(log.number, log.number);
                    }
                }
            }
        }
    }

    /// Blocks may have come that were not announced.
    fn miss(&mut self, next: Option<u64>) {
        self.ask = true;
        self.ask_at = Some(Instant::now() + ASK_AGAIN);
        self.announced = None;
        self.open_gap(next);
    }

    fn open_gap(&mut self, from: Option<u64>) {
        let gap = Gap { from, logs: 0, updated: 0, since: Instant::now() };
        self.gap.get_or_insert(gap);
    }

    fn replace(&mut self, first: u64, last: u64) {
        let (from, to) = self.replaced.unwrap_or((first, last));
        self.replaced = Some((from.min(first), to.max(last)));
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.ask && self.head.is_none() && self.removed.is_empty() && self.meanwhile.is_empty()
    }
}

/// Whether this signal says that `head` was replaced.
pub(super) fn says_replaced(signal: &Signal, head: &Block) -> bool {
    match signal {
        Signal::Head(block) => block.replaces(head),
        // Another node may have answered, which is behind.
        Signal::Newest(block) => block.number >= head.number && block.replaces(head),
        Signal::Removed(log) => log.hash == head.hash,
        Signal::Hint | Signal::Missed | Signal::Lost { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    fn block(number: u64, hash: u8, parent: u8) -> Block {
        let (hash, parent) = (B256::repeat_byte(hash), B256::repeat_byte(parent));
        Block { number, hash, parent, timestamp: 0, logs_bloom: None }
    }

    #[test]
    fn a_signal_says_whether_a_block_was_replaced() {
        let head = block(10, 1, 0);
        let removed = |hash| {
            let hash = B256::repeat_byte(hash);
            Signal::Removed(BlockReads { number: 10, hash, wallets: [].into() })
        };
        for (signal, expected) in [
            (Signal::Head(head), false),
            (Signal::Head(block(10, 2, 0)), true),
            (Signal::Head(block(9, 3, 0)), true),
            (Signal::Head(block(11, 4, 1)), false),
            (Signal::Head(block(11, 4, 2)), true),
            (Signal::Head(block(12, 5, 4)), false),
            (Signal::Newest(block(9, 3, 0)), false),
            (Signal::Newest(block(10, 2, 0)), true),
            (removed(1), true),
            (removed(2), false),
            (Signal::Hint, false),
            (Signal::Missed, false),
            (Signal::Lost { replaced: Some((9, 11)) }, false),
        ] {
            assert_eq!(says_replaced(&signal, &head), expected, "{signal:?}");
        }
    }

    #[test]
    fn blocks_that_were_announced_and_replaced_are_noted() {
        let mut pending = PendingSignals::default();
        let mut announce = |block| {
            pending.take(Signal::Head(block), Some(1));
            pending.replaced
        };
        assert_eq!(announce(block(10, 1, 0)), None);
        assert_eq!(announce(block(11, 2, 1)), None);
        assert_eq!(announce(block(10, 3, 0)), Some((10, 11)));
        assert_eq!(announce(block(11, 4, 3)), Some((10, 11)));
        assert_eq!(announce(block(12, 6, 5)), Some((10, 11)));
        assert_eq!(announce(block(15, 7, 6)), Some((10, 11)));
        assert!(pending.gap.is_some());
    }
}
