//! `watch` and answers that are not what they seem: of nodes behind one URL, some of them a little behind, and with blocks
//! that no chain has. No event is lost.
//!
//! A schedule is some fifty blocks with transfers, live ones and missed ones. `SCHEDULES=100 cargo test --locked --test suite
//! watch_pools` runs a hundred of each kind.

use std::time::Duration;

use alloy::providers::Provider;
use ethtally_testbed::{
    Chain,
    stub::{Fault, RecordedRequest, When},
};
use futures_util::{StreamExt, stream};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{
    chains::{socket_and_stub_of, stub_of},
    database::Database,
    traffic::{Traffic, chain_for_traffic},
    watch::{caught_up, mismatches, start_connected, watch},
};

/// How many schedules to run, unless `SCHEDULES` says otherwise.
fn schedules() -> usize {
    let schedules = std::env::var("SCHEDULES").ok().and_then(|number| number.parse().ok());
    schedules.unwrap_or(2)
}

/// Backends of one pool: up to 0.4 s behind.
fn backends() -> Vec<Duration> {
    [0, 50, 100, 250, 400].map(Duration::from_millis).to_vec()
}

/// Blocks at random times, live and missed ones. Returns how many wallets took part, and how many are wrong.
async fn follow_pool(fault: Fault) -> [usize; 2] {
    let database = Database::sqlite();
    let chain = chain_for_traffic(&database).await;
    let (socket, stub) = socket_and_stub_of(&chain);
    stub.keep_params(false);
    let watching =
        start_connected(watch(&format!("--ws-url {}", socket.url()), stub.url(), &database));
    caught_up(&chain, &database).await;
    stub.fault(fault, When::always());
    let mut traffic = Traffic::on(&chain).await;
    for _ in 0..2 {
        for _ in 0..6 {
            traffic.block().await;
            sleep(Duration::from_millis(traffic.random.random_range(0..300))).await;
        }
        // More than are asked for one by one.
        socket.refuse(true);
        traffic.blocks(20).await;
        socket.refuse(false);
    }
    caught_up(&chain, &database).await;
    let wallets = traffic.wallets();
    let wrong = mismatches(&chain, &database, wallets.iter().copied()).await;
    watching.stop();
    [wallets.len(), wrong.len()]
}

