//! The store in an SQLite file: how it opens, binds values, locks and names an error.

mod coverage;
mod errors;
mod faults;
mod lock_file;
mod sql;

use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use serde_json::json;
use sqlx::{
    ConnectOptions, SqlSafeStr, SqlStr, Sqlite, SqliteConnection,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use self::{
    errors::BUSY_TIMEOUT,
    lock_file::{LockFile, beside, create_for_owner, folder_of},
    sql::SQL,
};
use super::{
    Access, LockKey, PartColumn,
    backend::Backend,
    dialect::{
        AnyRow, Begun, Column, Dialect, Explained, Look, Purpose, SessionId, Statements, Value,
    },
    error::{RowFault, StoreError, driver_text},
    parts,
    schema::{self, Migration},
    session::Database,
    sql_store::SqlStore,
};
use crate::tally::{Check, Lock, RunError, Shutdown};

/// The file of a URL, as a text that is the same for the same file; `None` if the URL is refused.
pub(super) fn place(url: &str) -> Option<String> {
    let options = SqliteConnectOptions::from_str(url).ok()?;
    let path = options.get_filename();
    let name = path.file_name()?;
    let found = path.canonicalize().or_else(|_| {
        // It is still to be created.
        folder_of(path).canonicalize().map(|folder| folder.join(name))
    });
    Some(found.unwrap_or_else(|_| path.to_path_buf()).display().to_string())
}

/// Opens the file; creates it only for [`Access::Write`].
pub(super) async fn open(
    url: &str,
    columns: Vec<PartColumn>,
    access: Access,
    shutdown: &Shutdown,
) -> Result<SqlStore<SqliteDialect>, RunError> {
    let options = SqliteConnectOptions::from_str(url).map_err(|error| {
        RunError::settings(format!(
            "--database-url is not a valid sqlite: URL ({}); write sqlite:PATH",
            driver_text(&error)
        ))
    })?;
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err(RunError::settings(
            "--database-url names a database in memory, which would be lost at exit; write \
             sqlite:PATH",
        ));
    }
    let path = options.get_filename().to_path_buf();
    if path.as_os_str().is_empty() {
        return Err(RunError::settings("--database-url names no file; write sqlite:PATH"));
    }
    let dialect = SqliteDialect { path, options: options.clone() };
    dialect.check_path(access)?;
    let options = options.busy_timeout(BUSY_TIMEOUT).create_if_missing(access == Access::Write);
    let options = match access {
        Access::Read => options.pragma("query_only", "on"),
        Access::Update | Access::Write => {
            options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Normal)
        }
    };
    let store = |options| {
        let dialect = SqliteDialect { path: dialect.path.clone(), options };
        SqlStore { database: Database::new(dialect, columns.clone(), shutdown) }
    };
    let mut opened = store(options.clone());
    // Two processes that turn a new file into a database at once would collide.
    let _opening = match access {
        Access::Update | Access::Write => {
            Some(opened.explained(opened.database.dialect.open_lock(shutdown).await).await?)
        }
        Access::Read => None,
    };
    if access == Access::Write {
        // Where it fails, SQLite fails too, and its error is explained.
        let _ = create_for_owner(&dialect.path);
    }
    let mut looked = look(&opened).await;
    if looked.is_err() && access == Access::Read && !beside(&dialect.path, "-wal").exists() {
        // SQLite cannot create its -shm file in a folder that we may not write, nor does it need to.
        opened = store(options.immutable(true));
        looked = look(&opened).await;
    }
    match looked {
        Ok(()) => Ok(opened),
        Err(error) => match error.sql() {
            Some(cause) => {
                let dialect = &opened.database.dialect;
                Err(errors::explain(cause, &dialect.path).of(&dialect.label()))
            }
            None => Err(opened.in_words(error).await),
        },
    }
}

/// Reads something, which shows whether the file can be read.
async fn look(store: &SqlStore<SqliteDialect>) -> Result<(), StoreError> {
    let sql = "select count(*) from sqlite_master";
    store.database.fetch::<(i64,)>(Purpose::Read, sql, &[]).await.map(drop)
}

/// SQLite.
pub(super) struct SqliteDialect {
    path: PathBuf,
    options: SqliteConnectOptions,
}

