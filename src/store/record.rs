//! How totals, placeholders and failures are written, in one transaction.

use std::{collections::HashMap, ops::Range};

use super::{
    Row,
    changes::WithChanges,
    coverage::{early_reads, uncover},
    dialect::{Column, Dialect, Value},
    error::StoreError,
    rows::{FailureColumns, RawRow, TotalColumns},
    session::Session,
    standing::Standing,
};
use crate::tally::{Change, Wallet};

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

    /// Writes some of them; returns how many rows were changed, and if `tells` which totals.
    pub(super) async fn write<D: Dialect>(
        &self,
        part: Range<usize>,
        session: &mut Session<'_, D>,
        tells: bool,
    ) -> Result<WithChanges<u64>, StoreError> {
        let changed = match self {
            Self::Totals(totals) => {
                let standing = Standing::look_up(session).await?;
                return write_and_compare(&totals.part(part), &standing, session, tells).await;
            }
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
        };
        Ok((changed?, Vec::new()))
    }
}

/// Writes totals with their parts, and takes their wallets off the record of failures; returns how many were not superseded.
async fn write_totals<D: Dialect>(
    totals: &TotalColumns,
    standing: &Standing,
    session: &mut Session<'_, D>,
) -> Result<u64, StoreError> {
    let wallets = Column::Texts(&totals.wallets);
    let event_blocks = Column::NumbersOrNull(&totals.event_blocks);
    let mut rows = vec![
        wallets,
        Column::Texts(&totals.totals),
        Column::Numbers(&totals.read_blocks),
        event_blocks,
    ];
    let early = early_reads(&totals.wallets, &totals.read_blocks, standing, session).await?;
    let columns = session.columns();
    let condition = |text| standing.may_supersede(&totals.read_blocks).then_some(text);
    let sql = D::SQL.record_totals.writing(
        columns,
        &standing.columns,
        D::SQL.part_value,
        condition(D::SQL.if_not_confirmed_since),
    );
    rows.extend(totals.parts.iter().map(|part| Column::TextsOrNull(part)));
    // A part that was not read is null.
    let lacks_parts = totals.parts.len() < columns.len();
    let unread = vec![None; if lacks_parts { totals.wallets.len() } else { 0 }];
    rows.resize(4 + columns.len(), Column::TextsOrNull(&unread));
    let updated = session.execute(sql, &[Value::Rows(&rows)]).await?;
    if totals.has_events() && updated < totals.count() {
        // A newer read does not undo the event.
        let rows = [wallets, event_blocks];
        session.execute(D::SQL.raise_event_blocks, &[Value::Rows(&rows)]).await?;
    }
    let sql = D::SQL.forget_failures.under(condition(D::SQL.if_not_superseded));
    session.execute(sql, &[Value::List(&totals.wallets)]).await?;
    uncover(&early, session).await?;
    Ok(updated)
}

/// Writes totals, and returns with how many were not superseded which of them changed, if `tells`.
pub(super) async fn write_and_compare<D: Dialect>(
    totals: &TotalColumns,
    standing: &Standing,
    session: &mut Session<'_, D>,
    tells: bool,
) -> Result<WithChanges<u64>, StoreError> {
    if !tells || totals.wallets.is_empty() {
        return Ok((write_totals(totals, standing, session).await?, Vec::new()));
    }
    let before: HashMap<Wallet, Row> = rows(totals, session).await?.collect();
    let updated = write_totals(totals, standing, session).await?;
    let change = |(wallet, row): (Wallet, Row)| {
        let old = before.get(&wallet).filter(|row| !row.is_placeholder());
        let old = old.map(|row| row.total.clone());
        let is_same = old.as_ref() == Some(&row.total);
        let block = row.read_at().filter(|_| !is_same)?;
        Some(Change { wallet, old, new: row.total.parse().ok()?, block })
    };
    let mut changes: Vec<_> = rows(totals, session).await?.filter_map(change).collect();
    changes.sort_unstable_by_key(|change| change.wallet);
    Ok((updated, changes))
}

async fn rows<D: Dialect>(
    totals: &TotalColumns,
    session: &mut Session<'_, D>,
) -> Result<impl Iterator<Item = (Wallet, Row)>, StoreError> {
    // A change is one of the total.
    let sql = D::SQL.rows.returning(&[]);
    let rows: Vec<RawRow> = session.fetch(sql, &[Value::List(&totals.wallets)]).await?;
    Ok(rows.into_iter().filter_map(|row| Row::of(row, &[])).map(|row| (row.wallet, row)))
}
