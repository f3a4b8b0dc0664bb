//! Node failures: each kind gets the right reaction, and no total is wrong.

use std::time::Duration;

use alloy::primitives::U256;
use ethtally_testbed::{
    contracts::{AUDIO, MULTICALL3, STAKING},
    genesis::holdings,
    stub::{Fault, RecordedRequest, Stub, When},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::{chain_and_stub, stub_of},
    database::Database,
    program::{Ethtally, ethtally, eventually, refresh_first},
    requests::chunk_sizes,
    table::{assert_nothing_stored, read_failures, stored_totals},
    wallets::{address, genesis_totals},
};

/// The number of wallets in each `eth_call`, in order.
fn wallets_per_call(stub: &Stub) -> Vec<usize> {
    chunk_sizes(stub).into_iter().map(|(wallets, _)| wallets).collect()
}

/// The time between the first `eth_call` and the second.
fn gap(stub: &Stub) -> Duration {
    let calls = stub.eth_calls();
    calls[1].at - calls[0].at
}

/// Prepares `refresh` of four wallets with this reader.
fn refresh_with(reader: &str, options: &[&str]) -> Ethtally {
    refresh_first(4, &[&["--reader", reader], options].concat())
}

/// One `eth_call` gets the fault; asserts that the same call is retried and succeeds.
async fn is_retried(reader: &str, fault: Fault, options: &[&str]) -> Stub {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.script([fault], When::eth_call());
    let ran = refresh_with(reader, options).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(wallets_per_call(&stub), [4, 4]);
    assert_eq!(ran.json()["calls"], 2);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
    assert!(read_failures(&database).await.is_empty());
    stub
}

/// One `eth_call` gets the fault; asserts that its two halves are sent and succeed.
async fn is_split(reader: &str, fault: Fault) {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.script([fault], When::eth_call());
    let ran = refresh_with(reader, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(wallets_per_call(&stub), [4, 2, 2]);
    assert_eq!(ran.json()["calls"], 3);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
    assert!(read_failures(&database).await.is_empty());
}

/// Every `eth_call` gets the fault; asserts that one call is sent and no other.
async fn stops_at_once(reader: &str, fault: Fault, says: &str) {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(fault.clone(), When::eth_call());
    let ran = refresh_with(reader, &[]).node(stub.url()).database(&database).run().expect(3);
    assert!(ran.error().contains(says), "{}", ran.error());
    assert!(ran.error().contains(&stub.url()), "{}", ran.error());
    assert_eq!(stub.count("eth_call"), 1);
    assert_nothing_stored(&database).await;

    // The same in the first request of all.
    stub.clear();
    stub.forget();
    stub.fault(fault, When::always());
    let ran = refresh_with(reader, &[]).node(stub.url()).database(&database).run().expect(3);
    assert!(ran.error().contains(says), "{}", ran.error());
    assert_eq!(stub.requests().len(), 1);
}

/// Makes a test of each row and reader. The rows are kinds of failures; the wordings of providers are in the unit
/// tests of `src`.
macro_rules! with_both_readers {
    ($reaction:ident: $($name:ident: $fault:expr $(, $more:expr)*;)*) => {
        $(mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn multicall3() {
                $reaction("multicall3", $fault $(, $more)*).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn packed() {
                $reaction("packed", $fault $(, $more)*).await;
            }
        })*
    };
}

with_both_readers! { is_retried:
    a_429_without_details_is_retried: Fault::status(429), &[];
    a_429_with_a_json_error_in_its_body_is_retried:
        Fault::status(429).with_body(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"slow"}}"#), &[];
    a_rate_limit_in_an_http_200_is_retried: Fault::error(-32005, "rate limited, try again in 4ms"), &[];
    a_502_with_an_html_page_is_retried: Fault::bad_gateway(), &[];
    a_504_is_retried: Fault::status(504), &[];
    truncated_json_is_retried: Fault::Truncated, &[];
    a_response_that_is_not_json_is_retried: Fault::NotJson, &[];
    a_response_that_is_cut_short_is_retried: Fault::BrokenOff, &[];
    a_connection_that_is_reset_is_retried: Fault::Reset, &[];
    a_null_result_is_retried: Fault::Answer(Value::Null), &[];
    header_not_found_is_retried: Fault::error(-32000, "header not found"), &[];
}

