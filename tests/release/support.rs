//! The files of a release, and what several tests do with them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use ethtally_testbed::Chain;
use tokio::sync::OnceCell;

/// The target of a release.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command that must succeed; returns its output.
pub(crate) fn run(command: &mut Command) -> String {
    let ran = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(ran.status.success(), "{command:?}: {}\n{}", ran.status, text(&ran.stderr));
    text(&ran.stdout)
}

/// The files of a release: those in the folder of the variable `RELEASE_FILES`, as `cron/release --check` sets it;
/// else made from the binary of the tests, which differs from a release in that it is not static.
pub(crate) struct Release {
    folder: PathBuf,
    /// Libraries that the binary needs, with the program that loads them.
    pub(crate) libraries: Vec<PathBuf>,
}

impl Release {
    pub(crate) fn files() -> &'static Self {
        static RELEASE: OnceLock<Release> = OnceLock::new();
        RELEASE.get_or_init(|| match std::env::var_os("RELEASE_FILES") {
            Some(folder) => Self { folder: folder.into(), libraries: Vec::new() },
            None => {
                let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("release");
                let binary = env!("CARGO_BIN_EXE_ethtally");
                let mut release = Command::new(root().join("cron/release"));
                run(release.args(["--binary", binary, "--out"]).arg(&folder));
                Self { folder, libraries: libraries_of(binary) }
            }
        })
    }

    /// True if the binary is that of a release.
    pub(crate) fn is_real(&self) -> bool {
        self.libraries.is_empty()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn name() -> String {
        format!("ethtally-{}-{TARGET}", env!("CARGO_PKG_VERSION"))
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.file(&format!("{}.tar.gz", Self::name()))
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.file(concat!("ethtally-", env!("CARGO_PKG_VERSION"), "-image.tar"))
    }

    /// Unpacks the archive into a folder.
    pub(crate) fn unpack(&self, into: &Path) -> PathBuf {
        run(Command::new("tar").arg("-xzf").arg(self.archive()).arg("-C").arg(into));
        into.join(Self::name())
    }

    /// Copies the libraries to where the binary looks for them below another root.
    pub(crate) fn add_libraries(&self, root: &Path) {
        for library in &self.libraries {
            let copy = root.join(library.strip_prefix("/").unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(library, copy).unwrap();
        }
    }
}

/// The paths in what ldd prints, such as `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)`.
pub(crate) fn libraries_of(binary: &str) -> Vec<PathBuf> {
    let text = run(Command::new("ldd").arg(binary));
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}

/// One entry of an archive.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) mode: String,
    pub(crate) owner: String,
    pub(crate) time: String,
    pub(crate) name: String,
}

/// What an archive holds.
pub(crate) fn entries(archive: &Path) -> Vec<Entry> {
    let mut tar = Command::new("tar");
    tar.env("TZ", "UTC").args(["--numeric-owner", "--full-time", "-tvf"]).arg(archive);
    let entries = run(&mut tar);
    let entries = entries.lines().map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let mut next = || words.next().expect("a word");
        let (mode, owner, _size) = (next(), next(), next());
        Entry { mode, owner, time: format!("{}T{}Z", next(), next()), name: next() }
    });
    entries.collect()
}

/// The time of the commit, which all parts of a release have.
pub(crate) fn commit_time() -> String {
    let format = ["log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"];
    let time = run(Command::new("git").args(format).env("TZ", "UTC").current_dir(root()));
    time.trim().to_owned()
}

/// The commit that is checked out.
pub(crate) fn commit() -> String {
    let commit = run(Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root()));
    commit.trim().to_owned()
}

/// A shared chain, by the name of this machine: names are resolved too.
pub(crate) async fn node() -> String {
    static CHAIN: OnceCell<Chain> = OnceCell::const_new();
    let chain = CHAIN.get_or_init(async || Chain::builder().start().await.expect("a chain")).await;
    chain.url().replace("127.0.0.1", "localhost")
}
