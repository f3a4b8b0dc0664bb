//! One test per fault, against a real chain.

mod client;

use std::{io::ErrorKind, time::Instant};

use alloy::primitives::U256;
use futures_util::SinkExt;
use serde_json::json;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::{self, Error, Message};

use super::*;
use crate::{
    Chain,
    contracts::{AUDIO, STAKING},
    stub::Stub,
    wallet,
};
use client::{Client, PATIENCE, SILENCE};

async fn setup() -> (Chain, Socket) {
    let chain = Chain::builder().start().await.unwrap();
    let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
    (chain, socket)
}

async fn until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "timed out");
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn passes_both_ways_and_counts() {
    let (chain, socket) = setup().await;
    assert_eq!((socket.connections(), socket.open()), (0, 0));
    let mut client = Client::connect(&socket.url_with_path("/v2/KEY")).await.unwrap();
    let mut other = Client::to(&socket).await;
    assert_eq!((socket.connections(), socket.open()), (2, 2));

    assert_eq!(client.ask("eth_chainId", json!([])).await, "0x1");
    let heads = client.subscribe(json!(["newHeads"])).await;
    let logs = client.subscribe(json!(["logs", { "address": AUDIO }])).await;
    other.subscribe(json!(["newHeads"])).await;
    assert_eq!((socket.subscriptions("newHeads"), socket.subscriptions("logs")), (2, 1));
    chain.mint(wallet(5_001), U256::ONE).await.unwrap();
    let mut notified = [client.notified().await, client.notified().await];
    notified.sort_by_key(|(id, _)| *id == logs);
    assert_eq!((&notified[0].0, &notified[0].1["number"]), (&heads, &json!("0x1")));
    assert_eq!((&notified[1].0, &notified[1].1["address"]), (&logs, &json!(AUDIO)));
    assert_eq!(other.head().await, "0x1");

    assert_eq!(client.ask("eth_unsubscribe", json!([heads])).await, true);
    assert_eq!(client.ask("eth_unsubscribe", json!([heads])).await, false);
    assert_eq!((socket.subscriptions("newHeads"), socket.subscriptions("logs")), (1, 1));
    assert_eq!((socket.requests("eth_subscribe"), socket.requests("eth_unsubscribe")), (3, 2));
    assert_eq!(socket.requests("eth_call"), 0);

    client.stream.close(None).await.unwrap();
    until(|| socket.open() == 1).await;
    assert_eq!((socket.subscriptions("newHeads"), socket.subscriptions("logs")), (1, 0));
    assert_eq!(socket.connections(), 2);
}

#[tokio::test]
async fn counts_the_subscriptions_of_a_batch() {
    let (_chain, socket) = setup().await;
    let mut client = Client::to(&socket).await;
    let one = |id: u64, kind: &str| json!({ "jsonrpc": "2.0", "id": id, "method": "eth_subscribe", "params": [kind] });
    client.say(json!([one(1, "newHeads"), one(2, "logs")]).to_string()).await;
    assert_eq!(client.next().await.as_array().unwrap().len(), 2);
    assert_eq!((socket.subscriptions("newHeads"), socket.subscriptions("logs")), (1, 1));
    assert_eq!(socket.requests("eth_subscribe"), 2);
}

#[tokio::test]
async fn cut() {
    let (_chain, socket) = setup().await;
    let mut clients = [Client::to(&socket).await, Client::to(&socket).await];
    clients[0].subscribe(json!(["newHeads"])).await;
    socket.cut();
    assert_eq!((socket.open(), socket.subscriptions("newHeads")), (0, 0));
    for client in &mut clients {
        match client.next_raw().await {
            Some(Err(Error::Io(error))) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(Client::to(&socket).await.ask("eth_chainId", json!([])).await, "0x1");
    assert_eq!(socket.connections(), 3);
}

#[tokio::test]
async fn close() {
    let (_chain, socket) = setup().await;
    let mut client = Client::to(&socket).await;
    socket.close(1008);
    assert_eq!(socket.open(), 0);
    match client.next_raw().await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1008),
        other => panic!("{other:?}"),
    }
    assert!(client.next_raw().await.is_none(), "the closing handshake completes");
    assert_eq!(Client::to(&socket).await.ask("eth_chainId", json!([])).await, "0x1");
}

#[tokio::test]
async fn refuse() {
    let (_chain, socket) = setup().await;
    let mut client = Client::to(&socket).await;
    socket.refuse(true);
    assert!(client.is_cut().await);
    assert_eq!(Client::refused(&socket).await, 503);
    assert_eq!((socket.connections(), socket.open()), (1, 0));
    socket.refuse(false);
    assert_eq!(Client::to(&socket).await.ask("eth_chainId", json!([])).await, "0x1");
}

