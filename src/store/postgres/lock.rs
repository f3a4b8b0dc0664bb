//! Locks between processes, as PostgreSQL's advisory locks.
//!
//! A lock belongs to a transaction that stays open on a connection of its own: so a pooler cannot give the session that
//! holds it to another client, and it ends with the connection, however the process ends. The transaction holds no
//! snapshot, so that it keeps no vacuum from its work. Where the role may have only one connection, the lock belongs
//! to the one session that does all the work.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, Row,
    postgres::{PgAdvisoryLock, PgAdvisoryLockKey, PgRow},
};
use tokio::{sync::Mutex, task::AbortHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        LockKey,
        dialect::{Dialect, Purpose, Value},
        error::{StoreError, driver_text},
        session::Database,
    },
    PgDialect,
    sql::{HOLDS, UNLOCK},
};
use crate::tally::Lock;

/// How often the session is asked whether it still holds the lock, which also keeps it alive.
const PROVE_EVERY: Duration = Duration::from_secs(1);
/// How long the answer may take.
const PROOF: Duration = Duration::from_secs(10);
/// How long giving a lock up may take: it ends with the process anyway.
const RELEASE: Duration = Duration::from_secs(1);
/// How often a connection is tried while the server still counts one that was just closed.
const ATTEMPTS: u32 = 5;
/// The pause between these attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// The number that stands for a lock on the server.
pub(super) fn number(database: &Database<PgDialect>, key: LockKey<'_>) -> i64 {
    let name = match database.dialect.target.schema.as_deref() {
        Some(schema) => format!("ethtally {key} in {schema}"),
        None => format!("ethtally {key}"),
    };
    match PgAdvisoryLock::new(name).key() {
        PgAdvisoryLockKey::BigInt(number) => *number,
        PgAdvisoryLockKey::IntPair(high, low) => i64::from(*high) << 32 | i64::from(*low),
        // sqlx may add kinds, but makes none of them of a name.
        _ => 0,
    }
}

/// Takes a lock; `None` if another session holds it.
pub(super) async fn take(
    database: &Database<PgDialect>,
    key: LockKey<'_>,
) -> Result<Option<Box<dyn Lock>>, StoreError> {
    let number = number(database, key);
    let mut session = connection_for(database).await?;
    let taken = sqlx::raw_sql(AssertSqlSafe(format!(
        "begin;
         set local idle_in_transaction_session_timeout = 0;
         set local statement_timeout = 0;
         set local tcp_keepalives_idle = 5;
         set local tcp_keepalives_interval = 3;
         set local tcp_keepalives_count = 3;
         select set_config(name, '0', true) from pg_settings where name = 'transaction_timeout';
         select pg_try_advisory_xact_lock({number})::int::text"
    )));
    let rows = taken.fetch_all(&mut session).await?;
    if text(rows.last()).as_deref() != Some("1") {
        let _ = session.close().await;
        return Ok(None);
    }
    // A role with one connection would wait for itself.
    match database.connections.acquire(&database.dialect).await {
        Ok(connection) => connection.give_back(),
        Err(error) if error.is_out_of_connections() => {
            return share(database, session, number).await;
        }
        Err(error) => return Err(error),
    }
    let held = Arc::new(Held {
        session: Mutex::new(Some(session)),
        number,
        label: database.dialect.label(),
        lost: CancellationToken::new(),
        reason: OnceLock::new(),
    });
    let keeper = Arc::clone(&held);
    let kept = tokio::spawn(async move {
        while keeper.is_held().await {
            tokio::time::sleep(PROVE_EVERY).await;
        }
    });
    Ok(Some(Box::new(AdvisoryLock { held, keeper: kept.abort_handle() })))
}

