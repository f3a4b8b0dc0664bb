//! Migrations and sweeps do not lock out other programs that use the tables.

use std::time::Duration;

use ethtally_testbed::Chain;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use crate::support::{
    database::Database, original::original_database, program::ethtally, table::store_unread,
    wallets::address,
};

/// The original's tables with this many rows.
fn original_rows(rows: u64) -> Database {
    original_database(&format!(
        "INSERT INTO eth_wallet_balances (wallet, balance)
         SELECT '0x' || md5(n::text) || '00000000', n FROM generate_series(1, {rows}) AS n;"
    ))
}

/// A session of another program, whose statements fail after waiting for a minute.
async fn other_program(database: &Database) -> PgConnection {
    let mut session = PgConnection::connect(&database.url).await.expect("a connection");
    session.execute("set statement_timeout = '60s'").await.unwrap();
    session
}

async fn value(session: &mut PgConnection, sql: &str) -> i64 {
    let row = session.fetch_one(AssertSqlSafe(sql.to_owned())).await;
    row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_not_blocked_while_a_migration_waits_for_a_long_transaction() {
    let database = original_rows(100);
    let (mut report, mut reader) = (other_program(&database).await, other_program(&database).await);
    report.execute("begin").await.unwrap();
    let rows = "select count(*) from eth_wallet_balances";
    assert_eq!(value(&mut report, rows).await, 100);

    let mut migrating = ethtally(["migrate", "--json"]).database(&database).start();
    let waiting = "select count(*) from pg_stat_activity
         where application_name = 'ethtally' and wait_event_type = 'Lock' and datname = current_database()";
    while value(&mut reader, waiting).await == 0 {
        assert!(!migrating.has_ended());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..20 {
        assert_eq!(value(&mut reader, rows).await, 100);
    }
    assert!(!migrating.has_ended());
    let columns = "select count(*) from pg_attribute
         where attrelid = 'eth_wallet_balances'::regclass and attname = 'read_block'";
    assert_eq!(value(&mut reader, columns).await, 0);

    report.execute("commit").await.unwrap();
    let ran = migrating.wait().expect(0);
    assert!(ran.json()["applied"].as_array().unwrap().iter().any(|name| name == "0002 reads"));
    assert_eq!(ran.stderr.matches("holds them").count(), 1, "{ran:?}");
    assert_eq!(value(&mut reader, columns).await, 1);
    assert_eq!(value(&mut reader, rows).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_not_blocked_while_an_index_is_built() {
    let database = original_rows(300_000);
    let mut reader = other_program(&database).await;
    let mut migrating = ethtally(["migrate"]).database(&database).start();
    // Both at once: a blocked reader would get its result only after the build.
    let while_built = "select (select count(*) from pg_stat_progress_create_index
             where relid = 'eth_wallet_balances'::regclass)
         from (select from eth_wallet_balances limit 1) as row";
    while value(&mut reader, while_built).await == 0 {
        assert!(!migrating.has_ended(), "no row was read while the index was built");
    }
    migrating.wait().expect(0);
    let index = "select count(*) from pg_indexes where indexname = 'eth_wallet_balances_sweep_idx'";
    assert_eq!(value(&mut reader, index).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn autovacuum_settings_are_added_and_the_owners_are_kept() {
    let settings = "select unnest(reloptions) from pg_class
         where oid = 'eth_wallet_balances'::regclass order by 1";
    let database = Database::postgres();
    ethtally(["migrate"]).database(&database).run().expect(0);
    assert_eq!(
        database.sql(settings).await,
        ["autovacuum_vacuum_cost_limit=400", "autovacuum_vacuum_scale_factor=0.05"]
    );

    let database = original_rows(10);
    let owners = "alter table eth_wallet_balances set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.3)";
    database.sql(owners).await;
    ethtally(["migrate"]).database(&database).run().expect(0);
    assert_eq!(
        database.sql(settings).await,
        ["autovacuum_vacuum_cost_limit=400", "autovacuum_vacuum_scale_factor=0.3", "fillfactor=80"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_not_blocked_while_a_batch_is_stored() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::postgres();
    store_unread(&database, 0..1_000);
    let (mut writer, mut reader) = (other_program(&database).await, other_program(&database).await);
    // The batch blocks at this row, with its earlier writes uncommitted.
    let last = format!(
        "select wallet from eth_wallet_balances where wallet = '{}' for update",
        (0..1_000).map(address).max().unwrap()
    );
    writer.execute("begin").await.unwrap();
    writer.execute(AssertSqlSafe(last)).await.unwrap();
    let sweep =
        ethtally(["sweep", "--all", "--json"]).node(chain.url()).database(&database).start();
    let waiting = "select count(*) from pg_stat_activity
         where application_name = 'ethtally' and wait_event_type = 'Lock' and datname = current_database()";
    while value(&mut reader, waiting).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Reads like those of other services: one wallet, the newest rows, all rows.
    let one = format!("select count(*) from eth_wallet_balances where wallet = '{}'", address(7));
    assert_eq!(value(&mut reader, &one).await, 1);
    let read = "select count(read_block) from eth_wallet_balances";
    assert_eq!(value(&mut reader, read).await, 0);
    let newest = "select count(*) from (select * from eth_wallet_balances order by updated_at desc limit 50) as newest";
    assert_eq!(value(&mut reader, newest).await, 50);
    assert_eq!(value(&mut reader, waiting).await, 1, "the batch is still open");

    writer.execute("commit").await.unwrap();
    assert_eq!(sweep.wait().expect(0).json()["updated"], 1_000);
    assert_eq!(value(&mut reader, read).await, 1_000);
}
