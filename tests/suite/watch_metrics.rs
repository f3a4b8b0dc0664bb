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
    program::{ethtally, eventually, eventually_async},
    prometheus::{Prometheus, assert_promtool_is_content},
    table::store_unread,
    wallets::address,
    watch::{caught_up, get, served_at, start, watch},
};

on_both_databases! {
    every_metric_has_the_right_value
    http_requests_do_not_query_the_table
}

/// Of what is looked up in the table.
const ROWS: &str = "ethtally_rows";

/// All metrics with their types. The parser checks that each has a help text.
const ALL: [(&str, &str); 33] = [
    ("ethtally_active", "gauge"),
    ("ethtally_block_to_stored_seconds", "histogram"),
    ("ethtally_blocks_total", "counter"),
    ("ethtally_build_info", "gauge"),
    ("ethtally_checkpoint_block", "gauge"),
    ("ethtally_connected", "gauge"),
    ("ethtally_connections_total", "counter"),
    ("ethtally_errors_total", "counter"),
    ("ethtally_eth_calls_total", "counter"),
    ("ethtally_gaps_filled_total", "counter"),
    ("ethtally_head_block", "gauge"),
    ("ethtally_head_timestamp_seconds", "gauge"),
    ("ethtally_last_run_timestamp_seconds", "gauge"),
    ("ethtally_logs_total", "counter"),
    ("ethtally_oldest_row_age_seconds", "gauge"),
    ("ethtally_oldest_row_timestamp_seconds", "gauge"),
    ("ethtally_reconnects_total", "counter"),
    ("ethtally_reorgs_total", "counter"),
    ("ethtally_requests_total", "counter"),
    ("ethtally_retries_total", "counter"),
    (ROWS, "gauge"),
    ("ethtally_rows_never_read", "gauge"),
    ("ethtally_unreadable_wallets", "gauge"),
    ("ethtally_wallets_refreshed_total", "counter"),
    ("ethtally_wallets_superseded_total", "counter"),
    ("ethtally_wallets_unreadable_total", "counter"),
    ("process_cpu_seconds_total", "counter"),
    ("process_max_fds", "gauge"),
    ("process_open_fds", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_start_time_seconds", "gauge"),
    ("process_threads", "gauge"),
    ("process_virtual_memory_bytes", "gauge"),
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
    eventually("the table is looked up", || Metrics::of(&at).get(ROWS).is_some());
    let metrics = Metrics::of(&at);
    let kinds: Vec<_> = metrics.kinds.iter().map(|(name, kind)| (&**name, &**kind)).collect();
    assert_eq!(kinds, ALL);
    let build =
        format!("ethtally_build_info{{commit=\"\",version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(metrics.sum("ethtally_build_info"), 1.0, "{build}");
    let head = metrics.value("ethtally_head_timestamp_seconds") - Utc::now().timestamp() as f64;
    assert!(head.abs() < 600.0, "{head}");
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
            ("rows", 10),
            ("rows_never_read", 9),
            ("unreadable_wallets", 0),
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
    assert_eq!(metrics.sum("ethtally_requests_total"), stub.requests().len() as f64);
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
        // The table is looked up at the start and every five minutes.
        eventually("the table", || Metrics::of(&address).get(ROWS).is_some());
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

/// Placeholders are no old rows, and what is not known has no series: no 0 and no NaN.
#[tokio::test(flavor = "multi_thread")]
async fn a_series_exists_only_if_its_value_is_known() {
    let chain = Chain::builder().start().await.unwrap();
    let (active_at, standby_at);
    let database = Database::sqlite();
    store_unread(&database, 0..10);
    let (active, standby);
    active = start(watch("--listen 0", chain.url(), &database));
    active_at = served_at(&active);
    active.until("connected", 1);
    caught_up(&chain, &database).await;
    standby = start(watch("--listen 0", chain.url(), &database));
    standby_at = served_at(&standby);
    standby.until("standby", 1);
    for (at, is_active) in [(&active_at, true), (&standby_at, false)] {
        eventually("the table is looked up", || Metrics::of(at).get(ROWS).is_some());
        let metrics = Metrics::of(at);
        assert_eq!(metrics.value("ethtally_active"), f64::from(u8::from(is_active)));
        for name in ["head_block", "head_timestamp_seconds", "checkpoint_block"] {
            assert_eq!(metrics.get(&format!("ethtally_{name}")).is_some(), is_active, "{name}");
        }
        for name in ["oldest_row_timestamp_seconds", "oldest_row_age_seconds", "stale_rows"] {
            assert_eq!(metrics.get(&format!("ethtally_{name}")), None, "{name}");
        }
        let body = get(at, "/metrics").body;
        assert!(!body.contains("NaN"), "{body}");
        assert_promtool_is_content(&body);
    }
}

/// A Prometheus scrapes what two sweeps and a watch leave behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_scrapes_it() {
    let chain = Chain::builder().start().await.unwrap();
    let (socket, stub) = socket_and_stub_of(&chain);
    let database = Database::postgres();
    store_unread(&database, 0..10);
    let before = Utc::now().timestamp() as f64;
    let sweep = |node: &str| {
        ethtally(["sweep", "--batch", "4", "--retries", "0"]).node(node).database(&database).run()
    };
    sweep(&chain.url()).expect(0);
    sweep("http://127.0.0.1:1").expect(3);
    let watching =
        start(watch(&format!("--listen 0 --ws-url {}", socket.url()), stub.url(), &database));
    let at = served_at(&watching);
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    stub.fault(Fault::status(503), When::method("eth_getLogs").times(1));
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    caught_up(&chain, &database).await;
    let prometheus = Prometheus::scraping(&at);
    eventually("the table is scraped", || prometheus.values(ROWS) == [10.0]);
    assert_eq!(prometheus.values("ethtally_rows_never_read"), [6.0]);
    for outcome in ["complete", "failed"] {
        let run =
            format!("ethtally_last_run_timestamp_seconds{{command='sweep',outcome='{outcome}'}}");
        let ended = prometheus.values(&run);
        assert!(ended.len() == 1 && (ended[0] - before).abs() < 120.0, "{outcome}: {ended:?}");
    }
    let running = prometheus.values("ethtally_last_run_timestamp_seconds{command='watch'}");
    assert_eq!(running, [] as [f64; 0], "it has not ended");
    let oldest = prometheus.values("ethtally_oldest_row_timestamp_seconds");
    assert!(oldest.len() == 1 && (oldest[0] - before).abs() < 120.0, "{oldest:?}");
    let host = stub.url().replace("http://", "");
    eventually("requests are counted by their outcome", || {
        let of = |labels: &str| {
            let series = format!("ethtally_requests_total{{endpoint='{host}',{labels}}}");
            prometheus.values(&series).iter().sum::<f64>()
        };
        let failed = of("method='eth_getLogs',outcome='unreachable'")
            + of("method='eth_getLogs',outcome='unknown'");
        failed == 1.0 && of("method='eth_getLogs',outcome='ok'") >= 1.0
    });
    let behind = prometheus.values("ethtally_head_block - ethtally_checkpoint_block");
    assert_eq!(behind, [0.0]);
    assert_eq!(prometheus.values("time() - ethtally_head_timestamp_seconds < 600").len(), 1);
    assert_eq!(prometheus.values("process_resident_memory_bytes > 1e6").len(), 1);
    let build = prometheus.query("ethtally_build_info");
    assert_eq!(build[0]["metric"]["version"], env!("CARGO_PKG_VERSION"));
    assert_promtool_is_content(&get(&at, "/metrics").body);
}
