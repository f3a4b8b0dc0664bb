//! One step along the chain: fork? → events → wallets → read → record → checkpoint.
//!
//! Wallets are read at the newest block that is followed, which is never older than the events that
//! asked for it. What was read at a block is written down before it is read, so that a block that
//! goes, even while nobody looks, has its wallets read again.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tracing::warn;

use super::{
    Block, History, Journal, News, Observer, Progress, ReadAt, Source, Stored, Touched,
    history::DEPTH,
};
use crate::tally::{
    self, Counts, Ledger, Reader, Reading, Recorded, Stop, Tally, TotalRead, Unreadable, Wallet,
    pages_of,
};

/// Reorganisations are no deeper.
const DEEPEST_REORG: u64 = 64;
/// Blocks whose events are gathered into one set of wallets, at first and at most.
const FIRST_SLICE: u64 = 500;
const LARGEST_SLICE: u64 = 10_000;
/// A slice with more wallets is followed by a smaller one, one with a quarter of them by a larger.
const WALLETS_IN_SLICE: usize = 20_000;
/// A stretch of fewer blocks is no catching up: its blocks are as old as their storing took.
const LIVE: u64 = 16;

/// Which wallets are refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// Those that have a row.
    Known,
    /// All that events name.
    All,
}

/// How the chain is followed.
#[derive(Clone, Debug)]
pub struct FollowerSettings {
    /// The checkpoint's name.
    pub checkpoint: String,
    /// Which wallets are refreshed.
    pub track: Track,
    /// How many blocks to stay behind the newest.
    pub confirmations: u64,
    /// Where to begin without a checkpoint; `None` for the newest block.
    pub first_block: Option<u64>,
    /// Wallets in one page.
    pub page_size: usize,
}

/// What the follower works with.
#[derive(Clone, Copy)]
pub struct Sides<'a> {
    /// The node, for blocks and events.
    pub source: &'a dyn Source,
    /// The node, for totals.
    pub reader: &'a dyn Reader,
    /// The database, for totals.
    pub ledger: &'a dyn Ledger,
    /// The database, for how far the chain was followed.
    pub journal: &'a dyn Journal,
    /// Who hears what happens.
    pub observer: &'a dyn Observer,
    /// Asks for an early end.
    pub stop: &'a Stop,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There are more blocks up to the newest one.
    More,
    /// There are none; this is the newest that is to be followed.
    CaughtUp(u64),
    /// A stop was asked for before it was done.
    Interrupted,
}

/// Follows the chain from the checkpoint on.
pub struct Follower<'a> {
    sides: Sides<'a>,
    settings: FollowerSettings,
    history: History,
    /// The newest block that was seen to be on the chain.
    tip: Option<(u64, B256)>,
    /// The next block whose events are to be looked for.
    next: Option<u64>,
    /// What was read at blocks that went. It is read again until that was done above the block: at
    /// the same height somebody else's read of the old block could still overwrite it.
    again: Vec<ReadAt>,
    /// Wallets whose row held a newer read when an event's was stored, and the event's block. They
    /// are read once more, as nothing of a superseded read is stored.
    superseded: BTreeMap<Wallet, u64>,
    /// The block at which that was.
    superseded_at: u64,
    slice: u64,
}

