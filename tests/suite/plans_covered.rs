//! With nearly all of 300,000 rows covered, by their own reads or by their buckets, no statement about coverage looks at
//! more than a few of them.

use std::time::Duration;

use ethtally_testbed::{Chain, postgres};

use super::plans::{nodes, plans_of_the_program, rows, server, shown};
use crate::support::{database::Database, program::ethtally, table::store_unread, watch::watch};

/// Rows that were read at block $read, when buckets were confirmed at block 60.
const ROWS: &str = "
    DELETE FROM eth_wallet_balances;
    DELETE FROM eth_watch_uncovered;
    INSERT INTO eth_wallet_balances (wallet, balance, read_block, updated_at, created_at)
    SELECT '0x' || md5(n::text) || substr(md5((-n)::text), 1, 8), n, CASE WHEN n % 30000 = 0 THEN 5 ELSE $read END,
        CASE WHEN n % 10000 = 0 THEN now() at time zone 'utc' ELSE TIMESTAMP '2026-01-01' END, TIMESTAMP '2026-01-01'
    FROM generate_series(1, 300000) AS n;
    UPDATE eth_wallet_confirmations SET block = 60, selected_at = TIMESTAMP '2026-02-01';
    UPDATE eth_watch_coverage SET followed_from = 50, followed_since = TIMESTAMP '2026-02-15' WHERE checkpoint <> '';
    INSERT INTO eth_watch_uncovered SELECT checkpoint, wallet, 50 FROM eth_watch_coverage, eth_wallet_balances
    WHERE checkpoint <> '' AND read_block < 50 AND updated_at > TIMESTAMP '2026-02-15';
    VACUUM ANALYZE eth_wallet_balances;";

/// A row that a statement takes from the table.
const FEW: f64 = 5_000.0;

#[tokio::test(flavor = "multi_thread")]
async fn counting_looks_at_few_rows_when_nearly_all_are_covered() {
    let server = server();
    let database = Database::at(server.create_database("covered").unwrap());
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..10);
    let run = |arguments: &str| {
        let ran = ethtally(arguments.split(' ')).node(chain.url()).database(&database);
        ran.run().expect(0)
    };
    watch("--once", chain.url(), &database).run().expect(0);
    run("sweep --all --write changed");
    // Own reads, and then 30 rows written since 290,000 others were confirmed.
    for (read, uncovered) in [(70, 10), (5, 30)] {
        postgres::psql(&database.url, &ROWS.replace("$read", &read.to_string())).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let logged = server.log().len();
        let status = run("status --json").json();
        assert_eq!(status["not_covered"], uncovered, "{status}");
        let plan = run("sweep --all --not-covered --dry-run --json").json();
        assert_eq!(plan["wallets"], uncovered);
        let swept = run("sweep --all --not-covered --json").json();
        assert_eq!(swept["requested"], uncovered);
        let mut seen = 0;
        for plan in plans_of_the_program(&server.log()[logged..]) {
            if !plan["Query Text"].as_str().unwrap().contains("eth_watch_uncovered missed") {
                continue;
            }
            seen += 1;
            let of_table = |name: &str| name.starts_with("eth_wallet_balances");
            let all = nodes(&plan["Plan"]).into_iter();
            let most =
                all.filter(|node| of_table(node["Relation Name"].as_str().unwrap_or_default()));
            let most = most.map(rows).fold(0.0, f64::max);
            assert!(most < FEW, "{most} rows\n{}", shown(&plan));
        }
        assert!(seen >= 3, "{seen}");
    }
}
