//! The way of signals to `watch`: a queue of bounded length, which loses none of their meaning.
//!
//! Signals that say the same as the one before are folded into it. If too many wait, they are replaced by
//! [`Signal::Lost`], which names the blocks that they were about.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use super::Signal;

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
            let lost = lost_of(&self.0);
            self.0.clear();
            self.0.push_back(lost);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Signal> {
        self.0.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Folds a signal into the last one; gives it back if it says something else.
    fn fold(&mut self, signal: Signal) -> Option<Signal> {
        match (self.0.back_mut(), signal) {
            (Some(Signal::Hint), Signal::Hint) | (Some(Signal::Missed), Signal::Missed) => None,
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

/// What stands for signals that are dropped.
fn lost_of(signals: &VecDeque<Signal>) -> Signal {
    let blocks = signals.iter().filter_map(|signal| match signal {
        Signal::Head(block) | Signal::Newest(block) => Some((block.number, block.number)),
        Signal::Removed(log) => Some((log.number, log.number)),
        Signal::Lost { blocks } => *blocks,
        Signal::Hint | Signal::Missed => None,
    });
    let blocks = blocks.reduce(|(from, to), (first, last)| (from.min(first), to.max(last)));
    Signal::Lost { blocks }
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
    use alloy::primitives::{Address, B256};

    use super::*;
    use crate::follow::{Block, BlockReads};

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
    async fn a_million_signals_take_little_room_and_name_their_blocks() {
        let (sender, mut receiver) = signals();
        for n in 0..1_000_000_u64 {
            sender.send(if n % 2 == 0 {
                Signal::Head(block(500 + n % 300))
            } else {
                removed(n % 700 + 7, 1)
            });
            assert!(lock(&sender.queue).0.len() <= LIMIT);
        }
        let Some(Signal::Lost { blocks: Some((from, to)) }) = receiver.recv().await else {
            panic!("signals were dropped")
        };
        assert_eq!((from, to), (8, 798));
    }
}
