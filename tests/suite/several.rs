//! One command for several profiles: one after another, each with a table of its own.

use std::{fs, time::Duration};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    contracts::{AUDIO, Artifact},
    stub::{Fault, Stub, When},
};
use serde_json::{Value, json};

use crate::support::{
    chains::stub_of,
    database::{Database, on_both_databases},
    program::{Ethtally, Output, ethtally, eventually},
    prometheus::assert_promtool_is_content,
    table::stored_totals,
    tables::{OTHER, Tables, token_profile},
    tokens::{balance_of, chain_with, mint},
    wallets::{address, address_lines},
};

on_both_databases! {
    each_command_does_for_each_profile_what_it_does_for_one
    one_that_fails_keeps_no_other_from_running_and_the_worst_status_wins
    a_signal_ends_the_run_in_hand_and_begins_no_other
    settings_come_from_variables_and_files_too
    the_metrics_of_a_run_name_each_profile
}

const WALLETS: u64 = 5;

/// A chain with a second token, of which the first wallets have some.
async fn chain_of_two_tokens() -> Chain {
    let chain = chain_with(OTHER, Artifact::token().unwrap()).await;
    for n in 0..WALLETS {
        mint(&chain, OTHER, n, 1_000_000_007 * (n + 1)).await;
    }
    chain
}

/// A file with the first wallets.
fn wallets_in_file(database: &Database) -> String {
    let file = database.folder().join("wallets.csv");
    fs::write(&file, address_lines(0..WALLETS)).unwrap();
    file.display().to_string()
}

/// The objects of the array on stdout, which is one line.
#[track_caller]
fn objects(output: &Output) -> Vec<Value> {
    assert_eq!(output.stdout.lines().count(), 1, "{output:?}");
    let array: Value = serde_json::from_str(&output.stdout).unwrap();
    array.as_array().unwrap_or_else(|| panic!("{output:?}")).clone()
}

fn field(objects: &[Value], name: &str) -> Vec<Value> {
    objects.iter().map(|object| object[name].clone()).collect()
}

fn names(object: &Value) -> Vec<&String> {
    object.as_object().expect("an object").keys().collect()
}

async fn assert_tables_match(chain: &Chain, tables: &Tables) {
    for (table, token) in tables.each.iter().zip([AUDIO, OTHER]) {
        let stored = stored_totals(table).await;
        assert_eq!(stored.len() as u64, WALLETS);
        for n in 0..WALLETS {
            let expected = balance_of(chain, token, n).await;
            assert_eq!(stored[&address(n)], expected.to_string(), "{token} of {n}");
        }
    }
}

async fn each_command_does_for_each_profile_what_it_does_for_one(database: Database) {
    let chain = chain_of_two_tokens().await;
    let file = wallets_in_file(&database);
    let tables = Tables::of_tokens(database);
    let wallet = address(1);
    for (arguments, status) in [
        (&["migrate"][..], 0),
        (&["status", "--max-age", "1d"], 1),
        (&["backfill", "--from-csv", &file, "--placeholders"], 0),
        (&["sweep", "--dry-run", "--all"], 0),
        (&["sweep", "--all"], 0),
        (&["backfill", "--from-csv", &file], 0),
        (&["refresh", &wallet], 0),
        (&["verify", &wallet], 0),
        (&["verify", "--sample", "3"], 0),
        (&["status", "--max-age", "1d"], 0),
        (&["doctor"], 0),
        (&["watch", "--once"], 0),
    ] {
        let of_both = |json: &[&str]| {
            tables.run(&[arguments, json].concat()).node(chain.url()).run().expect(status)
        };
        let ran = of_both(&["--json"]);
        let objects = objects(&ran);
        assert_eq!(field(&objects, "profile"), ["audio", "other"], "{arguments:?}");
        assert_eq!(field(&objects, "command"), [arguments[0], arguments[0]]);
        assert_eq!(field(&objects, "exit_status"), [status, status]);
        for (index, object) in objects.iter().enumerate() {
            let alone = tables.run_alone(index, &[arguments, &["--json"]].concat());
            let alone = alone.node(chain.url()).run().expect(status);
            let alone: Value = serde_json::from_str(&alone.stdout).unwrap();
            assert_eq!(names(object), names(&alone), "{arguments:?}");
            assert_eq!(object["error"], Value::Null);
        }
        let text = of_both(&[]).stdout;
        let headings = ["audio:", "other:"].map(|name| text.lines().position(|line| line == name));
        assert!(headings[0] == Some(0) && headings[0] < headings[1], "{text}");
    }
    assert_tables_match(&chain, &tables).await;
    // One profile is as it always was.
    let one = tables.run_alone(0, &["refresh", &wallet, "--json"]).node(chain.url()).run();
    assert_eq!(one.expect(0).json()["wallets"][0]["wallet"], wallet);
    let one = tables.run_alone(0, &["sweep"]).node(chain.url()).run().expect(0);
    assert!(one.stdout.starts_with("sweep complete "), "{one:?}");
}

