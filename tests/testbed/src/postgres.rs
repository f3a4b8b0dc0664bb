//! A temporary PostgreSQL cluster on 127.0.0.1 that starts in a second and ends with the process that started it.
//!
//! It finds and runs the server's programs, and knows nothing about ethtally's tables.

mod failover;

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher, Hasher},
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

pub use failover::Frozen;

/// The owner of everything, who needs no password.
const SUPERUSER: &str = "postgres";

/// Only members of this role need a password.
const PASSWORD_ROLE: &str = "password_needed";

/// Fast, and safe against everything but a crash of the machine. `synchronous_commit` stays on: it costs little without fsync, and
/// keeps committed rows over [`Cluster::stop`], as in production.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "200"),
    ("shared_buffers", "256MB"),
    ("listen_addresses", "127.0.0.1"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    // The default of version 13 is md5.
    ("password_encryption", "scram-sha-256"),
    // Files in the cluster's folder, so that nothing remains in /dev/shm.
    ("dynamic_shared_memory_type", "mmap"),
];

/// A shell script that runs the server. It reads commands from a pipe held open by the test process; when that process ends in any
/// way, the pipe closes, and the shell stops the server and removes the folder.
///
/// `$1` is the folder of the server's programs; the other arguments are a command prefix to run them as another user.
const SUPERVISOR: &str = r#"
bin=$1; shift
pid=
dir=$(mktemp -d "${TMPDIR:-/tmp}/ethtally-postgres.XXXXXX") || exit
stop() { [ -z "$pid" ] || { kill -QUIT "$pid"; wait "$pid"; pid=; }; }
trap 'stop; cd /; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
# Otherwise writing to a closed pipe would end this shell before it has cleaned up.
trap '' PIPE
# The server's user may have no access to the folder of the tests.
cd "$dir" || exit
[ $# -eq 0 ] || chown postgres:postgres .
echo "$dir"

while read -r command port; do
    case $command in
    init)
        if "$@" "$bin/initdb" --pgdata=data --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync \
            </dev/null >>log 2>&1; then echo ok; else echo failed; fi ;;
    copy)
        if "$@" "$bin/pg_basebackup" --host=127.0.0.1 --port="$port" --username=postgres --no-password --pgdata=data \
            --write-recovery-conf --checkpoint=fast --no-sync </dev/null >>log 2>&1; then echo ok; else echo failed; fi ;;
    start)
        "$@" "$bin/postgres" -D "$dir/data" -p "$port" -k "$dir" >>log 2>&1 &
        pid=$!
        # The eighth line of the file is the server's state; a stale file has another process id.
        until [ "$(sed -n '1p;8p' data/postmaster.pid 2>/dev/null | tr -d ' \n')" = "${pid}ready" ]; do
            kill -0 "$pid" 2>/dev/null || { wait "$pid"; pid=; echo failed; continue 2; }
            sleep 0.02
        done
        echo ok ;;
    stop)
        stop; echo ok ;;
    esac
done
"#;

/// A PostgreSQL server with its own empty cluster, in a temporary folder.
///
/// Dropping it stops the server and removes the folder. So does the end of the process a moment later, even by SIGKILL.
///
/// All functions block for a second at most, and work with or without a Tokio runtime.
#[derive(Debug)]
pub struct Cluster {
    supervisor: Mutex<Supervisor>,
    folder: PathBuf,
    port: u16,
    databases: AtomicUsize,
}

/// Options of a new database that differ from the defaults (UTF-8, `C` collation, the server's settings).
#[derive(Debug, Clone, Copy, Default)]
pub struct DatabaseOptions<'a> {
    /// Collation and character classes, for example `C.UTF-8`; the machine must support it.
    pub locale: Option<&'a str>,
    /// Settings of every new session, for example `("timezone", "America/New_York")`.
    pub settings: &'a [(&'a str, &'a str)],
}

/// The cluster of this process: started on first use, stopped when the process ends.
///
/// # Panics
/// If no cluster can be started.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        Cluster::start().unwrap_or_else(|error| panic!("no PostgreSQL for the tests: {error:#}"))
    })
}

/// Runs SQL with `psql` and returns the rows, one per line, columns separated by `|`, NULL as an empty string.
///
/// Each of several statements commits on its own, and the first failure ends the run.
///
/// # Errors
/// If there is no `psql`, no connection, or a statement fails; the error contains psql's output.
pub fn psql(url: &str, sql: &str) -> Result<String> {
    let mut psql = without_pg_variables(Command::new(client()?))
        .args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-d", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run psql")?;
    let mut input = psql.stdin.take().context("psql has no stdin")?;
    let output = thread::scope(|scope| {
        // In its own thread: psql writes while it reads. If it stops reading, its output says why.
        scope.spawn(move || input.write_all(sql.as_bytes()));
        psql.wait_with_output()
    })?;
    ensure!(
        output.status.success(),
        "psql: {}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let mut rows =
        String::from_utf8(output.stdout).context("psql answered something else than UTF-8")?;
    if rows.ends_with('\n') {
        rows.pop();
    }
    Ok(rows)
}

