//! `verify ADDR --proof`: parts proven by `eth_getProof`. What is refused is in `tampered`.

mod tampered;

use std::path::{Path, PathBuf};

use alloy::{
    primitives::{B256, U256, keccak256},
    providers::Provider,
};
use ethtally_testbed::{
    Chain,
    contracts::AUDIO,
    stub::{Fault, Stub, When},
    wallet,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{
    chains::stub_of,
    database::{Database, on_both_databases},
    program::{Output, ethtally},
    table::dump,
    verify::read,
    wallets::address,
};

on_both_databases! {
    a_part_with_a_slot_is_proven_and_the_others_are_believed
}

/// The slot of the token's balances.
const SLOT: u64 = 1;
/// A wallet that holds tokens.
const OWNER: u64 = 3;
/// A wallet without any.
const NOBODY: u64 = 123_456;

/// A shared chain at block 2, for tests that do not change it.
async fn chain() -> &'static Chain {
    static CHAIN: OnceCell<Chain> = OnceCell::const_new();
    let start = async || {
        let chain = Chain::builder().start().await.expect("a chain");
        chain.mint(wallet(OWNER), U256::from(7)).await.expect("a block");
        chain.mint(wallet(4), U256::from(8)).await.expect("a block");
        chain
    };
    CHAIN.get_or_init(start).await
}

/// The built-in profile, with this line in its first `[[read]]`.
fn profile(folder: &Path, line: &str) -> PathBuf {
    let text = include_str!("../../src/profile/audius.toml");
    let read = "function = \"balanceOf(address)\"";
    assert!(text.contains(read));
    let path = folder.join("profile.toml");
    std::fs::write(&path, text.replacen(read, &format!("{read}\n{line}"), 1)).expect("a file");
    path
}

/// `verify ADDR --proof`, with this slot of the balances.
fn prove(database: &Database, nodes: &str, slot: u64, n: u64, options: &[&str]) -> Output {
    let profile = profile(database.folder(), &format!("slot = {slot}"));
    let wallet = address(n);
    let arguments = [&["verify", "--proof", &wallet], options].concat();
    ethtally(arguments)
        .env("ETHTALLY_PROFILE", profile.to_str().expect("UTF-8"))
        .node(nodes)
        .database(database)
        .run()
}

/// Where the balance of a wallet is stored.
fn key(n: u64) -> B256 {
    keccak256([wallet(n).into_word(), U256::from(SLOT).into()].concat())
}

/// What the chain answers.
async fn ask(chain: &Chain, method: &'static str, params: Value) -> Value {
    chain.provider().raw_request(method.into(), params).await.expect("an answer")
}

