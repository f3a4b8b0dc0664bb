//! The store in PostgreSQL: how it begins a transaction, binds values and names an error.

mod backend;
mod connect;
mod coverage;
mod errors;
mod examine;
mod faults;
mod lock;
mod names;
mod namespace;
mod rights;
mod sql;
mod upgrade;
mod url;

use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::{
    AssertSqlSafe, PgConnection, Postgres, Row, SqlStr,
    postgres::{PgArguments, PgConnectOptions},
};
use tokio::{task::yield_now, time::timeout};

pub(super) use self::url::{is_postgres, place};
use self::{
    errors::Names,
    faults::server_error,
    sql::{
        BY_INDEX, BY_PAGE, HOLD_CONFIRMATIONS, LIMIT_WAITS, LOOK, NO_JIT, SQL,
        TRY_HOLD_CONFIRMATIONS, UTC,
    },
    url::Target,
};
use super::{
    Access, PartColumn,
    columns::quoted,
    dialect::{
        AnyRow, Begun, Column, Dialect, Explained, Look, Purpose, SessionId, Statements, Value,
    },
    error::{RowFault, StoreError, driver_text, unless_stopped},
    session::Database,
    sql_store::SqlStore,
};
use crate::tally::{RunError, Shutdown};

/// How long a second connection may take to say what another one waits for.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How many rows are taken before the rest of the task has its turn.
const TURN: usize = 256;

/// Connects to the database at `url`, with its tables in `schema` if one is given.
pub(super) async fn open(
    url: &str,
    schema: Option<&str>,
    columns: Vec<PartColumn>,
    access: Access,
    shutdown: &Shutdown,
) -> Result<SqlStore<PgDialect>, RunError> {
    let dialect = PgDialect { target: url::parse(url, schema)?, access };
    let store = SqlStore { database: Database::new(dialect, columns, shutdown) };
    let Database { dialect, connections, .. } = &store.database;
    let connecting = unless_stopped(shutdown, &dialect.label(), connections.acquire(dialect)).await;
    match connecting.and_then(|connected| connected) {
        Ok(connection) => connection.give_back(),
        Err(error) => return Err(store.in_words(error).await),
    }
    // What creates tables creates their schema, too.
    if access != Access::Write
        && let Some(schema) = dialect.target.schema.as_deref()
    {
        let role = dialect.options().get_username();
        store.explained(namespace::require(&store.database, schema, role).await).await?;
    }
    Ok(store)
}

/// PostgreSQL.
pub(super) struct PgDialect {
    target: Target,
    access: Access,
}

impl PgDialect {
    /// The first host, which stands for all of them.
    fn options(&self) -> &PgConnectOptions {
        &self.target.hosts[0]
    }

    /// The servers, for people.
    fn place(&self) -> String {
        let place = |host: &PgConnectOptions| match host.get_socket() {
            Some(folder) => format!("{}/.s.PGSQL.{}", folder.display(), host.get_port()),
            None if host.get_host().contains(':') => {
                format!("[{}]:{}", host.get_host(), host.get_port())
            }
            None => format!("{}:{}", host.get_host(), host.get_port()),
        };
        self.target.hosts.iter().map(place).collect::<Vec<_>>().join(", ")
    }

