//! A node that fails: each fault is met by what it asks for, and no total is wrong because of it.

use std::{collections::BTreeMap, time::Duration};

use alloy::{primitives::U256, sol_types::SolCall};
use ethtally_testbed::{
    Chain,
    contracts::{AUDIO, MULTICALL3, STAKING},
    genesis::holdings,
    stub::{Fault, Seen, Stub, When},
    wallet,
};
use serde_json::{Value, json};

use crate::harness::{Database, Ethtally, ethtally};

/// A node that passes everything on, until it is told otherwise.
async fn node() -> (Chain, Stub) {
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    (chain, stub)
}

/// `refresh` of the first wallets, in their order.
fn refresh(wallets: u64, options: &[&str]) -> Ethtally {
    let addresses: Vec<_> = (0..wallets).map(|n| format!("{:#x}", wallet(n))).collect();
    let fixed = ["refresh", "--json"];
    ethtally(fixed.into_iter().chain(options.iter().copied()).chain(addresses.iter().map(|a| &**a)))
}

fn calls() -> When {
    When::method("eth_call")
}

/// What these wallets hold at genesis, as it is to be stored.
fn totals(wallets: impl IntoIterator<Item = u64>) -> BTreeMap<String, String> {
    let held: Vec<_> = holdings(1_000).collect();
    (wallets.into_iter())
        .map(|n| (format!("{:#x}", wallet(n)), held[n as usize].total().to_string()))
        .collect()
}

/// What is stored.
async fn stored(database: &Database) -> BTreeMap<String, String> {
    let rows = database.sql("select wallet, balance from eth_wallet_balances").await;
    rows.iter()
        .map(|row| row.split_once('|').expect("two columns"))
        .map(|(wallet, total)| (wallet.to_owned(), total.to_owned()))
        .collect()
}

/// Wallets that were called unreadable.
async fn unreadable(database: &Database) -> Vec<String> {
    database.sql("select wallet from eth_wallet_read_failures order by wallet").await
}

async fn nothing_is_stored(database: &Database) -> bool {
    stored(database).await.is_empty() && unreadable(database).await.is_empty()
}

/// The `eth_call`s that a node was asked, in their order.
fn eth_calls(stub: &Stub) -> Vec<Seen> {
    stub.requests().into_iter().filter(|seen| seen.method == "eth_call").collect()
}

/// How many wallets each `eth_call` asked for.
fn wallets_asked(stub: &Stub) -> Vec<usize> {
    use alloy::providers::bindings::IMulticall3::aggregate3Call;
    let wallets = |seen: Seen| {
        let data: alloy::primitives::Bytes =
            seen.params[0]["data"].as_str().expect("call data").parse().expect("hexadecimal");
        aggregate3Call::abi_decode(&data).expect("an aggregate3").calls.len() / 3
    };
    eth_calls(stub).into_iter().map(wallets).collect()
}

/// The time between the first `eth_call` and the second.
fn gap(stub: &Stub) -> Duration {
    let calls = eth_calls(stub);
    calls[1].at - calls[0].at
}

/// One `eth_call` meets the fault; the same is asked again and succeeds.
async fn is_retried(fault: Fault, options: &[&str]) -> Stub {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.script([fault], calls());
    let ran = refresh(4, options).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(wallets_asked(&stub), [4, 4]);
    assert_eq!(ran.json()["calls"], 2);
    assert_eq!(stored(&database).await, totals(0..4));
    assert!(unreadable(&database).await.is_empty());
    stub
}