impl Cluster {
    /// Starts a cluster for tests: no fsync, 200 connections, UTC.
    ///
    /// # Errors
    /// If PostgreSQL is not installed or does not start; the error ends with the server's log.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a cluster with settings for `postgresql.conf` that add to or override those of [`Cluster::start`], for example
    /// `[("fsync", "on")]` to measure as in production.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(settings: &[(&str, &str)]) -> Result<Self> {
        let (mut supervisor, folder) = Supervisor::spawn()?;
        if !supervisor.command("init")? {
            bail!("initdb failed:\n{}", log_from(&folder, 0));
        }
        configure(&folder.join("data"), settings)?;
        let port = supervisor.start_on_some_port(&folder)?;
        Ok(Self {
            supervisor: Mutex::new(supervisor),
            folder,
            port,
            databases: AtomicUsize::new(0),
        })
    }

    /// The TCP port on 127.0.0.1; [`Cluster::restart`] keeps it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The temporary folder with the data (`data`), the server's log (`log`) and its Unix socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        log_from(&self.folder, 0)
    }

    /// The URL of a database of this name for the superuser, whether the database exists or not.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates an empty database whose name contains the hint, and returns its URL.
    ///
    /// # Errors
    /// If the server is down.
    pub fn create_database(&self, name_hint: &str) -> Result<String> {
        self.create_database_with(name_hint, &DatabaseOptions::default())
    }

    /// Creates an empty database with options, and returns its URL.
    ///
    /// # Errors
    /// If the server is down or refuses an option.
    pub fn create_database_with(
        &self,
        name_hint: &str,
        options: &DatabaseOptions<'_>,
    ) -> Result<String> {
        let name = self.unused_name(name_hint);
        // Only template0 can be copied with another locale.
        let mut sql = format!("CREATE DATABASE {name} TEMPLATE template0");
        if let Some(locale) = options.locale {
            sql += &format!(" LOCALE {}", literal(locale));
        }
        sql += ";\n";
        for (setting, value) in options.settings {
            sql += &format!("ALTER DATABASE {name} SET {setting} = {};\n", literal(value));
        }
        self.administer(&sql)?;
        Ok(self.url(&name))
    }

    /// Creates an empty database owned by a role with this password, and returns its URL with the password.
    /// The role is not a superuser. An existing role gets this password.
    ///
    /// # Errors
    /// If the server is down.
    pub fn url_with_password(&self, user: &str, password: &str) -> Result<String> {
        let (name, role) = (self.unused_name(user), identifier(user));
        self.administer(&format!(
            "DO $$ BEGIN
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{PASSWORD_ROLE}') THEN
                    CREATE ROLE {PASSWORD_ROLE};
                END IF;
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {user}) THEN
                    CREATE ROLE {role} LOGIN IN ROLE {PASSWORD_ROLE};
                END IF;
            END $$;
            ALTER ROLE {role} PASSWORD {password};
            CREATE DATABASE {name} TEMPLATE template0 OWNER {role};",
            user = literal(user),
            password = literal(password),
        ))?;
        Ok(format!(
            "postgres://{}:{}@127.0.0.1:{}/{name}",
            percent_encoded(user),
            percent_encoded(password),
            self.port
        ))
    }

    /// Stops the server at once, like a crash: sessions are cut, committed data stays.
    ///
    /// # Errors
    /// If the supervisor has ended.
    pub fn stop(&self) -> Result<()> {
        ensure!(self.supervisor().command("stop")?, "PostgreSQL did not stop");
        Ok(())
    }

    /// Stops the server at once, if it runs, and starts it again on the same port.
    ///
    /// # Errors
    /// If it does not start; the error ends with the server's log.
    pub fn restart(&self) -> Result<()> {
        let mut supervisor = self.supervisor();
        supervisor.command("stop")?;
        // Another process may use the port for a moment.
        for _ in 0..50 {
            match supervisor.start_on(self.port, &self.folder)? {
                Started::Yes => return Ok(()),
                Started::PortTaken => thread::sleep(Duration::from_millis(100)),
            }
        }
        bail!("port {} was taken while PostgreSQL was down", self.port)
    }

    fn supervisor(&self) -> MutexGuard<'_, Supervisor> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn administer(&self, sql: &str) -> Result<()> {
        psql(&self.url("postgres"), sql).map(drop)
    }

    fn unused_name(&self, hint: &str) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed) + 1;
        let hint: String = hint
            .chars()
            .take(40)
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
            .collect();
        // With a prefix, so that a hint of digits or an empty one is valid too.
        format!("t_{hint}_{number}")
    }
}

