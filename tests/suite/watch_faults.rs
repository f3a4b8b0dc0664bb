//! `watch` while the network and the node fail: however they do, nothing is lost.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ethtally_testbed::{
    Chain, Socket,
    stub::{Fault, Seen, Stub, When},
};
use rand::{RngExt, rngs::StdRng};
use tokio::time::sleep;

use crate::{
    harness::{Database, on_both_databases},
    traffic::{AMONG, Traffic},
    watching::{caught_up, checkpoint, start, watch},
    world::store_unread,
};

on_both_databases! {
    a_socket_that_breaks_stalls_and_delays_at_random_loses_nothing
    a_node_that_fails_at_random_loses_nothing
    a_node_that_is_down_for_a_while_is_followed_again
    an_endpoint_that_was_given_up_gets_another_chance
    the_empty_answer_of_a_node_that_lags_behind_is_not_taken_for_the_truth
    the_logs_that_a_lagging_endpoint_lacks_are_asked_for_at_the_next
}

/// A chain, and a table with rows for all whom its traffic touches.
async fn chain(database: &Database) -> Chain {
    store_unread(database, 0..AMONG);
    Chain::builder().start().await.unwrap()
}

async fn a_socket_that_breaks_stalls_and_delays_at_random_loses_nothing(database: Database) {
    let chain = chain(&database).await;
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    let arguments = format!("--max-lag 2 --ws-url {}", socket.url());
    let watching = start(watch(&arguments, chain.url(), &database));
    watching.until("connected", 1);
    let mut traffic = Traffic::on(&chain).await;
    let mut stalled = 0;
    // Whatever is drawn: at least this.
    socket.cut();
    for _ in 0..200 {
        match traffic.random.random_range(0..30) {
            0 => socket.cut(),
            1 => socket.close(1008),
            2 if stalled == 0 => {
                socket.stall(true);
                // Some are shorter than --max-lag, some longer.
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
    let head = traffic.is_stored(&database).await;
    let broken = watching.events("disconnected").len();
    let filled = watching.events("gap_filled").len();
    assert!(broken > 0 && filled > 0, "{broken} connections broke, {filled} gaps were filled");
    let told = watching.stop();
    assert_eq!(told.last().unwrap()["checkpoint_block"], head);
    assert_eq!(told.last().unwrap()["failed"], 0);
}

/// What a node may do to a request; every second time nothing.
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

async fn a_node_that_fails_at_random_loses_nothing(database: Database) {
    let chain = chain(&database).await;
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    stub.keep_params(false);
    let arguments = format!("--timeout 1 --ws-url {}", chain.ws_url());
    let watching = start(watch(&arguments, stub.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    let faults: Vec<_> = (0..10_000).map(|_| a_fault(&mut traffic.random)).collect();
    stub.script(faults, When::always());
    for _ in 0..60 {
        traffic.block().await;
        sleep(Duration::from_millis(200)).await;
    }
    // Whatever was drawn: at least this is an error.
    stub.clear();
    stub.fault(Fault::status(401), When::always());
    let errors = watching.events("error").len();
    traffic.block().await;
    watching.until("error", errors + 1);
    stub.clear();
    traffic.is_stored(&database).await;
    let told = watching.stop();
    assert_eq!(told.last().unwrap()["failed"], 0);
}

async fn a_node_that_is_down_for_a_while_is_followed_again(database: Database) {
    let chain = chain(&database).await;
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let arguments = format!("--retries 1 --ws-url {}", socket.url());
    let watching = start(watch(&arguments, stub.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;

    stub.fault(Fault::Reset, When::always());
    socket.refuse(true);
    let before = checkpoint(&database).await;
    traffic.blocks(20).await;
    // The WebSocket, the next try of it, and polling.
    watching.until("disconnected", 3);
    assert_eq!(checkpoint(&database).await, before);
    socket.refuse(false);
    stub.clear();
    // Without another block: it looks by itself.
    traffic.is_stored(&database).await;
    watching.until("gap_filled", 1);
    watching.stop();
}

async fn an_endpoint_that_was_given_up_gets_another_chance(database: Database) {
    let chain = chain(&database).await;
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let arguments = format!("--ws-url {}", chain.ws_url());
    let watching = start(watch(&arguments, stub.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    for (count, status) in [401, 402, 403].into_iter().enumerate() {
        stub.fault(Fault::status(status), When::always());
        traffic.block().await;
        let told = watching.until("error", count + 1);
        assert!(told["error"].as_str().unwrap().contains(&status.to_string()), "{told}");
        stub.clear();
        traffic.is_stored(&database).await;
    }
    watching.stop();
}

/// A node that falls five blocks behind as soon as it is asked for logs: before that it seems to be up to date.
fn lagging_from_logs_on(stub: &Stub) {
    let begun = AtomicBool::new(false);
    let when = When::always().matching(move |request| {
        begun.fetch_or(request["method"] == "eth_getLogs", Ordering::AcqRel);
        begun.load(Ordering::Acquire)
    });
    stub.fault(Fault::Lagging(20), when);
}

/// Blocks with transfers that nobody tells of: more than are asked for one by one.
async fn a_gap(socket: &Socket, traffic: &mut Traffic<'_>) {
    socket.refuse(true);
    traffic.blocks(25).await;
    socket.refuse(false);
}

/// How many ranges of logs it answered as a node that lags.
fn stale_answers(stub: &Stub) -> usize {
    let is_range = |seen: &Seen| seen.params[0]["fromBlock"].is_string();
    let is_stale = |seen: &Seen| seen.method == "eth_getLogs" && seen.answered == "lagging";
    stub.requests().iter().filter(|seen| is_stale(seen) && is_range(seen)).count()
}

async fn the_empty_answer_of_a_node_that_lags_behind_is_not_taken_for_the_truth(
    database: Database,
) {
    let chain = chain(&database).await;
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let arguments = format!("--retries 2 --ws-url {}", socket.url());
    let watching = start(watch(&arguments, stub.url(), &database));
    watching.until("connected", 1);
    let before = caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;

    lagging_from_logs_on(&stub);
    a_gap(&socket, &mut traffic).await;
    watching.until("error", 1);
    assert!(stale_answers(&stub) > 0);
    assert_eq!(checkpoint(&database).await, Some(before));
    stub.clear();
    traffic.is_stored(&database).await;
    watching.stop();
}

async fn the_logs_that_a_lagging_endpoint_lacks_are_asked_for_at_the_next(database: Database) {
    let chain = chain(&database).await;
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let urls = format!("{},{}", stub.url(), chain.url());
    let watching = start(watch(&format!("--ws-url {}", socket.url()), urls, &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;

    lagging_from_logs_on(&stub);
    a_gap(&socket, &mut traffic).await;
    traffic.is_stored(&database).await;
    assert!(stale_answers(&stub) > 0);
    assert!(watching.events("error").is_empty(), "{:?}", watching.told());
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_behind_one_url_of_which_one_lags_lose_nothing() {
    let database = Database::sqlite();
    let chain = chain(&database).await;
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let arguments = format!("--ws-url {}", socket.url());
    let watching = start(watch(&arguments, stub.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;

    // All else is answered by another node, which has every block.
    stub.fault(Fault::Lagging(5), When::method("eth_getLogs"));
    a_gap(&socket, &mut traffic).await;
    traffic.is_stored(&database).await;
    watching.stop();
}

/// The blocks of the `eth_call`s that a node was asked: by hash, or by number.
fn blocks_of_calls(stub: &Stub) -> Vec<serde_json::Value> {
    let calls = stub.requests().into_iter().filter(|seen| seen.method == "eth_call");
    calls.map(|seen| seen.params[1].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_read_by_the_blocks_hash_or_where_that_is_not_understood_by_its_number() {
    let database = Database::sqlite();
    let chain = chain(&database).await;
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let watching = start(watch(&format!("--ws-url {}", chain.ws_url()), stub.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    traffic.blocks(1).await;
    traffic.is_stored(&database).await;
    let by_hash = blocks_of_calls(&stub);
    assert!(!by_hash.is_empty());
    for block in by_hash {
        assert!(block["blockHash"].is_string(), "{block}");
    }

    let by_hash = When::method("eth_call").matching(|request| request["params"][1].is_object());
    stub.fault(Fault::error(-32602, "invalid argument 1: hex string expected"), by_hash);
    traffic.blocks(1).await;
    traffic.is_stored(&database).await;
    stub.forget();
    traffic.blocks(1).await;
    traffic.is_stored(&database).await;
    let by_number = blocks_of_calls(&stub);
    assert!(!by_number.is_empty());
    assert!(by_number.iter().all(serde_json::Value::is_string), "{by_number:?}");
    assert!(watching.events("error").is_empty(), "{:?}", watching.told());
    watching.stop();
}
