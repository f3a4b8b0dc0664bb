//! The lines on stderr: as text with times and levels, or as JSON, and which of them `ETHTALLY_LOG` asks for.

use std::collections::BTreeSet;

use alloy::primitives::U256;
use chrono::{DateTime, TimeDelta, Utc};
use ethtally_testbed::{
    Chain,
    postgres::Cluster,
    stub::{Fault, Stub, When},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::{chain_and_stub, socket_and_stub_of, still_chain},
    database::Database,
    program::{Output, ethtally, refresh_first, unstamped},
    secrets::{DATABASE_SECRETS, RPC_SECRETS, assert_hidden_in, rpc_url},
    table::{store_unread, unread_table},
    watch::{TextWatch, caught_up},
};

const JSON: [&str; 2] = ["--log-format", "json"];
const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

#[track_caller]
fn assert_is_now(time: &str) {
    let parsed: DateTime<Utc> = time.parse().unwrap_or_else(|error| panic!("{error}: {time}"));
    assert!(time.ends_with('Z'), "{time}");
    assert!((Utc::now() - parsed).abs() < TimeDelta::minutes(10), "{time}");
}

/// Lines of JSON, each with time, level and message; the objects without their time.
#[track_caller]
fn objects<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    let object = |line: &str| {
        let mut value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let fields = value.as_object_mut().expect("an object");
        assert_is_now(fields.remove("time").expect("a time").as_str().expect("a text"));
        assert!(LEVELS.contains(&fields["level"].as_str().expect("a level")), "{line}");
        assert!(fields["message"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
        value
    };
    lines.into_iter().map(object).collect()
}

/// Lines of text, each with time and level; their levels.
#[track_caller]
fn levels<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let level = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        assert_is_now(words[0]);
        assert!(LEVELS.contains(&words[1]) && words.len() > 2, "{line}");
        words[1].to_owned()
    };
    lines.into_iter().map(level).collect()
}

