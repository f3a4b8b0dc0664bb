//! The way of signals to `watch`: a queue of bounded length, which loses none of their meaning.
//!
//! Signals that say the same as the one before are folded into it. If too many wait, they are replaced by
//! [`Signal::Lost`], which names the blocks that were replaced.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use super::{Block, Signal};

/// Signals that wait, at most.
const LIMIT: usize = 1_024;
/// Wallets of one block whose logs were removed, at most.
const WALLETS: usize = 10_000;

/// Signals in their order.
#[derive(Debug, Default)]
pub(super) struct SignalQueue(VecDeque<Signal>);

impl SignalQueue {
    pub(super) fn push(&mut self, signal: Signal) {
        let Some(signal) = self.fold(signal) else { return };
        self.0.push_back(signal);
        if self.0.len() > LIMIT {
            // The first block is compared with the one announced before it.
            let first = self.0.iter().find(|signal| matches!(signal, Signal::Head(_))).cloned();
            let lost = lost_of(&self.0);
            self.0.clear();
            self.0.extend(first.into_iter().chain([lost]));
        }
    }

    pub(super) fn pop(&mut self) -> Option<Signal> {
        self.0.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Folds a signal into those that wait; gives it back if it says something else.
    fn fold(&mut self, signal: Signal) -> Option<Signal> {
        if signal == Signal::Hint && self.0.contains(&Signal::Hint) {
            return None;
        }
        match (self.0.back_mut(), signal) {
            (Some(Signal::Missed), Signal::Missed) => None,
            (Some(Signal::Newest(last)), Signal::Newest(block)) => {
                *last = block;
                None
            }
            (Some(Signal::Removed(last)), Signal::Removed(log))
                if last.hash == log.hash && last.wallets.len() + log.wallets.len() <= WALLETS =>
            {
                last.wallets.extend(log.wallets);
                None
            }
            (_, signal) => Some(signal),
        }
    }
}

/// What stands for signals that are dropped: that blocks may have come, and which were replaced.
fn lost_of(signals: &VecDeque<Signal>) -> Signal {
    let mut announced: Option<&Block> = None;
    let replaced = signals.iter().filter_map(|signal| match signal {
        Signal::Head(block) => {
            let last = announced.replace(block).filter(|last| block.replaces(last))?;
            Some((block.number.min(last.number), last.number))
        }
        Signal::Removed(log) => Some((log.number, log.number)),
        Signal::Lost { replaced } => *replaced,
        Signal::Newest(_) | Signal::Hint | Signal::Missed => None,
    });
    let replaced = replaced.reduce(|(from, to), (first, last)| (from.min(first), to.max(last)));
    Signal::Lost { replaced }
}

/// Creates the way from those who announce to the one who follows.
pub fn signals() -> (SignalSender, SignalReceiver) {
    let queue = Arc::new(Mutex::new(SignalQueue::default()));
    let (wake, woken) = mpsc::channel(1);
    (SignalSender { queue: Arc::clone(&queue), wake }, SignalReceiver { queue, woken })
}

/// Announces.
#[derive(Clone, Debug)]
pub struct SignalSender {
    queue: Arc<Mutex<SignalQueue>>,
    wake: mpsc::Sender<()>,
}

impl SignalSender {
    /// Leaves a signal for the receiver; never waits.
    pub fn send(&self, signal: Signal) {
        lock(&self.queue).push(signal);
        // If it is full, the receiver wakes anyway.
        let _ = self.wake.try_send(());
    }
}

/// Hears what is announced.
#[derive(Debug)]
pub struct SignalReceiver {
    queue: Arc<Mutex<SignalQueue>>,
    woken: mpsc::Receiver<()>,
}

impl SignalReceiver {
    /// The next signal, as soon as there is one; `None` once nobody announces any more.
    pub async fn recv(&mut self) -> Option<Signal> {
        loop {
            if let Some(signal) = self.try_recv() {
                return Some(signal);
            }
            if self.woken.recv().await.is_none() {
                return self.try_recv();
            }
        }
    }

    /// The next signal, if there is one.
    pub fn try_recv(&mut self) -> Option<Signal> {
        lock(&self.queue).pop()
    }
}

fn lock(queue: &Mutex<SignalQueue>) -> MutexGuard<'_, SignalQueue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256, U256};

    use super::*;
    use crate::follow::BlockReads;

    fn block(number: u64) -> Block {
        let hash = B256::with_last_byte(number as u8);
        Block { number, hash, parent: hash, timestamp: 0, logs_bloom: None }
    }

    fn removed(number: u64, wallet: u8) -> Signal {
        let wallets = [Address::with_last_byte(wallet).into()].into();
        Signal::Removed(BlockReads { number, hash: block(number).hash, wallets })
    }

    #[tokio::test]
    async fn signals_come_in_order_and_repetitions_once() {
        let (sender, mut receiver) = signals();
        for signal in [Signal::Missed, Signal::Missed, Signal::Head(block(1)), Signal::Hint] {
            sender.send(signal);
        }
        sender.send(Signal::Hint);
        sender.send(removed(1, 1));
        sender.send(removed(1, 2));
        drop(sender);
        let mut heard = Vec::new();
        while let Some(signal) = receiver.recv().await {
            heard.push(signal);
        }
        let both = [Address::with_last_byte(1).into(), Address::with_last_byte(2).into()].into();
        let logs = BlockReads { number: 1, hash: block(1).hash, wallets: both };
        let expected =
            [Signal::Missed, Signal::Head(block(1)), Signal::Hint, Signal::Removed(logs)];
        assert_eq!(heard, expected);
    }

    #[tokio::test]
    async fn a_million_signals_take_little_room_and_name_replaced_blocks() {
        let (sender, mut receiver) = signals();
        let chain = |n: u64, fork: u8| Block {
            number: n,
            hash: B256::from(U256::from(n) << 8 | U256::from(fork)),
            parent: B256::from(U256::from(n - 1) << 8 | U256::from(fork)),
            timestamp: 0,
            logs_bloom: None,
        };
        for n in 100..1_000_000_u64 {
            sender.send(Signal::Hint);
            sender.send(Signal::Head(chain(n, 0)));
            assert!(lock(&sender.queue).0.len() <= LIMIT);
        }
        // On one chain nothing is replaced.
        assert_eq!(receiver.recv().await, Some(Signal::Head(chain(100, 0))));
        assert_eq!(receiver.recv().await, Some(Signal::Lost { replaced: None }));
        for n in 999_990..1_002_000 {
            sender.send(Signal::Head(chain(n, 1)));
        }
        sender.send(removed(7, 1));
        for n in 1_002_000..1_004_000 {
            sender.send(Signal::Head(chain(n, 1)));
        }
        while let Some(signal) = receiver.try_recv() {
            if let Signal::Lost { replaced } = signal {
                assert_eq!(replaced, Some((7, 999_999)));
                return;
            }
        }
        panic!("no signal was dropped");
    }
}