/// One `eth_call` meets the fault; its two halves are asked and succeed.
async fn is_split(fault: Fault) {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.script([fault], calls());
    let ran = refresh(4, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(wallets_asked(&stub), [4, 2, 2]);
    assert_eq!(ran.json()["calls"], 3);
    assert_eq!(stored(&database).await, totals(0..4));
    assert!(unreadable(&database).await.is_empty());
}

/// Every `eth_call` meets the fault; it is asked once and never again.
async fn stops_at_once(fault: Fault, says: &str) {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(fault.clone(), calls());
    let ran = refresh(4, &[]).node(stub.url()).database(&database).run().expect(2);
    assert!(ran.error().contains(says), "{}", ran.error());
    assert!(ran.error().contains(&stub.url()), "{}", ran.error());
    assert_eq!(stub.count("eth_call"), 1);
    assert!(nothing_is_stored(&database).await);

    // The same in the first look at the node.
    stub.clear();
    stub.forget();
    stub.fault(fault, When::always());
    let ran = refresh(4, &[]).node(stub.url()).database(&database).run().expect(2);
    assert!(ran.error().contains(says), "{}", ran.error());
    assert_eq!(stub.requests().len(), 1);
}

macro_rules! each {
    ($then:ident: $($name:ident: $fault:expr $(, $more:expr)*;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            $then($fault $(, $more)*).await;
        })*
    };
}

each! { is_retried:
    a_429_without_a_word_is_retried: Fault::status(429), &[];
    a_429_inside_of_an_http_200_is_retried:
        Fault::error(429, "Your app has exceeded its compute units per second capacity"), &[];
    code_32005_is_retried: Fault::error(-32005, "rate limited, try again in 4ms"), &[];
    code_32005_is_retried_whatever_it_says: Fault::error(-32005, "too fast"), &[];
    code_32007_is_retried:
        Fault::error(-32007, "100/second request limit reached - reduce calls per second"), &[];
    code_32012_is_retried: Fault::error(-32012, "credits limited to 6000/sec"), &[];
    code_32016_is_retried: Fault::error(-32016, "you are over the rate limit"), &[];
    a_429_with_a_json_error_in_its_body_is_retried:
        Fault::status(429).with_body(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"slow"}}"#), &[];
    a_500_is_retried: Fault::status(500), &[];
    a_502_with_a_page_of_html_is_retried: Fault::bad_gateway(), &[];
    a_503_is_retried: Fault::status(503), &[];
    a_504_is_retried: Fault::status(504), &[];
    truncated_json_is_retried: Fault::Truncated, &[];
    an_answer_that_is_not_json_is_retried: Fault::NotJson, &[];
    an_answer_that_is_broken_off_is_retried: Fault::BrokenOff, &[];
    a_connection_that_is_reset_is_retried: Fault::Reset, &[];
    an_answer_of_null_is_retried: Fault::Answer(Value::Null), &[];
    a_result_one_element_short_is_retried: Fault::Short, &[];
    a_result_of_garbage_is_retried: Fault::Garbage, &[];
    header_not_found_is_retried: Fault::error(-32000, "header not found"), &[];
}

each! { is_split:
    a_413_is_split: Fault::status(413);
    anvils_invalid_request_for_a_body_over_its_limit_is_split:
        Fault::error(-32600, "Invalid request");
    execution_timeout_is_split: Fault::error(-32000, "execution timeout");
    code_32002_is_split: Fault::error(-32002, "request timed out");
    out_of_gas_is_split: Fault::error(-32000, "out of gas: gas required exceeds: 50000000");
    out_of_gas_in_the_data_is_split:
        Fault::error(-32015, "VM execution error.").with_data(json!("Out of gas"));
    a_response_that_is_too_large_is_split:
        Fault::error(-32000, "response size should not greater than 10485760 bytes");
    a_batch_that_is_too_large_is_split: Fault::error(-32000, "batch too large");
}

