//! Packed calls, nodes that do not support them, and limits of both kinds of calls.

use super::*;

const PACKED: &str = "0x00000000000000000000000000000000000Acced";

/// The table of parts with which the call data begins: the number of parts, 1, and that part.
const TABLE: [u8; 32] = {
    let mut table = [0; 32];
    table[7] = 1;
    table
};

/// The canned result of a packed call, and of a call without overrides.
pub(super) fn answer(params: &Value) -> Value {
    if params[2].is_null() {
        return json!("0x");
    }
    let data = hex::decode(params[0]["data"].as_str().unwrap()).unwrap();
    let words = data[TABLE.len()..].chunks(20).map(|wallet| U256::from_be_slice(wallet));
    let words = [U256::from(HEAD), U256::ONE].into_iter().chain(words);
    json!(hex::encode_prefixed(words.flat_map(|word| word.to_be_bytes::<32>()).collect::<Vec<_>>()))
}

/// A packed call with this many wallets.
fn packed(wallets: usize) -> Value {
    let wallets = (0..wallets).flat_map(|n| WALLET.create(n as u64).0.0);
    let data: Vec<u8> = TABLE.into_iter().chain(wallets).collect();
    let call = json!({ "to": PACKED, "data": hex::encode_prefixed(data) });
    // Addresses may be in lower case in one place and mixed case in the other.
    let code = json!({ PACKED.to_lowercase(): { "code": "0x5f" } });
    request("eth_call", json!([call, "0x64", code]))
}

/// The words of a result, and the number of bytes left over.
async fn words(stub: &Stub, wallets: usize) -> (Vec<U256>, usize) {
    let answer = ask(stub, &packed(wallets)).await;
    let bytes = hex::decode(answer["result"].as_str().unwrap()).unwrap();
    let words = bytes.chunks_exact(32).map(U256::from_be_slice).collect();
    (words, bytes.len() % 32)
}

#[tokio::test]
async fn too_many_wallets() {
    let stub = stub().await;
    stub.fault(Fault::WalletsAbove { wallets: 3, parts: 2 }, When::first(2));
    for (call, fits) in [(calls(6), true), (calls(7), false), (packed(4), false)] {
        assert_eq!(ask(&stub, &call).await["error"].is_null(), fits);
    }
    stub.fault(Fault::ResponseTooLargeAbove(2), When::first(1));
    stub.fault(Fault::OutOfGasAbove(1), When::always());
    for wallets in [3, 2, 1] {
        ask(&stub, &packed(wallets)).await;
    }
    let names = [
        "passed",
        "too many wallets",
        "too many wallets",
        "response too large",
        "out of gas",
        "passed",
    ];
    assert_eq!(answered(&stub), names);
    // The journal has the number of wallets.
    let seen = stub.requests();
    let wallets: Vec<_> = seen.iter().map(|seen| seen.wallets(2)).collect();
    assert_eq!(wallets, [3, 4, 4, 3, 2, 1].map(Some));
    assert_eq!(seen.iter().filter(|seen| seen.is_packed()).count(), 4);
    ask(&stub, &request("eth_call", json!([{ "data": "0x1234" }, "latest"]))).await;
    assert_eq!(stub.requests()[6].wallets(1), None);
}

#[tokio::test]
async fn nodes_without_overrides() {
    let stub = stub().await;
    assert_eq!(words(&stub, 2).await.0.len(), 4);
    stub.fault(Fault::RefusesOverrides, When::first(1));
    stub.fault(Fault::IgnoresOverrides, When::always());
    let refused = json!({ "code": -32602, "message": "too many arguments, want at most 2" });
    assert_eq!(ask(&stub, &packed(2)).await["error"], refused);
    assert_eq!(ask(&stub, &packed(2)).await["result"], "0x");
    assert_eq!(returned(&stub, 2).await, true_returns(2));
    assert_eq!(answered(&stub), ["passed", "refuses overrides", "ignores overrides", "passed"]);
}

