//! The follower on a chain of our own making, with every misfortune at random: reorganisations of any
//! depth and at any moment, failures of node and database, restarts, and a sweep beside it.
//!
//! What must come of it: every row holds what the chain says, and the checkpoint is the head.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Mutex, MutexGuard},
};

use alloy::primitives::{Address, B256, U256};
use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::time::Instant;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;
use crate::tally::{
    Chunk, Ledger, Pages, Reader, Reading, Recorded, RunError, Shutdown, TotalRead, Unreadable,
};

const WALLETS: u8 = 12;

fn wallet(n: u8) -> Wallet {
    Wallet::from(Address::with_last_byte(n))
}

/// A block with its events and the totals after them.
#[derive(Clone)]
struct Made {
    block: Block,
    events: BTreeSet<Wallet>,
    totals: BTreeMap<Wallet, u64>,
}

/// A row as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    total: u64,
    read_block: u64,
    event_block: Option<u64>,
    written: Instant,
}

/// The node and the database, and how ill they are.
struct World {
    random: StdRng,
    chain: Vec<Made>,
    made: u64,
    rows: BTreeMap<Wallet, Row>,
    last_block: Option<i64>,
    reads: BTreeMap<B256, (BlockReads, Option<Option<u64>>)>,
    rows_above: Option<RowsAbove>,
    /// The first block that was followed.
    followed_from: Option<u64>,
    /// The blocks in doubt, and since when.
    doubt: Option<(u64, u64, Instant)>,
    /// How often a row was held to be covered.
    covered: u64,
    /// The first and the last of the blocks that were replaced since that was last announced.
    replaced: Option<(u64, u64)>,
    /// The blocks with logs among those that were replaced, until that is announced.
    removed: Vec<BlockReads>,
    /// How deep reorganisations are, at most.
    deepest: usize,
    /// In so many calls of a hundred: something fails, or the chain changes just then.
    trouble: u32,
    /// What the checkpoint was at its highest.
    highest: Option<i64>,
    /// What happened, to be read when the end is wrong.
    story: Vec<String>,
}

