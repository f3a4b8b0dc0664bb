//! Connecting to PostgreSQL: the first host that answers and serves, within a time limit.

use std::time::Duration;

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::super::error::StoreError;
use crate::store::Access;

/// How long one host may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The same where there are others to try.
const NEXT_HOST: Duration = Duration::from_secs(5);

/// Connects to the first host that serves; with none, fails with the error of the first.
pub(super) async fn connect(
    hosts: &[PgConnectOptions],
    access: Access,
) -> Result<PgConnection, StoreError> {
    let limit = if hosts.len() > 1 { NEXT_HOST } else { CONNECT_TIMEOUT };
    let mut first = None;
    for host in hosts {
        match timeout(limit, connect_to(host, access)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => first = first.or(Some(error)),
            Err(_) => first = first.or(Some(StoreError::NoAnswer(limit.as_secs()))),
        }
    }
    Err(first.unwrap_or(StoreError::Sql(sqlx::Error::PoolClosed)))
}

async fn connect_to(host: &PgConnectOptions, access: Access) -> Result<PgConnection, StoreError> {
    let connected = PgConnection::connect_with(host).await;
    let mut connection = connected.map_err(StoreError::Connect)?;
    if access == Access::Write && is_read_only(&mut connection).await? {
        return Err(StoreError::ReadOnly);
    }
    Ok(connection)
}

/// Whether the server takes no writes: a standby, or set so by its operator.
async fn is_read_only(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let sql = "select (pg_is_in_recovery()
         or current_setting('default_transaction_read_only') = 'on')::int::text";
    let answer = sqlx::raw_sql(sql).fetch_one(connection).await.map_err(StoreError::Connect)?;
    let is_read_only: String = sqlx::Row::try_get(&answer, 0).map_err(StoreError::Connect)?;
    Ok(is_read_only == "1")
}