#[tokio::test]
async fn gas_cap() {
    let stub = stub().await;
    stub.fault(Fault::GasCap(0xabc), When::always());
    let call = json!([{ "input": "0x" }, "latest"]);
    let arrived = json!([{ "input": "0x", "gas": "0xabc" }, "latest"]);
    assert_eq!(ask(&stub, &request("eth_call", call)).await["result"], arrived);
    assert_eq!(ask(&stub, &request("eth_chainId", json!([]))).await["result"], "0x1");
    assert_eq!(answered(&stub), ["gas cap", "passed"]);
}

#[tokio::test]
async fn corruptions() {
    let stub = stub().await;
    let (truth, _) = words(&stub, 3).await;
    for corruption in Corruption::ALL {
        stub.clear();
        stub.fault(Fault::CorruptPacked(corruption), When::always());
        let (told, rest) = words(&stub, 3).await;
        match corruption {
            Corruption::Total => assert!(told[..4] == truth[..4] && told[4] != truth[4]),
            Corruption::Block => assert!(told[1..] == truth[1..] && told[0] != truth[0]),
            Corruption::Short => assert_eq!(told, truth[..4]),
            Corruption::Long => assert_eq!((&told[..5], told.len()), (&truth[..], 6)),
            Corruption::PartialWord => assert_eq!((told.len(), rest), (4, 31)),
            Corruption::Empty => assert_eq!((told.len(), rest), (0, 0)),
        }
        // Other calls are not affected.
        assert_eq!(returned(&stub, 2).await, true_returns(2));
        assert_eq!(answered(&stub)[stub.requests().len() - 2..], ["corrupt packed", "passed"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_at_once() {
    let stub = stub().await;
    stub.fault(Fault::Hang, When::method("hangs"));
    stub.fault(Fault::TooManyInFlight(2), When::always());
    let url = stub.url();
    let hang = || {
        let url = url.clone();
        tokio::spawn(async move { post_to(&url, &request("hangs", json!([]))).await.map(|_| ()) })
    };
    let status = async || post_to(&url, &calls(1)).await.unwrap().status.as_u16();
    let hanging = [hang(), hang()];
    while stub.requests().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(status().await, 429);
    hanging[0].abort();
    while status().await == 429 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for seen in stub.requests() {
        assert_eq!(seen.answered == "too many in flight", seen.in_flight > 2, "{seen:?}");
    }
    hanging[1].abort();
}

#[tokio::test]
async fn compute_units() {
    let stub = stub().await;
    // Two calls and one other request fit into a second.
    stub.fault(Fault::ComputeUnits(65), When::always());
    let begun = Instant::now();
    ask(&stub, &packed(1)).await;
    ask(&stub, &request("eth_chainId", json!([]))).await;
    ask(&stub, &calls(1)).await;
    let refused = post_to(&stub.url(), &calls(1)).await.unwrap();
    assert_eq!(refused.status, 429);
    assert!(refused.body.windows(13).any(|words| words == b"compute units"));
    // A refused request costs nothing: once the first is a second old, there is room again.
    while post_to(&stub.url(), &calls(1)).await.unwrap().status == 429 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn state_dropped() {
    let stub = stub().await;
    stub.fault(Fault::StateDroppedAfter(10), When::always());
    for (request, is_there) in [
        (request("eth_call", json!([{}, "0x5a"])), true),
        (request("eth_call", json!([{}, "0x59"])), false),
        (request("eth_call", json!([{}, { "blockNumber": "0x59" }])), false),
        (request("eth_call", json!([{}, "latest"])), true),
        (request("eth_call", json!([{}])), true),
        (request("eth_getCode", json!([WALLET, "0x1"])), false),
        // The block itself is available without its state.
        (request("eth_getBlockByNumber", json!(["0x1", false])), true),
        (request("eth_getLogs", json!([{ "fromBlock": "0x1" }])), true),
    ] {
        let error = &ask(&stub, &request).await["error"];
        assert_eq!(error.is_null(), is_there, "{request}: {error}");
        if !is_there {
            assert_eq!(error["code"], -32000);
            assert!(error["message"].as_str().unwrap().starts_with("missing trie node"));
        }
    }
    assert_eq!(answered(&stub).iter().filter(|name| *name == "state dropped").count(), 3);
}
