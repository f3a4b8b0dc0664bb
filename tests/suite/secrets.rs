//! No secret of a URL is shown, logged or stored, whatever fails.

use ethtally_testbed::{
    postgres::Cluster,
    stub::{Fault, Stub, When},
};

use crate::support::{
    chains::chain_and_stub,
    database::Database,
    program::{COMMANDS, Ethtally, ethtally},
    secrets::{
        DATABASE_SECRETS, RPC_SECRETS, assert_hidden_in, dump_all_tables,
        faults_that_repeat_secrets, rpc_url,
    },
    table::unread_table,
    wallets::address,
};

/// All commands, in all variants that use node or database.
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

/// Whether a command fails without a node.
fn reads_the_node(command: &[String]) -> bool {
    matches!(&*command[0], "refresh" | "verify" | "sweep" | "backfill" | "watch")
        && !command.iter().any(|argument| argument == "--dry-run" || argument == "--placeholders")
}

/// Whether a command opens the database.
fn opens_the_database(command: &[String]) -> bool {
    !matches!(&*command[0], "profile" | "completions" | "man")
}

/// Prepares a command with the most verbose output.
fn prepared(command: &[String], more: &[&str]) -> Ethtally {
    let fixed = ["-vv", "--retries", "0", "--timeout", "2"];
    ethtally(command.iter().map(|argument| &**argument).chain(fixed).chain(more.iter().copied()))
        .input(address(1))
        .env("RUST_BACKTRACE", "1")
        .env("ETHTALLY_LOG", "trace")
}

