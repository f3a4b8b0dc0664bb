//! ethtally takes over the database of the original system without losing anything.

use std::hash::{DefaultHasher, Hash, Hasher};

use ethtally_testbed::{
    Chain, TokenFault, holding,
    postgres::{self, Cluster, DatabaseOptions},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    database::{Database, on_both_databases},
    original::original_database,
    program::{Output, ethtally},
    table::store_unread,
    wallets::address,
};

on_both_databases! {
    concurrent_migrations_are_applied_once
    status_and_verify_change_nothing
    status_and_verify_create_nothing
    rows_without_a_valid_wallet_do_not_stop_a_sweep
}

/// All columns with types and defaults, and all indexes.
const SCHEMA: &str = "
    SELECT table_name, column_name, data_type, is_nullable, column_default
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL
    SELECT tablename, indexname, indexdef, '', '' FROM pg_indexes WHERE schemaname = 'public'
    ORDER BY 1, 2";

/// All values of the original's tables.
const ORIGINAL_ROWS: &str = "
    SELECT wallet, balance, blocknumber, updated_at, created_at FROM eth_wallet_balances ORDER BY wallet;
    SELECT * FROM eth_indexer_checkpoints ORDER BY name";

/// The original's tables with 40 wallets: 10 with the block of an event, 20 without, 10 placeholders.
fn original_wallets() -> Database {
    let rows: Vec<_> = (0..40)
        .map(|n| {
            let (balance, block, updated) = match n {
                0 => {
                    (format!("{}", u128::MAX), "12345".into(), "2025-06-07 08:09:10.111213".into())
                }
                1..10 => (
                    format!("{n}000000000000000000"),
                    (20_000_000 + n).to_string(),
                    format!("2025-01-{n:02} 00:00:00"),
                ),
                10..30 => (format!("{n}"), "NULL".to_owned(), format!("2024-02-{n} 12:30:00.5")),
                _ => ("0".into(), "NULL".into(), "1970-01-01".to_owned()),
            };
            format!("('{}', {balance}, {block}, '{updated}', '2023-03-04 05:06:07')", address(n))
        })
        .collect();
    original_database(&format!("INSERT INTO eth_wallet_balances VALUES {}", rows.join(",")))
}

