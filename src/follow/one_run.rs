//! `watch --once`: follows the chain from the checkpoint to the newest block, and ends.
//!
//! Owns no I/O and waits for no signal: the newest block is asked for.

use super::{Block, Follower, Source, Step};
use crate::tally::{Lock, RunError, Shutdown};

/// How many times in a row the newest block may be replaced while it is followed.
const MOST_REPLACED: u32 = 5;

/// Follows the chain once.
pub struct OneRun<'a> {
    /// Does the steps.
    pub follower: Follower<'a>,
    /// The node.
    pub source: &'a dyn Source,
    /// Asks for an early end.
    pub shutdown: &'a Shutdown,
    /// Held by one watcher at a time.
    pub lock: &'a dyn Lock,
}

impl OneRun<'_> {
    /// Follows the chain towards its newest block, which is `newest` at first, until that is reached or a stop is asked
    /// for.
    ///
    /// # Errors
    /// When node or database fail, or the lock is lost. What was stored by then stays, and the checkpoint is right.
    pub async fn run(mut self, newest: Block) -> Result<(), RunError> {
        let mut head = newest;
        let mut replaced = 0;
        while !self.shutdown.is_requested() {
            if !self.lock.is_held().await {
                return Err(RunError::lock_lost(&self.lock.lost().await));
            }
            match self.follower.step(&head).await {
                Ok((Step::CaughtUp(_), _)) => return Ok(()),
                Ok((Step::Stale, _)) if !self.follower.is_behind() => return Ok(()),
                Ok((Step::Stale, _)) if replaced >= MOST_REPLACED => {
                    return Err(RunError::node(format!(
                        "the newest block that the node gives is {}, older than one that was seen before",
                        head.number
                    )));
                }
                Ok((Step::Stale, _)) => replaced += 1,
                // It may take long: the next slice is read at what is the newest block then.
                Ok((Step::More | Step::Interrupted, _)) => replaced = 0,
                Err(error) if error.is_stopped() && self.shutdown.is_requested() => return Ok(()),
                Err(error) => {
                    replaced += 1;
                    let is_of_block = matches!(error, RunError::Node(_));
                    if !is_of_block || replaced > MOST_REPLACED || !self.is_replaced(&head).await {
                        return Err(error);
                    }
                }
            }
            if self.shutdown.is_requested() {
                break;
            }
            head = match self.source.newest().await {
                Err(error) if error.is_stopped() => break,
                newest => newest?,
            };
        }
        Ok(())
    }

    /// Whether the node has another block in the place of this one.
    async fn is_replaced(&self, head: &Block) -> bool {
        let Ok(newest) = self.source.newest().await else { return false };
        match newest.number.checked_sub(head.number) {
            None => true,
            Some(0) => newest.hash != head.hash,
            Some(_) => {
                let same_height = self.source.block(head.number, newest.number).await;
                matches!(same_height, Ok(Some(block)) if block.hash != head.hash)
            }
        }
    }
}
