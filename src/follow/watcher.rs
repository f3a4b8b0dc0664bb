//! The loop: waits for signals, takes the follower to the newest block, tries again what failed.

use std::time::Duration;

use async_trait::async_trait;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep_until},
};
use tracing::info;

use super::{
    Backoff, Block, BlockReads, FilledGap, Follower, Observer, Signal, Source, Step, WatchEvent,
};
use crate::tally::{RunError, Shutdown};

/// How often an idle watcher looks whether it still holds its lock.
const LOOK_AT_LOCK: Duration = Duration::from_secs(5);

/// What only one watcher of a checkpoint holds.
#[async_trait]
pub trait Lock: Send {
    /// Whether it is still held: it goes with its database session.
    async fn is_held(&mut self) -> bool;
}

/// Why a watcher ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// A stop was asked for.
    Stopped,
    /// Another process may be the watcher now.
    LockLost,
}

/// Follows the chain for as long as it holds its lock.
pub struct Watcher<'a> {
    /// Does the steps.
    pub follower: Follower<'a>,
    /// The node.
    pub source: &'a dyn Source,
    /// Who hears what happens.
    pub observer: &'a dyn Observer,
    /// Asks for the end.
    pub shutdown: &'a Shutdown,
    /// Held by one watcher at a time.
    pub lock: Box<dyn Lock>,
}

/// What the signals came to since the last time.
#[derive(Default)]
struct Pending {
    /// The newest block has to be asked for.
    ask: bool,
    /// The newest block that was told of.
    head: Option<Block>,
    /// The number of the last block that was told of on this connection.
    told: Option<u64>,
    removed: Vec<BlockReads>,
    gap: Option<Gap>,
}

/// Blocks that may have been missed, while they are caught up with.
struct Gap {
    from: Option<u64>,
    logs: u64,
    updated: u64,
    since: Instant,
}

impl Pending {
    fn take(&mut self, signal: Signal, next: Option<u64>) {
        match signal {
            Signal::Head(block) => {
                if self.told.is_some_and(|told| block.number > told + 1) {
                    self.open_gap(next);
                }
                self.told = Some(block.number);
                self.head = Some(block);
            }
            Signal::Newest(block) => self.head = Some(block),
            Signal::Hint => self.ask = true,
            Signal::Missed => {
                self.ask = true;
                self.told = None;
                self.open_gap(next);
            }
            Signal::Removed(log) => self.removed.push(log),
        }
    }

    fn open_gap(&mut self, from: Option<u64>) {
        let gap = Gap { from, logs: 0, updated: 0, since: Instant::now() };
        self.gap.get_or_insert(gap);
    }

    fn is_empty(&self) -> bool {
        !self.ask && self.head.is_none() && self.removed.is_empty()
    }
}

impl Watcher<'_> {
    /// Follows what `signals` tell of.
    pub async fn run(mut self, signals: &mut UnboundedReceiver<Signal>) -> WatchEnd {
        let mut pending = Pending::default();
        pending.take(Signal::Missed, self.follower.next());
        let mut backoff = Backoff::default();
        loop {
            if self.shutdown.is_requested() {
                return WatchEnd::Stopped;
            }
            if !self.lock.is_held().await {
                return WatchEnd::LockLost;
            }
            if pending.is_empty() {
                let wake = Instant::now() + LOOK_AT_LOCK;
                self.listen(signals, &mut pending, wake, true).await;
                continue;
            }
            match self.catch_up(signals, &mut pending).await {
                Ok(()) => backoff.reset(),
                // Cut short, or not tried again: nothing of it is lost.
                Err(error) if self.shutdown.is_requested() => info!("left rereads: {error:#}"),
                Err(error) => {
                    let pause = backoff.pause();
                    self.observer.notify(&WatchEvent::Failed { error, pause });
                    pending.ask = true;
                    self.listen(signals, &mut pending, Instant::now() + pause, false).await;
                    self.source.revive();
                }
            }
        }
    }

    /// Takes up signals until `end`, or until there is one if `one` is enough.
    async fn listen(
        &self,
        signals: &mut UnboundedReceiver<Signal>,
        pending: &mut Pending,
        end: Instant,
        one: bool,
    ) {
        loop {
            tokio::select! {
                () = self.shutdown.requested() => return,
                () = sleep_until(end) => return,
                signal = signals.recv() => match signal {
                    Some(signal) => pending.take(signal, self.follower.next()),
                    None => return self.shutdown.requested().await,
                },
            }
            // What came in the meantime is dealt with in one go.
            while let Ok(signal) = signals.try_recv() {
                pending.take(signal, self.follower.next());
            }
            if one {
                return;
            }
        }
    }

    /// Goes towards the newest block; `pending` stays as it is where that fails.
    async fn catch_up(
        &mut self,
        signals: &mut UnboundedReceiver<Signal>,
        pending: &mut Pending,
    ) -> Result<(), RunError> {
        while let Ok(signal) = signals.try_recv() {
            pending.take(signal, self.follower.next());
        }
        self.follower.removed(&pending.removed).await?;
        pending.removed.clear();
        let told = pending.head;
        let head = match told {
            Some(head) if !pending.ask => head,
            _ => {
                let newest = self.source.newest().await?;
                self.observer.notify(&WatchEvent::Head(newest.number));
                told.filter(|told| told.number > newest.number).unwrap_or(newest)
            }
        };
        let (step, stored) = self.follower.step(&head).await?;
        if let (Some(gap), Some(stored)) = (&mut pending.gap, stored) {
            gap.from = gap.from.or(Some(stored.from));
            gap.logs += stored.logs;
            gap.updated += stored.counts.updated;
        }
        match step {
            Step::Interrupted => {}
            // Nobody may tell of another block for long.
            Step::Stale if self.follower.is_behind() => {
                return Err(RunError::node(format!(
                    "the newest block that the node gives is {}, older than one that was seen before",
                    head.number
                )));
            }
            Step::Stale => {
                pending.ask = false;
                pending.head = None;
            }
            // Its time may be long: the next slice is read at what is the newest block then.
            Step::More => pending.ask = true,
            Step::CaughtUp(at) => {
                pending.ask = false;
                pending.head = None;
                if let Some(gap) = pending.gap.take() {
                    self.close(gap, at);
                }
                self.observer.notify(&WatchEvent::CaughtUp(at));
            }
        }
        Ok(())
    }

    /// Tells of the blocks that were caught up with, if there were any.
    fn close(&self, gap: Gap, at: u64) {
        if let Some(from) = gap.from.filter(|from| *from <= at) {
            let elapsed = gap.since.elapsed();
            let Gap { logs, updated, .. } = gap;
            self.observer.notify(&WatchEvent::GapFilled(FilledGap {
                from,
                to: at,
                logs,
                updated,
                elapsed,
            }));
        }
    }
}
