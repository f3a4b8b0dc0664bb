//! Creates and upgrades the tables while other programs use them.
//!
//! A statement that waits for a lock on a table blocks all that come after it. So a step waits only
//! for a moment, and then retries later: readers continue while a long transaction holds the table.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use backon::{ExponentialBuilder, Retryable};
use tracing::warn;

use super::{
    super::{
        dialect::Purpose,
        error::StoreError,
        parts,
        schema::{self, Migration, POSTGRES},
        session::{Database, Session},
    },
    PgDialect, SessionRow, namespace, session_text,
    sql::{HOLDERS_OF_TABLES, KIND_OF_TABLE},
};

/// How long others then have the table for themselves.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(300))
    .with_max_delay(Duration::from_secs(2))
    .without_max_times();
/// How long to retry; a long report or a backup may take its time.
const PATIENCE: Duration = Duration::from_secs(600);

/// One process at a time, and no long wait for a lock, behind which readers would wait, too. An index may take long
/// to build.
const BEGIN_STEP: &str = "set local lock_timeout = '200ms';
     set local statement_timeout = 0;
     select pg_advisory_xact_lock(7020095870286951500)";

/// The version of the migration that [`BEFORE_READS`] prepares.
const READS: i64 = 2;
/// What the migration of reads adds to a large table of the original, step by step. In one transaction with
/// the index, the column's lock would keep readers out until the index is built.
const BEFORE_READS: [&str; 2] = [
    // An autovacuum gives up its lock once another session has waited for a second. This lock does
    // not affect readers.
    "set local lock_timeout = '5s';
     lock table eth_wallet_balances in share update exclusive mode;
     set local lock_timeout = '200ms';
     alter table eth_wallet_balances add column if not exists read_block bigint",
    // Writers wait while it is built, readers do not.
    "create index if not exists eth_wallet_balances_sweep_idx
     on eth_wallet_balances (updated_at, wallet)",
];

/// What is locked before columns are added.
const LOCK_FOR_COLUMNS: &str = "set local lock_timeout = '5s';
     lock table eth_wallet_balances in share update exclusive mode;
     set local lock_timeout = '200ms';
     lock table eth_wallet_parts in access exclusive mode";

/// The version of the migration whose statements [`VACUUM_OF_PARTITIONS`] replaces.
const VACUUM: i64 = 4;
/// What the migration of vacuum does, for a partitioned table: only its partitions have storage parameters.
const VACUUM_OF_PARTITIONS: &str = "set local lock_timeout = '5s';
     do $$
     declare
         wanted record;
     begin
         for wanted in
             select relid, setting, value
             from (values
                 ('autovacuum_vacuum_scale_factor', '0.05',
                     current_setting('autovacuum_vacuum_scale_factor')::float > 0.05),
                 ('autovacuum_vacuum_cost_limit', '400',
                     coalesce(nullif(current_setting('autovacuum_vacuum_cost_limit'), '-1'),
                         current_setting('vacuum_cost_limit'))::int < 400)
             ) as advised (setting, value, is_better),
             pg_partition_tree('eth_wallet_balances')
             where is_better and isleaf
         loop
             if not exists (
                 select from pg_class, unnest(reloptions) as option
                 where oid = wanted.relid and split_part(option, '=', 1) = wanted.setting)
             then
                 execute format('alter table %s set (%s = %s)', wanted.relid, wanted.setting, wanted.value);
             end if;
         end loop;
     end $$";

/// Applies missing migrations; returns their names. A shutdown ends it between two attempts.
pub(super) async fn run(database: &Database<PgDialect>) -> Result<Vec<String>, StoreError> {
    let dialect = &database.dialect;
    if let Some(schema) = dialect.target.schema.as_deref() {
        namespace::ensure(database, schema, dialect.options().get_username()).await?;
    }
    let lacking = schema::lacking(database, POSTGRES).await?;
    let attempts = Attempts { database, started: Instant::now(), announced: false.into() };
    for migration in &lacking {
        attempts.of(|| apply(database, migration)).await?;
    }
    let mut applied = schema::titles(&lacking);
    if parts::are_lacking(database).await? {
        applied.extend(attempts.of(|| add_columns(database)).await?);
    }
    Ok(applied)
}

