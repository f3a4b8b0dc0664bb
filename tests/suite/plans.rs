//! With 3.15 million rows in PostgreSQL, no statement of the program scans the whole table to find a few rows.
//!
//! Checks the plans of the real statements, as the server logs them.

use std::collections::BTreeSet;

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain, TokenFault,
    postgres::{self, Cluster},
    wallet,
};
use serde_json::Value;

use crate::support::{
    database::Database,
    program::ethtally,
    table::store_unread,
    wallets::{address, address_lines},
    watch::{caught_up, start_connected, watch},
};

/// More rows than this are a large part of the table.
const MANY: f64 = 200_000.0;

/// The original's table: rows from events, rows from sweeps, and a tenth never read.
const TABLE: &str = "
    BEGIN;
    CREATE TABLE eth_wallet_balances (
        wallet      TEXT,
        balance     NUMERIC NOT NULL DEFAULT 0,
        blocknumber BIGINT,
        updated_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        created_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
    INSERT INTO eth_wallet_balances
    SELECT '0x' || md5(n::text) || substr(md5((-n)::text), 1, 8),
        CASE WHEN n % 10 = 0 THEN 0 ELSE n * 1000000007::numeric END,
        CASE WHEN n % 3 = 0 THEN 20000000 + n END,
        CASE WHEN n % 10 = 0 THEN TIMESTAMP '1970-01-01'
            ELSE (now() at time zone 'utc') - interval '22 days' + n * interval '0.5 s' END,
        TIMESTAMP '2023-03-04'
    FROM generate_series(1, 3150000) AS n;
    ALTER TABLE eth_wallet_balances ADD PRIMARY KEY (wallet);
    CREATE INDEX eth_wallet_balances_updated_at_idx ON eth_wallet_balances (updated_at);
    COMMIT;";

/// Unreadable wallets, some without a row, every second one due.
const FAILURES: &str = "
    INSERT INTO eth_wallet_read_failures
    SELECT wallet, 1, 'reverted', now(), now() at time zone 'utc' + (n % 2 * 2 - 1) * interval '1 day'
    FROM (SELECT wallet, row_number() OVER () AS n FROM (SELECT wallet FROM eth_wallet_balances LIMIT 1500) AS taken) AS stored
    UNION ALL
    SELECT '0xffff' || md5(n::text) || '0000', 1, 'reverted', now(), now() at time zone 'utc' + (n % 2 * 2 - 1) * interval '1 day'
    FROM generate_series(1, 500) AS n;";

/// Buckets that were confirmed one after another, but for two of them.
const CONFIRMATIONS: &str = "
    INSERT INTO eth_wallet_confirmations
    SELECT '0x' || lpad(to_hex(n), 3, '0'), CASE WHEN n % 2048 > 0 THEN 0 END,
        CASE WHEN n % 2048 > 0 THEN (now() at time zone 'utc') - n * interval '10 s' END, 769
    FROM generate_series(0, 4095) AS n
    ON CONFLICT (bucket) DO UPDATE SET block = excluded.block, selected_at = excluded.selected_at;";

/// A server that logs every plan and does not gather statistics on its own.
pub(crate) fn server() -> Cluster {
    Cluster::start_with(&[
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_format", "json"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_timing", "off"),
        ("log_line_prefix", "%a|"),
        ("autovacuum", "off"),
        ("max_wal_size", "8GB"),
        // Filling a table in the transaction that creates it writes no WAL.
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("maintenance_work_mem", "256MB"),
    ])
    .unwrap()
}

/// The plans of the program's statements in this part of the log.
pub(crate) fn plans_of_the_program(log: &str) -> Vec<Value> {
    let mut lines = log.lines().peekable();
    let mut plans = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with("ethtally|LOG:") && line.ends_with("plan:") {
            let mut text = String::new();
            while let Some(line) = lines.next_if(|line| line.starts_with('\t')) {
                text += line;
            }
            plans.push(serde_json::from_str(&text).expect("a plan in JSON"));
        }
    }
    plans
}

/// A node of a plan and all below it.
pub(crate) fn nodes(node: &Value) -> Vec<&Value> {
    let below = node["Plans"].as_array().into_iter().flatten();
    std::iter::once(node).chain(below.flat_map(nodes)).collect()
}

/// Number of rows that a node returns over all its loops.
pub(crate) fn rows(node: &Value) -> f64 {
    let number = |name: &str| node[name].as_f64().unwrap_or_default();
    number("Actual Rows") * number("Actual Loops")
}

/// The problem of a plan's node, if any.
fn fault(node: &Value) -> Option<&'static str> {
    let of_totals = node["Relation Name"] == "eth_wallet_balances";
    match node["Node Type"].as_str().unwrap_or_default() {
        "Seq Scan" if of_totals => Some("scans the whole table"),
        "Bitmap Index Scan" | "Sample Scan" if rows(node) > MANY => Some("finds too many rows"),
        "Sort" | "Incremental Sort" | "Hash"
            if node["Plans"].as_array()?.iter().any(|below| rows(below) > MANY) =>
        {
            Some("sorts or hashes the whole table")
        }
        _ => None,
    }
}