    fn names<'a>(&'a self, place: &'a str) -> Names<'a> {
        let role = self.options().get_username();
        Names { place, role, database: self.options().get_database().unwrap_or(role) }
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
        sql: SqlStr,
        values: &[Value<'_>],
    ) -> sqlx::Result<u64> {
        if values.is_empty() {
            // In one round trip: only a statement with parameters is prepared first.
            return Ok(sqlx::raw_sql(sql).execute(connection).await?.rows_affected());
        }
        // A named statement would stay with a pooler's server connection, where another client may meet it.
        let query = sqlx::query_with(sql, arguments(values)?).persistent(false);
        Ok(query.execute(connection).await?.rows_affected())
    }

    async fn each<T: AnyRow>(
        connection: &mut PgConnection,
        sql: SqlStr,
        values: &[Value<'_>],
        take: &mut (impl FnMut(T) + Send),
    ) -> sqlx::Result<()> {
        let mut rows = match values {
            [] => sqlx::raw_sql(sql).fetch(connection),
            _ => sqlx::query_with(sql, arguments(values)?).persistent(false).fetch(connection),
        };
        let mut taken = 0_usize;
        while let Some(row) = rows.try_next().await? {
            take(T::from_row(&row)?);
            taken += 1;
            if taken.is_multiple_of(TURN) {
                // Rows may arrive as fast as they are taken. The same task reads and stores totals.
                yield_now().await;
            }
        }
        Ok(())
    }

    async fn run(connection: &mut PgConnection, sql: SqlStr) -> sqlx::Result<()> {
        sqlx::raw_sql(sql).execute(connection).await.map(drop)
    }

    async fn connect(&self) -> Result<PgConnection, StoreError> {
        connect::connect(&self.target, self.access).await
    }

    async fn begin(&self, connection: &mut PgConnection, purpose: Purpose) -> sqlx::Result<Begun> {
        let plans = match purpose {
            Purpose::ByIndex | Purpose::Confirm => BY_INDEX,
            Purpose::ByPage => BY_PAGE,
            Purpose::Write | Purpose::Totals | Purpose::Read => "",
        };
        let is_free = if purpose == Purpose::Totals { TRY_HOLD_CONFIRMATIONS } else { "true" };
        let schema = self.target.schema.as_deref().map_or_else(String::new, |schema| {
            format!("set local search_path = {}", quoted(schema))
        });
        let begin = format!(
            "begin; {schema}; {UTC}; {NO_JIT}; {plans}; {LIMIT_WAITS};
             select pg_backend_pid()::text as session, ({is_free})::text as is_free"
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(begin)).fetch_all(connection).await?;
        let text = |column| rows.last().and_then(|row| row.try_get::<String, _>(column).ok());
        let is_free = text("is_free").is_some_and(|is_free| is_free == "true");
        Ok(Begun {
            session: text("session").and_then(|session| session.parse().ok()),
            first: (!is_free).then_some(HOLD_CONFIRMATIONS),
        })
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
        // What redaction leaves of a URL has no path.
        let place = self.place();
        let form = if place.starts_with('/') { "postgres at " } else { "postgres://" };
        format!("database {form}{place}")
    }

    fn cannot_connect(&self, error: &sqlx::Error) -> RunError {
        let place = self.place();
        let explained = match server_error(error) {
            Some(error) => errors::explain_answer(error, self.names(&place)),
            None => errors::explain_driver(error, &place),
        };
        if explained.text.contains(&place) {
            return match explained.is_settings {
                true => RunError::settings(explained.text),
                false => RunError::Database(anyhow!(explained.text)),
            };
        }
        explained.of(&self.label())
    }

    fn describe(&self, error: &sqlx::Error, is_upgrade: bool) -> Explained {
        let place = self.place();
        match server_error(error) {
            Some(error) if error.code() == "42501" => {
                let schema = self.target.schema.as_deref();
                let is_reader = self.access == Access::Read;
                rights::explain(error, self.names(&place), schema, is_reader, is_upgrade)
            }
            Some(error) => errors::explain_answer(error, self.names(&place)),
            None => {
                let text = driver_text(error);
                let is_lost = matches!(error, sqlx::Error::Io(_));
                let text = if is_lost { format!("the connection is lost: {text}") } else { text };
                Explained { is_settings: false, text }
            }
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
            Value::NumberOrNull(number) => arguments.add(number),
            Value::Bytes(bytes) => arguments.add(bytes),
            Value::Time(time) => arguments.add(time),
            Value::List(texts) => arguments.add(texts),
            Value::Rows(columns) => columns.iter().try_for_each(|column| match *column {
                Column::Texts(texts) => arguments.add(texts),
                Column::TextsOrNull(texts) => arguments.add(texts),
                Column::Numbers(numbers) => arguments.add(numbers),
                Column::NumbersOrNull(numbers) => arguments.add(numbers),
            }),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
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
