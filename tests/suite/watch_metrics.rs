//! `watch --listen`: the metrics, and the cost of requests.

use alloy::primitives::U256;
use chrono::Utc;
use ethtally_testbed::{
    Chain, TokenFault,
    stub::{Fault, When},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::socket_and_stub_of,
    database::{Database, on_both_databases},
    metrics::Metrics,
    program::{eventually, eventually_async},
    table::store_unread,
    wallets::address,
    watch::{caught_up, get, served_at, start, watch},
};

on_both_databases! {
    every_metric_has_the_right_value
    http_requests_do_not_query_the_table
}

const OLDEST: &str = "ethtally_oldest_row_age_seconds";

/// All metrics with their types. The parser checks that each has a help text.
const ALL: [(&str, &str); 19] = [
    ("ethtally_active", "gauge"),
    ("ethtally_block_to_stored_seconds", "histogram"),
    ("ethtally_blocks_total", "counter"),
    ("ethtally_checkpoint_block", "gauge"),
    ("ethtally_connected", "gauge"),
    ("ethtally_connections_total", "counter"),
    ("ethtally_errors_total", "counter"),
    ("ethtally_eth_calls_total", "counter"),
    ("ethtally_gaps_filled_total", "counter"),
    ("ethtally_head_block", "gauge"),
    ("ethtally_logs_total", "counter"),
    (OLDEST, "gauge"),
    ("ethtally_reconnects_total", "counter"),
    ("ethtally_reorgs_total", "counter"),
    ("ethtally_requests_total", "counter"),
    ("ethtally_retries_total", "counter"),
    ("ethtally_wallets_refreshed_total", "counter"),
    ("ethtally_wallets_superseded_total", "counter"),
    ("ethtally_wallets_unreadable_total", "counter"),
];

/// Wallet 2 is unreadable, and the row of wallet 3 is of a future block.
async fn every_metric_has_the_right_value(database: Database) {
    let chain = Chain::builder().faulty().start().await.unwrap();
    let (socket, stub) = socket_and_stub_of(&chain);
    chain.set_fault(wallet(2), TokenFault::Revert).await.unwrap();
    store_unread(&database, 0..10);
    let far = format!(
        "update eth_wallet_balances set read_block = 1000000, updated_at = '2100-01-01 00:00:00'
         where wallet = '{}'",
        address(3)
    );
    database.sql(&far).await;
    let watching =
        start(watch(&format!("--listen 0 --ws-url {}", socket.url()), stub.url(), &database));
    let at = served_at(&watching);
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    eventually("the oldest row is known", || Metrics::of(&at).value(OLDEST) > 0.0);
    let metrics = Metrics::of(&at);
    let kinds: Vec<_> = metrics.kinds.iter().map(|(name, kind)| (&**name, &**kind)).collect();
    assert_eq!(kinds, ALL);
    // Placeholders are dated 1970.
    let age = metrics.value(OLDEST) - Utc::now().timestamp() as f64;
    assert!(age.abs() < 60.0, "{age}");
    let expected = |metrics: &Metrics, expected: &[(&str, u64)]| {
        for (name, value) in expected {
            assert_eq!(
                metrics.value(&format!("ethtally_{name}")),
                *value as f64,
                "{name}: {metrics:#?}"
            );
        }
    };
    let begun = chain.block_number().await.unwrap();
    expected(
        &metrics,
        &[
            ("active", 1),
            ("block_to_stored_seconds_count", 0),
            ("blocks_total", 0),
            ("checkpoint_block", begun),
            ("connected", 1),
            ("connections_total", 1),
            ("errors_total", 0),
            ("eth_calls_total", 0),
            ("gaps_filled_total", 0),
            ("head_block", begun),
            ("logs_total", 0),
            ("reconnects_total", 0),
            ("reorgs_total", 0),
            ("retries_total", 0),
            ("wallets_refreshed_total", 0),
            ("wallets_superseded_total", 0),
            ("wallets_unreadable_total", 0),
        ],
    );
    // Waits until the mined blocks are stored and counted.
    let stored = async |before: &Metrics| {
        let head = caught_up(&chain, &database).await as f64;
        eventually("it is counted", || Metrics::of(&at).value("ethtally_checkpoint_block") >= head);
        Metrics::of(&at).follows(before)
    };

    // A log with two wallets, then a block without logs, then a log with an unreadable wallet.
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    let metrics = stored(&metrics).await;
    expected(
        &metrics,
        &[
            ("block_to_stored_seconds_count", 1),
            ("blocks_total", 1),
            ("logs_total", 1),
            ("wallets_refreshed_total", 2),
            ("head_block", begun + 1),
            ("checkpoint_block", begun + 1),
        ],
    );
    chain.mine(1).await.unwrap();
    let metrics = stored(&metrics).await;
    expected(
        &metrics,
        &[("block_to_stored_seconds_count", 1), ("blocks_total", 2), ("logs_total", 1)],
    );
    chain.mint(wallet(2), U256::ONE).await.unwrap();
    let metrics = stored(&metrics).await;
    expected(
        &metrics,
        &[
            ("blocks_total", 3),
            ("logs_total", 2),
            ("wallets_refreshed_total", 2),
            ("wallets_unreadable_total", 1),
            ("wallets_superseded_total", 0),
        ],
    );
    // A wallet whose row is newer than the chain.
    chain.mint(wallet(3), U256::ONE).await.unwrap();
    let metrics = stored(&metrics).await;
    expected(&metrics, &[("wallets_refreshed_total", 2), ("wallets_superseded_total", 1)]);

    // A retried request is not an error; one that cannot be retried is.
    stub.fault(Fault::status(503), When::method("eth_getLogs").times(1));
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    let metrics = stored(&metrics).await;
    expected(&metrics, &[("retries_total", 1), ("errors_total", 0), ("logs_total", 4)]);
    stub.fault(Fault::status(401), When::method("eth_getLogs").times(1));
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    let metrics = stored(&metrics).await;
    expected(&metrics, &[("errors_total", 1), ("logs_total", 5), ("gaps_filled_total", 0)]);

    // A block between two connections. While stopped, it cannot reconnect before the block.
    watching.signal("STOP");
    socket.cut();
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    watching.signal("CONT");
    watching.until("gap_filled", 1);
    let metrics = stored(&metrics).await;
    expected(
        &metrics,
        &[
            ("connections_total", 2),
            ("reconnects_total", 1),
            ("gaps_filled_total", 1),
            ("logs_total", 6),
            ("reorgs_total", 0),
        ],
    );

    chain.reorg(1).await.unwrap();
    chain.mine(1).await.unwrap();
    watching.until("reorg", 1);
    let metrics = stored(&metrics).await;
    expected(&metrics, &[("reorgs_total", 1), ("errors_total", 2), ("reconnects_total", 1)]);

    // Every request to the node is counted.
    assert_eq!(metrics.value("ethtally_requests_total"), stub.requests().len() as f64);
    assert_eq!(metrics.value("ethtally_eth_calls_total"), stub.count("eth_call") as f64);
    metrics.assert_histogram("ethtally_block_to_stored_seconds");
    let lines = watching.stop();
    let stopped = lines.last().unwrap();
    for (field, metric) in [
        ("blocks", "blocks_total"),
        ("logs", "logs_total"),
        ("updated", "wallets_refreshed_total"),
        ("failed", "wallets_unreadable_total"),
        ("superseded", "wallets_superseded_total"),
        ("calls", "eth_calls_total"),
        ("reorgs", "reorgs_total"),
        ("errors", "errors_total"),
        ("checkpoint_block", "checkpoint_block"),
    ] {
        assert_eq!(
            stopped[field].as_f64(),
            Some(metrics.value(&format!("ethtally_{metric}"))),
            "{field}"
        );
    }
}