async fn one_that_fails_keeps_no_other_from_running_and_the_worst_status_wins(database: Database) {
    let chain = chain_of_two_tokens().await;
    let file = wallets_in_file(&database);
    // No contract is there.
    let none = alloy::primitives::Address::repeat_byte(0x77);
    let wrong = ("wrong", token_profile("wrong", none));
    let tables = Tables::of(database, [wrong, ("other", token_profile("other", OTHER))]);
    let filled = tables.run(&["backfill", "--from-csv", &file, "--json"]).node(chain.url()).run();
    let filled = filled.expect(2);
    let results = objects(&filled);
    assert_eq!(field(&results, "exit_status"), [2, 0], "{filled:?}");
    assert_eq!(field(&results, "outcome"), ["failed", "complete"]);
    let error = filled.error();
    assert!(error.starts_with("error: wrong: http://"), "{error}");
    assert!(!results[0]["error"].as_str().unwrap().starts_with("wrong"), "{results:?}");
    assert_eq!(stored_totals(&tables.each[1]).await.len() as u64, WALLETS);

    // A no of the one, and a wrong contract of the other.
    let update = format!(
        "update eth_wallet_balances set balance = '1', read_block = 0 where wallet = '{}'",
        address(0)
    );
    tables.each[1].sql(&update).await;
    let verified = tables.run(&["verify", &address(0), "--json"]).node(chain.url()).run();
    assert_eq!(field(&objects(&verified.expect(2)), "exit_status"), [2, 1]);
    let old = tables.run(&["status", "--max-age", "1d", "--json"]).run().expect(1);
    assert_eq!(field(&objects(&old), "exit_status"), [1, 0], "one is empty: {old:?}");
    // No node at all: a failure of the node wins over the no, and loses against settings.
    let dead = tables.run(&["sweep", "--retries", "0", "--json"]).node(Stub::dead()).run();
    let dead = dead.expect(3);
    assert_eq!(
        field(&objects(&dead), "exit_status"),
        [0, 3],
        "nothing to sweep, no node: {dead:?}"
    );
}

async fn a_signal_ends_the_run_in_hand_and_begins_no_other(database: Database) {
    let chain = chain_of_two_tokens().await;
    let stub = stub_of(&chain);
    let file = wallets_in_file(&database);
    let tables = Tables::of_tokens(database);
    tables.run(&["migrate"]).run().expect(0);
    stub.fault(Fault::Delay(Duration::from_secs(2)), When::method("eth_call"));
    let running = tables.run(&["backfill", "--from-csv", &file, "--json"]).node(stub.url()).start();
    eventually("it reads", || !stub.eth_calls().is_empty());
    running.signal("TERM");
    let ran = running.wait().expect(143);
    let results = objects(&ran);
    assert_eq!(field(&results, "profile"), ["audio", "other"]);
    assert_eq!(field(&results, "exit_status"), [143, 143]);
    assert_eq!(field(&results, "outcome"), ["interrupted", "interrupted"]);
    assert_eq!(field(&results, "error"), [Value::Null, Value::Null]);
    assert_eq!(stored_totals(&tables.each[1]).await.len(), 0);
}