impl SqliteDialect {
    /// Fails if the file is missing where it must exist, or its folder is.
    fn check_path(&self, access: Access) -> Result<(), RunError> {
        let folder = folder_of(&self.path);
        if !folder.is_dir() {
            return Err(RunError::settings(format!(
                "{}: folder {} does not exist; create it, or check --database-url",
                self.label(),
                folder.display()
            )));
        }
        if access != Access::Write && !self.path.exists() {
            return Err(RunError::settings(format!(
                "{}: no such file; run `ethtally migrate` first, or check --database-url and \
                 DATABASE_URL",
                self.label()
            )));
        }
        Ok(())
    }

    /// Whether the file and its folder may be written.
    fn rights(&self, target: &str) -> Check {
        let remedy = |path: &Path| format!("run: chmod u+w {}", path.display());
        // Nothing is written.
        if let Err(error) = OpenOptions::new().append(true).open(&self.path) {
            let detail = format!("the file cannot be written: {error}");
            return Check::fail("rights", target, detail, remedy(&self.path));
        }
        let folder = folder_of(&self.path);
        if folder.metadata().is_ok_and(|folder| folder.permissions().readonly()) {
            let detail = "the folder is read-only, and SQLite keeps files beside the database";
            return Check::fail("rights", target, detail, remedy(folder));
        }
        Check::ok("rights", target, "the file may be read and written")
    }

    /// Waits for the lock under which files are created and migrated.
    async fn open_lock(&self, shutdown: &Shutdown) -> Result<File, StoreError> {
        LockFile::beside(&self.path, "open")?.lock(shutdown).await
    }
}

#[async_trait]
impl Dialect for SqliteDialect {
    type Database = Sqlite;

    const BEGIN_LIMIT: Duration = BUSY_TIMEOUT.saturating_mul(2);

    const SQL: Statements = SQL;

    async fn connect(&self) -> Result<SqliteConnection, StoreError> {
        self.options.connect().await.map_err(StoreError::Sql)
    }

    async fn begin(
        &self,
        connection: &mut SqliteConnection,
        purpose: Purpose,
    ) -> sqlx::Result<Begun> {
        let begin = match purpose {
            // Takes the write lock at once: a transaction that reads first could fail when it writes.
            Purpose::Write | Purpose::Totals | Purpose::Confirm => "begin immediate",
            Purpose::Read | Purpose::ByIndex | Purpose::ByPage => "begin",
        };
        Self::run(connection, begin.into_sql_str()).await.map(|()| Begun::default())
    }

    async fn look(&self, _: Option<SessionId>) -> Look {
        Look::Working
    }

    async fn run(connection: &mut SqliteConnection, sql: SqlStr) -> sqlx::Result<()> {
        sqlx::raw_sql(sql).execute(connection).await.map(drop)
    }

