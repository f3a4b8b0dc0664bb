//! A throw-away PostgreSQL cluster: started in a second, reached at 127.0.0.1, gone with the process that started it.
//!
//! It knows how to find and run the server's own programs, and nothing of ethtally's tables.

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

/// The role that owns everything and needs no password.
const SUPERUSER: &str = "postgres";

/// Members of this role, and only they, must give their password.
const PASSWORD_ROLE: &str = "password_needed";

/// Quick, and safe against all but the machine's own crash. `synchronous_commit` stays on: without fsync it costs little, and
/// with it a committed row outlives [`Cluster::stop`], as it does in production.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "200"),
    ("shared_buffers", "256MB"),
    ("listen_addresses", "127.0.0.1"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    // Version 13 would make md5 of it.
    ("password_encryption", "scram-sha-256"),
    // Files in the cluster's folder, so that nothing of it can stay in /dev/shm.
    ("dynamic_shared_memory_type", "mmap"),
];

/// The shell that is parent to the server. It takes orders from a pipe that the test process holds open; when that process ends,
/// in whatever way, the pipe ends too, and the shell stops the server and removes the folder.
///
/// `$1` is the folder of the server's programs; what follows is a command to run them as another user.
const KEEPER: &str = r#"
bin=$1; shift
pid=
dir=$(mktemp -d "${TMPDIR:-/tmp}/ethtally-postgres.XXXXXX") || exit
stop() { [ -z "$pid" ] || { kill -QUIT "$pid"; wait "$pid"; pid=; }; }
trap 'stop; cd /; rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
# Else an answer to a reader that has gone would end this shell before it has cleaned up.
trap '' PIPE
# The server's user may not be allowed into the folder that the tests run in.
cd "$dir" || exit
[ $# -eq 0 ] || chown postgres:postgres .
echo "$dir"

while read -r order port; do
    case $order in
    init)
        if "$@" "$bin/initdb" --pgdata=data --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync \
            </dev/null >>log 2>&1; then echo ok; else echo failed; fi ;;
    start)
        "$@" "$bin/postgres" -D "$dir/data" -p "$port" -k "$dir" >>log 2>&1 &
        pid=$!
        # The eighth line of the file says how far the server is; a file of an earlier server names another process.
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

/// A PostgreSQL server with an empty cluster of its own, in a temporary folder.
///
/// Dropping it stops the server and removes the folder. So does the end of the process, even by SIGKILL, then a moment later and
/// without anybody's doing: see [`shared`].
///
/// All of its functions block, for a second at most; none needs a Tokio runtime or minds one.
#[derive(Debug)]
pub struct Cluster {
    keeper: Mutex<Keeper>,
    folder: PathBuf,
    port: u16,
    databases: AtomicUsize,
}

/// How a new database differs from an ordinary one (UTF-8, `C` collation, the server's settings).
#[derive(Debug, Clone, Copy, Default)]
pub struct DatabaseOptions<'a> {
    /// Collation and character classes, for example `C.UTF-8`; it must be known to the machine.
    pub locale: Option<&'a str>,
    /// What every new session finds set, for example `("timezone", "America/New_York")`.
    pub settings: &'a [(&'a str, &'a str)],
}

/// The cluster of this process: started when first asked for, and stopped when the process ends.
///
/// # Panics
/// If no cluster can be started: a test could do no better.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        Cluster::start().unwrap_or_else(|error| panic!("no PostgreSQL for the tests: {error:#}"))
    })
}

