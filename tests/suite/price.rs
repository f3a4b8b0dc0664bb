//! The price: what a sweep would cost, and a budget that is kept to the call.

use ethtally_testbed::{
    Chain, Fault as WalletFault,
    stub::{Fault, Stub, When},
    wallet,
};

use serde_json::{Value, json};

use crate::{
    chunks::{holds_what_they_hold, sweep, table, wide_chain},
    harness::{Database, ethtally},
    world::{address, lines, read_wallets},
};

fn calls() -> When {
    When::method("eth_call")
}

/// What it says of itself, as JSON and as text.
fn dry_run(database: &Database, options: &[&str]) -> (Value, String) {
    let ran = |more: &[&'static str]| {
        let arguments = ["sweep", "--all", "--dry-run"].iter().chain(more).chain(options).copied();
        ethtally(arguments.collect::<Vec<_>>()).database(database).run().expect(0)
    };
    (ran(&["--json"]).json(), ran(&[]).stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_calls_units_and_time() {
    let database = table(1_000);
    let plan = |calls: u64, units: u64, rps: Value, cups: Value| {
        json!({"command": "sweep", "dry_run": true, "wallets": 1_000, "calls": calls,
            "compute_units": units, "seconds_at_rps": rps, "seconds_at_cups": cups})
    };
    let cases: [(&[&str], Value, &str); 7] = [
        (
            &["--chunk", "10"],
            plan(100, 2_600, Value::Null, Value::Null),
            "calls:100 compute_units:2600; give --rps or --cups for the time it takes",
        ),
        (
            &["--chunk", "10", "--rps", "30"],
            plan(100, 2_600, json!(4), Value::Null),
            "calls:100 compute_units:2600; 4s at --rps",
        ),
        (
            &["--chunk", "10", "--cups", "300"],
            plan(100, 2_600, Value::Null, json!(9)),
            "calls:100 compute_units:2600; 9s at --cups",
        ),
        (
            &["--chunk", "10", "--cups", "300", "--rps", "1", "--cu-per-call", "7"],
            plan(100, 700, json!(100), json!(3)),
            "calls:100 compute_units:700; 1m 40s at --rps, 3s at --cups",
        ),
        (
            &["--chunk", "10", "--rps", "10", "--max-calls", "40"],
            plan(40, 1_040, json!(4), Value::Null),
            "calls:40 compute_units:1040; 4s at --rps; --max-calls ends it before all are read",
        ),
        (
            &["--chunk", "10", "--reader", "packed", "--max-calls", "100"],
            plan(100, 2_600, Value::Null, Value::Null),
            "calls:100 compute_units:2600; give --rps or --cups for the time it takes",
        ),
        // The first chunk is read both ways.
        (
            &["--chunk", "10", "--reader", "auto"],
            plan(101, 2_626, Value::Null, Value::Null),
            "calls:101 compute_units:2626; give --rps or --cups for the time it takes",
        ),
    ];
    for (options, json, text) in cases {
        let said = dry_run(&database, options);
        assert_eq!(said, (json, format!("sweep would read wallets:1000 {text}\n")), "{options:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_not_far_from_what_the_sweep_then_needs() {
    // The usual limits, of which it speaks: bodies of 2 MB are Anvil's default.
    let chain = Chain::builder().wallets(20_000).gas_limit(50_000_000).start().await.unwrap();
    let database = table(20_000);
    for reader in ["multicall3", "packed", "auto"] {
        for options in [&["--reader", reader][..], &["--reader", reader, "--chunk", "150"]] {
            database.sql("update eth_wallet_balances set updated_at = '1970-01-01 00:00:00'").await;
            let said = dry_run(&database, options).0["calls"].as_u64().unwrap();
            let ran = sweep(&database, &chain.url(), options).run().expect(0);
            let sent = ran.json()["calls"].as_u64().unwrap();
            let is_exact = options.len() > 2;
            let off = said.abs_diff(sent);
            assert!(if is_exact { off == 0 } else { off <= 8 }, "{options:?}: {said}, {sent} sent");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_of_nothing_is_refused() {
    let database = Database::sqlite();
    for option in ["--max-calls", "--cups", "--cu-per-call"] {
        let ran = ethtally(["sweep", option, "0"]).database(&database).run().expect(2);
        assert!(ran.error().contains(option), "{}", ran.error());
    }
}

/// A node on which calls fail in all the ways that make more calls of one, with 429s among them.
async fn difficult_node() -> (Chain, Stub) {
    let chain = Chain::builder().faulty().start().await.unwrap();
    chain.set_fault(wallet(333), WalletFault::BurnGas).await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    stub.fault(Fault::status(429), calls().every(7).times(4));
    stub.fault(Fault::status(503), calls().every(5).times(3));
    stub.fault(Fault::error(-32000, "out of gas"), calls().mentioning(&address(777)));
    stub.fault(Fault::WalletsAbove { wallets: 70, parts: 3 }, calls());
    (chain, stub)
}

/// Nobody sends more `eth_call`s than it was allowed, whatever becomes of them, and what was read is stored.
async fn the_budget_is_kept(options: &[&str]) {
    let (_chain, stub) = difficult_node().await;
    for budget in [1, 2, 3, 5, 8, 13, 30] {
        let database = table(1_000);
        stub.forget();
        let number = budget.to_string();
        let options: Vec<_> = options.iter().copied().chain(["--max-calls", &number]).collect();
        let ran = sweep(&database, &stub.url(), &options).run().expect(0);
        let said = ran.json();
        assert!(stub.count("eth_call") <= budget, "{budget}: {}", stub.count("eth_call"));
        assert_eq!(said["calls"], stub.count("eth_call"));
        assert_eq!(said["interrupted"], false, "nobody interrupted it: {said}");
        assert!(ran.stderr.contains("--max-calls"), "{ran:?}");
        assert!(!ran.stderr.contains("error: "), "{ran:?}");
        assert_eq!(said["updated"], read_wallets(&database).await.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_kept_to_the_call_through_multicall3() {
    the_budget_is_kept(&["--reader", "multicall3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_kept_to_the_call_packed() {
    the_budget_is_kept(&["--reader", "packed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_kept_to_the_call_while_readers_are_compared() {
    the_budget_is_kept(&["--reader", "auto", "--concurrency", "16"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_run_goes_on_where_the_budget_ended() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    let database = table(1_000);
    let options = ["--chunk", "100", "--max-calls", "3"];
    for stored in [300, 600, 900, 1_000] {
        stub.forget();
        let ran = sweep(&database, &stub.url(), &options).run().expect(0);
        assert_eq!(read_wallets(&database).await.len(), stored);
        assert_eq!(stub.count("eth_call"), if stored < 1_000 { 3 } else { 1 });
        assert_eq!(ran.stderr.contains("--max-calls"), stored < 1_000, "{ran:?}");
        // A later run must not meet the rows of this one again.
        let now = "update eth_wallet_balances set updated_at = '2999-01-01 00:00:00' where read_block is not null";
        database.sql(now).await;
    }
    holds_what_they_hold(&database, 1_000, &[]).await;

    let text = ethtally(["sweep", "--all", "--max-calls", "1", "--chunk", "100"]);
    database.sql("update eth_wallet_balances set updated_at = '1970-01-01 00:00:00'").await;
    let ran = text.node(stub.url()).database(&database).run().expect(0);
    assert!(ran.stdout.starts_with("sweep stopped "), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("updated:100 ") && ran.stdout.contains("calls:1 "),
        "{}",
        ran.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_just_enough_is_no_reason_to_stop() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    let database = table(1_000);
    let ran =
        sweep(&database, &stub.url(), &["--chunk", "100", "--max-calls", "10"]).run().expect(0);
    assert!(!ran.stderr.contains("--max-calls"), "{ran:?}");
    holds_what_they_hold(&database, 1_000, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_keeps_its_budget_too_and_resumes() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    let database = Database::sqlite();
    for stored in [200, 400, 500] {
        stub.forget();
        let arguments = [
            "backfill",
            "--from-csv",
            "-",
            "--resume",
            "--chunk",
            "100",
            "--max-calls",
            "2",
            "--json",
        ];
        let ran =
            ethtally(arguments).node(stub.url()).database(&database).input(lines(0..500)).run();
        let ran = ran.expect(0);
        assert_eq!(ran.json()["updated"], if stored < 500 { 200 } else { 100 });
        assert!(stub.count("eth_call") <= 2);
        assert_eq!(read_wallets(&database).await.len(), stored);
    }
    holds_what_they_hold(&database, 500, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_a_sick_node_used_up_is_told_with_what_the_node_said() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    stub.fault(Fault::status(503), calls());
    let database = table(100);
    let ran = sweep(&database, &stub.url(), &["--max-calls", "2"]).run().expect(0);
    assert_eq!((&ran.json()["updated"], &ran.json()["calls"]), (&json!(0), &json!(2)));
    assert!(ran.stderr.contains("--max-calls reached") && ran.stderr.contains("503"), "{ran:?}");
}
