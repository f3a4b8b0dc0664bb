//! Runs the real program, and looks into both databases.

use std::{
    fmt::Debug,
    io::Write,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use ethtally_testbed::postgres;
use serde_json::Value;
use sqlx::{Column, Executor, Row, SqlitePool};
use tempfile::TempDir;

/// The program with no settings but those given, whatever the environment holds.
pub(crate) fn ethtally<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Ethtally {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ethtally"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ethtally { command, input: Vec::new() }
}

/// A run that is being prepared.
pub(crate) struct Ethtally {
    command: Command,
    input: Vec<u8>,
}

impl Ethtally {
    pub(crate) fn node(mut self, url: impl Into<String>) -> Self {
        self.command.env("ETH_RPC_URL", url.into());
        self
    }

    pub(crate) fn database(mut self, database: &Database) -> Self {
        self.command.env("DATABASE_URL", &database.url);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Where it runs; relative paths are seen from there.
    pub(crate) fn folder(mut self, path: &std::path::Path) -> Self {
        self.command.current_dir(path);
        self
    }

    pub(crate) fn input(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.input = text.into();
        self
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Ran {
        self.start().wait()
    }

    /// Starts it in the background.
    pub(crate) fn start(mut self) -> Running {
        let shown = format!("{:?}", self.command.get_args().collect::<Vec<_>>());
        let mut child = self.command.spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = self.input;
        // In a thread: the program may end before it has read all of it.
        std::thread::spawn(move || stdin.write_all(&input));
        Running { child: Some(child), shown }
    }
}

/// A run that is under way. One that a test fails to wait for is killed: some would go on for ever.
pub(crate) struct Running {
    /// Until it is waited for.
    child: Option<Child>,
    shown: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Running {
    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("nobody has waited for it")
    }

    /// Sends a signal by name, such as `TERM` or `KILL`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("nobody has waited for it").id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Its output, for a run that is read while it goes on.
    pub(crate) fn output(&mut self) -> (ChildStdout, ChildStderr) {
        let streams = (self.child().stdout.take(), self.child().stderr.take());
        (streams.0.expect("stdout is piped"), streams.1.expect("stderr is piped"))
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child().try_wait().expect("it can be waited for").is_some()
    }

    pub(crate) fn wait(mut self) -> Ran {
        use std::os::unix::process::ExitStatusExt;
        let child = self.child.take().expect("nobody has waited for it");
        let output = child.wait_with_output().expect("its output can be read");
        Ran {
            shown: std::mem::take(&mut self.shown),
            status: output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    shown: String,
    /// The exit status; negative for the signal that killed it.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails, showing everything, unless it ended with this status.
    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(
            self.status, status,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.shown, self.stdout, self.stderr
        );
        self
    }

    /// The one JSON object on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "one line on stdout: {self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error: stderr must hold exactly one line that begins with `error:`, and no panic.
    #[track_caller]
    pub(crate) fn error(&self) -> &str {
        let errors: Vec<_> =
            self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "one error line: {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        errors[0]
    }
}

/// An empty database of one test.
pub(crate) struct Database {
    pub(crate) url: String,
    /// Holds the file of SQLite; unused by PostgreSQL.
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

    /// A database of PostgreSQL that is there already.
    pub(crate) fn at(url: String) -> Self {
        Self { url, folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite:")
    }

    /// A folder of this test.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Runs SQL beside the program and returns the rows: columns separated by `|`, NULL empty.
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

    /// The one value that a statement gives.
    pub(crate) async fn value(&self, statement: &str) -> String {
        let rows = self.sql(statement).await;
        assert_eq!(rows.len(), 1, "{statement}: {rows:?}");
        rows.into_iter().next().expect("one row")
    }
}

/// Waits until `condition` holds, for a minute at most.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Makes two tests of each story: one on SQLite, one on PostgreSQL.
macro_rules! on_both_databases {
    ($($story:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story(crate::harness::Database::sqlite()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story(crate::harness::Database::postgres()).await;
            })*
        }
    };
}
pub(crate) use on_both_databases;
