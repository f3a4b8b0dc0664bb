//! The block that reads are pinned to, and when a newer one takes its place.
//!
//! A node without an archive forgets the state of a block once 128 newer ones are there. On one chain
//! that takes 25 minutes, on another half a minute, so the pin is renewed by how fast the chain grows.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

/// Renewed sooner once the chain grows by more than this between two renewals.
const BLOCKS: u64 = 32;
/// How long the first pin is good for.
const FIRST: Duration = Duration::from_secs(1);
/// How long a pin is good for at least, and at most.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);

/// A block number that is renewed from time to time.
#[derive(Debug, Default)]
pub(super) struct PinnedBlock(Mutex<Option<Pinned>>);

#[derive(Clone, Copy, Debug)]
struct Pinned {
    block: u64,
    since: Instant,
    good_for: Duration,
}

impl PinnedBlock {
    /// The block to read at; `resolve` asks the node for the newest when the pin is old.
    pub(super) async fn block<E>(
        &self,
        resolve: impl Future<Output = Result<u64, E>>,
    ) -> Result<u64, E> {
        // Held while the node is asked, so that it is asked once.
        let mut pinned = self.0.lock().await;
        if let Some(pinned) = *pinned
            && pinned.since.elapsed() < pinned.good_for
        {
            return Ok(pinned.block);
        }
        let block = resolve.await?;
        let good_for = match *pinned {
            None => FIRST,
            Some(last) => good_for(last.good_for, block.saturating_sub(last.block)),
        };
        *pinned = Some(Pinned { block, since: Instant::now(), good_for });
        Ok(block)
    }

    /// This block is no longer of use.
    pub(super) async fn expire(&self, block: u64) {
        if let Some(pinned) = &mut *self.0.lock().await
            && pinned.block == block
        {
            // The next one has to prove itself.
            pinned.good_for = Duration::ZERO;
        }
    }
}

/// How long the next pin is good for, when the chain grew by so much during the last one.
fn good_for(last: Duration, blocks: u64) -> Duration {
    let next = if blocks > BLOCKS { last / 2 } else { last * 2 };
    next.clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_the_chain_the_sooner_a_pin_is_renewed() {
        let mut time = FIRST;
        for _ in 0..10 {
            time = good_for(time, 1);
        }
        assert_eq!(time, LONGEST);
        assert_eq!(good_for(time, 40), LONGEST / 2);
        for _ in 0..10 {
            time = good_for(time, 1_000);
        }
        assert_eq!(time, SHORTEST);
    }

    #[tokio::test]
    async fn the_node_is_asked_again_only_when_the_pin_is_old_or_of_no_use() {
        let pin = PinnedBlock::default();
        let at = async |block| pin.block(async move { Ok::<_, &str>(block) }).await.unwrap();
        assert_eq!(at(1).await, 1);
        assert_eq!(at(2).await, 1);
        pin.expire(7).await;
        assert_eq!(at(2).await, 1, "it was another one that expired");
        pin.expire(1).await;
        assert_eq!(pin.block(async { Err("no node") }).await, Err("no node"));
        assert_eq!(at(2).await, 2);
    }
}
