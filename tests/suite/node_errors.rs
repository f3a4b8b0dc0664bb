//! What a node says is read by status first, and as its own words; what is stored and shown of it is clean and short.

use std::time::Duration;

use ethtally_testbed::stub::{Fault, Stub, When};
use serde_json::{Value, json};

use crate::support::{
    chains::{chain_and_stub, stub_of},
    database::{Database, on_both_databases},
    program::{Output, refresh_first},
    table::{assert_nothing_stored, read_failures, stored_totals},
    wallets::{address, genesis_totals},
};

/// The exit status where no endpoint could be read.
const NODE_FAILED: i32 = 3;

on_both_databases! {
    a_poisoned_message_of_one_wallet_leaves_the_others_stored
}

async fn a_poisoned_message_of_one_wallet_leaves_the_others_stored(database: Database) {
    let (_chain, stub) = chain_and_stub().await;
    let failing = address(7);
    let poison = format!(
        "cannot\0 do \u{1b}[31mthis\u{1b}[0m\r\n \u{202e}evil\u{200b} {}",
        "x".repeat(3 << 20)
    );
    stub.fault(Fault::error(-39999, &poison), When::eth_call().mentioning(&failing));
    let ran = refresh_first(100, &["-v"]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!((&ran.json()["updated"], &ran.json()["failed"]), (&json!(99), &json!(1)));
    assert_eq!(stored_totals(&database).await, genesis_totals((0..100).filter(|n| *n != 7)));
    let reason = read_failures(&database).await.remove(&failing).expect("a reason");
    assert!(reason.starts_with("error -39999: cannot do this evil xxx"), "{reason}");
    assert_eq!(reason.chars().count(), 1_000);
    assert_clean(&ran);
}

/// Asserts that nothing on stdout and stderr is a control character, or a line of many kilobytes.
fn assert_clean(ran: &Output) {
    for stream in [&ran.stdout, &ran.stderr] {
        let is_poison =
            |c: char| c.is_control() && c != '\n' || matches!(c, '\u{200b}' | '\u{202e}');
        assert!(!stream.contains(is_poison), "{stream:?}");
        assert!(stream.lines().all(|line| line.len() < 30_000), "{}", stream.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_surrogate_in_a_message_is_no_obstacle() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    let failing = address(1);
    let body = r#"{"jsonrpc":"2.0","error":{"code":-39999,"message":"odd \ud83d half"}}"#;
    let fault = Fault::Status { status: 200, headers: Vec::new(), body: body.to_owned() };
    stub.fault(fault, When::eth_call().mentioning(&failing));
    refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals([0, 2, 3]));
    assert_eq!(read_failures(&database).await[&failing], "error -39999: odd \u{fffd} half");
}

/// One call of all gets the fault; asserts that it is split at once, as a revert is, and not retried.
async fn is_taken_for_a_revert(fault: Fault) {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.script([fault.clone()], When::eth_call());
    refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(0);
    assert_eq!(stub.count("eth_call"), 3, "{fault:?}: the call and its halves");
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_contract_says_never_classifies() {
    for fault in [
        Fault::error(3, "execution reverted: rate limit"),
        Fault::error(-32000, "execution reverted: monthly capacity limit exceeded"),
        Fault::error(
            -32603,
            "Error: VM Exception while processing transaction: reverted with reason string 'unauthorized'",
        ),
        Fault::error(-32603, "Transaction reverted without a reason string"),
        Fault::error(-32015, "VM execution error.").with_data(json!("Reverted 0x08c379a0")),
    ] {
        is_taken_for_a_revert(fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_status_fails_over_whatever_its_code_says() {
    let body = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32002,"message":"rejected due to project ID settings"}}"#;
    for status in [401, 403] {
        let (chain, first) = chain_and_stub().await;
        let second = stub_of(&chain);
        first.fault(Fault::status(status).with_body(body), When::eth_call());
        let database = Database::sqlite();
        let urls = format!("{},{}", first.url(), second.url());
        let ran = refresh_first(4, &[]).node(urls).database(&database).run().expect(0);
        assert_eq!((first.count("eth_call"), second.count("eth_call")), (1, 1));
        assert!(ran.stderr.contains("rejected due to project ID settings"), "{ran:?}");
        assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_in_hosts_paths_and_pages_are_not_the_nodes() {
    for fault in [
        Fault::error(-32603, "no route to /security"),
        Fault::error(-32603, "GET https://too-many-requests.example/payment required"),
        Fault::status(502).with_body("<html><body>payment required</body></html>"),
        Fault::status(502).with_body("out of gas"),
    ] {
        let (_chain, stub) = chain_and_stub().await;
        let database = Database::sqlite();
        stub.script([fault.clone()], When::eth_call());
        refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(0);
        assert_eq!(stub.count("eth_call"), 2, "{fault:?}: retried, and neither split nor given up");
    }
}

async fn refused(stub: &Stub) -> String {
    let database = Database::sqlite();
    let node = stub.url_with_path("/v2/SECRETKEY0123456789");
    let ran = refresh_first(4, &["-vv"]).node(node).database(&database).run().expect(NODE_FAILED);
    assert_nothing_stored(&database).await;
    assert!(!format!("{ran:?}").contains("KEY0123456789"), "{ran:?}");
    ran.error().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_and_names_where_it_points() {
    let (chain, stub) = chain_and_stub().await;
    let elsewhere = stub_of(&chain);
    for status in [301, 302, 307, 308] {
        stub.clear();
        let location = elsewhere.url_with_path("/v2/OTHERKEY0123456789");
        stub.fault(Fault::status(status).with_header("Location", &location), When::always());
        let error = refused(&stub).await;
        let expected = format!(
            "HTTP {status}: redirects to {}, which is not followed; give that endpoint as --rpc-url",
            elsewhere.url()
        );
        assert!(error.contains(&expected), "{error}");
    }
    stub.clear();
    stub.fault(Fault::status(301).with_header("Location", "/login"), When::always());
    let error = refused(&stub).await;
    assert!(error.contains("redirects to another path"), "{error}");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_of_a_gateway_is_shown() {
    let (_chain, stub) = chain_and_stub().await;
    for (fault, shown) in [
        (Fault::status(403).with_body(r#"{"message":"your plan ended"}"#), "your plan ended"),
        (Fault::status(401).with_body(r#"{"error":"who are you?"}"#), "who are you?"),
        (Fault::status(403).with_body("<html><title>Blocked</title></html>"), "Forbidden: Blocked"),
    ] {
        stub.clear();
        stub.fault(fault, When::always());
        let error = refused(&stub).await;
        assert!(error.contains(shown), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_that_a_gateway_mixes_up_give_no_wrong_row() {
    for fault in [Fault::ResponseBefore, Fault::WithId(json!(1)), Fault::WithId(Value::Null)] {
        let (_chain, stub) = chain_and_stub().await;
        let database = Database::sqlite();
        stub.fault(fault.clone(), When::eth_call().after(1).every(3));
        let options = ["--chunk", "2", "--concurrency", "2"];
        refresh_first(40, &options).node(stub.url()).database(&database).run().expect(0);
        assert_eq!(stored_totals(&database).await, genesis_totals(0..40), "{fault:?}");
        assert!(read_failures(&database).await.is_empty());
    }
}

/// One `eth_call` gets the fault; asserts that the next comes after the wait.
async fn is_waited_for(fault: Fault, wait: Duration) {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.script([fault.clone()], When::eth_call());
    refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(0);
    let calls = stub.eth_calls();
    assert_eq!(calls.len(), 2, "{fault:?}");
    assert!(calls[1].at - calls[0].at >= wait, "{fault:?}: {:?}", calls[1].at - calls[0].at);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_in_any_usual_form_is_heeded() {
    let limited = || Fault::error(-32005, "project ID request rate exceeded");
    for (fault, milliseconds) in [
        (limited().with_data(json!({ "rate": { "backoff_seconds": 1 } })), 1_000),
        (limited().with_data(json!({ "try_again_in": "900ms" })), 900),
        (Fault::error(-32005, "rate limit; please wait 1 second"), 1_000),
        (Fault::status(429).with_header("x-ratelimit-reset", "1"), 1_000),
        (Fault::status(429).with_header("ratelimit", "\"default\";r=0;t=1"), 1_000),
        (Fault::status(429).with_header("retry-after-ms", "800"), 800),
        (Fault::status(429).with_body(r#"{"message":"slow","retry_after":0.9}"#), 900),
        (Fault::status(503).with_header("Retry-After", "1"), 1_000),
    ] {
        is_waited_for(fault, Duration::from_millis(milliseconds)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_with_a_date_is_heeded() {
    let date = chrono::Utc::now() + Duration::from_secs(3);
    let date = date.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    // A part of the time passes before the call is made.
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    stub.script([Fault::status(429).with_header("Retry-After", &date)], When::eth_call());
    refresh_first(4, &[]).node(stub.url()).database(&database).run().expect(0);
    let parsed = chrono::DateTime::parse_from_rfc2822(&date).expect("a date");
    assert!(chrono::Utc::now() >= parsed, "not before {date}");
    assert_eq!(stub.count("eth_call"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_too_long_is_told_with_its_length() {
    let (_chain, stub) = chain_and_stub().await;
    stub.fault(Fault::too_many_requests(3_720), When::always());
    let error = refused(&stub).await;
    assert!(error.contains("asks to wait 1 h 2 min"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_node_is_told_from_a_small_chunk() {
    for message in [
        "missing trie node 1f2e (path )",
        "historical state 1f2e is not available",
        "state histories haven't been fully indexed yet",
        "World state unavailable",
        "old data not available due to pruning",
    ] {
        let (_chain, stub) = chain_and_stub().await;
        let database = Database::sqlite();
        stub.fault(Fault::error(-32000, message), When::eth_call());
        let options = ["--block", "0", "--retries", "0"];
        let ran = refresh_first(4, &options).node(stub.url()).database(&database);
        let ran = ran.run().expect(NODE_FAILED);
        assert!(ran.error().contains("pruned the state of that block"), "{}", ran.error());
        assert!(!ran.error().contains("--chunk"), "{}", ran.error());
        assert_nothing_stored(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_needs_no_ca_certificates() {
    let (_chain, stub) = chain_and_stub().await;
    let database = Database::sqlite();
    let without_roots = |node: String| {
        let nowhere = database.folder().join("nowhere").display().to_string();
        let program = refresh_first(4, &["--retries", "0"]).node(node).database(&database);
        program.env("SSL_CERT_FILE", &nowhere).env("SSL_CERT_DIR", &nowhere).run()
    };
    without_roots(stub.url()).expect(0);
    assert_eq!(stored_totals(&database).await, genesis_totals(0..4));
    let over_tls = stub.url().replace("http:", "https:");
    let error = without_roots(over_tls).expect(NODE_FAILED).error().to_owned();
    assert!(error.contains("does not speak TLS"), "{error}");
}