/// The shell of [`SUPERVISOR`] and the pipes to it.
#[derive(Debug)]
struct Supervisor {
    shell: Child,
    /// `None` once dropped: closing the pipe ends the shell.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

enum Started {
    Yes,
    PortTaken,
}

impl Supervisor {
    /// Starts the shell; returns it with its folder.
    fn spawn() -> Result<(Self, PathBuf)> {
        let mut command = without_pg_variables(Command::new("sh"));
        command.args(["-c", SUPERVISOR, "ethtally-postgres"]).arg(server_programs()?);
        if runs_as_root() {
            // The server refuses to run as root. setpriv execs the server, while su and runuser would stay its parent.
            command.args([
                "setpriv",
                "--reuid=postgres",
                "--regid=postgres",
                "--init-groups",
                "--",
            ]);
        }
        let mut shell = command
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C or kill for the tests must not reach it: it outlives them to clean up.
            .process_group(0)
            .spawn()
            .context("cannot run sh")?;
        let mut supervisor = Self {
            commands: shell.stdin.take(),
            answers: BufReader::new(shell.stdout.take().context("sh has no stdout")?),
            shell,
        };
        let folder = supervisor.answer()?;
        ensure!(!folder.is_empty(), "cannot create a temporary folder for PostgreSQL");
        Ok((supervisor, PathBuf::from(folder)))
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the PostgreSQL supervisor has ended")?;
        Ok(line.trim_end().to_owned())
    }

    fn command(&mut self, command: &str) -> Result<bool> {
        let commands = self.commands.as_mut().context("the PostgreSQL supervisor is stopping")?;
        writeln!(commands, "{command}").context("the PostgreSQL supervisor has ended")?;
        match self.answer()?.as_str() {
            "ok" => Ok(true),
            "failed" => Ok(false),
            _ => bail!("the PostgreSQL supervisor has ended"),
        }
    }

    fn start_on(&mut self, port: u16, folder: &Path) -> Result<Started> {
        let logged = log_from(folder, 0).len();
        if self.command(&format!("start {port}"))? {
            return Ok(Started::Yes);
        }
        let log = log_from(folder, logged);
        if log.contains("could not bind") {
            return Ok(Started::PortTaken);
        }
        bail!("PostgreSQL did not start:\n{log}")
    }

    fn start_on_some_port(&mut self, folder: &Path) -> Result<u16> {
        for _ in 0..50 {
            // Below the range of ephemeral ports, so that no outgoing connection takes it during a restart.
            let port = 20_000 + u16::try_from(RandomState::new().build_hasher().finish() % 12_000)?;
            // Checking first is faster than a failing server; start_on handles a race.
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
                continue;
            }
            if let Started::Yes = self.start_on(port, folder)? {
                return Ok(port);
            }
        }
        bail!("found no free port for PostgreSQL")
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.shell.wait();
    }
}

fn configure(data: &Path, settings: &[(&str, &str)]) -> Result<()> {
    let mut lines = String::new();
    for (setting, value) in SETTINGS.iter().chain(settings) {
        // The last occurrence of a setting wins.
        lines += &format!("{setting} = {}\n", literal(value));
    }
    fs::OpenOptions::new()
        .append(true)
        .open(data.join("postgresql.conf"))
        .and_then(|mut file| file.write_all(lines.as_bytes()))
        .context("cannot write postgresql.conf")?;
    fs::write(
        data.join("pg_hba.conf"),
        format!(
            "local all all trust\n\
             host all +{PASSWORD_ROLE} 127.0.0.1/32 scram-sha-256\n\
             host all all 127.0.0.1/32 trust\n\
             host replication all 127.0.0.1/32 trust\n"
        ),
    )
    .context("cannot write pg_hba.conf")
}

fn log_from(folder: &Path, from: usize) -> String {
    let log = fs::read(folder.join("log")).unwrap_or_default();
    String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned()
}

/// The folder with the server's programs: from PATH, else the newest of Debian's.
fn server_programs() -> Result<PathBuf> {
    path_folders()
        .into_iter()
        .chain(debian_folders())
        .find(|folder| {
            ["initdb", "postgres", "pg_basebackup"].iter().all(|name| folder.join(name).is_file())
        })
        .context(
            "there is no PostgreSQL server on this machine: run tests/testbed/install-postgres",
        )
}

/// `psql`: the server's own, else from PATH or Debian's.
fn client() -> Result<PathBuf> {
    server_programs()
        .into_iter()
        .chain(path_folders())
        .chain(debian_folders())
        .map(|folder| folder.join("psql"))
        .find(|psql| psql.is_file())
        .context("there is no psql on this machine: run tests/testbed/install-postgres")
}

fn path_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH").map_or_else(Vec::new, |path| std::env::split_paths(&path).collect())
}

fn debian_folders() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// Whether this process runs as root; std has no getuid.
fn runs_as_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Removes PGHOST, PGOPTIONS and the like, which would affect the programs.
fn without_pg_variables(mut command: Command) -> Command {
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(|name| name.starts_with("PG")) {
            command.env_remove(variable);
        }
    }
    command
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