/// Every path responds as before while the tables are renamed.
async fn http_requests_do_not_query_the_table(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..10);
    let watching = start(watch("--listen 0", chain.url(), &database));
    let address = served_at(&watching);
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    eventually("it is ready", || get(&address, "/readyz").status == 200);
    let tables = ["eth_wallet_balances", "eth_indexer_checkpoints"];
    for table in tables {
        database.sql(&format!("alter table {table} rename to {table}_gone")).await;
    }
    for _ in 0..50 {
        for path in ["/healthz", "/eth/health", "/readyz", "/metrics"] {
            assert_eq!(get(&address, path).status, 200, "{path}");
        }
    }
    let health = get(&address, "/healthz").json();
    assert_eq!((&health["errors"], &health["last_error"]), (&json!(0), &Value::Null));
    for table in tables {
        database.sql(&format!("alter table {table}_gone rename to {table}")).await;
    }
    let (ran, _) = {
        watching.signal("TERM");
        watching.wait()
    };
    assert_eq!(ran.expect(143).stderr, "");
}

/// PostgreSQL's counts of table scans, once all other sessions have ended: a session reports its
/// scans at its end at the latest.
async fn scans(database: &Database) -> String {
    let others = "select count(*) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()";
    eventually_async("the sessions end", async || database.value(others).await == "0").await;
    let scans = "select seq_scan, coalesce(idx_scan, 0) from pg_stat_user_tables
        where relname = 'eth_wallet_balances'";
    database.value(scans).await
}

#[tokio::test(flavor = "multi_thread")]
async fn http_requests_cause_no_table_scans() {
    let database = Database::postgres();
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..10);
    let mut runs = Vec::new();
    // The first run creates the checkpoint; the others differ only in the HTTP requests.
    for requests in [0, 0, 50] {
        let before = scans(&database).await;
        let watching = start(watch("--listen 0", chain.url(), &database));
        let address = served_at(&watching);
        watching.until("connected", 1);
        eventually("it is ready", || get(&address, "/readyz").json()["head_block"] == 0);
        // The oldest row is queried at the start and once a minute.
        eventually("the oldest row", || Metrics::of(&address).value(OLDEST) > 0.0);
        for _ in 0..requests {
            for path in ["/healthz", "/eth/health", "/readyz", "/metrics"] {
                assert_eq!(get(&address, path).status, 200, "{path}");
            }
        }
        watching.stop();
        let after = scans(&database).await;
        let count = |scans: &str| -> Vec<u64> {
            scans.split('|').map(|count| count.parse().expect("a number")).collect()
        };
        let (before, after) = (count(&before), count(&after));
        runs.push([after[0] - before[0], after[1] - before[1]]);
    }
    assert!(runs[1].iter().sum::<u64>() > 0, "the scans at the start are seen: {runs:?}");
    assert_eq!(runs[1], runs[2], "{runs:?}");
}
