//! Builds the real program, runs it as a process, and measures it from outside.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::Value;

/// Interval between looks at a running process.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

pub(crate) struct Program {
    path: PathBuf,
}

/// Command line and environment of one run.
pub(crate) struct CommandLine {
    arguments: Vec<OsString>,
    settings: Vec<(&'static str, String)>,
}

/// The measurements of one or several concurrent processes.
#[derive(Debug)]
pub(crate) struct Usage {
    /// Until the last of them ended.
    pub(crate) time: Duration,
    /// `eth_call`s of all processes.
    pub(crate) calls: u64,
    /// User and system CPU time of all processes.
    pub(crate) cpu: Duration,
    /// Peak memory of the largest process, if known.
    pub(crate) peak_kib: Option<u64>,
}

impl CommandLine {
    pub(crate) fn new(arguments: &str) -> Self {
        Self { arguments: arguments.split(' ').map(Into::into).collect(), settings: Vec::new() }
    }

    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable; the last value wins.
    pub(crate) fn set(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((variable, value.into()));
        self
    }
}

impl Program {
    /// Builds the program with the profile of this example.
    pub(crate) fn build() -> anyhow::Result<Self> {
        // TARGET/release/examples/bench
        let example = env::current_exe()?;
        let folder = example.parent().and_then(Path::parent).context("no parent folder")?;
        let target = folder.parent().context("no parent folder")?;
        let mut cargo = Command::new(env!("CARGO"));
        // Together with the example, which is built already: otherwise cargo would rebuild every library for
        // which the tests enable more features.
        cargo.args(["build", "--locked", "--quiet", "--bin", "ethtally", "--example", "bench"]);
        cargo.arg("--manifest-path");
        cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        cargo.arg("--target-dir").arg(target);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        // The variables that `cargo run` sets for this example would make build scripts run again.
        for (variable, _) in env::vars_os() {
            let name = variable.to_string_lossy();
            if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|prefix| name.starts_with(prefix)) {
                cargo.env_remove(&variable);
            }
        }
        let status = cargo.status().context("cannot run cargo")?;
        ensure!(status.success(), "cannot build ethtally: cargo ended with {status}");
        Ok(Self { path: folder.join("ethtally") })
    }

    /// A program that was built already.
    pub(crate) const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Runs a process for each command line, all concurrently, until the last one ends.
    pub(crate) fn run(&self, commands: &[CommandLine]) -> anyhow::Result<Usage> {
        let before = children_cpu()?;
        let started = Instant::now();
        let mut processes = Processes(Vec::new());
        for command in commands {
            processes.0.push(self.start(command)?);
        }
        let mut peak_kib = None;
        while !processes.ended()? {
            peak_kib = peak_kib.max(processes.peak_kib());
            thread::sleep(POLL_INTERVAL);
        }
        let time = started.elapsed();
        let mut calls = 0;
        for process in processes.0.drain(..) {
            let output = process.wait_with_output()?;
            ensure!(output.status.success(), "ethtally ended with {}", output.status);
            let result: Value = serde_json::from_slice(&output.stdout)?;
            // `migrate` has neither.
            let number = |name: &str| result[name].as_u64().unwrap_or(0);
            ensure!(number("failed") == 0, "wallets could not be read: {result}");
            calls += number("calls");
        }
        Ok(Usage { time, calls, cpu: children_cpu()?.saturating_sub(before), peak_kib })
    }

    fn start(&self, line: &CommandLine) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.path);
        // Without the user's settings.
        for (variable, _) in env::vars_os() {
            let name = variable.to_string_lossy();
            if ["ETHTALLY_", "ETH_"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&variable);
            }
        }
        command
            .args(&line.arguments)
            // Without progress bars.
            .args(["--json", "--quiet"])
            .envs(line.settings.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command.spawn().with_context(|| format!("cannot run {}", self.path.display()))
    }
}

/// Running processes, which are killed when this is dropped.
struct Processes(Vec<Child>);

impl Processes {
    fn ended(&mut self) -> anyhow::Result<bool> {
        let mut ended = true;
        for process in &mut self.0 {
            ended &= process.try_wait()?.is_some();
        }
        Ok(ended)
    }

    fn peak_kib(&self) -> Option<u64> {
        self.0.iter().filter_map(|process| peak_kib(process.id())).max()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The peak memory of a running process so far, from Linux's /proc.
fn peak_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The CPU time of all child processes that have ended. No other child ends during a measurement.
fn children_cpu() -> anyhow::Result<Duration> {
    cpu(UsageWho::RUSAGE_CHILDREN)
}

/// The CPU time of this process.
pub(crate) fn own_cpu() -> anyhow::Result<Duration> {
    cpu(UsageWho::RUSAGE_SELF)
}

fn cpu(who: UsageWho) -> anyhow::Result<Duration> {
    let usage = getrusage(who)?;
    let time = usage.user_time() + usage.system_time();
    Ok(Duration::from_micros(time.num_microseconds().unsigned_abs()))
}
