//! `watch` with network and node failures: nothing is lost.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ethtally_testbed::{
    Socket,
    stub::{Fault, RecordedRequest, Stub, When},
};
use rand::{RngExt, rngs::StdRng};
use tokio::time::sleep;

use crate::support::{
    chains::{socket_and_stub_of, stub_of},
    database::{Database, on_both_databases},
    traffic::{Traffic, chain_for_traffic},
    watch::{caught_up, checkpoint, start_connected, watch},
};

on_both_databases! {
    random_websocket_faults_lose_nothing
    random_node_faults_lose_nothing
    watch_continues_after_the_node_was_down
    a_disabled_endpoint_is_tried_again
    empty_logs_from_a_lagging_node_are_not_trusted
    logs_missing_at_a_lagging_endpoint_are_fetched_from_the_next
}

async fn random_websocket_faults_lose_nothing(database: Database) {
    let chain = chain_for_traffic(&database).await;
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    let arguments = format!("--max-lag 2 --ws-url {}", socket.url());
    let watching = start_connected(watch(&arguments, chain.url(), &database));
    let mut traffic = Traffic::on(&chain).await;
    let mut stalled = 0;
    // At least one cut, whatever the seed.
    socket.cut();
    for _ in 0..200 {
        match traffic.random.random_range(0..30) {
            0 => socket.cut(),
            1 => socket.close(1008),
            2 if stalled == 0 => {
                socket.stall(true);
                // Shorter or longer than --max-lag.
                stalled = traffic.random.random_range(1..50);
            }
            3 | 4 => socket.delay(Duration::from_millis(traffic.random.random_range(0..500))),
            _ => {}
        }
        traffic.block().await;
        if stalled > 0 {
            stalled -= 1;
            socket.stall(stalled > 0);
        }
        sleep(Duration::from_millis(75)).await;
    }
    socket.stall(false);
    socket.delay(Duration::ZERO);
    traffic.block().await;
    let head = traffic.until_stored(&database).await;
    let broken = watching.events("disconnected").len();
    let filled = watching.events("gap_filled").len();
    assert!(broken > 0 && filled > 0, "{broken} connections broke, {filled} gaps were filled");
    let lines = watching.stop();
    assert_eq!(lines.last().unwrap()["checkpoint_block"], head);
    assert_eq!(lines.last().unwrap()["failed"], 0);
}

/// A random fault of a node; no fault in half of the cases.
fn a_fault(random: &mut StdRng) -> Fault {
    match random.random_range(0..32) {
        0 | 1 => Fault::status(500),
        2 => Fault::bad_gateway(),
        3 => Fault::too_many_requests(1),
        4 => Fault::error(-32603, "Internal error"),
        5 => Fault::error(-32000, "header not found"),
        6 => Fault::Hang,
        7 | 8 => Fault::Lagging(3),
        9 => Fault::Reset,
        10 => Fault::Truncated,
        11 => Fault::BrokenOff,
        12 => Fault::NotJson,
        13 => Fault::status(401),
        14 => Fault::status(402),
        15 => Fault::status(403),
        _ => Fault::Pass,
    }
}

