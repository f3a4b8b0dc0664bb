//! Cost: estimates of a dry run, and budgets that are never exceeded.

use ethtally_testbed::{
    Chain, TokenFault,
    stub::{Fault, Stub, When},
    wallet,
};

use serde_json::{Value, json};

use crate::support::{
    chains::{stub_of, wide_stub},
    database::Database,
    program::{ethtally, sweep_all},
    table::{assert_read_at_genesis, read_wallets, unread_table},
    wallets::{address, address_lines},
};

/// The result of a dry run, as JSON and as text.
fn dry_run(database: &Database, options: &[&str]) -> (Value, String) {
    let ran = |more: &[&'static str]| {
        let arguments = ["sweep", "--all", "--dry-run"].iter().chain(more).chain(options).copied();
        ethtally(arguments.collect::<Vec<_>>()).database(database).run().expect(0)
    };
    (ran(&["--json"]).json(), ran(&[]).stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_estimates_calls_compute_units_and_time() {
    let database = unread_table(1_000);
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
        // The first chunk is read with both readers.
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
async fn a_dry_run_without_multicall3_is_that_of_the_packed_reader() {
    let database = unread_table(20_000);
    let text = ethtally(["profile"]).run().expect(0).stdout;
    let profile = database.folder().join("none.toml");
    std::fs::write(&profile, text.replacen("name = ", "multicall3 = \"none\"\nname = ", 1))
        .unwrap();
    let none = ["--profile", profile.to_str().unwrap()];
    let calls = |options: &[&str]| dry_run(&database, options).0["calls"].clone();
    assert_eq!(calls(&none), calls(&["--reader", "packed"]));
    assert_ne!(calls(&none), calls(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_close_to_the_real_number_of_calls() {
    // The limits that the estimate assumes: Anvil's default for bodies is 2 MB.
    let chain = Chain::builder().wallets(20_000).gas_limit(50_000_000).start().await.unwrap();
    let database = unread_table(20_000);
    for reader in ["multicall3", "packed", "auto"] {
        for options in [&["--reader", reader][..], &["--reader", reader, "--chunk", "150"]] {
            database.sql("update eth_wallet_balances set updated_at = '1970-01-01 00:00:00'").await;
            let said = dry_run(&database, options).0["calls"].as_u64().unwrap();
            let ran = sweep_all(&database, &chain.url(), options).run().expect(0);
            let sent = ran.json()["calls"].as_u64().unwrap();
            let is_exact = options.len() > 2;
            let off = said.abs_diff(sent);
            assert!(if is_exact { off == 0 } else { off <= 8 }, "{options:?}: {said}, {sent} sent");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_of_zero_is_refused() {
    let database = Database::sqlite();
    for option in ["--max-calls", "--cups", "--cu-per-call"] {
        let ran = ethtally(["sweep", option, "0"]).database(&database).run().expect(2);
        assert!(ran.error().contains(option), "{}", ran.error());
    }
}

/// A node with failures that cause extra calls, among them 429s.
async fn difficult_node() -> (Chain, Stub) {
    let chain = Chain::builder().faulty().start().await.unwrap();
    chain.set_fault(wallet(333), TokenFault::BurnGas).await.unwrap();
    let stub = stub_of(&chain);
    stub.fault(Fault::status(429), When::eth_call().every(7).times(4));
    stub.fault(Fault::status(503), When::eth_call().every(5).times(3));
    stub.fault(Fault::error(-32000, "out of gas"), When::eth_call().mentioning(&address(777)));
    stub.fault(Fault::WalletsAbove { wallets: 70, parts: 3 }, When::eth_call());
    (chain, stub)
}

/// Asserts that a sweep sends at most --max-calls `eth_call`s, whatever fails, and stores what it read.
async fn assert_budget_is_kept(options: &[&str]) {
    let (_chain, stub) = difficult_node().await;
    for budget in [1, 2, 3, 5, 8, 13, 30] {
        let database = unread_table(1_000);
        stub.forget();
        let number = budget.to_string();
        let options: Vec<_> = options.iter().copied().chain(["--max-calls", &number]).collect();
        let ran = sweep_all(&database, &stub.url(), &options).run().expect(0);
        let said = ran.json();
        assert!(stub.count("eth_call") <= budget, "{budget}: {}", stub.count("eth_call"));
        assert_eq!(said["calls"], stub.count("eth_call"));
        assert_eq!(said["interrupted"], false, "not interrupted: {said}");
        assert!(ran.stderr.contains("--max-calls"), "{ran:?}");
        assert!(!ran.stderr.contains("error: "), "{ran:?}");
        assert_eq!(said["updated"], read_wallets(&database).await.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn multicall3_never_exceeds_max_calls() {
    assert_budget_is_kept(&["--reader", "multicall3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_never_exceeds_max_calls() {
    assert_budget_is_kept(&["--reader", "packed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_never_exceeds_max_calls() {
    assert_budget_is_kept(&["--reader", "auto", "--concurrency", "16"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_run_continues_after_max_calls() {
    let stub = wide_stub().await;
    let database = unread_table(1_000);
    let options = ["--chunk", "100", "--max-calls", "3"];
    for stored in [300, 600, 900, 1_000] {
        stub.forget();
        let ran = sweep_all(&database, &stub.url(), &options).run().expect(0);
        assert_eq!(read_wallets(&database).await.len(), stored);
        assert_eq!(stub.count("eth_call"), if stored < 1_000 { 3 } else { 1 });
        assert_eq!(ran.stderr.contains("--max-calls"), stored < 1_000, "{ran:?}");
        // So that a later run does not read the rows of this one again.
        let now = "update eth_wallet_balances set updated_at = '2999-01-01 00:00:00' where read_block is not null";
        database.sql(now).await;
    }
    assert_read_at_genesis(&database, 1_000, &[]).await;

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
async fn an_exactly_sufficient_budget_is_not_reported() {
    let stub = wide_stub().await;
    let database = unread_table(1_000);
    let ran =
        sweep_all(&database, &stub.url(), &["--chunk", "100", "--max-calls", "10"]).run().expect(0);
    assert!(!ran.stderr.contains("--max-calls"), "{ran:?}");
    assert_read_at_genesis(&database, 1_000, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_keeps_max_calls_and_resumes() {
    let stub = wide_stub().await;
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
        let ran = ethtally(arguments)
            .node(stub.url())
            .database(&database)
            .input(address_lines(0..500))
            .run();
        let ran = ran.expect(0);
        assert_eq!(ran.json()["updated"], if stored < 500 { 200 } else { 100 });
        assert!(stub.count("eth_call") <= 2);
        assert_eq!(read_wallets(&database).await.len(), stored);
    }
    assert_read_at_genesis(&database, 500, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_used_up_by_errors_is_reported_with_the_nodes_error() {
    let stub = wide_stub().await;
    stub.fault(Fault::status(503), When::eth_call());
    let database = unread_table(100);
    let ran = sweep_all(&database, &stub.url(), &["--max-calls", "2"]).run().expect(0);
    assert_eq!((&ran.json()["updated"], &ran.json()["calls"]), (&json!(0), &json!(2)));
    assert!(ran.stderr.contains("--max-calls reached") && ran.stderr.contains("503"), "{ran:?}");
}
