//! Proofs and headers in which anything is changed: each is refused.

use std::collections::BTreeSet;

use ethtally_testbed::{
    Chain,
    contracts::{AUDIO, STAKING},
    stub::{Fault, When},
};
use serde_json::{Value, json};

use super::{OWNER, SLOT, ask, chain, key, profile, prove, refused};
use crate::support::{
    chains::stub_of, database::Database, program::ethtally, verify::read, wallets::address,
};

/// Copies of a JSON value with one thing in it changed, each with what that is: a field that is missing, null, or has
/// another value; a list that is shorter, longer or in another order.
fn tampered(value: &Value, path: &str) -> Vec<(String, Value)> {
    let (mut copies, mut within) = (Vec::new(), Vec::new());
    let mut add = |what: &str, value: Value| copies.push((format!("{path}: {what}"), value));
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let mut without = fields.clone();
                without.remove(name);
                add(&format!("without {name}"), Value::Object(without));
                for (what, changed) in tampered(field, &format!("{path}.{name}")) {
                    let mut with = fields.clone();
                    with.insert(name.clone(), changed);
                    within.push((what, Value::Object(with)));
                }
            }
        }
        Value::Array(items) => {
            add("empty", json!([]));
            add("null", Value::Null);
            add("without the last", json!(items[..items.len() - 1]));
            add("without the first", json!(items[1..]));
            add("the last twice", json!([&items[..], &items[items.len() - 1..]].concat()));
            if items.len() > 1 {
                let mut swapped = items.clone();
                swapped.swap(0, 1);
                add("the first two swapped", json!(swapped));
            }
            for (index, item) in items.iter().enumerate() {
                for (what, changed) in tampered(item, &format!("{path}[{index}]")) {
                    let mut with = items.clone();
                    with[index] = changed;
                    within.push((what, Value::Array(with)));
                }
            }
        }
        Value::String(text) => {
            add("null", Value::Null);
            let digits = text.len() - 2;
            let places: BTreeSet<_> = [2, 2 + digits / 2, text.len() - 1].into();
            for place in places.into_iter().filter(|place| *place < text.len()) {
                let digit = if &text[place..=place] == "1" { "2" } else { "1" };
                let mut changed = text.clone();
                changed.replace_range(place..=place, digit);
                add(&format!("digit {place}"), json!(changed));
            }
            // Long enough to be cut: a hash, an address or a node.
            if digits > 20 {
                add("one byte shorter", json!(text[..text.len() - 2]));
            }
        }
        other => panic!("{path}: {other}"),
    }
    copies.append(&mut within);
    copies
}

/// Runs `--proof` once for each of these answers to requests of one method, several at once.
fn refuse_each(
    database: &Database,
    chain: &Chain,
    asked: impl Fn() -> When + Sync,
    answers: &[(String, Value)],
) {
    std::thread::scope(|scope| {
        for part in answers.chunks(answers.len().div_ceil(3)) {
            let asked = &asked;
            scope.spawn(move || {
                let stub = stub_of(chain);
                let folder = tempfile::tempdir().expect("a folder");
                let profile = profile(folder.path(), &format!("slot = {SLOT}"));
                for (what, answer) in part {
                    stub.clear();
                    stub.fault(Fault::Answer(answer.clone()), asked());
                    let ran = ethtally(["verify", "--proof", &address(OWNER)])
                        .env("ETHTALLY_PROFILE", profile.to_str().expect("UTF-8"))
                        .env("ETHTALLY_RETRIES", "0")
                        .node(stub.url())
                        .database(database)
                        .run();
                    assert_eq!(ran.status, 3, "{what}: {ran:?}");
                    refused(&ran);
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_with_anything_changed_is_refused() {
    let (chain, database) = (chain().await, Database::sqlite());
    read(&database, &chain.url(), [OWNER]).await;
    let proof =
        |n, block: u64| ask(chain, "eth_getProof", json!([AUDIO, [key(n)], format!("{block:#x}")]));
    let genuine = proof(OWNER, 2).await;
    let fields: BTreeSet<_> = genuine.as_object().unwrap().keys().map(String::as_str).collect();
    let expected =
        ["accountProof", "address", "balance", "codeHash", "nonce", "storageHash", "storageProof"];
    assert_eq!(fields, expected.into());
    assert!(genuine["accountProof"].as_array().unwrap().len() > 1, "{genuine}");
    assert!(genuine["storageProof"][0]["proof"].as_array().unwrap().len() > 1, "{genuine}");

    let mut answers = tampered(&genuine, "proof");
    let other = proof(4, 2).await;
    let with = |path: &str, value: &Value| {
        let mut answer = genuine.clone();
        *answer.pointer_mut(path).expect("a place") = value.clone();
        (format!("another {path}"), answer)
    };
    let two = json!([genuine["storageProof"][0], other["storageProof"][0]]);
    let staking = ask(chain, "eth_getProof", json!([STAKING, [key(OWNER)], "0x2"])).await;
    answers.extend([
        ("of another wallet".to_owned(), other.clone()),
        ("of another block".to_owned(), proof(OWNER, 1).await),
        ("of another contract".to_owned(), staking.clone()),
        with("/accountProof", &staking["accountProof"]),
        with("/storageHash", &staking["storageHash"]),
        with("/storageProof", &other["storageProof"]),
        with("/storageProof", &two),
        with("/storageProof/0/value", &other["storageProof"][0]["value"]),
        with("/storageProof/0/proof", &other["storageProof"][0]["proof"]),
        ("null".to_owned(), Value::Null),
        ("a text".to_owned(), json!("0x")),
        ("an empty list".to_owned(), json!([])),
    ]);
    assert!(answers.len() > 60, "{}", answers.len());
    refuse_each(&database, chain, || When::method("eth_getProof"), &answers);

    // The genuine one passes the same way.
    let stub = stub_of(chain);
    stub.fault(Fault::Answer(genuine), When::method("eth_getProof"));
    prove(&database, &stub.url(), SLOT, OWNER, &["--retries", "0"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_with_anything_changed_is_refused() {
    let (chain, database) = (chain().await, Database::sqlite());
    read(&database, &chain.url(), [OWNER]).await;
    let mut header = chain.header(2).await.unwrap();
    let fields = header.as_object_mut().unwrap();
    // A block has these beside its header, or is found to have them by those who read it.
    for name in ["size", "totalDifficulty", "transactions", "uncles", "withdrawals"] {
        fields.remove(name);
    }
    for name in [
        "parentHash",
        "sha3Uncles",
        "miner",
        "stateRoot",
        "transactionsRoot",
        "receiptsRoot",
        "logsBloom",
        "difficulty",
        "number",
        "gasLimit",
        "gasUsed",
        "timestamp",
        "extraData",
        "mixHash",
        "nonce",
        "baseFeePerGas",
        "hash",
    ] {
        assert!(fields.contains_key(name), "{name}: {fields:?}");
    }
    let mut answers = tampered(&header, "header");
    let older = chain.header(1).await.unwrap();
    let mut other_root = header.clone();
    other_root["stateRoot"] = older["stateRoot"].clone();
    answers.extend([("another block".to_owned(), older), ("its root".to_owned(), other_root)]);
    assert!(answers.len() > 60, "{}", answers.len());
    let asked = || {
        let is_number = |request: &Value| request["params"][0] == "0x2";
        When::method("eth_getBlockByNumber").matching(is_number)
    };
    refuse_each(&database, chain, asked, &answers);

    let stub = stub_of(chain);
    stub.fault(Fault::Answer(header), asked());
    prove(&database, &stub.url(), SLOT, OWNER, &["--retries", "0"]).expect(0);
}
