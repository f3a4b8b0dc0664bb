//! The store in PostgreSQL: how it connects, binds values, locks and names an error.

mod sql;
mod upgrade;

use std::{str::FromStr, time::Duration};

use anyhow::anyhow;
use async_trait::async_trait;
use sqlx::{
    Connection, Either, PgConnection, PgPool, Postgres,
    migrate::Migrator,
    postgres::{PgAdvisoryLock, PgArguments, PgConnectOptions, PgDatabaseError, PgPoolOptions},
};

use self::sql::{SAMPLE, SQL};
use super::{
    Access, LockKey,
    dialect::{AnyRow, Column, Dialect, Statements, Value},
    error::{StoreError, code, driver_text, unless_stopped},
    schema::{self, MIGRATIONS, TABLES},
    sql_store::SqlStore,
};
use crate::{
    follow::Lock,
    redact,
    tally::{RunError, Shutdown},
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to look for the reason why the pool gives no connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to the database at `url`.
pub(super) async fn open(
    url: &str,
    access: Access,
    shutdown: &Shutdown,
) -> Result<SqlStore<PgDialect>, RunError> {
    // The parser's own error may quote parts of the URL.
    let options = PgConnectOptions::from_str(url)
        .ok()
        .filter(|_| url.contains("://") && !redact::is_ambiguous(url))
        .ok_or_else(|| {
            RunError::settings(
                "--database-url is not a valid postgres:// URL; percent-encode special characters \
                 in user, password and database",
            )
        })?;
    let options = options.application_name("ethtally");
    let dialect = PgDialect { options, access };
    // A pool retries until its time is over, and then does not say why.
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, async {
        PgConnection::connect_with(&dialect.options).await?.close().await
    });
    let connected = unless_stopped(shutdown, &dialect.label(), connecting).await;
    match connected.map_err(|stopped| RunError::Stopped(stopped.to_string()))? {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(dialect.cannot_connect(&error)),
        Err(_) => {
            let error = anyhow!(
                "{}: no answer in {} s; check that the server is up, and the host and port in \
                 --database-url",
                dialect.label(),
                CONNECT_TIMEOUT.as_secs()
            );
            return Err(RunError::Database(error));
        }
    }
    let pool = PgPoolOptions::new().max_connections(5).acquire_timeout(CONNECT_TIMEOUT);
    let pool = pool.connect_lazy_with(dialect.options.clone());
    Ok(SqlStore { dialect, pool, shutdown: shutdown.clone() })
}

/// PostgreSQL.
pub(super) struct PgDialect {
    options: PgConnectOptions,
    access: Access,
}

impl PgDialect {
    fn place(&self) -> String {
        format!("{}:{}", self.options.get_host(), self.options.get_port())
    }

    /// Why there is no connection.
    fn cannot_connect(&self, error: &sqlx::Error) -> RunError {
        let (place, role) = (self.place(), self.options.get_username());
        let answer = server_error(error).map(server_text).unwrap_or_default();
        match code(error).as_deref() {
            Some("3D000") => {
                let name = self.options.get_database().unwrap_or(role);
                RunError::settings(format!(
                    "database {name:?} does not exist on {place}; create it, or check --database-url"
                ))
            }
            Some("28P01") => RunError::settings(format!(
                "wrong password for role {role:?} on {place}, or no such role; check user and \
                 password in --database-url"
            )),
            Some("28000") => RunError::settings(format!(
                "{place} refuses role {role:?}: {answer}; check the user in --database-url and the \
                 server's pg_hba.conf"
            )),
            Some("42501") => RunError::settings(format!(
                "role {role:?} may not connect to the database on {place}: {answer}"
            )),
            Some("53300") => RunError::Database(anyhow!(
                "{}: {answer}; raise max_connections, or run fewer clients at once",
                self.label()
            )),
            Some(_) => RunError::Database(anyhow!("{}: {answer}", self.label())),
            None => RunError::Database(anyhow!(
                "{}: no connection; check that the server is up, and the host and port in \
                 --database-url: {}",
                self.label(),
                driver_text(error)
            )),
        }
    }

    /// What a role lacks, and the statement that grants it.
    fn missing_rights(&self, answer: &str) -> String {
        let role = self.options.get_username();
        let Some(table) = TABLES.iter().find(|table| answer.contains(**table)) else {
            return format!("role {role:?} lacks a right: {answer}");
        };
        let rights = match self.access {
            Access::Read => "select",
            Access::Write => "select, insert, update, delete",
        };
        // Rows of migrations are only read here.
        let may_not = match self.access {
            Access::Write if *table != MIGRATIONS => "write to",
            _ => "read",
        };
        format!(
            "role {role:?} may not {may_not} {table}; run: grant {rights} on {} to {}",
            TABLES.join(", "),
            identifier(role)
        )
    }
}

#[async_trait]
impl Dialect for PgDialect {
    type Database = Postgres;

    const SQL: Statements = SQL;