/// A plan as text.
pub(crate) fn shown(plan: &Value) -> String {
    fn tree(node: &Value, depth: usize, text: &mut String) {
        let word = |name: &str| node[name].as_str().unwrap_or_default();
        let line = [word("Node Type"), word("Relation Name"), word("Index Name")].join(" ");
        let fault = fault(node).map(|fault| format!("   <- {fault}")).unwrap_or_default();
        *text += &format!(
            "{:indent$}{} rows={}{fault}\n",
            "",
            line.trim_end(),
            rows(node),
            indent = depth * 2
        );
        for below in node["Plans"].as_array().into_iter().flatten() {
            tree(below, depth + 1, text);
        }
    }
    let query: Vec<_> =
        plan["Query Text"].as_str().unwrap_or_default().split_whitespace().collect();
    let mut text = query.join(" ").chars().take(160).collect::<String>() + "\n";
    tree(&plan["Plan"], 1, &mut text);
    text
}

/// Runs every command that uses the database.
async fn every_command(chain: &Chain, database: &Database, round: u64) {
    let run = |arguments: &[&str], input: String| {
        let ran =
            ethtally(arguments.iter().copied()).node(chain.url()).database(database).input(input);
        ran.run().expect(0)
    };
    let known =
        database.sql("select wallet from eth_wallet_balances order by balance desc limit 1").await;
    let base = 10_000 * (round + 1);
    for arguments in [
        "status --max-age 90d",
        "sweep --batch 1000",
        // More than one page.
        "sweep --batch 12000",
        "sweep --all --shard 7/5000",
        "sweep --older-than 1d --batch 500",
        "sweep --dry-run --all",
        "sweep --write changed --batch 2000",
        "sweep --all --write changed --shard 7/5000",
        "sweep --dry-run --shard 1/4 --older-than 3d",
        "verify --sample 50 --fix",
        "verify --fix",
        "refresh",
    ] {
        let mut arguments: Vec<_> = arguments.split(' ').collect();
        match arguments[..] {
            ["verify", "--fix"] => arguments.push(&known[0]),
            ["refresh"] => arguments.push(&known[0]),
            _ => {}
        }
        let ran = ethtally(arguments).node(chain.url()).database(database).run();
        assert!(ran.status < 2, "{ran:?}");
    }
    // Half of them are in the table; one is unreadable.
    chain.set_fault(wallet(base + 7_000), TokenFault::Revert).await.unwrap();
    run(&["backfill", "--from-csv", "-", "--placeholders"], address_lines(base..base + 6_000));
    run(&["backfill", "--from-csv", "-", "--resume"], address_lines(base + 3_000..base + 9_000));
    run(&["backfill", "--from-csv", "-"], address_lines(base + 6_000..base + 9_900));
    let watching = start_connected(watch("", chain.url(), database));
    // An event whose total is superseded, as the row is of a later block.
    let later = format!(
        "update eth_wallet_balances set read_block = 1000000 where wallet = '{}'",
        address(20)
    );
    database.sql(&later).await;
    chain.transfer(wallet(20), wallet(round), U256::from(7)).await.unwrap();
    caught_up(chain, database).await;
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_scans_the_whole_table_for_a_few_rows() {
    let server = server();
    let database = Database::at(server.create_database("plans").unwrap());
    postgres::psql(&database.url, TABLE).unwrap();
    ethtally(["migrate"]).database(&database).run().expect(0);
    postgres::psql(&database.url, FAILURES).unwrap();
    store_unread(&database, 0..1_000);
    let chain = Chain::builder().faulty().start().await.unwrap();

    // Without and with statistics; with custom and generic plans.
    let mut faults = BTreeSet::new();
    let mut seen = String::new();
    for (round, (statistics, plans)) in [
        ("", "auto"),
        ("", "force_generic_plan"),
        ("VACUUM ANALYZE", "auto"),
        ("", "force_generic_plan"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = database.url.rsplit('/').next().unwrap();
        let settings =
            format!("{statistics};\nALTER DATABASE {name} SET plan_cache_mode = {plans}");
        postgres::psql(&database.url, &settings).unwrap();
        if round > 0 {
            postgres::psql(&database.url, CONFIRMATIONS).unwrap();
        }
        let logged = server.log().len();
        every_command(&chain, &database, round as u64).await;
        for plan in plans_of_the_program(&server.log()[logged..]) {
            seen += plan["Query Text"].as_str().unwrap();
            if nodes(&plan["Plan"]).into_iter().any(|node| fault(node).is_some()) {
                faults.insert(shown(&plan));
            }
        }
    }

    let shown: Vec<_> = faults.into_iter().collect();
    assert!(shown.is_empty(), "{} plans\n{}", shown.len(), shown.join("\n"));
    for statement in [
        "insert into eth_wallet_balances as stored",
        "update eth_wallet_balances stored set blocknumber",
        "delete from eth_wallet_read_failures",
        "insert into eth_wallet_read_failures as stored",
        "order by stored.updated_at, stored.wallet",
        "order by failed.next_try_at, failed.wallet",
        "select count(*) from eth_wallet_read_failures failed",
        "select count(*) from eth_wallet_balances stored",
        "on conflict (wallet) do nothing",
        "read_block is not null or updated_at",
        "confirmed.block, confirmed.selected_at\n             from eth_wallet_balances stored",
        "wallet >= address order by wallet limit 1",
        "(select count(*) from eth_wallet_balances)",
        "order by stored.updated_at limit 1 offset $3",
        "where updated_at >= $1 and updated_at < $2",
        "select wallet from eth_wallet_balances where wallet = any($1)",
        "sum(stored.rows)",
        "select width_bucket",
        "from eth_wallet_read_failures failed\n             cross join lateral",
        "from unnest($1::text[]) as given (bucket)",
        "from unnest($1::text[], $2::text[]) as given (first, last)",
        "where left(wallet, $2::int) = any($3)",
    ] {
        assert!(seen.contains(statement), "never seen: {statement}");
    }
}
