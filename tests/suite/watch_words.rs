//! `watch`: its text and JSON output.

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    stub::{Fault, When},
    wallet,
};
use serde_json::json;

use crate::support::{
    chains::socket_and_stub_of,
    database::Database,
    program::{ethtally, unstamped},
    table::store_unread,
    watch::{TextWatch, caught_up, masked, masked_objects, until_matches_chain},
};

/// Runs three watches with these arguments through every kind of event: the second is a standby, the third starts
/// after the others. Returns the lines of each on stdout and on stderr.
async fn run_three_watches_through_every_event(
    arguments: &[&str],
) -> [(Vec<String>, Vec<String>); 3] {
    let chain = Chain::builder().start().await.unwrap();
    let (socket, stub) = socket_and_stub_of(&chain);
    let database = Database::sqlite();
    store_unread(&database, 0..10);
    let url = socket.url();
    let settings = ["watch", "--listen", "0", "--retries", "0", "--ws-url", &url];
    let prepared =
        || ethtally([&settings, arguments].concat()).node(stub.url()).database(&database);
    let transfer = async || {
        chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    };
    let first = TextWatch::start(prepared());
    first.until(["connected to ws", "\"websocket\""], 1);
    caught_up(&chain, &database).await;
    transfer().await;
    caught_up(&chain, &database).await;

    // A block between two connections: while stopped, it cannot reconnect.
    first.signal("STOP");
    socket.cut();
    transfer().await;
    first.signal("CONT");
    first.until(["gap filled", "\"gap_filled\""], 1);

    chain.reorg(1).await.unwrap();
    first.until(["re-reading", "\"reorg\""], 1);
    // Anvil answers from the newest block if one is mined during the reading.
    until_matches_chain(&chain, &database, [0, 1]).await;
    chain.mine(1).await.unwrap();
    caught_up(&chain, &database).await;

    stub.fault(Fault::status(401).with_body("no such key"), When::method("eth_getLogs").times(1));
    transfer().await;
    first.until(["no such key", "no such key"], 1);
    caught_up(&chain, &database).await;

    let second = TextWatch::start(prepared());
    second.until(["standing by", "\"standby\""], 1);
    let second = second.stop();

    socket.refuse(true);
    first.until(["polling ", "\"http\""], 1);
    socket.refuse(false);
    first.until(["connected to ws", "\"websocket\""], 3);
    let first = first.stop();

    // The next one finds the checkpoint.
    let third = TextWatch::start(prepared());
    third.until(["connected to ws", "\"websocket\""], 1);
    [in_order(first), second, third.stop()]
}

