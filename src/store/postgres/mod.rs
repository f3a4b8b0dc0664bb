//! The store in PostgreSQL: how it begins a transaction, binds values and names an error.

mod backend;
mod connect;
mod faults;
mod lock;
mod sql;
mod upgrade;

use std::{str::FromStr, time::Duration};

use anyhow::anyhow;
use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, PgConnection, Postgres, Row,
    postgres::{PgArguments, PgConnectOptions},
};
use tokio::time::timeout;

use self::{
    faults::{server_error, server_text},
    sql::{BY_INDEX, LIMIT_WAITS, LOOK, SQL},
};
use super::{
    Access,
    dialect::{AnyRow, Column, Dialect, Look, Purpose, SessionId, Statements, Value},
    error::{RowFault, StoreError, code, driver_text, unless_stopped},
    schema::{MIGRATIONS, TABLES},
    session::Database,
    sql_store::SqlStore,
};
use crate::{
    redact,
    tally::{RunError, Shutdown},
};

/// How long a second connection may take to say what another one waits for.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

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
    let options = options
        .application_name("ethtally")
        // A pooler knows neither our named statements nor this parameter.
        .statement_cache_capacity(0)
        .extra_float_digits(None);
    let dialect = PgDialect { hosts: vec![options], access, schema: None };
    let store = SqlStore { database: Database::new(dialect, shutdown) };
    let Database { dialect, connections, .. } = &store.database;
    let connecting = unless_stopped(shutdown, &dialect.label(), connections.acquire(dialect)).await;
    match connecting.and_then(|connected| connected) {
        Ok(connection) => connection.give_back(),
        Err(error) => return Err(store.in_words(error).await),
    }
    Ok(store)
}

/// PostgreSQL.
pub(super) struct PgDialect {
    /// Tried in this order.
    hosts: Vec<PgConnectOptions>,
    access: Access,
    /// Where the tables are, if not where the role's search path leads.
    schema: Option<String>,
}

impl PgDialect {
    /// The first host, which stands for all of them.
    fn options(&self) -> &PgConnectOptions {
        &self.hosts[0]
    }

    fn place(&self) -> String {
        format!("{}:{}", self.options().get_host(), self.options().get_port())
    }