impl World {
    fn new(seed: u64, deepest: usize) -> Self {
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            chain: Vec::new(),
            made: 0,
            rows: BTreeMap::new(),
            last_block: None,
            reads: BTreeMap::new(),
            rows_above: None,
            followed_from: None,
            doubt: None,
            covered: 0,
            replaced: None,
            removed: Vec::new(),
            deepest,
            trouble: 0,
            highest: None,
            story: Vec::new(),
        };
        for _ in 0..70 {
            world.mine(0);
        }
        for n in 1..=WALLETS {
            let read_block = world.head().number;
            let row = Row { total: 0, read_block, event_block: None, written: Instant::now() };
            world.rows.insert(wallet(n), row);
        }
        world
    }

    fn head(&self) -> Block {
        self.chain.last().expect("a chain").block
    }

    fn at(&self, number: u64) -> Option<&Made> {
        self.chain.get(usize::try_from(number).expect("a small number"))
    }

    /// Makes a block in which so many wallets change.
    fn mine(&mut self, events: usize) {
        let affected = (0..events).map(|_| wallet(self.random.random_range(1..=WALLETS))).collect();
        self.mine_with(affected);
    }

    /// Makes a block in which these wallets change.
    fn mine_with(&mut self, affected: BTreeSet<Wallet>) {
        self.made += 1;
        let before = self.chain.last();
        let number = before.map_or(0, |made| made.block.number + 1);
        let parent = before.map_or(B256::ZERO, |made| made.block.hash);
        let mut totals = before.map(|made| made.totals.clone()).unwrap_or_default();
        for wallet in &affected {
            totals.insert(*wallet, self.made * 100 + self.random.random_range(0..100));
        }
        let hash = B256::from(U256::from(self.made));
        let block = Block { number, hash, parent, timestamp: 0, logs_bloom: None };
        self.tell(format!("block {number} #{} touches {}", self.made, names(&affected)));
        self.chain.push(Made { block, events: affected, totals });
    }

    /// Takes the newest blocks away.
    fn remove(&mut self, depth: usize) {
        self.tell(format!("{depth} blocks go"));
        let last = self.head().number;
        let gone = self.chain.split_off(self.chain.len() - depth);
        let with_logs = gone.into_iter().filter(|made| !made.events.is_empty());
        self.removed.extend(with_logs.map(|Made { block, events, .. }| BlockReads {
            number: block.number,
            hash: block.hash,
            wallets: events,
        }));
        let first = self.head().number + 1;
        let (from, to) = self.replaced.unwrap_or((first, last));
        self.replaced = Some((from.min(first), to.max(last)));
    }

    /// Replaces the newest blocks by others, perhaps by fewer.
    fn reorg(&mut self) {
        let depth = self.random.random_range(1..=self.deepest).min(self.chain.len() - 2);
        self.remove(depth);
        let blocks = self.random.random_range(depth.saturating_sub(2).max(1)..=depth + 2);
        for _ in 0..blocks {
            // Few enough that most wallets that changed in the replaced blocks do not change again.
            let events = self.random.random_range(0..blocks.max(2)) < 2;
            self.mine(events.into());
        }
    }

    fn change(&mut self) {
        match self.random.random_range(0..5) {
            0 => self.reorg(),
            // More than are followed one by one.
            1 => {
                for _ in 0..self.random.random_range(2..30) {
                    let events = self.random.random_range(0..2);
                    self.mine(events);
                }
            }
            _ => {
                let events = self.random.random_range(0..4);
                self.mine(events);
            }
        }
    }

    fn doubt(&mut self, from: u64, to: u64) {
        let (first, last, _) = self.doubt.unwrap_or((from, to, Instant::now()));
        self.doubt = Some((first.min(from), last.max(to), Instant::now()));
    }

    /// Panics unless all rows that count as covered are right, once the chain was followed to its head.
    fn assert_covered_rows_are_right(&mut self, seed: u64) {
        let head = self.chain.last().expect("a chain");
        let is_followed = self.last_block == i64::try_from(head.block.number).ok();
        let Some(from) = self.followed_from.filter(|_| is_followed && self.replaced.is_none())
        else {
            return;
        };
        let doubt = self.doubt.map_or(u64::MAX, |(doubt, _, _)| doubt);
        let covered = self.rows.iter().filter(|(_, row)| (from..doubt).contains(&row.read_block));
        for (wallet, row) in covered {
            self.covered += 1;
            let total = head.totals.get(wallet).copied().unwrap_or(0);
            let story = || self.story.join("\n");
            assert_eq!(row.total, total, "seed {seed}: {wallet} {row:?} {doubt}\n{}", story());
        }
    }

    fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    fn strike(&mut self) -> bool {
        self.random.random_range(0..100) < self.trouble
    }

    fn row(&mut self, read: &TotalRead) -> bool {
        let total = read.total.sum.to();
        let (read_block, event_block) = (read.read_block, read.event_block);
        let row = Row { total, read_block, event_block, written: Instant::now() };
        let Some(stored) = self.rows.get_mut(&read.wallet) else {
            self.rows.insert(read.wallet, row);
            return true;
        };
        let newer = read.read_block >= stored.read_block;
        let event_block = stored.event_block.max(read.event_block);
        if newer {
            *stored = row;
        }
        stored.event_block = event_block;
        let what = if newer { "stored" } else { "superseded" };
        self.tell(format!("{what} {} {row:?}", names([&read.wallet])));
        newer
    }
}

/// No deeper than blocks are remembered for; the shortest walk back is as good as the longest.
const SHALLOW: usize = 20;
/// Deeper than blocks are remembered for.
const DEEP: usize = 400;

fn names<'a>(wallets: impl IntoIterator<Item = &'a Wallet>) -> String {
    let last = |wallet: &Wallet| wallet.address().0[19].to_string();
    wallets.into_iter().map(last).collect::<Vec<_>>().join(" ")
}