/// Runs every command against a failing node, with and without --json; the output must name its host and no secret.
async fn assert_every_command_hides_the_node(origin: &str) {
    let database = unread_table(2);
    for command in commands() {
        for more in [&[][..], &["--json"]] {
            let url = rpc_url(origin);
            let ran = prepared(&command, more).node(&url).database(&database).run_or_stop();
            assert_hidden_in(&ran, &RPC_SECRETS);
            assert_eq!(matches!(ran.status, 3 | 143), reads_the_node(&command), "{ran:?}");
            if ran.status == 3 {
                assert!(ran.error().contains(origin), "{origin}: {ran:?}");
            }
            let as_flag = format!("--rpc-url={url}");
            assert_hidden_in(
                &prepared(&command, &[&as_flag]).database(&database).run_or_stop(),
                &RPC_SECRETS,
            );
        }
    }
    let rows = dump_all_tables(&database).await;
    assert!(RPC_SECRETS.iter().all(|secret| !rows.contains(secret)), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_does_not_leak_its_key() {
    assert_every_command_hides_the_node(&Stub::dead()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_does_not_leak_its_key() {
    assert_every_command_hides_the_node("https://node.invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_tls_does_not_leak_its_key() {
    let stub = Stub::in_front_of(&Stub::dead()).unwrap();
    assert_every_command_hides_the_node(&stub.url().replace("http:", "https:")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_repeated_by_the_node_is_not_printed() {
    let (_chain, stub) = chain_and_stub().await;
    let command = ["refresh".to_owned(), address(1)];
    for fault in faults_that_repeat_secrets() {
        for when in [When::always(), When::eth_call()] {
            let database = Database::sqlite();
            stub.clear();
            stub.fault(fault.clone(), when);
            for more in [&[][..], &["--json"]] {
                let ran =
                    prepared(&command, more).node(rpc_url(&stub.url())).database(&database).run();
                assert_hidden_in(&ran.expect(3), &RPC_SECRETS);
            }
        }
    }
    for fault in [Fault::status(401), Fault::status(403), Fault::NotJson] {
        stub.clear();
        stub.fault(fault, When::always());
        assert_every_command_hides_the_node(&stub.url()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_repeated_by_the_node_is_not_stored() {
    let (_chain, stub) = chain_and_stub().await;
    let failing = address(1);
    for fault in faults_that_repeat_secrets() {
        if !matches!(fault, Fault::Error { .. } | Fault::Status { status: 413, .. }) {
            continue;
        }
        let database = Database::sqlite();
        stub.clear();
        stub.fault(fault, When::eth_call().mentioning(&failing));
        for command in [
            vec!["refresh".to_owned(), address(0), failing.clone()],
            vec!["verify".to_owned(), failing.clone()],
            vec!["verify".to_owned(), "--sample".to_owned(), "2".to_owned()],
        ] {
            for more in [&[][..], &["--json"]] {
                let ran =
                    prepared(&command, more).node(rpc_url(&stub.url())).database(&database).run();
                assert_hidden_in(&ran, &RPC_SECRETS);
            }
        }
        let rows = dump_all_tables(&database).await;
        assert!(RPC_SECRETS.iter().all(|secret| !rows.contains(secret)), "{rows}");
    }
    // The error itself is shown and stored, without the secrets.
    let database = Database::sqlite();
    stub.clear();
    let fault = Fault::error(-32000, &format!("out of gas for key {}", RPC_SECRETS[3]));
    stub.fault(fault, When::eth_call().mentioning(&failing));
    let command = ["refresh".to_owned(), address(0), failing.clone()];
    let ran = prepared(&command, &[]).node(rpc_url(&stub.url())).database(&database).run();
    assert!(ran.expect(0).stdout.contains("out of gas for key ***"));
    assert_eq!(
        database.sql("select last_error from eth_wallet_read_failures").await,
        ["error -32000: out of gas for key ***"]
    );
}

/// Runs every command with an unusable database; the error must contain `says` and no secret.
fn assert_every_command_hides_the_database(url: &str, says: &str) {
    for command in commands() {
        for more in [&[][..], &["--json"]] {
            let ran = prepared(&command, more).node(Stub::dead()).env("DATABASE_URL", url).run();
            assert_hidden_in(&ran, &DATABASE_SECRETS);
            if opens_the_database(&command) {
                assert!([2, 4].contains(&ran.status), "{url}: {ran:?}");
                assert!(ran.error().contains(says), "{says}: {ran:?}");
            }
        }
        let as_flag = format!("--database-url={url}");
        assert_hidden_in(
            &prepared(&command, &[&as_flag]).node(Stub::dead()).run(),
            &DATABASE_SECRETS,
        );
    }
}

#[test]
fn a_database_that_is_down_does_not_leak_its_password() {
    let host = Stub::dead().replace("http://", "");
    let url = format!("postgres://app:{}@{host}/tally", DATABASE_SECRETS[0]);
    assert_every_command_hides_the_database(&url, &format!("postgres://{host}"));
    let url = format!("postgres://app@{host}/tally?password={}", DATABASE_SECRETS[0]);
    assert_every_command_hides_the_database(&url, &format!("postgres://{host}"));
}

#[test]
fn an_unknown_database_host_does_not_leak_its_password() {
    let url = format!("postgresql://app:{}@db.invalid/tally", DATABASE_SECRETS[0]);
    assert_every_command_hides_the_database(&url, "postgres://db.invalid:5432");
}

#[test]
fn a_wrong_password_is_not_shown() {
    // Not the shared cluster, whose roles all tests share.
    let cluster = Cluster::start().unwrap();
    let good = cluster.url_with_password("app", "a-good-one").unwrap();
    let (before, behind) = good.split_once("a-good-one").unwrap();
    let url = format!("{before}{}{behind}", DATABASE_SECRETS[0]);
    let host = format!("127.0.0.1:{}", cluster.port());
    assert_every_command_hides_the_database(&url, &host);

    // The right password, for a database that does not exist.
    let good = cluster.url_with_password("app", DATABASE_SECRETS[1]).unwrap();
    let (server, _) = good.rsplit_once('/').unwrap();
    assert_every_command_hides_the_database(&format!("{server}/nowhere"), &host);
}

#[test]
fn an_unsupported_database_url_does_not_leak_its_password() {
    let password = DATABASE_SECRETS[0];
    for scheme in ["mysql", "mongodb+srv", "http", "postgre", "sqlserver", ""] {
        let url = format!("{scheme}://app:{password}@db.example/tally");
        assert_every_command_hides_the_database(&url, "unsupported database URL");
    }
    for url in [
        format!("postgres:app:{password}@db.example/tally"),
        format!("app:{password}@db.example/tally"),
        password.to_owned(),
    ] {
        for command in commands() {
            let ran = prepared(&command, &[]).node(Stub::dead()).env("DATABASE_URL", &url).run();
            assert_hidden_in(&ran, &DATABASE_SECRETS);
        }
    }
}

#[test]
fn a_sqlite_url_does_not_leak_its_password() {
    let password = DATABASE_SECRETS[0];
    for url in [
        format!("sqlite://app:{password}@/no/such/folder/tally.db"),
        format!("sqlite:/no/such/folder/tally.db?key={password}"),
        format!("sqlite:///no/such/folder/tally.db?password={password}"),
    ] {
        assert_every_command_hides_the_database(&url, "sqlite");
    }
}

/// Passwords without the necessary percent-encoding, as two halves; the first may look like a port.
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

/// Runs with the URL in every place of the command line and the environment, right or wrong.
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
        run(&["status", &flag("database-url-file")]),
        run(&["status"]).env("DATABASE_URL_FILE", url),
        run(&["refresh", &wallet, &flag("rpc-url-file")]),
        run(&["refresh", &wallet]).env("ETH_RPC_URL_FILE", url),
    ]
}

/// Runs [`misplaced`] in a temporary folder, as some runs may succeed.
fn assert_hidden_in_every_place(url: &str, secrets: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    for run in misplaced(url) {
        assert_hidden_in(&run.folder(folder.path()).run_or_stop(), secrets);
    }
}

#[test]
fn a_password_that_is_not_encoded_is_hidden_in_a_database_url() {
    for (password, halves) in raw_passwords() {
        let url = format!("postgres://app:{password}@127.0.0.1:1/tally");
        assert_hidden_in_every_place(&url, &halves);
    }
}

#[test]
fn a_password_that_is_not_encoded_is_hidden_in_a_nodes_url() {
    for (password, halves) in raw_passwords() {
        let url = format!("https://app:{password}@127.0.0.1:1/v2/x");
        assert_hidden_in_every_place(&url, &halves);
    }
}

#[test]
fn a_url_is_hidden_wherever_it_stands() {
    assert_hidden_in_every_place(&rpc_url("https://127.0.0.1:1"), &RPC_SECRETS);
    let url = format!("postgres://app:{}@127.0.0.1:1/tally", DATABASE_SECRETS[0]);
    assert_hidden_in_every_place(&url, &DATABASE_SECRETS);
    // A key without a name, as the user name, and after a `#`.
    let key = "c0ffee0123456789c0ffee";
    for url in [
        format!("https://127.0.0.1:1/?{key}"),
        format!("https://{key}@127.0.0.1:1/"),
        format!("https://{key}:@127.0.0.1:1/"),
        format!("https://127.0.0.1:1/#{key}"),
        format!("wss://127.0.0.1:1/ws/{key}"),
        format!("https://127.0.0.1:1/{key},https://127.0.0.1:1/v3/{key}"),
    ] {
        assert_hidden_in_every_place(&url, &[key]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_unusual_places_are_hidden() {
    let (_chain, stub) = chain_and_stub().await;
    let key = "c0ffee0123456789c0ffee";
    // And a secret that is not in our settings.
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
        let ran = prepared(&command, &[]).node(&url).database(&Database::sqlite()).run().expect(3);
        assert_hidden_in(&ran, &[key, "unheard-of", "never-seen"]);
        let cleaned = "the key *** is bad: dial https://upstream.example";
        assert!(ran.error().contains(cleaned), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_line_hides_the_url_that_stands_in_the_table() {
    let database = unread_table(2);
    let url = rpc_url("https://node.example");
    database
        .sql(&format!(
            "insert into eth_wallet_balances (wallet, updated_at) values ('{url}', '1970-01-01 00:00:00')"
        ))
        .await;
    let ran = prepared(&["sweep".to_owned()], &[]).node(Stub::dead()).database(&database).run();
    assert_hidden_in(&ran, &RPC_SECRETS);
    assert!(ran.stderr.contains("skipping the row \"https://node.example"), "{ran:?}");
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
                .expect(3);
            assert_hidden_in(&ran, &["pr0xy-pa55"]);
        }
    }
}

#[test]
fn help_shows_no_value_of_a_variable() {
    let mut pages: Vec<Vec<String>> = vec![vec![], vec!["help".into()], vec!["man".into()]];
    for command in COMMANDS {
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
                // `man man` and the like may not exist.
                continue;
            }
            assert!(!ran.stdout.is_empty(), "{ran:?}");
            assert_hidden_in(&ran, &RPC_SECRETS);
            assert_hidden_in(&ran, &DATABASE_SECRETS);
            assert_hidden_in(&ran, &["node.example", "db.example", "secret-profile", "777"]);
        }
    }
}