/// The attempts of all steps of an upgrade.
struct Attempts<'a> {
    database: &'a Database<PgDialect>,
    started: Instant,
    /// Set once a wait was announced.
    announced: AtomicBool,
}

impl Attempts<'_> {
    /// Tries a step until it is not locked out.
    async fn of<T, F>(&self, step: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let Self { database, started, announced } = self;
        let attempt = || async {
            let tried = step().await;
            if tried.as_ref().is_err_and(is_locked_out) && !announced.swap(true, Relaxed) {
                warn!("waiting to upgrade the tables: {} holds them", holder(database).await);
            }
            tried
        };
        let waking = database.shutdown.clone();
        let done = attempt
            .retry(PAUSES)
            .when(|error| {
                is_locked_out(error)
                    && started.elapsed() < PATIENCE
                    && !database.shutdown.is_requested()
            })
            .sleep(move |pause| {
                let shutdown = waking.clone();
                async move {
                    let _ = tokio::time::timeout(pause, shutdown.requested()).await;
                }
            })
            .await;
        match done {
            Err(error) if is_locked_out(&error) => {
                let by = holder(database).await;
                Err(match database.shutdown.is_requested() {
                    true => StoreError::Stopped(format!("{by} that holds the tables")),
                    false => StoreError::TablesHeld { by, seconds: started.elapsed().as_secs() },
                })
            }
            done => done,
        }
    }
}

/// Adds the columns of parts that are missing. Whoever writes totals has looked up the columns before: it is waited for.
async fn add_columns(database: &Database<PgDialect>) -> Result<Vec<String>, StoreError> {
    let mut session = begin_step(database).await?;
    let added = async {
        session.run(LOCK_FOR_COLUMNS).await?;
        parts::add(&mut session).await
    };
    let added = added.await;
    session.end(added).await.map_err(StoreError::during_upgrade)
}

async fn apply(database: &Database<PgDialect>, migration: &Migration) -> Result<(), StoreError> {
    let kind = kind_of_table(database).await?;
    if migration.version == READS && kind.is_some() {
        for step in BEFORE_READS {
            let mut session = begin_step(database).await?;
            let done = session.run(step).await;
            session.end(done).await.map_err(StoreError::during_upgrade)?;
        }
    }
    let sql = match (migration.version, kind.as_deref()) {
        (VACUUM, Some("p")) => VACUUM_OF_PARTITIONS,
        _ => migration.sql,
    };
    schema::apply(migration, sql, begin_step(database).await?).await
}

async fn begin_step(database: &Database<PgDialect>) -> Result<Session<'_, PgDialect>, StoreError> {
    let mut session = database.begin(Purpose::Write).await?;
    session.run(BEGIN_STEP).await.map_err(StoreError::during_upgrade)?;
    Ok(session)
}

/// What PostgreSQL calls the kind of the table of totals; `None` if there is none yet.
async fn kind_of_table(database: &Database<PgDialect>) -> Result<Option<String>, StoreError> {
    let kind: Vec<(String,)> = database.fetch(Purpose::Read, KIND_OF_TABLE, &[]).await?;
    Ok(kind.into_iter().next().map(|(kind,)| kind))
}

/// The session that has held a lock on one of the tables for longest.
async fn holder(database: &Database<PgDialect>) -> String {
    let holders: Result<Vec<SessionRow>, _> =
        database.fetch(Purpose::Read, HOLDERS_OF_TABLES, &[]).await;
    let oldest = holders.unwrap_or_default().into_iter().next();
    oldest.map_or_else(|| "another session".to_owned(), session_text)
}

/// True if a step waited in vain for a lock, so that a retry may succeed.
fn is_locked_out(error: &StoreError) -> bool {
    // lock_not_available, deadlock_detected
    matches!(error.code().as_deref(), Some("55P03" | "40P01"))
}
