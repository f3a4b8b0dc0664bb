//! No secret of a URL is shown, logged or stored, whatever goes wrong.

use std::fmt::Write;

use ethtally_testbed::{
    Chain,
    postgres::Cluster,
    stub::{Fault, Stub, When},
    wallet,
};

use crate::harness::{Database, Ethtally, Ran, ethtally};

/// What must not be seen of [`rpc_url`].
pub(crate) const RPC_SECRETS: [&str; 7] = [
    "Rpc%2Fpa55word",
    "Rpc/pa55word",
    "pa55word",
    "PATHKEY0123456789abcdef",
    "QUERYKEY9876543210",
    "PATHK",
    "QUERYK",
];

/// What must not be seen of [`database_password`]'s URLs.
pub(crate) const DATABASE_SECRETS: [&str; 3] = ["Db%40hush-hush", "Db@hush-hush", "hush-hush"];

/// A node's URL with a secret at every place that can hold one.
pub(crate) fn rpc_url(origin: &str) -> String {
    let (scheme, host) = origin.split_once("://").expect("an origin");
    format!(
        "{scheme}://rpcuser:{}@{host}/v2/{}/x?apikey={}",
        RPC_SECRETS[0], RPC_SECRETS[3], RPC_SECRETS[4]
    )
}

fn address(n: u64) -> String {
    format!("{:#x}", wallet(n))
}

/// Every command, in the ways that use node and database.
fn commands() -> Vec<Vec<String>> {
    let text = "migrate
        sweep
        sweep --all --dry-run
        refresh WALLET
        backfill --from-csv -
        backfill --from-csv - --placeholders
        verify WALLET
        verify WALLET --fix
        verify --sample 1
        watch --listen 0
        watch --track all --from-block 1
        status
        profile
        completions bash
        man";
    text.lines()
        .map(|line| line.trim().replace("WALLET", &address(1)))
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect()
}

/// The commands that ask a node, and cannot do without its answer.
fn reads_the_node(command: &[String]) -> bool {
    matches!(&*command[0], "refresh" | "verify" | "sweep" | "backfill" | "watch")
        && !command.iter().any(|argument| argument == "--dry-run" || argument == "--placeholders")
}

/// The commands that open the database.
fn opens_the_database(command: &[String]) -> bool {
    !matches!(&*command[0], "profile" | "completions" | "man")
}

/// As talkative as it gets.
fn prepared(command: &[String], more: &[&str]) -> Ethtally {
    let fixed = ["-vv", "--retries", "0", "--timeout", "2"];
    ethtally(command.iter().map(|argument| &**argument).chain(fixed).chain(more.iter().copied()))
        .input(address(1))
        .env("RUST_BACKTRACE", "1")
        .env("RUST_LOG", "trace")
}

#[track_caller]
pub(crate) fn hides(ran: &Ran, secrets: &[&str]) {
    let shown = format!("{}{}", ran.stdout, ran.stderr);
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} in {ran:?}");
    }
    assert!(!shown.contains("panicked"), "{ran:?}");
    if ran.status == 2 {
        ran.error();
    }
}

/// Every row of every table, as text.
pub(crate) async fn dump(database: &Database) -> String {
    let mut all = String::new();
    for table in [
        "eth_wallet_balances",
        "eth_wallet_read_failures",
        "eth_indexer_checkpoints",
        "eth_watch_blocks",
    ] {
        for row in database.sql(&format!("select * from {table}")).await {
            writeln!(all, "{row}").unwrap();
        }
    }
    all
}

/// A database with one wallet that was never read.
fn with_a_wallet() -> Database {
    let database = Database::sqlite();
    ethtally(["backfill", "--from-csv", "-", "--placeholders"])
        .input(address(1))
        .database(&database)
        .run()
        .expect(0);
    database
}

