//! One step along the chain: fork? → events → wallets → read → record → checkpoint.
//!
//! Wallets are read at the newest followed block, which is never older than the events that affect them. Before
//! wallets are read at a block, the journal records which: if the block is replaced, even while no `watch` runs, they
//! are read again. So are the rows that others read at replaced blocks, as far as the table knows (see `rereads`), and all
//! rows above the fork of a reorganisation that is deeper than the blocks that are remembered (see `rows_above`).

mod fork;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use alloy::primitives::{Address, B256};
use tracing::warn;

use super::{
    AffectedWallets, Block, CheckpointUpdate, CoverageUpdate, Journal, Observer, RowsAbove, Source,
    Stored, WatchEvent,
    adapters::{PinnedReader, Silent, WithEvents},
    recent_blocks::{DEPTH, RecentBlocks},
    rereads::{Moment, Rereads},
};
use crate::tally::{
    Counts, Ledger, Outcome, Pipeline, Reader, Retries, RunError, Shutdown, Wallet, pages_of,
};

/// Reorganisations are hardly ever deeper.
const DEEPEST_REORG: u64 = 64;
/// Blocks whose events are gathered into one set of wallets, at first and at most.
const FIRST_SLICE: u64 = 500;
const LARGEST_SLICE: u64 = 10_000;
/// A slice with more wallets, or that took longer, is followed by a smaller one: the checkpoint is to
/// move now and then, and what is read to be not too old. One with a quarter of that by a larger.
const WALLETS_IN_SLICE: usize = 20_000;
const TIME_OF_SLICE: Duration = Duration::from_secs(12);
/// With fewer blocks, `watch` is not catching up, so that the age of a block shows how long storing it took.
const LIVE: u64 = 16;
/// How much earlier than a block the rows that were read at it may have been written, by clocks that differ.
const CLOCKS: Duration = Duration::from_secs(600);

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
    /// The events that are followed, as a text.
    pub events: String,
}

/// What the follower works with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The node, for blocks and events.
    pub source: &'a dyn Source,
    /// The node, for totals.
    pub reader: &'a dyn Reader,
    /// The database, for totals.
    pub ledger: &'a dyn Ledger,
    /// The database, for how far the chain was followed.
    pub journal: &'a dyn Journal,
    /// Receives events.
    pub observer: &'a dyn Observer,
    /// Asks for an early end.
    pub shutdown: &'a Shutdown,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There are more blocks up to the newest one.
    More,
    /// There are none; this is the newest that is to be followed.
    CaughtUp(u64),
    /// The head is not the newest that was seen, or the chain is shorter than the confirmations:
    /// nothing was done.
    Stale,
    /// A stop was asked for before it was done.
    Interrupted,
}

/// Wallets that were read at one block.
#[derive(Default)]
struct Refreshed {
    counts: Counts,
    /// Those that could not be read or stored, each with the block at which they were to be.
    unread: BTreeMap<Wallet, u64>,
    /// False if a stop came in between.
    is_complete: bool,
}

/// Follows the chain from the checkpoint on.
pub struct Follower<'a> {
    context: Context<'a>,
    settings: FollowerSettings,
    recent_blocks: RecentBlocks,
    /// The newest block that was seen to be on the chain.
    tip: Option<(u64, B256)>,
    /// The next block whose events are to be looked for.
    next: Option<u64>,
    /// What was read at replaced blocks.
    rereads: Rereads,
    /// Rows that are read again, page by page.
    rows_above: Option<RowsAbove>,
    slice: u64,
}