async fn settings_come_from_variables_and_files_too(database: Database) {
    let chain = chain_of_two_tokens().await;
    let file = wallets_in_file(&database);
    let is_sqlite = database.is_sqlite();
    let url_file = database.folder().join("urls");
    let url = database.url.clone();
    let tables = Tables::of_tokens(database);
    let profiles = [&tables.alone[0][1], &tables.alone[1][1]].map(String::as_str).join(",");
    let with = |run: Ethtally| run.node(chain.url()).env("ETHTALLY_PROFILE", &profiles);
    let backfill = || ethtally(["backfill", "--from-csv", &file, "--json"]);
    let sweep = || ethtally(["sweep", "--json"]);
    let ran = if is_sqlite {
        let urls = tables.each.each_ref().map(|table| table.url.as_str()).join("\n");
        fs::write(&url_file, format!("\n{urls}\n")).unwrap();
        with(backfill()).env("DATABASE_URL", &urls).run().expect(0);
        with(sweep()).env("DATABASE_URL_FILE", url_file.to_str().unwrap()).run()
    } else {
        let schemas = [&tables.alone[0][5], &tables.alone[1][5]].map(String::as_str).join(",");
        let of_schemas = |run| with(run).env("ETHTALLY_SCHEMA", &schemas);
        of_schemas(backfill()).env("DATABASE_URL", &url).run().expect(0);
        fs::write(&url_file, &url).unwrap();
        of_schemas(sweep()).env("DATABASE_URL_FILE", url_file.to_str().unwrap()).run()
    };
    assert_eq!(field(&objects(&ran.expect(0)), "updated"), [json!(WALLETS), json!(WALLETS)]);
    assert_tables_match(&chain, &tables).await;
    // A limit of time is that of each run.
    let timed = tables.run(&["sweep", "--all", "--max-duration", "5m", "--json"]);
    let timed = objects(&timed.node(chain.url()).run().expect(0));
    assert_eq!(field(&timed, "outcome"), ["complete", "complete"]);
    let total = balance_of(&chain, OTHER, 3).await;
    assert_eq!(total, U256::from(4_000_000_028_u64));
}

async fn the_metrics_of_a_run_name_each_profile(database: Database) {
    let chain = chain_of_two_tokens().await;
    let file = wallets_in_file(&database);
    let metrics = database.folder().join("sweep.prom");
    let path = metrics.display().to_string();
    let tables = Tables::of_tokens(database);
    tables.run(&["backfill", "--from-csv", &file]).node(chain.url()).run().expect(0);
    let sweep = |node: String| {
        tables.run(&["sweep", "--all", "--retries", "0", "--metrics-file", &path]).node(node).run()
    };
    sweep(chain.url()).expect(0);
    let text = fs::read_to_string(&metrics).unwrap();
    assert_promtool_is_content(&text);
    for profile in ["audio", "other"] {
        let updated = "ethtally_last_run_wallets{command=\"sweep\",result=\"updated\",profile=\"";
        assert!(text.contains(&format!("{updated}{profile}\"}} {WALLETS}\n")), "{text}");
    }
    sweep(Stub::dead()).expect(3);
    // When it was last complete is known, too.
    let text = fs::read_to_string(&metrics).unwrap();
    for profile in ["audio", "other"] {
        for outcome in ["complete", "failed"] {
            let ended = format!(
                "ethtally_last_run_timestamp_seconds{{command=\"sweep\",outcome=\"{outcome}\",profile=\"{profile}\"}} 1"
            );
            assert_eq!(text.matches(&ended).count(), 1, "{ended} in {text}");
        }
        let status =
            format!("ethtally_last_run_exit_status{{command=\"sweep\",profile=\"{profile}\"}} 3\n");
        assert!(text.contains(&status), "{text}");
    }
}

