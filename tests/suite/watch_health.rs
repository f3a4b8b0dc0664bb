//! `watch --listen`: health, readiness and the listen address.

use std::{
    net::{TcpListener, TcpStream},
    time::Duration,
};

use alloy::primitives::U256;
use chrono::{DateTime, TimeDelta, Utc};
use ethtally::{
    follow::{Head, Observer, Transport, WatchEvent},
    monitor::{HealthLimits, Monitor},
    tally::{RequestCounts, RunError},
};
use ethtally_testbed::{
    Chain,
    stub::{Fault, Stub, When},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::{chain_and_stub, socket_and_stub_of, stub_of},
    database::{Database, on_both_databases},
    metrics::Metrics,
    program::eventually,
    table::{store_unread, unread_table},
    watch::{caught_up, checkpoint, get, served_at, start, start_connected, watch},
};

on_both_databases! {
    health_of_a_healthy_watch_is_complete
    a_standby_is_healthy_and_ready
}

/// The body of `/healthz`, if it has this status.
#[track_caller]
fn healthy(address: &str, status: u16) -> Option<Value> {
    let answer = get(address, "/healthz");
    (answer.status == status).then(|| answer.json())
}

/// Waits until `/healthz` is 503 with a reason that starts with this, calling `meanwhile` before each request.
#[track_caller]
fn until_unhealthy(address: &str, reason: &str, mut meanwhile: impl FnMut()) -> Value {
    let mut health = Value::Null;
    let begins = |health: &Value| {
        let reasons = health["reasons"].as_array().expect("a list");
        reasons.iter().any(|text| text.as_str().expect("a text").starts_with(reason))
    };
    eventually(&format!("503, {reason}"), || {
        meanwhile();
        health = healthy(address, 503).unwrap_or_default();
        !health.is_null() && begins(&health)
    });
    assert_eq!(health["status"], "unhealthy");
    health
}

#[track_caller]
fn until_healthy(address: &str, mut meanwhile: impl FnMut()) -> Value {
    let mut health = Value::Null;
    eventually("200", || {
        meanwhile();
        health = healthy(address, 200).unwrap_or_default();
        !health.is_null()
    });
    assert_eq!((&health["status"], &health["reasons"]), (&json!("ok"), &json!([])));
    health
}

async fn health_of_a_healthy_watch_is_complete(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..10);
    let watching = start(watch("--listen 0", chain.url(), &database));
    let address = served_at(&watching);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    eventually("it is ready", || get(&address, "/readyz").status == 200);
    let mut expected = json!({
        "status": "ok",
        "role": "active",
        "connected": true,
        "transport": "websocket",
        "last_block_seen": 0,
        "checkpoint_block": 0,
        "head_block": 0,
        "last_event_at": null,
        "errors": 0,
        "last_error": null,
        "reasons": [],
    });
    for path in ["/healthz", "/eth/health"] {
        let answer = get(&address, path);
        assert_eq!((answer.status, answer.json()), (200, expected.clone()), "{path}");
    }
    let ready = json!({"ready": true, "role": "active", "checkpoint_block": 0, "head_block": 0});
    assert_eq!(get(&address, "/readyz").json(), ready);
    for path in ["/page", "/health", "/healthz/x", "/eth", "/metrics/"] {
        assert_eq!(get(&address, path).status, 404, "{path}");
    }

    // A block without an event, then one with.
    let before = Utc::now();
    chain.mine(1).await.unwrap();
    eventually("block 1", || get(&address, "/healthz").json()["checkpoint_block"] == 1);
    assert_eq!(get(&address, "/healthz").json()["last_event_at"], Value::Null);
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    eventually("block 2", || get(&address, "/healthz").json()["checkpoint_block"] == 2);
    let health = get(&address, "/healthz").json();
    let time: DateTime<Utc> = health["last_event_at"].as_str().unwrap().parse().unwrap();
    // It is given in whole seconds.
    assert!(time > before - TimeDelta::seconds(1) && time <= Utc::now(), "{time}");
    for (name, value) in [("last_block_seen", 2), ("checkpoint_block", 2), ("head_block", 2)] {
        expected[name] = value.into();
    }
    expected["last_event_at"] = health["last_event_at"].clone();
    assert_eq!(health, expected);
    watching.stop();
}

