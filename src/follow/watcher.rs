//! The loop of `watch`: waits for signals, takes the follower to the newest block, retries what failed.
//!
//! A block that is replaced before it is followed costs neither retries nor a pause: the step is given up as soon as that
//! is announced, or as soon as it fails and the node has another block in its place.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};
use tracing::info;

use super::{
    Backoff, Block, FilledGap, Follower, Observer, Signal, SignalReceiver, Source, Step, Stored,
    WatchEvent,
    pending::{Gap, PendingSignals, says_replaced},
};
use crate::tally::{Lock, RunError, Shutdown};

/// How often an idle watcher looks whether it still holds its lock.
const LOOK_AT_LOCK: Duration = Duration::from_secs(5);
/// How long the node may take to say whether a block was replaced.
const LOOK_FOR_OTHER: Duration = Duration::from_secs(2);
/// How many blocks in a row may be given up without a pause.
const WITHOUT_PAUSE: u32 = 5;
/// How often an announced block that the node does not know may fail before it is forgotten.
const UNKNOWN: u32 = 4;

/// Why a watcher ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// A stop was asked for.
    Stopped,
    /// The lock was lost, for this reason: another process may be the watcher now.
    LockLost(String),
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
    pub lock: &'a dyn Lock,
}

impl Watcher<'_> {
    /// Follows what `signals` tell of.
    pub async fn run(mut self, signals: &mut SignalReceiver) -> WatchEnd {
        let mut pending = PendingSignals::default();
        pending.take(Signal::Missed, self.follower.next());
        let mut backoff = Backoff::default();
        let (mut failures, mut given_up) = (0, 0);
        loop {
            if self.shutdown.is_requested() {
                return WatchEnd::Stopped;
            }
            if !self.lock.is_held().await {
                return WatchEnd::LockLost(self.lock.lost().await);
            }
            let now = Instant::now();
            if pending.ask_at.is_some_and(|when| when <= now) {
                pending.ask_at = None;
                pending.ask = true;
            }
            pending.ask |= self.follower.next_search().is_some_and(|when| when <= now);
            if pending.is_empty() {
                let times = [pending.ask_at, self.follower.next_search()];
                let wake = times.into_iter().flatten().fold(now + LOOK_AT_LOCK, Instant::min);
                self.listen(signals, &mut pending, wake, true).await;
                continue;
            }
            let mut tried = None;
            match self.catch_up(signals, &mut pending, &mut tried).await {
                Ok(()) => {
                    backoff.reset();
                    (failures, given_up) = (0, 0);
                }
                // Cut short by the shutdown: nothing is lost.
                Err(error) if self.shutdown.is_requested() => info!("not finished: {error:#}"),
                Err(error) => {
                    if given_up < WITHOUT_PAUSE
                        && matches!(error, RunError::Node(_))
                        && let Some(other) = self.other_than(tried).await
                    {
                        info!("{error:#}; block {} was replaced meanwhile", other.number);
                        given_up += 1;
                        pending.head = Some(other);
                        continue;
                    }
                    let pause = backoff.pause();
                    self.observer.notify(&WatchEvent::Failed { error, pause });
                    failures += 1;
                    if failures % UNKNOWN == 0 {
                        // It may never have been on the chain. What is true the node knows.
                        pending.head = None;
                    }
                    pending.ask = true;
                    self.listen(signals, &mut pending, Instant::now() + pause, false).await;
                    self.source.revive();
                }
            }
        }
    }

    /// The newest block, if the node has another one in the place of the block that was tried.
    async fn other_than(&self, tried: Option<Block>) -> Option<Block> {
        let tried = tried.filter(|_| self.follower.follows_newest())?;
        let other = async {
            let newest = self.source.newest().await.ok()?;
            let same_height = match newest.number.checked_sub(tried.number)? {
                0 => newest,
                _ => self.source.block(tried.number, newest.number).await.ok()??,
            };
            (same_height.hash != tried.hash).then_some(newest)
        };
        timeout(LOOK_FOR_OTHER, other).await.ok()?
    }

    /// Receives signals until `end`, or only one if `one` is true.
    async fn listen(
        &self,
        signals: &mut SignalReceiver,
        pending: &mut PendingSignals,
        end: Instant,
        one: bool,
    ) {
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.requested() => return,
                () = sleep_until(end) => return,
                signal = signals.recv() => match signal {
                    Some(signal) => pending.take(signal, self.follower.next()),
                    None => return self.shutdown.requested().await,
                },
            }
            // Whatever arrived meanwhile is handled together.
            while let Some(signal) = signals.try_recv() {
                pending.take(signal, self.follower.next());
            }
            if one {
                return;
            }
        }
    }

    /// Follows the chain towards the newest block, which is stored in `tried`; `pending` is unchanged if that fails.
    async fn catch_up(
        &mut self,
        signals: &mut SignalReceiver,
        pending: &mut PendingSignals,
        tried: &mut Option<Block>,
    ) -> Result<(), RunError> {
        while let Some(signal) = pending.meanwhile.pop() {
            pending.take(signal, self.follower.next());
        }
        while let Some(signal) = signals.try_recv() {
            pending.take(signal, self.follower.next());
        }
        self.follower.removed(&pending.removed).await?;
        pending.removed.clear();
        if let Some((from, to)) = pending.replaced {
            self.follower.replaced_unseen(from, to).await?;
            pending.replaced = None;
        }
        let announced = pending.head;
        let head = match announced {
            Some(head) if !pending.ask => head,
            _ => {
                let newest = self.source.newest().await?;
                self.observer.notify(&WatchEvent::Head((&newest).into()));
                announced.filter(|head| head.number > newest.number).unwrap_or(newest)
            }
        };
        *tried = Some(head);
        let Some((step, stored)) = self.step(&head, signals, pending).await? else {
            return Ok(());
        };
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

    /// One step towards `head`; `None` if it was given up because `head` was replaced. What was done then is as after
    /// a failure: the journal knows what was read.
    async fn step(
        &mut self,
        head: &Block,
        signals: &mut SignalReceiver,
        pending: &mut PendingSignals,
    ) -> Result<Option<(Step, Option<Stored>)>, RunError> {
        let follows_newest = self.follower.follows_newest();
        let mut step = pin!(self.follower.step(head));
        loop {
            tokio::select! {
                biased;
                done = &mut step => return done.map(Some),
                Some(signal) = signals.recv() => {
                    let is_replaced = follows_newest && says_replaced(&signal, head);
                    if is_replaced {
                        info!("block {} was replaced before it was stored", head.number);
                        pending.head = None;
                        // A removed log does not say by which.
                        pending.ask = matches!(signal, Signal::Removed(_));
                    }
                    pending.meanwhile.push(signal);
                    if is_replaced {
                        return Ok(None);
                    }
                }
            }
        }
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
