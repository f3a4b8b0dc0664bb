//! Stores rows of which the database refuses some: in halves, down to the rows at fault.
//!
//! Only an error about a row is looked into, and only if the same statements succeed without any row. A batch of `n` rows
//! takes fewer than `2 n` attempts. It ends early where halving does not help: if the first [`ENOUGH`] rows are all refused
//! for one reason, or after [`PATIENCE`].

use std::{collections::HashSet, iter, ops::Range, time::Duration};

use anyhow::anyhow;
use async_trait::async_trait;
use tokio::time::Instant;
use tracing::warn;

use super::{
    backend::Backend,
    dialect::{Purpose, Value},
    error::{RowFault, StoreError},
    record::{Rows, write_and_compare},
    rows::{FailureColumns, TotalColumns},
    sql_store::SqlStore,
    standing::Standing,
};
use crate::{
    redact,
    tally::{Ledger, Recorded, RunError, TotalRead, Unreadable, Wallet},
};

/// After so many rows that are refused for one reason, with none stored, the rest of a batch is not tried.
const ENOUGH: usize = 1_000;
/// If so many rows are refused for one reason, and none is stored, the table is at fault and not the rows.
const NO_COINCIDENCE: usize = 10;
/// How long the rows of one batch may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same once a shutdown is requested.
const LAST_SECONDS: Duration = Duration::from_secs(2);

/// What became of rows.
#[derive(Default)]
struct Halves {
    /// How many rows the statements changed.
    changed: u64,
    /// How many rows were accepted, changed or not.
    accepted: usize,
    refused: Vec<(usize, RowFault)>,
    /// Rows that were not tried.
    left: Vec<Range<usize>>,
    /// True if they were left because it took too long.
    is_too_slow: bool,
}

impl Halves {
    /// True if the rows that were refused had one reason, and none was accepted.
    fn refuse_all_alike(&self) -> bool {
        let mut kinds = self.refused.iter().map(|(_, fault)| &fault.kind);
        let first = kinds.next();
        self.accepted == 0 && kinds.all(|kind| Some(kind) == first)
    }
}

#[async_trait]
impl<D: Backend> Ledger for SqlStore<D> {
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> Result<Recorded, RunError> {
        let (totals, failures) = (TotalColumns::of(totals)?, FailureColumns::of(failures));
        match self.record_once(&totals, &failures).await {
            Ok(updated) => {
                let superseded = totals.count() - updated;
                return Ok(Recorded { updated, superseded, ..Recorded::default() });
            }
            Err(error) => {
                let nothing = (TotalColumns::default(), FailureColumns::default());
                self.look_into(error, self.record_once(&nothing.0, &nothing.1)).await?;
            }
        }
        let mut recorded = self.store_in_halves(&Rows::Totals(&totals), failures).await?;
        let not_superseded =
            recorded.updated as usize + recorded.refused.len() + recorded.left.len();
        recorded.superseded = totals.count() - not_superseded as u64;
        Ok(recorded)
    }
}

impl<D: Backend> SqlStore<D> {
    /// Stores placeholders; `updated` is the number of new rows.
    pub(super) async fn insert(&self, keys: &[String]) -> Result<Recorded, RunError> {
        let rows = Rows::Placeholders(keys);
        match self.store_part(&rows, 0..keys.len()).await {
            Ok(updated) => return Ok(Recorded { updated, ..Recorded::default() }),
            Err(error) => self.look_into(error, self.store_part(&rows, 0..0)).await?,
        }
        self.store_in_halves(&rows, FailureColumns::default()).await
    }

    /// Fails with `error` unless halving can help: it is about a row, and `without_rows` succeeds.
    async fn look_into(
        &self,
        error: StoreError,
        without_rows: impl Future<Output = Result<u64, StoreError>> + Send,
    ) -> Result<(), RunError> {
        let is_about_a_row = error.sql().and_then(D::row_fault).is_some();
        match is_about_a_row && without_rows.await.is_ok() {
            true => Ok(()),
            false => Err(self.in_words(error).await),
        }
    }

    /// Writes a batch in one transaction; returns how many totals were not superseded.
    async fn record_once(
        &self,
        totals: &TotalColumns,
        failures: &FailureColumns,
    ) -> Result<u64, StoreError> {
        let record = || async {
            let mut session = self.database.begin(Purpose::Totals).await?;
            let recorded = async {
                let tells = self.database.tells_changes();
                let standing = Standing::look_up(&mut session).await?;
                let written = write_and_compare(totals, &standing, &mut session, tells).await?;
                // Without any row it only shows whether the statements work.
                if !failures.wallets.is_empty() || totals.wallets.is_empty() {
                    let failed = Rows::Failures(failures);
                    failed.write(0..failures.wallets.len(), &mut session, false).await?;
                }
                Ok(written)
            };
            let recorded = recorded.await;
            session.end(recorded).await
        };
        Ok(self.database.committed(self.retry(record).await?))
    }

    /// Writes some of these rows in one transaction; returns how many were changed.
    async fn store_part(&self, rows: &Rows<'_>, part: Range<usize>) -> Result<u64, StoreError> {
        let store = || async {
            let mut session = self.database.begin(Purpose::Totals).await?;
            let tells = self.database.tells_changes();
            let stored = rows.write(part.clone(), &mut session, tells).await;
            session.end(stored).await
        };
        Ok(self.database.committed(self.retry(store).await?))
    }

