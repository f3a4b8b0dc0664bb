//! The house keeps its shape: who may know whom, and that what is written for people runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Parser;
use ethtally::cli::Cli;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of a module: `src/NAME.rs`, and all below `src/NAME`.
fn files_of(module: &str) -> Vec<PathBuf> {
    let mut files = vec![root().join(format!("src/{module}.rs"))];
    let mut folders = vec![root().join("src").join(module)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.retain(|file| file.is_file() && file.extension().is_some_and(|ending| ending == "rs"));
    assert!(!files.is_empty(), "no module {module}");
    files
}

/// The crate's modules that the code of a module names.
fn known_to(module: &str) -> Vec<&'static str> {
    const MODULES: [&str; 11] = [
        "chain", "cli", "commands", "follow", "intake", "monitor", "profile", "redact", "report",
        "store", "tally",
    ];
    let text: String =
        files_of(module).iter().map(|file| fs::read_to_string(file).expect("a text")).collect();
    // `use crate::{a, b::c}` is spread over lines by rustfmt; names of items begin in upper case.
    let named = |other: &&str| {
        let group = text.split("use crate::{").skip(1).filter_map(|rest| rest.split("};").next());
        text.contains(&format!("crate::{other}::"))
            || text.contains(&format!("crate::{other};"))
            || group.into_iter().any(|group| {
                group.split([',', '{', '}', '\n']).any(|part| {
                    let part = part.trim();
                    part == *other || part.starts_with(&format!("{other}::"))
                })
            })
    };
    MODULES.into_iter().filter(|other| *other != module).filter(named).collect()
}

#[test]
fn modules_know_only_whom_they_may() {
    let allowed: [(&str, &[&str]); 9] = [
        ("tally", &[]),
        ("redact", &[]),
        ("follow", &["tally"]),
        ("profile", &["tally"]),
        ("intake", &["tally"]),
        ("store", &["follow", "redact", "tally"]),
        ("chain", &["follow", "profile", "redact", "tally"]),
        ("monitor", &["follow", "redact"]),
        ("report", &["redact", "tally"]),
    ];
    for (module, allowed) in allowed {
        let known = known_to(module);
        assert!(known.iter().all(|other| allowed.contains(other)), "{module} knows {known:?}");
    }
    // That the search finds what is there.
    assert_eq!(known_to("report"), ["redact", "tally"]);
    assert_eq!(known_to("monitor"), ["follow", "redact"]);
}

#[test]
fn sql_stands_in_the_store_only() {
    for module in [
        "chain", "cli", "commands", "follow", "intake", "monitor", "profile", "redact", "report",
        "tally",
    ] {
        for file in files_of(module) {
            let text = fs::read_to_string(&file).expect("a text");
            assert!(!text.contains("sqlx"), "{}", file.display());
        }
    }
}

/// The command lines of ethtally in a text for people: what stands between backticks, or from
/// its name to the end of the line.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let spans =
        text.split('`').filter(|span| span.starts_with("ethtally ") && !span.contains('\n'));
    let lines = text.lines().filter_map(|line| {
        let (before, _) = line.split_once("ethtally ")?;
        // In a crontab times stand before it, and a path in a unit file.
        let shown = before.chars().all(|c| c.is_ascii_digit() || "$* /usrbin".contains(c))
            || before.starts_with("ExecStart=")
            || before.ends_with("&& ")
            || before.ends_with("$(");
        (shown && !before.is_empty()).then(|| &line[before.len()..])
    });
    let words = |line: &str| {
        let end = line.find([';', '|', '>', '#', '<', ')']).unwrap_or(line.len());
        // What follows several spaces is a remark.
        let command = line[..end].split("   ").next().unwrap_or_default();
        command.split_whitespace().map(example_for).collect()
    };
    spans.chain(lines).map(words).collect()
}

/// A value for what a text leaves open.
fn example_for(word: &str) -> String {
    match word {
        "ADDR" | "ADDR..." => "0x18aaa7115705e8be94bffebde57af9bfc265b998",
        "N" => "3",
        "SHELL" => "bash",
        word => word.trim_end_matches(['.', ':', ',']),
    }
    .to_owned()
}

#[test]
fn every_command_line_that_is_shown_to_people_is_one() {
    for (file, at_least) in [
        ("README.md", 15),
        ("cron/crontab", 3),
        ("cron/ethtally-sweep.service", 1),
        ("cron/ethtally-watch.service", 1),
        ("src/cli.rs", 18),
    ] {
        let text = fs::read_to_string(root().join(file)).expect("a text");
        let mut seen = 0;
        for words in command_lines(&text) {
            if words.iter().any(|word| word.contains('$')) {
                continue;
            }
            seen += 1;
            if let Err(error) = Cli::try_parse_from(&words) {
                assert!(!error.use_stderr(), "{file}: {words:?}: {error}");
            }
        }
        assert!(seen >= at_least, "only {seen} command lines were found in {file}");
    }
}

#[test]
fn the_arguments_in_the_kubernetes_manifests_are_the_programs() {
    let text = fs::read_to_string(root().join("cron/kubernetes.yaml")).expect("a text");
    let lines: Vec<_> =
        text.lines().filter_map(|line| line.trim().strip_prefix("args: ")).collect();
    assert_eq!(lines.len(), 4);
    for line in lines {
        let arguments: Vec<String> = serde_json::from_str(line).expect("a list of texts");
        // Kubernetes sets the variable from which a shard's number comes.
        let arguments =
            arguments.into_iter().map(|word| if word == "/4" { "0/4".into() } else { word });
        Cli::try_parse_from(["ethtally".to_owned()].into_iter().chain(arguments))
            .expect("it parses");
    }
}
