//! How totals, placeholders and failures are written, in one transaction.

use std::ops::Range;

use super::{
    dialect::{Column, Dialect, Value},
    error::StoreError,
    rows::{FailureColumns, TotalColumns},
    session::Session,
};

/// Rows of one kind.
pub(super) enum Rows<'a> {
    Totals(&'a TotalColumns),
    Placeholders(&'a [String]),
    Failures(&'a FailureColumns),
}

impl Rows<'_> {
    /// Where they belong.
    pub(super) const fn table(&self) -> &'static str {
        match self {
            Self::Totals(_) | Self::Placeholders(_) => "eth_wallet_balances",
            Self::Failures(_) => "eth_wallet_read_failures",
        }
    }

    /// Their wallets.
    pub(super) fn keys(&self) -> &[String] {
        match self {
            Self::Totals(totals) => &totals.wallets,
            Self::Placeholders(keys) => keys,
            Self::Failures(failures) => &failures.wallets,
        }
    }

    /// Writes some of them; returns how many rows were changed.
    pub(super) async fn write<D: Dialect>(
        &self,
        part: Range<usize>,
        session: &mut Session<'_, D>,
    ) -> Result<u64, StoreError> {
        match self {
            Self::Totals(totals) => write_totals(&totals.part(part), session).await,
            Self::Placeholders(keys) => {
                session.execute(D::SQL.insert_placeholders, &[Value::List(&keys[part])]).await
            }
            Self::Failures(failures) => {
                let columns = [
                    Column::Texts(&failures.wallets[part.clone()]),
                    Column::Texts(&failures.reasons[part]),
                ];
                session.execute(D::SQL.record_failures, &[Value::Rows(&columns)]).await
            }
        }
    }
}

/// Writes totals, and takes the wallets that it wrote off the record of failures; returns how many were not superseded.
pub(super) async fn write_totals<D: Dialect>(
    totals: &TotalColumns,
    session: &mut Session<'_, D>,
) -> Result<u64, StoreError> {
    let wallets = Column::Texts(&totals.wallets);
    let event_blocks = Column::NumbersOrNull(&totals.event_blocks);
    let rows = [
        wallets,
        Column::Texts(&totals.totals),
        Column::Numbers(&totals.read_blocks),
        event_blocks,
    ];
    let updated = session.execute(D::SQL.record_totals, &[Value::Rows(&rows)]).await?;
    if totals.has_events() && updated < totals.count() {
        // A newer read does not undo the event.
        let rows = [wallets, event_blocks];
        session.execute(D::SQL.raise_event_blocks, &[Value::Rows(&rows)]).await?;
    }
    let read = [wallets, Column::Numbers(&totals.read_blocks)];
    session.execute(D::SQL.forget_failures, &[Value::Rows(&read)]).await?;
    Ok(updated)
}