impl<'a> Follower<'a> {
    /// Takes up the trail where the journal says that it was left.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn new(sides: Sides<'a>, settings: FollowerSettings) -> anyhow::Result<Self> {
        let last_block = sides.journal.last_block(&settings.checkpoint).await?;
        let reads = sides.journal.reads(&settings.checkpoint).await?;
        sides.observer.hear(&News::Active {
            checkpoint: last_block.and_then(|block| u64::try_from(block).ok()),
        });
        Ok(Self {
            sides,
            settings,
            history: History::of(reads),
            tip: None,
            next: last_block.map(|block| u64::try_from(block.saturating_add(1)).unwrap_or(0)),
            again: Vec::new(),
            superseded: BTreeMap::new(),
            superseded_at: 0,
            slice: FIRST_SLICE,
        })
    }

    /// The next block whose events are to be looked for; `None` before the first step of all.
    pub const fn next(&self) -> Option<u64> {
        self.next
    }

    /// Goes on towards `head`, the newest block: one slice of blocks at most. Says how it ended,
    /// and what was stored if there was anything to look at.
    ///
    /// # Errors
    /// When node or database fail; then the checkpoint has not moved, and the step can be repeated.
    pub async fn step(&mut self, head: &Block) -> anyhow::Result<(Step, Option<Stored>)> {
        let Some(at) = self.followed(head).await? else { return Ok((Step::CaughtUp(0), None)) };
        self.look_for_fork(&at).await?;
        let from = match self.next {
            Some(next) => next,
            None => self.begin(&at).await?,
        };
        let due: BTreeSet<Wallet> = (self.again.iter())
            .filter(|read| read.number <= at.number)
            .flat_map(|read| read.wallets.iter().copied())
            .collect();
        let repeats = !self.superseded.is_empty() && at.number > self.superseded_at;
        if from > at.number && due.is_empty() && !repeats {
            return Ok((Step::CaughtUp(at.number), None));
        }
        let to = self.end_of_slice(from, &at).await?;
        let touched = match from > to.number {
            true => Touched::default(),
            false => self.sides.source.touched(from, &to, &at).await?,
        };
        self.fit_slice(touched.wallets.len());
        let mut events = touched.wallets.clone();
        for (wallet, block) in self.superseded.iter().filter(|_| repeats) {
            events.entry(*wallet).or_insert(*block);
        }
        let wallets = self.to_read(events.keys().copied().chain(due)).await?;
        let Some(counts) = self.refresh(&wallets, &events, &at).await? else {
            return Ok((Step::Interrupted, None));
        };
        if counts.superseded > 0 {
            // Which of them were is not told; those of earlier steps may be among them again.
            for (wallet, block) in touched.wallets {
                let kept = self.superseded.entry(wallet).or_insert(block);
                *kept = block.max(*kept);
            }
            self.superseded_at = at.number;
        } else if repeats {
            self.superseded.clear();
        }
        self.advance(&to, &at).await?;
        let is_live = from <= to.number && to.number - from < LIVE;
        let stored = Stored {
            from,
            to: to.number,
            logs: touched.logs,
            counts,
            made: (is_live && !wallets.is_empty()).then_some(to.timestamp),
        };
        self.sides.observer.hear(&News::Stored(stored));
        let step = if to.number < at.number { Step::More } else { Step::CaughtUp(at.number) };
        Ok((step, Some(stored)))
    }

    /// The block to follow up to; `None` while the chain is too short for `--confirmations`.
    async fn followed(&self, head: &Block) -> anyhow::Result<Option<Block>> {
        match head.number.checked_sub(self.settings.confirmations) {
            _ if self.settings.confirmations == 0 => Ok(Some(*head)),
            None => Ok(None),
            Some(number) => self.sides.source.block(number, head.number).await.map(Some),
        }
    }

    /// Without a checkpoint: makes one in front of the first block to follow.
    async fn begin(&mut self, at: &Block) -> anyhow::Result<u64> {
        let (last_block, hash) = match self.settings.first_block {
            Some(first) => (first.checked_sub(1), None),
            None => (Some(at.number), Some(at.hash)),
        };
        if let Some(last_block) = last_block {
            let progress = Progress { last_block, hash, forget_below: 0, gone: Vec::new() };
            self.sides.journal.advance(&self.settings.checkpoint, &progress).await?;
            self.sides.observer.hear(&News::Began(last_block));
        }
        if let Some(hash) = hash {
            self.history.add(at.number, hash, []);
        }
        let next = last_block.map_or(0, |block| block + 1);
        self.next = Some(next);
        Ok(next)
    }

    /// The last block of the slice that begins at `from`; `at` where nothing is new.
    async fn end_of_slice(&self, from: u64, at: &Block) -> anyhow::Result<Block> {
        match from.saturating_add(self.slice - 1) {
            number if number >= at.number => Ok(*at),
            number => self.sides.source.block(number, at.number).await,
        }
    }

    /// Fits the next slice to the number of wallets in this one.
    fn fit_slice(&mut self, wallets: usize) {
        if wallets > WALLETS_IN_SLICE {
            self.slice = (self.slice / 2).max(1);
        } else if wallets < WALLETS_IN_SLICE / 4 {
            self.slice = (self.slice * 2).min(LARGEST_SLICE);
        }
    }

    /// Those that are to be read: each once, never the zero address, and with a row if need be.
    async fn to_read(
        &self,
        wallets: impl Iterator<Item = Wallet>,
    ) -> anyhow::Result<BTreeSet<Wallet>> {
        let mut wallets: BTreeSet<Wallet> =
            wallets.filter(|wallet| wallet.address() != Address::ZERO).collect();
        if self.settings.track == Track::Known && !wallets.is_empty() {
            let asked: Vec<_> = wallets.iter().copied().collect();
            let known = self.sides.journal.known(&asked).await?;
            wallets.retain(|wallet| known.contains(wallet));
        }
        Ok(wallets)
    }

    /// Reads these wallets at `at` and records them; `None` if a stop came in between.
    async fn refresh(
        &mut self,
        wallets: &BTreeSet<Wallet>,
        events: &BTreeMap<Wallet, u64>,
        at: &Block,
    ) -> anyhow::Result<Option<Counts>> {
        if wallets.is_empty() {
            return Ok(Some(Counts::default()));
        }
        let read = self.history.add(at.number, at.hash, wallets.iter().copied());
        self.sides.journal.announce(&self.settings.checkpoint, &read).await?;
        let reader = At { reader: self.sides.reader, block: at.number };
        let ledger = WithEvents { ledger: self.sides.ledger, events };
        let tally =
            Tally { reader: &reader, ledger: &ledger, stop: self.sides.stop, progress: &Silent };
        let pages = pages_of(wallets.iter().copied().collect(), self.settings.page_size);
        let run = tally.run(pages, |_, _| {}).await;
        if let Some(failure) = &run.first_failure {
            warn!("{} could not be read: {}", failure.wallet, failure.reason);
        }
        if let Some(error) = run.error {
            return Err(error);
        }
        let counts = run.counts;
        let done = counts.updated + counts.failed + counts.superseded;
        Ok((done == wallets.len() as u64).then_some(counts))
    }

    /// Moves the checkpoint to `to`, whose wallets are stored as of `at`.
    async fn advance(&mut self, to: &Block, at: &Block) -> anyhow::Result<()> {
        let forget_below = at.number.saturating_sub(DEPTH);
        let complete = to.number == at.number;
        let gone = (self.again.iter())
            .filter(|read| complete && read.number <= at.number)
            .map(|read| read.hash)
            .collect();
        let progress = Progress { last_block: to.number, hash: Some(to.hash), forget_below, gone };
        self.sides.journal.advance(&self.settings.checkpoint, &progress).await?;
        self.next = self.next.max(Some(to.number + 1));
        if complete {
            self.again.retain(|read| read.number >= at.number);
        }
        self.history.add(to.number, to.hash, []);
        self.history.forget_below(forget_below);
        Ok(())
    }

    /// Whether `at` continues the chain that is known; if not, goes back to where they part.
    async fn look_for_fork(&mut self, at: &Block) -> anyhow::Result<()> {
        let source = self.sides.source;
        let remembered = self.history.numbers_to(at.number);
        let Some(tip) = self.tip.map(|tip| tip.0).or_else(|| remembered.last().copied()) else {
            self.tip = Some((at.number, at.hash));
            return Ok(());
        };
        // Old news, where the tip is above it.
        if self.is_known(at.number, at.hash) {
            self.tip = self.tip.filter(|_| tip > at.number).or(Some((at.number, at.hash)));
            return Ok(());
        }
        let mut fork_is_below = *at;
        if at.number > tip + 1 {
            fork_is_below = source.block(tip, at.number).await?;
        } else if at.number < tip && !remembered.contains(&at.number) {
            // Perhaps old news: then the tip is still there.
            let still_there = source.block(tip, tip).await;
            if still_there.is_ok_and(|block| self.is_known(block.number, block.hash)) {
                return Ok(());
            }
        } else if at.number == tip + 1 && self.is_known(tip, at.parent) {
            self.tip = Some((at.number, at.hash));
            return Ok(());
        }
        let lowest = self.history.lowest().unwrap_or(tip);
        let mut block = fork_is_below;
        while block.number > lowest && !self.is_known(block.number, block.hash) {
            block = source.parent(&block).await?;
        }
        let others = self.history.take_others(block.number, block.hash);
        self.tip = Some((at.number, at.hash));
        if block == fork_is_below && others.is_empty() {
            return Ok(());
        }
        let fork = match self.history.holds(block.number, block.hash) {
            true => block.number,
            false => lowest.saturating_sub(DEEPEST_REORG + 1),
        };
        let mut gone = self.history.take_above(fork);
        gone.extend(others);
        self.went(fork + 1, tip.max(at.number), gone);
        Ok(())
    }

    /// Whether this block is on the chain that was followed.
    fn is_known(&self, number: u64, hash: B256) -> bool {
        self.tip == Some((number, hash)) || self.history.holds(number, hash)
    }

    /// Takes note of logs that no longer count: the blocks that they were in went.
    pub(super) fn removed(&mut self, logs: Vec<ReadAt>) {
        let Some(lowest) = logs.iter().map(|log| log.number).min() else { return };
        let newest = self.tip.map_or(lowest, |tip| tip.0);
        let from = lowest.max(newest.saturating_sub(DEPTH));
        let on_chain = logs.iter().filter(|log| self.history.holds(log.number, log.hash));
        let mut gone = match on_chain.map(|log| log.number).min() {
            Some(first) => {
                self.tip = None;
                self.history.take_above(first.saturating_sub(1))
            }
            None => Vec::new(),
        };
        gone.extend(logs);
        self.went(from, newest, gone);
    }

    /// The blocks from `from` on went: what was read at them is to be read again, and the blocks
    /// that took their places are to be looked through.
    fn went(&mut self, from: u64, to: u64, gone: Vec<ReadAt>) {
        let wallets: BTreeSet<_> = gone.iter().flat_map(|read| &read.wallets).collect();
        self.sides.observer.hear(&News::Reorg { from, to, wallets: wallets.len() as u64 });
        self.again.extend(gone);
        self.next = self.next.map(|next| next.min(from));
    }
}

/// A reader whose next batch is read at one block.
struct At<'a> {
    reader: &'a dyn Reader,
    block: u64,
}

#[async_trait]
impl Reader for At<'_> {
    async fn pin(&self) -> anyhow::Result<u64> {
        Ok(self.block)
    }

    fn read(
        &self,
        wallets: Vec<Wallet>,
        block: u64,
    ) -> BoxStream<'_, anyhow::Result<Vec<Reading>>> {
        self.reader.read(wallets, block)
    }
}

/// A ledger that stores with each total the block of the event that asked for it.
struct WithEvents<'a> {
    ledger: &'a dyn Ledger,
    events: &'a BTreeMap<Wallet, u64>,
}

#[async_trait]
impl Ledger for WithEvents<'_> {
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> anyhow::Result<Recorded> {
        let event_block = |read: &TotalRead| self.events.get(&read.wallet).copied();
        let totals: Vec<_> = (totals.iter())
            .map(|read| TotalRead { event_block: event_block(read), ..*read })
            .collect();
        self.ledger.record(&totals, failures).await
    }
}

/// Nobody watches a bar.
struct Silent;

impl tally::Progress for Silent {
    fn wallets(&self, _: u64, _: u64) {}
}
