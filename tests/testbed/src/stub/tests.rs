//! One test per fault, against a node with canned responses.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use alloy::{
    hex,
    primitives::{Address, Bytes, U256, address},
    sol_types::{SolCall, SolValue},
};
use axum::{Json, Router, routing::post};
use serde_json::json;

use super::{
    aggregate3::{Call3, Returned, aggregate3Call},
    proxy::UpstreamResponse,
    *,
};

mod packed;

const HEAD: u64 = 100;
const WALLET: Address = address!("00000000000000000000000000000000000A11CE");

/// A node of chain 1 at block 100, whose `aggregate3` returns each call's own call data, and whose packed calls return each wallet
/// as its total.
async fn node() -> String {
    async fn all(Json(body): Json<Value>) -> Json<Value> {
        Json(match &body {
            // In reverse order, which the specification allows.
            Value::Array(requests) => requests.iter().rev().map(one).collect(),
            request => one(request),
        })
    }
    fn one(request: &Value) -> Value {
        let params = &request["params"];
        let result = match request["method"].as_str().unwrap_or_default() {
            "eth_blockNumber" => json!(format!("{HEAD:#x}")),
            "eth_chainId" => json!("0x1"),
            "eth_getCode" => json!("0x6001"),
            "eth_call" if params[0]["data"].is_string() => packed::answer(params),
            "eth_call" => match hex::decode(params[0]["input"].as_str().unwrap_or_default()) {
                Ok(data) if !data.is_empty() => json!(hex::encode_prefixed(aggregate3(&data))),
                _ => params.clone(),
            },
            "eth_fails" => {
                return json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": 3, "message": "no" } });
            }
            _ => params.clone(),
        };
        json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })
    }
    fn aggregate3(data: &[u8]) -> Vec<u8> {
        let returned: Vec<Returned> = aggregate3Call::abi_decode(data)
            .expect("only aggregate3 is called")
            .calls
            .into_iter()
            .map(|call| Returned { success: true, returnData: call.callData })
            .collect();
        aggregate3Call::abi_encode_returns(&returned)
    }

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router =
        Router::new().route("/", post(all)).layer(axum::extract::DefaultBodyLimit::disable());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn stub() -> Stub {
    Stub::in_front_of(&node().await).unwrap()
}

async fn post_to(url: &str, body: &Value) -> Result<UpstreamResponse> {
    Upstream::new(url)?.post(body.to_string().into()).await
}

async fn ask(stub: &Stub, body: &Value) -> Value {
    let answer = post_to(&stub.url(), body).await.unwrap();
    assert_eq!(answer.status, 200);
    serde_json::from_slice(&answer.body).unwrap()
}

fn request(method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params })
}

/// An `aggregate3` at the latest block, whose calls have their position as data.
fn calls(count: usize) -> Value {
    let calls = (0..count)
        .map(|place| Call3 {
            target: WALLET,
            allowFailure: true,
            callData: U256::from(place).abi_encode().into(),
        })
        .collect();
    let input = hex::encode_prefixed(aggregate3Call { calls }.abi_encode());
    request("eth_call", json!([{ "input": input }, "latest"]))
}

async fn returned(stub: &Stub, count: usize) -> Vec<(bool, Bytes)> {
    let answer = ask(stub, &calls(count)).await;
    let result = hex::decode(answer["result"].as_str().unwrap()).unwrap();
    aggregate3Call::abi_decode_returns(&result)
        .unwrap()
        .into_iter()
        .map(|one| (one.success, one.returnData))
        .collect()
}

fn true_returns(count: usize) -> Vec<(bool, Bytes)> {
    (0..count).map(|place| (true, U256::from(place).abi_encode().into())).collect()
}

fn answered(stub: &Stub) -> Vec<String> {
    stub.requests().into_iter().map(|seen| seen.answered).collect()
}