/// Runs every command on a node that fails, with and without --json; its host is named, and no secret.
async fn every_command_hides_the_node(origin: &str) {
    let database = with_a_wallet();
    for command in commands() {
        for more in [&[][..], &["--json"]] {
            let url = rpc_url(origin);
            let ran = prepared(&command, more).node(&url).database(&database).run();
            hides(&ran, &RPC_SECRETS);
            assert_eq!(ran.status == 2, reads_the_node(&command), "{ran:?}");
            if ran.status == 2 {
                assert!(ran.error().contains(origin), "{origin}: {ran:?}");
            }
            let as_flag = format!("--rpc-url={url}");
            hides(&prepared(&command, &[&as_flag]).database(&database).run(), &RPC_SECRETS);
        }
    }
    let rows = dump(&database).await;
    assert!(RPC_SECRETS.iter().all(|secret| !rows.contains(secret)), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_keeps_its_key() {
    every_command_hides_the_node(&Stub::dead()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_exist_keeps_its_key() {
    every_command_hides_the_node("https://node.invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_speaks_no_tls_keeps_its_key() {
    let stub = Stub::in_front_of(&Stub::dead()).unwrap();
    every_command_hides_the_node(&stub.url().replace("http:", "https:")).await;
}

/// A node whose failures repeat all that they know about the one who asks.
pub(crate) fn echoes() -> Vec<Fault> {
    let url = rpc_url("https://upstream.example:8443");
    let all = format!(
        "no: {} of {url} ({})",
        RPC_SECRETS[3],
        [0, 1, 3, 4].map(|secret| RPC_SECRETS[secret]).join(" or ")
    );
    let quoted = format!("dial \"{url}\": key={}&token='{}'", RPC_SECRETS[4], RPC_SECRETS[3]);
    let mut faults = vec![Fault::NotJson, Fault::Truncated, Fault::Reset];
    for status in [400, 401, 403, 404, 413, 429, 500] {
        faults.push(Fault::status(status).with_body(&all));
    }
    faults.push(Fault::status(401).with_body(
        &serde_json::json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32001, "message": quoted}})
            .to_string(),
    ));
    // An excerpt of a long body may end anywhere, also in the middle of a secret.
    for padding in (138..156).step_by(3) {
        let body = format!("{} {}", "x".repeat(padding), RPC_SECRETS[3]);
        faults.push(Fault::status(503).with_body(&body));
    }
    for text in [&all, &quoted] {
        for code in [-32000, -32005, -32601, 3, 429] {
            faults.push(Fault::error(code, text));
        }
        faults.push(Fault::error(-32000, &format!("out of gas: {text}")));
        faults.push(Fault::error(-32000, &format!("execution reverted: {text}")));
        faults.push(Fault::error(-32000, "no").with_data(text.as_str().into()));
        faults.push(Fault::Answer(text.as_str().into()));
    }
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_repeats_the_key_does_not_get_it_printed() {
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let command = ["refresh".to_owned(), address(1)];
    for fault in echoes() {
        for when in [When::always(), When::method("eth_call")] {
            let database = Database::sqlite();
            stub.clear();
            stub.fault(fault.clone(), when);
            for more in [&[][..], &["--json"]] {
                let ran =
                    prepared(&command, more).node(rpc_url(&stub.url())).database(&database).run();
                hides(&ran.expect(2), &RPC_SECRETS);
            }
        }
    }
    for fault in [Fault::status(401), Fault::status(403), Fault::NotJson] {
        stub.clear();
        stub.fault(fault, When::always());
        every_command_hides_the_node(&stub.url()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_repeats_the_key_does_not_get_it_stored() {
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let poisoned = address(1);
    for fault in echoes() {
        if !matches!(fault, Fault::Error { .. } | Fault::Status { status: 413, .. }) {
            continue;
        }
        let database = Database::sqlite();
        stub.clear();
        stub.fault(fault, When::method("eth_call").mentioning(&poisoned));
        for command in [
            vec!["refresh".to_owned(), address(0), poisoned.clone()],
            vec!["verify".to_owned(), poisoned.clone()],
            vec!["verify".to_owned(), "--sample".to_owned(), "2".to_owned()],
        ] {
            for more in [&[][..], &["--json"]] {
                let ran =
                    prepared(&command, more).node(rpc_url(&stub.url())).database(&database).run();
                hides(&ran, &RPC_SECRETS);
            }
        }
        let rows = dump(&database).await;
        assert!(RPC_SECRETS.iter().all(|secret| !rows.contains(secret)), "{rows}");
    }
    // And it is there at all, without the secrets.
    let database = Database::sqlite();
    stub.clear();
    let fault = Fault::error(-32000, &format!("out of gas for key {}", RPC_SECRETS[3]));
    stub.fault(fault, When::method("eth_call").mentioning(&poisoned));
    let command = ["refresh".to_owned(), address(0), poisoned.clone()];
    let ran = prepared(&command, &[]).node(rpc_url(&stub.url())).database(&database).run();
    assert!(ran.expect(0).stdout.contains("out of gas for key ***"));
    assert_eq!(
        database.sql("select last_error from eth_wallet_read_failures").await,
        ["error -32000: out of gas for key ***"]
    );
}

/// Runs every command on a database that cannot be used.
fn every_command_hides_the_database(url: &str, says: &str) {
    for command in commands() {
        for more in [&[][..], &["--json"]] {
            let ran = prepared(&command, more).node(Stub::dead()).env("DATABASE_URL", url).run();
            hides(&ran, &DATABASE_SECRETS);
            if opens_the_database(&command) {
                assert_eq!(ran.status, 2, "{url}: {ran:?}");
                assert!(ran.error().contains(says), "{says}: {ran:?}");
            }
        }
        let as_flag = format!("--database-url={url}");
        hides(&prepared(&command, &[&as_flag]).node(Stub::dead()).run(), &DATABASE_SECRETS);
    }
}

#[test]
fn a_database_that_is_down_keeps_its_password() {
    let host = Stub::dead().replace("http://", "");
    let url = format!("postgres://app:{}@{host}/tally", DATABASE_SECRETS[0]);
    every_command_hides_the_database(&url, &format!("postgres://{host}"));
    let url = format!("postgres://app@{host}/tally?password={}", DATABASE_SECRETS[0]);
    every_command_hides_the_database(&url, &format!("postgres://{host}"));
}

#[test]
fn a_database_that_does_not_exist_keeps_its_password() {
    let url = format!("postgresql://app:{}@db.invalid/tally", DATABASE_SECRETS[0]);
    every_command_hides_the_database(&url, "postgres://db.invalid:5432");
}

#[test]
fn a_wrong_password_is_not_shown() {
    // Not the shared cluster: this one's role would be everyone's.
    let cluster = Cluster::start().unwrap();
    let good = cluster.url_with_password("app", "a-good-one").unwrap();
    let (before, behind) = good.split_once("a-good-one").unwrap();
    let url = format!("{before}{}{behind}", DATABASE_SECRETS[0]);
    let host = format!("postgres://127.0.0.1:{}", cluster.port());
    every_command_hides_the_database(&url, &host);

    // The right one, for a database that is not there.
    let good = cluster.url_with_password("app", DATABASE_SECRETS[1]).unwrap();
    let (server, _) = good.rsplit_once('/').unwrap();
    every_command_hides_the_database(&format!("{server}/nowhere"), &host);
}

#[test]
fn a_database_of_another_kind_keeps_its_password() {
    let password = DATABASE_SECRETS[0];
    for scheme in ["mysql", "mongodb+srv", "http", "postgre", "sqlserver", ""] {
        let url = format!("{scheme}://app:{password}@db.example/tally");
        every_command_hides_the_database(&url, "--database-url");
    }
    for url in [
        format!("postgres:app:{password}@db.example/tally"),
        format!("app:{password}@db.example/tally"),
        password.to_owned(),
    ] {
        for command in commands() {
            let ran = prepared(&command, &[]).node(Stub::dead()).env("DATABASE_URL", &url).run();
            hides(&ran, &DATABASE_SECRETS);
        }
    }
}

#[test]
fn a_file_of_sqlite_keeps_its_password() {
    let password = DATABASE_SECRETS[0];
    for url in [
        format!("sqlite://app:{password}@/no/such/folder/tally.db"),
        format!("sqlite:/no/such/folder/tally.db?key={password}"),
        format!("sqlite:///no/such/folder/tally.db?password={password}"),
    ] {
        every_command_hides_the_database(&url, "sqlite");
    }
}

/// Passwords that somebody forgot to percent-encode; the first half may look like a port.
fn raw_passwords() -> Vec<(String, [&'static str; 2])> {
    const WORDS: [&str; 2] = ["Zx9qJt", "Wv7kLm"];
    const PORT_AND_WORD: [&str; 2] = ["48151", "Wv7kLm"];
    let between = [
        "/", "@", ",", " ", "  ", "\t", "?", "#", "%", "'", "\"", "`", "<", ">", "\\", "+", "&",
        "=", ":", ";", "|", "[", "\n\n", "\u{e9}", "://", "/@", ",@", "@/", "@,", "%2F",
    ];
    let words = between.map(|between| (WORDS.join(between), WORDS));
    let ports = ["/", "?", "#", ",", "\\", "@", ":", "/@", "/?"]
        .map(|between| (PORT_AND_WORD.join(between), PORT_AND_WORD));
    words.into_iter().chain(ports).collect()
}

/// Every place on the command line and in the environment where a URL may stand, rightly or not.
fn misplaced(url: &str) -> Vec<Ethtally> {
    let wallet = address(1);
    let run = |arguments: &[&str]| {
        ethtally(arguments.iter().copied()).input("").env("RUST_BACKTRACE", "1")
    };
    let flag = |name: &str| format!("--{name}={url}");
    vec![
        run(&["status", "--database-url", url]),
        run(&["status", &flag("database-url")]),
        run(&["status"]).env("DATABASE_URL", url),
        run(&["refresh", &wallet, "--retries", "0", "--timeout", "1", "--rpc-url", url]),
        run(&["refresh", &wallet, "--retries", "0", "--timeout", "1", &flag("rpc-url")]),
        run(&["refresh", &wallet, "--retries", "0", "--timeout", "1"]).env("ETH_RPC_URL", url),
        run(&[url]),
        run(&["refresh", url]),
        run(&["completions", url]),
        run(&["man", url]),
        run(&["status", &flag("databaseurl")]),
        run(&["status", &format!("--database-url:{url}")]),
        run(&["status", &format!("--database-url{url}")]),
        run(&["status", &format!("-d{url}")]),
        run(&["status", &format!("DATABASE_URL={url}")]),
        run(&["profile", &flag("profile")]),
        run(&["profile"]).env("ETHTALLY_PROFILE", url),
        run(&["status"]).env("ETHTALLY_CHUNK", url),
        run(&["status", &flag("block")]),
        run(&["sweep", &flag("shard")]),
        run(&["sweep", "--shard", "4"]).env("JOB_COMPLETION_INDEX", url),
        run(&["backfill", &flag("from-csv")]),
        run(&["watch", "--rpc-url", "http://127.0.0.1:1", "--retries", "0", &flag("ws-url")]),
        run(&["watch", "--rpc-url", "http://127.0.0.1:1", "--retries", "0"]).env("ETH_WS_URL", url),
        run(&["watch", "--retries", "0", "--timeout", "1", "--rpc-url", url]),
        run(&["watch", &flag("listen")]),
    ]
}

/// Runs [`misplaced`] in a folder where a run that succeeds does no harm.
fn hides_wherever_it_stands(url: &str, secrets: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    for run in misplaced(url) {
        hides(&run.folder(folder.path()).run(), secrets);
    }
}

#[test]
fn a_password_that_is_not_encoded_is_hidden_in_a_database_url() {
    for (password, halves) in raw_passwords() {
        let url = format!("postgres://app:{password}@127.0.0.1:1/tally");
        hides_wherever_it_stands(&url, &halves);
    }
}

#[test]
fn a_password_that_is_not_encoded_is_hidden_in_a_nodes_url() {
    for (password, halves) in raw_passwords() {
        let url = format!("https://app:{password}@127.0.0.1:1/v2/x");
        hides_wherever_it_stands(&url, &halves);
    }
}

#[test]
fn a_url_is_hidden_wherever_it_stands() {
    hides_wherever_it_stands(&rpc_url("https://127.0.0.1:1"), &RPC_SECRETS);
    let url = format!("postgres://app:{}@127.0.0.1:1/tally", DATABASE_SECRETS[0]);
    hides_wherever_it_stands(&url, &DATABASE_SECRETS);
    // A key with no name, as a user's name, and behind a `#`.
    let key = "c0ffee0123456789c0ffee";
    for url in [
        format!("https://127.0.0.1:1/?{key}"),
        format!("https://{key}@127.0.0.1:1/"),
        format!("https://{key}:@127.0.0.1:1/"),
        format!("https://127.0.0.1:1/#{key}"),
        format!("wss://127.0.0.1:1/ws/{key}"),
        format!("https://127.0.0.1:1/{key},https://127.0.0.1:1/v3/{key}"),
    ] {
        hides_wherever_it_stands(&url, &[key]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_at_unusual_places_are_not_repeated() {
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let key = "c0ffee0123456789c0ffee";
    // And another's secret, that nobody told us.
    let other = "dial https://them:unheard-of@upstream.example/v9/never-seen";
    let body = format!("the key {key} is bad: {other}");
    stub.fault(Fault::status(401).with_body(&body), When::always());
    let host = stub.url().replace("http://", "");
    for url in [
        format!("http://{host}/?{key}"),
        format!("http://{key}@{host}/"),
        format!("http://{key}:@{host}/"),
        format!("http://{host}/{key}/"),
        format!("http://{host}/rpc/{key}#x"),
        format!(" http://{host}/{key} , http://{host}/{key}\n"),
    ] {
        let command = ["refresh".to_owned(), address(1)];
        let ran = prepared(&command, &[]).node(&url).database(&Database::sqlite()).run().expect(2);
        hides(&ran, &[key, "unheard-of", "never-seen"]);
        let cleaned = "the key *** is bad: dial https://upstream.example";
        assert!(ran.error().contains(cleaned), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_line_hides_the_url_that_stands_in_the_table() {
    let database = with_a_wallet();
    let url = rpc_url("https://node.example");
    database
        .sql(&format!(
            "insert into eth_wallet_balances (wallet, updated_at) values ('{url}', '1970-01-01 00:00:00')"
        ))
        .await;
    let ran = prepared(&["sweep".to_owned()], &[]).node(Stub::dead()).database(&database).run();
    hides(&ran, &RPC_SECRETS);
    assert!(ran.stderr.contains("the table holds \"https://node.example"), "{ran:?}");
}

#[test]
fn a_proxys_password_is_hidden() {
    for proxy in [Stub::dead(), "http://proxy.invalid:3128".to_owned()] {
        let proxy = proxy.replace("http://", "http://me:pr0xy-pa55@");
        for node in ["http://node.invalid", "https://node.invalid"] {
            let command = ["refresh".to_owned(), address(1)];
            let ran = prepared(&command, &[])
                .env("HTTP_PROXY", &proxy)
                .env("http_proxy", &proxy)
                .env("HTTPS_PROXY", &proxy)
                .node(node)
                .database(&Database::sqlite())
                .run()
                .expect(2);
            hides(&ran, &["pr0xy-pa55"]);
        }
    }
}

#[test]
fn help_shows_no_value_of_a_variable() {
    let mut pages: Vec<Vec<String>> = vec![vec![], vec!["help".into()], vec!["man".into()]];
    for command in [
        "migrate",
        "sweep",
        "refresh",
        "backfill",
        "verify",
        "watch",
        "status",
        "profile",
        "completions",
        "man",
    ] {
        pages.push(vec![command.into()]);
        pages.push(vec!["help".into(), command.into()]);
        pages.push(vec!["man".into(), command.into()]);
    }
    pages.push(vec!["completions".into(), "bash".into()]);
    pages.push(vec!["completions".into(), "zsh".into()]);
    for page in pages {
        let is_help_itself = !page.is_empty() && page[0] != "migrate" && page.len() > 1;
        let flags = if is_help_itself { &[""][..] } else { &["--help", "-h"] };
        for flag in flags {
            let arguments = page.iter().map(|argument| &**argument).chain([*flag]);
            let ran = ethtally(arguments.filter(|argument| !argument.is_empty()))
                .node(rpc_url("https://node.example"))
                .env("ETH_WS_URL", &rpc_url("wss://node.example"))
                .env(
                    "DATABASE_URL",
                    &format!("postgres://app:{}@db.example/t", DATABASE_SECRETS[0]),
                )
                .env("ETHTALLY_PROFILE", "secret-profile.toml")
                .env("ETHTALLY_CHUNK", "7771")
                .env("ETHTALLY_CONCURRENCY", "777")
                .env("ETHTALLY_RPS", "7773")
                .env("ETHTALLY_RETRIES", "7774")
                .env("ETHTALLY_TIMEOUT", "7775")
                .run();
            if ran.status != 0 {
                // `man man` and the like need not exist.
                continue;
            }
            assert!(!ran.stdout.is_empty(), "{ran:?}");
            hides(&ran, &RPC_SECRETS);
            hides(&ran, &DATABASE_SECRETS);
            hides(&ran, &["node.example", "db.example", "secret-profile", "777"]);
        }
    }
}
