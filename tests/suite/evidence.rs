//! Failures whose words say nothing, or something wrong: what works beside them decides.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use alloy::{primitives::Address, providers::Provider};
use ethtally_testbed::{
    Chain,
    contracts::MULTICALL3,
    stub::{Fault, RecordedRequest, Stub, When},
};
use rand::{RngExt, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::support::{
    chains::{still_chain, still_stub, stub_of, wide_stub},
    database::Database,
    program::{Output, ethtally, sweep_all},
    random::{random, schedules, sometimes},
    requests::chunk_sizes,
    table::{assert_read_at_genesis, read_failures, unread_table},
    wallets::address,
};

/// What nodes and gateways say of a call that is too large, without saying so.
fn unclear() -> Vec<Fault> {
    vec![
        Fault::error(-32603, "Internal error"),
        Fault::error(-32000, "context deadline exceeded"),
        Fault::error(-32000, "provider-specified max eth_call gas limit"),
        Fault::status(400),
        Fault::status(500),
        Fault::status(504),
        Fault::NotJson,
        Fault::Truncated,
        Fault::BrokenOff,
        Fault::Answer(json!("0x")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_fails_where_a_smaller_one_works_is_too_large_whatever_the_node_says() {
    for (reader, bytes) in [("multicall3", 150_000), ("packed", 6_000)] {
        for fault in unclear() {
            let stub = wide_stub().await;
            stub.fault(fault.clone(), When::eth_call().larger_than(bytes));
            let database = unread_table(1_000);
            let options = ["--reader", reader, "--chunk", "500", "--concurrency", "1"];
            let ran = sweep_all(&database, &stub.url(), &options).run().expect(0);
            assert_eq!(ran.json()["failed"], 0, "{reader}, {fault:?}: {ran:?}");
            assert_read_at_genesis(&database, 1_000, &[]).await;
            assert_eq!(ran.stderr, "", "{reader}, {fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_every_call_is_not_asked_for_less_and_less() {
    for fault in unclear() {
        let stub = still_stub().await;
        stub.fault(fault.clone(), When::eth_call());
        let database = unread_table(200);
        let ran = sweep_all(&database, &stub.url(), &["--retries", "2"]).run().expect(3);
        assert!(stub.count("eth_call") <= 12, "{fault:?}: {:?}", chunk_sizes(&stub));
        assert!(read_failures(&database).await.is_empty(), "{fault:?}: {ran:?}");
        assert!(!ran.error().contains("--chunk") || fault == Fault::status(504), "{ran:?}");
    }
}

/// Which a node that is well answers now and then.
fn refusals() -> Vec<Fault> {
    vec![
        Fault::status(429),
        Fault::status(503),
        Fault::error(-32603, "Internal error"),
        Fault::error(-32005, "limit exceeded"),
        Fault::error(-32000, "execution timeout"),
        Fault::error(-32000, "please try later"),
        Fault::Reset,
    ]
}

/// `REFUSALS=192` runs as many sweeps.
#[tokio::test(flavor = "multi_thread")]
async fn sweeps_of_a_node_that_refuses_some_requests_end_well() {
    let chain = still_chain().await;
    for seed in 0..schedules("REFUSALS", 6) {
        let mut random = random(seed);
        let fault = refusals().choose(&mut random).unwrap().clone();
        let rate = random.random_range(0.1..0.3);
        let reader = *["multicall3", "packed", "auto"].choose(&mut random).unwrap();
        let wallets = *[1, 7, 400].choose(&mut random).unwrap();
        let stub = stub_of(chain);
        stub.fault(fault.clone(), sometimes(When::always(), rate, seed));
        let database = unread_table(wallets);
        let ran = sweep_all(&database, &stub.url(), &["--reader", reader]).run();
        let shown = format!("seed {seed}: {wallets} {reader}, {fault:?} at {rate}: {ran:?}");
        assert_eq!(ran.status, 0, "{shown}");
        assert_eq!(ran.json()["failed"], 0, "{shown}");
        assert_read_at_genesis(&database, wallets, &[]).await;
    }
}

/// Blocks whose state is there for a few calls only.
fn forgets_blocks_after(stub: &Stub, calls: usize, fault: Fault) {
    let seen: Mutex<HashMap<String, usize>> = Mutex::default();
    let is_forgotten = move |request: &Value| {
        let block = request["params"][1].as_str().unwrap_or_default().to_owned();
        let mut seen = seen.lock().unwrap();
        let count = seen.entry(block).or_default();
        *count += 1;
        *count > calls
    };
    stub.fault(fault, When::eth_call().matching(is_forgotten));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_fails_where_a_newer_one_works_has_lost_its_state_whatever_the_node_says() {
    for (fault, reader) in [
        (Fault::error(-32603, "state at block is pruned"), "multicall3"),
        (Fault::error(-32000, "historical state 1f2e is not available"), "packed"),
        (Fault::Answer(json!("0x")), "multicall3"),
    ] {
        let chain = Chain::builder().start().await.unwrap();
        chain.set_interval_mining(1).await.unwrap();
        let stub = stub_of(&chain);
        // So that there is a newer block by then.
        stub.fault(Fault::Delay(Duration::from_millis(250)), When::eth_call());
        forgets_blocks_after(&stub, 5, fault.clone());
        let database = unread_table(600);
        let options = ["--reader", reader, "--chunk", "60", "--concurrency", "1", "--retries", "2"];
        let ran = sweep_all(&database, &stub.url(), &options).run().expect(0);
        assert_eq!(ran.json()["failed"], 0, "{fault:?}: {ran:?}");
        assert_read_at_genesis(&database, 600, &[]).await;
        let blocks = "select count(distinct read_block) from eth_wallet_balances";
        assert!(database.value(blocks).await.parse::<u64>().unwrap() > 1, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_block_costs_few_calls_however_many_wallets_there_are() {
    let chain = still_chain().await;
    for fault in [
        Fault::error(-32000, "missing trie node"),
        Fault::error(-32603, "state at block #0 is pruned"),
    ] {
        let stub = stub_of(chain);
        stub.fault(fault.clone(), When::eth_call());
        let database = unread_table(1_000);
        let options = ["--block", "0", "--chunk", "100", "--retries", "2"];
        sweep_all(&database, &stub.url(), &options).run().expect(3);
        // Four chunks at once, and a canary for each.
        assert!(stub.count("eth_call") <= 28, "{fault:?}: {}", stub.count("eth_call"));
    }
}

fn packed_calls(stub: &Stub) -> Vec<RecordedRequest> {
    stub.requests().into_iter().filter(RecordedRequest::is_packed).collect()
}

fn with_overrides() -> When {
    When::eth_call().matching(|request| !request["params"][2].is_null())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_overrides_is_passed_over_by_the_packed_reader() {
    let chain = still_chain().await;
    for refusal in [Fault::RefusesOverrides, Fault::IgnoresOverrides, Fault::status(400)] {
        let [first, second] = [(); 2].map(|()| stub_of(chain));
        first.fault(refusal.clone(), with_overrides());
        let database = unread_table(1_000);
        let urls = format!("{},{}", first.url(), second.url());
        let options = ["--reader", "packed", "--chunk", "100", "--retries", "2"];
        let ran = sweep_all(&database, &urls, &options).run().expect(0);
        assert_read_at_genesis(&database, 1_000, &[]).await;
        assert_eq!(packed_calls(&second).len(), 10, "{refusal:?}");
        assert!(packed_calls(&first).len() <= 8, "{refusal:?}: {}", packed_calls(&first).len());

        // With none that takes them, each says why.
        second.fault(refusal.clone(), with_overrides());
        let database = unread_table(100);
        let ran_2 = sweep_all(&database, &urls, &options).run().expect(2);
        for url in [first.url(), second.url()] {
            assert!(ran_2.error().contains(&url), "{refusal:?}: {ran_2:?}");
        }
        assert!(ran.stderr.lines().count() <= 1, "{refusal:?}: {ran:?}");
    }
}

/// What is wrong with one endpoint does not make the packed reader unusable.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_for_a_while_is_not_said_to_lack_overrides() {
    let stub = still_stub().await;
    stub.fault(Fault::status(503), When::eth_call().times(4));
    let database = unread_table(300);
    let options = ["--reader", "packed", "--chunk", "100", "--concurrency", "1"];
    sweep_all(&database, &stub.url(), &options).run().expect(0);
    assert_read_at_genesis(&database, 300, &[]).await;

    stub.clear();
    stub.fault(Fault::status(503), When::eth_call());
    let database = unread_table(300);
    let ran = sweep_all(&database, &stub.url(), &["--reader", "packed"]).run().expect(3);
    assert!(!ran.error().contains("--reader"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_fails_at_one_endpoint_is_read_at_the_next() {
    let chain = still_chain().await;
    for fault in [
        Fault::error(-32000, "out of gas"),
        Fault::error(3, "execution reverted"),
        Fault::error(-32603, "Internal error"),
        Fault::status(500),
    ] {
        let [first, second] = [(); 2].map(|()| stub_of(chain));
        first.fault(fault.clone(), When::eth_call().mentioning(&address(5)));
        let database = unread_table(20);
        let urls = format!("{},{}", first.url(), second.url());
        let ran = sweep_all(&database, &urls, &["--retries", "2"]).run().expect(0);
        assert_eq!(ran.json()["failed"], 0, "{fault:?}: {ran:?}");
        assert_read_at_genesis(&database, 20, &[]).await;
    }
}

/// A profile with this line added.
fn profile_with(database: &Database, line: &str) -> String {
    let audius = ethtally(["profile"]).run().expect(0).stdout;
    let file = database.folder().join("profile.toml");
    std::fs::write(&file, format!("{line}\n{audius}")).unwrap();
    file.to_str().unwrap().to_owned()
}

async fn set_code(chain: &Chain, address: Address, code: &str) {
    let set = chain.provider().raw_request::<_, Value>("anvil_setCode".into(), (address, code));
    set.await.unwrap();
}

/// Sweeps, refreshes and verifies with this profile.
async fn uses(chain: &Chain, stub: &Stub, line: &str, failing: &[u64]) -> Vec<Output> {
    let database = unread_table(300);
    let profile = profile_with(&database, line);
    let with_profile = ["--profile", profile.as_str(), "--chunk", "100"];
    let swept = sweep_all(&database, &stub.url(), &with_profile).run().expect(0);
    assert_eq!(swept.json()["failed"], failing.len(), "{swept:?}");
    assert_read_at_genesis(&database, 300, failing).await;
    let wallet = address(7);
    let arguments = ["verify", &wallet, "--json", "--profile", profile.as_str()];
    let verified = ethtally(arguments).node(chain.url()).database(&database).run().expect(0);
    assert_eq!(verified.json()["in_sync"], true);
    let arguments = ["verify", "--sample", "20", "--json", "--profile", profile.as_str()];
    let sampled = ethtally(arguments).node(chain.url()).database(&database).run();
    assert_eq!(sampled.json()["drifted"], 0, "{sampled:?}");
    vec![swept, verified, sampled]
}

#[tokio::test(flavor = "multi_thread")]
async fn without_multicall3_totals_are_read_packed_and_what_is_marked_part_by_part() {
    use ethtally_testbed::TokenFault;
    let chain = crate::support::chains::faulty_chain([(5, TokenFault::Revert)]).await;
    set_code(&chain, MULTICALL3, "0x").await;
    let stub = stub_of(&chain);
    uses(&chain, &stub, "multicall3 = \"none\"", &[5]).await;
    let packed = packed_calls(&stub);
    assert_eq!(packed.len(), 3);
    let to_multicall3 = |call: &RecordedRequest| {
        let to = call.params[0]["to"].as_str().unwrap_or_default();
        to.eq_ignore_ascii_case(&MULTICALL3.to_string())
    };
    assert!(!stub.eth_calls().iter().any(to_multicall3));

    // A node that does not take overrides is no use, and the remedy says what is.
    stub.fault(Fault::RefusesOverrides, with_overrides());
    let database = unread_table(10);
    let profile = profile_with(&database, "multicall3 = \"none\"");
    let ran = sweep_all(&database, &stub.url(), &["--profile", &profile]).run().expect(2);
    assert!(ran.error().contains("takes state overrides"), "{ran:?}");
    assert!(!ran.error().contains("--reader multicall3"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn multicall3_is_called_at_the_address_of_the_profile() {
    let chain = Chain::builder().start().await.unwrap();
    let code = chain.provider().get_code_at(MULTICALL3).await.unwrap();
    let elsewhere = Address::repeat_byte(0x77);
    set_code(&chain, elsewhere, &code.to_string()).await;
    set_code(&chain, MULTICALL3, "0x").await;
    let stub = stub_of(&chain);
    uses(&chain, &stub, &format!("multicall3 = \"{elsewhere:#x}\""), &[]).await;
    for call in stub.eth_calls() {
        assert_eq!(call.params[0]["to"], json!(elsewhere));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_not_blamed_for_an_endpoint_whose_contracts_return_nothing() {
    let chain = still_chain().await;
    let [first, second] = [(); 2].map(|()| stub_of(chain));
    first.fault(Fault::EmptyReturns, When::eth_call());
    let database = unread_table(300);
    let urls = format!("{},{}", first.url(), second.url());
    let ran = sweep_all(&database, &urls, &["--chunk", "100"]).run().expect(0);
    assert_eq!(ran.json()["failed"], 0, "{ran:?}");
    assert_read_at_genesis(&database, 300, &[]).await;

    let ran = sweep_all(&unread_table(10), &first.url(), &[]).run().expect(2);
    assert!(ran.error().contains("not even one that holds nothing"), "{ran:?}");
}
