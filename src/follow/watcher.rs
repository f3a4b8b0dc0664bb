//! The loop of `watch`: waits for signals, takes the follower to the newest block, retries what failed.

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
    /// True while it is held: it ends with its database session.
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
    /// Receives events.
    pub observer: &'a dyn Observer,
    /// Asks for the end.
    pub shutdown: &'a Shutdown,
    /// Held by one watcher at a time.
    pub lock: Box<dyn Lock>,
}

/// What the signals came to since the last time.
#[derive(Default)]
struct PendingSignals {
    /// The newest block has to be asked for.
    ask: bool,
    /// The newest announced block.
    head: Option<Block>,
    /// The number of the last block announced on this connection.
    announced: Option<u64>,
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

impl PendingSignals {
    fn take(&mut self, signal: Signal, next: Option<u64>) {
        match signal {
            Signal::Head(block) => {
                if self.announced.is_some_and(|last| block.number > last + 1) {
                    self.open_gap(next);
                }
                self.announced = Some(block.number);
                self.head = Some(block);
            }
            Signal::Newest(block) => self.head = Some(block),
            Signal::Hint => self.ask = true,
            Signal::Missed => {
                self.ask = true;
                self.announced = None;
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
        let mut pending = PendingSignals::default();
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
                // Cut short by the shutdown: nothing is lost.
                Err(error) if self.shutdown.is_requested() => info!("not finished: {error:#}"),
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

    /// Receives signals until `end`, or only one if `one` is true.
    async fn listen(
        &self,
        signals: &mut UnboundedReceiver<Signal>,
        pending: &mut PendingSignals,
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
            // Whatever arrived meanwhile is handled together.
            while let Ok(signal) = signals.try_recv() {
                pending.take(signal, self.follower.next());
            }
            if one {
                return;
            }
        }
    }

    /// Follows the chain towards the newest block; `pending` is unchanged if that fails.
    async fn catch_up(
        &mut self,
        signals: &mut UnboundedReceiver<Signal>,
        pending: &mut PendingSignals,
    ) -> Result<(), RunError> {
        while let Ok(signal) = signals.try_recv() {
            pending.take(signal, self.follower.next());
        }
        self.follower.removed(&pending.removed).await?;
        pending.removed.clear();
        let announced = pending.head;
        let head = match announced {
            Some(head) if !pending.ask => head,
            _ => {
                let newest = self.source.newest().await?;
                self.observer.notify(&WatchEvent::Head(newest.number));
                announced.filter(|head| head.number > newest.number).unwrap_or(newest)
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
            // The next block may take long.
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

    /// Reports the missed blocks that are stored now, if there were any.
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