fn migrate(database: &Database) -> Output {
    ethtally(["migrate", "--json"]).database(database).run()
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_keeps_every_value_of_the_original_and_adds_only_what_is_missing() {
    let database = original_wallets();
    let (schema, rows) = (database.sql(SCHEMA).await, database.sql(ORIGINAL_ROWS).await);
    assert_eq!(rows.len(), 41);

    migrate(&database).expect(0);

    assert_eq!(database.sql(ORIGINAL_ROWS).await, rows);
    let migrated = database.sql(SCHEMA).await;
    let lost: Vec<_> = schema.iter().filter(|line| !migrated.contains(line)).collect();
    assert_eq!(lost, [""; 0]);
    let added: Vec<_> = migrated
        .iter()
        .filter(|line| !schema.contains(line))
        .map(|line| line.split('|').take(3).collect::<Vec<_>>().join("|"))
        .filter(|line| !line.starts_with("_ethtally_migrations|"))
        .collect();
    assert_eq!(
        added,
        [
            "eth_wallet_balances|eth_wallet_balances_sweep_idx|CREATE INDEX eth_wallet_balances_sweep_idx ON public.eth_wallet_balances USING btree (updated_at, wallet)",
            "eth_wallet_balances|eth_wallet_balances_unread_idx|CREATE INDEX eth_wallet_balances_unread_idx ON public.eth_wallet_balances USING btree (wallet) WHERE (read_block IS NULL)",
            "eth_wallet_balances|read_block|bigint",
            "eth_wallet_confirmations|block|bigint",
            "eth_wallet_confirmations|bucket|text",
            "eth_wallet_confirmations|eth_wallet_confirmations_block_idx|CREATE INDEX eth_wallet_confirmations_block_idx ON public.eth_wallet_confirmations USING btree (block)",
            "eth_wallet_confirmations|eth_wallet_confirmations_pkey|CREATE UNIQUE INDEX eth_wallet_confirmations_pkey ON public.eth_wallet_confirmations USING btree (bucket)",
            "eth_wallet_confirmations|selected_at|timestamp without time zone",
            "eth_wallet_confirmations|wallets|bigint",
            "eth_wallet_freshness|balance|numeric",
            "eth_wallet_freshness|fresh_at|timestamp without time zone",
            "eth_wallet_freshness|read_block|bigint",
            "eth_wallet_freshness|wallet|text",
            "eth_wallet_node_hints|accepted|bigint",
            "eth_wallet_node_hints|endpoint|text",
            "eth_wallet_node_hints|eth_wallet_node_hints_pkey|CREATE UNIQUE INDEX eth_wallet_node_hints_pkey ON public.eth_wallet_node_hints USING btree (endpoint, kind)",
            "eth_wallet_node_hints|kind|text",
            "eth_wallet_node_hints|refused|bigint",
            "eth_wallet_node_hints|seen_at|timestamp without time zone",
            "eth_wallet_parts|column_name|text",
            "eth_wallet_parts|eth_wallet_parts_pkey|CREATE UNIQUE INDEX eth_wallet_parts_pkey ON public.eth_wallet_parts USING btree (column_name)",
            "eth_wallet_parts|holds|text",
            "eth_wallet_profile|eth_wallet_profile_pkey|CREATE UNIQUE INDEX eth_wallet_profile_pkey ON public.eth_wallet_profile USING btree (id)",
            "eth_wallet_profile|id|smallint",
            "eth_wallet_profile|identity|text",
            "eth_wallet_profile|name|text",
            "eth_wallet_profile|recorded_at|timestamp without time zone",
            "eth_wallet_read_failures|eth_wallet_read_failures_due_idx|CREATE INDEX eth_wallet_read_failures_due_idx ON public.eth_wallet_read_failures USING btree (next_try_at, wallet)",
            "eth_wallet_read_failures|eth_wallet_read_failures_pkey|CREATE UNIQUE INDEX eth_wallet_read_failures_pkey ON public.eth_wallet_read_failures USING btree (wallet)",
            "eth_wallet_read_failures|failures|bigint",
            "eth_wallet_read_failures|last_error|text",
            "eth_wallet_read_failures|last_failed_at|timestamp without time zone",
            "eth_wallet_read_failures|next_try_at|timestamp without time zone",
            "eth_wallet_read_failures|wallet|text",
            "eth_wallet_runs|command|text",
            "eth_wallet_runs|counts|text",
            "eth_wallet_runs|ended_at|timestamp without time zone",
            "eth_wallet_runs|error|text",
            "eth_wallet_runs|eth_wallet_runs_command_idx|CREATE INDEX eth_wallet_runs_command_idx ON public.eth_wallet_runs USING btree (command, id)",
            "eth_wallet_runs|eth_wallet_runs_pkey|CREATE UNIQUE INDEX eth_wallet_runs_pkey ON public.eth_wallet_runs USING btree (id)",
            "eth_wallet_runs|exit_status|bigint",
            "eth_wallet_runs|id|bigint",
            "eth_wallet_runs|outcome|text",
            "eth_wallet_runs|shard|text",
            "eth_wallet_runs|started_at|timestamp without time zone",
            "eth_watch_blocks|checkpoint|text",
            "eth_watch_blocks|eth_watch_blocks_pkey|CREATE UNIQUE INDEX eth_watch_blocks_pkey ON public.eth_watch_blocks USING btree (checkpoint, hash)",
            "eth_watch_blocks|gone|boolean",
            "eth_watch_blocks|hash|text",
            "eth_watch_blocks|number|bigint",
            "eth_watch_blocks|redo_from|bigint",
            "eth_watch_blocks|wallets|text",
            "eth_watch_coverage|checkpoint|text",
            "eth_watch_coverage|doubt_from|bigint",
            "eth_watch_coverage|doubt_to|bigint",
            "eth_watch_coverage|doubted_at|timestamp without time zone",
            "eth_watch_coverage|eth_watch_coverage_pkey|CREATE UNIQUE INDEX eth_watch_coverage_pkey ON public.eth_watch_coverage USING btree (checkpoint)",
            "eth_watch_coverage|events|text",
            "eth_watch_coverage|followed_from|bigint",
            "eth_watch_coverage|followed_since|timestamp without time zone",
            "eth_watch_coverage|last_block|bigint",
            "eth_watch_uncovered|block|bigint",
            "eth_watch_uncovered|checkpoint|text",
            "eth_watch_uncovered|eth_watch_uncovered_pkey|CREATE UNIQUE INDEX eth_watch_uncovered_pkey ON public.eth_watch_uncovered USING btree (checkpoint, wallet)",
            "eth_watch_uncovered|wallet|text",
        ]
    );
    let read = "SELECT count(*) FROM eth_wallet_balances WHERE read_block IS NOT NULL";
    assert_eq!(database.value(read).await, "0");

    let ran = migrate(&database).expect(0);
    assert_eq!(ran.json(), json!({"command": "migrate", "applied": []}));
    assert_eq!(database.sql(ORIGINAL_ROWS).await, rows);
    assert_eq!(database.sql(SCHEMA).await, migrated);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_tables_match_the_originals_migrated_tables() {
    let (taken_over, own) = (original_wallets(), Database::postgres());
    migrate(&taken_over).expect(0);
    migrate(&own).expect(0);
    assert_eq!(own.sql(SCHEMA).await, taken_over.sql(SCHEMA).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_of_the_original_table_reads_placeholders_first_and_keeps_blocknumber() {
    let chain = Chain::builder().start().await.unwrap();
    let database = original_wallets();
    let blocks = "SELECT wallet, blocknumber, created_at FROM eth_wallet_balances ORDER BY wallet";
    let before = database.sql(blocks).await;
    let sweep = |arguments: &[&'static str]| {
        let arguments = [&["sweep", "--json"], arguments].concat();
        ethtally(arguments).node(chain.url()).database(&database).run().expect(0).json()
    };
    let read =
        "SELECT wallet, balance FROM eth_wallet_balances WHERE read_block = 0 ORDER BY wallet";
    let expected = |range: std::ops::Range<u64>| {
        let mut rows: Vec<_> =
            range.map(|n| format!("{}|{}", address(n), holding(n).total())).collect();
        rows.sort();
        rows
    };

    assert_eq!(sweep(&["--batch", "10"])["updated"], 10);
    assert_eq!(database.sql(read).await, expected(30..40));
    // Then by age: rows of 2024 come before 2025.
    assert_eq!(sweep(&["--batch", "20"])["updated"], 20);
    assert_eq!(database.sql(read).await, expected(10..40));
    assert_eq!(sweep(&["--all"])["updated"], 40);
    assert_eq!(database.sql(read).await, expected(0..40));
    assert_eq!(database.sql(blocks).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_utc_in_every_time_zone_of_server_database_and_role() {
    let cluster = Cluster::start_with(&[("timezone", "America/New_York")]).unwrap();
    let zone = [("timezone", "America/New_York")];
    let options = DatabaseOptions { locale: None, settings: &zone };
    let database = Database::at(cluster.create_database_with("newyork", &options).unwrap());
    postgres::psql(&database.url, "ALTER ROLE postgres SET timezone = 'America/New_York'").unwrap();
    assert_eq!(database.value("SHOW timezone").await, "America/New_York");
    let chain = Chain::builder().faulty().start().await.unwrap();
    chain.set_fault(wallet(3), TokenFault::Revert).await.unwrap();
    store_unread(&database, [4, 5]);

    ethtally(["refresh", &address(1), &address(2), &address(3)])
        .node(chain.url())
        .database(&database)
        .run()
        .expect(0);

    // In seconds; another time zone would differ by hours.
    let age = |time: &str| format!("abs(extract(epoch from {time} - (now() at time zone 'utc')))");
    let written = format!(
        "SELECT wallet FROM eth_wallet_balances WHERE {} < 600 AND {} < 600 ORDER BY read_block",
        age("updated_at"),
        age("created_at"),
    );
    assert_eq!(database.sql(&written).await.len(), 2);
    let created =
        format!("SELECT count(*) FROM eth_wallet_balances WHERE {} < 600", age("created_at"));
    assert_eq!(database.value(&created).await, "4");
    let failed = format!(
        "SELECT wallet FROM eth_wallet_read_failures WHERE {} < 600 AND {} < 600",
        age("last_failed_at"),
        age("next_try_at"),
    );
    assert_eq!(database.sql(&failed).await, [address(3)]);

    // A row of two hours ago, as written by another client.
    let sql = format!(
        "UPDATE eth_wallet_balances SET updated_at = (now() at time zone 'utc') - interval '2 hours' WHERE wallet = '{}';
         DELETE FROM eth_wallet_balances WHERE wallet IN ('{}', '{}');",
        address(1), address(4), address(5)
    );
    database.sql(&sql).await;
    let status = ethtally(["status", "--json"]).database(&database).run().expect(0).json();
    let seconds = |name: &str| status["age_seconds"][name].as_u64().unwrap();
    assert!((7_200..7_800).contains(&seconds("max")), "{status}");
    assert!(seconds("p50") < 600, "{status}");
    let oldest =
        "SELECT to_char(min(updated_at), 'YYYY-MM-DD\"T\"HH24:MI:SS') FROM eth_wallet_balances";
    let oldest = database.value(oldest).await;
    assert!(
        status["oldest_updated_at"].as_str().unwrap().starts_with(&oldest),
        "{status} {oldest}"
    );
    ethtally(["status", "--max-age", "90m"]).database(&database).run().expect(1);
    ethtally(["status", "--max-age", "3h"]).database(&database).run().expect(0);

    // A sweep uses the same age.
    let sweep =
        ethtally(["sweep", "--older-than", "1h", "--json"]).node(chain.url()).database(&database);
    assert_eq!(sweep.run().expect(0).json()["updated"], 1);
}

/// The same database for a new role with these grants.
fn as_role(database: &Database, role: &str, grants: &str) -> Database {
    let name = database.url.rsplit('/').next().unwrap();
    let role = format!("{role}_{name}");
    let sql = format!(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE {role} LOGIN; {}",
        grants.replace("ROLE", &role)
    );
    postgres::psql(&database.url, &sql).unwrap();
    Database::at(database.url.replace("//postgres@", &format!("//{role}@")))
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_to_create_tables_are_one_clear_error_line() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::postgres();
    let poor = as_role(&database, "poor", "");
    for command in ["migrate", "sweep"] {
        let ran = ethtally([command]).node(chain.url()).database(&poor).run().expect(4);
        let error = ran.error();
        for part in
            ["database postgres://", "may not create or change the tables", "permission denied"]
        {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(error.matches("permission denied").count(), 1, "{error}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        assert_eq!(ran.own(), "");
    }
    // Nor may a role that cannot alter the original's tables.
    let database = original_wallets();
    let poor = as_role(
        &database,
        "poor",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO ROLE; GRANT CREATE ON SCHEMA public TO ROLE",
    );
    let rows = database.sql(ORIGINAL_ROWS).await;
    let ran = migrate(&poor).expect(4);
    assert!(ran.error().contains("must be owner of table eth_wallet_balances"), "{ran:?}");
    assert_eq!(database.sql(ORIGINAL_ROWS).await, rows);
    // Once the tables exist, rights to rows are enough.
    migrate(&database).expect(0);
    postgres::psql(&database.url, "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC").unwrap();
    let sweep = ethtally(["sweep", "--json"]).node(chain.url()).database(&poor).run().expect(0);
    assert_eq!(sweep.json()["updated"], 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_only_select_can_run_status_and_verify() {
    let chain = Chain::builder().start().await.unwrap();
    let database = original_wallets();
    ethtally(["sweep", "--all"]).node(chain.url()).database(&database).run().expect(0);
    let reader =
        as_role(&database, "reader", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO ROLE");
    let run = |arguments: &[&str]| {
        ethtally(arguments.iter().copied()).node(chain.url()).database(&reader).run()
    };
    assert_eq!(run(&["status", "--json"]).expect(0).json()["wallets"], 40);
    let checkpoint = &run(&["status", "--json"]).json()["checkpoint"];
    assert_eq!(checkpoint["last_block"], 21_000_000);
    assert_eq!(run(&["verify", &address(3), "--json"]).expect(0).json()["in_sync"], true);
    assert_eq!(run(&["verify", "--sample", "50", "--json"]).expect(0).json()["in_sync"], 40);
    let refused = run(&["refresh", &address(3)]).expect(4);
    assert!(
        refused
            .error()
            .contains("may not write to eth_wallet_balances; run: grant select, insert,"),
        "{refused:?}"
    );
}

async fn concurrent_migrations_are_applied_once(first: Database) {
    for round in 0..8 {
        let database = match round {
            0 if !first.is_sqlite() => original_wallets(),
            _ => first.another(),
        };
        let running: Vec<_> =
            (0..3).map(|_| ethtally(["migrate", "--json"]).database(&database).start()).collect();
        for running in running {
            running.wait().expect(0);
        }
        assert_eq!(migrate(&database).expect(0).json()["applied"], json!([]));
        let versions = "select version from _ethtally_migrations order by version";
        let all: Vec<_> = (1..=10).map(|version| version.to_string()).collect();
        assert_eq!(database.sql(versions).await, all);
    }
}

/// All rows of a database, and the schema of PostgreSQL.
async fn everything(database: &Database) -> Vec<String> {
    let mut all = Vec::new();
    for what in [
        "* from eth_wallet_balances",
        "* from eth_wallet_read_failures",
        "* from eth_indexer_checkpoints",
        "version, installed_on, execution_time from _ethtally_migrations",
    ] {
        all.extend(database.sql(&format!("select {what} order by 1")).await);
    }
    if !database.is_sqlite() {
        all.extend(database.sql(SCHEMA).await);
        all.extend(database.sql("select relname from pg_class where relnamespace = 'public'::regnamespace order by 1").await);
    }
    all
}

/// The names of the files in a folder, with a hash of their contents.
fn files(folder: &std::path::Path) -> Vec<(String, u64)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let mut hasher = DefaultHasher::new();
            std::fs::read(entry.path()).unwrap().hash(&mut hasher);
            (entry.file_name().into_string().unwrap(), hasher.finish())
        })
        .collect();
    files.sort();
    files
}

async fn status_and_verify_change_nothing(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    ethtally(["refresh", &address(1), &address(2), &address(3)])
        .node(chain.url())
        .database(&database)
        .run()
        .expect(0);
    database
        .sql(&format!(
            "update eth_wallet_balances set balance = '7' where wallet = '{}'",
            address(2)
        ))
        .await;
    let before = everything(&database).await;
    let files_before = files(database.folder());

    let run = |arguments: &[&str]| {
        ethtally(arguments.iter().copied()).node(chain.url()).database(&database).run()
    };
    run(&["status"]).expect(0);
    run(&["status", "--max-age", "0s"]);
    run(&["verify", &address(1)]).expect(0);
    run(&["verify", &address(2)]).expect(1);
    let missing = run(&["verify", &address(9), "--json"]).expect(1).json();
    assert_eq!((&missing["stored_total"], &missing["in_sync"]), (&Value::Null, &json!(false)));
    assert_eq!(
        run(&["verify", "--sample", "9", "--json"]).expect(1).json()["drifted_wallets"],
        json!([address(2)])
    );

    assert_eq!(files(database.folder()), files_before);
    assert_eq!(everything(&database).await, before);
}

async fn status_and_verify_create_nothing(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let (address, sample) = (address(1), ["verify", "--sample", "3"]);
    for arguments in [&["status"][..], &["verify", &address], &sample, &["sweep", "--dry-run"]] {
        let ran = ethtally(arguments.iter().copied())
            .node(chain.url())
            .database(&database)
            .run()
            .expect(2);
        assert!(ran.error().contains("`ethtally migrate`"), "{ran:?}");
        assert_eq!(ran.own(), "");
    }
    // Nor without a database URL.
    ethtally(["status"]).folder(database.folder()).run().expect(2);
    assert_eq!(files(database.folder()), []);
    if !database.is_sqlite() {
        let made = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
        assert_eq!(database.value(made).await, "0");
    }
}

async fn rows_without_a_valid_wallet_do_not_stop_a_sweep(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    migrate(&database).expect(0);
    // Rows that another program may have left: the oldest, and more than a batch.
    for n in 0..5 {
        let upper = wallet(n).to_checksum(None);
        database
            .sql(&format!("insert into eth_wallet_balances (wallet, updated_at) values ('{upper}', '1969-01-01 00:00:00')"))
            .await;
    }
    store_unread(&database, 10..20);
    let sweep = ethtally(["sweep", "--batch", "3", "--json"]).node(chain.url()).database(&database);
    let ran = sweep.run().expect(0);
    assert_eq!((&ran.json()["requested"], &ran.json()["updated"]), (&json!(3), &json!(3)));
    assert!(ran.stderr.contains("not a wallet address in lower case"), "{ran:?}");
    let kept = "select count(*) from eth_wallet_balances where updated_at < '1970-01-01'";
    assert_eq!(database.value(kept).await, "5");
}
