//! `watch` and what its WebSocket tells it: too late, not all of it, or nothing at all.

use std::{net::TcpListener, time::Duration};

use ethtally_testbed::{
    Chain, Socket,
    stub::{Fault, Stub, When},
};
use serde_json::Value;

use crate::{
    harness::{Database, eventually, on_both_databases},
    traffic::{AMONG, Traffic},
    watching::{caught_up, checkpoint, start, watch},
    world::store_unread,
};

on_both_databases! {
    what_is_mined_while_it_subscribes_is_found
    what_is_mined_while_the_first_answers_are_on_their_way_is_found
    without_heads_it_follows_the_logs
    blocks_whose_heads_were_lost_are_filled
    what_is_mined_while_it_is_cut_off_is_filled
    a_socket_that_is_silent_for_too_long_is_given_up
    where_no_websocket_can_be_had_it_polls_until_there_is_one
    where_nobody_listens_for_websockets_it_polls
}

/// A chain behind a socket, and a table with rows for all whom its traffic touches.
async fn chain(database: &Database) -> (Chain, Socket) {
    store_unread(database, 0..AMONG);
    let chain = Chain::builder().start().await.unwrap();
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    (chain, socket)
}

fn through(socket: &Socket) -> String {
    format!("--ws-url {}", socket.url())
}

async fn what_is_mined_while_it_subscribes_is_found(database: Database) {
    let (chain, socket) = chain(&database).await;
    socket.hold_answers_to("eth_subscribe", Duration::from_secs(2));
    let watching = start(watch(&through(&socket), chain.url(), &database));
    // It has looked for blocks, and found none.
    watching.until("began", 1);
    eventually("it subscribes", || socket.requests("eth_subscribe") > 0);
    let mut traffic = Traffic::on(&chain).await;
    traffic.blocks(10).await;
    assert!(watching.events("connected").is_empty(), "the window was not wide enough");
    // No block comes after these that could tell of them.
    traffic.is_stored(&database).await;
    watching.until("connected", 1);
    watching.stop();
}

