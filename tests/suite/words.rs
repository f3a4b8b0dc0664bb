//! Text output: help, errors, manual pages, completions, colours and progress bars.
//!
//! The expected texts are in `snapshots`; `INSTA_UPDATE=always cargo test --locked --test suite words` updates them.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use ethtally_testbed::stub::{Fault, Stub, When};
use serde_json::json;

use crate::support::{
    chains::{still_chain, still_stub, stub_of},
    database::Database,
    program::{COMMANDS, ethtally},
    table::{date_rows, store_unread},
    wallets::{address, address_lines},
};

#[test]
fn help_matches_the_snapshots() {
    let all = [None].into_iter().chain(COMMANDS.map(Some));
    for command in all {
        let name = command.unwrap_or("ethtally");
        for (flag, suffix) in [("--help", "long"), ("-h", "short")] {
            let ran = ethtally(command.into_iter().chain([flag])).run().expect(0);
            assert_eq!(ran.stderr, "");
            insta::assert_snapshot!(format!("help_{name}_{suffix}"), ran.stdout);
        }
        let asked = ethtally(["help"].into_iter().chain(command)).run().expect(0);
        let flagged = ethtally(command.into_iter().chain(["--help"])).run().expect(0);
        assert_eq!(asked.stdout, flagged.stdout);
    }
}

/// Every command accepts all shared flags and shows those that it uses.
#[test]
fn each_command_shows_the_shared_flags_that_it_uses() {
    const NODE: [&str; 9] = [
        "rpc-url",
        "profile",
        "reader",
        "chunk",
        "concurrency",
        "rps",
        "cups",
        "cu-per-call",
        "retries",
    ];
    const OUTPUT: [&str; 4] = ["json", "verbose", "quiet", "color"];
    let node = [&NODE[..], &["timeout"]].concat();
    let reading = [&node[..], &["block", "database-url"], &OUTPUT].concat();
    let used_by = |command: &str| match command {
        "sweep" | "refresh" | "backfill" | "verify" | "snapshot" => reading.clone(),
        "watch" | "doctor" => [&node[..], &["ws-url", "database-url"], &OUTPUT].concat(),
        "migrate" | "status" => [&["profile", "database-url"][..], &OUTPUT].concat(),
        "profile" => [&["profile"][..], &OUTPUT].concat(),
        "completions" | "man" => Vec::new(),
        command => panic!("{command} is not in this table"),
    };
    let all = [&reading[..], &["ws-url"]].concat();
    for command in COMMANDS {
        let help = ethtally([command, "--help"]).run().expect(0).stdout;
        let flags: Vec<_> = (help.lines())
            .filter_map(|line| line.trim_start().split("--").nth(1).filter(|_| line.contains(" -")))
            .filter_map(|rest| rest.split([' ', '.']).next())
            .collect();
        for flag in &all {
            let is_shown = flags.contains(flag);
            assert_eq!(is_shown, used_by(command).contains(flag), "{command}: --{flag}");
        }
    }
    let help = ethtally(["completions", "--help"]).run().expect(0).stdout;
    assert!(help.lines().count() < 25, "{help}");
    let shared =
        ["--rpc-url=http://127.0.0.1:1", "--ws-url=ws://127.0.0.1:1", "--block=5", "--json"];
    ethtally(["completions", "bash"].into_iter().chain(shared)).run().expect(0);
    ethtally(shared.into_iter().chain(["completions", "bash"])).run().expect(0);
}

#[test]
fn without_a_command_the_short_help_is_printed_and_the_status_is_2() {
    let help = ethtally(["-h"]).run().expect(0).stdout;
    for (arguments, variable) in
        [(&[][..], "UNUSED"), (&[], "ETH_RPC_URL"), (&["--json"], "UNUSED")]
    {
        let ran = ethtally(arguments.iter().copied()).env(variable, "http://127.0.0.1:1").run();
        let ran = ran.expect(2);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", help.as_str()));
    }
}

#[test]
fn a_wrong_value_from_a_variable_is_an_error_that_names_the_variable() {
    for (variable, value, error) in [
        ("ETHTALLY_RPS", "fast", "'--rps <N>' (from ETHTALLY_RPS): not a whole number"),
        ("ETHTALLY_TIMEOUT", "0", "'--timeout <SECS>' (from ETHTALLY_TIMEOUT): must be at least 1"),
        ("ETHTALLY_READER", "x", "(from ETHTALLY_READER): must be multicall3, packed or auto"),
    ] {
        let printed = ethtally(["sweep"]).env(variable, value).run().refused();
        let start = format!("error: invalid value '{value}' for ");
        assert!(printed.starts_with(&start) && printed.ends_with(error), "{printed}");
    }
}