/// Runs SQL through `psql` and returns the rows, one a line, columns separated by `|`, NULL as nothing.
///
/// Several statements may be given; each commits by itself and the first that fails ends the run.
///
/// # Errors
/// If there is no `psql`, no connection, or a statement fails; the error holds what psql wrote.
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
        // In a thread of its own: psql answers while it reads. If it stops reading, its own words say why.
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
    /// If PostgreSQL is not installed or won't start; the error ends with the server's log.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a cluster with settings of `postgresql.conf` that add to or override those of [`Cluster::start`], for example
    /// `[("fsync", "on")]` to measure what production would feel.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(settings: &[(&str, &str)]) -> Result<Self> {
        let (mut keeper, folder) = Keeper::spawn()?;
        if !keeper.order("init")? {
            bail!("initdb failed:\n{}", log_from(&folder, 0));
        }
        configure(&folder.join("data"), settings)?;
        let port = keeper.start_on_some_port(&folder)?;
        Ok(Self { keeper: Mutex::new(keeper), folder, port, databases: AtomicUsize::new(0) })
    }

    /// The TCP port on 127.0.0.1; it stays the same over [`Cluster::restart`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The temporary folder: it holds the data (`data`), the server's log (`log`) and its Unix socket.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        log_from(&self.folder, 0)
    }

    /// The URL of a database of this name, whether it exists or not, for the superuser, who needs no password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates an empty database, with a name that begins with the hint, and returns its URL.
    ///
    /// # Errors
    /// If the server is not there.
    pub fn create_database(&self, name_hint: &str) -> Result<String> {
        self.create_database_with(name_hint, &DatabaseOptions::default())
    }

    /// Creates an empty database that differs from the ordinary one, and returns its URL.
    ///
    /// # Errors
    /// If the server is not there or refuses an option.
    pub fn create_database_with(
        &self,
        name_hint: &str,
        options: &DatabaseOptions<'_>,
    ) -> Result<String> {
        let name = self.unused_name(name_hint);
        // template0 is the only one that may be copied with another locale.
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

    /// Creates an empty database that belongs to a role which must give its password, and returns its URL with the password.
    /// The role is no superuser. If it exists already, it gets this password.
    ///
    /// # Errors
    /// If the server is not there.
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

    /// Stops the server at once, as a crash would: sessions are cut, what was committed stays.
    ///
    /// # Errors
    /// If the keeper of the server is gone.
    pub fn stop(&self) -> Result<()> {
        ensure!(self.keeper().order("stop")?, "PostgreSQL did not stop");
        Ok(())
    }

    /// Stops the server at once, if it runs, and starts it again on the same port.
    ///
    /// # Errors
    /// If it won't start; the error ends with the server's log.
    pub fn restart(&self) -> Result<()> {
        let mut keeper = self.keeper();
        keeper.order("stop")?;
        // Another process may have taken the port for a moment.
        for _ in 0..50 {
            match keeper.start_on(self.port, &self.folder)? {
                Started::Yes => return Ok(()),
                Started::PortTaken => thread::sleep(Duration::from_millis(100)),
            }
        }
        bail!("port {} was taken while PostgreSQL was down", self.port)
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Never first in the name, so that a hint of digits or of nothing makes a name too.
        format!("t_{hint}_{number}")
    }
}

/// The shell of [`KEEPER`] and the pipes to it.
#[derive(Debug)]
struct Keeper {
    shell: Child,
    /// None once it is being dropped: that is what tells the shell to end.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

enum Started {
    Yes,
    PortTaken,
}

impl Keeper {
    /// Starts the shell; returns it with the folder it made.
    fn spawn() -> Result<(Self, PathBuf)> {
        let mut command = without_pg_variables(Command::new("sh"));
        command.args(["-c", KEEPER, "ethtally-postgres"]).arg(server_programs()?);
        if runs_as_root() {
            // The server refuses to be root. setpriv becomes the server, where su and runuser would stay its parent.
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
            // Out of reach of a Ctrl-C or a kill that is meant for the tests: it must outlive them to clean up.
            .process_group(0)
            .spawn()
            .context("cannot run sh")?;
        let mut keeper = Self {
            orders: shell.stdin.take(),
            answers: BufReader::new(shell.stdout.take().context("sh has no stdout")?),
            shell,
        };
        let folder = keeper.answer()?;
        ensure!(!folder.is_empty(), "cannot make a temporary folder for PostgreSQL");
        Ok((keeper, PathBuf::from(folder)))
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the keeper of PostgreSQL is gone")?;
        Ok(line.trim_end().to_owned())
    }

    fn order(&mut self, order: &str) -> Result<bool> {
        let orders = self.orders.as_mut().context("the keeper of PostgreSQL is going")?;
        writeln!(orders, "{order}").context("the keeper of PostgreSQL is gone")?;
        match self.answer()?.as_str() {
            "ok" => Ok(true),
            "failed" => Ok(false),
            _ => bail!("the keeper of PostgreSQL is gone"),
        }
    }

    fn start_on(&mut self, port: u16, folder: &Path) -> Result<Started> {
        let logged = log_from(folder, 0).len();
        if self.order(&format!("start {port}"))? {
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
            // Below the range that outgoing connections get their ports from, so that none takes it during a restart.
            let port = 20_000 + u16::try_from(RandomState::new().build_hasher().finish() % 12_000)?;
            // A look first: it is quicker than a server that won't start. What happens after the look, start_on sees.
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

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.shell.wait();
    }
}

fn configure(data: &Path, settings: &[(&str, &str)]) -> Result<()> {
    let mut lines = String::new();
    for (setting, value) in SETTINGS.iter().chain(settings) {
        // The last line of a setting counts.
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
             host all all 127.0.0.1/32 trust\n"
        ),
    )
    .context("cannot write pg_hba.conf")
}

fn log_from(folder: &Path, from: usize) -> String {
    let log = fs::read(folder.join("log")).unwrap_or_default();
    String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned()
}

/// The folder that holds `initdb` and `postgres`: one of PATH, else the newest of Debian's.
fn server_programs() -> Result<PathBuf> {
    path_folders()
        .into_iter()
        .chain(debian_folders())
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .context(
            "there is no PostgreSQL server on this machine: run tests/testbed/install-postgres",
        )
}

/// `psql`: the server's own, else one of PATH or of Debian's.
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

/// Whether a file that this process makes belongs to root: std has no getuid.
fn runs_as_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// PGHOST, PGOPTIONS and their like would lead the programs astray.
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
