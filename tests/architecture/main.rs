//! The shape of the code: which room may use which, and that the command lines shown to people parse.

mod modules;

use std::{fs, path::Path};

use clap::Parser;
use ethtally::cli::Cli;

use self::modules::Modules;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Which rooms a room may use; a room is a module of the crate's root with all below it.
const ALLOWED: [(&str, &[&str]); 16] = [
    ("events", &["follow", "profile", "read", "redact", "rpc", "tally"]),
    ("follow", &["tally"]),
    ("external_sort", &[]),
    ("intake", &["external_sort", "tally"]),
    ("limit", &[]),
    ("monitor", &["follow", "redact", "tally"]),
    ("profile", &["tally"]),
    ("read", &["limit", "profile", "rpc", "tally"]),
    ("redact", &[]),
    ("report", &["redact", "tally"]),
    ("rpc", &["limit", "profile", "redact", "tally"]),
    // A manifest names the identity of a profile.
    ("snapshot", &["external_sort", "profile", "tally"]),
    ("store", &["follow", "redact", "tally"]),
    ("tally", &[]),
    // What other programs use.
    ("totals", &["profile", "read", "redact", "rpc", "tally"]),
    // The command line names choices of other rooms, and nothing else of them.
    ("cli", &["read", "report", "rpc", "tally"]),
];

#[test]
fn rooms_use_only_those_that_they_may() {
    let modules = Modules::of(&root().join("src"));
    for (room, allowed) in ALLOWED {
        let used = modules.rooms_used_by(room);
        assert!(used.iter().all(|other| allowed.contains(&other.as_str())), "{room} uses {used:?}");
    }
    let rooms = modules.rooms();
    let unlisted = rooms.iter().filter(|room| !ALLOWED.iter().any(|(listed, _)| listed == room));
    assert_eq!(unlisted.collect::<Vec<_>>(), ["app", "commands"], "these use everything");
}

#[test]
fn no_modules_form_a_circle() {
    let modules = Modules::of(&root().join("src"));
    let circles: Vec<_> =
        modules.circles().iter().map(|circle| modules.arrows_in(circle)).collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

/// That the search finds what there is to find.
#[test]
fn a_circle_is_found_through_reexports_and_in_paths() {
    let files = |middle: &str| {
        let file = |path: &str, text: &str| {
            let module = path.split("::").filter(|name| !name.is_empty()).map(str::to_owned);
            (module.collect(), text.to_owned())
        };
        vec![
            file("", "pub mod room;"),
            file("room", "mod one; mod two; pub use one::One; pub use two::two;"),
            file("room::one", "pub struct One; fn f() { super::two::two(); }"),
            file("room::two", middle),
        ]
    };
    let through_a_reexport = "use super::One; pub fn two() -> One { todo!() }";
    let in_a_path = "pub fn two() { let _ = crate::room::One; }";
    for middle in [through_a_reexport, in_a_path] {
        assert_eq!(Modules::parse(files(middle)).circles().len(), 1, "{middle}");
    }
    let elsewhere = "use std::fmt::One; pub fn two() {}";
    assert!(Modules::parse(files(elsewhere)).circles().is_empty());
}

#[test]
fn sql_is_in_the_store_only() {
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("store") {
                folders.push(path);
            } else if path.is_file() {
                let text = fs::read_to_string(&path).expect("a text");
                assert!(!text.contains("sqlx"), "{}", path.display());
            }
        }
    }
}

/// The command lines of ethtally in a text for people: what stands between backticks, or from
/// its name to the end of the line.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let spans =
        text.split('`').filter(|span| span.starts_with("ethtally ") && !span.contains('\n'));
    // The crontab has a function that runs it: `once MINUTES COMMAND...`.
    let text = text.lines().map(|line| match line.split_once("\"$ONCE\"; once ") {
        Some((_, run)) => format!("$ ethtally {}", run.trim_start_matches(|c| c != ' ').trim()),
        None => line.to_owned(),
    });
    let text: Vec<String> = text.collect();
    let lines = text.iter().filter_map(|line| {
        let (before, _) = line.split_once("ethtally ")?;
        // A path stands before it in a unit file.
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
fn every_command_line_shown_to_people_parses() {
    for (file, at_least) in [
        ("README.md", 15),
        ("cron/README.md", 5),
        ("src/read/README.md", 2),
        ("src/snapshot/README.md", 2),
        ("cron/crontab", 3),
        ("cron/systemd/ethtally-status.service", 1),
        ("cron/systemd/ethtally-sweep.service", 1),
        ("cron/systemd/ethtally-verify.service", 1),
        ("cron/systemd/ethtally-watch.service", 1),
        ("src/cli/examples.rs", 25),
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
    let mut folders = vec![root().join("cron/kubernetes")];
    let mut commands = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(path).expect("a text");
            for line in text.lines().filter_map(|line| line.trim().strip_prefix("args: ")) {
                let arguments: Vec<String> = serde_json::from_str(line).expect("a list of texts");
                commands.push(arguments[0].clone());
                // Kubernetes sets the variable from which a shard's number comes.
                let arguments = arguments
                    .into_iter()
                    .map(|word| if word == "/4" { "0/4".into() } else { word });
                Cli::try_parse_from(["ethtally".to_owned()].into_iter().chain(arguments))
                    .expect("it parses");
            }
        }
    }
    commands.sort();
    assert_eq!(commands, ["migrate", "status", "sweep", "sweep", "verify", "watch", "watch"]);
}