async fn a_part_with_a_slot_is_proven_and_the_others_are_believed(database: Database) {
    let chain = chain().await;
    read(&database, &chain.url(), [OWNER]).await;
    let before = dump(&database).await;

    let plain = ethtally(["verify", "--json", &address(OWNER)]);
    let plain = plain.node(chain.url()).database(&database).run().expect(0).json();
    let mut seen = prove(&database, &chain.url(), SLOT, OWNER, &["--json"]).expect(0).json();

    let header = chain.header(2).await.unwrap();
    let proof = seen.as_object_mut().unwrap().remove("proof").expect("a proof");
    assert_eq!(
        proof,
        json!({
            "proven": ["balanceOf"],
            "believed": ["totalStakedFor", "getTotalDelegatorStake"],
            "block_hash": header["hash"],
            "state_root": header["stateRoot"],
            "endpoints": [chain.url().trim_end_matches('/')],
        })
    );
    assert_eq!(seen, plain, "all else is as without --proof");

    let text = prove(&database, &chain.url(), SLOT, OWNER, &[]).expect(0);
    let hash = header["hash"].as_str().unwrap();
    for (name, what) in [
        ("proven", "balanceOf"),
        ("believed", "totalStakedFor, getTotalDelegatorStake"),
        ("block hash", &*format!("{hash}, the same at {}", chain.url().trim_end_matches('/'))),
        ("state root", header["stateRoot"].as_str().unwrap()),
    ] {
        let is_there = text.stdout.lines().any(|line| {
            line.trim_start().strip_prefix(name).is_some_and(|rest| rest.trim_start() == what)
        });
        assert!(is_there, "{name}: {}", text.stdout);
    }
    assert!(text.stdout.ends_with("\nin sync\n") && text.stderr.is_empty(), "{text:?}");

    // At an older block, too, where the balance was another one.
    let seen =
        prove(&database, &chain.url(), SLOT, 4, &["--json", "--block", "1"]).expect(1).json();
    assert_eq!(seen["proof"]["proven"], json!(["balanceOf"]));
    assert_eq!(seen["proof"]["block_hash"], chain.header(1).await.unwrap()["hash"]);
    assert_eq!(dump(&database).await, before, "it changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_of_zero_is_proven_by_its_absence() {
    let (chain, database) = (chain().await, Database::sqlite());
    read(&database, &chain.url(), [NOBODY]).await;
    let seen = prove(&database, &chain.url(), SLOT, NOBODY, &["--json"]).expect(0).json();
    assert_eq!(seen["parts"]["balanceOf"], "0");
    assert_eq!(seen["proof"]["proven"], json!(["balanceOf"]));

    // A node that leaves the wallet's balance out has no proof of that.
    let absent = ask(chain, "eth_getProof", json!([AUDIO, [key(NOBODY)], "0x2"])).await;
    let stub = stub_of(chain);
    for proof in [absent["storageProof"][0]["proof"].clone(), json!([])] {
        let mut answer = ask(chain, "eth_getProof", json!([AUDIO, [key(OWNER)], "0x2"])).await;
        answer["storageProof"][0]["value"] = json!("0x0");
        answer["storageProof"][0]["proof"] = proof;
        stub.fault(Fault::Answer(answer), When::method("eth_getProof"));
        refused(&prove(&database, &stub.url(), SLOT, OWNER, &["--retries", "0"]));
        stub.clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_view_does_not_answer_from_is_an_error() {
    let (chain, database) = (chain().await, Database::sqlite());
    read(&database, &chain.url(), [OWNER, NOBODY]).await;
    let held = chain.holding_at(wallet(OWNER), 2).await.unwrap().balance;
    let error = prove(&database, &chain.url(), 5, OWNER, &[]).refused();
    let expected = format!(
        "error: slot 5 of balanceOf holds 0 for {} at block 2, and the view answers {held}; correct `slot` in the \
         profile to that of the view's mapping, or remove it",
        address(OWNER)
    );
    assert_eq!(error, expected);

    // A wrong slot holds 0 for a wallet without a balance, too.
    let error = prove(&database, &chain.url(), 5, NOBODY, &[]).refused();
    let expected = format!(
        "error: slot 5 of balanceOf is not what the view answers: for {} it answers 0 whatever the slot holds; \
         correct `slot` in the profile to that of the view's mapping, or remove it",
        address(NOBODY)
    );
    assert_eq!(error, expected);

    // Without state overrides this cannot be seen: then nothing is proven, even by the right slot.
    let stub = stub_of(chain);
    for fault in [Fault::RefusesOverrides, Fault::IgnoresOverrides] {
        stub.fault(fault, When::always());
        for slot in [5, SLOT] {
            let ran = prove(&database, &stub.url(), slot, NOBODY, &["--json"]).expect(0);
            assert_eq!(ran.json()["proof"]["proven"], json!([]));
            assert_eq!(ran.json()["proof"]["believed"][0], "balanceOf");
            assert!(ran.stderr.contains("takes no state overrides"), "{ran:?}");
        }
        stub.clear();
    }
}

/// Panics unless the run failed because of a proof that does not hold.
#[track_caller]
fn refused(ran: &Output) {
    assert_eq!((ran.status, ran.own().as_str()), (3, ""), "{ran:?}");
    let error = ran.error();
    assert!(error.contains("; do not trust this endpoint: give another --rpc-url"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_must_have_the_same_block() {
    let (chain, database) = (chain().await, Database::sqlite());
    read(&database, &chain.url(), [OWNER]).await;
    let shown = |url: &str| url.trim_end_matches('/').to_owned();
    let stub = stub_of(chain);
    let both = format!("{},{}", chain.url(), stub.url_with_path("/v2/the-secret-key"));
    let seen = prove(&database, &both, SLOT, OWNER, &["--json"]).expect(0);
    assert_eq!(seen.json()["proof"]["endpoints"], json!([shown(&chain.url()), shown(&stub.url())]));
    assert!(!format!("{seen:?}").contains("the-secret-key"));

    // Another chain of the same number has another block of that number.
    let other = Chain::builder().start().await.unwrap();
    other.mint(wallet(5), U256::from(1)).await.unwrap();
    let other = other_with(other, 2).await;
    let fork = Stub::in_front_of(&other.url()).unwrap();
    let nodes = format!("{},{}", chain.url(), fork.url_with_path("/v2/the-secret-key"));
    let ran = prove(&database, &nodes, SLOT, OWNER, &["--retries", "0"]).expect(3);
    let hash =
        async |chain: &Chain| chain.header(2).await.unwrap()["hash"].as_str().unwrap().to_owned();
    let expected = format!(
        "error: {}: block 2 has the hash {} here (--rpc-url number 2), and {} at {}; try again with --block finalized, \
         and if they still differ, do not trust one of them",
        shown(&fork.url()),
        hash(&other).await,
        hash(chain).await,
        shown(&chain.url())
    );
    assert_eq!(ran.error(), expected);
    assert_eq!(ran.own(), "");

    // One that lacks the block, and one that is not there.
    let young = Chain::builder().start().await.unwrap();
    for (url, expected) in [
        (young.url(), "it does not have block 2; --proof compares the block at every --rpc-url"),
        (
            Stub::dead(),
            "--proof compares the block at every --rpc-url: try again, or leave this one out",
        ),
    ] {
        let nodes = format!("{},{url}", chain.url());
        let ran = prove(&database, &nodes, SLOT, OWNER, &["--retries", "1"]).expect(3);
        let error = ran.error();
        assert!(error.starts_with(&format!("error: {}: ", shown(&url))), "{error}");
        assert!(error.contains(expected), "{error}");
    }

    // One of another chain.
    let foreign = Chain::builder().chain_id(5).start().await.unwrap();
    let nodes = format!("{},{}", chain.url(), foreign.url());
    let error = prove(&database, &nodes, SLOT, OWNER, &[]).refused();
    assert!(error.contains("is a node of chain 5, but profile audius is for chain 1"), "{error}");
}

/// The chain with this many blocks.
async fn other_with(chain: Chain, blocks: u64) -> Chain {
    let missing = blocks - chain.block_number().await.unwrap();
    chain.mine(missing).await.unwrap();
    chain
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_proofs_is_passed_over_and_named() {
    let (chain, database) = (chain().await, Database::sqlite());
    read(&database, &chain.url(), [OWNER]).await;
    let stub = stub_of(chain);
    let asked = || When::method("eth_getProof");
    let label = stub.url().trim_end_matches('/').to_owned();
    let remedy = "; give --rpc-url a node that answers eth_getProof, or leave out --proof";
    for (code, message) in [
        (-32601, "the method eth_getProof does not exist/is not available"),
        (-32601, "Method not found"),
        (-32000, "eth_getProof is a premium feature"),
        (-32602, "too many arguments, want at most 2"),
    ] {
        stub.clear();
        stub.fault(Fault::error(code, message), asked());
        let ran = prove(&database, &stub.url(), SLOT, OWNER, &["--retries", "0"]).expect(3);
        assert_eq!(ran.error(), format!("error: {label}: error {code}: {message}{remedy}"));
        assert_eq!((ran.own().as_str(), ran.stderr.lines().count()), ("", 1), "{ran:?}");

        let both = format!("{},{}", stub.url(), chain.url());
        let ran = prove(&database, &both, SLOT, OWNER, &["--json", "--retries", "0"]).expect(0);
        assert_eq!(ran.json()["proof"]["proven"], json!(["balanceOf"]));
        assert!(ran.stderr.starts_with(&format!("warning: {label}: error {code}: ")), "{ran:?}");
    }
    // A full node has proofs of recent blocks only.
    let pruned = "distance to target block exceeds maximum proof window";
    for message in [pruned, "missing trie node 1f2e (path ) state is not available"] {
        stub.clear();
        stub.fault(Fault::error(-32000, message), asked());
        let ran = prove(&database, &stub.url(), SLOT, OWNER, &["--retries", "0"]).expect(3);
        assert!(ran.error().contains("--block"), "{ran:?}");
    }
    // What may pass is tried again.
    stub.clear();
    stub.fault(Fault::bad_gateway(), asked().times(2));
    prove(&database, &stub.url(), SLOT, OWNER, &[]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_replaced_meanwhile_is_not_the_slots_fault() {
    let (chain, database) = (chain().await, Database::sqlite());
    read(&database, &chain.url(), [OWNER]).await;
    // What was block 2 while the parts were read.
    let before = Chain::builder().start().await.unwrap();
    before.mine(2).await.unwrap();
    let stub = stub_of(chain);
    stub.fault(Fault::AnsweredBy(before.url()), When::eth_call().times(4));
    let ran = prove(&database, &stub.url(), SLOT, OWNER, &["--retries", "0"]).expect(3);
    assert_eq!(ran.error(), "error: block 2 was replaced while balanceOf was read; run it again");
}

#[test]
fn proof_is_for_one_wallet_and_a_profile_with_a_slot() {
    let database = Database::sqlite();
    let dead = Stub::dead();
    let verify = |arguments: &[&str]| {
        ethtally([&["verify", "--proof"], arguments].concat()).node(&dead).database(&database).run()
    };
    let error = verify(&["--sample", "3"]).refused();
    assert!(error.contains("--proof") && error.contains("--sample"), "{error}");
    ethtally(["migrate"]).database(&database).run().expect(0);
    let error = verify(&[&address(1)]).refused();
    assert_eq!(
        error,
        "error: --proof proves the parts whose [[read]] has a slot, and profile audius has none; add `slot = N`, the \
         storage slot of the view's mapping, or leave out --proof"
    );
}