struct Shared(Mutex<World>);

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no panic under the lock")
    }

    /// A call to the outside: it may fail, and the chain may be another when it comes back.
    fn call(&self) -> Result<MutexGuard<'_, World>, RunError> {
        let mut world = self.world();
        if world.strike() {
            world.change();
        }
        match world.strike() {
            true => Err(RunError::node("it is ill")),
            false => Ok(world),
        }
    }
}

#[async_trait]
impl Source for Shared {
    async fn newest(&self) -> Result<Block, RunError> {
        Ok(self.call()?.head())
    }

    async fn block(&self, number: u64, seen: u64) -> Result<Option<Block>, RunError> {
        let world = self.call()?;
        if world.at(seen).is_none() {
            return Err(RunError::node("header not found"));
        }
        Ok(world.at(number).map(|made| made.block))
    }

    async fn parent(&self, block: &Block) -> Result<Block, RunError> {
        let world = self.call()?;
        let parent = world.chain.iter().find(|made| made.block.hash == block.parent);
        parent.map(|made| made.block).ok_or_else(|| RunError::node("header not found"))
    }

    async fn affected(
        &self,
        from: u64,
        to: &Block,
        _: &Block,
    ) -> Result<AffectedWallets, RunError> {
        let world = self.call()?;
        let mut affected = AffectedWallets::default();
        let blocks: Vec<&Made> = match from == to.number {
            true => world.chain.iter().filter(|made| made.block.hash == to.hash).collect(),
            false => (from..=to.number).filter_map(|number| world.at(number)).collect(),
        };
        if blocks.len() as u64 != to.number - from + 1 {
            return Err(RunError::node("header not found"));
        }
        for made in blocks {
            for wallet in &made.events {
                affected.logs += 1;
                affected.wallets.insert(*wallet, made.block.number);
            }
        }
        Ok(affected)
    }

    fn revive(&self) {}
}

impl Reader for Shared {
    fn read<'a>(&'a self, pages: Pages<'a>) -> BoxStream<'a, Chunk> {
        pages
            .map(|_| Chunk {
                error: Some(RunError::node("watch reads by hash")),
                ..Chunk::default()
            })
            .boxed()
    }

    /// As a node that does not take hashes: what is at that height is read.
    fn read_block<'a>(&'a self, pages: Pages<'a>, block: u64, _: B256) -> BoxStream<'a, Chunk> {
        let read = move |pair: Vec<Wallet>| -> Result<Vec<Reading>, RunError> {
            let world = self.call()?;
            let made = world.at(block).ok_or_else(|| RunError::node("header not found"))?;
            let total = |wallet| made.totals.get(&wallet).copied().unwrap_or(0);
            Ok(pair
                .into_iter()
                .map(|wallet| (wallet, Ok(U256::from(total(wallet)).into())))
                .collect())
        };
        // Two wallets in a call, so that a failure comes in between.
        let pairs = pages.flat_map(|page| {
            let wallets = page.expect("wallets at hand");
            stream::iter(wallets.chunks(2).map(<[Wallet]>::to_vec).collect::<Vec<_>>())
        });
        let chunk = move |pair: Vec<Wallet>| {
            let requested = pair.len() as u64;
            match read(pair) {
                Ok(readings) => Chunk { block, requested, readings, error: None },
                Err(error) => Chunk { block, requested, readings: vec![], error: Some(error) },
            }
        };
        pairs.map(chunk).boxed()
    }
}

#[async_trait]
impl Ledger for Shared {
    async fn record(&self, totals: &[TotalRead], _: &[Unreadable]) -> Result<Recorded, RunError> {
        let mut world = self.call()?;
        let updated = totals.iter().filter(|read| world.row(read)).count() as u64;
        let superseded = totals.len() as u64 - updated;
        Ok(Recorded { updated, superseded, ..Recorded::default() })
    }
}

