//! Stores rows of which the database refuses some: in halves, down to the rows at fault.
//!
//! Only an error about a row is looked into ([`Dialect::row_fault`]), and only if the same statements succeed without
//! any row. A batch of `n` rows takes fewer than `2 n` attempts. It ends early where halving does not help: if the first
//! [`ENOUGH`] rows are all refused for one reason, or after [`PATIENCE`].

use std::{collections::HashSet, ops::Range, time::Duration};

use anyhow::anyhow;
use tokio::time::Instant;
use tracing::warn;

use super::{
    dialect::{Column, Dialect, Purpose, Value},
    error::StoreError,
    rows::{FailureColumns, TotalColumns},
    sql_store::{SqlStore, record_in},
};
use crate::{
    redact,
    tally::{Recorded, RunError, Unreadable, Wallet},
};

/// After so many rows that are refused for one reason, with none stored, the rest of a batch is not tried.
const ENOUGH: usize = 1_000;
/// If so many rows are refused for one reason, and none is stored, the table is at fault and not the rows.
const NO_COINCIDENCE: usize = 10;
/// How long the rows of one batch may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same once a shutdown is requested.
const LAST_SECONDS: Duration = Duration::from_secs(2);

/// Why the database refuses a row.
#[derive(Debug)]
pub(super) struct RowFault {
    /// The same for all rows that are refused for one reason.
    pub(super) kind: String,
    /// What the database says.
    pub(super) text: String,
}

/// Rows of one kind, each of another wallet.
pub(super) enum Rows<'a> {
    Totals(&'a TotalColumns),
    Placeholders(&'a [String]),
    Failures(&'a FailureColumns),
}

/// What became of rows.
#[derive(Default)]
struct Halves {
    /// How many rows the statements changed.
    changed: u64,
    /// How many rows were accepted, changed or not.
    accepted: usize,
    refused: Vec<(usize, RowFault)>,
    left: Vec<Range<usize>>,
}

impl Halves {
    /// True if the rows that were refused had one reason, and none was accepted.
    fn refuse_all_alike(&self) -> bool {
        let mut kinds = self.refused.iter().map(|(_, fault)| &fault.kind);
        let first = kinds.next();
        self.accepted == 0 && kinds.all(|kind| Some(kind) == first)
    }
}

impl Rows<'_> {
    fn table(&self) -> &'static str {
        match self {
            Self::Totals(_) | Self::Placeholders(_) => "eth_wallet_balances",
            Self::Failures(_) => "eth_wallet_read_failures",
        }
    }

    fn keys(&self) -> &[String] {
        match self {
            Self::Totals(totals) => &totals.wallets,
            Self::Placeholders(keys) => keys,
            Self::Failures(failures) => &failures.wallets,
        }
    }
}

impl<D: Dialect> SqlStore<D> {
    /// Stores a batch of which the database refused a row with `error`.
    pub(super) async fn record_in_halves(
        &self,
        totals: &TotalColumns,
        failures: FailureColumns,
        error: StoreError,
    ) -> Result<Recorded, RunError> {
        let nothing = (TotalColumns::default(), FailureColumns::default());
        if self.record_once(&nothing.0, &nothing.1).await.is_err() {
            return Err(self.in_words(error).await);
        }
        let mut recorded = self.store_in_halves(&Rows::Totals(totals)).await?;
        let stored = totals.count() - recorded.refused.len() as u64 - recorded.left.len() as u64;
        recorded.superseded = stored - recorded.updated;
        self.record_failures(failures.with(&recorded.refused)).await?;
        Ok(recorded)
    }

    /// Stores placeholders of which the database refused one with `error`.
    pub(super) async fn insert_in_halves(
        &self,
        keys: &[String],
        error: StoreError,
    ) -> Result<Recorded, RunError> {
        if self.store_part(&Rows::Placeholders(keys), 0..0).await.is_err() {
            return Err(self.in_words(error).await);
        }
        let recorded = self.store_in_halves(&Rows::Placeholders(keys)).await?;
        self.record_failures(FailureColumns::default().with(&recorded.refused)).await?;
        Ok(recorded)
    }

    /// Stores these rows, except for those that the database refuses.
    ///
    /// # Errors
    /// If the database fails, or refuses every row for one reason.
    async fn store_in_halves(&self, rows: &Rows<'_>) -> Result<Recorded, RunError> {
        let halves = self.halves(rows).await?;
        let keys = rows.keys();
        let wallet = |row: usize| keys[row].parse::<Wallet>().ok();
        let refused = halves.refused.iter().filter_map(|(row, fault)| {
            let reason = redact::excerpt(&format!("cannot be stored: {}", fault.text));
            Some(Unreadable { wallet: wallet(*row)?, reason })
        });
        Ok(Recorded {
            updated: halves.changed,
            superseded: 0,
            refused: refused.collect(),
            left: halves.left.iter().cloned().flatten().filter_map(wallet).collect(),
        })
    }

    async fn halves(&self, rows: &Rows<'_>) -> Result<Halves, RunError> {
        let (began, mut halves) = (Instant::now(), Halves::default());
        let mut parts = vec![0..rows.keys().len()];
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
            let is_over = began.elapsed() > PATIENCE;
            if is_over || self.shutdown.is_requested() && began.elapsed() > LAST_SECONDS {
                halves.left = parts;
                if is_over && !self.shutdown.is_requested() {
                    let (refused, tried) = (halves.refused.len(), halves.accepted);
                    let what = format!("{refused} of {} rows", refused + tried);
                    return Err(self.refuses(rows, &what));
                }
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
        let (label, table) = (self.dialect.label(), rows.table());
        RunError::Database(anyhow!(
            "{label}: {table} refuses {what}; check its triggers and constraints"
        ))
    }

    /// Stores some of these rows in one transaction; returns how many were changed.
    pub(super) async fn store_part(
        &self,
        rows: &Rows<'_>,
        part: Range<usize>,
    ) -> Result<u64, StoreError> {
        let stored = || async {
            let mut session = self.begin(Purpose::Write).await?;
            let stored = match rows {
                Rows::Totals(totals) => {
                    let part = totals.part(part.clone());
                    record_in(&mut session, &part, &FailureColumns::default()).await
                }
                Rows::Placeholders(keys) => {
                    let values = [Value::List(&keys[part.clone()])];
                    session.execute(D::SQL.insert_placeholders, &values).await
                }
                Rows::Failures(failures) => {
                    let columns = [
                        Column::Texts(&failures.wallets[part.clone()]),
                        Column::Texts(&failures.reasons[part.clone()]),
                    ];
                    session.execute(D::SQL.record_failures, &[Value::Rows(&columns)]).await
                }
            };
            session.end(stored).await
        };
        self.retry(stored).await
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
        let Some((_, fault)) = halves.refused.first() else { return Ok(()) };
        if accepted + halves.accepted == 0 && halves.refused.len() >= NO_COINCIDENCE {
            return Err(self.refuses(&Rows::Failures(&open), &format!("every row: {}", fault.text)));
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
