//! A simulated database: rows, failures, checkpoint and what was read at recent blocks, in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::primitives::{B256, U256};
use async_trait::async_trait;
use ethtally::{
    follow::{BlockReads, CheckpointUpdate, Journal, OrphanedBlock, RecentReads, RowsAbove},
    tally::{Ledger, Recorded, RunError, TotalRead, Unreadable, Wallet},
};
use rand::{RngExt, rngs::StdRng};
use tokio::time::sleep;

use crate::field::Field;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) total: U256,
    pub(crate) read_block: u64,
    pub(crate) event_block: Option<u64>,
    /// When it was written.
    pub(crate) written: Duration,
}

/// What is stored.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) rows: BTreeMap<Wallet, Row>,
    pub(crate) failures: BTreeMap<Wallet, String>,
    pub(crate) last_block: Option<u64>,
    rows_above: Option<RowsAbove>,
    reads: BTreeMap<B256, (BlockReads, Option<Option<u64>>)>,
    /// How often it failed.
    pub(crate) failed: u64,
}

/// How ill it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Illness {
    /// Until when.
    pub(crate) until: Duration,
    /// So many of a hundred statements fail; half of them after they were done.
    pub(crate) percent: u32,
    /// How long a statement takes, at most.
    pub(crate) slowness: Duration,
}

/// The database.
pub(crate) struct Database {
    field: Arc<Field>,
    tables: Mutex<Tables>,
    random: Mutex<StdRng>,
    illness: Illness,
}

impl Database {
    pub(crate) fn new(field: Arc<Field>, random: StdRng, illness: Illness) -> Self {
        Self { field, tables: Mutex::default(), random: Mutex::new(random), illness }
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does this, or fails before or behind it.
    async fn execute<T>(&self, work: impl FnOnce(&mut Tables) -> T + Send) -> Result<T, RunError> {
        let is_ill = self.field.now() < self.illness.until;
        let (wait, before, behind) = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            let slowness = if is_ill { self.illness.slowness } else { Duration::from_millis(5) };
            let wait = slowness.mul_f64(random.random_range(0.01..1.0));
            let strikes = is_ill && random.random_range(0..100) < self.illness.percent;
            let is_behind = random.random_bool(0.5);
            (wait, strikes && !is_behind, strikes && is_behind)
        };
        sleep(wait / 2).await;
        let failure = |tables: &mut Tables| {
            tables.failed += 1;
            self.field.tell("the database fails");
            Err(RunError::Database(anyhow::anyhow!(
                "the connection to the simulated database broke"
            )))
        };
        if before {
            return failure(&mut self.tables());
        }
        let done = work(&mut self.tables());
        sleep(wait / 2).await;
        match behind {
            true => failure(&mut self.tables()),
            false => Ok(done),
        }
    }
}

impl Tables {
    fn row(&mut self, read: &TotalRead, now: Duration) -> bool {
        let TotalRead { read_block, event_block, .. } = *read;
        let row = Row { total: read.total.sum, read_block, event_block, written: now };
        self.failures.remove(&read.wallet);
        let stored = self.rows.entry(read.wallet).or_insert(row);
        let is_newer = read.read_block >= stored.read_block;
        let event_block = stored.event_block.max(read.event_block);
        if is_newer {
            *stored = row;
        }
        stored.event_block = event_block;
        is_newer
    }
}

#[async_trait]
impl Ledger for Database {
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> Result<Recorded, RunError> {
        self.execute(|tables| {
            let now = self.field.now();
            let updated = totals.iter().filter(|read| tables.row(read, now)).count() as u64;
            for Unreadable { wallet, reason } in failures {
                tables.failures.insert(*wallet, reason.clone());
            }
            let blocks: BTreeSet<_> = totals.iter().map(|read| read.read_block).collect();
            self.field.tell(format!(
                "stored {updated} of {} at {blocks:?}, failures {}",
                totals.len(),
                failures.len()
            ));
            let superseded = totals.len() as u64 - updated;
            Recorded { updated, superseded, ..Recorded::default() }
        })
        .await
    }
}

