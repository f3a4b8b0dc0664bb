//! `watch`: errors at the start, and the URL of the WebSocket.

use std::fs;

use clap::Parser;
use ethtally::{
    app::App,
    cli::Cli,
    report::{Report, ReportSettings},
    tally::Shutdown,
};
use ethtally_testbed::{Chain, socket::Socket, stub::Stub};

use crate::support::{
    chains::still_chain,
    program::{Output, ethtally},
    table::unread_table,
    watch::{checkpoint, start, watch},
};

/// The error of a refused run, without `error: `.
#[track_caller]
fn error_of(output: Output) -> String {
    assert!([2, 3, 4].contains(&output.status), "{output:?}");
    assert_eq!((output.own().as_str(), output.stderr.lines().count()), ("", 1), "{output:?}");
    output.error().strip_prefix("error: ").expect("an error").to_owned()
}

#[test]
fn each_command_line_error_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let listen = |value: &str| {
        format!(
            "invalid value '{value}' for '--listen <ADDR>': write a port, such as 1325, or HOST:PORT"
        )
    };
    let no_node = "no node to read from; give --rpc-url URL or set ETH_RPC_URL";
    let no_ws = |remedy: &str| format!("--ws-url is not a ws or wss URL; {remedy}");
    let (as_http, start) = (
        no_ws("give it as --rpc-url, and a ws or wss URL here"),
        no_ws("start it with ws:// or wss://"),
    );
    let no_http =
        |remedy: &str| format!("--rpc-url number 1 is not an http or https URL; {remedy}");
    for (arguments, expected) in [
        ("--listen abc", &*listen("abc")),
        ("--listen 99999", &listen("99999")),
        ("--listen :80", &listen(":80")),
        ("--listen localhost", &listen("localhost")),
        ("--max-lag 0", "invalid value '0' for '--max-lag <SECS>': must be at least 1"),
        ("--max-lag 5m", "invalid value '5m' for '--max-lag <SECS>': not a whole number"),
        ("--track some", "invalid value 'some' for '--track <WHICH>': must be known or all"),
        ("--from-block -1", "invalid value '-1' for '--from-block <N>': must be at least 0"),
        ("--from-block=-1", "invalid value '-1' for '--from-block <N>': must be at least 0"),
        (
            "--from-block latest",
            "invalid value 'latest' for '--from-block <N>': not a whole number",
        ),
        ("--confirmations=-1", "invalid value '-1' for '--confirmations <N>': must be at least 0"),
        ("12", "unexpected argument '12'; see `ethtally watch --help`"),
    ] {
        let arguments = ["watch"].into_iter().chain(arguments.split(' '));
        assert_eq!(error_of(ethtally(arguments).folder(folder.path()).run()), expected);
    }
    for (arguments, expected) in [
        ("", no_node),
        ("--rpc-url=", no_node),
        ("--ws-url ws://127.0.0.1:1", no_node),
        ("--rpc-url http://127.0.0.1:1 --ws-url http://127.0.0.1:1", &as_http),
        ("--rpc-url http://127.0.0.1:1 --ws-url nonsense", &start),
        (
            "--rpc-url http://127.0.0.1:1 --ws-url localhost:8546",
            &no_ws("write ws://localhost:8546"),
        ),
        ("--rpc-url localhost:8545", &no_http("write http://localhost:8545")),
        ("--rpc-url 10.0.0.1:8545", &no_http("write http://10.0.0.1:8545")),
        ("--rpc-url node:8545", &no_http("start it with http:// or https://")),
        ("--rpc-url localhost:8545/key", &no_http("start it with http:// or https://")),
        ("--rpc-url htp://localhost:8545", &no_http("start it with http:// or https://")),
        ("--rpc-url postgres://app@db/tally", &no_http("start it with http:// or https://")),
        ("--rpc-url http://localhost:85450", &no_http("its port is not a number up to 65535")),
        ("--rpc-url https://", &no_http("it names no host")),
        ("--rpc-url https://u:pa/ss@node", &no_http("percent-encode special characters in it")),
        ("--rpc-url http://127.0.0.1:1 --ws-url wss://", &no_ws("it names no host")),
        ("--rpc-url http://127.0.0.1:1 --ws-url ws:127.0.0.1", &start),
        (
            "--rpc-url ws://127.0.0.1:1",
            "--rpc-url number 1 is not an http or https URL; give it as --ws-url, and an http or https URL here",
        ),
        (
            "--rpc-url http://127.0.0.1:1 --block 5",
            "--block is not for watch, which follows the newest block; see --confirmations",
        ),
        (
            "--rpc-url http://127.0.0.1:1 --block finalized",
            "--block is not for watch, which follows the newest block; see --confirmations",
        ),
    ] {
        let arguments = ["watch"].into_iter().chain(arguments.split_whitespace());
        assert_eq!(error_of(ethtally(arguments).folder(folder.path()).run()), expected);
    }
    // No database was created.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_cannot_be_watched_is_an_error_with_the_reason() {
    let url = still_chain().await.url();
    let built_in = ethtally(["profile"]).run().expect(0).stdout;
    let (reads, events) = built_in.split_once("[[event]]").unwrap();
    let none = "0x00000000000000000000000000000000000000AA";
    let staking = "0xe6D97B2099F142513be7A2a068bE040656Ae4591";
    assert!(reads.contains(staking) && events.contains(staking));
    for (profile, expected) in [
        (reads.to_owned(), "profile audius has no [[event]], so there is nothing to watch; add some, or give another --profile".to_owned()),
        (
            built_in.replace("chain_id = 1", "chain_id = 5"),
            format!(
                "{url} is a node of chain 1, but profile audius is for chain 5; give --rpc-url a node of chain 5, or \
                 another --profile"
            ),
        ),
        (
            format!("{reads}[[event]]{}", events.replace(staking, none)),
            format!(
                "{url} has no code at {none} (the contract of Staked) on chain 1 at block latest; check the profile \
                 and --block"
            ),
        ),
    ] {
        let database = unread_table(0);
        let file = database.folder().join("mine.toml");
        fs::write(&file, profile).unwrap();
        let ran = watch("", &url, &database).env("ETHTALLY_PROFILE", file.to_str().unwrap()).run();
        assert_eq!(error_of(ran), expected);
        assert_eq!(checkpoint(&database).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_database_at_the_start_is_an_error_with_what_to_check() {
    let url = still_chain().await.url();
    let host = Stub::dead().replace("http://", "");
    let there = format!("--database-url postgres://app:hush-hush@{host}/tally");
    let error = error_of(ethtally(["watch"].into_iter().chain(there.split(' '))).node(&url).run());
    let expected =
        "no connection; check that the server is up, and the host and port in --database-url";
    assert!(error.starts_with(&format!("database postgres://{host}: {expected}: ")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_websocket_url_comes_from_the_variable_or_else_from_the_node() {
    let chain = Chain::builder().start().await.unwrap();
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    let database = unread_table(0);
    for (value, endpoint) in [
        (Some(socket.url()), socket.url()),
        (Some(format!(" {} ", socket.url_with_path("/v2/a-key-1234567890"))), socket.url()),
        (Some(String::new()), chain.ws_url()),
        (Some(" ".to_owned()), chain.ws_url()),
        (None, chain.ws_url()),
    ] {
        let mut prepared = watch("", chain.url(), &database);
        if let Some(value) = &value {
            prepared = prepared.env("ETH_WS_URL", value);
        }
        let watching = start(prepared);
        let connected = watching.until("connected", 1);
        assert_eq!(
            (&connected["via"], &connected["endpoint"]),
            (&"websocket".into(), &endpoint.into())
        );
        watching.stop();
    }
    // The flag takes precedence over the variable.
    let watching = start(
        watch(&format!("--ws-url {}", socket.url()), chain.url(), &database)
            .env("ETH_WS_URL", "ws://127.0.0.1:1"),
    );
    assert_eq!(watching.until("connected", 1)["endpoint"], socket.url());
    watching.stop();
    assert_eq!(socket.connections(), 3);
}

#[test]
fn the_default_websocket_url_is_the_nodes_with_another_scheme() {
    for (arguments, expected) in [
        ("--rpc-url https://node.example/v2/key?a=b", "wss://node.example/v2/key?a=b"),
        ("--rpc-url http://127.0.0.1:8545", "ws://127.0.0.1:8545/"),
        ("--rpc-url https://node.example:443", "wss://node.example/"),
        ("--rpc-url https://user:word@node.example/x", "wss://user:word@node.example/x"),
        ("--rpc-url https://one.example,http://two.example", "wss://one.example/"),
        ("--rpc-url , --rpc-url http://two.example", "ws://two.example/"),
        ("--rpc-url http://one.example --ws-url wss://two.example/key", "wss://two.example/key"),
    ] {
        let arguments = ["ethtally", "watch"].into_iter().chain(arguments.split(' '));
        let settings = Cli::try_parse_from(arguments).unwrap().settings;
        let report = Report::new(ReportSettings::default(), None);
        let app = App::new(settings, report, Shutdown::default()).unwrap();
        assert_eq!(app.ws_url().unwrap().as_str(), expected);
    }
}