#[tokio::test]
async fn stall_loses_messages_sent_meanwhile() {
    let (chain, socket) = setup().await;
    let mut client = Client::to(&socket).await;
    client.subscribe(json!(["newHeads"])).await;
    socket.stall(true);
    chain.mine(2).await.unwrap();
    client.stream.send(Message::Ping("?".into())).await.unwrap();
    client.request("eth_chainId", json!([])).await;
    client.receives_nothing().await;
    let mut late = Client::to(&socket).await;
    late.request("eth_chainId", json!([])).await;
    late.receives_nothing().await;
    assert_eq!((socket.open(), socket.requests("eth_chainId")), (2, 0));

    socket.stall(false);
    chain.mine(1).await.unwrap();
    assert_eq!(client.head().await, "0x3");
    assert_eq!(late.ask("eth_chainId", json!([])).await, "0x1");
    client.stream.send(Message::Ping("!".into())).await.unwrap();
    assert_eq!(client.next_raw().await.unwrap().unwrap(), Message::Pong("!".into()));
}

#[tokio::test]
async fn stall_loses_messages_delayed_before() {
    let (chain, socket) = setup().await;
    let mut client = Client::to(&socket).await;
    client.subscribe(json!(["newHeads"])).await;
    socket.delay(SILENCE);
    chain.mine(1).await.unwrap();
    socket.notify_heads(vec![json!({ "number": "0xff" })]);
    socket.stall(true);
    client.receives_nothing().await;
    socket.delay(Duration::ZERO);
    socket.stall(false);
    client.receives_nothing().await;
    chain.mine(1).await.unwrap();
    assert_eq!(client.head().await, "0x2");
}

#[tokio::test]
async fn a_stalled_connection_ends_only_if_the_program_ends_it() {
    let (chain, socket) = setup().await;
    let (mut polite, rude) = (Client::to(&socket).await, Client::to(&socket).await);
    let mut patient = Client::to(&socket).await;
    socket.stall(true);
    polite.stream.close(None).await.unwrap();
    drop(rude);
    until(|| socket.open() == 1).await;
    drop(chain);
    polite.receives_nothing().await;
    patient.receives_nothing().await;
    assert_eq!(socket.open(), 1);
    socket.stall(false);
    assert!(polite.is_cut().await);
    assert!(patient.is_cut().await);
    until(|| socket.open() == 0).await;
}

#[tokio::test]
async fn a_stalled_connection_can_be_cut_and_closed() {
    let (_chain, socket) = setup().await;
    socket.stall(true);
    let mut client = Client::to(&socket).await;
    socket.cut();
    assert!(client.is_cut().await);
    let mut client = Client::to(&socket).await;
    socket.close(1001);
    assert!(matches!(client.next_raw().await, Some(Ok(Message::Close(Some(_))))));
}

#[tokio::test]
async fn delay_keeps_the_order() {
    const DELAY: Duration = Duration::from_millis(700);
    let (chain, socket) = setup().await;
    let mut client = Client::to(&socket).await;
    client.subscribe(json!(["newHeads"])).await;
    socket.delay(DELAY);
    let began = Instant::now();
    chain.mine(2).await.unwrap();
    assert_eq!(client.head().await, "0x1");
    assert!(began.elapsed() >= DELAY);
    assert_eq!(client.head().await, "0x2");

    let began = Instant::now();
    socket.notify_heads(vec![json!({ "number": "0x3" })]);
    socket.delay(Duration::ZERO);
    socket.notify_heads(vec![json!({ "number": "0x4" })]);
    assert_eq!([client.head().await, client.head().await], ["0x3", "0x4"]);
    assert!(began.elapsed() >= DELAY);
    let began = Instant::now();
    socket.notify_heads(vec![json!({ "number": "0x5" })]);
    assert_eq!(client.head().await, "0x5");
    assert!(began.elapsed() < DELAY);
}

#[tokio::test]
async fn drop_heads_drops_that_many_heads_and_nothing_else() {
    let (chain, socket) = setup().await;
    let mut client = Client::to(&socket).await;
    client.subscribe(json!(["newHeads"])).await;
    let logs = client.subscribe(json!(["logs", { "address": AUDIO }])).await;
    socket.drop_heads(2);
    for _ in 0..2 {
        chain.mint(wallet(5_001), U256::ONE).await.unwrap();
    }
    assert_eq!(client.notified().await.0, logs);
    assert_eq!(client.notified().await.0, logs);
    client.receives_nothing().await;
    chain.mine(1).await.unwrap();
    assert_eq!(client.head().await, "0x3");
}