/// All bytes of a connection, and whether it ended with a reset.
fn raw(stub: &Stub, body: &Value) -> (String, bool) {
    let body = body.to_string();
    let mut stream = TcpStream::connect(stub.server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    let reset = end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
    (String::from_utf8(bytes).unwrap(), reset)
}

#[tokio::test]
async fn passes_and_keeps_a_journal() {
    let stub = stub().await;
    assert_eq!(ask(&stub, &request("echo", json!([1, "a"]))).await["result"], json!([1, "a"]));
    assert_eq!(ask(&stub, &request("eth_fails", json!([]))).await["error"]["code"], 3);
    assert_eq!(returned(&stub, 3).await, true_returns(3));

    let batch = json!([request("eth_chainId", json!([])), { "jsonrpc": "2.0", "id": "b", "method": "echo", "params": [2] }]);
    let answers = ask(&stub, &batch).await;
    assert_eq!(answers.as_array().unwrap().len(), 2);

    let answer = post_to(&stub.url_with_path("/v2/SECRETKEY"), &request("eth_chainId", json!([])))
        .await
        .unwrap();
    assert_eq!(answer.content_type, "application/json");
    assert_eq!(answer.body, r#"{"id":7,"jsonrpc":"2.0","result":"0x1"}"#);

    let seen = stub.requests();
    let methods: Vec<&str> = seen.iter().map(|seen| seen.method.as_str()).collect();
    assert_eq!(methods, ["echo", "eth_fails", "eth_call", "eth_chainId", "echo", "eth_chainId"]);
    assert_eq!(seen[0].params, json!([1, "a"]));
    assert_eq!(seen[3].bytes, batch.to_string().len());
    assert!(seen.iter().all(|seen| seen.answered == "passed"));
    assert!(seen.is_sorted_by_key(|seen| seen.at));
    assert_eq!((stub.count("echo"), stub.count("eth_call"), stub.count("eth_getLogs")), (2, 1, 0));

    stub.forget();
    stub.keep_params(false);
    ask(&stub, &request("echo", json!([1]))).await;
    assert_eq!(stub.requests()[0].params, Value::Null);
}

#[tokio::test]
async fn forwards_invalid_json_and_large_bodies() {
    let stub = stub().await;
    let answer = Upstream::new(&stub.url()).unwrap().post("{not json".into()).await.unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(stub.requests()[0].method, "");

    let large = json!(["x".repeat(5_000_000)]);
    assert_eq!(ask(&stub, &request("echo", large.clone())).await["result"], large);
}

#[tokio::test]
async fn an_unreachable_node_is_a_bad_gateway() {
    let stub = Stub::in_front_of(&Stub::dead()).unwrap();
    let answer = post_to(&stub.url(), &calls(1)).await.unwrap();
    assert_eq!(answer.status, 502);
    assert!(Stub::in_front_of("https://example.org").is_err());
}

#[test]
fn a_dead_port_refuses() {
    let address = Stub::dead().replace("http://", "");
    assert_eq!(Stub::dead().replace("http://", ""), address);
    assert_eq!(
        TcpStream::connect(&address).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    std::net::TcpListener::bind(&address).unwrap_err();
}

#[test]
fn dropping_it_closes_its_port_even_with_a_request_in_flight() {
    let stub = Stub::in_front_of(&Stub::dead()).unwrap();
    stub.fault(Fault::Hang, When::always());
    let address = stub.server.address();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    while stub.requests().is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    drop(stub);
    TcpStream::connect(address).unwrap_err();
}

#[tokio::test]
async fn status() {
    let stub = stub().await;
    let faults = [
        Fault::too_many_requests(2),
        Fault::status(402),
        Fault::status(413).with_body(r#"{"error":"big"}"#),
        Fault::bad_gateway(),
        Fault::status(503).with_header("Retry-After", "1"),
    ];
    stub.script(faults, When::always());

    let (answer, _) = raw(&stub, &calls(1));
    assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answer}");
    assert!(answer.contains("retry-after: 2\r\n"), "{answer}");
    for (status, content_type, body) in [
        (402, "text/plain", "Payment Required"),
        (413, "application/json", r#"{"error":"big"}"#),
        (502, "text/html", "<html><head>"),
        (503, "text/plain", "Service Unavailable"),
    ] {
        let answer = post_to(&stub.url(), &calls(1)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.content_type.as_str()), (status, content_type));
        assert!(answer.body.starts_with(body.as_bytes()), "{:?}", answer.body);
    }
    assert_eq!(returned(&stub, 1).await, true_returns(1));
    assert_eq!(
        answered(&stub),
        ["status 429", "status 402", "status 413", "status 502", "status 503", "passed"]
    );
}

#[tokio::test]
async fn error() {
    let stub = stub().await;
    let limited = "Your app has exceeded its compute units per second capacity";
    stub.script(
        [
            Fault::error(429, limited),
            Fault::error(-32015, "VM execution error.").with_data(json!("Out of gas")),
        ],
        When::always(),
    );
    let answer = ask(&stub, &calls(1)).await;
    assert_eq!(
        answer,
        json!({ "jsonrpc": "2.0", "id": 7, "error": { "code": 429, "message": limited } })
    );
    assert_eq!(ask(&stub, &calls(1)).await["error"]["data"], "Out of gas");
    assert_eq!(answered(&stub), ["error 429", "error -32015"]);
}

#[tokio::test]
async fn answer() {
    let stub = stub().await;
    stub.fault(Fault::Answer(Value::Null), When::method("eth_getBlockByNumber"));
    let answer = ask(&stub, &request("eth_getBlockByNumber", json!(["0x1", false]))).await;
    assert_eq!(answer, json!({ "jsonrpc": "2.0", "id": 7, "result": null }));
}

#[tokio::test]
async fn in_a_batch_a_fault_affects_its_request_alone() {
    let stub = stub().await;
    stub.fault(Fault::error(-32005, "slow down"), When::method("eth_call"));
    stub.fault(Fault::ChainId(5), When::always());
    let batch: Value = ["echo", "eth_call", "eth_chainId", "eth_blockNumber"]
        .iter()
        .enumerate()
        .map(|(id, method)| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": [id] }))
        .collect();
    assert_eq!(
        ask(&stub, &batch).await,
        json!([
            { "jsonrpc": "2.0", "id": 0, "result": [0] },
            { "jsonrpc": "2.0", "id": 1, "error": { "code": -32005, "message": "slow down" } },
            { "jsonrpc": "2.0", "id": 2, "result": "0x5" },
            { "jsonrpc": "2.0", "id": 3, "result": "0x64" },
        ])
    );
    assert_eq!(answered(&stub), ["passed", "error -32005", "chain id", "passed"]);

    let one = json!([{ "jsonrpc": "2.0", "id": 0, "method": "eth_chainId", "params": [] }]);
    assert_eq!(ask(&stub, &one).await, json!([{ "jsonrpc": "2.0", "id": 0, "result": "0x5" }]));

    stub.clear();
    stub.fault(Fault::status(500), When::method("eth_call"));
    assert_eq!(post_to(&stub.url(), &batch).await.unwrap().status, 500);
}

#[tokio::test]
async fn not_json() {
    let stub = stub().await;
    stub.fault(Fault::NotJson, When::always());
    let answer = post_to(&stub.url(), &calls(1)).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.content_type.as_str()), (200, "text/html"));
    assert!(answer.body.starts_with(b"<!DOCTYPE html>"));
}

#[tokio::test]
async fn truncated() {
    let stub = stub().await;
    let whole = post_to(&stub.url(), &calls(3)).await.unwrap().body;
    stub.fault(Fault::Truncated, When::always());
    let half = post_to(&stub.url(), &calls(3)).await.unwrap();
    assert_eq!(half.status, 200);
    assert_eq!(half.body, whole[..whole.len() / 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_off() {
    let stub = stub().await;
    let (whole, _) = raw(&stub, &calls(50));
    stub.fault(Fault::BrokenOff, When::first(1));
    let (part, reset) = raw(&stub, &calls(50));
    assert!(!reset);
    // The date may be another second's.
    let without_date = |response: &str| {
        let lines = response.split("\r\n").filter(|line| !line.starts_with("date: "));
        lines.collect::<Vec<_>>().join("\r\n")
    };
    let (whole, part) = (without_date(&whole), without_date(&part));
    assert!(whole.contains("content-length: "));
    assert!(whole.starts_with(&part), "the part announces the length of the whole: {part}");
    assert!(
        part.len() > whole.len() / 3 && part.len() < whole.len() * 2 / 3,
        "{} of {}",
        part.len(),
        whole.len()
    );

    stub.fault(Fault::BrokenOff, When::first(1));
    post_to(&stub.url(), &calls(50)).await.map(|_| ()).unwrap_err();
    assert_eq!(returned(&stub, 2).await, true_returns(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset() {
    let stub = stub().await;
    stub.fault(Fault::Reset, When::first(2));
    assert_eq!(raw(&stub, &calls(1)), (String::new(), true));
    post_to(&stub.url(), &calls(1)).await.map(|_| ()).unwrap_err();
    assert_eq!(returned(&stub, 1).await, true_returns(1));
    assert_eq!(answered(&stub)[1..], ["reset", "passed"]);
}

#[tokio::test]
async fn hang() {
    let stub = stub().await;
    stub.fault(Fault::Hang, When::method("eth_call"));
    let url = stub.url();
    let patience = Duration::from_millis(300);
    tokio::time::timeout(patience, post_to(&url, &calls(1))).await.map(|_| ()).unwrap_err();
    assert_eq!(answered(&stub), ["hang"]);
    assert_eq!(ask(&stub, &request("eth_chainId", json!([]))).await["result"], "0x1");
}

#[tokio::test]
async fn delay_lets_later_rules_apply() {
    let stub = stub().await;
    stub.fault(Fault::Delay(Duration::from_millis(200)), When::always());
    stub.fault(Fault::error(-32000, "header not found"), When::first(1));
    let start = Instant::now();
    assert_eq!(ask(&stub, &calls(1)).await["error"]["message"], "header not found");
    assert!(start.elapsed() >= Duration::from_millis(200));

    let start = Instant::now();
    assert_eq!(returned(&stub, 1).await, true_returns(1));
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(answered(&stub), ["error -32000", "delay"]);
    assert_eq!(stub.max_in_flight(), 1);

    let (url, request) = (stub.url(), calls(1));
    let (one, two) = tokio::join!(post_to(&url, &request), post_to(&url, &request));
    assert_eq!(one.unwrap().body, two.unwrap().body);
    assert_eq!(stub.max_in_flight(), 2);
}

#[tokio::test]
async fn short() {
    let stub = stub().await;
    stub.fault(Fault::Short, When::always());
    assert_eq!(returned(&stub, 5).await, true_returns(4));
    assert_eq!(returned(&stub, 1).await, []);
    let batch = json!([request("eth_chainId", json!([])), { "jsonrpc": "2.0", "id": 8, "method": "eth_call", "params": calls(2)["params"] }]);
    let answers = ask(&stub, &batch).await;
    let result = hex::decode(answers[1]["result"].as_str().unwrap()).unwrap();
    assert_eq!(aggregate3Call::abi_decode_returns(&result).unwrap().len(), 1);
    assert_eq!(answered(&stub), ["short", "short", "passed", "short"]);
}

#[tokio::test]
async fn garbage() {
    let stub = stub().await;
    let truth = ask(&stub, &calls(5)).await["result"].as_str().unwrap().to_owned();
    stub.fault(Fault::Garbage, When::always());
    let result = ask(&stub, &calls(5)).await["result"].as_str().unwrap().to_owned();
    assert_eq!(result.len(), truth.len());
    aggregate3Call::abi_decode_returns(&hex::decode(result).unwrap()).map(|_| ()).unwrap_err();
}

#[tokio::test]
async fn garbage_returns() {
    let stub = stub().await;
    stub.fault(Fault::GarbageReturns, When::always());
    let returned = returned(&stub, 50).await;
    assert_eq!(returned.len(), 50);
    assert!(returned.iter().zip(true_returns(50)).all(|(one, truth)| one.0 && one.1 != truth.1));
    assert!(
        returned.iter().any(|(_, data)| data.len() < 32)
            && returned.iter().any(|(_, data)| data.len() > 32)
    );
}

#[tokio::test]
async fn too_many_calls() {
    let stub = stub().await;
    stub.fault(Fault::OutOfGasAbove(10), When::always());
    stub.fault(Fault::ResponseTooLargeAbove(5), When::always());
    assert_eq!(returned(&stub, 5).await, true_returns(5));
    let error = json!({ "code": -32003, "message": "response too large" });
    assert_eq!(ask(&stub, &calls(10)).await["error"], error);
    assert_eq!(
        ask(&stub, &calls(11)).await["error"],
        json!({ "code": -32000, "message": "out of gas" })
    );
    // Neither fault applies to these.
    ask(&stub, &request("eth_call", json!([{ "input": "0x" }, "latest"]))).await;
    ask(&stub, &request("echo", calls(11))).await;
    assert_eq!(answered(&stub), ["passed", "response too large", "out of gas", "passed", "passed"]);
}

#[tokio::test]
async fn logs_of_too_many_blocks() {
    let stub = stub().await;
    let allowed = "ranges over 10 blocks are not supported";
    stub.fault(Fault::LogsWiderThan(10, allowed.to_owned()), When::always());
    for filter in [
        json!({ "fromBlock": "0x50", "toBlock": "0x5a" }),
        json!({ "fromBlock": "earliest", "toBlock": "0xa" }),
        json!({ "fromBlock": "0x0", "toBlock": "0xffffffffffffffff" }),
    ] {
        let answer = ask(&stub, &request("eth_getLogs", json!([filter]))).await;
        assert_eq!(answer["error"], json!({ "code": -32602, "message": allowed }), "{filter}");
    }
    // The node returns the parameters it got.
    for params in [
        json!([{ "fromBlock": "0x50", "toBlock": "0x59" }]),
        json!([{ "fromBlock": "0x5a", "toBlock": "0x50" }]),
        json!([{ "fromBlock": "0x0", "toBlock": "latest" }]),
        json!([{ "blockHash": "0xff" }]),
        json!([{}]),
    ] {
        assert_eq!(ask(&stub, &request("eth_getLogs", params.clone())).await["result"], params);
    }
    ask(&stub, &request("echo", json!([{ "fromBlock": "0x0", "toBlock": "0xff" }]))).await;
    let mut names = vec!["logs wider than"; 3];
    names.extend(["passed"; 6]);
    assert_eq!(answered(&stub), names);
}

#[tokio::test]
async fn lagging() {
    let stub = stub().await;
    stub.fault(Fault::Lagging(10), When::always());
    assert_eq!(ask(&stub, &request("eth_blockNumber", json!([]))).await["result"], "0x5a");

    let not_found = json!({ "code": -32000, "message": "header not found" });
    for later in [
        request("eth_call", json!([{}, "0x5b"])),
        request("eth_call", json!([{}, { "blockNumber": "0x5b" }])),
        request("eth_getCode", json!([WALLET, "0x64"])),
        request("eth_getBlockByNumber", json!(["0x5b", false])),
        request("eth_getStorageAt", json!([WALLET, "0x0", "0x5b"])),
    ] {
        assert_eq!(ask(&stub, &later).await["error"], not_found, "{later}");
    }
    // For these methods the node returns the parameters it got.
    for (method, params, arrived) in [
        ("eth_call", json!([{}, "0x5a"]), json!([{}, "0x5a"])),
        ("eth_call", json!([{}, "latest"]), json!([{}, "0x5a"])),
        ("eth_call", json!([{}]), json!([{}, "0x5a"])),
        ("eth_call", json!([{}, { "blockHash": "0xff" }]), json!([{}, { "blockHash": "0xff" }])),
        ("eth_getBlockByNumber", json!(["latest", false]), json!(["0x5a", false])),
        ("eth_getBlockByNumber", json!(["earliest", false]), json!(["earliest", false])),
        ("eth_getBalance", json!([WALLET, "pending"]), json!([WALLET, "0x5a"])),
        (
            "eth_getLogs",
            json!([{ "fromBlock": "0x50", "toBlock": "0x60" }]),
            json!([{ "fromBlock": "0x50", "toBlock": "0x5a" }]),
        ),
        (
            "eth_getLogs",
            json!([{ "fromBlock": "0x50" }]),
            json!([{ "fromBlock": "0x50", "toBlock": "0x5a" }]),
        ),
        ("eth_getLogs", json!([{ "fromBlock": "0x5b", "toBlock": "0x60" }]), json!([])),
        ("eth_getLogs", json!([{ "blockHash": "0xff" }]), json!([{ "blockHash": "0xff" }])),
        ("echo", json!(["latest"]), json!(["latest"])),
    ] {
        assert_eq!(
            ask(&stub, &request(method, params.clone())).await["result"],
            arrived,
            "{method} {params}"
        );
    }
    let mut names = answered(&stub);
    assert_eq!(names.pop().as_deref(), Some("passed"));
    assert!(names.iter().all(|name| name == "lagging"));
    // Its own requests for the node's head are not recorded.
    assert_eq!(stub.count("eth_blockNumber"), 1);
}

#[tokio::test]
async fn chain_id() {
    let stub = stub().await;
    stub.fault(Fault::ChainId(11_155_111), When::always());
    assert_eq!(ask(&stub, &request("eth_chainId", json!([]))).await["result"], "0xaa36a7");
    assert_eq!(ask(&stub, &request("net_version", json!([]))).await["result"], "11155111");
}

#[tokio::test]
async fn no_code() {
    let stub = stub().await;
    stub.fault(Fault::NoCode, When::always().mentioning(&WALLET.to_string()));
    let code = async |address: &str| {
        ask(&stub, &request("eth_getCode", json!([address, "latest"]))).await["result"].clone()
    };
    assert_eq!(code(&WALLET.to_string()).await, "0x");
    assert_eq!(code("0x01").await, "0x6001");
}

#[tokio::test]
async fn when() {
    async fn hit(when: When) -> Vec<usize> {
        let stub = stub().await;
        stub.fault(Fault::error(1, "hit"), when);
        for count in 1..=9 {
            ask(&stub, &calls(count)).await;
            ask(&stub, &request("eth_chainId", json!([]))).await;
        }
        let seen = stub.requests();
        seen.iter()
            .enumerate()
            .filter(|(_, seen)| seen.answered == "error 1")
            .map(|(place, _)| place + 1)
            .collect()
    }
    let size = calls(7).to_string().len();
    let odd =
        |request: &Value| super::aggregate3::calls(request).is_some_and(|calls| calls % 2 == 1);
    let place = hex::encode(U256::from(6).abi_encode());

    assert_eq!(hit(When::always()).await, (1..=18).collect::<Vec<_>>());
    assert_eq!(hit(When::first(2)).await, [1, 2]);
    assert_eq!(hit(When::method("eth_chainId").times(3)).await, [2, 4, 6]);
    assert_eq!(hit(When::always().every(4)).await, [4, 8, 12, 16]);
    assert_eq!(hit(When::method("eth_call").after(2).every(3).times(2)).await, [9, 15]);
    assert_eq!(hit(When::always().larger_than(size)).await, [15, 17]);
    assert_eq!(hit(When::always().larger_than(size - 1)).await, [13, 15, 17]);
    assert_eq!(hit(When::always().matching(odd)).await, [1, 5, 9, 13, 17]);
    // Position six first occurs with seven calls.
    assert_eq!(hit(When::method("eth_call").mentioning(&place).matching(odd)).await, [13, 17]);
    assert_eq!(hit(When::always().mentioning(&WALLET.to_checksum(None)).after(7)).await, [15, 17]);
}

#[tokio::test]
async fn the_first_matching_rule_wins_and_a_used_up_rule_is_skipped() {
    let stub = stub().await;
    stub.script(
        [Fault::Pass, Fault::error(1, "scripted"), Fault::Short, Fault::error(2, "scripted")],
        When::always(),
    );
    stub.fault(Fault::ChainId(5), When::first(1));
    stub.fault(Fault::error(3, "last"), When::method("eth_chainId"));
    for _ in 0..4 {
        ask(&stub, &request("eth_chainId", json!([]))).await;
    }
    ask(&stub, &calls(1)).await;
    ask(&stub, &calls(1)).await;
    ask(&stub, &calls(1)).await;
    // The third fault of the script waits for a request that it affects.
    let expected = ["passed", "error 1", "chain id", "error 3", "short", "error 2", "passed"];
    assert_eq!(answered(&stub), expected);
}

#[test]
fn responds_while_a_test_waits_for_a_process() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stub = runtime.block_on(stub());
    // This thread blocks, and would block a stub in it.
    let (answer, _) = raw(&stub, &request("eth_chainId", json!([])));
    assert!(answer.ends_with(r#""result":"0x1"}"#), "{answer}");
}

#[tokio::test]
async fn a_response_may_have_another_id_or_be_the_one_before() {
    let stub = stub().await;
    stub.script([Fault::Pass, Fault::WithId(json!(99)), Fault::ResponseBefore], When::always());
    let with_id = |id: u64, method: &str| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": [] });
    let first = ask(&stub, &with_id(1, "eth_blockNumber")).await;
    assert_eq!(first["id"], 1);
    assert_eq!(ask(&stub, &with_id(2, "eth_chainId")).await["id"], 99);
    assert_eq!(ask(&stub, &with_id(3, "eth_blockNumber")).await, first);
}
