//! The one path from wallets to stored totals: page → pinned block → read → record.
//!
//! The next page is read while the last one is stored. What was read is stored even
//! when something fails later.

use alloy::primitives::U256;
use anyhow::Context;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;

use super::{Ledger, Reader, Reading, Stop, TotalRead, Unreadable, Wallet};

/// Pages whose reads may be under way at once: the tail of one and the head of the next.
const PAGES_IN_FLIGHT: usize = 2;

/// Told how far a run has come. Implemented by whatever shows a person a bar.
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
    /// Wallets that could not be read.
    pub failed: u64,
    /// Totals that were not written because the table holds a newer read.
    pub superseded: u64,
    /// The newest block at which a batch was read.
    pub block: Option<u64>,
}

/// How a run ended: what it did, and the error that ended it early.
#[derive(Debug, Default)]
pub struct Run {
    /// What was done and stored, also when `error` is set.
    pub counts: Counts,
    /// The first wallet that could not be read.
    pub first_failure: Option<Unreadable>,
    /// Why the run could not go on.
    pub error: Option<anyhow::Error>,
    /// What failed once a stop had been asked for, when nothing is tried again.
    pub cut_short_by: Option<anyhow::Error>,
}

impl Run {
    /// Whether wallets were asked for and not one of them could be read.
    pub fn read_nothing(&self) -> bool {
        self.counts.failed > 0 && self.counts.updated + self.counts.superseded == 0
    }
}

/// Reads pages of wallets and records what was read.
#[derive(Clone, Copy)]
pub struct Tally<'a> {
    /// The node.
    pub reader: &'a dyn Reader,
    /// The database.
    pub ledger: &'a dyn Ledger,
    /// Asks for an early end.
    pub stop: &'a Stop,
    /// Told of each chunk.
    pub progress: &'a dyn Progress,
}

/// A page that was read at one block.
#[derive(Default)]
struct Batch {
    block: u64,
    requested: u64,
    readings: Vec<Reading>,
    error: Option<anyhow::Error>,
    cut_short_by: Option<anyhow::Error>,
}

impl Batch {
    /// Takes note of an error of the node: after a stop it may be but a request cut short.
    fn fail(&mut self, error: anyhow::Error, stop: &Stop) {
        let place = if stop.is_asked() { &mut self.cut_short_by } else { &mut self.error };
        place.get_or_insert(error);
    }
}

impl Tally<'_> {
    /// Takes every page of `pages` from the chain into the ledger.
    ///
    /// Each page is one batch: pinned to one block, stored in one transaction. A page must not
    /// hold a wallet twice. `each` sees every reading that was stored, with its block.
    pub async fn run(
        &self,
        pages: impl Stream<Item = anyhow::Result<Vec<Wallet>>> + Send,
        mut each: impl FnMut(u64, &Reading) + Send,
    ) -> Run {
        let (sender, mut receiver) = mpsc::channel::<Batch>(1);
        let reading = async {
            let batches = pages
                .take_until(self.stop.asked())
                .map(|page| self.read(page))
                .buffered(PAGES_IN_FLIGHT);
            let mut batches = std::pin::pin!(batches);
            while let Some(batch) = batches.next().await {
                let failed = batch.error.is_some();
                if sender.send(batch).await.is_err() || failed {
                    break;
                }
            }
            drop(sender);
        };
        let recording = async {
            let mut run = Run::default();
            while let Some(batch) = receiver.recv().await {
                if let Err(error) = self.record(&mut run, &batch).await {
                    run.error = Some(error);
                    break;
                }
                for reading in &batch.readings {
                    each(batch.block, reading);
                }
                run.cut_short_by = run.cut_short_by.or(batch.cut_short_by);
                if batch.error.is_some() {
                    run.error = batch.error;
                    break;
                }
            }
            drop(receiver);
            run
        };
        tokio::join!(reading, recording).1
    }

    /// Reads one page; what was read before an error is kept.
    async fn read(&self, page: anyhow::Result<Vec<Wallet>>) -> Batch {
        let mut batch = Batch::default();
        let wallets = match page {
            Ok(wallets) => wallets,
            Err(error) => {
                batch.error = Some(error);
                return batch;
            }
        };
        match self.reader.pin().await {
            Ok(block) => batch.block = block,
            Err(error) => {
                batch.fail(error, self.stop);
                return batch;
            }
        }
        batch.requested = wallets.len() as u64;
        let mut chunks = self.reader.read(wallets, batch.block);
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(readings) => {
                    let failed = readings.iter().filter(|(_, total)| total.is_err()).count();
                    self.progress.wallets(readings.len() as u64, failed as u64);
                    batch.readings.extend(readings);
                }
                Err(error) => batch.fail(error, self.stop),
            }
        }
        batch
    }

    async fn record(&self, run: &mut Run, batch: &Batch) -> anyhow::Result<()> {
        let counts = &mut run.counts;
        counts.requested += batch.requested;
        if batch.readings.is_empty() {
            return Ok(());
        }
        let mut totals = Vec::with_capacity(batch.readings.len());
        let mut failures = Vec::new();
        for (wallet, outcome) in &batch.readings {
            match outcome {
                Ok(total) => totals.push(read_at(batch.block, *wallet, *total)),
                Err(reason) => {
                    failures.push(Unreadable { wallet: *wallet, reason: reason.clone() })
                }
            }
        }
        let recorded =
            self.ledger.record(&totals, &failures).await.context("a batch could not be stored")?;
        counts.failed += failures.len() as u64;
        counts.updated += recorded.updated;
        counts.superseded += recorded.superseded;
        counts.block = counts.block.max(Some(batch.block));
        if run.first_failure.is_none() {
            run.first_failure = failures.into_iter().next();
        }
        Ok(())
    }
}

fn read_at(block: u64, wallet: Wallet, total: U256) -> TotalRead {
    TotalRead { wallet, total, read_block: block, event_block: None }
}

/// Splits wallets at hand into pages of `size`.
pub fn pages_of(
    wallets: Vec<Wallet>,
    size: usize,
) -> impl Stream<Item = anyhow::Result<Vec<Wallet>>> + Send {
    let pages: Vec<_> = wallets.chunks(size).map(|page| Ok(page.to_vec())).collect();
    stream::iter(pages)
}
