//! The one path from wallets to stored totals: select → read → record, all three at once.
//!
//! What was read is stored in batches, each of one block and in one transaction, also when something
//! fails later. Memory is bounded: the faster side waits.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures_util::{Stream, StreamExt, future, stream};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Chunk, Ledger, Outcome, Reader, Reading, Recorded, Retries, RunError, Shutdown, Total,
    TotalRead, Unreadable, Wallet,
};

/// Wallets in one batch, at most: enough that a bulk upsert is at its fastest.
const BATCH: usize = 5_000;
/// Batches that are being stored at once.
const WRITERS: usize = 2;
/// How long what was read may wait for its batch to be full.
const PATIENCE: Duration = Duration::from_secs(1);
/// Wallets in a batch that is worth to be stored, rather than to wait longer than this while the database is idle.
const HALF: usize = BATCH / 2;
const MOMENT: Duration = Duration::from_millis(10);

/// Learns how far a run has come. Implemented by whatever shows a person a bar.
pub trait Progress: Send + Sync {
    /// `read` more wallets are done, `failed` of them could not be read.
    fn wallets(&self, read: u64, failed: u64);
}

/// What a run did, in wallets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Wallets that were taken up; more than the sum of the others when a run ended early.
    pub requested: u64,
    /// Totals written.
    pub updated: u64,
    /// Wallets that could not be read, or whose row the database refuses.
    pub failed: u64,
    /// Totals that were not written because the table holds a newer read.
    pub superseded: u64,
    /// Totals that the table held already, and that were confirmed without a write.
    pub unchanged: u64,
    /// The newest block at which a batch was read.
    pub block: Option<u64>,
}

/// How a run ended: what it did, and the error that ended it early.
#[derive(Debug, Default)]
pub struct RunSummary {
    /// What was done and stored, also when `error` is set.
    pub counts: Counts,
    /// The first wallet that could not be read, except for retries.
    pub first_failure: Option<Unreadable>,
    /// The first wallet whose row the database refuses, except for retries.
    pub first_refused: Option<Unreadable>,
    /// Wallets that needed nothing.
    pub kept: u64,
    /// Why the run could not go on.
    pub error: Option<RunError>,
    /// What failed once a stop had been asked for, when nothing is tried again.
    pub cut_short_by: Option<RunError>,
}

impl RunSummary {
    /// True if wallets failed and all others, too. Retries that fail again do not count as failures.
    pub const fn has_only_failures(&self) -> bool {
        (self.first_failure.is_some() || self.first_refused.is_some())
            && self.counts.updated + self.counts.superseded + self.counts.unchanged + self.kept == 0
    }
}

/// Reads pages of wallets and records what was read.
#[derive(Clone, Copy)]
pub struct Pipeline<'a> {
    /// The node.
    pub reader: &'a dyn Reader,
    /// The database.
    pub ledger: &'a dyn Ledger,
    /// Asks for an early end.
    pub shutdown: &'a Shutdown,
    /// Learns of each chunk.
    pub progress: &'a dyn Progress,
    /// Wallets whose failure decides nothing.
    pub retries: &'a Retries,
}

/// What was read at one block and is stored together.
#[derive(Default)]
struct Batch {
    block: u64,
    requested: u64,
    readings: Vec<Reading>,
    error: Option<RunError>,
    cut_short_by: Option<RunError>,
}

impl Batch {
    /// True if it has nothing to report or store.
    const fn is_empty(&self) -> bool {
        self.requested == 0 && self.error.is_none() && self.cut_short_by.is_none()
    }

    /// Keeps an error of the node. After a shutdown, it may only be a request cut short.
    fn fail(&mut self, error: RunError, shutdown: &Shutdown) {
        let place = if shutdown.is_requested() { &mut self.cut_short_by } else { &mut self.error };
        place.get_or_insert(error);
    }
}

/// Chunks as they come, gathered to batches.
struct Batcher<'a> {
    chunks: mpsc::Receiver<Chunk>,
    batch: Batch,
    /// What did not go into the batch: it is full, or of another block.
    rest: Vec<Chunk>,
    /// When the batch is to be stored, full or not.
    due: Instant,
    pipeline: &'a Pipeline<'a>,
}

