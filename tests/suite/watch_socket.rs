//! `watch` with a WebSocket that is late, incomplete or silent.

use std::{io::Read, net::TcpListener, time::Duration};

use ethtally_testbed::{
    Chain, Socket,
    stub::{Fault, Stub, When},
};
use serde_json::Value;

use crate::support::{
    chains::stub_of,
    database::{Database, on_both_databases},
    program::{ethtally, eventually},
    traffic::{Traffic, chain_for_traffic},
    watch::{caught_up, checkpoint, start, start_connected, watch},
};

on_both_databases! {
    blocks_mined_during_subscription_are_found
    blocks_mined_during_the_first_requests_are_found
    watch_follows_the_logs_without_heads
    blocks_with_lost_heads_are_filled
    blocks_mined_while_disconnected_are_filled
    a_silent_websocket_is_replaced_after_max_lag
    watch_polls_until_a_websocket_is_available
    watch_polls_without_a_websocket_server
}

/// A chain with a WebSocket proxy, and placeholders for the wallets of [`Traffic`].
async fn chain(database: &Database) -> (Chain, Socket) {
    let chain = chain_for_traffic(database).await;
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    (chain, socket)
}

fn through(socket: &Socket) -> String {
    format!("--ws-url {}", socket.url())
}

async fn blocks_mined_during_subscription_are_found(database: Database) {
    let (chain, socket) = chain(&database).await;
    socket.delay_responses_to("eth_subscribe", Duration::from_secs(2));
    let watching = start(watch(&through(&socket), chain.url(), &database));
    // It has found no blocks yet.
    watching.until("began", 1);
    eventually("it subscribes", || socket.requests("eth_subscribe") > 0);
    let mut traffic = Traffic::on(&chain).await;
    traffic.blocks(10).await;
    assert!(watching.events("connected").is_empty(), "it connected too early for this test");
    // No later block announces these.
    traffic.until_stored(&database).await;
    watching.until("connected", 1);
    watching.stop();
}

async fn blocks_mined_during_the_first_requests_are_found(database: Database) {
    let (chain, socket) = chain(&database).await;
    let stub = stub_of(&chain);
    let watching = start_connected(watch(&through(&socket), stub.url(), &database));
    caught_up(&chain, &database).await;
    watching.stop();
    let mut traffic = Traffic::on(&chain).await;
    for method in ["eth_getLogs", "eth_getBlockByNumber", "eth_call"] {
        traffic.blocks(3).await;
        stub.clear();
        stub.forget();
        // After the start, which fetches the newest block too.
        let first = if method == "eth_getBlockByNumber" { 1 } else { 0 };
        let when = When::method(method).after(first).times(1);
        stub.fault(Fault::Delay(Duration::from_secs(2)), when);
        let watching = start(watch(&through(&socket), stub.url(), &database));
        let held = || stub.requests().iter().any(|seen| seen.answered == "delay");
        eventually("the response is delayed", held);
        traffic.blocks(5).await;
        traffic.until_stored(&database).await;
        watching.stop();
    }
}