#[async_trait]
impl Journal for Shared {
    async fn last_block(&self, _: &str) -> Result<Option<i64>, RunError> {
        Ok(self.call()?.last_block)
    }

    async fn reads(&self, _: &str) -> Result<RecentReads, RunError> {
        let world = self.call()?;
        let doubt = world.doubt.map(|(from, to, since)| Doubt { from, to, age: since.elapsed() });
        let rows_above = world.rows_above.clone();
        let mut reads = RecentReads { rows_above, doubt, ..RecentReads::default() };
        for (read, orphaned) in world.reads.values().cloned() {
            match orphaned {
                None => reads.on_chain.push(read),
                Some(from) => reads.orphaned.push(OrphanedBlock { read, from }),
            }
        }
        Ok(reads)
    }

    async fn begin_reads(&self, _: &str, read: &BlockReads) -> Result<(), RunError> {
        let mut world = self.call()?;
        world.reads.insert(read.hash, (read.clone(), None));
        world.tell(format!("at {} are read {}", read.number, names(&read.wallets)));
        Ok(())
    }

    async fn orphan(&self, _: &str, blocks: &[BlockReads], from: u64) -> Result<(), RunError> {
        let mut world = self.call()?;
        for read in blocks {
            world.reads.insert(read.hash, (read.clone(), Some(Some(from))));
        }
        let numbers = || blocks.iter().map(|read| read.number);
        world.doubt(numbers().fold(from, u64::min), numbers().fold(from, u64::max));
        Ok(())
    }

    async fn doubt(&self, _: &str, from: u64, to: u64) -> Result<(), RunError> {
        self.call()?.doubt(from, to);
        Ok(())
    }

    async fn advance(
        &self,
        _: &str,
        progress: &CheckpointUpdate,
    ) -> Result<HashSet<Wallet>, RunError> {
        let mut world = self.call()?;
        world.tell(format!("checkpoint {}", progress.last_block));
        world.followed_from.get_or_insert(progress.last_block);
        if progress.coverage.settled {
            world.doubt = None;
        }
        world.last_block = world.last_block.max(i64::try_from(progress.last_block).ok());
        if let Some(hash) = progress.hash {
            let (number, wallets) = (progress.last_block, BTreeSet::new());
            let read = BlockReads { number, hash, wallets };
            world.reads.entry(hash).or_insert((read, None)).1 = None;
        }
        for hash in &progress.redone {
            if let Some((_, orphaned @ Some(_))) = world.reads.get_mut(hash) {
                *orphaned = Some(None);
            }
        }
        world.reads.retain(|hash, (read, orphaned)| {
            let is_old = read.number < progress.forget_below;
            if is_old && orphaned.is_none() {
                read.wallets.clear();
            }
            (!is_old || progress.keep.contains(hash)) && !progress.forget.contains(hash)
        });
        Ok(HashSet::new())
    }

    async fn rows_above(
        &self,
        block: u64,
        after: Option<Wallet>,
        limit: usize,
    ) -> Result<Vec<(Wallet, u64)>, RunError> {
        let world = self.call()?;
        let is_above = |(wallet, row): &(&Wallet, &Row)| {
            row.read_block > block && after.is_none_or(|after| **wallet > after)
        };
        let rows = world.rows.iter().filter(is_above).take(limit);
        Ok(rows.map(|(wallet, row)| (*wallet, row.read_block)).collect())
    }

    async fn keep_rows_above(&self, _: &str, rows: Option<&RowsAbove>) -> Result<(), RunError> {
        self.call()?.rows_above = rows.cloned();
        Ok(())
    }

    async fn rows_read_at(
        &self,
        from: u64,
        to: u64,
        within: Duration,
    ) -> Result<Vec<(Wallet, u64)>, RunError> {
        let world = self.call()?;
        let is_one = |(_, row): &(&Wallet, &Row)| {
            (from..=to).contains(&row.read_block) && row.written.elapsed() <= within
        };
        let rows = world.rows.iter().filter(is_one);
        Ok(rows.map(|(wallet, row)| (*wallet, row.read_block)).collect())
    }