impl Batcher<'_> {
    /// The next batch; `None` when all was given.
    async fn next(&mut self) -> Option<Batch> {
        loop {
            while let Some(chunk) = self.rest.pop() {
                if !self.add(chunk) {
                    return Some(std::mem::take(&mut self.batch));
                }
            }
            let is_empty = self.batch.is_empty();
            let next = match is_empty {
                true => Ok(self.chunks.recv().await),
                false => tokio::time::timeout_at(self.due, self.chunks.recv()).await,
            };
            match next {
                Ok(Some(chunk)) => {
                    self.pipeline.show(&chunk);
                    self.rest.push(chunk);
                }
                Ok(None) if is_empty => return None,
                // Over, or overdue.
                Ok(None) | Err(_) => return Some(std::mem::take(&mut self.batch)),
            }
        }
    }

    /// Adds a chunk to the batch; what there is no room for is left for the next one. Whether there
    /// is room for more.
    fn add(&mut self, mut chunk: Chunk) -> bool {
        if let Some(error) = chunk.error.take() {
            self.batch.fail(error, self.pipeline.shutdown);
        }
        if self.batch.requested == 0 {
            self.batch.block = chunk.block;
            self.due = Instant::now() + PATIENCE;
        } else if self.batch.block != chunk.block && chunk.requested > 0 {
            self.rest.push(chunk);
            return false;
        }
        let room = BATCH - self.batch.readings.len();
        let over = chunk.readings.split_off(room.min(chunk.readings.len()));
        // Wallets without a reading count where the last of the chunk does.
        let requested = if over.is_empty() { chunk.requested } else { chunk.readings.len() as u64 };
        self.batch.requested += requested;
        self.batch.readings.append(&mut chunk.readings);
        if self.batch.readings.len() >= HALF {
            self.due = self.due.min(Instant::now() + MOMENT);
        }
        if !over.is_empty() {
            let requested = chunk.requested - requested;
            self.rest.push(Chunk { requested, readings: over, ..chunk });
        }
        self.batch.readings.len() < BATCH
    }
}

impl Pipeline<'_> {
    /// Takes every page of `pages` from the chain into the ledger.
    ///
    /// No two pages may hold the same wallet. `each` sees what became of every wallet, and at which block.
    pub async fn run(
        &self,
        pages: impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send,
        mut each: impl FnMut(u64, Wallet, &Outcome) + Send,
    ) -> RunSummary {
        // Rooms for one each: the next page is selected while the last one is read, and a chunk is
        // read while the last one is stored.
        let (page_sender, page_receiver) = mpsc::channel(1);
        let (chunk_sender, chunk_receiver) = mpsc::channel(1);
        let pages = pages.take_until(self.shutdown.requested());
        let selecting = forward(pages, page_sender);
        let reading = forward(self.reader.read(received(page_receiver).boxed()), chunk_sender);
        let recording = self.record_all(chunk_receiver, &mut each);
        let feeding = async {
            tokio::join!(selecting, reading);
            future::pending().await
        };
        tokio::select! {
            biased;
            run = recording => run,
            run = feeding => run,
        }
    }

    /// Stores what was read, until there is no more or the ledger fails.
    async fn record_all(
        &self,
        chunks: mpsc::Receiver<Chunk>,
        each: &mut (impl FnMut(u64, Wallet, &Outcome) + Send),
    ) -> RunSummary {
        let broken = CancellationToken::new();
        let batcher = Batcher {
            chunks,
            batch: Batch::default(),
            rest: Vec::new(),
            due: Instant::now(),
            pipeline: self,
        };
        let batches =
            stream::unfold(batcher, async |mut batcher| Some((batcher.next().await?, batcher)));
        let written = batches
            .take_until(broken.cancelled())
            .map(|batch| self.record(batch))
            .buffer_unordered(WRITERS);
        let mut written = std::pin::pin!(written);
        let mut run = RunSummary::default();
        while let Some((batch, recorded)) = written.next().await {
            match recorded {
                Ok(recorded) => run.count(batch, recorded, self.retries, each),
                Err(error) => {
                    // What is being stored beside it is waited for, and nothing more is begun.
                    broken.cancel();
                    run.error.get_or_insert(error);
                }
            }
        }
        run
    }

    /// Shows progress.
    fn show(&self, chunk: &Chunk) {
        let failed = chunk.readings.iter().filter(|(_, total)| total.is_err()).count();
        self.progress.wallets(chunk.readings.len() as u64, failed as u64);
    }

    /// Stores a batch; gives it back with what came of it.
    async fn record(&self, batch: Batch) -> (Batch, Result<Recorded, RunError>) {
        let mut totals = Vec::with_capacity(batch.readings.len());
        let mut failures = Vec::new();
        for (wallet, outcome) in &batch.readings {
            match outcome {
                Ok(total) => totals.push(read_at(batch.block, *wallet, total.clone())),
                Err(reason) => {
                    failures.push(Unreadable { wallet: *wallet, reason: reason.clone() });
                }
            }
        }
        let recorded = match batch.readings.is_empty() {
            true => Ok(Recorded::default()),
            false => self.ledger.record(&totals, &failures).await,
        };
        (batch, recorded.map_err(|error| error.context("a batch could not be stored")))
    }
}

