//! Transactions, each on one connection, and the watch over their statements.
//!
//! Every statement runs in a transaction: settings are local to it, and behind a pooler it is the unit that stays on
//! one server connection. A statement that takes long is looked up from a second connection, which tells a slow
//! server from a dead one and names whoever holds the lock that it waits for.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use sqlx::SqlSafeStr;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{
    columns::PartColumn,
    connections::{Connections, Leased},
    dialect::{AnyRow, Begun, Dialect, Look, Purpose, SessionId, Value},
    error::StoreError,
};
use crate::tally::{ChangeSink, Shutdown};

/// How often a statement that takes long is looked up.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often in a row it may be missing before the connection counts as dead.
const MISSING: u32 = 2;
/// How often in a row nothing may be known of it.
const UNKNOWN: u32 = 60;
/// How many connections are tried for a transaction that does not begin.
const ATTEMPTS: u32 = 2;

/// A database: its dialect, and the connections of this process to it.
pub(super) struct Database<D: Dialect> {
    pub(super) dialect: Arc<D>,
    pub(super) connections: Arc<Connections<D>>,
    /// The columns of parts that the run's profile has.
    pub(super) columns: Arc<[PartColumn]>,
    pub(super) shutdown: Shutdown,
    /// Where totals that changed are reported.
    pub(super) changes: Arc<OnceLock<Arc<dyn ChangeSink>>>,
}

impl<D: Dialect> Clone for Database<D> {
    fn clone(&self) -> Self {
        Self {
            dialect: Arc::clone(&self.dialect),
            connections: Arc::clone(&self.connections),
            columns: Arc::clone(&self.columns),
            shutdown: self.shutdown.clone(),
            changes: Arc::clone(&self.changes),
        }
    }
}

impl<D: Dialect> Database<D> {
    /// A database to which there is no connection yet.
    pub(super) fn new(dialect: D, columns: Vec<PartColumn>, shutdown: &Shutdown) -> Self {
        Self {
            dialect: Arc::new(dialect),
            connections: Arc::new(Connections::new()),
            columns: columns.into(),
            shutdown: shutdown.clone(),
            changes: Arc::default(),
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// If there is no connection, or a shutdown ends the wait for one.
    pub(super) async fn begin(&self, purpose: Purpose) -> Result<Session<'_, D>, StoreError> {
        Session::begin(self, purpose).await
    }

    /// Executes a query in a transaction of its own and returns its rows.
    pub(super) async fn fetch<T: AnyRow>(
        &self,
        purpose: Purpose,
        sql: impl SqlSafeStr,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let sql = sql.into_sql_str();
        let mut session = self.begin(purpose).await?;
        let fetched = session.fetch(sql, values).await;
        session.end(fetched).await
    }
}

/// A transaction. Unless it is committed, it is rolled back.
pub(super) struct Session<'a, D: Dialect> {
    dialect: &'a D,
    shutdown: &'a Shutdown,
    columns: &'a [PartColumn],
    connection: Leased<'a, D>,
    id: Option<SessionId>,
}

impl<'a, D: Dialect> Session<'a, D> {
    async fn begin(database: &'a Database<D>, purpose: Purpose) -> Result<Self, StoreError> {
        let Database { dialect, connections, columns, shutdown, .. } = database;
        let dialect = dialect.as_ref();
        let begun = async {
            for _ in 0..ATTEMPTS {
                let mut connection = connections.acquire(dialect).await?;
                match timeout(D::BEGIN_LIMIT, dialect.begin(connection.get()?, purpose)).await {
                    Ok(Ok(Begun { session: id, first })) => {
                        return Ok((Self { dialect, shutdown, columns, connection, id }, first));
                    }
                    Ok(Err(error)) => return Err(StoreError::Sql(error)),
                    Err(_) => {}
                }
            }
            Err(StoreError::NoSession(D::BEGIN_LIMIT.as_secs()))
        };
        let (mut session, first) = watched(dialect, shutdown, None, begun).await?;
        if let Some(first) = first {
            let ran = session.run(first).await;
            if let Err(error) = ran {
                return session.end(Err(error)).await;
            }
        }
        Ok(session)
    }