#[tokio::test]
async fn mute_heads_drops_all_heads_except_the_tests_own() {
    let (chain, socket) = setup().await;
    let mut client = Client::to(&socket).await;
    let heads = client.subscribe(json!(["newHeads"])).await;
    socket.drop_heads(1);
    socket.mute_heads(true);
    chain.mine(2).await.unwrap();
    client.receives_nothing().await;
    let header = json!({ "number": "0xff", "hash": "0x01" });
    socket.notify_heads(vec![header.clone()]);
    assert_eq!(client.notified().await, (heads, header));
    socket.mute_heads(false);
    // The first head uses up the count; muted heads do not.
    chain.mine(2).await.unwrap();
    assert_eq!(client.head().await, "0x4");
}

#[tokio::test]
async fn delayed_responses_to_one_method_let_everything_else_pass() {
    const HOLD: Duration = Duration::from_secs(1);
    let (chain, socket) = setup().await;
    let mut client = Client::to(&socket).await;
    socket.delay_responses_to("eth_subscribe", HOLD);
    let began = Instant::now();
    let subscribe = client.request("eth_subscribe", json!(["newHeads"])).await;
    assert_eq!(client.ask("eth_chainId", json!([])).await, "0x1");
    assert!(client.early.is_empty());
    until(|| socket.subscriptions("newHeads") == 1).await;
    chain.mine(1).await.unwrap();
    let (id, head) = client.notified().await;
    assert_eq!(head["number"], "0x1");
    let answer = client.next().await;
    assert!(began.elapsed() >= HOLD);
    assert_eq!((&answer["id"], &answer["result"]), (&json!(subscribe), &json!(id)));

    socket.delay_responses_to("eth_subscribe", Duration::ZERO);
    let began = Instant::now();
    client.subscribe(json!(["logs", {}])).await;
    assert!(began.elapsed() < HOLD);
}

#[tokio::test]
async fn send_removed_logs_reaches_each_subscription_of_logs() {
    let (chain, socket) = setup().await;
    chain.mint(wallet(5_001), U256::ONE).await.unwrap();
    let logs = chain.logs(1, 1).await.unwrap();
    let mut clients = [Client::to(&socket).await, Client::to(&socket).await];
    let mut ids = Vec::new();
    for client in &mut clients {
        client.subscribe(json!(["newHeads"])).await;
        ids.push(client.subscribe(json!(["logs", { "address": STAKING }])).await);
    }
    let ended = clients[0].subscribe(json!(["logs", {}])).await;
    clients[0].ask("eth_unsubscribe", json!([ended])).await;

    socket.send_removed_logs(logs.clone());
    for (client, id) in clients.iter_mut().zip(ids) {
        let (of, log) = client.notified().await;
        assert_eq!((of, &log["removed"]), (id, &json!(true)));
        assert_eq!(log["transactionHash"], logs[0]["transactionHash"]);
        assert_eq!(log["data"], logs[0]["data"]);
        client.receives_nothing().await;
    }
}

#[tokio::test]
async fn without_a_node_upgrades_are_refused_and_a_node_that_stops_cuts_connections() {
    let dead = Socket::in_front_of(&Stub::dead().replace("http:", "ws:")).unwrap();
    assert_eq!(Client::refused(&dead).await, 503);
    assert_eq!(dead.connections(), 0);

    let (chain, socket) = setup().await;
    let mut client = Client::to(&socket).await;
    drop(chain);
    assert!(client.is_cut().await);
    assert_eq!(Client::refused(&socket).await, 503);
}

#[tokio::test]
async fn a_close_frame_from_the_node_is_forwarded() {
    let (_chain, node) = setup().await;
    let socket = Socket::in_front_of(&node.url()).unwrap();
    let mut client = Client::to(&socket).await;
    node.close(1013);
    match client.next_raw().await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1013),
        other => panic!("{other:?}"),
    }
    until(|| socket.open() == 0).await;
}

#[tokio::test]
async fn responds_while_a_test_blocks() {
    let (_chain, socket) = setup().await;
    // A blocking stream: nothing else runs in this thread.
    let stream = std::net::TcpStream::connect(socket.server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut client, _) = tungstenite::client(socket.url(), stream).unwrap();
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [] });
    client.send(request.to_string().into()).unwrap();
    assert!(client.read().unwrap().to_text().unwrap().contains("0x1"));
}

#[tokio::test]
async fn dropping_it_closes_its_port_and_all_connections() {
    let (_chain, socket) = setup().await;
    let (url, mut client) = (socket.url(), Client::to(&socket).await);
    drop(socket);
    assert!(client.is_cut().await);
    assert!(matches!(Client::connect(&url).await, Err(Error::Io(_))));
}

#[test]
fn only_ws_urls_are_accepted() {
    for url in ["http://127.0.0.1:1", "wss://127.0.0.1:1", "127.0.0.1", "no url"] {
        assert!(Socket::in_front_of(url).is_err(), "{url}");
    }
}