fn only_error(ran: &Output) -> Value {
    let mut objects = objects(ran.stderr.lines());
    assert_eq!(objects.len(), 1, "{ran:?}");
    let error = objects.remove(0);
    assert_eq!(error["level"], "ERROR", "{ran:?}");
    error["message"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_has_time_and_level_when_it_is_verbose() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::status(503), When::eth_call().times(1));
    let ran = refresh_first(2, &["-vv"]).node(stub.url()).database(&database).run().expect(0);
    let seen = levels(ran.stderr.lines());
    assert!(["DEBUG", "INFO"].iter().all(|level| seen.contains(*level)), "{ran:?}");
    // The error that ends it too.
    let ran = refresh_first(1, &["-v", "--retries", "0"])
        .node(Stub::dead())
        .database(&database)
        .run()
        .expect(3);
    assert!(levels(ran.stderr.lines()).contains("ERROR"), "{ran:?}");
    // Without -v, lines are for people who look at them now.
    let ran = refresh_first(1, &["--retries", "0"]).node(Stub::dead()).database(&database).run();
    assert!(ran.expect(3).stderr.lines().any(|line| line.starts_with("error: ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_json_when_asked_for() {
    let (_chain, stub) = chain_and_stub().await;
    let database = unread_table(2);
    stub.fault(Fault::status(503), When::eth_call().times(1));
    let verbose = [&JSON[..], &["-vv"]].concat();
    let ran = refresh_first(2, &verbose).node(stub.url()).database(&database).run().expect(0);
    let lines = objects(ran.stderr.lines());
    assert!(lines.iter().any(|line| line["level"] == "DEBUG"), "{ran:?}");
    // A note, an error, a mistake in the settings: by flag and by variable.
    let sweep = |options: &[&str]| ethtally([&["sweep"], options].concat()).database(&database);
    let ran = sweep(&[&JSON[..], &["--older-than", "1d", "--max-calls", "1"]].concat());
    let ran = ran.node(still_chain().await.url()).run().expect(0);
    assert!(objects(ran.stderr.lines()).iter().all(|line| line["level"] == "INFO"), "{ran:?}");
    let dead = Stub::dead();
    let ran = sweep(&["--retries", "0"]).node(&dead).env("ETHTALLY_LOG_FORMAT", "json").run();
    let message = only_error(&ran.expect(3));
    assert!(message.as_str().unwrap().contains(&dead), "{message}");
    let ran = sweep(&[&JSON[..], &["--json"]].concat()).run().expect(2);
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(only_error(&ran), result["error"]);
    let profile = ["--profile", "/no/such.toml"];
    let ran = sweep(&[&JSON[..], &profile].concat()).node(&dead).run().expect(2);
    assert!(only_error(&ran).as_str().unwrap().contains("/no/such.toml"), "{ran:?}");
}

#[test]
fn a_usage_error_is_json_too() {
    for (arguments, variable, says) in [
        (&["sweep", "--log-format", "json", "--batch", "x"][..], "", "invalid value 'x'"),
        (&["sweep", "--batch", "x", "--log-format=json"], "text", "invalid value 'x'"),
        (&["--log-format", "json", "swep"], "", "did you mean 'sweep'?"),
        (&["sweep", "--batches"], "json", "unexpected argument '--batches'"),
        (&["verify"], "json", "missing ADDR"),
        (&[], "json", "no command is given; see `ethtally --help`"),
    ] {
        let ran = ethtally(arguments.iter().copied()).env("ETHTALLY_LOG_FORMAT", variable);
        let ran = if variable.is_empty() { ran.without("ETHTALLY_LOG_FORMAT") } else { ran };
        let message = only_error(&ran.run().expect(2));
        assert!(message.as_str().unwrap().contains(says), "{message}");
    }
    // A wrong format is told as text.
    let ran = ethtally(["status"]).env("ETHTALLY_LOG_FORMAT", "xml").run().expect(2);
    let says = "error: invalid value 'xml' for '--log-format <FORMAT>' (from ETHTALLY_LOG_FORMAT): \
                must be text or json\n";
    assert_eq!(ran.stderr, says);
}

/// A watch whose node fails once and whose connection breaks; its lines on stderr.
async fn lines_of_watch(options: &[&str]) -> Vec<String> {
    let chain = Chain::builder().start().await.unwrap();
    let (socket, stub) = socket_and_stub_of(&chain);
    let database = unread_table(0);
    store_unread(&database, 0..3);
    let url = socket.url();
    let settings = ["watch", "--retries", "0", "--listen", "0", "--ws-url", &url];
    let watching = TextWatch::start(
        ethtally([&settings, options].concat()).node(stub.url()).database(&database),
    );
    watching.until(["connected to ws", "\"websocket\""], 1);
    caught_up(&chain, &database).await;
    stub.fault(Fault::status(401).with_body("no such key"), When::method("eth_getLogs").times(1));
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    watching.until(["no such key", "no such key"], 1);
    caught_up(&chain, &database).await;
    socket.cut();
    watching.until(["connected to ws", "\"websocket\""], 2);
    watching.stop().1
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_has_times_and_levels_always() {
    for options in [&[][..], &["-q"], &["-v"]] {
        // Of a quiet watch only trouble is seen, so that nothing tells when it is connected.
        if options != ["-q"] {
            let lines = lines_of_watch(options).await;
            let seen = levels(lines.iter().map(String::as_str));
            assert!(["INFO", "WARN"].iter().all(|level| seen.contains(*level)), "{lines:#?}");
        }
        let ran = ethtally([&["watch", "--rpc-url", "ftp://x"], options].concat())
            .database(&Database::sqlite())
            .run()
            .expect(2);
        assert_eq!(levels(ran.stderr.lines()), BTreeSet::from(["ERROR".to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_watch_are_json_lines_with_their_fields() {
    for more in [&[][..], &["--json", "-vv"]] {
        let lines = lines_of_watch(&[&JSON[..], more].concat()).await;
        let lines = objects(lines.iter().map(String::as_str));
        if !more.is_empty() {
            assert!(lines.iter().any(|line| line["level"] == "DEBUG"), "{lines:#?}");
            continue;
        }
        let of = |event: &str| lines.iter().find(|line| line["event"] == event).expect("its line");
        assert_eq!(of("began")["level"], "INFO");
        assert_eq!(of("began")["checkpoint_block"], json!(0));
        let failed = of("error");
        assert_eq!((&failed["level"], &failed["command"]), (&json!("WARN"), &json!("watch")));
        let message = failed["message"].as_str().unwrap();
        assert!(message.starts_with("failed: http://127.0.0.1:"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variable_chooses_what_is_logged() {
    let node = still_chain().await.url();
    let logged = |filter: &str, options: &[&str]| {
        let database = Database::sqlite();
        let run = refresh_first(1, options).node(&node).database(&database);
        run.env("ETHTALLY_LOG", filter).run().expect(0).stderr
    };
    assert!(logged("", &[]).starts_with("note: refresh complete "));
    assert!(levels(logged("error", &[]).lines()).contains("INFO"), "its note");
    let own = logged("ethtally=debug", &[]);
    assert!(levels(own.lines()).contains("DEBUG") && own.contains("chain 1, every"), "{own}");
    assert!(!own.contains("sqlx"), "{own}");
    let part = logged("ethtally::rpc=debug,ethtally=off", &[]);
    assert!(part.contains("eth_call") || !part.is_empty(), "{part}");
    let library = logged("sqlx=debug", &[]);
    let others = library.lines().filter(|line| !line.contains(" sqlx::"));
    assert!(others.clone().all(|line| line.contains(" refresh complete ")), "{library}");
    let both = logged("sqlx=debug", &["-v"]);
    assert!(both.contains(" sqlx::") && both.contains("chain 1, every"), "{both}");
    assert_eq!(logged("trace", &["-q"]), "");
    // As JSON, the part of the program is a field too.
    let json = logged("sqlx=debug", &JSON);
    let lines = objects(json.lines());
    let targets = lines.iter().filter(|line| line["target"].is_string()).count();
    assert!(targets > 0 && targets + 1 == lines.len(), "all but its note: {json}");
    // RUST_LOG is for others.
    let database = Database::sqlite();
    let run = refresh_first(1, &[]).node(&node).database(&database);
    assert_eq!(run.env("RUST_LOG", "trace").run().expect(0).stderr.lines().count(), 1);
}

#[test]
fn a_wrong_filter_is_an_error_and_a_doubtful_one_a_note() {
    let status = |filter: &str| {
        let database = unread_table(1);
        ethtally(["status"]).database(&database).env("ETHTALLY_LOG", filter).run()
    };
    assert_eq!(
        status("hyper=loud").refused(),
        "error: ETHTALLY_LOG: 'hyper=loud' is neither a level nor TARGET=LEVEL, such as \
         hyper=debug; levels are off, error, warn, info, debug and trace"
    );
    let doubtful = status("debgu").expect(0).stderr;
    let lines: Vec<_> = doubtful.lines().map(unstamped).collect();
    assert!(lines[0].starts_with("warning: ETHTALLY_LOG: 'debgu' is not a level"), "{lines:?}");
    // Help does not depend on it.
    ethtally(["--help"]).env("ETHTALLY_LOG", "hyper=loud").run().expect(0);
}

/// Every library at its most talkative, with secrets in each URL: over HTTP, a WebSocket and PostgreSQL.
#[tokio::test(flavor = "multi_thread")]
async fn no_library_logs_a_secret() {
    let chain = Chain::builder().start().await.unwrap();
    let (socket, stub) = socket_and_stub_of(&chain);
    let cluster = Cluster::start().unwrap();
    let database = Database::at(cluster.url_with_password("app", DATABASE_SECRETS[1]).unwrap());
    store_unread(&database, 0..3);
    let encoded = ["cnBjdXNlcjpScGMvcGE1NXdvcmQ", "RGJAaHVzaC1odXNo", "cGE1NXdvcmQ"];
    for format in ["text", "json"] {
        let settings = ["watch", "--json", "--log-format", format, "--retries", "0"];
        let watching = TextWatch::start(
            ethtally(settings)
                .node(rpc_url(&stub.url()))
                .env("ETH_WS_URL", &rpc_url(&socket.url()))
                .env("ETHTALLY_LOG", "trace")
                .env("RUST_BACKTRACE", "full")
                .database(&database),
        );
        watching.until(["\"websocket\"", "\"websocket\""], 1);
        chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
        caught_up(&chain, &database).await;
        let (_, stderr) = watching.stop();
        // The libraries do speak.
        for library in ["sqlx::query", "hyper_util::", "tungstenite::"] {
            assert!(stderr.iter().any(|line| line.contains(library)), "{library}: {stderr:#?}");
        }
        let text = stderr.join("\n");
        for secret in [&RPC_SECRETS[..], &DATABASE_SECRETS, &encoded].concat() {
            let shown: Vec<_> = stderr.iter().filter(|line| line.contains(secret)).collect();
            assert!(shown.is_empty(), "{secret} in {shown:#?}");
        }
        match format {
            "json" => drop(objects(text.lines())),
            _ => drop(levels(text.lines())),
        }
    }
    let ran = refresh_first(1, &["--retries", "0"])
        .node(rpc_url(&stub.url()))
        .env("ETHTALLY_LOG", "trace")
        .database(&database)
        .run()
        .expect(0);
    assert_hidden_in(&ran, &RPC_SECRETS);
    assert_hidden_in(&ran, &DATABASE_SECRETS);
}
