//! Creates and upgrades the tables while other programs use them.
//!
//! A statement that waits for a lock on a table blocks all that come after it. So a step waits only
//! for a moment, and then retries later: readers continue while a long transaction holds the table.

use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection,
    migrate::{Migrate, MigrateError},
    postgres::PgConnectOptions,
};
use tracing::warn;

use super::super::{error::StoreError, schema};
use crate::tally::Shutdown;

/// How long a step may wait for a lock, and readers behind it.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);
/// How long others then have the table for themselves.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(300))
    .with_max_delay(Duration::from_secs(2))
    .without_max_times();
/// How long to retry; a long report or a backup may take its time.
const PATIENCE: Duration = Duration::from_secs(600);

/// What `0002 reads` adds to a large table of the original, step by step. In one transaction with
/// the index, the column's lock would keep readers out until the index is built.
const BEFORE_READS: [&str; 2] = [
    // An autovacuum gives up its lock once another session has waited for a second. This lock does
    // not affect readers.
    "begin;
     set local lock_timeout = '5s';
     lock table eth_wallet_balances in share update exclusive mode;
     set local lock_timeout = '200ms';
     alter table eth_wallet_balances add column if not exists read_block bigint;
     commit",
    // Writers wait while it is built, readers do not.
    "create index if not exists eth_wallet_balances_sweep_idx
     on eth_wallet_balances (updated_at, wallet)",
];

/// Applies missing migrations; returns their names. A shutdown ends it between two attempts.
pub(super) async fn run(
    options: &PgConnectOptions,
    shutdown: &Shutdown,
) -> Result<Vec<String>, StoreError> {
    let (started, waking) = (Instant::now(), shutdown.clone());
    let mut is_first = true;
    let applied = (|| attempt(options))
        .retry(PAUSES)
        .when(|error| {
            is_locked_out(error) && started.elapsed() < PATIENCE && !shutdown.is_requested()
        })
        .notify(|_, _| {
            if std::mem::take(&mut is_first) {
                warn!("waiting to upgrade the tables: another session holds them");
            }
        })
        .sleep(move |pause| {
            let shutdown = waking.clone();
            async move {
                let _ = tokio::time::timeout(pause, shutdown.requested()).await;
            }
        })
        .await;
    match applied {
        Err(error) if is_locked_out(&error) => Err(match shutdown.is_requested() {
            true => StoreError::Stopped("another session that holds the tables".to_owned()),
            false => StoreError::TablesHeld(started.elapsed().as_secs()),
        }),
        applied => applied,
    }
}

async fn attempt(options: &PgConnectOptions) -> Result<Vec<String>, StoreError> {
    // A session of its own: the lock of migrations and the timeout end with it, whatever happens.
    let mut session = PgConnection::connect_with(options).await?;
    let applied = upgrade(&mut session).await;
    let _ = session.close().await;
    applied
}

async fn upgrade(session: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let migrator = schema::postgres();
    let timeout = format!("set lock_timeout = {}", LOCK_TIMEOUT.as_millis());
    session.execute(AssertSqlSafe(timeout)).await?;
    // One process at a time; the timeout ends this wait, too.
    session.lock().await.map_err(StoreError::Upgrade)?;
    let lacks_reads =
        schema::lacking(&migrator, session).await?.iter().any(|name| name == "0002 reads");
    let table = "select to_regclass('eth_wallet_balances') is not null";
    if lacks_reads && sqlx::query_scalar(table).fetch_one(&mut *session).await? {
        for step in BEFORE_READS {
            let executed = session.execute(step).await;
            executed.map_err(|error| StoreError::Upgrade(MigrateError::Execute(error)))?;
        }
    }
    schema::apply(&migrator, session).await
}

/// True if a step waited in vain for a lock, so that a retry may succeed.
fn is_locked_out(error: &StoreError) -> bool {
    // lock_not_available, deadlock_detected
    matches!(error.code().as_deref(), Some("55P03" | "40P01"))
}
