//! URLs from files, as mounted secrets come.

use std::{fs, path::Path, process::Command};

use ethtally_testbed::{
    Chain,
    postgres::Cluster,
    stub::{Fault, Stub, When},
};
use serde_json::json;

use crate::support::{
    chains::{chain_and_stub, socket_and_stub_of, still_chain},
    database::Database,
    program::{Ethtally, ethtally},
    secrets::{DATABASE_SECRETS, RPC_SECRETS, assert_hidden_in, rpc_url},
    table::{store_unread, unread_table},
    wallets::address,
    watch::start,
};

/// Writes a file and returns its path.
fn file(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn refresh(options: &[&str]) -> Ethtally {
    let wallet = address(0);
    ethtally([&["refresh", &wallet, "--retries", "0", "--timeout", "2"], options].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn node_and_database_come_from_files() {
    let chain = still_chain().await;
    let folder = tempfile::tempdir().unwrap();
    for (n, text) in [
        format!("{}\n", chain.url()),
        format!("\u{feff}  {}\r\n\r\n", chain.url()),
        // Fallbacks, on lines or between commas.
        format!("{}\n{}\n", Stub::dead(), chain.url()),
        format!("{}, {}", Stub::dead(), chain.url()),
    ]
    .into_iter()
    .enumerate()
    {
        let node = file(folder.path(), "node", text);
        let url = format!("sqlite:{}/{n}.db\n", folder.path().display());
        let database = file(folder.path(), "database", url);
        let flags = ["--rpc-url-file", &node, "--database-url-file", &database, "--json"];
        let ran = refresh(&flags).run().expect(0);
        assert_eq!(ran.json()["updated"], 1, "{ran:?}");
        let ran = refresh(&["--json"])
            .env("ETH_RPC_URL_FILE", &node)
            .env("DATABASE_URL_FILE", &database)
            // Set to nothing, as by a compose file.
            .env("ETH_RPC_URL", "")
            .env("DATABASE_URL", " ")
            .run()
            .expect(0);
        assert_eq!(ran.json()["updated"], 1, "{ran:?}");
        assert!(folder.path().join(format!("{n}.db")).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_takes_its_websocket_from_a_file() {
    let chain = Chain::builder().start().await.unwrap();
    let (socket, stub) = socket_and_stub_of(&chain);
    let (folder, database) = (tempfile::tempdir().unwrap(), unread_table(0));
    store_unread(&database, 0..3);
    let ws = file(folder.path(), "ws", format!("{}\n", socket.url()));
    let watching = start(
        ethtally(["watch", "--json", "--ws-url-file", &ws]).node(stub.url()).database(&database),
    );
    assert_eq!(watching.until("connected", 1)["endpoint"], json!(socket.url()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_a_file_too() {
    let chain = still_chain().await;
    let script = format!("exec \"$0\" \"$@\" --rpc-url-file <(echo {})", chain.url());
    let folder = tempfile::tempdir().unwrap();
    let ran = Command::new("bash")
        .args(["-c", &script, env!("CARGO_BIN_EXE_ethtally"), "refresh", &address(0)])
        .env("ETHTALLY_MAX_HEAD_AGE", "3h")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
}

#[test]
fn a_url_that_is_given_both_ways_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = file(folder.path(), "node", rpc_url("https://in.file"));
    let database = format!("postgres://app:{}@in.file/x", DATABASE_SECRETS[0]);
    let in_file = file(folder.path(), "database", &database);
    let given = rpc_url("https://given");
    let refused = |run: Ethtally, expected: &str| {
        let ran = run.run();
        assert_hidden_in(&ran, &RPC_SECRETS);
        assert_hidden_in(&ran, &DATABASE_SECRETS);
        let [one, other] = expected.split(' ').collect::<Vec<_>>()[..] else { unreachable!() };
        let line = format!("error: '{one}' cannot be used with '{other}'; leave one of them out");
        assert_eq!(ran.refused(), line);
    };
    let flags = ["--rpc-url", &given, "--rpc-url-file", &node];
    refused(refresh(&flags), "--rpc-url --rpc-url-file");
    refused(refresh(&flags[2..]).node(&given), "ETH_RPC_URL --rpc-url-file");
    let by_variable = |options: &[&str]| refresh(options).env("ETH_RPC_URL_FILE", &node);
    refused(by_variable(&flags[..2]), "--rpc-url ETH_RPC_URL_FILE");
    refused(by_variable(&[]).node(&given), "ETH_RPC_URL ETH_RPC_URL_FILE");
    // On both sides of the command's name.
    let mixed = ["--rpc-url", &given, "status", "--rpc-url-file", &node];
    refused(ethtally(mixed), "--rpc-url --rpc-url-file");
    refused(
        ethtally(["status", "--database-url-file", &in_file]).env("DATABASE_URL", &database),
        "DATABASE_URL --database-url-file",
    );
    refused(
        ethtally(["watch", "--ws-url-file", &node]).env("ETH_WS_URL", &given),
        "ETH_WS_URL --ws-url-file",
    );
}

#[test]
fn a_file_without_a_url_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("folder")).unwrap();
    let key = RPC_SECRETS[3];
    let lines = format!("postgres://app:{key}@db/x\npostgres://app:{key}@db/y\n");
    for (file, why) in [
        (path("missing"), "cannot be read: No such file or directory (os error 2)"),
        (path("folder"), "cannot be read: Is a directory (os error 21)"),
        (file(folder.path(), "empty", ""), "it is empty; write a URL into it"),
        (file(folder.path(), "blank", " \n\t\n"), "it is empty; write a URL into it"),
        (
            file(folder.path(), "huge", key.repeat(10_000)),
            "it is larger than 64 KiB; it must hold URLs only",
        ),
        ("/dev/zero".to_owned(), "it is larger than 64 KiB; it must hold URLs only"),
        (
            file(folder.path(), "binary", [key.as_bytes(), b"\xff\xfe"].concat()),
            "it is not text in UTF-8",
        ),
        (file(folder.path(), "lines", lines), "it has more than one line; write one URL into it"),
    ] {
        for (command, flag, variable) in [
            ("sweep", "rpc-url-file", "ETH_RPC_URL_FILE"),
            ("status", "database-url-file", "DATABASE_URL_FILE"),
            ("watch", "ws-url-file", "ETH_WS_URL_FILE"),
        ] {
            if flag == "rpc-url-file" && why.contains("more than one line") {
                continue;
            }
            let as_flag = format!("--{flag}={file}");
            for run in [ethtally([command, &as_flag]), ethtally([command]).env(variable, &file)] {
                let ran = run.folder(folder.path()).run();
                assert_hidden_in(&ran, &RPC_SECRETS);
                assert_eq!(ran.refused(), format!("error: --{flag} {file}: {why}"));
            }
            let ran = ethtally([command, &as_flag, "--json"]).folder(folder.path()).run().expect(2);
            assert_eq!(ran.conclusion()["outcome"], "failed");
        }
    }
    // Commas only.
    let commas = file(folder.path(), "commas", " , ,\n");
    let error = refresh(&["--rpc-url-file", &commas]).folder(folder.path()).run().refused();
    assert_eq!(error, format!("error: --rpc-url-file {commas}: it has no URL; write one into it"));
}

#[test]
fn a_pipe_into_which_nobody_writes_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let running = refresh(&["--rpc-url-file", pipe.to_str().unwrap()]).start();
    std::thread::sleep(std::time::Duration::from_millis(300));
    running.signal("TERM");
    running.wait().expect(143);
}

#[test]
fn what_a_file_holds_is_not_shown_when_it_is_no_url() {
    let folder = tempfile::tempdir().unwrap();
    let [node, database] = [
        file(folder.path(), "node", RPC_SECRETS[3]),
        file(folder.path(), "database", DATABASE_SECRETS[1]),
    ];
    let ran = refresh(&["--rpc-url-file", &node]).folder(folder.path()).run();
    assert_hidden_in(&ran, &RPC_SECRETS);
    assert_eq!(
        ran.refused(),
        format!(
            "error: URL number 1 in {node} is not an http or https URL; start it with http:// or \
             https://"
        )
    );
    let ran = ethtally(["status", "--database-url-file", &database]).run();
    assert_hidden_in(&ran, &DATABASE_SECRETS);
    assert_eq!(
        ran.refused(),
        format!(
            "error: --database-url-file {database}: unsupported database URL; use sqlite:PATH or \
             a postgres:// URL"
        )
    );
    // The URL itself where its file should be.
    let url = rpc_url("https://node.example");
    let ran = refresh(&["--rpc-url-file", &url]).run();
    assert_hidden_in(&ran, &RPC_SECRETS);
    assert_eq!(
        ran.refused(),
        "error: --rpc-url-file takes the path of a file, not a URL; write the URL into a file, or \
         give it as --rpc-url"
    );
    let url = format!("postgres://app:{}@db/x", DATABASE_SECRETS[0]);
    let ran = ethtally(["status"]).env("DATABASE_URL_FILE", &url).run();
    assert_hidden_in(&ran.expect(2), &DATABASE_SECRETS);
}

#[test]
fn a_file_is_read_only_where_its_url_is_used() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["migrate", "status", "profile"] {
        let ran = ethtally([command, "--database-url", "sqlite:x.db"])
            .env("ETH_RPC_URL_FILE", "/no/such/file")
            .env("ETH_WS_URL_FILE", "/no/such/file");
        ran.folder(folder.path()).run().expect(0);
    }
    ethtally(["man"]).env("DATABASE_URL_FILE", "/no/such/file").run().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_repeats_the_credentials_of_a_file_does_not_leak_them() {
    let (_chain, stub) = chain_and_stub().await;
    let folder = tempfile::tempdir().unwrap();
    let node = file(folder.path(), "node", rpc_url(&stub.url()));
    // `rpcuser:Rpc/pa55word`, as in the header that was sent.
    let basic = ["cnBjdXNlcjpScGMvcGE1NXdvcmQ=", "cnBjdXNlcjpScGMvcGE1NXdvcmQ"];
    for header in basic {
        let body = format!("bad Authorization: Basic {header}, key {}", RPC_SECRETS[3]);
        stub.clear();
        stub.fault(Fault::status(401).with_body(&body), When::always());
        for options in [&["-vv"][..], &["--json"]] {
            let ran = refresh(&[&["--rpc-url-file", &node], options].concat())
                .folder(folder.path())
                .run()
                .expect(3);
            assert_hidden_in(&ran, &RPC_SECRETS);
            assert_hidden_in(&ran, &basic);
            assert!(ran.stderr.contains("bad Authorization: Basic ***, key ***"), "{ran:?}");
        }
    }
}

#[test]
fn a_password_in_a_file_reaches_postgresql_and_no_output() {
    let cluster = Cluster::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let good = cluster.url_with_password("app", DATABASE_SECRETS[1]).unwrap();
    let path = file(folder.path(), "database", format!("{good}\n"));
    let migrated = ethtally(["migrate", "-vv"]).env("DATABASE_URL_FILE", &path).run().expect(0);
    assert_hidden_in(&migrated, &DATABASE_SECRETS);
    let database = Database::at(good.clone());
    ethtally(["status"]).database(&database).run().expect(0);
    let wrong = good.replace("hush-hush", "hush-hush-9");
    let path = file(folder.path(), "wrong", wrong);
    let ran = ethtally(["status", "-vv"]).env("DATABASE_URL_FILE", &path).run().expect(2);
    assert_hidden_in(&ran, &DATABASE_SECRETS);
}