/// A connection for the lock alone. If the server refuses one more, those that are idle make room.
async fn connection_for(database: &Database<PgDialect>) -> Result<PgConnection, StoreError> {
    let mut attempt = 0;
    loop {
        match database.dialect.connect().await {
            Err(error) if error.is_out_of_connections() && attempt < ATTEMPTS => {
                attempt += 1;
                database.connections.close_idle().await;
                tokio::time::sleep(PAUSE).await;
            }
            connected => return connected,
        }
    }
}

/// Takes the lock for the session, not for a transaction, and leaves the session to all work as its only one.
async fn share(
    database: &Database<PgDialect>,
    mut session: PgConnection,
    number: i64,
) -> Result<Option<Box<dyn Lock>>, StoreError> {
    let taken = format!("rollback; select pg_try_advisory_lock({number})::int::text");
    let rows = sqlx::raw_sql(AssertSqlSafe(taken)).fetch_all(&mut session).await?;
    if text(rows.last()).as_deref() != Some("1") {
        let _ = session.close().await;
        return Ok(None);
    }
    database.connections.adopt(session);
    Ok(Some(Box::new(SharedLock { database: database.clone(), number })))
}

fn text(row: Option<&PgRow>) -> Option<String> {
    row?.try_get(0).ok()
}

/// A lock, and the task that keeps its session alive.
struct AdvisoryLock {
    held: Arc<Held>,
    keeper: AbortHandle,
}

impl Drop for AdvisoryLock {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

#[async_trait]
impl Lock for AdvisoryLock {
    async fn is_held(&self) -> bool {
        self.held.is_held().await
    }

    async fn lost(&self) -> String {
        self.held.lost.cancelled().await;
        self.held.reason.get().cloned().unwrap_or_default()
    }

    async fn release(&self) {
        self.keeper.abort();
        if let Ok(mut session) = timeout(RELEASE, self.held.session.lock()).await
            && let Some(mut session) = session.take()
        {
            // The server answers once the lock is free. A pooler would close the connection some time later.
            let _ = timeout(RELEASE, sqlx::raw_sql("rollback").execute(&mut session)).await;
            let _ = timeout(RELEASE, session.close()).await;
        }
    }
}

/// The session that holds a lock, until it is lost.
struct Held {
    session: Mutex<Option<PgConnection>>,
    number: i64,
    /// The database, for people.
    label: String,
    lost: CancellationToken,
    reason: OnceLock<String>,
}

impl Held {
    async fn is_held(&self) -> bool {
        let mut session = self.session.lock().await;
        let Some(connection) = session.as_mut() else { return false };
        let proof = sqlx::query_scalar(HOLDS).bind(self.number).persistent(false);
        let reason = match timeout(PROOF, proof.fetch_one(connection)).await {
            Ok(Ok(true)) => return true,
            Ok(Ok(false)) => "the server no longer takes writes".to_owned(),
            Ok(Err(error)) => match error.as_database_error() {
                Some(error) => error.message().to_owned(),
                None => driver_text(&error),
            },
            Err(_) => format!("its session did not answer for {} s", PROOF.as_secs()),
        };
        *session = None;
        let _ = self.reason.set(format!("{}: {reason}", self.label));
        self.lost.cancel();
        false
    }
}

/// A lock of the one session that does all the work.
struct SharedLock {
    database: Database<PgDialect>,
    number: i64,
}

#[async_trait]
impl Lock for SharedLock {
    async fn is_held(&self) -> bool {
        let proof: Result<Vec<(bool,)>, _> =
            self.database.fetch(Purpose::Read, HOLDS, &[Value::Number(self.number)]).await;
        matches!(proof.as_deref(), Ok([(true,)]))
    }

    async fn lost(&self) -> String {
        while self.is_held().await {
            tokio::time::sleep(PROVE_EVERY).await;
        }
        let label = self.database.dialect.label();
        format!("{label}: the only session that the role may have was closed")
    }

    async fn release(&self) {
        let number = [Value::Number(self.number)];
        let released = self.database.fetch::<(bool,)>(Purpose::Read, UNLOCK, &number);
        let _ = timeout(RELEASE, released).await;
    }
}