    /// Stores these rows, except for those that the database refuses, which are recorded beside `failures`.
    ///
    /// # Errors
    /// If the database fails, refuses every row for one reason, or takes too long: what was tried by then is stored.
    async fn store_in_halves(
        &self,
        rows: &Rows<'_>,
        failures: FailureColumns,
    ) -> Result<Recorded, RunError> {
        let halves = self.halves(rows).await?;
        let keys = rows.keys();
        let wallet = |row: usize| keys[row].parse::<Wallet>().ok();
        let refused = halves.refused.iter().filter_map(|(row, fault)| {
            let reason = redact::excerpt(&format!("cannot be stored: {}", fault.text));
            Some(Unreadable { wallet: wallet(*row)?, reason })
        });
        let refused: Vec<_> = refused.collect();
        self.record_failures(failures.with(&refused)).await?;
        if halves.is_too_slow {
            let tried = refused.len() + halves.accepted;
            return Err(self.refuses(rows, &format!("{} of {tried} rows", refused.len())));
        }
        let left = halves.left.into_iter().flatten().filter_map(wallet).collect();
        Ok(Recorded { updated: halves.changed, refused, left, ..Recorded::default() })
    }

    async fn halves(&self, rows: &Rows<'_>) -> Result<Halves, RunError> {
        let (began, mut halves) = (Instant::now(), Halves::default());
        let mut parts: Vec<_> = iter::once(0..rows.keys().len()).collect();
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let fault = match self.store_part(rows, part.clone()).await {
                Ok(changed) => {
                    halves.changed += changed;
                    halves.accepted += part.len();
                    continue;
                }
                Err(error) => match error.sql().and_then(D::row_fault) {
                    Some(fault) => fault,
                    None => return Err(self.in_words(error).await),
                },
            };
            if part.len() == 1 {
                halves.refused.push((part.start, fault));
                if halves.refused.len() == ENOUGH && halves.refuse_all_alike() {
                    if matches!(rows, Rows::Failures(_)) {
                        halves.left = parts;
                        return Ok(halves);
                    }
                    self.check_for_all(rows, &halves).await?;
                }
                continue;
            }
            let middle = part.start + part.len() / 2;
            parts.extend([middle..part.end, part.start..middle]);
            let is_stopped = self.database.shutdown.is_requested();
            if began.elapsed() > if is_stopped { LAST_SECONDS } else { PATIENCE } {
                (halves.left, halves.is_too_slow) = (parts, !is_stopped);
                return Ok(halves);
            }
        }
        self.check_for_all(rows, &halves).await?;
        Ok(halves)
    }

    /// Fails if the table refuses every row. Rows that were refused before, as the record of failures tells, are no
    /// evidence of that.
    async fn check_for_all(&self, rows: &Rows<'_>, halves: &Halves) -> Result<(), RunError> {
        let Some((_, fault)) = halves.refused.first().filter(|_| halves.refuse_all_alike()) else {
            return Ok(());
        };
        if matches!(rows, Rows::Failures(_)) || halves.refused.len() < NO_COINCIDENCE {
            return Ok(());
        }
        let keys: Vec<_> =
            halves.refused.iter().map(|(row, _)| rows.keys()[*row].clone()).collect();
        let known: HashSet<Wallet> =
            self.fetch_wallets(D::SQL.on_record, &[Value::List(&keys)]).await?;
        match keys.len() - known.len() < NO_COINCIDENCE {
            true => Ok(()),
            false => Err(self.refuses(rows, &format!("every row: {}", fault.text))),
        }
    }

    fn refuses(&self, rows: &Rows<'_>, what: &str) -> RunError {
        let (label, table) = (self.database.dialect.label(), rows.table());
        RunError::Database(anyhow!(
            "{label}: {table} refuses {what}; check its triggers and constraints"
        ))
    }

    /// Records failures: those whose reason the database refuses with a simpler one.
    async fn record_failures(&self, failures: FailureColumns) -> Result<(), RunError> {
        const SIMPLER: [fn(&str) -> String; 2] = [ascii, |_| "its reason cannot be stored".into()];
        let (mut open, mut accepted) = (failures, 0);
        let mut halves = self.halves(&Rows::Failures(&open)).await?;
        for simpler in SIMPLER {
            accepted += halves.accepted;
            let refused = halves.refused.iter().map(|(row, _)| *row);
            let rows: Vec<_> = refused.chain(halves.left.into_iter().flatten()).collect();
            open = open.only(&rows, simpler);
            halves = self.halves(&Rows::Failures(&open)).await?;
        }
        if let Some((_, fault)) = halves.refused.first()
            && accepted + halves.accepted == 0
            && halves.refused.len() >= NO_COINCIDENCE
        {
            return Err(self.refuses(&Rows::Failures(&open), &format!("every row: {}", fault.text)));
        }
        let left: usize = halves.left.iter().map(Range::len).sum();
        if left > 0 {
            warn!("the failures of {left} wallets are not on record: it takes too long");
        }
        for (row, fault) in halves.refused {
            warn!("the failure of wallet {} is not on record: {}", open.wallets[row], fault.text);
        }
        Ok(())
    }
}

/// A text without what some encodings lack.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}
