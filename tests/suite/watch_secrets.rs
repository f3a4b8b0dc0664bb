//! No output of `watch` contains a secret, whatever fails while it runs.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    postgres::Cluster,
    stub::{Fault, When},
    wallet,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message, protocol::CloseFrame};

use crate::support::{
    chains::{socket_and_stub_of, stub_of},
    database::Database,
    program::{Ethtally, ethtally, eventually},
    secrets::{
        DATABASE_SECRETS, RPC_SECRETS, assert_hidden_in, dump_all_tables,
        faults_that_repeat_secrets, rpc_url,
    },
    table::{store_unread, unread_table},
    watch::{JsonWatch, caught_up, get, served_at, start},
};

/// The secrets of [`ws_url`], encoded, decoded and in part.
const WS_SECRETS: [&str; 6] = [
    "Ws%2Fpa55phrase",
    "Ws/pa55phrase",
    "pa55phrase",
    "SOCKETKEY0123456789abcdef",
    "SUBPROTOKEY9876543210",
    "SOCKETK",
];

/// A WebSocket URL with a secret in every part that can contain one.
fn ws_url(origin: &str) -> String {
    let (scheme, host) = origin.split_once("://").expect("an origin");
    format!(
        "{scheme}://wsuser:{}@{host}/v2/{}/x?apikey={}",
        WS_SECRETS[0], WS_SECRETS[3], WS_SECRETS[4]
    )
}

/// Prepares a `watch` with the most verbose output.
fn prepared(node: &str, socket: &str, database: &Database) -> Ethtally {
    let settings = ["watch", "--json", "-vv", "--listen", "0", "--retries", "0", "--timeout", "2"];
    ethtally(settings)
        .node(rpc_url(node))
        .env("ETH_WS_URL", &ws_url(socket))
        .env("RUST_BACKTRACE", "1")
        .env("ETHTALLY_LOG", "trace")
        .database(database)
}

/// Panics if a page that it serves contains a secret; returns the pages.
#[track_caller]
fn served(address: &str) -> String {
    let pages = ["/", "/state", "/healthz", "/readyz", "/metrics", "/nothing"]
        .map(|path| get(address, path).body);
    let served = pages.concat();
    assert_hidden(&served);
    served
}

#[track_caller]
fn assert_hidden(text: &str) {
    for secret in [&RPC_SECRETS[..], &WS_SECRETS, &DATABASE_SECRETS].concat() {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

/// Stops it and panics if its output contains a secret; returns its stderr.
#[track_caller]
fn ended(watching: JsonWatch) -> String {
    watching.signal("TERM");
    let (ran, lines) = watching.wait();
    let ran = ran.expect(143);
    assert_hidden(&format!("{lines:?}"));
    assert_hidden_in(&ran, &RPC_SECRETS);
    assert_hidden(&ran.stderr);
    ran.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_repeated_by_the_node_is_not_shown() {
    let chain = Chain::builder().start().await.unwrap();
    let (socket, stub) = socket_and_stub_of(&chain);
    let database = unread_table(0);
    store_unread(&database, 0..10);
    let watching = start(prepared(&stub.url(), &socket.url(), &database));
    let address = served_at(&watching);
    let connected = watching.until("connected", 1);
    assert_eq!(connected["endpoint"], socket.url());
    caught_up(&chain, &database).await;
    // Each fault occurs once, in `eth_getLogs` or in `eth_call`.
    for (n, fault) in
        faults_that_repeat_secrets().into_iter().enumerate().filter(|(n, _)| n % 3 == 0)
    {
        let method = if n % 2 == 0 { "eth_getLogs" } else { "eth_call" };
        stub.clear();
        stub.fault(fault, When::method(method).times(1));
        chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
        caught_up(&chain, &database).await;
        served(&address);
    }
    let errors = watching.events("error");
    assert!(errors.len() > 5, "{errors:#?}");
    let repeated = |line: &&Value| line["error"].as_str().expect("a text").contains("***");
    assert!(errors.iter().any(|line| repeated(&line)), "the node repeated the key: {errors:#?}");

    // Now both transports fail.
    stub.clear();
    let why = format!("no {} here", RPC_SECRETS[3]);
    stub.fault(Fault::status(403).with_body(&why), When::always());
    socket.refuse(true);
    eventually("it is not connected", || served(&address).contains("\"connected\":false"));
    eventually("both reasons are reported", || {
        let reasons = format!("{:?}", watching.events("disconnected"));
        reasons.contains("no *** here") && reasons.contains("no WebSocket at ws://127.0.0.1:")
    });
    served(&address);
    ended(watching);
    assert_hidden(&dump_all_tables(&database).await);
}

/// A WebSocket server whose responses and close reason repeat the key. Returns its URL and the number of
/// connections it has served.
fn socket_that_repeats_secrets() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let key = format!("no {} of {}", WS_SECRETS[3], ws_url("wss://upstream.example"));
    let answered = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&answered);
    thread::spawn(move || {
        for (n, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let Ok(mut socket) = tungstenite::accept(stream) else { continue };
            let Ok(Message::Text(request)) = socket.read() else { continue };
            let id = serde_json::from_str::<Value>(&request)
                .map_or(Value::Null, |request| request["id"].clone());
            let answer = match n % 3 {
                0 => json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": key}}),
                1 => json!({"jsonrpc": "2.0", "id": id, "result": {"key": key}}),
                _ => json!({"nothing": key}),
            };
            let _ = socket.send(Message::text(answer.to_string()));
            let reason = WS_SECRETS[3].into();
            let _ = socket.close(Some(CloseFrame { code: 1008.into(), reason }));
            while socket.read().is_ok() {}
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (url, answered)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_repeated_by_the_websocket_is_not_shown() {
    let chain = Chain::builder().start().await.unwrap();
    let database = unread_table(0);
    let (url, answered) = socket_that_repeats_secrets();
    let stub = stub_of(&chain);
    let watching = start(prepared(&stub.url(), &url, &database));
    let address = served_at(&watching);
    let first = watching.until("disconnected", 1);
    assert!(
        first["reason"].as_str().unwrap().contains("no *** of wss://upstream.example"),
        "{first}"
    );
    served(&address);
    // It polls over HTTP from then on, and only the log shows attempts to use the WebSocket.
    watching.until("connected", 1);
    eventually("it is tried again", || answered.load(Ordering::Relaxed) >= 3);
    let stderr = ended(watching);
    assert!(stderr.matches("no WebSocket at ws://127.0.0.1:").count() >= 2, "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_database_does_not_leak_its_password() {
    // Not the shared cluster, which other tests need.
    let cluster = Cluster::start().unwrap();
    let database = Database::at(cluster.url_with_password("app", DATABASE_SECRETS[1]).unwrap());
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..10);
    // Through proxies, as Anvil accepts no paths.
    let (socket, stub) = socket_and_stub_of(&chain);
    let watching = start(prepared(&stub.url(), &socket.url(), &database));
    let address = served_at(&watching);
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    cluster.stop().unwrap();
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    let error = watching.until("error", 1);
    let host = format!("database postgres://127.0.0.1:{}", cluster.port());
    assert!(error["error"].as_str().unwrap().starts_with(&host), "{error}");
    assert!(served(&address).contains(&host));
    cluster.restart().unwrap();
    caught_up(&chain, &database).await;
    served(&address);
    ended(watching);
    assert_hidden(&dump_all_tables(&database).await);
}