/// Sorts the lines about the first checkpoint and the first connection, which may be in either order.
fn in_order((stdout, stderr): (Vec<String>, Vec<String>)) -> (Vec<String>, Vec<String>) {
    let in_order = |mut lines: Vec<String>| {
        let at = |words: [&str; 2]| {
            lines.iter().position(|line| words.iter().any(|words| line.contains(words)))
        };
        let began = at(["no checkpoint yet", "\"began\""]);
        let connected = at(["connected to", "\"connected\""]);
        if let (Some(began), Some(connected)) = (began, connected)
            && connected < began
        {
            lines.swap(connected, began);
        }
        lines
    };
    (in_order(stdout), in_order(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn text_mode_writes_notes_to_stderr_and_the_summary_to_stdout() {
    let [first, second, third] = run_three_watches_through_every_event(&[]).await;
    let masked_lines = |lines: &[String]| lines.iter().map(|line| masked(line)).collect::<Vec<_>>();
    assert_eq!(
        masked_lines(&first.1),
        [
            "TIME INFO  health and metrics at http://127.0.0.1:PORT",
            "TIME INFO  following the chain",
            "TIME INFO  no checkpoint yet; starting at block 0",
            "TIME INFO  connected to ws://127.0.0.1:PORT",
            "TIME WARN  not connected: the connection broke; retrying in N s",
            "TIME INFO  connected to ws://127.0.0.1:PORT",
            "TIME INFO  gap filled: block 2 logs:1 updated:2 in N ms",
            "TIME INFO  block 2 was replaced; re-reading 2 wallets",
            "TIME WARN  failed: http://127.0.0.1:PORT: HTTP 401 Unauthorized: no such key; check the URL and its key; \
             retrying in N s",
            "TIME WARN  not connected: the connection broke; retrying in N s",
            "TIME WARN  not connected: no WebSocket at ws://127.0.0.1:PORT: HTTP error: 503 Service Unavailable; \
             retrying in N s",
            "TIME INFO  polling http://127.0.0.1:PORT; retrying the WebSocket meanwhile",
            "TIME INFO  connected to ws://127.0.0.1:PORT",
        ]
    );
    // How often the wallets of the orphaned block are read again depends on how long the test takes.
    let [end] = first.0.as_slice() else { panic!("{:?}", first.0) };
    assert!(end.starts_with("watch interrupted blocks:5 logs:3 updated:"), "{end}");
    assert!(end.ends_with(" reorgs:1 errors:4 checkpoint:4"), "{end}");

    let nothing = "blocks:0 logs:0 updated:0 failed:0 superseded:0 calls:0 reorgs:0 errors:0";
    assert_eq!(
        masked_lines(&second.1),
        [
            "TIME INFO  health and metrics at http://127.0.0.1:PORT",
            "TIME INFO  another watch is running; standing by to take over",
        ]
    );
    assert_eq!(second.0, [format!("watch interrupted {nothing} checkpoint:none")]);
    assert_eq!(
        masked_lines(&third.1),
        [
            "TIME INFO  health and metrics at http://127.0.0.1:PORT",
            "TIME INFO  following the chain from the checkpoint at block 4",
            "TIME INFO  connected to ws://127.0.0.1:PORT",
        ]
    );
    assert_eq!(third.0, [format!("watch interrupted {nothing} checkpoint:4")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_mode_writes_one_object_per_line_to_stdout() {
    let [first, second, third] = run_three_watches_through_every_event(&["--json"]).await;
    let disconnected =
        |reason: &str| json!({"event": "disconnected", "reason": reason, "retry_in_ms": "N"});
    let connected = |via: &str, endpoint: &str| {
        let endpoint = format!("{endpoint}://127.0.0.1:PORT");
        json!({"event": "connected", "via": via, "endpoint": endpoint})
    };
    let websocket = connected("websocket", "ws");
    let listening = json!({"event": "listening", "address": "127.0.0.1:PORT"});
    assert_eq!(
        masked_objects(&first.0),
        [
            listening.clone(),
            json!({"event": "active", "checkpoint_block": null}),
            json!({"event": "began", "checkpoint_block": 0}),
            websocket.clone(),
            disconnected("the connection broke"),
            websocket.clone(),
            json!({"event": "gap_filled", "from_block": 2, "to_block": 2, "logs": 1, "updated": 2, "elapsed_ms": "N"}),
            json!({"event": "reorg", "from_block": 2, "to_block": 2, "wallets": 2}),
            json!({
                "event": "error",
                "error": "http://127.0.0.1:PORT: HTTP 401 Unauthorized: no such key; check the URL and its key",
                "retry_in_ms": "N",
            }),
            disconnected("the connection broke"),
            disconnected(
                "no WebSocket at ws://127.0.0.1:PORT: HTTP error: 503 Service Unavailable"
            ),
            connected("http", "http"),
            websocket.clone(),
            json!({
                "event": "stopped", "blocks": 5, "logs": 3, "updated": 8, "failed": 0, "superseded": 0,
                "calls": 4, "reorgs": 1, "errors": 4, "checkpoint_block": 4, "interrupted": true,
                "version": env!("CARGO_PKG_VERSION"), "profile": "audius",
                "outcome": "interrupted", "exit_status": 130, "error": null,
            }),
        ]
    );
    let stopped = |checkpoint: Option<u64>| {
        json!({
            "event": "stopped", "blocks": 0, "logs": 0, "updated": 0, "failed": 0, "superseded": 0,
            "calls": 0, "reorgs": 0, "errors": 0, "checkpoint_block": checkpoint, "interrupted": true,
            "version": env!("CARGO_PKG_VERSION"), "profile": "audius",
            "outcome": "interrupted", "exit_status": 130, "error": null,
        })
    };
    let standby = json!({"event": "standby"});
    assert_eq!(masked_objects(&second.0), [listening.clone(), standby, stopped(None)]);
    let active = json!({"event": "active", "checkpoint_block": 4});
    assert_eq!(masked_objects(&third.0), [listening, active, websocket, stopped(Some(4))]);
    for watch in [first, second, third] {
        assert_eq!(watch.1, [""; 0]);
    }
}

/// The counts of a minute take a minute, so two watches run at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn counts_are_reported_once_a_minute() {
    let chain = Chain::builder().start().await.unwrap();
    let databases = [Database::sqlite(), Database::sqlite()];
    // The chain does not advance, which must not cause a reconnect here.
    let still = ["watch", "--max-lag", "600"];
    let watches = [still.to_vec(), [&still[..], &["--json"]].concat()];
    let mut talking = Vec::new();
    for (database, arguments) in databases.iter().zip(watches) {
        store_unread(database, 0..10);
        talking.push(TextWatch::start(ethtally(arguments).node(chain.url()).database(database)));
    }
    for (talking, database) in talking.iter().zip(&databases) {
        talking.until(["connected to ws", "\"websocket\""], 1);
        caught_up(&chain, database).await;
    }
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    for talking in &talking {
        talking.until(["in the last minute", "\"counts\""], 1);
    }
    let [text, json] = <[TextWatch; 2]>::try_from(talking).ok().expect("two").map(TextWatch::stop);
    let counts = text.1.last().expect("a line");
    let done = "blocks:1 logs:1 updated:2 failed:0 superseded:0 calls:1 reorgs:0 errors:0";
    assert_eq!(unstamped(counts), format!("note: in the last minute {done} head:1 checkpoint:1"));
    assert_eq!(text.0.len(), 1, "{text:?}");
    let counts = masked_objects(&json.0).into_iter().rev().nth(1).expect("a line");
    assert_eq!(
        counts,
        json!({
            "event": "counts", "blocks": 1, "logs": 1, "updated": 2, "failed": 0, "superseded": 0, "calls": 1,
            "reorgs": 0, "errors": 0, "head_block": 1, "checkpoint_block": 1,
        })
    );
}
