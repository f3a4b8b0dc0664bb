//! The build script: finds the commit that is built, for `ethtally --version`.
//!
//! The commit is, in this order, that of the variable `ETHTALLY_COMMIT`, which packagers set; that of
//! `.cargo_vcs_info.json`, which cargo puts into a published package; or git's. Without any of them the version
//! stands alone. The crate sees `ETHTALLY_VERSION`, such as `0.1.0 (0123456789ab)`, and `ETHTALLY_COMMIT`, empty if
//! unknown.

use std::{env, fs, path::Path, process::Command};

/// Set by packagers who build without git; empty to leave the commit out.
const VARIABLE: &str = "ETHTALLY_COMMIT";

/// Written by `cargo package`.
const PACKAGED: &str = ".cargo_vcs_info.json";

/// How many digits of a commit are shown.
const DIGITS: usize = 12;

fn main() {
    // With this line cargo runs the script again only if what it names has changed.
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    let version = env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    let commit = commit();
    let shown = match &commit {
        Some(commit) => format!("{version} ({commit})"),
        None => version,
    };
    println!("cargo:rustc-env=ETHTALLY_VERSION={shown}");
    println!("cargo:rustc-env={VARIABLE}={}", commit.unwrap_or_default());
}

fn commit() -> Option<String> {
    if let Ok(given) = env::var(VARIABLE) {
        let given = given.trim().to_lowercase();
        let commit = shortened(&given);
        assert!(
            given.is_empty() || commit.is_some(),
            "{VARIABLE} must be a commit of at least 7 hexadecimal digits"
        );
        return commit;
    }
    if Path::new(PACKAGED).exists() {
        println!("cargo:rerun-if-changed={PACKAGED}");
        let info = fs::read_to_string(PACKAGED).ok()?;
        let (_, rest) = info.split_once("\"sha1\"")?;
        return shortened(rest.split('"').nth(1)?);
    }
    // A copy of the sources in another project's repository is not of that project's commit.
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    // Every commit and checkout adds a line to the log. Cargo takes a missing file for a changed one.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    shortened(&git(&["rev-parse", "HEAD"])?)
}

fn shortened(commit: &str) -> Option<String> {
    let is_one = commit.len() >= 7 && commit.chars().all(|digit| digit.is_ascii_hexdigit());
    is_one.then(|| commit.chars().take(DIGITS).collect())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
    Some(text.trim_end().to_owned())
}