#[async_trait]
impl Journal for Database {
    async fn last_block(&self, _: &str) -> Result<Option<i64>, RunError> {
        self.execute(|tables| tables.last_block.map(|block| block as i64)).await
    }

    async fn reads(&self, _: &str) -> Result<RecentReads, RunError> {
        self.execute(|tables| {
            let rows_above = tables.rows_above.clone();
            let mut reads = RecentReads { rows_above, ..RecentReads::default() };
            for (read, orphaned) in tables.reads.values().cloned() {
                match orphaned {
                    None => reads.on_chain.push(read),
                    Some(from) => reads.orphaned.push(OrphanedBlock { read, from }),
                }
            }
            reads
        })
        .await
    }

    async fn begin_reads(&self, _: &str, read: &BlockReads) -> Result<(), RunError> {
        self.execute(|tables| drop(tables.reads.insert(read.hash, (read.clone(), None)))).await
    }

    async fn orphan(&self, _: &str, blocks: &[BlockReads], from: u64) -> Result<(), RunError> {
        self.execute(|tables| {
            for read in blocks {
                tables.reads.insert(read.hash, (read.clone(), Some(Some(from))));
            }
            self.field.tell(format!("{} blocks are replaced, from {from}", blocks.len()));
        })
        .await
    }

    async fn doubt(&self, _: &str, _: u64, _: u64) -> Result<(), RunError> {
        self.execute(|_| ()).await
    }

    async fn advance(
        &self,
        _: &str,
        progress: &CheckpointUpdate,
    ) -> Result<HashSet<Wallet>, RunError> {
        self.execute(|tables| {
            let unknown = progress.coverage.unknown.iter();
            let appeared: HashSet<_> =
                unknown.filter(|wallet| tables.rows.contains_key(wallet)).copied().collect();
            if !appeared.is_empty() {
                return appeared;
            }
            self.field.tell(format!("checkpoint {}", progress.last_block));
            tables.last_block = tables.last_block.max(Some(progress.last_block));
            if let Some(hash) = progress.hash {
                let (number, wallets) = (progress.last_block, BTreeSet::new());
                let read = BlockReads { number, hash, wallets };
                tables.reads.entry(hash).or_insert((read, None)).1 = None;
            }
            for hash in &progress.redone {
                if let Some((_, orphaned @ Some(_))) = tables.reads.get_mut(hash) {
                    *orphaned = Some(None);
                }
            }
            tables.reads.retain(|hash, (read, _)| {
                read.number >= progress.forget_below && !progress.forget.contains(hash)
            });
            appeared
        })
        .await
    }

    async fn rows_above(
        &self,
        block: u64,
        after: Option<Wallet>,
        limit: usize,
    ) -> Result<Vec<(Wallet, u64)>, RunError> {
        self.execute(|tables| {
            let is_above = |(wallet, row): &(&Wallet, &Row)| {
                row.read_block > block && after.is_none_or(|after| **wallet > after)
            };
            let rows = tables.rows.iter().filter(is_above).take(limit);
            rows.map(|(wallet, row)| (*wallet, row.read_block)).collect()
        })
        .await
    }

    async fn keep_rows_above(&self, _: &str, rows: Option<&RowsAbove>) -> Result<(), RunError> {
        self.execute(|tables| tables.rows_above = rows.cloned()).await
    }

    async fn rows_read_at(
        &self,
        from: u64,
        to: u64,
        within: Duration,
    ) -> Result<Vec<(Wallet, u64)>, RunError> {
        let since = self.field.now().saturating_sub(within);
        self.execute(|tables| {
            let is_due = |(_, row): &(&Wallet, &Row)| {
                (from..=to).contains(&row.read_block) && row.written >= since
            };
            let rows = tables.rows.iter().filter(is_due);
            rows.map(|(wallet, row)| (*wallet, row.read_block)).collect()
        })
        .await
    }

    async fn unconfirm(&self, _: u64, _: u64) -> Result<(), RunError> {
        Ok(())
    }

    async fn known(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError> {
        self.execute(|tables| {
            wallets.iter().filter(|wallet| tables.rows.contains_key(wallet)).copied().collect()
        })
        .await
    }
}
