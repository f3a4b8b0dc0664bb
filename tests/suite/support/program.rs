//! Runs the program as a user does, and waits for its effects.

use std::{
    fmt::Debug,
    io::Write,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{database::Database, wallets::address};

/// All commands, in the order of the help.
pub(crate) const COMMANDS: [&str; 12] = [
    "migrate",
    "sweep",
    "refresh",
    "backfill",
    "verify",
    "watch",
    "status",
    "doctor",
    "snapshot",
    "profile",
    "completions",
    "man",
];

/// Prepares a run with these arguments, without any settings from the environment.
pub(crate) fn ethtally<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Ethtally {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ethtally"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    // A chain that many tests share stands still for as long as they run.
    command.env("ETHTALLY_MAX_HEAD_AGE", "3h");
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

    /// Takes a variable away.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Sets the working directory.
    pub(crate) fn folder(mut self, path: &std::path::Path) -> Self {
        self.command.current_dir(path);
        self
    }

    pub(crate) fn input(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.input = text.into();
        self
    }

    /// Runs it until it ends.
    pub(crate) fn run(self) -> Output {
        self.start().wait()
    }

    /// Runs it until it ends; `watch` for a moment, as it waits for a node that fails.
    pub(crate) fn run_or_stop(self) -> Output {
        let is_watch = self.command.get_args().any(|argument| argument == "watch");
        let mut running = self.start();
        let began = Instant::now();
        while is_watch && !running.has_ended() {
            if began.elapsed() > Duration::from_millis(1_500) {
                running.signal("TERM");
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        running.wait()
    }

    /// Starts it in the background.
    pub(crate) fn start(mut self) -> Running {
        let shown = format!("{:?}", self.command.get_args().collect::<Vec<_>>());
        let mut child = self.command.spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = self.input;
        // In a thread: the program may end before it has read all of its input.
        std::thread::spawn(move || stdin.write_all(&input));
        Running { child: Some(child), shown }
    }
}

/// A run in progress. Dropping it kills the process: some never end on their own, and a failed test must
/// leave nothing behind.
pub(crate) struct Running {
    child: Option<Child>,
    shown: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Running {
    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("the process was not waited for")
    }

    /// Sends a signal by name, such as `TERM` or `KILL`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("the process was not waited for").id();
        let sent = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Its output streams, to be read while it runs.
    pub(crate) fn output(&mut self) -> (ChildStdout, ChildStderr) {
        let streams = (self.child().stdout.take(), self.child().stderr.take());
        (streams.0.expect("stdout is piped"), streams.1.expect("stderr is piped"))
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child().try_wait().expect("the status can be read").is_some()
    }

    pub(crate) fn wait(mut self) -> Output {
        use std::os::unix::process::ExitStatusExt;
        let child = self.child.take().expect("the process was not waited for");
        let output = child.wait_with_output().expect("the output can be read");
        Output {
            shown: std::mem::take(&mut self.shown),
            status: output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }
}

/// The status and output of a run that has ended.
#[derive(Debug)]
pub(crate) struct Output {
    shown: String,
    /// The exit status, or the negative number of the signal that killed it.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Panics with all output unless it ended with this status.
    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(
            self.status, status,
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.shown, self.stdout, self.stderr
        );
        self
    }

    /// The JSON object on stdout, which must be one line, without what every result says of its run: that is
    /// [`Output::conclusion`].
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        self.result().0
    }

    /// Stdout, without what every JSON result says of its run; empty if a run that failed had nothing else to say.
    pub(crate) fn own(&self) -> String {
        match self.stdout.rsplit_once(",\"time\":\"20") {
            Some((own, _)) if own.starts_with("{\"command\":") && !own.contains(',') => {
                String::new()
            }
            Some((own, _)) => format!("{own}}}\n"),
            None => self.stdout.clone(),
        }
    }

    /// Profile, outcome and error of the JSON object on stdout.
    #[track_caller]
    pub(crate) fn conclusion(&self) -> Value {
        self.result().1
    }

    /// Splits the JSON object on stdout, and checks what can be checked of its end.
    #[track_caller]
    fn result(&self) -> (Value, Value) {
        assert_eq!(self.stdout.lines().count(), 1, "one line on stdout: {self:?}");
        let mut own: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let fields = own.as_object_mut().expect("an object");
        let mut take = |name: &str| {
            fields.remove(name).unwrap_or_else(|| panic!("{name} is missing: {self:?}"))
        };
        let time = take("time").to_string().trim_matches('"').to_owned();
        assert!(
            time.ends_with('Z') && chrono::DateTime::parse_from_rfc3339(&time).is_ok(),
            "{time}"
        );
        assert_eq!(take("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(take("exit_status"), self.status, "{self:?}");
        let error = take("error");
        if let Some(error) = error.as_str() {
            assert_eq!(format!("error: {error}"), self.error(), "{self:?}");
        }
        let ended = json!({"profile": take("profile"), "outcome": take("outcome"), "error": error});
        (own, ended)
    }

    /// The error line, without its time. Stderr must contain exactly one line that starts with `error:`, and no panic.
    #[track_caller]
    pub(crate) fn error(&self) -> String {
        let lines = self.stderr.lines().map(unstamped);
        let errors: Vec<_> = lines.filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "one error line: {self:?}");
        // What a panic prints, once it is caught and before.
        let is_panic = |text: &str| text.contains("internal error") || text.contains("panicked");
        assert!(!is_panic(&self.stderr), "{self:?}");
        errors[0].clone()
    }

    /// The error line of a refused run: exit status 2, nothing on stdout, one line on stderr.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        let output = self.expect(2);
        assert_eq!((output.own().as_str(), output.stderr.lines().count()), ("", 1), "{output:?}");
        output.error()
    }

    /// The line on stdout with its milliseconds, which differ between runs, replaced by `N`.
    #[track_caller]
    pub(crate) fn without_time(&self) -> String {
        let own = self.own();
        let (mark, end) =
            if own.starts_with('{') { ("\"elapsed_ms\":", ",") } else { (" in ", " ms") };
        let (before, rest) = own.split_once(mark).expect("milliseconds");
        let (time, after) = rest.split_once(end).expect("text after the milliseconds");
        assert!(!time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit()), "{time}");
        format!("{before}{mark}N{end}{}", after.trim_end_matches('\n'))
    }
}

/// A line of the log as it is without `-v`: `error: …` for one with a time and the level ERROR, and so on.
pub(crate) fn unstamped(line: &str) -> String {
    let Some((time, rest)) = line.split_once(' ') else { return line.to_owned() };
    let kinds =
        [("ERROR ", "error"), ("WARN  ", "warning"), ("INFO  ", "note"), ("DEBUG ", "debug")];
    let is_time = time.ends_with('Z') && chrono::DateTime::parse_from_rfc3339(time).is_ok();
    let kind = kinds.iter().find(|(level, _)| is_time && rest.starts_with(level));
    kind.map_or_else(
        || line.to_owned(),
        |(level, kind)| format!("{kind}: {}", &rest[level.len()..]),
    )
}

/// `refresh --json` of the first wallets, in their order.
pub(crate) fn refresh_first(wallets: u64, options: &[&str]) -> Ethtally {
    let addresses: Vec<_> = (0..wallets).map(address).collect();
    let addresses = addresses.iter().map(String::as_str);
    ethtally(["refresh", "--json"].into_iter().chain(options.iter().copied()).chain(addresses))
}

/// `sweep --json` of this database.
pub(crate) fn sweep(database: &Database, node: &str, options: &[&str]) -> Ethtally {
    ethtally([&["sweep", "--json"], options].concat()).node(node).database(database)
}

/// `sweep --all --json` of this database.
pub(crate) fn sweep_all(database: &Database, node: &str, options: &[&str]) -> Ethtally {
    sweep(database, node, &[&["--all"], options].concat())
}

/// Waits until `condition` is true, for a minute at most.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "timed out: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The same for a condition that is async.
pub(crate) async fn eventually_async(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(60), "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