    /// The columns of parts that the run's profile has.
    pub(super) const fn columns(&self) -> &'a [PartColumn] {
        self.columns
    }

    /// Executes a statement and returns the number of rows it affected.
    pub(super) async fn execute(
        &mut self,
        sql: impl SqlSafeStr,
        values: &[Value<'_>],
    ) -> Result<u64, StoreError> {
        let executed = D::execute(self.connection.get()?, sql.into_sql_str(), values);
        let executed = async { executed.await.map_err(StoreError::Sql) };
        watched(self.dialect, self.shutdown, self.id, executed).await
    }

    /// Executes a query and returns its rows.
    pub(super) async fn fetch<T: AnyRow>(
        &mut self,
        sql: impl SqlSafeStr,
        values: &[Value<'_>],
    ) -> Result<Vec<T>, StoreError> {
        let mut rows = Vec::new();
        self.each(sql, values, &mut |row| rows.push(row)).await?;
        Ok(rows)
    }

    /// Executes a query and gives its rows away, one by one: they need not fit into memory.
    pub(super) async fn each<T: AnyRow>(
        &mut self,
        sql: impl SqlSafeStr,
        values: &[Value<'_>],
        take: &mut (impl FnMut(T) + Send),
    ) -> Result<(), StoreError> {
        let given = D::each(self.connection.get()?, sql.into_sql_str(), values, take);
        let given = async { given.await.map_err(StoreError::Sql) };
        watched(self.dialect, self.shutdown, self.id, given).await
    }

    /// Executes statements without parameters.
    pub(super) async fn run(&mut self, sql: impl SqlSafeStr) -> Result<(), StoreError> {
        let run = D::run(self.connection.get()?, sql.into_sql_str());
        let run = async { run.await.map_err(StoreError::Sql) };
        watched(self.dialect, self.shutdown, self.id, run).await
    }

    /// Commits, and leaves the connection to others.
    pub(super) async fn commit(mut self) -> Result<(), StoreError> {
        self.run("commit").await?;
        self.connection.give_back();
        Ok(())
    }

    /// Ends the transaction with this result: commits a success, and rolls a failure back. The connection of a
    /// failure is kept only if it is in order.
    pub(super) async fn end<T>(mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match result {
            Ok(value) => self.commit().await.map(|()| value),
            Err(error) => {
                if error.leaves_session() && self.run("rollback").await.is_ok() {
                    self.connection.give_back();
                }
                Err(error)
            }
        }
    }
}

/// Waits for `work`: as long as the server knows of it, and until a shutdown is overdue.
async fn watched<D: Dialect, T>(
    dialect: &D,
    shutdown: &Shutdown,
    id: Option<SessionId>,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let mut work = pin!(work);
    let mut overdue = pin!(shutdown.overdue());
    let mut blocker: Option<String> = None;
    let (mut missing, mut unknown) = (0, 0);
    loop {
        let look = async {
            sleep(LOOK_EVERY).await;
            dialect.look(id).await
        };
        let looked = tokio::select! {
            biased;
            done = &mut work => return done.map_err(|error| error.blocked_by(blocker)),
            () = &mut overdue => {
                let what = blocker.unwrap_or_else(|| format!("{} to answer", dialect.label()));
                return Err(StoreError::Stopped(what));
            }
            looked = look => looked,
        };
        match looked {
            Look::Unknown => unknown += 1,
            Look::Missing => missing += 1,
            Look::Working => (missing, unknown) = (0, 0),
            Look::Blocked(by) => {
                (missing, unknown) = (0, 0);
                if blocker.as_ref() != Some(&by) {
                    warn!("waiting for {by}");
                    blocker = Some(by);
                }
            }
        }
        if missing >= MISSING || unknown >= UNKNOWN {
            return Err(StoreError::Silent);
        }
    }
}