/// Runs the schedules, a few at once, and counts the wallets whose events were lost.
async fn assert_nothing_is_lost(fault: Fault) {
    let runs = stream::iter(0..schedules()).map(|_| follow_pool(fault.clone()));
    let counts: Vec<_> = runs.buffer_unordered(4).collect().await;
    let sum = |n: usize| counts.iter().map(|count| count[n]).sum::<usize>();
    assert_eq!(sum(1), 0, "of {} wallets in {} schedules", sum(0), counts.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_backends_that_are_behind_loses_no_event() {
    assert_nothing_is_lost(Fault::Pool(backends())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_that_are_not_indexed_yet_lose_no_event() {
    assert_nothing_is_lost(Fault::Unindexed(backends())).await;
}

/// A chain whose headers' blooms are empty, whatever their blocks hold: an answer counts when a second one confirms it.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_chain_without_blooms_a_second_answer_decides() {
    let database = Database::sqlite();
    let chain = chain_for_traffic(&database).await;
    let (socket, stub) = socket_and_stub_of(&chain);
    // Without a WebSocket, all headers come through the stub.
    socket.refuse(true);
    stub.fault(Fault::WithoutBlooms, When::always());
    let arguments = format!("--retries 0 --ws-url {}", socket.url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    traffic.blocks(3).await;
    traffic.until_stored(&database).await;
    // One block at a time, so that never both answers are empty.
    stub.fault(Fault::Answer(json!([])), When::method("eth_getLogs").every(2).times(6));
    for _ in 0..4 {
        traffic.block().await;
        traffic.until_stored(&database).await;
    }
    // A range.
    stub.clear();
    stub.fault(Fault::WithoutBlooms, When::always());
    traffic.blocks(25).await;
    traffic.until_stored(&database).await;
    let (output, _) = {
        watching.signal("TERM");
        watching.wait()
    };
    let said = output.stderr.matches("the blooms of this chain do not hold all logs").count();
    assert_eq!(said, 1, "{output:?}");
}

/// A node that gives all that it has only by contract: an empty answer counts when a second one confirms it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_to_give_all_logs_is_asked_twice() {
    for refused in [
        Fault::error(-32701, "Please specify an address in your request"),
        Fault::error(-32602, "invalid argument 0: missing field `address`"),
    ] {
        refuses_all_logs(refused).await;
    }
}

async fn refuses_all_logs(refused: Fault) {
    let database = Database::sqlite();
    let chain = chain_for_traffic(&database).await;
    let stub = stub_of(&chain);
    let unfiltered = |request: &Value| request["params"][0]["address"].is_null();
    stub.fault(refused, When::method("eth_getLogs").matching(unfiltered));
    let watching =
        start_connected(watch(&format!("--ws-url {}", chain.ws_url()), stub.url(), &database));
    caught_up(&chain, &database).await;
    let filtered = |request: &Value| request["params"][0]["address"].is_array();
    stub.fault(Fault::Answer(json!([])), When::method("eth_getLogs").matching(filtered).every(3));
    let mut traffic = Traffic::on(&chain).await;
    for _ in 0..6 {
        traffic.block().await;
        traffic.until_stored(&database).await;
    }
    assert!(watching.events("error").is_empty(), "{:?}", watching.lines());
    watching.stop();
}

/// Requests for a live block: one where its bloom tells that it holds no event, and one more where it does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_block_costs_one_request() {
    let database = Database::sqlite();
    let chain = chain_for_traffic(&database).await;
    let stub = stub_of(&chain);
    let watching =
        start_connected(watch(&format!("--ws-url {}", chain.ws_url()), stub.url(), &database));
    let mut traffic = Traffic::on(&chain).await;
    traffic.block().await;
    traffic.until_stored(&database).await;
    stub.forget();
    for _ in 0..5 {
        chain.mine(1).await.unwrap();
        caught_up(&chain, &database).await;
    }
    // One asks for the newest block some seconds after the connection.
    let is_of_it = |request: &RecordedRequest| request.method != "eth_getBlockByNumber";
    let requests: Vec<_> = stub.requests().into_iter().filter(is_of_it).collect();
    assert_eq!(requests.len(), 5, "{requests:#?}");
    assert!(requests.iter().all(|request| request.method == "eth_getLogs"), "{requests:#?}");
    watching.stop();
}

/// A header or a log of a block that no chain has reached.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_out_of_range_are_refused_and_watch_goes_on() {
    let database = Database::sqlite();
    let chain = chain_for_traffic(&database).await;
    let (socket, stub) = socket_and_stub_of(&chain);
    let arguments = format!("-v --ws-url {}", socket.url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    traffic.block().await;
    let head = traffic.until_stored(&database).await;

    // Removed logs over the WebSocket, then a head and logs over HTTP.
    let mut logs = chain.logs(head, head).await.unwrap();
    for number in ["0x8000000000000000", "0xffffffffffffffff"] {
        logs[0]["blockNumber"] = number.into();
        socket.send_removed_logs(logs.clone());
    }
    traffic.block().await;
    traffic.until_stored(&database).await;
    let mut header = header_of(&chain).await;
    header["number"] = "0x8000000000000000".into();
    stub.fault(Fault::Answer(header), When::method("eth_getBlockByNumber").times(3));
    stub.fault(Fault::Answer(logs.into()), When::method("eth_getLogs").times(3));
    socket.cut();
    traffic.block().await;
    traffic.until_stored(&database).await;
    let (output, _) = {
        watching.signal("TERM");
        watching.wait()
    };
    assert!(output.stderr.contains("the number 9223372036854775808 is out of range"), "{output:?}");
}

async fn header_of(chain: &Chain) -> Value {
    let latest = ("latest", false);
    chain.provider().raw_request("eth_getBlockByNumber".into(), latest).await.unwrap()
}
