//! The real program as a process: built if need be, run, and measured from outside.

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

/// How often a running process is looked at.
const LOOK: Duration = Duration::from_millis(10);

pub(crate) struct Program {
    path: PathBuf,
}

/// Command line and environment of one run.
pub(crate) struct Order {
    arguments: Vec<OsString>,
    settings: Vec<(&'static str, String)>,
}

/// What one or several processes did that ran at once.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Until the last of them ended.
    pub(crate) time: Duration,
    /// `eth_call`s of all.
    pub(crate) calls: u64,
    /// Time on a processor, user's and system's, of all.
    pub(crate) cpu: Duration,
    /// Of the largest, if the system says.
    pub(crate) peak_kib: Option<u64>,
}

impl Order {
    pub(crate) fn new(words: &str) -> Self {
        Self { arguments: words.split(' ').map(Into::into).collect(), settings: Vec::new() }
    }

    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable; the last word counts.
    pub(crate) fn set(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((variable, value.into()));
        self
    }
}

impl Program {
    /// Builds the program as this example was built, which takes a moment if that was done before.
    pub(crate) fn build() -> anyhow::Result<Self> {
        // TARGET/release/examples/bench
        let example = env::current_exe()?;
        let folder = example.parent().and_then(Path::parent).context("no folder above")?;
        let target = folder.parent().context("no folder above")?;
        let mut cargo = Command::new(env!("CARGO"));
        // With the example, which is there already: without it, cargo would build every library anew
        // that the tests' packages ask more features of.
        cargo.args(["build", "--quiet", "--bin", "ethtally", "--example", "bench"]);
        cargo.arg("--manifest-path");
        cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        cargo.arg("--target-dir").arg(target);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        // What `cargo run` tells this example of itself is news to build scripts, and they would start anew.
        for (variable, _) in env::vars_os() {
            let name = variable.to_string_lossy();
            if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|prefix| name.starts_with(prefix)) {
                cargo.env_remove(&variable);
            }
        }
        let status = cargo.status().context("cannot run cargo")?;
        ensure!(status.success(), "ethtally was not built: cargo ended with {status}");
        Ok(Self { path: folder.join("ethtally") })
    }

    /// Runs one process for each of these, all at once, until the last has ended.
    pub(crate) fn run(&self, orders: &[Order]) -> anyhow::Result<Ran> {
        let before = children_cpu()?;
        let started = Instant::now();
        let mut processes = Processes(Vec::new());
        for order in orders {
            processes.0.push(self.start(order)?);
        }
        let mut peak_kib = None;
        while !processes.ended()? {
            peak_kib = peak_kib.max(processes.peak_kib());
            thread::sleep(LOOK);
        }
        let time = started.elapsed();
        let mut calls = 0;
        for process in processes.0.drain(..) {
            let output = process.wait_with_output()?;
            ensure!(output.status.success(), "the program ended with {}", output.status);
            let result: Value = serde_json::from_slice(&output.stdout)?;
            ensure!(result["failed"] == 0, "wallets could not be read: {result}");
            calls += result["calls"].as_u64().context("a result without calls")?;
        }
        Ok(Ran { time, calls, cpu: children_cpu()?.saturating_sub(before), peak_kib })
    }

    fn start(&self, order: &Order) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.path);
        // Settings of the one who runs the benchmark are not for this.
        for (variable, _) in env::vars_os() {
            let name = variable.to_string_lossy();
            if ["ETHTALLY_", "ETH_"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&variable);
            }
        }
        command
            .args(&order.arguments)
            // Nor does anybody need its bars.
            .args(["--json", "--quiet"])
            .envs(order.settings.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command.spawn().with_context(|| format!("cannot run {}", self.path.display()))
    }
}

/// Running processes. They end when this is dropped.
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

/// The most memory that a running process has had so far, from Linux's /proc.
fn peak_kib(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The time on a processor of all processes that were started here and have ended: nothing but the
/// program ends while it runs.
fn children_cpu() -> anyhow::Result<Duration> {
    cpu(UsageWho::RUSAGE_CHILDREN)
}

/// The time on a processor of this process.
pub(crate) fn own_cpu() -> anyhow::Result<Duration> {
    cpu(UsageWho::RUSAGE_SELF)
}

fn cpu(who: UsageWho) -> anyhow::Result<Duration> {
    let usage = getrusage(who)?;
    let time = usage.user_time() + usage.system_time();
    Ok(Duration::from_micros(time.num_microseconds().unsigned_abs()))
}
