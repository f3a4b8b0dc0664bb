//! The block that reads are pinned to, and when it is time for a newer one.
//!
//! A node without an archive forgets the state of a block once 128 newer ones are there. On one chain
//! that takes 25 minutes, on another half a minute, so the pin is renewed by how fast the chain goes.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

/// Renewed sooner once the chain goes further than this between two renewals.
const BLOCKS: u64 = 32;
/// How long the first pin is good for.
const FIRST: Duration = Duration::from_secs(1);
/// How long a pin is good for at least, and at most.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);

/// A block number that is renewed from time to time.
#[derive(Debug, Default)]
pub(super) struct Pin(Mutex<Option<Pinned>>);

#[derive(Clone, Copy, Debug)]
struct Pinned {
    block: u64,
    since: Instant,
    good_for: Duration,
}

impl Pin {
    /// The block to read at; `resolve` asks the node for the newest where the pin has got old.
    pub(super) async fn block(
        &self,
        resolve: impl Future<Output = anyhow::Result<u64>>,
    ) -> anyhow::Result<u64> {
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

    /// This block is of no more use.
    pub(super) async fn expire(&self, block: u64) {
        if let Some(pinned) = &mut *self.0.lock().await
            && pinned.block == block
        {
            // So that the next one has to prove itself.
            pinned.good_for = Duration::ZERO;
        }
    }
}

/// How long the next pin is good for, where the chain went so far during the last one.
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
        let pin = Pin::default();
        let at = async |block| pin.block(async move { Ok(block) }).await.unwrap();
        assert_eq!(at(1).await, 1);
        assert_eq!(at(2).await, 1);
        pin.expire(7).await;
        assert_eq!(at(2).await, 1, "it was another one that expired");
        pin.expire(1).await;
        let failed = pin.block(async { anyhow::bail!("no node") });
        assert_eq!(failed.await.unwrap_err().to_string(), "no node");
        assert_eq!(at(2).await, 2);
    }
}
