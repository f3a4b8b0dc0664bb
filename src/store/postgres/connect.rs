//! Connecting to PostgreSQL: the first host that answers and serves, within a time limit.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::{
    super::error::StoreError,
    url::{Target, TargetSession},
};
use crate::store::Access;

/// The oldest version of the server, as it counts them: the first with `trim_scale`.
const OLDEST: u32 = 130_000;
/// How long one host may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The same where there are others to try.
const NEXT_HOST: Duration = Duration::from_secs(5);

/// Connects to the first host that serves; with none, fails with the error of the first.
pub(super) async fn connect(target: &Target, access: Access) -> Result<PgConnection, StoreError> {
    let default = if target.hosts.len() > 1 { NEXT_HOST } else { CONNECT_TIMEOUT };
    let limit = target.connect_timeout.unwrap_or(default);
    let passes: &[TargetSession] = match target.session {
        TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
        ref session => std::slice::from_ref(session),
    };
    let mut first = None;
    for session in passes {
        for host in &target.hosts {
            match timeout(limit, connect_to(host, *session, access)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => first = first.or(Some(error)),
                Err(_) => first = first.or(Some(StoreError::NoAnswer(limit.as_secs()))),
            }
        }
    }
    Err(first.unwrap_or(StoreError::Sql(sqlx::Error::PoolClosed)))
}

async fn connect_to(
    host: &PgConnectOptions,
    session: TargetSession,
    access: Access,
) -> Result<PgConnection, StoreError> {
    let connected = PgConnection::connect_with(host).await;
    let mut connection = connected.map_err(StoreError::Connect)?;
    match connection.server_version_num() {
        Some(version) if version < OLDEST => {
            return Err(StoreError::ServerTooOld(version / 10_000));
        }
        _ => {}
    }
    if access != Access::Read || session != TargetSession::Any {
        let server = server(&mut connection).await?;
        if let Some(wanted) = server.lacks(session) {
            return Err(StoreError::WrongServer(wanted));
        }
        if access != Access::Read && server.is_read_only {
            return Err(StoreError::ReadOnly);
        }
    }
    Ok(connection)
}

/// What a server is to its sessions.
struct Server {
    is_standby: bool,
    /// It takes no writes: a standby, or set so by its operator.
    is_read_only: bool,
}

impl Server {
    /// What the server should be, if it is not.
    const fn lacks(&self, session: TargetSession) -> Option<&'static str> {
        match session {
            TargetSession::ReadWrite if self.is_read_only => Some("read-write"),
            TargetSession::ReadOnly if !self.is_read_only => Some("read-only"),
            TargetSession::Primary if self.is_standby => Some("primary"),
            TargetSession::Standby if !self.is_standby => Some("standby"),
            _ => None,
        }
    }
}

async fn server(connection: &mut PgConnection) -> Result<Server, StoreError> {
    let sql = "select pg_is_in_recovery()::int::text,
         (pg_is_in_recovery() or current_setting('default_transaction_read_only') = 'on')::int::text";
    let answer = sqlx::raw_sql(sql).fetch_one(connection).await.map_err(StoreError::Connect)?;
    let is = |column: usize| -> Result<bool, StoreError> {
        let text: String = answer.try_get(column).map_err(StoreError::Connect)?;
        Ok(text == "1")
    };
    Ok(Server { is_standby: is(0)?, is_read_only: is(1)? })
}