    async fn unconfirm(&self, _: u64, _: u64) -> Result<(), RunError> {
        Ok(())
    }

    async fn known(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError> {
        let world = self.call()?;
        Ok(wallets.iter().filter(|wallet| world.rows.contains_key(wallet)).copied().collect())
    }
}

struct Deaf;

impl Observer for Deaf {
    fn notify(&self, _: &WatchEvent) {}
}

/// Begins, or begins again.
async fn follower<'a>(shared: &'a Shared, shutdown: &'a Shutdown) -> Follower<'a> {
    let context = Context {
        source: shared,
        reader: shared,
        ledger: shared,
        journal: shared,
        observer: &Deaf,
        shutdown,
    };
    let settings = FollowerSettings {
        checkpoint: "test".into(),
        track: Track::Known,
        confirmations: 0,
        first_block: None,
        page_size: 5,
        events: String::new(),
    };
    loop {
        if let Ok(follower) = Follower::new(context, settings.clone()).await {
            return follower;
        }
    }
}

/// Announces each block, as a WebSocket does, and follows the chain to its head; returns false if a step failed.
async fn catch_up(follower: &mut Follower<'_>, shared: &Shared) -> bool {
    let replaced = shared.world().replaced.take();
    if let Some((from, to)) = replaced
        && follower.replaced_unseen(from, to).await.is_err()
    {
        shared.world().replaced = replaced;
        return false;
    }
    let removed = {
        let mut world = shared.world();
        let mut removed = std::mem::take(&mut world.removed);
        // A connection may break in between.
        removed.retain(|_| world.random.random_range(0..4) > 0);
        removed
    };
    if follower.removed(&removed).await.is_err() {
        shared.world().removed.extend(removed);
        return false;
    }
    let head = shared.world().head();
    loop {
        match follower.step(&head).await {
            Ok((Step::More, _)) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
}

/// What a sweep has read and not stored yet.
fn sweep(world: &World, wallets: &[u8]) -> Vec<TotalRead> {
    let head = world.chain.last().expect("a chain");
    let read = |n: &u8| TotalRead {
        wallet: wallet(*n),
        total: U256::from(head.totals.get(&wallet(*n)).copied().unwrap_or(0)).into(),
        read_block: head.block.number,
        event_block: None,
    };
    wallets.iter().map(read).collect()
}

async fn one_life(seed: u64, with_restarts: bool, deepest: usize) {
    let shared = Shared(Mutex::new(World::new(seed, deepest)));
    let shutdown = Shutdown::default();
    let mut following = follower(&shared, &shutdown).await;
    assert!(catch_up(&mut following, &shared).await);
    if deepest > SHALLOW {
        // Blocks are remembered one by one.
        for block in 0..300 {
            shared.world().mine(usize::from(block % 10 == 0));
            tokio::time::advance(Duration::from_secs(30)).await;
            assert!(catch_up(&mut following, &shared).await);
        }
    }
    let mut swept: Option<(Instant, Vec<TotalRead>)> = None;
    for _ in 0..60 {
        shared.world().trouble = 8;
        let (what, seconds) = {
            let random = &mut shared.world().random;
            (random.random_range(0..10), random.random_range(0..4))
        };
        tokio::time::advance(Duration::from_secs(seconds)).await;
        // It stores no later than that.
        swept = swept.filter(|(when, _)| when.elapsed() < Duration::from_secs(12));
        match what {
            0..4 => shared.world().change(),
            4..8 => {
                let is_done = catch_up(&mut following, &shared).await;
                let mut world = shared.world();
                if is_done {
                    world.assert_covered_rows_are_right(seed);
                }
                // What it reads may be replaced before the follower comes so far.
                if !with_restarts && swept.is_none() {
                    let wallets: Vec<u8> = (1..=WALLETS).collect();
                    let some: Vec<u8> = wallets.sample(&mut world.random, 4).copied().collect();
                    swept = Some((Instant::now(), sweep(&world, &some)));
                }
            }
            8 => {
                let mut world = shared.world();
                for read in swept.take().into_iter().flat_map(|(_, reads)| reads) {
                    world.row(&read);
                }
            }
            _ if with_restarts => {
                shared.world().tell("a new follower".into());
                following = follower(&shared, &shutdown).await;
            }
            _ => {}
        }
        let mut world = shared.world();
        assert!(world.last_block >= world.highest, "seed {seed}: the checkpoint went back");
        world.highest = world.last_block;
    }
    // All is well again, and the chain goes on. A reorganisation may have left it lower than it was.
    shared.world().trouble = 0;
    let highest = shared.world().rows.values().map(|row| row.read_block).max();
    let missing = highest.unwrap_or(0).saturating_sub(shared.world().head().number);
    for _ in 0..30 + missing {
        shared.world().mine(0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(catch_up(&mut following, &shared).await, "seed {seed}");
    }
    let mut world = shared.world();
    world.covered = 0;
    world.assert_covered_rows_are_right(seed);
    assert_eq!(world.covered, world.rows.len() as u64, "seed {seed}: {:?}", world.doubt);
    let head = world.chain.last().expect("a chain");
    assert_eq!(world.last_block, i64::try_from(head.block.number).ok(), "seed {seed}");
    assert_eq!(world.rows_above, None, "seed {seed}");
    for (wallet, row) in &world.rows {
        let total = head.totals.get(wallet).copied().unwrap_or(0);
        assert_eq!(row.total, total, "seed {seed}: {wallet} {row:?}\n{}", world.story.join("\n"));
        let newest = world.chain.iter().filter(|made| made.events.contains(wallet));
        let newest = newest.map(|made| made.block.number).max();
        assert!(
            row.event_block >= newest,
            "seed {seed}: {wallet} {row:?} {newest:?}\n{}",
            world.story.join("\n")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_every_row_is_right_in_the_end() {
    for seed in 0..500 {
        one_life(seed, seed % 2 == 0, SHALLOW).await;
    }
}

#[tokio::test(start_paused = true)]
async fn reorganisations_deeper_than_what_is_remembered_leave_every_row_right() {
    for seed in 0..200 {
        one_life(seed, seed % 2 == 0, DEEP).await;
    }
}

/// A world in which nothing happens by itself, with a follower that has caught up with it in one step.
async fn caught_up_with<'a>(
    shared: &'a Shared,
    shutdown: &'a Shutdown,
    blocks: usize,
) -> Follower<'a> {
    let mut following = follower(shared, shutdown).await;
    assert!(catch_up(&mut following, shared).await);
    (0..blocks).for_each(|_| shared.world().mine(0));
    assert!(catch_up(&mut following, shared).await);
    following
}

/// Which block's event each of these wallets has, and whether its total is the chain's.
fn rows(shared: &Shared, wallets: &[u8]) -> Vec<(Option<u64>, bool)> {
    let world = shared.world();
    let head = world.chain.last().expect("a chain");
    let row = |n: &u8| {
        let row = world.rows[&wallet(*n)];
        (row.event_block, row.total == head.totals.get(&wallet(*n)).copied().unwrap_or(0))
    };
    wallets.iter().map(row).collect()
}

/// The blocks from `from` to `last` go, of which the last had a log; each new one has an event, of one wallet after the
/// other.
fn replace_from(shared: &Shared, from: u64, last: &BlockReads) -> Vec<u8> {
    let mut world = shared.world();
    let depth = world.head().number + 1 - from;
    world.remove(depth as usize);
    world.removed = vec![last.clone()];
    let wallets: Vec<u8> = (2..2 + 4).collect();
    wallets.iter().for_each(|n| world.mine_with([wallet(*n)].into()));
    wallets
}

#[tokio::test(start_paused = true)]
async fn a_removed_log_does_not_decide_where_the_fork_is() {
    for (is_new, blocks) in [(false, 2), (true, 2), (false, 20), (true, 20)] {
        let shared = Shared(Mutex::new(World::new(0, SHALLOW)));
        let shutdown = Shutdown::default();
        let mut following = caught_up_with(&shared, &shutdown, blocks).await;
        // Blocks 2 and 1 before the last of this step are not remembered, and had no logs.
        (0..2).for_each(|_| shared.world().mine(0));
        shared.world().mine_with([wallet(1)].into());
        assert!(catch_up(&mut following, &shared).await);
        let head = shared.world().head();
        let log = BlockReads { number: head.number, hash: head.hash, wallets: [wallet(1)].into() };
        let wallets = replace_from(&shared, head.number - 2, &log);
        following.removed(&[log]).await.unwrap();
        shared.world().removed.clear();
        if is_new {
            following = follower(&shared, &shutdown).await;
        }
        assert!(catch_up(&mut following, &shared).await);
        let expected: Vec<_> = (head.number - 2..).take(4).map(|n| (Some(n), true)).collect();
        assert_eq!(rows(&shared, &wallets), expected, "{is_new} {blocks}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_found_from_a_fork_far_below_the_lowest_remembered_block() {
    for (is_new, logs) in [(false, false), (true, false), (false, true), (true, true)] {
        let shared = Shared(Mutex::new(World::new(0, DEEP)));
        let shutdown = Shutdown::default();
        let mut following = follower(&shared, &shutdown).await;
        (0..300).for_each(|_| shared.world().mine(0));
        // It begins here, and remembers no other block.
        shared.world().mine_with([wallet(1)].into());
        assert!(catch_up(&mut following, &shared).await);
        let head = shared.world().head();
        let log = BlockReads { number: head.number, hash: head.hash, wallets: [wallet(1)].into() };
        // Another row was read at a block that is replaced, long ago.
        let written = Instant::now();
        let read_block = head.number - 1;
        let row = Row { total: 7, read_block, event_block: None, written };
        shared.world().rows.insert(wallet(9), row);
        tokio::time::advance(Duration::from_secs(3 * 3_600)).await;
        let wallets = replace_from(&shared, head.number - 200, &log);
        shared.world().removed.clear();
        if logs {
            following.removed(&[log]).await.unwrap();
        }
        (0..210).for_each(|_| shared.world().mine(0));
        if is_new {
            following = follower(&shared, &shutdown).await;
        }
        assert!(catch_up(&mut following, &shared).await);
        let expected: Vec<_> = (head.number - 200..).take(4).map(|n| (Some(n), true)).collect();
        assert_eq!(rows(&shared, &wallets), expected, "{is_new} {logs}");
        assert_eq!(rows(&shared, &[9]), [(None, true)], "{is_new} {logs}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_follower_looks_through_all_above_the_highest_stored_block() {
    let shared = Shared(Mutex::new(World::new(0, SHALLOW)));
    let shutdown = Shutdown::default();
    let following = caught_up_with(&shared, &shutdown, 10).await;
    let followed = following.next().unwrap() - 1;
    // The step after it was not stored in full, and its last block was found to be replaced.
    {
        let mut world = shared.world();
        (0..4).for_each(|n| world.mine_with([wallet(2 + n)].into()));
        let head = world.head().number;
        world.last_block = i64::try_from(head).ok();
        let read = BlockReads { number: head, hash: B256::ZERO, wallets: BTreeSet::new() };
        world.reads.insert(read.hash, (read, Some(Some(head))));
    }
    let mut following = follower(&shared, &shutdown).await;
    assert_eq!(following.next(), Some(followed + 1));
    assert!(catch_up(&mut following, &shared).await);
    let expected: Vec<_> = (followed + 1..).take(4).map(|n| (Some(n), true)).collect();
    assert_eq!(rows(&shared, &[2, 3, 4, 5]), expected);
}
