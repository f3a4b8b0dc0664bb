//! PgBouncer in front of a PostgreSQL cluster.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ethtally_testbed::postgres::{self, Cluster};
use tempfile::TempDir;

/// A shell script that runs `"$@"` until its input ends, as it does when the process of the tests ends in any way.
const SUPERVISOR: &str = r#"
"$@" </dev/null &
trap 'kill -KILL $!' EXIT
trap 'exit 1' HUP INT TERM
read -r _
"#;

/// A running PgBouncer on 127.0.0.1, with its files in a temporary folder. Dropping it kills it.
pub(crate) struct PgBouncer {
    supervisor: Child,
    port: u16,
    folder: TempDir,
}

impl PgBouncer {
    /// Starts one in front of all databases of a cluster, for every role of it at this moment.
    ///
    /// `pool_mode` is `session`, `transaction` or `statement`; `lines` are appended to its section
    /// `[pgbouncer]`, where the last line of a setting wins, and may begin other sections behind it.
    ///
    /// # Panics
    /// If PgBouncer is not installed or does not start; the message ends with its log.
    pub(crate) fn start(cluster: &Cluster, pool_mode: &str, lines: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        write_settings(folder.path(), cluster, port, pool_mode, lines);
        let mut pooler = Self { supervisor: spawn(folder.path()), port, folder };
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let has_ended = pooler.supervisor.try_wait().expect("its status").is_some();
            let is_late = started.elapsed() > Duration::from_secs(30);
            assert!(!has_ended && !is_late, "PgBouncer did not start:\n{}", pooler.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        pooler
    }

    /// The URL of a database of the cluster, through PgBouncer.
    pub(crate) fn url(&self, direct: &str) -> String {
        let mut url: url::Url = direct.parse().expect("a URL");
        url.set_port(Some(self.port)).expect("a URL with a host");
        url.into()
    }

    /// Runs a command of the admin console, such as `show servers` or `kill tally`, and returns its
    /// rows as [`postgres::psql`] does.
    pub(crate) fn admin(&self, command: &str) -> String {
        let console = format!("postgres://postgres@127.0.0.1:{}/pgbouncer", self.port);
        postgres::psql(&console, command).expect("PgBouncer's console answers")
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // The shell kills PgBouncer at the end of its input.
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

fn write_settings(folder: &Path, cluster: &Cluster, port: u16, pool_mode: &str, lines: &[&str]) {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut text = format!(
        "[databases]\n\
         * = host=127.0.0.1 port={}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = trust\n\
         auth_file = {}\n\
         admin_users = postgres\n\
         logfile = {}\n\
         pool_mode = {pool_mode}\n",
        cluster.port(),
        path("users"),
        path("log"),
    );
    for line in lines {
        writeln!(text, "{line}").expect("a string takes everything");
    }
    fs::write(path("ini"), text).expect("the settings are written");
    // It knows only the roles of this file, and gives their passwords to the server.
    let roles = "select format('\"%s\" \"%s\"', rolname, rolpassword) from pg_authid";
    let users = postgres::psql(&cluster.url("postgres"), roles).expect("the roles are listed");
    fs::write(path("users"), users + "\n").expect("the users are written");
}

/// Starts the shell and, in it, PgBouncer.
fn spawn(folder: &Path) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", SUPERVISOR, "pgbouncer"]);
    if fs::metadata("/proc/self").expect("/proc/self").uid() == 0 {
        // It refuses to run as root. setpriv becomes what it runs, while su would stay its parent.
        let chown = Command::new("chown").args(["-R", "postgres:postgres"]).arg(folder).status();
        assert!(chown.is_ok_and(|status| status.success()), "chown");
        command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]);
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut path: Vec<_> = std::env::split_paths(&on_path).collect();
    // Debian's folder for it.
    path.push("/usr/sbin".into());
    command
        .args(["pgbouncer", "--quiet"])
        .arg(folder.join("ini"))
        .env("PATH", std::env::join_paths(path).expect("a PATH"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A Ctrl-C or kill for the tests must not reach the shell, which outlives them to clean up.
        .process_group(0)
        .spawn()
        .expect("sh runs")
}

/// A port that is free, below the range of outgoing connections, so that none takes it.
fn free_port() -> u16 {
    let ports = std::iter::repeat_with(|| rand::random_range(10_000..20_000_u16));
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    ports.take(100).find(is_free).expect("a free port")
}