    async fn execute(
        connection: &mut PgConnection,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> sqlx::Result<u64> {
        let query = sqlx::query_with(sql, arguments(values)?);
        Ok(query.execute(connection).await?.rows_affected())
    }

    async fn fetch<T: AnyRow>(
        connection: &mut PgConnection,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> sqlx::Result<Vec<T>> {
        sqlx::query_as_with(sql, arguments(values)?).fetch_all(connection).await
    }

    async fn sample(connection: &mut PgConnection, count: u32) -> sqlx::Result<Vec<(String,)>> {
        let count = i64::from(count);
        let drawn: Vec<(String,)> =
            Self::fetch(connection, SAMPLE, &[Value::Number(count), Value::Number(4)]).await?;
        if drawn.len() as i64 >= count {
            return Ok(drawn);
        }
        // The table is small, or its pages hold few rows: draw from all of them.
        let pages = Value::Number(i32::MAX.into());
        Self::fetch(connection, SAMPLE, &[Value::Number(count), pages]).await
    }

    fn migrator() -> Migrator {
        schema::postgres()
    }

    async fn migrate(&self, pool: &PgPool, shutdown: &Shutdown) -> Result<Vec<String>, StoreError> {
        let lacking = schema::lacking(&schema::postgres(), &mut *pool.acquire().await?).await?;
        if lacking.is_empty() { Ok(lacking) } else { upgrade::run(&self.options, shutdown).await }
    }

    async fn lock(
        &self,
        pool: &PgPool,
        key: LockKey<'_>,
    ) -> Result<Option<Box<dyn Lock>>, StoreError> {
        let lock = PgAdvisoryLock::new(format!("ethtally {key}"));
        match lock.try_acquire(pool.acquire().await?).await? {
            Either::Left(guard) => {
                // The session holds the lock, so it ends with its connection, however the process
                // ends. The pool would close a connection of its own when it gets old.
                let mut session = guard.leak().detach();
                // If this machine vanishes, the server should notice soon.
                sqlx::query(
                    "select set_config('tcp_keepalives_idle', '5', false),
                         set_config('tcp_keepalives_interval', '3', false),
                         set_config('tcp_keepalives_count', '3', false)",
                )
                .execute(&mut session)
                .await?;
                Ok(Some(Box::new(SessionLock(session))))
            }
            Either::Right(_) => Ok(None),
        }
    }

    fn is_conflict(error: &sqlx::Error) -> bool {
        // deadlock_detected, serialization_failure
        matches!(code(error).as_deref(), Some("40P01" | "40001"))
    }

    fn label(&self) -> String {
        format!("database postgres://{}", self.place())
    }

    async fn describe(&self, error: &sqlx::Error, is_upgrade: bool) -> String {
        if let Some(error) = server_error(error) {
            let answer = server_text(error);
            return match error.code() {
                "42501" if is_upgrade => format!(
                    "role {:?} may not create or change the tables: {answer}; run `ethtally \
                     migrate` as a role that owns the tables and has the right to create tables",
                    self.options.get_username()
                ),
                "42501" => self.missing_rights(&answer),
                "25006" => format!("{answer}; --database-url must name the primary server"),
                _ => answer,
            };
        }
        match error {
            sqlx::Error::PoolTimedOut => {
                let probe = PgConnection::connect_with(&self.options);
                match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
                    Ok(Ok(_)) => "all connections are busy; the server is too slow".to_owned(),
                    Ok(Err(error)) => {
                        let answer = server_error(&error).map(server_text);
                        let cause = answer.unwrap_or_else(|| driver_text(&error));
                        format!("the connection is lost: {cause}")
                    }
                    Err(_) => "the connection is lost, and the server does not answer".to_owned(),
                }
            }
            sqlx::Error::Io(error) => format!("the connection is lost: {error}"),
            error => driver_text(error),
        }
    }
}

/// The values of a statement.
fn arguments(values: &[Value<'_>]) -> sqlx::Result<PgArguments> {
    use sqlx::Arguments;
    let mut arguments = PgArguments::default();
    for value in values {
        match *value {
            Value::Text(text) => arguments.add(text),
            Value::TextOrNull(text) => arguments.add(text),
            Value::Number(number) => arguments.add(number),
            Value::Time(time) => arguments.add(time),
            Value::List(texts) => arguments.add(texts),
            Value::Rows(columns) => columns.iter().try_for_each(|column| match *column {
                Column::Texts(texts) => arguments.add(texts),
                Column::Numbers(numbers) => arguments.add(numbers),
                Column::NumbersOrNull(numbers) => arguments.add(numbers),
            }),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn server_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// The server's answer. Its `Display` would add a line number in the server's source.
fn server_text(error: &PgDatabaseError) -> String {
    let mut text = error.message().to_owned();
    for more in [error.detail(), error.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more.trim_end_matches('.'));
    }
    text
}

/// A name as SQL writes it.
fn identifier(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The session that holds an advisory lock.
struct SessionLock(PgConnection);

#[async_trait]
impl Lock for SessionLock {
    async fn is_held(&mut self) -> bool {
        let ping = tokio::time::timeout(CONNECT_TIMEOUT, self.0.ping());
        matches!(ping.await, Ok(Ok(())))
    }
}
