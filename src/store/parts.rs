//! Which columns of parts the table has.
//!
//! Whoever writes a total looks them up in the same transaction: those of its profile get the parts that it read, and all
//! others become null, since what they hold belongs to another total. Adding a column waits for writers that have looked.
//! So no program that knows of these columns leaves parts in a row that do not belong to its total.

use std::collections::BTreeSet;

use sqlx::AssertSqlSafe;

use super::{
    columns::{PartColumn, quoted},
    dialect::{Dialect, Purpose, Value},
    error::StoreError,
    session::{Database, Session},
};

/// The names of `all` columns of parts that the table has, given with what they hold.
///
/// # Errors
/// If one of the `wanted` columns is not among them, or holds another part.
pub(super) fn complete(
    wanted: &[PartColumn],
    all: Vec<(String, String)>,
) -> Result<Vec<String>, StoreError> {
    let lacking = lacking(wanted, &all)?;
    if !lacking.is_empty() {
        let names = lacking.into_iter().map(|column| column.name.clone()).collect();
        return Err(StoreError::ColumnsMissing(names));
    }
    Ok(all.into_iter().map(|(name, _)| name).collect())
}

/// Those of the `wanted` columns that are not among `all`.
fn lacking<'a>(
    wanted: &'a [PartColumn],
    all: &[(String, String)],
) -> Result<Vec<&'a PartColumn>, StoreError> {
    let mut lacking = Vec::new();
    for column in wanted {
        match all.iter().find(|(name, _)| *name == column.name) {
            None => lacking.push(column),
            Some((_, holds)) if *holds == column.holds => {}
            Some((_, holds)) => {
                let PartColumn { name, holds: wanted } = column.clone();
                return Err(StoreError::ColumnOfOtherPart { name, holds: holds.clone(), wanted });
            }
        }
    }
    Ok(lacking)
}

/// Fails unless the table has the columns of the run's profile.
pub(super) async fn require<D: Dialect>(database: &Database<D>) -> Result<(), StoreError> {
    if database.columns.is_empty() {
        return Ok(());
    }
    let all = database.fetch(Purpose::Read, D::SQL.part_columns, &[]).await?;
    complete(&database.columns, all).map(drop)
}

/// True if [`add`] has something to add.
pub(super) async fn are_lacking<D: Dialect>(database: &Database<D>) -> Result<bool, StoreError> {
    match require(database).await {
        Err(StoreError::ColumnsMissing(_)) => Ok(true),
        other => other.map(|()| false),
    }
}

/// Adds missing columns, which takes no rewriting of rows; returns their titles. The caller keeps writers out.
pub(super) async fn add<D: Dialect>(
    session: &mut Session<'_, D>,
) -> Result<Vec<String>, StoreError> {
    let all = session.fetch(D::SQL.part_columns, &[]).await?;
    let lacking = lacking(session.columns(), &all)?;
    let taken: Vec<(String,)> = session.fetch(D::SQL.table_columns, &[]).await?;
    let taken: BTreeSet<_> = taken.into_iter().map(|(name,)| name.to_lowercase()).collect();
    if let Some(column) = lacking.iter().find(|column| taken.contains(&column.name)) {
        return Err(StoreError::ColumnOfOthers(column.name.clone()));
    }
    // One that was dropped is still there.
    let record = "insert into eth_wallet_parts (column_name, holds) values ($1, $2)
         on conflict (column_name) do update set holds = excluded.holds";
    for column in &lacking {
        let (name, kind) = (quoted(&column.name), D::SQL.part_type);
        let add = format!("alter table eth_wallet_balances add column {name} {kind}");
        session.run(AssertSqlSafe(add)).await?;
        let values = [Value::Text(&column.name), Value::Text(&column.holds)];
        session.execute(record, &values).await?;
    }
    Ok(lacking.into_iter().map(|column| format!("column {}", column.name)).collect())
}