impl<'a> Follower<'a> {
    /// Resumes from the checkpoint.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn new(context: Context<'a>, settings: FollowerSettings) -> Result<Self, RunError> {
        let last_block = context.journal.last_block(&settings.checkpoint).await?;
        let reads = context.journal.reads(&settings.checkpoint).await?;
        let next = last_block.map(|block| u64::try_from(block.saturating_add(1)).unwrap_or(0));
        let again = reads.orphaned.iter().filter_map(|orphaned| orphaned.from).min();
        let recent_blocks = RecentBlocks::of(reads.on_chain);
        // A block that was remembered before the restart, and bounded where to look, may not have been stored.
        let above = recent_blocks.highest().map(|(number, _)| number.saturating_add(1));
        let bounds = [again, above].into_iter().flatten().min();
        context.observer.notify(&WatchEvent::Active {
            checkpoint: last_block.and_then(|block| u64::try_from(block).ok()),
        });
        Ok(Self {
            context,
            settings,
            recent_blocks,
            tip: None,
            next: next.map(|next| bounds.map_or(next, |bound| bound.min(next))),
            rereads: Rereads::of(reads.orphaned, reads.doubt),
            rows_above: reads.rows_above,
            slice: FIRST_SLICE,
        })
    }

    /// The next block whose events are to be looked for; `None` before the first step of all.
    pub const fn next(&self) -> Option<u64> {
        self.next
    }

    /// Whether blocks that were seen are still to be looked through.
    pub(super) fn is_behind(&self) -> bool {
        self.next.zip(self.tip).is_some_and(|(next, tip)| next <= tip.0)
    }

    /// True if the newest block itself is followed, not one behind it.
    pub(super) const fn follows_newest(&self) -> bool {
        self.settings.confirmations == 0
    }

    /// When there is something to do next even if the chain stands still.
    pub(super) fn next_search(&self) -> Option<tokio::time::Instant> {
        self.rereads.next_search()
    }

    /// The blocks from `from` to `to` were replaced before they were followed; others may have read them.
    ///
    /// # Errors
    /// When the database fails; then it can be repeated.
    pub(super) async fn replaced_unseen(&mut self, from: u64, to: u64) -> Result<(), RunError> {
        self.context.journal.doubt(&self.settings.checkpoint, from, to).await?;
        self.rereads.search(from, to, CLOCKS);
        Ok(())
    }

    /// Follows the chain towards `head`, the newest block, by at most one slice of blocks. Returns how that ended, and
    /// what was stored, if anything was new.
    ///
    /// # Errors
    /// When node or database fail; then the checkpoint has not moved, and the step can be repeated.
    pub async fn step(&mut self, head: &Block) -> Result<(Step, Option<Stored>), RunError> {
        let Some(at) = self.followed(head).await? else { return Ok((Step::Stale, None)) };
        if !self.look_for_fork(&at).await? {
            return Ok((Step::Stale, None));
        }
        let from = match self.next {
            Some(next) => next,
            None => self.begin(&at).await?,
        };
        let moment = self.rereads.moment(at.number);
        self.search(&moment).await?;
        let due = self.rereads.due(&moment);
        let page = self.page_above(at.number).await?;
        if from > at.number && due.is_empty() && page.is_none() {
            return Ok((Step::CaughtUp(at.number), None));
        }
        let began = Instant::now();
        let to = self.end_of_slice(from, &at).await?;
        let affected = match from > to.number {
            true => AffectedWallets::default(),
            false => self.context.source.affected(from, &to, &at).await?,
        };
        let above = page.iter().flatten().map(|(wallet, _)| *wallet);
        let named = affected.wallets.keys().copied().chain(due).chain(above);
        let wallets = self.to_read(named).await?;
        let mut counts = Counts::default();
        let mut coverage = CoverageUpdate {
            events: self.settings.events.clone(),
            unlisted: affected.unlisted,
            unknown: without_row(&affected, &wallets),
            ..CoverageUpdate::default()
        };
        let mut read = BTreeSet::new();
        let mut next = wallets;
        // Again for wallets that got a row meanwhile: whoever stored it may not know of the event.
        loop {
            let refreshed = self.refresh(&next, &affected.wallets, &at).await?;
            add(&mut counts, &refreshed.counts);
            if !refreshed.is_complete {
                return Ok((Step::Interrupted, None));
            }
            coverage.unread.extend(refreshed.unread);
            coverage.unknown.retain(|wallet| !next.contains(wallet));
            read.append(&mut next);
            next = self.advance(&to, &at, &read, &moment, &coverage).await?;
            if next.is_empty() {
                break;
            }
        }
        let read_any = !read.is_empty();
        self.fit_slice(read.len(), began.elapsed(), to.number < at.number);
        self.passed(page, at.number).await?;
        let is_live = from <= to.number && to.number - from < LIVE;
        let stored = Stored {
            from,
            to: to.number,
            logs: affected.logs,
            counts,
            made: (is_live && read_any).then_some(to.timestamp),
        };
        self.context.observer.notify(&WatchEvent::Stored(stored));
        let has_more = to.number < at.number || self.waits_at(at.number);
        let step = if has_more { Step::More } else { Step::CaughtUp(at.number) };
        Ok((step, Some(stored)))
    }

    /// Looks for rows that others read at replaced blocks.
    async fn search(&mut self, moment: &Moment) -> Result<(), RunError> {
        let mut found = Vec::new();
        for rows in self.rereads.to_search(moment) {
            self.context.journal.unconfirm(rows.from, rows.to).await?;
            let read = self.context.journal.rows_read_at(rows.from, rows.to, rows.within).await?;
            found.extend(read);
        }
        self.rereads.found(moment, found);
        Ok(())
    }

    /// Whether rows above a fork can be read again at this block.
    fn waits_at(&self, block: u64) -> bool {
        self.rows_above.as_ref().is_some_and(|pass| pass.wait_for <= block)
    }

    /// The next page of rows above a fork, if they can be read again at this block.
    async fn page_above(&self, block: u64) -> Result<Option<Vec<(Wallet, u64)>>, RunError> {
        let Some(pass) = self.rows_above.as_ref().filter(|_| self.waits_at(block)) else {
            return Ok(None);
        };
        let limit = self.settings.page_size;
        self.context.journal.rows_above(pass.block, pass.after, limit).await.map(Some)
    }

    /// This page of rows above a fork was read again.
    async fn passed(&mut self, page: Option<Vec<(Wallet, u64)>>, at: u64) -> Result<(), RunError> {
        let (Some(page), Some(mut pass)) = (page, self.rows_above.clone()) else { return Ok(()) };
        let is_over = pass.passed(&page, at, page.len() < self.settings.page_size);
        let left = (!is_over).then_some(pass);
        self.context.journal.keep_rows_above(&self.settings.checkpoint, left.as_ref()).await?;
        self.rows_above = left;
        Ok(())
    }

    /// The block to follow up to; `None` while the chain is too short for `--confirmations`.
    async fn followed(&self, head: &Block) -> Result<Option<Block>, RunError> {
        match head.number.checked_sub(self.settings.confirmations) {
            _ if self.settings.confirmations == 0 => Ok(Some(*head)),
            None => Ok(None),
            Some(number) => self.block(number, head.number).await.map(Some),
        }
    }

    /// A block that must exist, as `seen` does, which is not older.
    async fn block(&self, number: u64, seen: u64) -> Result<Block, RunError> {
        let block = self.context.source.block(number, seen).await?;
        block.ok_or_else(|| {
            RunError::node(format!("the node has block {seen}, but not block {number}"))
        })
    }

    /// Without a checkpoint: makes one in front of the first block to follow.
    async fn begin(&mut self, at: &Block) -> Result<u64, RunError> {
        let (last_block, hash) = match self.settings.first_block {
            Some(first) => (first.checked_sub(1), None),
            None => (Some(at.number), Some(at.hash)),
        };
        if let Some(last_block) = last_block {
            let progress = CheckpointUpdate {
                last_block,
                hash,
                forget_below: 0,
                keep: Vec::new(),
                redone: Vec::new(),
                forget: Vec::new(),
                coverage: CoverageUpdate {
                    events: self.settings.events.clone(),
                    ..CoverageUpdate::default()
                },
            };
            self.context.journal.advance(&self.settings.checkpoint, &progress).await?;
            self.context.observer.notify(&WatchEvent::Began(last_block));
        }
        if let Some(hash) = hash {
            self.recent_blocks.add(at.number, hash, []);
        }
        let next = last_block.map_or(0, |block| block + 1);
        self.next = Some(next);
        Ok(next)
    }

    /// The last block of the slice that begins at `from`; `at` where nothing is new.
    async fn end_of_slice(&self, from: u64, at: &Block) -> Result<Block, RunError> {
        match from.saturating_add(self.slice - 1) {
            // A block that may still go, by its number alone, may be of another chain than `at`.
            number if number.saturating_add(DEEPEST_REORG) >= at.number => Ok(*at),
            number => self.block(number, at.number).await,
        }
    }

    /// Fits the next slice to what there was to do in this one.
    fn fit_slice(&mut self, wallets: usize, time: Duration, is_full: bool) {
        if wallets > WALLETS_IN_SLICE || time > TIME_OF_SLICE {
            self.slice = (self.slice / 2).max(1);
        } else if is_full && wallets < WALLETS_IN_SLICE / 4 && time < TIME_OF_SLICE / 4 {
            self.slice = (self.slice * 2).min(LARGEST_SLICE);
        }
    }

    /// Those that are to be read: each once, never the zero address, and with a row if need be.
    async fn to_read(
        &self,
        wallets: impl Iterator<Item = Wallet>,
    ) -> Result<BTreeSet<Wallet>, RunError> {
        let mut wallets: BTreeSet<Wallet> =
            wallets.filter(|wallet| wallet.address() != Address::ZERO).collect();
        if self.settings.track == Track::Known && !wallets.is_empty() {
            let asked: Vec<_> = wallets.iter().copied().collect();
            let known = self.context.journal.known(&asked).await?;
            wallets.retain(|wallet| known.contains(wallet));
        }
        Ok(wallets)
    }

    /// Reads these wallets at `at` and records them.
    async fn refresh(
        &mut self,
        wallets: &BTreeSet<Wallet>,
        events: &BTreeMap<Wallet, u64>,
        at: &Block,
    ) -> Result<Refreshed, RunError> {
        if wallets.is_empty() {
            return Ok(Refreshed { is_complete: true, ..Refreshed::default() });
        }
        let read = self.recent_blocks.add(at.number, at.hash, wallets.iter().copied());
        self.context.journal.begin_reads(&self.settings.checkpoint, &read).await?;
        let reader = PinnedReader { reader: self.context.reader, block: *at };
        let ledger = WithEvents { ledger: self.context.ledger, events };
        let tally = Pipeline {
            reader: &reader,
            ledger: &ledger,
            shutdown: self.context.shutdown,
            progress: &Silent,
            retries: &Retries::default(),
        };
        let pages = pages_of(wallets.iter().copied().collect(), self.settings.page_size);
        let mut unread = BTreeMap::new();
        let note = |_, wallet, outcome: &Outcome| {
            if !matches!(outcome, Outcome::Read(_)) {
                unread.insert(wallet, at.number);
            }
        };
        let run = tally.run(pages, note).await;
        if let Some(failure) = &run.first_failure {
            warn!("{} could not be read: {}", failure.wallet, failure.reason);
        }
        if let Some(refused) = &run.first_refused {
            warn!("{} could not be stored: {}", refused.wallet, refused.reason);
        }
        if let Some(error) = run.error {
            return Err(error);
        }
        let counts = run.counts;
        let done = counts.updated + counts.failed + counts.superseded;
        Ok(Refreshed { counts, unread, is_complete: done == wallets.len() as u64 })
    }

    /// Moves the checkpoint to `to`, whose wallets are stored as of `at`. Returns those without a row that have one by now:
    /// then they are to be read, too, before it moves.
    async fn advance(
        &mut self,
        to: &Block,
        at: &Block,
        wallets: &BTreeSet<Wallet>,
        moment: &Moment,
        coverage: &CoverageUpdate,
    ) -> Result<BTreeSet<Wallet>, RunError> {
        let forget_below = at.number.saturating_sub(DEPTH);
        let complete = to.number == at.number;
        self.recent_blocks.add(to.number, to.hash, []);
        self.recent_blocks.age(forget_below);
        // Until then, a restart has to read the events of the blocks in their place.
        let (mut redone, mut forget) = match complete {
            true => self.rereads.hashes(moment),
            false => Default::default(),
        };
        // A block may come back.
        redone.retain(|hash| !self.recent_blocks.holds(hash));
        forget.retain(|hash| !self.recent_blocks.holds(hash));
        let progress = CheckpointUpdate {
            last_block: to.number,
            hash: Some(to.hash),
            forget_below,
            keep: self.recent_blocks.older_hashes(),
            redone,
            forget,
            coverage: CoverageUpdate {
                settled: complete && moment.is_last && self.rows_above.is_none(),
                ..coverage.clone()
            },
        };
        let appeared = self.context.journal.advance(&self.settings.checkpoint, &progress).await?;
        if !appeared.is_empty() {
            return Ok(appeared.into_iter().collect());
        }
        self.next = self.next.max(Some(to.number + 1));
        self.rereads.read_meanwhile(wallets);
        if complete {
            self.rereads.was_read(moment);
        }
        Ok(BTreeSet::new())
    }
}

/// The wallets with an event that are not read.
fn without_row(affected: &AffectedWallets, read: &BTreeSet<Wallet>) -> BTreeSet<Wallet> {
    let is_unknown = |wallet: &&Wallet| wallet.address() != Address::ZERO && !read.contains(wallet);
    affected.wallets.keys().filter(is_unknown).copied().collect()
}

/// Adds the counts of more wallets.
fn add(counts: &mut Counts, more: &Counts) {
    counts.requested += more.requested;
    counts.updated += more.updated;
    counts.failed += more.failed;
    counts.superseded += more.superseded;
    counts.unchanged += more.unchanged;
    counts.block = counts.block.max(more.block);
}