async fn watch_follows_the_logs_without_heads(database: Database) {
    let (chain, socket) = chain(&database).await;
    socket.mute_heads(true);
    let watching = start_connected(watch(&through(&socket), chain.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    for _ in 0..5 {
        traffic.block().await;
        traffic.until_stored(&database).await;
    }
    assert_eq!(watching.events("connected").len(), 1);
    watching.stop();
}

async fn blocks_with_lost_heads_are_filled(database: Database) {
    let (chain, socket) = chain(&database).await;
    let watching = start_connected(watch(&through(&socket), chain.url(), &database));
    let mut traffic = Traffic::on(&chain).await;
    // The first block may be found by polling, but a later one without logs only by its head.
    for _ in 0..3 {
        chain.mine(1).await.unwrap();
        caught_up(&chain, &database).await;
    }
    let before = chain.block_number().await.unwrap();
    let filled = watching.events("gap_filled").len();

    socket.drop_heads(3);
    chain.mine(4).await.unwrap();
    let gap = watching.until("gap_filled", filled + 1);
    assert_eq!((number(&gap, "from_block"), number(&gap, "to_block")), (before + 1, before + 4));
    assert_eq!((number(&gap, "logs"), number(&gap, "updated")), (0, 0));
    assert_eq!(checkpoint(&database).await, Some(before + 4));

    // With a head for each block, there is no gap.
    for _ in 0..3 {
        traffic.block().await;
        traffic.until_stored(&database).await;
    }
    assert_eq!(watching.events("gap_filled").len(), filled + 1);
    watching.stop();
}

async fn blocks_mined_while_disconnected_are_filled(database: Database) {
    let (chain, socket) = chain(&database).await;
    let watching = start_connected(watch(&through(&socket), chain.url(), &database));
    watching.until("began", 1);
    let mut traffic = Traffic::on(&chain).await;
    traffic.block().await;
    let before = traffic.until_stored(&database).await;
    let filled = watching.events("gap_filled").len();

    socket.refuse(true);
    traffic.blocks(4).await;
    socket.refuse(false);
    traffic.until_stored(&database).await;
    let gap = watching.until("gap_filled", filled + 1);
    let (from, to) = (number(&gap, "from_block"), number(&gap, "to_block"));
    assert!(from == before + 1 && to > from, "{gap}");
    let logs = chain.logs(from, to).await.unwrap().len() as u64;
    assert_eq!(number(&gap, "logs"), logs);
    assert!((2..=2 * logs).contains(&number(&gap, "updated")), "{gap}");
    watching.stop();
}

async fn a_silent_websocket_is_replaced_after_max_lag(database: Database) {
    let (chain, socket) = chain(&database).await;
    let arguments = format!("--max-lag 2 {}", through(&socket));
    let watching = start_connected(watch(&arguments, chain.url(), &database));
    let mut traffic = Traffic::on(&chain).await;
    socket.stall(true);
    traffic.blocks(3).await;
    // Polling finds them, as new connections are silent too.
    traffic.until_stored(&database).await;
    let reason = watching.until("disconnected", 1)["reason"].to_string();
    assert!(reason.contains("no new block for 2 s"), "{reason}");
    assert_eq!(watching.until("connected", 2)["via"], "http");
    socket.stall(false);
    assert_eq!(watching.until("connected", 3)["via"], "websocket");
    watching.stop();
}

async fn watch_polls_until_a_websocket_is_available(database: Database) {
    let (chain, socket) = chain(&database).await;
    socket.refuse(true);
    let watching = start(watch(&through(&socket), chain.url(), &database));
    let refused = watching.until("disconnected", 1);
    assert!(refused["reason"].as_str().unwrap().contains("no WebSocket"), "{refused}");
    assert_eq!(watching.until("connected", 1)["via"], "http");
    // Without a checkpoint it starts behind the newest block, whichever that is by then.
    watching.until("began", 1);
    let mut traffic = Traffic::on(&chain).await;
    for _ in 0..3 {
        traffic.block().await;
        traffic.until_stored(&database).await;
    }
    // It reports that once, however often it is refused.
    assert_eq!(watching.events("connected").len(), 1, "{:?}", watching.lines());
    assert_eq!(watching.events("disconnected").len(), 1, "{:?}", watching.lines());

    socket.refuse(false);
    assert_eq!(watching.until("connected", 2)["via"], "websocket");
    traffic.blocks(5).await;
    traffic.until_stored(&database).await;
    assert_eq!(socket.subscriptions("newHeads"), 1);
    watching.stop();
}

async fn watch_polls_without_a_websocket_server(database: Database) {
    let (chain, _socket) = chain(&database).await;
    let dead = Stub::dead().replace("http:", "ws:");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("ws://{}", silent.local_addr().unwrap());
    let stub = stub_of(&chain);
    let mut traffic = Traffic::on(&chain).await;
    // A refused connection, a server that never responds, and by default a node without WebSocket.
    for arguments in
        [format!("--ws-url {dead}"), format!("--timeout 1 --ws-url {silent}"), String::new()]
    {
        let watching = start(watch(&arguments, stub.url(), &database));
        assert_eq!(watching.until("connected", 1)["via"], "http");
        traffic.blocks(2).await;
        traffic.until_stored(&database).await;
        assert_eq!(watching.events("connected").len(), 1, "{:?}", watching.lines());
        watching.stop();
    }
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or_else(|| panic!("{field}: {line}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password_of_a_websocket_are_sent_decoded() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::sqlite();
    ethtally(["migrate"]).database(&database).run().expect(0);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://us%40r:p%2Fss%3Aw%25rd@{}", server.local_addr().unwrap());
    let watching = start(watch(&format!("--ws-url {url}"), chain.url(), &database));
    let mut head = [0; 1_024];
    let (mut connection, _) = server.accept().unwrap();
    let length = connection.read(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
    // us@r:p/ss:w%rd
    assert!(head.contains("authorization: basic dxnacjpwl3nzonclcmq="), "{head}");
    watching.stop();
}
