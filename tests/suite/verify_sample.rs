//! A sample is checked page by page: an error, a lost block or a signal costs no more than it must.

use std::{collections::BTreeMap, time::Duration};

use ethtally_testbed::{
    Chain, TokenFault,
    contracts::AUDIO,
    stub::{Fault, Stub, When},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::{asks_for_newest, chain_and_stub, newest_is, stub_of},
    database::Database,
    program::{ethtally, eventually},
    requests::decoded_eth_calls,
    verify::{Sample, read, set_balance, verify},
    wallets::address,
};

/// A chain with rows that were read at block 0, and a stub in front of it.
async fn read_table(rows: u64) -> (Chain, Stub, Database) {
    let (chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    read(&database, &chain.url(), 0..rows).await;
    (chain, stub, database)
}

/// These blocks as the newest, one after the other.
async fn newest_blocks(chain: &Chain, blocks: [u64; 3]) -> Vec<Fault> {
    let mut newest = Vec::new();
    for block in blocks {
        newest.push(newest_is(chain, block).await);
    }
    newest
}

/// True for the call of a part of this wallet's total.
fn reads_directly(n: u64) -> When {
    let of_audio = |request: &Value| {
        let to = request["params"][0]["to"].as_str().unwrap_or_default();
        to.parse() == Ok(AUDIO)
    };
    When::eth_call().matching(of_audio).mentioning(&address(n))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_of_a_sample_has_a_block_of_its_own() {
    let (chain, stub, database) = read_table(250).await;
    chain.mine(5).await.unwrap();
    // The first is the one that the endpoint is checked by.
    stub.script(newest_blocks(&chain, [2, 3, 4]).await, asks_for_newest());

    let seen = verify(&database, &stub.url(), &["--json", "--sample=250"]).expect(0).json();
    assert_eq!(seen, Sample { in_sync: 250, ..Sample::default() }.json(&[]));
    let mut blocks = BTreeMap::new();
    for call in decoded_eth_calls(&stub).iter().filter(|call| call.to == AUDIO) {
        *blocks.entry(call.block.clone()).or_insert(0) += 1;
    }
    let expected = [("0x2", 100), ("0x3", 100), ("0x4", 50)];
    assert_eq!(blocks, expected.map(|(block, rows)| (block.to_owned(), rows)).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_lost_half_way_is_replaced_by_a_newer_one() {
    let (chain, stub, database) = read_table(150).await;
    chain.mine(5).await.unwrap();
    for message in ["missing trie node", "state of block is not here, in words nobody knows"] {
        stub.forget();
        stub.clear();
        stub.script(newest_blocks(&chain, [2, 3, 4]).await, asks_for_newest());
        let at_block_2 = |request: &Value| request["params"][1] == "0x2";
        let lost = When::eth_call().matching(at_block_2).after(60);
        stub.fault(Fault::error(-32000, message), lost);

        let args = ["--json", "--sample=150", "--retries=0"];
        let seen = verify(&database, &stub.url(), &args).expect(0).json();
        assert_eq!(seen, Sample { in_sync: 150, ..Sample::default() }.json(&[]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_error_leaves_only_what_it_concerns_unchecked() {
    let (_chain, stub, database) = read_table(250).await;
    let args = ["--json", "--sample=250", "--retries=0"];
    // One wallet.
    stub.fault(Fault::bad_gateway(), reads_directly(7));
    let ran = verify(&database, &stub.url(), &args).expect(3);
    assert_eq!(ran.json(), Sample { in_sync: 249, unchecked: 1, ..Sample::default() }.json(&[]));
    assert!(ran.error().contains("HTTP 502"), "{ran:?}");
    assert!(
        ran.stderr.contains(&format!("note: wallet {} was not checked: ", address(7))),
        "{ran:?}"
    );
    // A node that has lost the state may say so by nothing at all.
    stub.clear();
    stub.script([Fault::Answer(json!("0x"))], reads_directly(7));
    let seen = verify(&database, &stub.url(), &args).expect(0).json();
    assert_eq!(seen, Sample { in_sync: 250, ..Sample::default() }.json(&[]));
    stub.fault(Fault::bad_gateway(), reads_directly(7));
    set_balance(&database, 9, "1").await;
    let text = verify(&database, &stub.url(), &["--sample=250", "--retries=0"]).expect(3).stdout;
    let first =
        "verify failed sampled:250 in_sync:248 drifted:1 moved:0 wrong:1 unreadable:0 unchecked:1";
    assert_eq!(text, format!("{first}\n{} wrong\n", address(9)));

    // Everything from some call on: the pages behind it, and a part of its own.
    stub.clear();
    stub.fault(Fault::error(-32000, "something new"), When::eth_call().after(400));
    let ran = verify(&database, &stub.url(), &args).expect(3);
    let (seen, number) = (ran.json(), |name: &str| ran.json()[name].as_u64().unwrap());
    assert_eq!((&seen["sampled"], &seen["unreadable"]), (&json!(250), &json!(0)));
    assert!((120..140).contains(&(number("in_sync") + number("drifted"))), "{seen}");
    assert_eq!(number("in_sync") + number("drifted") + number("unchecked"), 250);
    assert!(ran.error().contains("something new"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_answers_leaves_all_unchecked() {
    let (_chain, _stub, database) = read_table(250).await;
    let ran =
        verify(&database, &Stub::dead(), &["--json", "--sample=250", "--retries=0"]).expect(3);
    assert_eq!(ran.json(), Sample { unchecked: 250, ..Sample::default() }.json(&[]));
    ran.error();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_sample_with_what_was_checked() {
    let (_chain, stub, database) = read_table(250).await;
    for (signal, status) in [("TERM", 143), ("INT", 130)] {
        stub.clear();
        stub.forget();
        // Slow once the first page is read.
        stub.fault(Fault::Delay(Duration::from_millis(300)), When::eth_call().after(310));
        let arguments = ["verify", "--json", "--sample=250"];
        let running = ethtally(arguments).node(stub.url()).database(&database).start();
        eventually("the second page is begun", || stub.count("eth_call") > 330);
        running.signal(signal);
        let ran = running.wait().expect(status);
        let number = |name: &str| ran.json()[name].as_u64().unwrap();
        assert!((101..150).contains(&number("in_sync")), "{ran:?}");
        assert_eq!(number("in_sync") + number("unchecked"), 250);
        assert_eq!(ran.stderr, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_fails_in_both_ways_is_unreadable_however_the_node_words_it() {
    let chain = Chain::builder().faulty().start().await.unwrap();
    let (stub, database) = (stub_of(&chain), Database::sqlite());
    read(&database, &chain.url(), 0..20).await;
    chain.set_fault(wallet(2), TokenFault::Revert).await.unwrap();
    let message = "VM Exception while processing transaction: revert no such wallet";
    stub.fault(Fault::error(-32603, message), reads_directly(2));
    let args = ["--json", "--sample=20", "--retries=0"];
    let ran = verify(&database, &stub.url(), &args).expect(0);
    assert_eq!(ran.json(), Sample { in_sync: 19, unreadable: 1, ..Sample::default() }.json(&[]));
}