#[test]
fn every_command_is_in_the_help() {
    let help = ethtally(["--help"]).run().expect(0).stdout;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let listed: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(listed, [&COMMANDS[..], &["help"]].concat());
}

#[test]
fn version_is_the_package_version_with_its_commit() {
    let git = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(git.status.success(), "the tests run in a clone");
    let commit = String::from_utf8(git.stdout).unwrap();
    let version = format!("ethtally {} ({})\n", env!("CARGO_PKG_VERSION"), commit.trim());
    for arguments in [&["--version"], &["-V"]] {
        let ran = ethtally(arguments.iter().copied()).run().expect(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (version.as_str(), ""));
    }
}

/// Every error that needs no database: the command line and the error line.
#[test]
fn each_command_line_error_is_one_line() {
    const WALLET: &str = "0xe6d97b2099f142513be7a2a068be040656ae4591";
    let folder = tempfile::tempdir().unwrap();
    let mut errors = String::new();
    let lines: [&[&str]; 70] = [
        &["migrate", "--database-url", "sqlite:"],
        &["migrate", "--database-url", "sqlite::memory:"],
        &["sweep", "--rpc-url", "http:/host/v3/abcdef0123456789"],
        &["frobnicate"],
        &["sweeep"],
        &["sweep", "--frob"],
        &["sweep", "--bach", "1"],
        &["--batch", "1", "sweep"],
        &["status", "extra"],
        &["backfill", "wallets.csv"],
        &["profile", "mine.toml"],
        &["sweep", "0xe6D97B2099F142513be7A2a068bE040656Ae4591"],
        &["status", "0xe6D97B2099F142513be7A2a068bE040656Ae4591"],
        &["sweep", "--batch", "x"],
        &["sweep", "--batch", "0"],
        &["sweep", "--batch", "-1"],
        &["sweep", "--batch=-1"],
        &["sweep", "--batch", "5k"],
        &["sweep", "--batch"],
        &["sweep", "--batch", "18446744073709551616"],
        &["sweep", "--batch", "1", "--batch", "2"],
        &["sweep", "--batch", "1", "--all"],
        &["sweep", "--older-than", "5"],
        &["sweep", "--older-than", "soon"],
        &["sweep", "--max-duration", "soon"],
        &["sweep", "--max-calls", "0"],
        &["sweep", "--shard", "4/4"],
        &["sweep", "--shard", "one"],
        &["sweep", "--block", "pending"],
        &["sweep", "--chunk", "0"],
        &["sweep", "--chunk", "-1"],
        &["sweep", "--concurrency", "0"],
        &["sweep", "--concurrency", "1001"],
        &["sweep", "--rps", "0"],
        &["sweep", "--rps", "1.5"],
        &["sweep", "--retries", "-1"],
        &["sweep", "--timeout", "0"],
        &["sweep", "--cu-per-call", "-1"],
        &["sweep", "--json=yes"],
        &["watch", "--listen", "localhost"],
        &["watch", "--track", "some"],
        &["watch", "--confirmations", "-1"],
        &["status", "--color", "blue"],
        &["status", "--color"],
        &["status", "-q", "-v"],
        &["status", "--max-age", "x"],
        &["sweep"],
        &["sweep", "--rpc-url", ""],
        &["sweep", "--rpc-url", "ws://127.0.0.1:8546"],
        &["sweep", "--rpc-url", "nonsense"],
        &["sweep", "--rpc-url", "http://127.0.0.1:1,https://"],
        &["status", "--database-url", "mysql://user:password@host/tally"],
        &["status", "--database-url", "tally.db"],
        &["status", "--database-url", "postgres://user:pass word@@host:port/tally"],
        &["status"],
        &["sweep", "--rpc-url", "http://127.0.0.1:1", "--database-url", "sqlite:missing/tally.db"],
        &["refresh"],
        &["refresh", "0x12"],
        &["refresh", "vitalik.eth"],
        &["refresh", ""],
        &["refresh", "0xE6D97B2099f142513be7A2a068bE040656Ae4591"],
        &["verify"],
        &["verify", WALLET, "--sample", "1"],
        &["verify", "--sample", "0"],
        &["backfill"],
        &["backfill", "--from-csv", "a.csv", "--placeholders", "--resume"],
        &["backfill", "--placeholders", "--database-url", "sqlite:tally.db", "--from-csv", "a.csv"],
        &["completions"],
        &["completions", "tcsh"],
        &["man", "nothing"],
    ];
    for line in lines {
        let error = ethtally(line.iter().copied()).folder(folder.path()).run().refused();
        errors.push_str(&format!("$ ethtally {}\n{error}\n", line.join(" ")));
    }
    insta::assert_snapshot!("mistakes", errors);
}