impl RunSummary {
    /// Counts a batch that was stored, and shows `each` what became of its wallets.
    fn count(
        &mut self,
        batch: Batch,
        recorded: Recorded,
        retries: &Retries,
        each: &mut impl FnMut(u64, Wallet, &Outcome),
    ) {
        self.error = self.error.take().or(batch.error);
        self.cut_short_by = self.cut_short_by.take().or(batch.cut_short_by);
        self.count_rows(&recorded);
        let counts = &mut self.counts;
        counts.requested += batch.requested;
        if !batch.readings.is_empty() {
            counts.block = counts.block.max(Some(batch.block));
        }
        let refused = recorded.refused.into_iter().map(|refused| (refused.wallet, refused.reason));
        let mut refused: HashMap<_, _> = refused.collect();
        let left: HashSet<_> = recorded.left.into_iter().collect();
        for (wallet, read) in batch.readings {
            let is_retry = retries.take(wallet);
            if left.contains(&wallet) {
                continue;
            }
            let refusal = if refused.is_empty() { None } else { refused.remove(&wallet) };
            let outcome = match (refusal, read) {
                (Some(reason), _) => Outcome::Refused(reason),
                (None, Ok(total)) => Outcome::Read(total),
                (None, Err(reason)) => Outcome::Unreadable(reason),
            };
            each(batch.block, wallet, &outcome);
            let (first, reason) = match outcome {
                Outcome::Read(_) => continue,
                Outcome::Unreadable(reason) => (&mut self.first_failure, reason),
                Outcome::Refused(reason) => (&mut self.first_refused, reason),
            };
            counts.failed += 1;
            if !is_retry {
                first.get_or_insert(Unreadable { wallet, reason });
            }
        }
        self.count_refused(refused.into_iter());
    }

    /// Counts rows that were stored after their batch had been counted.
    pub fn count_later(&mut self, recorded: Recorded) {
        self.count_rows(&recorded);
        let refused = recorded.refused.into_iter();
        self.count_refused(refused.map(|refused| (refused.wallet, refused.reason)));
    }

    fn count_rows(&mut self, recorded: &Recorded) {
        self.counts.updated += recorded.updated;
        self.counts.superseded += recorded.superseded;
        self.counts.unchanged += recorded.unchanged;
    }

    /// Counts wallets that were read in an earlier batch, and whose row the database refuses.
    fn count_refused(&mut self, refused: impl Iterator<Item = (Wallet, String)>) {
        for (wallet, reason) in refused {
            self.counts.failed += 1;
            self.first_refused.get_or_insert(Unreadable { wallet, reason });
        }
    }
}

/// Sends on what comes until nobody takes it.
async fn forward<T>(items: impl Stream<Item = T>, sender: mpsc::Sender<T>) {
    let mut items = std::pin::pin!(items);
    // No item is made before there is room for it: one of them may hold many rows.
    while let Ok(room) = sender.reserve().await
        && let Some(item) = items.next().await
    {
        room.send(item);
    }
}

/// What a channel gives.
fn received<T>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
}

fn read_at(block: u64, wallet: Wallet, total: Total) -> TotalRead {
    TotalRead { wallet, total, read_block: block, event_block: None }
}

/// Splits wallets into pages of `size`.
pub fn pages_of(
    wallets: Vec<Wallet>,
    size: usize,
) -> impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send {
    let pages: Vec<_> = wallets.chunks(size).map(|page| Ok(page.to_vec())).collect();
    stream::iter(pages)
}

#[cfg(test)]
mod tests;