async fn what_is_mined_while_the_first_answers_are_on_their_way_is_found(database: Database) {
    let (chain, socket) = chain(&database).await;
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let watching = start(watch(&through(&socket), stub.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    watching.stop();
    let mut traffic = Traffic::on(&chain).await;
    for method in ["eth_getLogs", "eth_getBlockByNumber", "eth_call"] {
        traffic.blocks(3).await;
        stub.clear();
        stub.forget();
        // Behind the start, which asks for the newest block too.
        let first = if method == "eth_getBlockByNumber" { 1 } else { 0 };
        let when = When::method(method).after(first).times(1);
        stub.fault(Fault::Delay(Duration::from_secs(2)), when);
        let watching = start(watch(&through(&socket), stub.url(), &database));
        let held = || stub.requests().iter().any(|seen| seen.answered == "delay");
        eventually("the answer is held up", held);
        traffic.blocks(5).await;
        traffic.is_stored(&database).await;
        watching.stop();
    }
}

async fn without_heads_it_follows_the_logs(database: Database) {
    let (chain, socket) = chain(&database).await;
    socket.mute_heads(true);
    let watching = start(watch(&through(&socket), chain.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    for _ in 0..5 {
        traffic.block().await;
        traffic.is_stored(&database).await;
    }
    assert_eq!(watching.events("connected").len(), 1);
    watching.stop();
}

async fn blocks_whose_heads_were_lost_are_filled(database: Database) {
    let (chain, socket) = chain(&database).await;
    let watching = start(watch(&through(&socket), chain.url(), &database));
    watching.until("connected", 1);
    let mut traffic = Traffic::on(&chain).await;
    // The first may be found by looking around; that a later one without logs is found is its head's doing.
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

    // Told of each in turn, it has no gap to speak of.
    for _ in 0..3 {
        traffic.block().await;
        traffic.is_stored(&database).await;
    }
    assert_eq!(watching.events("gap_filled").len(), filled + 1);
    watching.stop();
}

async fn what_is_mined_while_it_is_cut_off_is_filled(database: Database) {
    let (chain, socket) = chain(&database).await;
    let watching = start(watch(&through(&socket), chain.url(), &database));
    watching.until("connected", 1);
    let mut traffic = Traffic::on(&chain).await;
    traffic.block().await;
    let before = traffic.is_stored(&database).await;
    let filled = watching.events("gap_filled").len();

    socket.refuse(true);
    traffic.blocks(4).await;
    socket.refuse(false);
    traffic.is_stored(&database).await;
    let gap = watching.until("gap_filled", filled + 1);
    let (from, to) = (number(&gap, "from_block"), number(&gap, "to_block"));
    assert!(from == before + 1 && to > from, "{gap}");
    let logs = chain.logs(from, to).await.unwrap().len() as u64;
    assert_eq!(number(&gap, "logs"), logs);
    assert!((2..=2 * logs).contains(&number(&gap, "updated")), "{gap}");
    watching.stop();
}

async fn a_socket_that_is_silent_for_too_long_is_given_up(database: Database) {
    let (chain, socket) = chain(&database).await;
    let arguments = format!("--max-lag 2 {}", through(&socket));
    let watching = start(watch(&arguments, chain.url(), &database));
    watching.until("connected", 1);
    let mut traffic = Traffic::on(&chain).await;
    socket.stall(true);
    traffic.blocks(3).await;
    // Polling finds them: each new connection is as silent as the first.
    traffic.is_stored(&database).await;
    let reason = watching.until("disconnected", 1)["reason"].to_string();
    assert!(reason.contains("no new block for 2 s"), "{reason}");
    assert_eq!(watching.until("connected", 2)["via"], "http");
    socket.stall(false);
    assert_eq!(watching.until("connected", 3)["via"], "websocket");
    watching.stop();
}

async fn where_no_websocket_can_be_had_it_polls_until_there_is_one(database: Database) {
    let (chain, socket) = chain(&database).await;
    socket.refuse(true);
    let watching = start(watch(&through(&socket), chain.url(), &database));
    let refused = watching.until("disconnected", 1);
    assert!(refused["reason"].as_str().unwrap().contains("no WebSocket"), "{refused}");
    assert_eq!(watching.until("connected", 1)["via"], "http");
    let mut traffic = Traffic::on(&chain).await;
    for _ in 0..3 {
        traffic.block().await;
        traffic.is_stored(&database).await;
    }
    // It has said so once, however often it was refused since.
    assert_eq!(watching.events("connected").len(), 1, "{:?}", watching.told());
    assert_eq!(watching.events("disconnected").len(), 1, "{:?}", watching.told());

    socket.refuse(false);
    assert_eq!(watching.until("connected", 2)["via"], "websocket");
    traffic.blocks(5).await;
    traffic.is_stored(&database).await;
    assert_eq!(socket.subscriptions("newHeads"), 1);
    watching.stop();
}

async fn where_nobody_listens_for_websockets_it_polls(database: Database) {
    let (chain, _socket) = chain(&database).await;
    let dead = Stub::dead().replace("http:", "ws:");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("ws://{}", silent.local_addr().unwrap());
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let mut traffic = Traffic::on(&chain).await;
    // Nobody at the port; somebody who says nothing; and, by default, a node that has only HTTP.
    for arguments in
        [format!("--ws-url {dead}"), format!("--timeout 1 --ws-url {silent}"), String::new()]
    {
        let watching = start(watch(&arguments, stub.url(), &database));
        assert_eq!(watching.until("connected", 1)["via"], "http");
        traffic.blocks(2).await;
        traffic.is_stored(&database).await;
        assert_eq!(watching.events("connected").len(), 1, "{:?}", watching.told());
        watching.stop();
    }
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or_else(|| panic!("{field}: {line}"))
}