#[test]
fn a_missing_table_is_an_error_with_the_remedy() {
    for database in [Database::sqlite(), Database::postgres()] {
        for command in [&["status"][..], &["sweep", "--dry-run"]] {
            let ran = ethtally(command.iter().copied()).database(&database).run();
            let error = ran.refused();
            assert!(error.starts_with("error: database "), "{error}");
            assert!(error.contains("run `ethtally migrate` first"), "{error}");
        }
    }
    // An existing database without ethtally's tables.
    let database = Database::sqlite();
    fs::write(database.folder().join("tally.db"), "").unwrap();
    let error = ethtally(["status"]).database(&database).run().refused();
    assert!(error.contains("its tables are missing"), "{error}");
}

#[test]
fn an_unreachable_database_is_an_error_with_what_to_check_and_each_cause_once() {
    let url = "postgres://app:s3cret-word@127.0.0.1:1/tally";
    assert_eq!(
        ethtally(["status", "--database-url", url]).run().expect(4).error(),
        "error: database postgres://127.0.0.1:1: no connection; check that the server is up, and \
         the host and port in --database-url: Connection refused (os error 111)"
    );
}

#[test]
fn an_age_beyond_the_calendar_does_not_panic() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    for age in ["290000y", "900000y", "100000000y"] {
        let ran = ethtally(["sweep", "--dry-run", "--older-than", age]).database(&database).run();
        assert!(ran.refused().contains("--older-than"), "{age}");
        ethtally(["status", "--max-age", age]).database(&database).run().expect(0);
    }
}

