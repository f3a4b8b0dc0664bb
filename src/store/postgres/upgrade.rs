//! How tables are made and upgraded while other programs use them.
//!
//! Whoever waits for a lock on a table makes everybody wait who comes later. So a step waits but
//! for a moment, and gives way if it was in vain: readers go on while a long transaction holds the table.

use std::time::{Duration, Instant};

use anyhow::Context;
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection,
    migrate::{Migrate, Migrator},
    postgres::PgConnectOptions,
};
use tracing::warn;

use super::super::schema;

/// How long a step may wait for a lock, and readers behind it.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);
/// How long readers then have the table for themselves; it grows to the second of these.
const PAUSE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(2));
/// How long it is tried; a long report or a backup may take its time.
const PATIENCE: Duration = Duration::from_secs(600);

/// What `0002 reads` adds to a large table of the original, step by step: in one transaction with the index, the
/// column's lock would keep readers out until that is built.
const BEFORE_READS: [&str; 2] = [
    // An autovacuum gives way to who waits for a second; readers do not mind this lock.
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

/// Applies what is missing; returns the names of what was applied.
pub(super) async fn run(options: &PgConnectOptions) -> anyhow::Result<Vec<String>> {
    let migrator = schema::postgres();
    let started = Instant::now();
    let mut pause = PAUSE.0;
    loop {
        // A session of its own: with it go the lock of migrations and the timeout, whatever happens.
        let mut session = PgConnection::connect_with(options).await?;
        let applied = attempt(&migrator, &mut session).await;
        let _ = session.close().await;
        match applied {
            Err(error) if gave_way(&error) && started.elapsed() < PATIENCE => {
                if pause == PAUSE.0 {
                    warn!(
                        "the tables are to be upgraded, and another session holds them; \
                         waiting until it lets go"
                    );
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            Err(error) if gave_way(&error) => {
                return Err(error.context(format!(
                    "another session has held the tables for {} s; end it (pg_stat_activity shows \
                     long transactions) or try again later",
                    PATIENCE.as_secs()
                )));
            }
            applied => return applied,
        }
    }
}

async fn attempt(migrator: &Migrator, session: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    let timeout = format!("set lock_timeout = {}", LOCK_TIMEOUT.as_millis());
    session.execute(AssertSqlSafe(timeout)).await?;
    // One process at a time; this wait ends with the timeout, too.
    session.lock().await?;
    let lacks_reads =
        schema::lacking(migrator, session).await?.iter().any(|name| name == "0002 reads");
    let table = "select to_regclass('eth_wallet_balances') is not null";
    if lacks_reads && sqlx::query_scalar(table).fetch_one(&mut *session).await? {
        for step in BEFORE_READS {
            session.execute(step).await.context(schema::REFUSED)?;
        }
    }
    schema::apply(migrator, session).await
}

/// Whether a step only waited in vain for a lock, so that it may be tried again.
fn gave_way(error: &anyhow::Error) -> bool {
    let code = |cause: &(dyn std::error::Error + 'static)| {
        let error = cause.downcast_ref::<sqlx::Error>()?.as_database_error()?;
        error.code().map(|code| code.into_owned())
    };
    // lock_not_available, deadlock_detected
    error.chain().filter_map(code).any(|code| matches!(code.as_str(), "55P03" | "40P01"))
}