with_both_readers! { is_split:
    a_413_is_split: Fault::status(413);
    out_of_gas_is_split: Fault::error(-32000, "out of gas: gas required exceeds: 50000000");
    out_of_gas_in_the_data_is_split:
        Fault::error(-32015, "VM execution error.").with_data(json!("Out of gas"));
}

with_both_readers! { stops_at_once:
    a_402_stops_at_once: Fault::status(402), "quota";
    an_exhausted_monthly_capacity_stops_at_once:
        Fault::error(429, "Monthly capacity limit exceeded. Visit the dashboard"), "quota";
    an_exhausted_monthly_capacity_as_http_429_stops_at_once:
        Fault::too_many_requests(1).with_body("Monthly capacity limit exceeded"), "quota";
    a_401_stops_at_once: Fault::status(401), "check the URL and its key";
}

#[tokio::test(flavor = "multi_thread")]
async fn code_32016_is_retried() {
    is_retried("multicall3", Fault::error(-32016, "you are over the rate limit"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_one_element_short_is_retried() {
    is_retried("multicall3", Fault::Short, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_garbage_is_retried() {
    is_retried("multicall3", Fault::Garbage, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_respected() {
    let stub = is_retried("multicall3", Fault::too_many_requests(1), &[]).await;
    assert!(gap(&stub) >= Duration::from_secs(1), "{:?}", gap(&stub));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_of_an_hour_is_an_error() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::too_many_requests(3_600), When::eth_call());
    let ran = refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(3);
    assert!(ran.error().contains("429"), "{}", ran.error());
    assert_eq!(stub.count("eth_call"), 1);
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_with_a_date_in_the_past_is_ignored() {
    let date = "Wed, 21 Oct 2015 07:28:00 GMT";
    is_retried("multicall3", Fault::status(429).with_header("Retry-After", date), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn try_again_in_300ms_is_respected() {
    let stub =
        is_retried("multicall3", Fault::error(-32005, "rate limited, try again in 300ms"), &[])
            .await;
    assert!(gap(&stub) >= Duration::from_millis(300), "{:?}", gap(&stub));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_request_is_retried_after_timeout() {
    let stub = is_retried("multicall3", Fault::Hang, &["--timeout", "1"]).await;
    assert!(gap(&stub) >= Duration::from_secs(1), "{:?}", gap(&stub));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_always_hangs_is_an_error() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::Hang, When::eth_call());
    let options = ["--timeout", "1", "--retries", "0"];
    let ran = refresh_first(4, &options).node(stub.url()).database(&database).run().expect(3);
    assert!(ran.error().contains("--timeout"), "{}", ran.error());
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_responses_are_not_blamed_on_wallets() {
    for fault in [
        Fault::Short,
        Fault::Garbage,
        Fault::Answer(json!("0x")),
        Fault::Truncated,
        Fault::error(-32000, "header not found"),
    ] {
        let (_chain, stub) = chain_and_stub().await;
        let database = Database::sqlite();
        stub.fault(fault.clone(), When::eth_call());
        let options = ["--retries", "1"];
        let ran = refresh_first(4, &options).node(stub.url()).database(&database).run().expect(3);
        assert!(ran.error().contains(&stub.url()), "{fault:?}: {}", ran.error());
        assert_nothing_stored(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sub_calls_that_return_garbage_are_never_summed() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::GarbageReturns, When::eth_call().times(1));
    refresh_first(40, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..40));

    let database = Database::sqlite();
    stub.clear();
    stub.fault(Fault::GarbageReturns, When::eth_call());
    // Not even where it ran can be told from such an answer.
    let options = ["--retries", "1"];
    let ran = refresh_first(40, &options).node(stub.url()).database(&database).run().expect(3);
    assert!(ran.error().contains(&stub.url()), "{}", ran.error());
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gas_limit_of_ten_wallets_is_found_by_halving() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::OutOfGasAbove(30), When::eth_call());
    let ran = refresh_first(40, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(wallets_per_call(&stub), [40, 20, 10, 10, 20, 10, 10]);
    assert_eq!(ran.json()["failed"], 0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..40));
    assert!(read_failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_limit_of_one_wallet_is_found_by_halving() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::ResponseTooLargeAbove(3), When::eth_call());
    refresh_first(7, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..7));
    assert!(read_failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_request_size_is_found_by_halving() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::status(413), When::eth_call().larger_than(20_000));
    refresh_first(40, &[]).node(stub.url()).database(&database).run().expect(0);
    let passed = stub.eth_calls().into_iter().filter(|seen| seen.answered == "passed");
    assert!(passed.map(|seen| seen.bytes).all(|bytes| bytes <= 20_000));
    assert!(stub.eth_calls()[0].bytes > 20_000, "the first call was too large");
    assert_eq!(stored_totals(&database).await, genesis_totals(0..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_gas_even_for_one_wallet_is_not_blamed_on_wallets() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::error(-32000, "out of gas"), When::eth_call());
    let ran = refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(3);
    assert!(ran.error().contains("out of gas"), "{}", ran.error());
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_endpoint_fails_over_to_the_next() {
    let (chain, behind) = chain_and_stub().await;
    let well = stub_of(&chain);
    chain.mine(3).await.unwrap();
    let urls = format!("{},{}", behind.url(), well.url());

    // It knows the head, but a machine behind it does not.
    let database = Database::sqlite();
    behind.fault(Fault::Lagging(2), When::eth_call());
    let ran = refresh_first(4, &[]).node(&urls).database(&database).run().expect(0);
    assert_eq!(ran.json()["block"], 3);
    assert_eq!((behind.count("eth_call"), well.count("eth_call")), (1, 1));
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));

    // All of it lags.
    let database = Database::sqlite();
    behind.fault(Fault::Lagging(2), When::always());
    well.forget();
    let ran = refresh_first(4, &["--block", "3"]).node(&urls).database(&database).run().expect(0);
    assert_eq!(ran.json()["block"], 3);
    assert_eq!(well.count("eth_call"), 1);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_lagging_endpoint_is_retried_until_it_has_caught_up() {
    let (chain, stub) = chain_and_stub().await;
    chain.mine(3).await.unwrap();
    let database = Database::sqlite();
    stub.fault(Fault::Lagging(2), When::eth_call().times(2));
    refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(wallets_per_call(&stub), [4, 4, 4]);
    let read_at = |seen: RecordedRequest| seen.params[1].clone();
    assert!(stub.eth_calls().into_iter().map(read_at).all(|block| block == "0x3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_error_for_one_wallet_fails_only_that_wallet() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    let failing = address(5);
    stub.fault(
        Fault::error(-39999, "an error that nobody knows"),
        When::eth_call().mentioning(&failing),
    );
    let ran = refresh_first(8, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!((&ran.json()["updated"], &ran.json()["failed"]), (&json!(7), &json!(1)));
    assert_eq!(
        ran.json()["wallets"][5],
        json!({"wallet": failing, "total": null, "read_block": null})
    );
    assert_eq!(stored_totals(&database).await, genesis_totals((0..8).filter(|n| *n != 5)));
    let failures = database.sql("select wallet, last_error from eth_wallet_read_failures").await;
    assert_eq!(failures, [format!("{failing}|error -39999: an error that nobody knows")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_error_for_every_call_is_not_blamed_on_wallets() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::error(-39999, "an error that nobody knows"), When::eth_call());
    let ran = refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(3);
    assert!(ran.error().contains("an error that nobody knows"), "{}", ran.error());
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_0_sends_one_request() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.script([Fault::status(503)], When::eth_call());
    let ran =
        refresh_first(4, &["--retries", "0"]).node(stub.url()).database(&database).run().expect(3);
    assert!(ran.error().contains("503"), "{}", ran.error());
    assert_eq!(stub.count("eth_call"), 1);
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_retries_are_an_error() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::status(503), When::eth_call());
    let ran =
        refresh_first(4, &["--retries", "2"]).node(stub.url()).database(&database).run().expect(3);
    assert_eq!(ran.error().matches("503").count(), 1, "{}", ran.error());
    // The wallets' call, and the canary's.
    assert_eq!(stub.count("eth_call"), 6);
    assert_eq!(ran.json()["calls"], 6);
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_read_before_a_failure_are_stored() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    let last = address(15);
    stub.fault(Fault::status(503), When::eth_call().mentioning(&last));
    let options = ["--chunk", "10", "--concurrency", "1", "--retries", "0"];
    let ran = refresh_first(30, &options).node(stub.url()).database(&database).run().expect(3);
    assert!(ran.error().contains("503"), "{}", ran.error());
    assert_eq!(stored_totals(&database).await, genesis_totals(0..10));
    assert!(read_failures(&database).await.is_empty());
    // A failed node gets no more calls.
    assert_eq!(stub.count("eth_call"), 2);
    let said = ran.json();
    assert_eq!(
        (&said["requested"], &said["updated"], &said["failed"]),
        (&json!(30), &json!(10), &json!(0))
    );
    assert_eq!(said["wallets"][9]["total"], holdings(10).last().unwrap().total().to_string());
    assert_eq!(said["wallets"][15]["total"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_in_flight_during_a_failure_are_stored() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    let failing = address(15);
    stub.fault(Fault::Delay(Duration::from_millis(300)), When::eth_call());
    stub.fault(Fault::status(503), When::eth_call().mentioning(&failing));
    let options = ["--chunk", "10", "--concurrency", "3", "--retries", "0"];
    refresh_first(30, &options).node(stub.url()).database(&database).run().expect(3);
    assert_eq!(stored_totals(&database).await, genesis_totals((0..10).chain(20..30)));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_chunk_is_stored_when_the_other_half_fails() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    let failing = address(7);
    stub.fault(Fault::OutOfGasAbove(15), When::eth_call());
    stub.fault(Fault::status(503), When::eth_call().mentioning(&failing));
    let ran =
        refresh_first(10, &["--retries", "0"]).node(stub.url()).database(&database).run().expect(3);
    assert_eq!(ran.json()["updated"], 5);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..5));
    assert!(read_failures(&database).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_fails_over() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    let urls = format!("{},{}", Stub::dead(), stub.url());
    refresh_first(4, &[]).node(urls).database(&database).run().expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_endpoint_is_used_again_after_it_recovers() {
    let (chain, first) = chain_and_stub().await;
    let second = stub_of(&chain);
    second.fault(Fault::Delay(Duration::from_millis(100)), When::eth_call());
    // One failure is retried where it happened.
    first.script([Fault::Reset, Fault::Reset], When::always());
    let database = Database::sqlite();
    let urls = format!("{},{}", first.url(), second.url());
    let options = ["--chunk", "1", "--concurrency", "1"];
    refresh_first(20, &options).node(urls).database(&database).run().expect(0);
    assert!(second.count("eth_call") > 0, "the second takes over");
    assert!(first.count("eth_call") > 0, "the first is back");
    let last = |stub: &Stub| stub.eth_calls().last().expect("one call").at;
    assert!(last(&first) > last(&second), "and is used to the end");
    assert_eq!(stored_totals(&database).await, genesis_totals(0..20));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_dead_endpoints_are_one_error() {
    let database = Database::sqlite();
    let urls = format!("{},{}", Stub::dead(), Stub::dead());
    let ran = refresh_first(4, &["--retries", "1"]).node(urls).database(&database).run().expect(3);
    assert!(ran.error().contains(&Stub::dead()), "{}", ran.error());
    assert!(ran.error().contains("no connection"), "{}", ran.error());
    assert!(ran.error().ends_with("Connection refused (os error 111)"), "{}", ran.error());
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_quota_is_not_used_again() {
    let (chain, first) = chain_and_stub().await;
    let second = stub_of(&chain);
    first.fault(Fault::status(402), When::eth_call());
    second.fault(Fault::Delay(Duration::from_millis(100)), When::eth_call());
    let database = Database::sqlite();
    let urls = format!("{},{}", first.url(), second.url());
    let options = ["--chunk", "1", "--concurrency", "1"];
    let ran = refresh_first(10, &options).node(urls).database(&database).run().expect(0);
    assert_eq!((first.count("eth_call"), second.count("eth_call")), (1, 10));
    assert_eq!(ran.stderr.matches("quota").count(), 1, "reported once: {ran:?}");
    assert_eq!(stored_totals(&database).await, genesis_totals(0..10));

    // With no endpoint left, it is an error.
    second.clear();
    second.fault(Fault::status(402), When::eth_call());
    let urls = format!("{},{}", first.url(), second.url());
    let ran = refresh_first(10, &options).node(urls).database(&database).run().expect(3);
    assert!(ran.error().contains("quota"), "{}", ran.error());
}

#[tokio::test(flavor = "multi_thread")]
async fn rps_limits_all_requests_to_all_endpoints() {
    const RPS: usize = 3;
    let (chain, first) = chain_and_stub().await;
    let second = stub_of(&chain);
    first.fault(Fault::status(503), When::eth_call());
    second.script([Fault::status(503), Fault::Pass, Fault::Reset], When::eth_call());
    let database = Database::sqlite();
    let urls = format!("{},{}", first.url(), second.url());
    let options = ["--rps", "3", "--chunk", "1", "--retries", "9"];
    refresh_first(4, &options).node(urls).database(&database).run().expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));

    let mut times: Vec<_> =
        first.requests().iter().chain(&second.requests()).map(|seen| seen.at).collect();
    times.sort_unstable();
    // Five to check each endpoint, one for the head, four calls, and the retries.
    assert!(times.len() >= 17, "{}", times.len());
    assert!(first.count("eth_call") > 0 && second.count("eth_call") > 0);
    for window in times.windows(RPS + 2) {
        let span = window[RPS + 1] - window[0];
        assert!(span >= Duration::from_secs(1), "{} requests in {span:?}", RPS + 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_holds_more_wallets_than_chunk() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    refresh_first(40, &["--chunk", "7"]).node(stub.url()).database(&database).run().expect(0);
    let mut asked = wallets_per_call(&stub);
    asked.sort_unstable();
    assert_eq!(asked, [5, 7, 7, 7, 7, 7]);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_is_used_and_not_exceeded() {
    let delay = Duration::from_millis(400);
    for concurrency in [1, 3, 6] {
        let (_chain, stub) = chain_and_stub().await;
        let database = Database::sqlite();
        stub.fault(Fault::Delay(delay), When::eth_call());
        // A halved chunk has no more calls in flight than another.
        stub.fault(Fault::OutOfGasAbove(3), When::eth_call().times(2));
        let number = concurrency.to_string();
        let options = ["--chunk", "2", "--concurrency", &number];
        refresh_first(16, &options).node(stub.url()).database(&database).run().expect(0);
        let times: Vec<_> = stub.eth_calls().into_iter().map(|seen| seen.at).collect();
        for window in times.windows(concurrency + 1) {
            let span = window[concurrency] - window[0];
            assert!(span >= delay, "{} calls in {span:?}", concurrency + 1);
        }
        assert!(stub.max_in_flight() >= concurrency);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_counts_the_eth_calls_sent() {
    let (chain, first) = chain_and_stub().await;
    let second = stub_of(&chain);
    first.fault(Fault::OutOfGasAbove(9), When::eth_call().times(3));
    first.fault(Fault::status(503), When::eth_call().every(4).times(3));
    second.script([Fault::Reset], When::eth_call());
    let database = Database::sqlite();
    let urls = format!("{},{}", first.url(), second.url());
    let ran = refresh_first(40, &["--chunk", "5"]).node(urls).database(&database).run().expect(0);
    let sent = first.count("eth_call") + second.count("eth_call");
    assert!(second.count("eth_call") > 0 && sent > 8, "{sent}");
    assert_eq!(ran.json()["calls"], sent);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_chain_is_refused() {
    let (chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.fault(Fault::ChainId(5), When::always());
    let ran = refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(2);
    for word in [&*stub.url(), "chain 5", "chain 1", "--rpc-url", "--profile"] {
        assert!(ran.error().contains(word), "{word}: {}", ran.error());
    }
    assert_eq!(stub.count("eth_call"), 0);
    assert_nothing_stored(&database).await;

    // The second endpoint is checked before it is used.
    let first = stub_of(&chain);
    first.fault(Fault::status(503), When::eth_call());
    let urls = format!("{},{}", first.url(), stub.url());
    let options = ["--retries", "1"];
    let ran = refresh_first(4, &options).node(urls).database(&database).run().expect(3);
    for word in [&*first.url(), "503", &*stub.url(), "chain 5", "--rpc-url"] {
        assert!(ran.error().contains(word), "{word}: {}", ran.error());
    }
    assert_eq!(stub.count("eth_call"), 0);
    assert_nothing_stored(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_code_is_refused() {
    for (address, name) in
        [(AUDIO, "balanceOf"), (STAKING, "totalStakedFor"), (MULTICALL3, "Multicall3")]
    {
        let (_chain, stub) = chain_and_stub().await;
        let database = Database::sqlite();
        stub.fault(Fault::NoCode, When::always().mentioning(&address.to_string()));
        let ran = refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(2);
        for word in [&*stub.url(), &address.to_string(), name, "no code", "profile", "--block"] {
            assert!(ran.error().contains(word), "{word}: {}", ran.error());
        }
        assert_eq!(stub.count("eth_call"), 0);
        assert_nothing_stored(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_a_batch_is_pinned_to_one_block() {
    let (chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    chain.mine(2).await.unwrap();
    stub.fault(Fault::Delay(Duration::from_millis(50)), When::eth_call());
    stub.script(
        [Fault::Pass, Fault::status(503), Fault::error(-32000, "out of gas")],
        When::eth_call(),
    );
    let options = ["--chunk", "2", "--concurrency", "2"];
    let running = refresh_first(40, &options).node(stub.url()).database(&database).start();
    // Meanwhile the chain grows, and one of the wallets receives tokens.
    eventually("the first call", || stub.count("eth_call") > 0);
    chain.mint(wallet(39), U256::from(1)).await.unwrap();
    let ran = running.wait().expect(0);
    assert_eq!(ran.json()["block"], 2);
    let blocks: Vec<_> = stub.eth_calls().into_iter().map(|seen| seen.params[1].clone()).collect();
    assert!(blocks.len() > 20 && blocks.iter().all(|block| block == "0x2"), "{blocks:?}");
    assert_eq!(stored_totals(&database).await, genesis_totals(0..40));
    let read_blocks = database.sql("select distinct read_block from eth_wallet_balances").await;
    assert_eq!(read_blocks, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn block_selects_the_block_to_read() {
    let (chain, stub) = chain_and_stub().await;
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
        assert_eq!(stub.eth_calls()[0].params[1], format!("{block:#x}"), "{choice}");
        assert_eq!(
            database.value("select read_block from eth_wallet_balances").await,
            block.to_string()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_beyond_the_head_is_an_error() {
    let (chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    for upstream in [chain.url(), stub.url()] {
        // With Anvil's error, and with that of other nodes.
        stub.fault(Fault::Lagging(0), When::always());
        let options = ["--block", "1000", "--retries", "1"];
        let ran = refresh_first(4, &options).node(upstream).database(&database).run().expect(3);
        assert!(ran.error().contains("--block"), "{}", ran.error());
        assert_nothing_stored(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_without_a_safe_block_is_an_error() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    let asked = When::method("eth_getBlockByNumber").mentioning("safe");
    stub.fault(Fault::Answer(Value::Null), asked);
    let options = ["--block", "safe", "--retries", "0"];
    let ran = refresh_first(4, &options).node(stub.url()).database(&database).run().expect(3);
    assert!(ran.error().contains("no safe block"), "{}", ran.error());
    assert_nothing_stored(&database).await;
}