async fn a_standby_is_healthy_and_ready(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..0);
    let first = start_connected(watch("--listen 0", chain.url(), &database));
    caught_up(&chain, &database).await;
    let second = start(watch("--listen 0", chain.url(), &database));
    let address = served_at(&second);
    second.until("standby", 1);
    let health = healthy(&address, 200).expect("it is healthy");
    for (name, value) in [
        ("status", json!("ok")),
        ("role", json!("standby")),
        ("connected", json!(false)),
        ("transport", Value::Null),
        ("checkpoint_block", Value::Null),
        ("head_block", Value::Null),
        ("reasons", json!([])),
    ] {
        assert_eq!(health[name], value, "{name}");
    }
    let ready = get(&address, "/readyz");
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    assert_eq!(ready.json()["role"], "standby");
    let metrics = Metrics::of(&address);
    assert_eq!((metrics.value("ethtally_active"), metrics.value("ethtally_connected")), (0.0, 0.0));
    first.stop();
    second.until("connected", 1);
    eventually("its role is active", || {
        let health = get(&address, "/healthz");
        health.status == 200 && health.json()["role"] == "active"
    });
    assert_eq!(Metrics::of(&address).value("ethtally_active"), 1.0);
    second.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_unhealthy_with_a_reason_until_restored() {
    let chain = Chain::builder().start().await.unwrap();
    let (socket, stub) = socket_and_stub_of(&chain);
    let database = unread_table(0);
    let arguments = format!("--listen 0 --retries 0 --ws-url {}", socket.url());
    let watching = start(watch(&arguments, stub.url(), &database));
    let address = served_at(&watching);
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    until_healthy(&address, || {});

    // Without only the WebSocket it is healthy: it polls over HTTP.
    socket.refuse(true);
    eventually("it polls over HTTP", || get(&address, "/healthz").json()["transport"] == "http");
    let health = healthy(&address, 200).expect("it is healthy");
    assert_eq!(health["connected"], true);

    stub.fault(Fault::status(503).with_body("under maintenance"), When::always());
    let health = until_unhealthy(&address, "not connected: ", || {});
    assert_eq!((&health["connected"], &health["transport"]), (&json!(false), &Value::Null));
    assert_eq!(get(&address, "/eth/health").status, 503);
    assert_eq!(Metrics::of(&address).value("ethtally_connected"), 0.0);
    // The reasons for both transports are given.
    until_unhealthy(&address, "not connected: no WebSocket at ws://127.0.0.1:", || {});

    socket.refuse(false);
    stub.clear();
    let health = until_healthy(&address, || {});
    assert_eq!(health["connected"], true);
    assert_eq!(Metrics::of(&address).value("ethtally_connected"), 1.0);
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_head_is_unhealthy_until_it_advances() {
    let chain = Chain::builder().start().await.unwrap();
    let database = unread_table(0);
    let watching = start(watch("--listen 0 --max-lag 2", chain.url(), &database));
    let address = served_at(&watching);
    watching.until("connected", 1);
    let health = until_unhealthy(&address, "the head has not advanced for ", || {});
    let seconds = health["reasons"].to_string();
    let (_, seconds) = seconds.split_once("the head has not advanced for ").unwrap();
    let (seconds, _) = seconds.split_once(" s").unwrap();
    assert!(seconds.parse::<u64>().unwrap() >= 2, "{health}");
    assert_eq!(health["head_block"], 0);
    let handle = tokio::runtime::Handle::current();
    let health = tokio::task::block_in_place(|| {
        until_healthy(&address, || handle.block_on(chain.mine(1)).unwrap())
    });
    assert!(health["head_block"].as_u64() > Some(0), "{health}");
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_checkpoint_is_unhealthy_until_it_advances() {
    let (chain, stub) = chain_and_stub().await;
    let database = unread_table(0);
    store_unread(&database, 0..10);
    let arguments = format!("--listen 0 --max-lag 2 --retries 0 --ws-url {}", chain.ws_url());
    let watching = start(watch(&arguments, stub.url(), &database));
    let address = served_at(&watching);
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let handle = tokio::runtime::Handle::current();
    let mine = || {
        let mined = async {
            chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
        };
        handle.block_on(mined);
    };
    for method in ["eth_getLogs", "eth_call"] {
        stub.clear();
        let at = tokio::task::block_in_place(|| until_healthy(&address, mine));
        stub.fault(Fault::error(-32000, "the disk is full"), When::method(method));
        let health =
            tokio::task::block_in_place(|| until_unhealthy(&address, "the checkpoint is ", mine));
        assert_eq!(health["connected"], true);
        let reasons = health["reasons"].as_array().unwrap();
        assert_eq!(reasons.len(), 1, "{health}");
        let reason = reasons[0].as_str().unwrap();
        let words: Vec<_> = reason.split(' ').collect();
        let behind = words[3].parse::<u64>().expect("a number of blocks");
        let seconds = words[words.len() - 2].parse::<u64>().expect("a number of seconds");
        assert_eq!(
            reason,
            format!(
                "the checkpoint is {behind} blocks behind the head and has not moved for {seconds} s"
            )
        );
        assert!(seconds >= 2, "{reason}");
        let block = |name: &str| health[name].as_u64().expect("a number");
        assert_eq!(behind, block("head_block") - block("checkpoint_block"));
        assert!(health["errors"].as_u64() > at["errors"].as_u64(), "{health}");
        assert!(health["last_error"].as_str().unwrap().contains("the disk is full"), "{health}");
        // The table has the same checkpoint.
        assert_eq!(checkpoint(&database).await, Some(block("checkpoint_block")));
    }
    stub.clear();
    let health = tokio::task::block_in_place(|| until_healthy(&address, mine));
    assert!(health["errors"].as_u64() > Some(1), "errors are not forgotten: {health}");
    watching.stop();
}

/// It listens before it asks for the lock; until then it is neither active nor standby.
#[test]
fn before_it_is_active_or_standby_it_is_not_ready() {
    let monitor = monitor(Duration::from_secs(60));
    assert!(!monitor.health().is_ready(), "{:?}", monitor.health());
    monitor.notify(&WatchEvent::Standby);
    assert!(monitor.health().is_ready());
    monitor.notify(&WatchEvent::Active { checkpoint: Some(1) });
    assert!(!monitor.health().is_ready());
    monitor.notify(&WatchEvent::CaughtUp(2));
    assert!(monitor.health().is_ready());
}

/// A block of now, or of so many seconds ago.
fn head(number: u64, age: i64) -> WatchEvent {
    let timestamp = (Utc::now() - TimeDelta::seconds(age)).timestamp().unsigned_abs();
    WatchEvent::Head(Head { number, timestamp })
}

fn connected_monitor(max_lag: Duration, checkpoint: Option<u64>) -> Monitor {
    let monitor = monitor(max_lag);
    let endpoint = "ws://host".to_owned();
    monitor.notify(&WatchEvent::Active { checkpoint });
    monitor.notify(&WatchEvent::Connected { via: Transport::WebSocket, endpoint });
    monitor
}

#[test]
fn a_head_that_does_not_advance_is_not_ready() {
    let monitor = connected_monitor(Duration::from_millis(300), Some(1));
    let well = |number, age| {
        monitor.notify(&head(number, age));
        monitor.notify(&WatchEvent::CaughtUp(number));
        (monitor.health().is_ready(), monitor.health().reasons)
    };
    assert_eq!(well(2, 0), (true, vec![]));
    std::thread::sleep(Duration::from_millis(400));
    // It is announced again, and all of it is stored.
    let (ready, reasons) = well(2, 77);
    assert!(!ready);
    let [reason] = &reasons[..] else { panic!("{reasons:?}") };
    assert!(reason.starts_with("the head has not advanced for 0 s; it is "), "{reason}");
    assert_eq!(well(3, 0), (true, vec![]));
    // A node that is behind advances too.
    let (ready, reasons) = well(4, 86_400);
    assert_eq!((ready, reasons), (false, vec!["the head is 86400 s old".to_owned()]));
}

#[test]
fn a_head_below_the_checkpoint_is_not_ready_unless_it_is_only_a_moment() {
    let monitor = connected_monitor(Duration::from_millis(300), Some(1_000));
    monitor.notify(&head(20, 0));
    monitor.notify(&WatchEvent::CaughtUp(20));
    let health = monitor.health();
    assert!(!health.is_ready());
    assert_eq!(health.reasons, ["the head (20) is below the checkpoint (1000)"]);
    assert_eq!(health.head_block, Some(20));

    monitor.notify(&head(1_001, 0));
    monitor.notify(&WatchEvent::CaughtUp(1_001));
    assert!(monitor.health().is_ready() && monitor.health().is_well());
    // Another node answers, which is one block behind.
    monitor.notify(&head(999, 0));
    assert!(monitor.health().is_ready() && monitor.health().is_well());
    std::thread::sleep(Duration::from_millis(400));
    monitor.notify(&head(999, 0));
    assert_eq!(monitor.health().reasons[0], "the head (999) is below the checkpoint (1000)");
    monitor.notify(&head(1_002, 0));
    monitor.notify(&WatchEvent::CaughtUp(1_002));
    assert!(monitor.health().is_ready());
}

#[test]
fn before_anything_is_stored_the_reason_is_told() {
    let failed = |message: &str| WatchEvent::Failed {
        error: RunError::node(message),
        pause: Duration::from_secs(1),
    };
    let monitor = monitor(Duration::from_millis(300));
    monitor.notify(&failed("no answer"));
    assert_eq!(monitor.health().reasons, ["nothing is stored yet: no answer"]);
    let monitor = connected_monitor(Duration::from_millis(300), None);
    monitor.notify(&head(20, 0));
    assert!(monitor.health().is_well());
    monitor.notify(&failed("read-only"));
    assert_eq!(monitor.health().reasons, ["nothing is stored yet: read-only"]);
    monitor.notify(&WatchEvent::Began(20));
    assert!(monitor.health().is_well());

    let monitor = connected_monitor(Duration::from_millis(300), None);
    std::thread::sleep(Duration::from_millis(400));
    monitor.notify(&head(20, 0));
    let reasons = monitor.health().reasons;
    assert_eq!(reasons, Vec::<String>::new());
    std::thread::sleep(Duration::from_millis(400));
    monitor.notify(&head(21, 0));
    monitor.notify(&failed("it is ill"));
    assert_eq!(monitor.health().reasons, ["nothing is stored yet: it is ill"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_nothing_is_unhealthy_with_the_reason() {
    let chain = Chain::builder().start().await.unwrap();
    let database = unread_table(0);
    store_unread(&database, 0..10);
    database
        .sql(
            "create trigger no_writes before insert on eth_indexer_checkpoints
             begin select raise(abort, 'attempt to write a readonly database'); end",
        )
        .await;
    let watching = start(watch("--listen 0", chain.url(), &database));
    let address = served_at(&watching);
    let health = until_unhealthy(&address, "nothing is stored yet: ", || {});
    assert!(health["reasons"].to_string().contains("readonly"), "{health}");
    assert_eq!(get(&address, "/readyz").status, 503);
    database.sql("drop trigger no_writes").await;
    until_healthy(&address, || {});
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_below_the_checkpoint_is_unhealthy() {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(5).await.unwrap();
    let database = unread_table(0);
    store_unread(&database, 0..10);
    let ahead =
        "insert into eth_indexer_checkpoints (name, last_block) values ('audio_transfers', 1000)";
    database.sql(ahead).await;
    let watching = start(watch("--listen 0", chain.url(), &database));
    let address = served_at(&watching);
    let health = until_unhealthy(&address, "the head (5) is below the checkpoint (1000)", || {});
    assert_eq!((&health["head_block"], &health["checkpoint_block"]), (&json!(5), &json!(1000)));
    assert_eq!(get(&address, "/readyz").status, 503);
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_at_the_start_is_waited_for() {
    let chain = Chain::builder().start().await.unwrap();
    let stub = stub_of(&chain);
    for (fault, expected) in [
        (Fault::Reset, "the connection broke"),
        (Fault::too_many_requests(1), "429"),
        (Fault::NotJson, ""),
        (Fault::status(401).with_body("who are you?"), "check the URL and its key"),
    ] {
        let database = unread_table(0);
        stub.fault(fault, When::always());
        let arguments = format!("--listen 0 --retries 0 --ws-url {}", chain.ws_url());
        let watching = start(watch(&arguments, stub.url(), &database));
        let error = watching.until("error", 1);
        assert!(error["error"].as_str().unwrap().contains(expected), "{error}");
        let address = served_at(&watching);
        until_unhealthy(&address, "nothing is stored yet: ", || {});
        assert_eq!(get(&address, "/readyz").status, 503);
        stub.clear();
        until_healthy(&address, || {});
        eventually("it is ready", || get(&address, "/readyz").status == 200);
        watching.stop();
    }
    // Nobody listens there.
    let database = unread_table(0);
    let watching = start(watch("--listen 0 --retries 0", Stub::dead(), &database));
    watching.until("error", 1);
    until_unhealthy(&served_at(&watching), "nothing is stored yet: ", || {});
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_is_ready_only_after_it_has_caught_up() {
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(20).await.unwrap();
    let stub = stub_of(&chain);
    let slow = When::method("eth_getLogs").times(1);
    stub.fault(Fault::Delay(Duration::from_secs(4)), slow);
    let database = unread_table(0);
    let arguments = format!("--listen 0 --from-block 1 --ws-url {}", chain.ws_url());
    let watching = start(watch(&arguments, stub.url(), &database));
    let address = served_at(&watching);
    watching.until("connected", 1);
    eventually("it asks for logs", || stub.count("eth_getLogs") > 0);
    let answer = get(&address, "/readyz");
    let expected =
        json!({"ready": false, "role": "active", "checkpoint_block": 0, "head_block": 20});
    assert_eq!((answer.status, answer.json()), (503, expected));
    assert_eq!(get(&address, "/healthz").status, 200, "it is healthy meanwhile");
    eventually("it is ready", || get(&address, "/readyz").status == 200);
    assert_eq!(checkpoint(&database).await, Some(20));
    let expected =
        json!({"ready": true, "role": "active", "checkpoint_block": 20, "head_block": 20});
    assert_eq!(get(&address, "/readyz").json(), expected);
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_alone_listens_on_localhost_only() {
    let chain = Chain::builder().start().await.unwrap();
    let database = unread_table(0);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let watching = start(watch(&format!("--listen {free}"), chain.url(), &database));
    assert_eq!(served_at(&watching), format!("127.0.0.1:{free}"));
    assert_eq!(get(&format!("127.0.0.1:{free}"), "/metrics").status, 200);
    // Another local address, which 0.0.0.0 would include.
    TcpStream::connect(format!("127.0.0.2:{free}")).unwrap_err();
    watching.stop();

    let all = start(watch("--listen 0.0.0.0:0", chain.url(), &database));
    let address = served_at(&all);
    let (host, port) = address.rsplit_once(':').unwrap();
    assert_eq!(host, "0.0.0.0");
    assert_eq!(get(&format!("127.0.0.2:{port}"), "/metrics").status, 200);
    all.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_an_error_that_names_it() {
    let chain = Chain::builder().start().await.unwrap();
    let database = unread_table(0);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for listen in [format!("{port}"), format!("127.0.0.1:{port}")] {
        let ran = watch(&format!("--listen {listen}"), chain.url(), &database).run().expect(2);
        assert_eq!((ran.own().as_str(), ran.stderr.lines().count()), ("", 1), "{ran:?}");
        let expected =
            format!("--listen 127.0.0.1:{port}: cannot listen there: Address already in use");
        assert!(ran.error().contains(&expected), "{ran:?}");
    }
    assert_eq!(checkpoint(&database).await, None);
}

/// A monitor with this `--max-lag`.
fn monitor(max_lag: Duration) -> Monitor {
    let max_head_age = Some(Duration::from_secs(600));
    let limits = HealthLimits { max_lag, max_head_age, confirmations: 0 };
    Monitor::new("audius", limits, RequestCounts::default, Vec::new)
}