each! { stops_at_once:
    a_402_stops_at_once: Fault::status(402), "quota";
    a_monthly_capacity_that_is_used_up_stops_at_once:
        Fault::error(429, "Monthly capacity limit exceeded. Visit the dashboard"), "quota";
    a_monthly_capacity_that_is_used_up_stops_at_once_as_an_http_429_too:
        Fault::too_many_requests(1).with_body("Monthly capacity limit exceeded"), "quota";
    a_401_stops_at_once: Fault::status(401), "check the URL and its key";
    a_403_stops_at_once: Fault::status(403), "check the URL and its key";
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_with_retry_after_is_waited_for() {
    let stub = is_retried(Fault::too_many_requests(1), &[]).await;
    assert!(gap(&stub) >= Duration::from_secs(1), "{:?}", gap(&stub));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_that_a_429_asks_for_is_not_waited_for() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::too_many_requests(3_600), calls());
    let ran = refresh(4, &[]).node(stub.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("429"), "{}", ran.error());
    assert_eq!(stub.count("eth_call"), 1);
    assert!(nothing_is_stored(&database).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_that_is_a_date_does_no_harm() {
    let date = "Wed, 21 Oct 2015 07:28:00 GMT";
    is_retried(Fault::status(429).with_header("Retry-After", date), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn try_again_in_300ms_is_waited_for() {
    let stub = is_retried(Fault::error(-32005, "rate limited, try again in 300ms"), &[]).await;
    assert!(gap(&stub) >= Duration::from_millis(300), "{:?}", gap(&stub));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_hangs_is_given_up_after_timeout() {
    let stub = is_retried(Fault::Hang, &["--timeout", "1"]).await;
    assert!(gap(&stub) >= Duration::from_secs(1), "{:?}", gap(&stub));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_for_ever_is_an_error() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::Hang, calls());
    let options = ["--timeout", "1", "--retries", "0"];
    let ran = refresh(4, &options).node(stub.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("--timeout"), "{}", ran.error());
    assert!(nothing_is_stored(&database).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_word_that_makes_sense_blames_no_wallet() {
    for fault in [
        Fault::Short,
        Fault::Garbage,
        Fault::Answer(json!("0x")),
        Fault::Truncated,
        Fault::error(-32000, "header not found"),
    ] {
        let (_chain, stub) = node().await;
        let database = Database::sqlite();
        stub.fault(fault.clone(), calls());
        let options = ["--retries", "1"];
        let ran = refresh(4, &options).node(stub.url()).database(&database).run().expect(2);
        assert!(ran.error().contains(&stub.url()), "{fault:?}: {}", ran.error());
        assert!(nothing_is_stored(&database).await, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sub_calls_that_return_garbage_are_never_summed() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::GarbageReturns, calls().times(1));
    refresh(40, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(stored(&database).await, totals(0..40));

    let database = Database::sqlite();
    stub.clear();
    stub.fault(Fault::GarbageReturns, calls());
    let ran = refresh(40, &[]).node(stub.url()).database(&database).run().expect(2);
    // A wallet that holds nothing has no total either: it is the node or the profile.
    assert!(ran.error().contains("not even one that holds nothing"), "{}", ran.error());
    assert!(nothing_is_stored(&database).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn gas_for_ten_wallets_is_found_by_halving() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::OutOfGasAbove(30), calls());
    let ran = refresh(40, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(wallets_asked(&stub), [40, 20, 10, 10, 20, 10, 10]);
    assert_eq!(ran.json()["failed"], 0);
    assert_eq!(stored(&database).await, totals(0..40));
    assert!(unreadable(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_for_one_wallet_is_found_by_halving() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::ResponseTooLargeAbove(3), calls());
    refresh(7, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(stored(&database).await, totals(0..7));
    assert!(unreadable(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_found_by_halving() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::status(413), calls().larger_than(20_000));
    refresh(40, &[]).node(stub.url()).database(&database).run().expect(0);
    let passed = eth_calls(&stub).into_iter().filter(|seen| seen.answered == "passed");
    assert!(passed.map(|seen| seen.bytes).all(|bytes| bytes <= 20_000));
    assert!(eth_calls(&stub)[0].bytes > 20_000, "the first one was too large");
    assert_eq!(stored(&database).await, totals(0..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_no_gas_even_for_nothing_blames_no_wallet() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::error(-32000, "out of gas"), calls());
    let ran = refresh(4, &[]).node(stub.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("out of gas"), "{}", ran.error());
    assert!(nothing_is_stored(&database).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lags_is_passed_over_for_one_that_does_not() {
    let (chain, behind) = node().await;
    let well = Stub::in_front_of(&chain.url()).unwrap();
    chain.mine(3).await.unwrap();
    let urls = format!("{},{}", behind.url(), well.url());

    // It knows the head, and one of the machines behind it does not.
    let database = Database::sqlite();
    behind.fault(Fault::Lagging(2), calls());
    let ran = refresh(4, &[]).node(&urls).database(&database).run().expect(0);
    assert_eq!(ran.json()["block"], 3);
    assert_eq!((behind.count("eth_call"), well.count("eth_call")), (1, 1));
    assert_eq!(stored(&database).await, totals(0..4));

    // It lags altogether.
    let database = Database::sqlite();
    behind.fault(Fault::Lagging(2), When::always());
    well.forget();
    let ran = refresh(4, &["--block", "3"]).node(&urls).database(&database).run().expect(0);
    assert_eq!(ran.json()["block"], 3);
    assert_eq!(well.count("eth_call"), 1);
    assert_eq!(stored(&database).await, totals(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lags_alone_is_asked_until_it_has_caught_up() {
    let (chain, stub) = node().await;
    chain.mine(3).await.unwrap();
    let database = Database::sqlite();
    stub.fault(Fault::Lagging(2), calls().times(2));
    refresh(4, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(wallets_asked(&stub), [4, 4, 4]);
    let read_at = |seen: Seen| seen.params[1].clone();
    assert!(eth_calls(&stub).into_iter().map(read_at).all(|block| block == "0x3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_error_for_one_wallet_leaves_its_neighbours_alone() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    let poisoned = format!("{:#x}", wallet(5));
    stub.fault(Fault::error(-39999, "the stars are not right"), calls().mentioning(&poisoned));
    let ran = refresh(8, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!((&ran.json()["updated"], &ran.json()["failed"]), (&json!(7), &json!(1)));
    assert_eq!(
        ran.json()["wallets"][5],
        json!({"wallet": poisoned, "total": null, "read_block": null})
    );
    assert_eq!(stored(&database).await, totals((0..8).filter(|n| *n != 5)));
    let failures = database.sql("select wallet, last_error from eth_wallet_read_failures").await;
    assert_eq!(failures, [format!("{poisoned}|error -39999: the stars are not right")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_error_for_everything_blames_no_wallet() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::error(-39999, "the stars are not right"), calls());
    let ran = refresh(4, &[]).node(stub.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("the stars are not right"), "{}", ran.error());
    assert!(nothing_is_stored(&database).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_0_asks_once() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.script([Fault::status(503)], calls());
    let ran = refresh(4, &["--retries", "0"]).node(stub.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("503"), "{}", ran.error());
    assert_eq!(stub.count("eth_call"), 1);
    assert!(nothing_is_stored(&database).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_are_spent_are_an_error() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::status(503), calls());
    let ran = refresh(4, &["--retries", "2"]).node(stub.url()).database(&database).run().expect(2);
    assert_eq!(ran.error().matches("503").count(), 1, "{}", ran.error());
    assert_eq!(stub.count("eth_call"), 3);
    assert_eq!(ran.json()["calls"], 3);
    assert!(nothing_is_stored(&database).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_a_failure_is_stored() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    let last = format!("{:#x}", wallet(15));
    stub.fault(Fault::status(503), calls().mentioning(&last));
    let options = ["--chunk", "10", "--concurrency", "1", "--retries", "1"];
    let ran = refresh(30, &options).node(stub.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("503"), "{}", ran.error());
    assert_eq!(stored(&database).await, totals(0..10));
    assert!(unreadable(&database).await.is_empty());
    // A node that failed is not asked for the rest.
    assert_eq!(stub.count("eth_call"), 3);
    let said = ran.json();
    assert_eq!(
        (&said["requested"], &said["updated"], &said["failed"]),
        (&json!(30), &json!(10), &json!(0))
    );
    assert_eq!(said["wallets"][9]["total"], holdings(10).last().unwrap().total().to_string());
    assert_eq!(said["wallets"][15]["total"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_beside_a_failure_is_stored() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    let poisoned = format!("{:#x}", wallet(15));
    stub.fault(Fault::Delay(Duration::from_millis(300)), calls());
    stub.fault(Fault::status(503), calls().mentioning(&poisoned));
    let options = ["--chunk", "10", "--concurrency", "3", "--retries", "0"];
    refresh(30, &options).node(stub.url()).database(&database).run().expect(2);
    assert_eq!(stored(&database).await, totals((0..10).chain(20..30)));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_chunk_is_stored_when_the_other_half_fails() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    let poisoned = format!("{:#x}", wallet(7));
    stub.fault(Fault::OutOfGasAbove(15), calls());
    stub.fault(Fault::status(503), calls().mentioning(&poisoned));
    let ran = refresh(10, &["--retries", "0"]).node(stub.url()).database(&database).run().expect(2);
    assert_eq!(ran.json()["updated"], 5);
    assert_eq!(stored(&database).await, totals(0..5));
    assert!(unreadable(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_passed_over() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    let urls = format!("{},{}", Stub::dead(), stub.url());
    refresh(4, &[]).node(urls).database(&database).run().expect(0);
    assert_eq!(stored(&database).await, totals(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_endpoint_is_used_again_when_it_is_well() {
    let (chain, first) = node().await;
    let second = Stub::in_front_of(&chain.url()).unwrap();
    second.fault(Fault::Delay(Duration::from_millis(100)), calls());
    first.script([Fault::Reset], When::always());
    let database = Database::sqlite();
    let urls = format!("{},{}", first.url(), second.url());
    let options = ["--chunk", "1", "--concurrency", "1"];
    refresh(20, &options).node(urls).database(&database).run().expect(0);
    assert!(second.count("eth_call") > 0, "the second stands in");
    assert!(first.count("eth_call") > 0, "the first is back");
    let last = |stub: &Stub| eth_calls(stub).last().expect("one call").at;
    assert!(last(&first) > last(&second), "and stays");
    assert_eq!(stored(&database).await, totals(0..20));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_dead_endpoints_are_one_error() {
    let database = Database::sqlite();
    let urls = format!("{},{}", Stub::dead(), Stub::dead());
    let ran = refresh(4, &["--retries", "1"]).node(urls).database(&database).run().expect(2);
    assert!(ran.error().contains(&Stub::dead()), "{}", ran.error());
    assert!(ran.error().contains("no connection"), "{}", ran.error());
    assert!(ran.error().ends_with("Connection refused (os error 111)"), "{}", ran.error());
    assert!(nothing_is_stored(&database).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_quota_is_gone_is_not_asked_again() {
    let (chain, first) = node().await;
    let second = Stub::in_front_of(&chain.url()).unwrap();
    first.fault(Fault::status(402), calls());
    second.fault(Fault::Delay(Duration::from_millis(100)), calls());
    let database = Database::sqlite();
    let urls = format!("{},{}", first.url(), second.url());
    let options = ["--chunk", "1", "--concurrency", "1"];
    let ran = refresh(10, &options).node(urls).database(&database).run().expect(0);
    assert_eq!((first.count("eth_call"), second.count("eth_call")), (1, 10));
    assert_eq!(ran.stderr.matches("quota").count(), 1, "it is said once: {ran:?}");
    assert_eq!(stored(&database).await, totals(0..10));

    // With nothing left, the end.
    second.clear();
    second.fault(Fault::status(402), calls());
    let urls = format!("{},{}", first.url(), second.url());
    let ran = refresh(10, &options).node(urls).database(&database).run().expect(2);
    assert!(ran.error().contains("quota"), "{}", ran.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn rps_meters_every_request_of_all_endpoints() {
    const RPS: usize = 3;
    let (chain, first) = node().await;
    let second = Stub::in_front_of(&chain.url()).unwrap();
    first.fault(Fault::status(503), calls());
    second.script([Fault::status(503), Fault::Pass, Fault::Reset], calls());
    let database = Database::sqlite();
    let urls = format!("{},{}", first.url(), second.url());
    let options = ["--rps", "3", "--chunk", "1", "--retries", "9"];
    refresh(4, &options).node(urls).database(&database).run().expect(0);
    assert_eq!(stored(&database).await, totals(0..4));

    let mut times: Vec<_> =
        first.requests().iter().chain(&second.requests()).map(|seen| seen.at).collect();
    times.sort_unstable();
    // Five to look at each endpoint, one for the head, four calls, and the retries.
    assert!(times.len() >= 17, "{}", times.len());
    assert!(first.count("eth_call") > 0 && second.count("eth_call") > 0);
    for window in times.windows(RPS + 2) {
        let span = window[RPS + 1] - window[0];
        assert!(span >= Duration::from_secs(1), "{} requests in {span:?}", RPS + 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_holds_more_wallets_than_chunk() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    refresh(40, &["--chunk", "7"]).node(stub.url()).database(&database).run().expect(0);
    let mut asked = wallets_asked(&stub);
    asked.sort_unstable();
    assert_eq!(asked, [5, 7, 7, 7, 7, 7]);
    assert_eq!(stored(&database).await, totals(0..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_is_used_and_kept() {
    let delay = Duration::from_millis(400);
    for concurrency in [1, 3, 6] {
        let (_chain, stub) = node().await;
        let database = Database::sqlite();
        stub.fault(Fault::Delay(delay), calls());
        // A chunk that is halved has no more calls in flight than another.
        stub.fault(Fault::OutOfGasAbove(3), calls().times(2));
        let number = concurrency.to_string();
        let options = ["--chunk", "2", "--concurrency", &number];
        refresh(16, &options).node(stub.url()).database(&database).run().expect(0);
        let times: Vec<_> = eth_calls(&stub).into_iter().map(|seen| seen.at).collect();
        for window in times.windows(concurrency + 1) {
            let span = window[concurrency] - window[0];
            assert!(span >= delay, "{} calls in {span:?}", concurrency + 1);
        }
        assert!(stub.most_at_once() >= concurrency);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_the_eth_calls_that_were_sent() {
    let (chain, first) = node().await;
    let second = Stub::in_front_of(&chain.url()).unwrap();
    first.fault(Fault::OutOfGasAbove(9), calls().times(3));
    first.fault(Fault::status(503), calls().every(4).times(3));
    second.script([Fault::Reset], calls());
    let database = Database::sqlite();
    let urls = format!("{},{}", first.url(), second.url());
    let ran = refresh(40, &["--chunk", "5"]).node(urls).database(&database).run().expect(0);
    let sent = first.count("eth_call") + second.count("eth_call");
    assert!(second.count("eth_call") > 0 && sent > 8, "{sent}");
    assert_eq!(ran.json()["calls"], sent);
    assert_eq!(stored(&database).await, totals(0..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_chain_is_refused() {
    let (chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::ChainId(5), When::always());
    let ran = refresh(4, &[]).node(stub.url()).database(&database).run().expect(2);
    for word in [&*stub.url(), "chain 5", "chain 1", "--rpc-url", "--profile"] {
        assert!(ran.error().contains(word), "{word}: {}", ran.error());
    }
    assert_eq!(stub.count("eth_call"), 0);
    assert!(nothing_is_stored(&database).await);

    // The second endpoint is looked at before it is read from.
    let first = Stub::in_front_of(&chain.url()).unwrap();
    first.fault(Fault::status(503), calls());
    let urls = format!("{},{}", first.url(), stub.url());
    let ran = refresh(4, &[]).node(urls).database(&database).run().expect(2);
    for word in [&*stub.url(), "chain 5", "--rpc-url"] {
        assert!(ran.error().contains(word), "{word}: {}", ran.error());
    }
    assert_eq!((first.count("eth_call"), stub.count("eth_call")), (1, 0));
    assert!(nothing_is_stored(&database).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_code_is_refused() {
    for (address, name) in
        [(AUDIO, "balanceOf"), (STAKING, "totalStakedFor"), (MULTICALL3, "Multicall3")]
    {
        let (_chain, stub) = node().await;
        let database = Database::sqlite();
        stub.fault(Fault::NoCode, When::always().mentioning(&address.to_string()));
        let ran = refresh(4, &[]).node(stub.url()).database(&database).run().expect(2);
        for word in [&*stub.url(), &address.to_string(), name, "no code", "profile", "--block"] {
            assert!(ran.error().contains(word), "{word}: {}", ran.error());
        }
        assert_eq!(stub.count("eth_call"), 0);
        assert!(nothing_is_stored(&database).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_a_batch_is_pinned_to_one_block() {
    let (chain, stub) = node().await;
    let database = Database::sqlite();
    chain.mine(2).await.unwrap();
    stub.fault(Fault::Delay(Duration::from_millis(50)), calls());
    stub.script([Fault::Pass, Fault::status(503), Fault::error(-32000, "out of gas")], calls());
    let options = ["--chunk", "2", "--concurrency", "2"];
    let running = refresh(40, &options).node(stub.url()).database(&database).start();
    // The chain goes on meanwhile, and a wallet that was asked for gets something.
    crate::harness::eventually("the first call", || stub.count("eth_call") > 0);
    chain.mint(wallet(39), U256::from(1)).await.unwrap();
    let ran = running.wait().expect(0);
    assert_eq!(ran.json()["block"], 2);
    let blocks: Vec<_> = eth_calls(&stub).into_iter().map(|seen| seen.params[1].clone()).collect();
    assert!(blocks.len() > 20 && blocks.iter().all(|block| block == "0x2"), "{blocks:?}");
    assert_eq!(stored(&database).await, totals(0..40));
    let read_blocks = database.sql("select distinct read_block from eth_wallet_balances").await;
    assert_eq!(read_blocks, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn block_says_at_which_block_is_read() {
    let (chain, stub) = node().await;
    let receiver = wallet(3);
    let before = chain.total(receiver).await.unwrap();
    chain.transfer(wallet(0), receiver, U256::from(17)).await.unwrap();
    chain.mine(99).await.unwrap();
    chain.mint(receiver, U256::from(4)).await.unwrap();
    let after = before + U256::from(17);
    let tagged = async |tag: &str| {
        let tag: alloy::eips::BlockNumberOrTag = tag.parse().unwrap();
        use alloy::providers::Provider;
        chain.provider().get_block_by_number(tag).await.unwrap().unwrap().header.number
    };
    let (safe, finalized) = (tagged("safe").await, tagged("finalized").await);
    assert!(0 < finalized && finalized < safe && safe < 101, "{finalized} {safe}");

    for (choice, block, total) in [
        ("0", 0, before),
        ("1", 1, after),
        ("0x64", 100, after),
        ("finalized", finalized, after),
        ("safe", safe, after),
        ("latest", 101, after + U256::from(4)),
    ] {
        stub.forget();
        let database = Database::sqlite();
        let address = format!("{receiver:#x}");
        let ran = ethtally(["refresh", "--json", "--block", choice, &address])
            .node(stub.url())
            .database(&database)
            .run()
            .expect(0);
        assert_eq!(
            ran.json()["wallets"][0],
            json!({"wallet": address, "total": total.to_string(), "read_block": block}),
            "{choice}"
        );
        assert_eq!(eth_calls(&stub)[0].params[1], format!("{block:#x}"), "{choice}");
        assert_eq!(
            database.value("select read_block from eth_wallet_balances").await,
            block.to_string()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_beyond_the_head_is_an_error() {
    let (chain, stub) = node().await;
    let database = Database::sqlite();
    for upstream in [chain.url(), stub.url()] {
        // As Anvil says it, and as others do.
        stub.fault(Fault::Lagging(0), When::always());
        let options = ["--block", "1000", "--retries", "1"];
        let ran = refresh(4, &options).node(upstream).database(&database).run().expect(2);
        assert!(ran.error().contains("--block"), "{}", ran.error());
        assert!(nothing_is_stored(&database).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_without_a_safe_block_is_an_error() {
    let (_chain, stub) = node().await;
    let database = Database::sqlite();
    stub.fault(Fault::Answer(Value::Null), When::method("eth_getBlockByNumber"));
    let options = ["--block", "safe", "--retries", "0"];
    let ran = refresh(4, &options).node(stub.url()).database(&database).run().expect(2);
    assert!(ran.error().contains("no safe block"), "{}", ran.error());
    assert!(nothing_is_stored(&database).await);
}
