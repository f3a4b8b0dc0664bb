//! The page of `watch --listen`, in a real browser.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    stub::{Fault, When},
    wallet,
};
use serde_json::Value;

use crate::support::{
    chains::socket_and_stub_of,
    chromium::dom_of,
    database::Database,
    program::{ethtally, eventually},
    secrets::{DATABASE_SECRETS, RPC_SECRETS, rpc_url},
    table::store_unread,
    watch::{caught_up, get, served_at, start},
};

/// What a page that is not escaped would run.
const HOSTILE: &str = "<img src=x onerror=\"document.body.innerHTML='owned'\">";

/// Waits until the table was looked up.
fn is_complete(at: &str) {
    eventually("the table is looked up", || !get(at, "/state").json()["table"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_what_watch_knows() {
    let chain = Chain::builder().start().await.unwrap();
    let (socket, stub) = socket_and_stub_of(&chain);
    let database = Database::postgres();
    store_unread(&database, 0..12);
    let sweep = |node: &str| {
        ethtally(["sweep", "--batch", "5", "--retries", "0"]).node(node).database(&database).run()
    };
    sweep(&chain.url()).expect(0);
    let refresh = |node: &str| {
        let address = crate::support::wallets::address(1);
        ethtally(["refresh", &address, "--retries", "0"]).node(node).database(&database).run()
    };
    stub.fault(Fault::status(401).with_body(HOSTILE), When::always());
    refresh(&stub.url()).expect(3);
    stub.clear();
    let watching = start(
        ethtally(["watch", "--json", "--listen", "0", "--retries", "0"])
            .node(rpc_url(&stub.url()))
            .env("ETH_WS_URL", &rpc_url(&socket.url()))
            .database(&database),
    );
    let at = served_at(&watching);
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    stub.fault(Fault::status(401).with_body(HOSTILE), When::method("eth_getLogs").times(1));
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    watching.until("error", 1);
    caught_up(&chain, &database).await;
    is_complete(&at);
    let dom = dom_of(&format!("http://{at}/"), 3_000);
    for shown in [
        "healthy, active",
        "<dt>Newest block</dt><dd>1</dd>",
        "<dt>Stored up to</dt><dd>1</dd>",
        "<dt>Connection</dt><dd>websocket</dd>",
        "<dt>Rows</dt><dd>12</dd>",
        "never read",
        "<td>sweep</td><td class=\"good\">complete</td>",
        "<td>refresh</td><td class=\"bad\">failed</td>",
        "<td>watch</td><td class=\"good\">running</td>",
        "href=\"metrics\"",
        "<progress",
        ", audius",
    ] {
        assert!(dom.contains(shown), "{shown}: {dom}");
    }
    // What a node says is text, in the last error and in the record of runs.
    assert!(dom.matches("&lt;img src=x onerror=").count() >= 2, "{dom}");
    assert!(!dom.contains("<img") && !dom.contains("<body>owned"), "{dom}");
    let pages = ["/", "/page.js", "/page.css", "/state"].map(|path| get(&at, path).body).concat();
    for secret in [&RPC_SECRETS[..], &DATABASE_SECRETS].concat() {
        assert!(!pages.contains(secret) && !dom.contains(secret), "{secret}");
    }
    let runs = get(&at, "/state").json()["last_runs"].clone();
    let commands: Vec<_> = runs.as_array().unwrap().iter().map(|run| &run["command"]).collect();
    assert_eq!(commands, ["backfill", "refresh", "sweep", "watch"], "the newest of each");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unhealthy_watch_says_why_on_its_page() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let watching = start(
        ethtally(["watch", "--json", "--listen", "0", "--retries", "0", "--max-lag", "1"])
            .node("http://127.0.0.1:1")
            .database(&database),
    );
    let at = served_at(&watching);
    eventually("it is unhealthy", || get(&at, "/healthz").status == 503);
    let dom = dom_of(&format!("http://{at}/"), 3_000);
    assert!(
        dom.contains("unhealthy, standby") && dom.contains("<li>nothing is stored yet"),
        "{dom}"
    );
    assert!(dom.contains("<dt>Newest block</dt><dd>–</dd>"), "{dom}");
}

/// Passes requests on until the first `/state` is answered, and then breaks every connection, as a program that dies.
fn dying_proxy(target: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut is_dead = false;
        for mut client in listener.incoming().map_while(Result::ok) {
            if is_dead {
                continue;
            }
            let mut head = [0; 4_096];
            let read = client.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let Some(path) = head.split(' ').nth(1) else { continue };
            is_dead = path == "/state";
            let mut server = TcpStream::connect(&target).unwrap();
            write!(server, "GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")
                .unwrap();
            let mut answer = Vec::new();
            let _ = server.read_to_end(&mut answer);
            let _ = client.write_all(&answer);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_when_watch_does_not_answer_any_more() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::sqlite();
    store_unread(&database, 0..3);
    let watching =
        start(ethtally(["watch", "--json", "--listen", "0"]).node(chain.url()).database(&database));
    let at = served_at(&watching);
    caught_up(&chain, &database).await;
    is_complete(&at);
    // It asks again after 5 seconds of its time.
    let dom = dom_of(&format!("http://{}/", dying_proxy(at)), 9_000);
    assert!(
        dom.contains("no answer") && dom.contains("watch does not answer; this is as of "),
        "{dom}"
    );
    assert!(
        dom.contains("<body class=\"stale\">") && dom.contains("<dt>Rows</dt><dd>3</dd>"),
        "{dom}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_on_the_page_comes_from_elsewhere() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let watching =
        start(ethtally(["watch", "--json", "--listen", "0"]).node(chain.url()).database(&database));
    let at = served_at(&watching);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/state", "application/json"),
    ] {
        let response = get(&at, path);
        assert_eq!((response.status, response.content_type.as_str()), (200, kind), "{path}");
        let body = response.body.to_lowercase();
        for foreign in ["http://", "https://", "innerhtml", "onclick", "style=", "<style", "eval("]
        {
            assert!(path == "/state" || !body.contains(foreign), "{foreign} in {path}");
        }
    }
    let mut stream = TcpStream::connect(&at).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").unwrap();
    let mut head = String::new();
    stream.read_to_string(&mut head).unwrap();
    let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    assert!(head.contains(policy) && head.contains("x-content-type-options: nosniff"), "{head}");
    assert_eq!(get(&at, "/state").json()["profile"], Value::from("audius"));
}
