//! What ethtally depends on, and that a build takes exactly that.

use std::{fs, process::Command};

use serde_json::Value;

use crate::support::{root, run};

const CONFIG: &str = include_str!("deny.toml");

/// Runs `cargo deny` with this configuration, without a network.
fn deny(config: &str) -> Result<(), String> {
    let deny = root().join("target/testbed/bin/cargo-deny");
    assert!(
        deny.exists(),
        "cargo-deny is missing: tests/testbed/install-release-tools installs it"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), config).unwrap();
    let mut deny = Command::new(deny);
    deny.args(["--offline", "--locked", "--config"]).arg(file.path());
    deny.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    let ran = deny.current_dir(root()).output().expect("it starts");
    if ran.status.success() { Ok(()) } else { Err(String::from_utf8(ran.stderr).unwrap()) }
}

#[test]
fn licences_sources_bans_and_duplicates_are_the_known_ones() {
    if let Err(what) = deny(CONFIG) {
        panic!("{what}");
    }
}

#[test]
fn whatever_is_not_known_is_refused() {
    let remove = |line: &str| {
        assert!(CONFIG.contains(line), "{line}");
        CONFIG.lines().filter(|other| !other.contains(line)).collect::<Vec<_>>().join("\n")
    };
    let instead = |from: &str, to: &str| {
        assert!(CONFIG.contains(from), "{from}");
        CONFIG.replace(from, to)
    };
    for (config, expected) in [
        (remove("\"Unicode-3.0\""), "error[rejected]"),
        (remove("\"syn@2\""), "error[duplicate]"),
        (remove("allow-registry"), "error[source-not-allowed]"),
        (instead("\"native-tls\"", "\"ring\""), "error[banned]"),
    ] {
        // Without the key, crates.io is allowed.
        let config = config.replace("unknown-git =", "allow-registry = []\nunknown-git =");
        let config = if expected.contains("source") {
            config
        } else {
            config.replace("allow-registry = []\n", "")
        };
        let what = deny(&config).expect_err(expected);
        assert!(what.contains(expected), "{what}");
    }
}

fn metadata() -> Value {
    let arguments = ["metadata", "--locked", "--offline", "--format-version", "1"];
    let text = run(Command::new(env!("CARGO")).args(arguments).current_dir(root()));
    serde_json::from_str(&text).expect("JSON")
}

/// The numbers of a version.
fn numbers(version: &str) -> Vec<u32> {
    let numbers = version.split(['.', '-']).map_while(|number| number.parse().ok());
    numbers.take(2).collect()
}

/// Without that toolchain this is what can be checked: the tests run on it or a newer one, no dependency asks for a newer
/// one, and clippy refuses what the standard library got later.
#[test]
fn the_minimum_version_of_rust_is_stated_and_no_dependency_asks_for_more() {
    let stated = numbers(env!("CARGO_PKG_RUST_VERSION"));
    let rustc = run(Command::new("rustc").arg("--version"));
    assert!(numbers(rustc.split(' ').nth(1).unwrap()) >= stated, "{rustc}");

    for package in metadata()["packages"].as_array().unwrap() {
        if let Some(version) = package["rust_version"].as_str() {
            assert!(numbers(version) <= stated, "{} needs Rust {version}", package["name"]);
        }
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let words = format!("Rust {} or later", env!("CARGO_PKG_RUST_VERSION"));
    assert!(readme.contains(&words), "README.md: {words}");
    let clippy = "-D warnings";
    assert!(fs::read_to_string(root().join(".ci/run")).unwrap().contains(clippy));
}

/// The subcommands of cargo that resolve dependencies.
const RESOLVING: [&str; 14] = [
    "bench", "build", "check", "clippy", "deny", "doc", "fetch", "install", "metadata", "package",
    "run", "rustc", "test", "tree",
];

/// The command lines of cargo in a text that have arguments, or stand alone.
fn cargo_lines(text: &str) -> Vec<&str> {
    let commands = text.split('\n').flat_map(|line| line.split('`')).filter_map(|part| {
        let (before, command) = part.split_once("cargo ")?;
        let is_word = before.is_empty() || before.ends_with([' ', '(', '\'', '"']);
        let (name, rest) = command.split_once(' ')?;
        (is_word && RESOLVING.contains(&name) && rest.contains('-')).then_some(command)
    });
    commands.collect()
}

#[test]
fn every_command_line_of_cargo_has_locked() {
    let files = run(Command::new("git").args(["ls-files", "-z"]).current_dir(root()));
    let mut seen = 0;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let Ok(text) = fs::read_to_string(root().join(file)) else { continue };
        let text = text.replace("\\\n", " ");
        for command in cargo_lines(&text) {
            seen += 1;
            assert!(command.contains("--locked"), "{file}: cargo {command}");
        }
    }
    assert!(seen > 15, "only {seen} were found");
}