    /// What a role lacks, and the statement that grants it.
    fn missing_rights(&self, answer: &str) -> String {
        let role = self.options().get_username();
        let Some(table) = TABLES.iter().find(|table| answer.contains(**table)) else {
            return format!("role {role:?} lacks a right: {answer}");
        };
        let rights = match self.access {
            Access::Read => "select",
            Access::Update | Access::Write => "select, insert, update, delete",
        };
        // Rows of migrations are only read here.
        let may_not = match self.access {
            Access::Update | Access::Write if *table != MIGRATIONS => "write to",
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

    // A pooler may keep it waiting for a server connection.
    const BEGIN_LIMIT: Duration = Duration::from_secs(10);

    const SQL: Statements = SQL;

    async fn execute(
        connection: &mut PgConnection,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> sqlx::Result<u64> {
        // A named statement would stay with a pooler's server connection, where another client may meet it.
        let query = sqlx::query_with(sql, arguments(values)?).persistent(false);
        Ok(query.execute(connection).await?.rows_affected())
    }

    async fn fetch<T: AnyRow>(
        connection: &mut PgConnection,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> sqlx::Result<Vec<T>> {
        let query = sqlx::query_as_with(sql, arguments(values)?).persistent(false);
        query.fetch_all(connection).await
    }

    async fn run(connection: &mut PgConnection, sql: &'static str) -> sqlx::Result<()> {
        sqlx::raw_sql(sql).execute(connection).await.map(drop)
    }

    async fn connect(&self) -> Result<PgConnection, StoreError> {
        connect::connect(&self.hosts, self.access).await
    }

    async fn begin(
        &self,
        connection: &mut PgConnection,
        purpose: Purpose,
    ) -> sqlx::Result<Option<SessionId>> {
        let by_index = if purpose == Purpose::ByIndex { BY_INDEX } else { "" };
        let schema = self.schema.as_deref().map_or_else(String::new, |schema| {
            format!("set local search_path = {}", identifier(schema))
        });
        let begin = format!(
            "begin; {schema}; {by_index}; {LIMIT_WAITS}; select pg_backend_pid()::text as session"
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(begin)).fetch_all(connection).await?;
        let session: Option<String> = rows.last().and_then(|row| row.try_get("session").ok());
        Ok(session.and_then(|session| session.parse().ok()))
    }

    async fn look(&self, id: Option<SessionId>) -> Look {
        let Some(id) = id else { return Look::Unknown };
        let looked = async {
            let mut connection = match timeout(LOOK_TIMEOUT, self.connect()).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) if error.is_out_of_connections() => return None,
                Ok(Err(_)) | Err(_) => return Some(Look::Missing),
            };
            let query = sqlx::query_as(LOOK).bind(id).persistent(false);
            let seen: Vec<Seen> =
                timeout(LOOK_TIMEOUT, query.fetch_all(&mut connection)).await.ok()?.ok()?;
            Some(look_of(seen))
        };
        looked.await.unwrap_or(Look::Unknown)
    }

    fn is_conflict(error: &StoreError) -> bool {
        // deadlock_detected, serialization_failure
        matches!(error.code().as_deref(), Some("40P01" | "40001"))
    }

    fn row_fault(error: &sqlx::Error) -> Option<RowFault> {
        faults::row_fault(error)
    }

    fn label(&self) -> String {
        format!("database postgres://{}", self.place())
    }

    fn cannot_connect(&self, error: &sqlx::Error) -> RunError {
        let (place, role) = (self.place(), self.options().get_username());
        let answer = server_error(error).map(server_text).unwrap_or_default();
        match code(error).as_deref() {
            Some("3D000") => {
                let name = self.options().get_database().unwrap_or(role);
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

    fn describe(&self, error: &sqlx::Error, is_upgrade: bool) -> String {
        if let Some(error) = server_error(error) {
            let answer = server_text(error);
            return match error.code() {
                "42501" if is_upgrade => format!(
                    "role {:?} may not create or change the tables: {answer}; run `ethtally \
                     migrate` as a role that owns the tables and has the right to create tables",
                    self.options().get_username()
                ),
                "42501" => self.missing_rights(&answer),
                "25006" => format!("{answer}; --database-url must name the primary server"),
                _ => answer,
            };
        }
        match error {
            sqlx::Error::Io(_) => format!("the connection is lost: {}", driver_text(error)),
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
            Value::Bytes(bytes) => arguments.add(bytes),
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

/// A name as SQL writes it.
fn identifier(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A session of the server: process, role, name of the program, time since when it does what it does.
type SessionRow = (i32, Option<String>, Option<String>, Option<String>);
/// A row of [`LOOK`]: the state of the session, and one that blocks it, as a [`SessionRow`].
type Seen = (Option<String>, Option<i32>, Option<String>, Option<String>, Option<String>);

/// What a session is doing, by what was seen of it.
fn look_of(seen: Vec<Seen>) -> Look {
    let Some((state, blocker, role, application, since)) = seen.into_iter().next() else {
        return Look::Missing;
    };
    match blocker {
        Some(process) => {
            let blocker = session_text((process, role, application, since));
            Look::Blocked(format!("a lock that {blocker} holds"))
        }
        None if state.as_deref() == Some("active") => Look::Working,
        // We wait for an answer, but it waits for a statement: nothing passes between us.
        None => Look::Missing,
    }
}

/// A session of the server, for people.
fn session_text((process, role, application, since): SessionRow) -> String {
    let of_role = role.map(|role| format!(" of role {role:?}")).unwrap_or_default();
    let named = application.filter(|name| !name.is_empty());
    let named = named.map(|name| format!(" ({name:?})")).unwrap_or_default();
    let since = since.map(|since| format!(", since {since}")).unwrap_or_default();
    format!("session {process}{of_role}{named}{since}")
}