#[test]
fn a_mistake_is_refused_before_anything_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let (a, b) = (
        written("a.toml", &token_profile("a", AUDIO)),
        written("b.toml", &token_profile("b", OTHER)),
    );
    let c = written("c.toml", &token_profile("a", OTHER));
    let broken = written("broken.toml", "name = 1");
    let both = format!("--profile {a} --profile {b}");
    let wallet = address(1);
    let postgres = "--database-url postgres://user:SECRETWORD@127.0.0.1:1/db";
    let share = "profiles a and b would share a table, and a table has one profile; give each a --schema of its own, \
                 or, for SQLite, a --database-url";
    let cases = [
        (format!("sweep {both}"), share),
        (
            format!("migrate {both} --database-url sqlite:x.db --database-url sqlite://./x.db"),
            share,
        ),
        (format!("migrate {both} {postgres}"), share),
        (format!("migrate {both} {postgres} --schema one --schema one"), share),
        (
            format!("migrate {both} {postgres} --schema one"),
            "--schema is given once for 2 profiles; give one for each profile, in the same order",
        ),
        (
            format!("migrate {both} {postgres} --schema one --schema two --schema three"),
            "--schema is given 3 times for 2 profiles; give one for each profile, in the same order",
        ),
        (
            format!("status {both} {postgres} {postgres} {postgres}"),
            "--database-url is given 3 times for 2 profiles; give one database, or one for each profile in the same \
             order",
        ),
        (
            format!("status --profile {a} --database-url sqlite:x.db --database-url sqlite:y.db"),
            "--database-url is given 2 times for one profile; give one",
        ),
        (
            format!("status {postgres} --schema x --schema y"),
            "--schema is given 2 times for one profile; give one",
        ),
        (
            format!("sweep --profile {a} --profile {a}"),
            "--profile FOLDER/a.toml is given twice; give each profile once",
        ),
        (
            format!("sweep --profile {a} --profile {c}"),
            "profiles FOLDER/a.toml and FOLDER/c.toml have the same name, a; give each a name of its own",
        ),
        (
            format!("sweep --profile {a} --profile {broken}"),
            "profile FOLDER/broken.toml, line 1: invalid type: integer `1`, expected a string",
        ),
        (format!("profile {both}"), "profile: prints one profile; give one --profile"),
        (
            format!("snapshot {both} --block 1 --out x.csv"),
            "snapshot: takes one --profile, as each snapshot is a file of its own; run it for each",
        ),
        (
            format!("backfill {both} --from-csv -"),
            "backfill: reads standard input only once; give --from-csv a file for several profiles",
        ),
        (
            format!("refresh {both} {wallet} --changes x"),
            "refresh: --changes does not say of which profile a total is; run it for each profile, with a file of its \
             own",
        ),
        (format!("sweep {both} --metrics-file x.prom"), share),
    ];
    for (arguments, expected) in cases {
        let run = || {
            let arguments = arguments.split_whitespace();
            ethtally(arguments).node("http://127.0.0.1:1").folder(folder.path())
        };
        let error = run().run().refused().replace(&folder.path().display().to_string(), "FOLDER");
        assert_eq!(error, format!("error: {expected}"), "{arguments}");
        assert!(!error.contains("SECRETWORD"), "{error}");
    }
    // With several profiles a result in JSON is an array, also of a run that is refused.
    let arguments = format!("sweep {both} --json");
    let refused = ethtally(arguments.split_whitespace()).folder(folder.path()).run().expect(2);
    let results = objects(&refused);
    assert_eq!((results.len(), &results[0]["exit_status"]), (1, &json!(2)), "{refused:?}");
    assert_eq!(results[0]["error"], share);
    // Nothing was created; the metrics say how the run ended.
    let mut files: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["a.toml", "b.toml", "broken.toml", "c.toml", "x.prom"]);
}

#[test]
fn scripts_for_packagers_do_not_mind_several_profiles() {
    for arguments in [&["completions", "bash"][..], &["man"]] {
        let run = ethtally(arguments.iter().copied());
        let ran = run.env("ETHTALLY_SCHEMA", "a,b").env("DATABASE_URL", "sqlite:a\nsqlite:b").run();
        assert!(ran.expect(0).stdout.contains("ethtally"));
    }
}