async fn random_node_faults_lose_nothing(database: Database) {
    let chain = chain_for_traffic(&database).await;
    let stub = stub_of(&chain);
    stub.keep_params(false);
    let arguments = format!("--timeout 1 --ws-url {}", chain.ws_url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    let faults: Vec<_> = (0..10_000).map(|_| a_fault(&mut traffic.random)).collect();
    stub.script(faults, When::always());
    for _ in 0..60 {
        traffic.block().await;
        sleep(Duration::from_millis(200)).await;
    }
    // At least one error, whatever the seed.
    stub.clear();
    stub.fault(Fault::status(401), When::always());
    let errors = watching.events("error").len();
    traffic.block().await;
    watching.until("error", errors + 1);
    stub.clear();
    traffic.until_stored(&database).await;
    let lines = watching.stop();
    assert_eq!(lines.last().unwrap()["failed"], 0);
}

async fn watch_continues_after_the_node_was_down(database: Database) {
    let chain = chain_for_traffic(&database).await;
    let (socket, stub) = socket_and_stub_of(&chain);
    let arguments = format!("--retries 1 --ws-url {}", socket.url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;

    stub.fault(Fault::Reset, When::always());
    socket.refuse(true);
    let before = checkpoint(&database).await;
    traffic.blocks(20).await;
    // For the WebSocket, the next attempt, and polling.
    watching.until("disconnected", 3);
    assert_eq!(checkpoint(&database).await, before);
    socket.refuse(false);
    stub.clear();
    // Without a new block: it checks on its own.
    traffic.until_stored(&database).await;
    watching.until("gap_filled", 1);
    watching.stop();
}

async fn a_disabled_endpoint_is_tried_again(database: Database) {
    let chain = chain_for_traffic(&database).await;
    let stub = stub_of(&chain);
    let arguments = format!("--ws-url {}", chain.ws_url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    for (count, status) in [401, 402, 403].into_iter().enumerate() {
        stub.fault(Fault::status(status), When::always());
        traffic.block().await;
        let event = watching.until("error", count + 1);
        assert!(event["error"].as_str().unwrap().contains(&status.to_string()), "{event}");
        stub.clear();
        traffic.until_stored(&database).await;
    }
    watching.stop();
}

/// Makes a node lag from its first `eth_getLogs` on; before that it is up to date.
fn lag_from_first_get_logs(stub: &Stub) {
    let begun = AtomicBool::new(false);
    let when = When::always().matching(move |request| {
        begun.fetch_or(request["method"] == "eth_getLogs", Ordering::AcqRel);
        begun.load(Ordering::Acquire)
    });
    stub.fault(Fault::Lagging(20), when);
}

/// Mines blocks while the WebSocket is down, more than are fetched one by one.
async fn make_gap(socket: &Socket, traffic: &mut Traffic<'_>) {
    socket.refuse(true);
    traffic.blocks(25).await;
    socket.refuse(false);
}

/// Number of log ranges that it answered while lagging.
fn stale_answers(stub: &Stub) -> usize {
    let is_range = |seen: &RecordedRequest| seen.params[0]["fromBlock"].is_string();
    let is_stale =
        |seen: &RecordedRequest| seen.method == "eth_getLogs" && seen.answered == "lagging";
    stub.requests().iter().filter(|seen| is_stale(seen) && is_range(seen)).count()
}

async fn empty_logs_from_a_lagging_node_are_not_trusted(database: Database) {
    let chain = chain_for_traffic(&database).await;
    let (socket, stub) = socket_and_stub_of(&chain);
    let arguments = format!("--retries 2 --ws-url {}", socket.url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    let before = caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;

    lag_from_first_get_logs(&stub);
    make_gap(&socket, &mut traffic).await;
    watching.until("error", 1);
    assert!(stale_answers(&stub) > 0);
    assert_eq!(checkpoint(&database).await, Some(before));
    stub.clear();
    traffic.until_stored(&database).await;
    watching.stop();
}

async fn logs_missing_at_a_lagging_endpoint_are_fetched_from_the_next(database: Database) {
    let chain = chain_for_traffic(&database).await;
    let (socket, stub) = socket_and_stub_of(&chain);
    let urls = format!("{},{}", stub.url(), chain.url());
    let watching = start_connected(watch(&format!("--ws-url {}", socket.url()), urls, &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;

    lag_from_first_get_logs(&stub);
    make_gap(&socket, &mut traffic).await;
    traffic.until_stored(&database).await;
    assert!(stale_answers(&stub) > 0);
    assert!(watching.events("error").is_empty(), "{:?}", watching.lines());
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_node_behind_a_load_balancer_loses_nothing() {
    let database = Database::sqlite();
    let chain = chain_for_traffic(&database).await;
    let (socket, stub) = socket_and_stub_of(&chain);
    let arguments = format!("--ws-url {}", socket.url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;

    // Another node, which has every block, answers all else.
    stub.fault(Fault::Lagging(5), When::method("eth_getLogs"));
    make_gap(&socket, &mut traffic).await;
    traffic.until_stored(&database).await;
    watching.stop();
}

/// The block parameters of the recorded `eth_call`s: by hash or by number.
fn blocks_of_calls(stub: &Stub) -> Vec<serde_json::Value> {
    stub.eth_calls().into_iter().map(|call| call.params[1].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_read_at_the_block_hash_or_at_its_number_if_unsupported() {
    let database = Database::sqlite();
    let chain = chain_for_traffic(&database).await;
    let stub = stub_of(&chain);
    let watching =
        start_connected(watch(&format!("--ws-url {}", chain.ws_url()), stub.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    traffic.blocks(1).await;
    traffic.until_stored(&database).await;
    let by_hash = blocks_of_calls(&stub);
    assert!(!by_hash.is_empty());
    for block in by_hash {
        assert!(block["blockHash"].is_string(), "{block}");
    }

    let by_hash = When::eth_call().matching(|request| request["params"][1].is_object());
    stub.fault(Fault::error(-32602, "invalid argument 1: hex string expected"), by_hash);
    traffic.blocks(1).await;
    traffic.until_stored(&database).await;
    stub.forget();
    traffic.blocks(1).await;
    traffic.until_stored(&database).await;
    let by_number = blocks_of_calls(&stub);
    assert!(!by_number.is_empty());
    assert!(by_number.iter().all(serde_json::Value::is_string), "{by_number:?}");
    assert!(watching.events("error").is_empty(), "{:?}", watching.lines());
    watching.stop();
}