/// Runs a bash script; returns its status, stdout and stderr.
fn bash(script: &str, database: &Database, node: &str) -> (i32, String, String) {
    let output = Command::new("bash")
        .args(["-c", &format!("set -o pipefail; {script}")])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm-256color")
        .env("ethtally", env!("CARGO_BIN_EXE_ethtally"))
        .env("DATABASE_URL", &database.url)
        .env("ETH_RPC_URL", node)
        // A chain that many tests share stands still for as long as they run.
        .env("ETHTALLY_MAX_HEAD_AGE", "3h")
        .current_dir(database.folder())
        .stdin(Stdio::null())
        .output()
        .expect("bash starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn every_manual_page_renders_without_a_warning() {
    let database = Database::sqlite();
    for command in [None].into_iter().chain(COMMANDS.map(Some)) {
        let page = ethtally(["man"].into_iter().chain(command)).run().expect(0).stdout;
        let name = ["ethtally"].into_iter().chain(command).collect::<Vec<_>>().join("-");
        assert!(page.contains(&format!("\n.TH {name} 1 \" \" \"ethtally ")), "{page}");
        let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        let mut expected = vec!["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"];
        match command {
            None => expected.extend(["COMMANDS", "ENVIRONMENT"]),
            Some("completions" | "man") => {}
            Some(_) => expected.push("ENVIRONMENT"),
        }
        expected.extend(["\"EXIT STATUS\"", "EXAMPLES"]);
        assert_eq!(sections, expected, "{command:?}");
        fs::write(database.folder().join("page.1"), page).unwrap();
        let (status, text, warnings) = bash("groff -ww -man -Tutf8 -P-cbou page.1", &database, "");
        assert_eq!((status, warnings.as_str()), (0, ""), "{command:?}");
        // A line that is full has its words set apart.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(&format!("{name} - ")), "{text}");
    }
}

#[test]
fn every_shell_has_a_completion_script() {
    let database = Database::sqlite();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = ethtally(["completions", shell]).run().expect(0).stdout;
        for word in COMMANDS.into_iter().chain(["older-than", "placeholders"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let (status, _, stderr) = bash("$ethtally completions bash | bash -n", &database, "");
    assert_eq!((status, stderr.as_str()), (0, ""));
    let complete = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let script = format!(
            "source <($ethtally completions bash); COMP_WORDS=({line}) COMP_CWORD={}; \
             _ethtally ethtally '{last}' '{before}'; echo \"${{COMPREPLY[@]}}\"",
            words.len() - 1
        );
        bash(&script, &database, "").1
    };
    assert_eq!(complete("ethtally swe"), "sweep\n");
    assert_eq!(complete("ethtally man swe"), "sweep\n");
    assert_eq!(complete("ethtally sweep --chu"), "--chunk\n");
    assert_eq!(complete("ethtally completions --chu"), "\n", "a flag that it does not use");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stdout_is_not_a_failure() {
    let database = Database::sqlite();
    let node = still_chain().await.url();
    store_unread(&database, 0..1);
    let wallet = address(0);
    for command in [
        "status",
        "status --json",
        "sweep",
        &format!("refresh {wallet}"),
        &format!("verify {wallet}"),
        "profile",
        "completions bash",
        "man",
        "--help",
        "sweep --help",
        "--version",
    ] {
        // The reader closes before the first byte.
        let script = format!(
            "{{ read -r _ < gate; $ethtally {command}; echo $? > status; }} | {{ exec <&-; echo > gate; }}"
        );
        let script = format!("rm -f gate; mkfifo gate; {script}; cat status");
        let (status, stdout, stderr) = bash(&script, &database, &node);
        assert_eq!((status, stdout.as_str()), (0, "0\n"), "{command}: {stderr}");
        assert!(stderr.lines().all(|line| line.starts_with("note: ")), "{command}: {stderr}");
    }
    let (status, _, stderr) = bash("$ethtally profile | head -0", &database, &node);
    assert_eq!((status, stderr.as_str()), (0, ""));
}

#[test]
fn a_full_disk_is_a_failure() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let (status, _, stderr) = bash("$ethtally status > /dev/full", &database, "");
    assert_eq!(status, 2);
    assert!(stderr.starts_with("error: the result could not be written to stdout: "), "{stderr}");
}

const ESCAPE: char = '\u{1b}';

#[test]
fn colours_are_used_on_terminals_or_on_request() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    // A terminal shows both streams.
    let on_terminal = |arguments: &str, before: &str| {
        let script = format!("{before} script -qec \"$ethtally status {arguments}\" /dev/null");
        bash(&script, &database, "").1
    };
    let piped = |arguments: &str, before: &str| {
        let script = format!("{before} $ethtally status {arguments} 2>&1");
        bash(&script, &database, "").1
    };
    for bad in ["", "--database-url tally.db"] {
        let never = format!("{bad} --color never");
        let always = format!("{bad} --color always");
        for (shown, colours) in [
            (on_terminal(bad, ""), true),
            (on_terminal(bad, "NO_COLOR=1"), false),
            (on_terminal(bad, "NO_COLOR="), true),
            (on_terminal(&never, ""), false),
            (on_terminal(&always, "NO_COLOR=1"), true),
            (piped(bad, ""), false),
            (piped(&never, ""), false),
            (piped(&always, ""), true),
        ] {
            let expected =
                if bad.is_empty() { "wallets     1" } else { "unsupported database URL" };
            assert!(shown.contains(expected), "{shown}");
            assert_eq!(shown.contains(ESCAPE), colours, "{shown:?}");
        }
    }
    // Command line errors are printed before the other arguments are parsed.
    assert!(!piped("--frob", "").contains(ESCAPE));
    assert!(!on_terminal("--frob", "NO_COLOR=1").contains(ESCAPE));
    assert!(!on_terminal("--help", "NO_COLOR=1").contains(ESCAPE));
    assert!(!piped("--help", "").contains(ESCAPE));
    // JSON is never coloured.
    assert!(!on_terminal("--json --color always", "").contains(ESCAPE));
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_hides_notes_but_not_errors_or_the_result() {
    let database = Database::sqlite();
    let node = still_chain().await.url();
    let csv = format!("wallet\n0x12\n{}\n", address(0));
    let backfill = |arguments: &[&str]| {
        let arguments = [&["backfill", "--from-csv", "-"], arguments].concat();
        ethtally(arguments).node(&node).database(&database).input(csv.as_str()).run().expect(0)
    };
    let loud = backfill(&[]);
    assert_eq!(loud.stderr.lines().count(), 1);
    let quiet = backfill(&["-q"]);
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.without_time(), loud.without_time());
    let refreshed = ethtally(["refresh", "--quiet", &address(0)]).node(&node).database(&database);
    let refreshed = refreshed.run().expect(0);
    assert_eq!((refreshed.stdout.lines().count(), refreshed.stderr.as_str()), (1, ""));
    ethtally(["sweep", "-q"]).database(&database).run().refused();
    let logged = ethtally(["sweep", "-v"]).node(&node).database(&database).run().expect(0);
    assert!(logged.stderr.contains("chain 1, every contract has code"), "{logged:?}");
    assert_eq!(logged.stdout.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_line_even_if_the_run_fails_midway() {
    let chain = still_chain().await;
    let csv = address_lines(0..10);
    for command in [&["sweep", "--all"][..], &["backfill", "--from-csv", "-"]] {
        let database = Database::sqlite();
        store_unread(&database, 0..10);
        let stub = stub_of(chain);
        stub.fault(Fault::status(401), When::eth_call().after(3));
        let settings = ["--json", "--chunk=1", "--concurrency=1", "--retries=0"];
        let ran = ethtally([command, &settings].concat())
            .node(stub.url())
            .database(&database)
            .input(csv.as_str())
            .run()
            .expect(3);
        let result = ran.json();
        assert_eq!((&result["updated"], &result["failed"]), (&json!(3), &json!(0)), "{result}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        assert!(ran.error().contains("401"), "{ran:?}");
        let read = "select count(*) from eth_wallet_balances where read_block is not null";
        assert_eq!(database.value(read).await, "3", "what was read is stored");
    }
    // No wallet could be read.
    let database = Database::sqlite();
    store_unread(&database, 0..10);
    let ran = ethtally(["sweep", "--json", "--retries=0"]).node(Stub::dead()).database(&database);
    let ran = ran.run().expect(3);
    assert_eq!(ran.json()["updated"], 0);
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_result_is_one_line_of_json() {
    let database = Database::sqlite();
    let node = still_chain().await.url();
    let wallet = address(0);
    let commands: [&[&str]; 9] = [
        &["migrate"],
        &["migrate"],
        &["backfill", "--from-csv", "-"],
        &["sweep"],
        &["sweep", "--dry-run"],
        &["refresh", &wallet],
        &["verify", &wallet],
        &["status"],
        &["profile"],
    ];
    for command in commands {
        let ran = ethtally([command, &["--json"]].concat())
            .node(&node)
            .database(&database)
            .input(address_lines(0..2))
            .run()
            .expect(0);
        assert_eq!(ran.json()["command"], command[0]);
        assert_eq!(ran.stderr.lines().filter(|line| !line.starts_with("note: ")).count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_progress_bar_is_shown_only_on_a_terminal() {
    let stub = still_stub().await;
    stub.fault(Fault::Delay(Duration::from_millis(120)), When::eth_call());
    let database = Database::sqlite();
    store_unread(&database, 0..4);
    let csv = address_lines(0..4);
    fs::write(database.folder().join("wallets.csv"), csv).unwrap();
    let wallets = (0..4).map(address).collect::<Vec<_>>().join(" ");
    let settings = "--chunk 1 --concurrency 1";
    let on_terminal = |command: &str| {
        let script = format!("script -qec \"$ethtally {command} {settings}\" /dev/null");
        let (status, shown, _) = bash(&script, &database, &stub.url());
        assert_eq!(status, 0, "{shown}");
        shown
    };
    let is_bar = |shown: &str, what: &str| {
        shown.lines().any(|line| line.contains(what) && line.contains("/4 wallets, "))
    };
    for (name, command) in [
        ("sweep", "sweep".to_owned()),
        ("backfill", "backfill --from-csv wallets.csv".to_owned()),
        ("refresh", format!("refresh {wallets}")),
    ] {
        let shown = on_terminal(&command);
        assert!(is_bar(&shown, name), "{shown:?}");
        // The result may be redirected to a file.
        let file = |name| fs::read_to_string(database.folder().join(name)).unwrap();
        let shown = on_terminal(&format!("{command} > result"));
        assert!(is_bar(&shown, name), "{shown:?}");
        assert!(!is_bar(&file("result"), name) && !file("result").is_empty());
        for option in ["--json", "-q"] {
            let shown = on_terminal(&format!("{command} {option}"));
            assert!(!is_bar(&shown, name), "{option}: {shown:?}");
        }
        let shown = on_terminal(&format!("{command} 2> errors"));
        assert!(!is_bar(&shown, name) && !is_bar(&file("errors"), name), "{shown:?}");
    }
    date_rows(&database, &[(0, "1970-01-01 00:00:00")]).await;
    let piped = ethtally(["sweep"]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!((piped.stdout.lines().count(), piped.stderr.as_str()), (1, ""));
}
