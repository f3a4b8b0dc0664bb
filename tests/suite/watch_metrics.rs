//! `watch --listen`: the metrics, and what it costs to ask.

use std::collections::BTreeMap;

use alloy::primitives::U256;
use chrono::Utc;
use ethtally_testbed::{
    Chain, Fault as WalletFault,
    socket::Socket,
    stub::{Fault, Stub, When},
    wallet,
};
use serde_json::{Value, json};

use crate::{
    harness::{Database, eventually, on_both_databases},
    watching::{caught_up, get, served_at, start, watch},
    world::{address, store_unread},
};

on_both_databases! {
    every_metric_counts_what_it_says
    no_request_touches_the_table
}

/// Every metric, its kind, and the help that goes with it is not empty: that the parser sees to.
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

/// Wallet 2 cannot be read, and of wallet 3 the table holds a read from the far future.
async fn every_metric_counts_what_it_says(database: Database) {
    let chain = Chain::builder().faulty().start().await.unwrap();
    let (socket, stub) =
        (Socket::in_front_of(&chain.ws_url()).unwrap(), Stub::in_front_of(&chain.url()).unwrap());
    chain.set_fault(wallet(2), WalletFault::Revert).await.unwrap();
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
    // Placeholders are of 1970.
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
    // Waits until what was mined is stored and counted.
    let stored = async |before: &Metrics| {
        let head = caught_up(&chain, &database).await as f64;
        eventually("it is counted", || Metrics::of(&at).value("ethtally_checkpoint_block") >= head);
        Metrics::of(&at).follows(before)
    };

    // A log for two wallets, then a block with none, then a log with one wallet that cannot be read.
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

    // One answer that is tried again is no error; one that stays bad is.
    stub.fault(Fault::status(503), When::method("eth_getLogs").times(1));
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    let metrics = stored(&metrics).await;
    expected(&metrics, &[("retries_total", 1), ("errors_total", 0), ("logs_total", 4)]);
    stub.fault(Fault::status(401), When::method("eth_getLogs").times(1));
    chain.transfer(wallet(0), wallet(1), U256::ONE).await.unwrap();
    let metrics = stored(&metrics).await;
    expected(&metrics, &[("errors_total", 1), ("logs_total", 5), ("gaps_filled_total", 0)]);

    // A block in the time between two connections. While it stands still it cannot connect before that.
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

    // What was asked of the node is counted one by one.
    assert_eq!(metrics.value("ethtally_requests_total"), stub.requests().len() as f64);
    assert_eq!(metrics.value("ethtally_eth_calls_total"), stub.count("eth_call") as f64);
    metrics.assert_histogram("ethtally_block_to_stored_seconds");
    let told = watching.stop();
    let stopped = told.last().unwrap();
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

/// What no longer can be asked for, nobody asks for: every path answers as before.
async fn no_request_touches_the_table(database: Database) {
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

/// How often PostgreSQL has looked into the table, once every other session has gone: a session
/// counts at the latest when it ends.
async fn scans(database: &Database) -> String {
    let others = "select count(*) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()";
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        eventually("the sessions end", || handle.block_on(database.value(others)) == "0");
    });
    let scans = "select seq_scan, coalesce(idx_scan, 0) from pg_stat_user_tables
        where relname = 'eth_wallet_balances'";
    database.value(scans).await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_scans_the_table_as_often_with_requests_as_without() {
    let database = Database::postgres();
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..10);
    let mut runs = Vec::new();
    // The first makes the checkpoint; the others do the same, but that one is asked.
    for requests in [0, 0, 50] {
        let before = scans(&database).await;
        let watching = start(watch("--listen 0", chain.url(), &database));
        let address = served_at(&watching);
        watching.until("connected", 1);
        eventually("it is ready", || get(&address, "/readyz").json()["head_block"] == 0);
        // The look at the oldest row, which is once a minute and at the start.
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

const OLDEST: &str = "ethtally_oldest_row_age_seconds";

/// The metrics of a moment, as Prometheus reads them.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// By name: what kind it is.
    kinds: BTreeMap<String, String>,
    /// By name with labels.
    values: BTreeMap<String, f64>,
}

impl Metrics {
    #[track_caller]
    pub(crate) fn of(address: &str) -> Self {
        let answer = get(address, "/metrics");
        assert_eq!(answer.status, 200);
        let kind: Vec<_> = answer.kind.split(';').map(str::trim).collect();
        assert!(kind.contains(&"text/plain") && kind.contains(&"version=0.0.4"), "{kind:?}");
        Self::parse(&answer.body)
    }

    /// Each metric is a line of HELP, one of TYPE, and its values.
    #[track_caller]
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "{text}");
        let mut metrics = Self { kinds: BTreeMap::new(), values: BTreeMap::new() };
        let (mut help, mut family) = (None, None);
        for line in text.lines() {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, text] if !text.is_empty() => help = Some(name),
                ["#", "TYPE", name, kind @ ("counter" | "gauge" | "histogram")] => {
                    assert_eq!(help, Some(name), "HELP goes before TYPE");
                    let twice = metrics.kinds.insert(name.to_owned(), kind.to_owned());
                    assert_eq!(twice, None, "{name}");
                    family = Some((name, kind));
                }
                [name, value] => {
                    let (family, kind) = family.expect("a TYPE goes before the values");
                    let suffix = name.split('{').next().unwrap().strip_prefix(family);
                    let suffixes: &[_] =
                        if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                    assert!(suffix.is_some_and(|suffix| suffixes.contains(&suffix)), "{line}");
                    let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
                    let twice = metrics.values.insert(name.to_owned(), value);
                    assert_eq!(twice, None, "{name}");
                }
                _ => panic!("{line}"),
            }
        }
        metrics
    }

    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> f64 {
        *self.values.get(name).unwrap_or_else(|| panic!("no {name}: {self:#?}"))
    }

    /// Fails if something that only grows is less than before.
    #[track_caller]
    fn follows(self, before: &Self) -> Self {
        for (name, value) in &before.values {
            let family = name.split(['{']).next().unwrap();
            let is_gauge = self.kinds.get(family).is_some_and(|kind| kind == "gauge");
            assert!(is_gauge || self.value(name) >= *value, "{name}: {value}, then {self:#?}");
        }
        self
    }

    /// Buckets grow up to the one that holds all, which is the count.
    #[track_caller]
    fn assert_histogram(&self, name: &str) {
        let mark = format!("{name}_bucket{{le=\"");
        let bound = |key: &str| match key.strip_prefix(&mark)?.strip_suffix("\"}")? {
            "+Inf" => Some(f64::INFINITY),
            bound => Some(bound.parse().expect("a number")),
        };
        let mut buckets: Vec<(f64, f64)> =
            self.values.iter().filter_map(|(key, count)| Some((bound(key)?, *count))).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(buckets.len() > 5 && buckets.is_sorted_by_key(|bucket| bucket.1), "{buckets:?}");
        let (bound, all) = *buckets.last().unwrap();
        let (count, sum) =
            (self.value(&format!("{name}_count")), self.value(&format!("{name}_sum")));
        assert_eq!((bound, all), (f64::INFINITY, count));
        assert!(count > 0.0 && sum >= 0.0 && sum < 60.0 * count, "{sum} s in {count}");
    }
}
