//! The lines of `cron/crontab`, run by Debian's cron with a spool and a mail program of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

/// The crontab as it is delivered.
pub(crate) fn crontab() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cron/crontab");
    fs::read_to_string(path).expect("the crontab")
}

/// One machine: a home directory, its settings, and the crontab that runs there.
pub(crate) struct Machine {
    pub(crate) home: TempDir,
    /// Changes to the crontab's lines.
    edits: Vec<(String, String)>,
}

impl Machine {
    /// A machine with these lines in its `/etc/ethtally.env`.
    pub(crate) fn with(settings: &str) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let settings = format!("ETHTALLY_MAX_HEAD_AGE=3h\n{settings}");
        fs::write(home.path().join("env"), settings).expect("a file");
        Self { home, edits: Vec::new() }
    }

    /// Replaces a part of the crontab, such as a time limit, by a smaller one.
    pub(crate) fn edit(mut self, from: &str, to: &str) -> Self {
        self.edits.push((from.to_owned(), to.to_owned()));
        self
    }

    /// Makes the last success of a command this many minutes old.
    pub(crate) fn succeeded(self, command: &str, minutes_ago: u32) -> Self {
        let mark = self.home.path().join(format!(".ethtally-{command}.ok"));
        let date = format!("{minutes_ago} minutes ago");
        let touched = Command::new("touch").args(["-d", &date]).arg(mark).status();
        assert!(touched.is_ok_and(|status| status.success()));
        self
    }

    /// The crontab with the paths of this machine; every line runs each minute.
    fn crontab(&self) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_ethtally")).parent().expect("a folder");
        let home = self.home.path().display();
        let mut text = crontab();
        for (from, to) in &self.edits {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        let text = text
            .replace("/etc/ethtally.env", &format!("{home}/env"))
            .replace("PATH=/usr/local/bin", &format!("PATH={}:/usr/local/bin", program.display()))
            .replace("METRICS=/var/lib/prometheus/node-exporter", &format!("METRICS={home}"));
        let each_minute = |line: &str| match line.split_once(" * * * * ") {
            Some((minute, run)) if !minute.contains('#') => format!("* * * * * {run}\n"),
            _ => format!("{line}\n"),
        };
        let lines: String = text.lines().map(each_minute).collect();
        format!("HOME={home}\nMAILTO=root\nLOGNAME=root\n{lines}")
    }

    /// Runs each line of the crontab once, as cron would.
    pub(crate) fn run_each_line(&self) {
        let crontab = self.crontab();
        let settings = crontab.lines().filter(|line| !line.starts_with(['#', '*']));
        let settings: Vec<_> = settings.filter_map(|line| line.split_once('=')).collect();
        for line in crontab.lines().filter_map(|line| line.strip_prefix("* * * * * ")) {
            let mut shell = Command::new("bash");
            shell.args(["-c", line]).env_clear().envs(settings.iter().copied());
            let ran = shell.stdin(Stdio::null()).current_dir(self.home.path()).output();
            assert!(ran.expect("bash runs").stderr.is_empty(), "{line}");
        }
    }

    /// The JSON results collected so far.
    pub(crate) fn results(&self) -> String {
        fs::read_to_string(self.home.path().join("ethtally.json")).unwrap_or_default()
    }
}

/// A running cron; it ends when this is dropped.
pub(crate) struct Cron {
    process: Child,
    folder: TempDir,
}

impl Cron {
    /// Starts cron in a mount namespace where the spool and `/usr/sbin/sendmail` are this test's.
    pub(crate) fn start(machines: &[&Machine]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["spool/crontabs", "sbin", "run", "empty", "mail"] {
            fs::create_dir_all(at(name)).expect("a folder");
        }
        let cron = ["/usr/sbin/cron", "/sbin/cron"].map(PathBuf::from);
        let cron = cron.iter().find(|path| path.is_file());
        let cron = cron.expect("cron is missing; run tests/testbed/install-cron");
        fs::copy(cron, at("sbin/cron")).expect("a copy");
        let sendmail =
            format!("#!/bin/sh\nexec cat >\"$(mktemp {}/XXXXXXXX)\"\n", at("mail").display());
        fs::write(at("sbin/sendmail"), sendmail).expect("a file");
        let mode = |path: PathBuf, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        };
        mode(at("sbin/sendmail"), 0o755);
        // Settings hold for the lines below them.
        let tables: String = machines.iter().map(|machine| machine.crontab()).collect();
        fs::write(at("spool/crontabs/root"), tables).expect("a file");
        mode(at("spool/crontabs/root"), 0o600);
        let script = "set -e; cd \"$1\"
            mount --bind spool /var/spool/cron; mount --bind sbin /usr/sbin
            mount --bind run /run; mount --bind empty /etc/cron.d; mount --bind /dev/null /etc/crontab
            exec /usr/sbin/cron -f";
        let process = as_root("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script, "cron"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare runs");
        Self { process, folder }
    }

    /// The mails so far, sorted.
    pub(crate) fn mails(&self) -> Vec<String> {
        let folder = fs::read_dir(self.folder.path().join("mail")).expect("a folder");
        let text = |entry: std::io::Result<fs::DirEntry>| {
            fs::read_to_string(entry.expect("an entry").path()).expect("a text")
        };
        let mut mails: Vec<_> = folder.map(text).collect();
        mails.sort();
        mails
    }

    /// Waits until this is true, for a few of cron's minutes.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..2_400 {
            if condition(self) {
                return;
            }
            let ended = self.process.try_wait().expect("a status");
            assert!(ended.is_none(), "cron has ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("timed out: {what}; mails: {:#?}", self.mails());
    }
}

impl Drop for Cron {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Prepares a program that needs root.
pub(crate) fn as_root(program: &str) -> Command {
    use std::os::unix::fs::MetadataExt;
    if fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}