    async fn execute(
        connection: &mut SqliteConnection,
        sql: SqlStr,
        values: &[Value<'_>],
    ) -> sqlx::Result<u64> {
        let query = sqlx::query_with(sql, arguments(values)?);
        Ok(query.execute(connection).await?.rows_affected())
    }

    async fn each<T: AnyRow>(
        connection: &mut SqliteConnection,
        sql: SqlStr,
        values: &[Value<'_>],
        take: &mut (impl FnMut(T) + Send),
    ) -> sqlx::Result<()> {
        let mut rows = sqlx::query_with(sql, arguments(values)?).fetch(connection);
        while let Some(row) = rows.try_next().await? {
            take(T::from_row(&row)?);
        }
        Ok(())
    }

    fn is_conflict(_: &StoreError) -> bool {
        // Writers wait for each other.
        false
    }

    fn row_fault(error: &sqlx::Error) -> Option<RowFault> {
        faults::row_fault(error)
    }

    fn label(&self) -> String {
        format!("database sqlite:{}", self.path.display())
    }

    fn cannot_connect(&self, error: &sqlx::Error) -> RunError {
        self.describe(error, false).of(&self.label())
    }

    fn describe(&self, error: &sqlx::Error, _: bool) -> Explained {
        // The file was opened: what fails now is not a mistake in the settings.
        Explained { is_settings: false, ..errors::explain(error, &self.path) }
    }
}

#[async_trait]
impl Backend for SqliteDialect {
    const MIGRATIONS: &'static [Migration] = schema::SQLITE;

    async fn migrate(database: &Database<Self>) -> Result<Vec<String>, StoreError> {
        let _migrating = database.dialect.open_lock(&database.shutdown).await?;
        let lacking = schema::lacking(database, Self::MIGRATIONS).await?;
        for migration in &lacking {
            schema::apply(migration, migration.sql, database.begin(Purpose::Write).await?).await?;
        }
        let mut applied = schema::titles(&lacking);
        if parts::are_lacking(database).await? {
            let mut session = database.begin(Purpose::Write).await?;
            let added = parts::add(&mut session).await;
            applied.extend(session.end(added).await.map_err(StoreError::during_upgrade)?);
        }
        Ok(applied)
    }

    async fn lock(
        database: &Database<Self>,
        key: LockKey<'_>,
    ) -> Result<Option<Box<dyn Lock>>, StoreError> {
        let purpose = key.to_string().replace(' ', "-").replace('/', "-of-");
        let held = LockFile::beside(&database.dialect.path, &purpose)?.try_lock()?;
        Ok(held.map(|file| Box::new(FileLock(file)) as Box<dyn Lock>))
    }

    async fn examine(database: &Database<Self>) -> Result<Vec<Check>, StoreError> {
        let target = database.dialect.label();
        let version: Vec<(String,)> =
            database.fetch(Purpose::Read, "select sqlite_version()", &[]).await?;
        let version = version.into_iter().next().map(|(version,)| version).unwrap_or_default();
        Ok(vec![
            Check::ok("version", &target, format!("SQLite {version}")),
            database.dialect.rights(&target),
        ])
    }

    async fn holder(_: &Database<Self>, _: LockKey<'_>) -> Option<String> {
        None
    }
}

/// The values of a statement.
fn arguments(values: &[Value<'_>]) -> sqlx::Result<SqliteArguments> {
    use sqlx::Arguments;
    let mut arguments = SqliteArguments::default();
    for value in values {
        match *value {
            Value::Text(text) => arguments.add(text),
            Value::TextOrNull(text) => arguments.add(text),
            Value::Number(number) => arguments.add(number),
            Value::NumberOrNull(number) => arguments.add(number),
            Value::Bytes(bytes) => arguments.add(bytes),
            Value::Time(time) => arguments.add(time),
            Value::List(texts) => arguments.add(json!(texts).to_string()),
            Value::Rows(columns) => arguments.add(rows_json(columns)),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// Columns as a JSON list of rows, each a list itself.
fn rows_json(columns: &[Column<'_>]) -> String {
    let cell = |column: &Column<'_>, row: usize| match *column {
        Column::Texts(texts) => texts.get(row).map(|text| json!(text)),
        Column::TextsOrNull(texts) => texts.get(row).map(|text| json!(text)),
        Column::Numbers(numbers) => numbers.get(row).map(|number| json!(number)),
        Column::NumbersOrNull(numbers) => numbers.get(row).map(|number| json!(number)),
    };
    let row = |row| -> Option<Vec<_>> {
        let cells: Option<Vec<_>> = columns.iter().map(|column| cell(column, row)).collect();
        cells.filter(|cells| !cells.is_empty())
    };
    json!((0..).map_while(row).collect::<Vec<_>>()).to_string()
}

/// A locked file. It stays locked for as long as this lives.
struct FileLock(File);

#[async_trait]
impl Lock for FileLock {
    async fn is_held(&self) -> bool {
        true
    }

    async fn lost(&self) -> String {
        // The lock of a file ends with its process.
        std::future::pending().await
    }

    async fn release(&self) {
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, Executor};

    use super::*;

    #[tokio::test]
    async fn a_locked_file_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tally.db");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let options = options.busy_timeout(Duration::ZERO);
        let mut writer = SqliteConnection::connect_with(&options).await.unwrap();
        let mut other = SqliteConnection::connect_with(&options).await.unwrap();
        writer.execute("begin immediate").await.unwrap();
        let error = other.execute("begin immediate").await.unwrap_err();
        assert_eq!(
            SqliteDialect { path, options }.describe(&error, false).text,
            "another process has kept it locked for 60 s; end that process, or try again later"
        );
    }

    #[test]
    fn columns_become_rows() {
        let texts = ["a".to_owned(), "b".to_owned()];
        let columns = [
            Column::Texts(&texts),
            Column::Numbers(&[1, 2]),
            Column::NumbersOrNull(&[None, Some(i64::MAX)]),
        ];
        assert_eq!(rows_json(&columns), r#"[["a",1,null],["b",2,9223372036854775807]]"#);
        assert_eq!(rows_json(&[Column::Texts(&[])]), "[]");
        assert_eq!(rows_json(&[]), "[]");
    }
}
