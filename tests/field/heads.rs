//! Announcements of new blocks, as a WebSocket gives them: late, lost, twice, out of order, and over again.

use std::{collections::BTreeSet, time::Duration};

use ethtally::{
    follow::{Block, BlockReads, Signal, SignalSender},
    tally::Wallet,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use crate::{
    chain::Chain,
    world::{World, percent},
};

/// How often it looks for a new head.
const LOOK: Duration = Duration::from_millis(200);

/// What is announced of a block, by its place.
fn block(chain: &Chain, at: usize) -> Block {
    let made = &chain.blocks[at];
    let parent = chain.blocks[made.parent].hash;
    Block {
        number: made.number,
        hash: made.hash,
        parent,
        timestamp: made.timestamp,
        logs_bloom: Some(made.bloom),
    }
}

/// The blocks that a new head takes off the chain, and those that it puts on it.
fn between(chain: &Chain, old: usize, new: usize) -> (Vec<usize>, Vec<usize>) {
    let (mut old, mut new) = (old, new);
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    while old != new {
        if chain.blocks[old].number >= chain.blocks[new].number {
            removed.push(old);
            old = chain.blocks[old].parent;
        } else {
            added.push(new);
            new = chain.blocks[new].parent;
        }
    }
    added.reverse();
    (removed, added)
}

/// Signals for what a new head changed.
fn signals(chain: &Chain, old: usize, new: usize, only_newest: bool) -> Vec<Signal> {
    let (removed, added) = between(chain, old, new);
    let mut signals = Vec::new();
    for at in removed {
        for log in chain.blocks[at].logs.iter().filter(|log| !log.wallets.is_empty()) {
            let wallet = |wallet: &usize| Wallet::from(chain.contracts.wallets[*wallet]);
            let Block { number, hash, .. } = block(chain, at);
            let wallets: BTreeSet<_> = log.wallets.iter().map(wallet).collect();
            signals.push(Signal::Removed(BlockReads { number, hash, wallets }));
        }
    }
    let skipped = if only_newest { added.len().saturating_sub(1) } else { 0 };
    for at in added.into_iter().skip(skipped) {
        signals.push(Signal::Head(block(chain, at)));
        if chain.blocks[at].logs.iter().any(|log| !log.wallets.is_empty()) {
            signals.push(Signal::Hint);
        }
    }
    signals
}

/// Announces blocks without end.
pub(crate) async fn announce(world: &World, heard: SignalSender) {
    let mut random = StdRng::seed_from_u64(world.seed ^ world.field.now().as_nanos() as u64);
    let random = &mut random;
    let loses = if percent(random, 50) { 0 } else { random.random_range(1..30) };
    let breaks = if percent(random, 50) { 0 } else { random.random_range(1..5) };
    let only_newest = percent(random, 30);
    let lag = Duration::from_millis(random.random_range(0..300));
    loop {
        heard.send(Signal::Missed);
        let mut last = world.field.chain().head_at(world.field.now().saturating_sub(lag));
        loop {
            sleep(LOOK).await;
            let now = world.field.now();
            let is_quiet = now >= world.end();
            let found = {
                let chain = world.field.chain();
                let head = chain.head_at(now.saturating_sub(lag));
                let found = signals(&chain, last, head, only_newest);
                last = head;
                found
            };
            let mut sent: Vec<Signal> = Vec::new();
            for signal in found {
                match random.random_range(0..100) {
                    _ if is_quiet => sent.push(signal),
                    chance if chance < loses => {}
                    chance if chance < 2 * loses && !sent.is_empty() => {
                        sent.insert(sent.len() - 1, signal);
                    }
                    chance if chance < 3 * loses => {
                        sent.push(signal.clone());
                        sent.push(signal);
                    }
                    _ => sent.push(signal),
                }
            }
            for signal in sent {
                heard.send(signal);
            }
            if !is_quiet && random.random_range(0..100) < breaks {
                world.field.tell("the WebSocket breaks");
                sleep(Duration::from_millis(random.random_range(500..9_000))).await;
                break;
            }
        }
    }
}
