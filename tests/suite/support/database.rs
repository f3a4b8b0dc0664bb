//! Databases for tests, and tests that run on both kinds.

use ethtally_testbed::postgres;
use sqlx::{Column, Executor, Row, SqlitePool};
use tempfile::TempDir;

/// A new database of one test.
pub(crate) struct Database {
    pub(crate) url: String,
    /// Contains the file of SQLite; empty for PostgreSQL.
    folder: TempDir,
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("sqlite:{}", folder.path().join("tally.db").display());
        Self { url, folder }
    }

    pub(crate) fn postgres() -> Self {
        Self::at(postgres::shared().create_database("tally").expect("a database"))
    }

    /// An existing PostgreSQL database.
    pub(crate) fn at(url: String) -> Self {
        Self { url, folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// Another new database of the same kind.
    pub(crate) fn another(&self) -> Self {
        if self.is_sqlite() { Self::sqlite() } else { Self::postgres() }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite:")
    }

    /// A temporary folder of this test.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Runs SQL outside the program and returns the rows: columns separated by `|`, NULL as an empty string.
    pub(crate) async fn sql(&self, statement: &str) -> Vec<String> {
        if !self.is_sqlite() {
            let text = postgres::psql(&self.url, statement).expect("the statement runs");
            return text.lines().map(str::to_owned).collect();
        }
        let pool = SqlitePool::connect(&self.url).await.expect("the file opens");
        let rows = pool
            .fetch_all(sqlx::AssertSqlSafe(statement.to_owned()))
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
        pool.close().await;
        rows.iter()
            .map(|row| {
                let text = |column: usize| {
                    row.try_get_unchecked::<Option<String>, _>(column)
                        .expect("a text")
                        .unwrap_or_default()
                };
                row.columns()
                    .iter()
                    .map(|column| text(column.ordinal()))
                    .collect::<Vec<_>>()
                    .join("|")
            })
            .collect()
    }

    /// The only row that a statement returns.
    pub(crate) async fn value(&self, statement: &str) -> String {
        let rows = self.sql(statement).await;
        assert_eq!(rows.len(), 1, "{statement}: {rows:?}");
        rows.into_iter().next().expect("one row")
    }
    /// Panics if PostgreSQL has seen a deadlock in this database; SQLite has none.
    pub(crate) async fn assert_no_deadlocks(&self) {
        if !self.is_sqlite() {
            let deadlocks =
                "select deadlocks from pg_stat_database where datname = current_database()";
            assert_eq!(self.value(deadlocks).await, "0");
        }
    }
}

/// Makes two tests of each function: one on SQLite, one on PostgreSQL.
macro_rules! on_both_databases {
    ($($test:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::support::database::Database::sqlite()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::support::database::Database::postgres()).await;
            })*
        }
    };
}
pub(crate) use on_both_databases;
