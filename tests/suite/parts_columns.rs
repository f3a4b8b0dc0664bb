//! How a table gets columns of parts, and who else has columns.

use alloy::primitives::U256;
use ethtally_testbed::{Chain, holding, wallet};
use serde_json::json;

use crate::support::{
    chains::{still_chain, transfer},
    database::{Database, on_both_databases},
    original::original_database,
    parts::{example_of_parts as example, on_chain, rows, run, unread, with_columns as profile},
    program::{ethtally, eventually},
    table::{dump, store_unread},
    wallets::address,
};

on_both_databases! {
    a_table_gets_columns_by_the_first_command_that_writes
    a_profile_without_the_columns_leaves_no_old_part
    a_column_of_others_is_not_taken
    a_column_that_was_dropped_is_added_again
    two_that_add_columns_at_once_do_not_collide
    names_that_other_tables_and_sql_have_are_columns_like_any_other
}

async fn a_table_gets_columns_by_the_first_command_that_writes(database: Database) {
    let chain = still_chain().await;
    let node = chain.url();
    store_unread(&database, 0..20);
    ethtally(["sweep", "--all"]).node(&node).database(&database).run().expect(0);
    let before = dump(&database).await;
    let wallet = address(3);
    for command in [
        &["status"][..],
        &["verify", &wallet],
        &["verify", "--sample", "3"],
        &["sweep", "--dry-run"],
    ] {
        let error = run(&database, &node, &example(), command).run().refused();
        assert!(
            error.contains(
                "lacks columns of the profile (held, staked, delegated); run `ethtally migrate`"
            ),
            "{error}"
        );
    }
    let checks = run(&database, &node, &example(), &["doctor", "--json"]).run().expect(1).json();
    let tables = checks["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "tables")
        .unwrap();
    assert!(tables["remedy"].as_str().unwrap().contains("ethtally migrate"), "{tables}");
    assert_eq!(dump(&database).await, before);
    // It is the same profile for the table: names do not matter.
    run(&database, &node, &example(), &["refresh", &address(3)]).run().expect(0);
    let after = rows(&database).await;
    assert_eq!(after.values().filter(|(_, parts)| *parts == [None; 3]).count(), 19);
    assert!(after[&address(3)].1[0].is_some());
    let again = run(&database, &node, &example(), &["migrate", "--json"]).run().expect(0).json();
    assert_eq!(again["applied"], json!([]));
    let other = database.another();
    let migrated = run(&other, &node, &example(), &["migrate", "--json"]).run().expect(0).json();
    let applied: Vec<_> =
        migrated["applied"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(
        applied.ends_with(&["column held", "column staked", "column delegated"]),
        "{applied:?}"
    );
}

async fn a_profile_without_the_columns_leaves_no_old_part(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let node = chain.url();
    unread(&database, 0..100);
    run(&database, &node, &example(), &["sweep", "--all"]).run().expect(0);
    transfer(&chain, 90, 91, U256::from(7)).await;
    ethtally(["refresh", &address(90)]).node(&node).database(&database).run().expect(0);
    let one = profile(&database, &[("balanceOf", "held")]);
    run(&database, &node, &one, &["refresh", &address(91)]).run().expect(0);
    let rows = rows(&database).await;
    assert_eq!(rows[&address(90)].1, [None; 3]);
    let held = chain.holding_at(wallet(91), 1).await.unwrap().balance;
    assert_eq!(rows[&address(91)].1, [Some(held), None, None]);
    assert_eq!(rows.values().filter(|(_, parts)| parts.iter().all(Option::is_some)).count(), 98);
    // A sweep that writes only what changed writes these two.
    let sweep = ["sweep", "--all", "--write", "changed", "--json"];
    run(&database, &node, &example(), &sweep).run().expect(0);
    let rows = self::rows(&database).await;
    assert_eq!(rows[&address(90)], on_chain(&chain, 90).await);
    assert_eq!(rows[&address(91)], on_chain(&chain, 91).await);
}

async fn a_column_of_others_is_not_taken(database: Database) {
    let chain = still_chain().await;
    let node = chain.url();
    store_unread(&database, 0..5);
    database.sql("alter table eth_wallet_balances add column held text").await;
    for command in [&["migrate"][..], &["sweep"], &["refresh", &address(1)]] {
        let error = run(&database, &node, &example(), command).run().refused();
        assert!(
            error.contains("has a column held that ethtally did not add; name another column"),
            "{error}"
        );
    }
    assert_eq!(database.sql("select column_name from eth_wallet_parts").await, [""; 0]);
    let named = profile(&database, &[("balanceOf", "order")]);
    run(&database, &node, &named, &["sweep", "--all"]).run().expect(0);
    let value =
        format!("select \"order\" from eth_wallet_balances where wallet = '{}'", address(1));
    assert_eq!(database.value(&value).await, holding(1).balance.to_string());
    // A column keeps its meaning.
    let swapped = profile(&database, &[("totalStakedFor", "order")]);
    let error = run(&database, &node, &swapped, &["sweep"]).run().refused();
    assert!(
        error.contains("column order of eth_wallet_balances holds balanceOf(address) of 0x"),
        "{error}"
    );
    let error = run(&database, &node, &swapped, &["status"]).run().refused();
    assert!(error.contains("not totalStakedFor(address) of 0x"), "{error}");
}

async fn a_column_that_was_dropped_is_added_again(database: Database) {
    let chain = still_chain().await;
    let node = chain.url();
    unread(&database, 0..5);
    run(&database, &node, &example(), &["sweep", "--all"]).run().expect(0);
    database.sql("alter table eth_wallet_balances drop column staked").await;
    let error = run(&database, &node, &example(), &["status"]).run().refused();
    assert!(error.contains("lacks columns of the profile (staked)"), "{error}");
    // Those that do not need it, work.
    ethtally(["refresh", &address(1)]).node(&node).database(&database).run().expect(0);
    run(&database, &node, &example(), &["migrate"]).run().expect(0);
    assert!(rows(&database).await.values().all(|(_, parts)| parts[1].is_none()));
    run(&database, &node, &example(), &["sweep", "--all"]).run().expect(0);
    assert!(rows(&database).await.values().all(|(_, parts)| parts[1].is_some()));
}

async fn two_that_add_columns_at_once_do_not_collide(database: Database) {
    store_unread(&database, 0..5);
    let started: Vec<_> = (0..6)
        .map(|_| run(&database, "http://127.0.0.1:1", &example(), &["migrate", "--json"]).start())
        .collect();
    let added: Vec<_> = started
        .into_iter()
        .map(|run| run.wait().expect(0).json()["applied"].as_array().unwrap().len())
        .filter(|applied| *applied > 0)
        .collect();
    assert_eq!(added, [3]);
}

async fn names_that_other_tables_and_sql_have_are_columns_like_any_other(database: Database) {
    let chain = still_chain().await;
    let node = chain.url();
    let functions = ["balanceOf", "totalStakedFor", "getTotalDelegatorStake"];
    for names in
        [["value", "at", "block"], ["bucket", "select", "key"], ["part_2", "read", "stored"]]
    {
        let database = database.another();
        let columns: Vec<_> = functions.into_iter().zip(names).collect();
        let profile = profile(&database, &columns);
        store_unread(&database, 0..60);
        for write in ["all", "changed", "changed"] {
            let sweep = ["sweep", "--all", "--write", write, "--changes=-"];
            run(&database, &node, &profile, &sweep).run().expect(0);
        }
        let [first, second, third] = names.map(|name| format!("\"{name}\""));
        let columns = format!("select wallet, {first}, {second}, {third} from eth_wallet_balances");
        let mut stored = database.sql(&columns).await;
        stored.sort_unstable();
        let row = |n| {
            let at = holding(n);
            format!("{}|{}|{}|{}", address(n), at.balance, at.staked, at.delegated)
        };
        let mut expected: Vec<_> = (0..60).map(row).collect();
        expected.sort_unstable();
        assert_eq!(stored, expected, "{names:?}");
        run(&database, &node, &profile, &["verify", "--sample", "60"]).run().expect(0);
    }
}

/// The tables of the original, plain and partitioned: their rows are not written anew.
#[tokio::test(flavor = "multi_thread")]
async fn columns_are_added_to_a_table_of_the_original_without_writing_its_rows_anew() {
    const PARTITIONED: &str = "
        drop table eth_wallet_balances;
        create table eth_wallet_balances (
            wallet      text primary key,
            balance     numeric not null default 0,
            blocknumber bigint,
            updated_at  timestamp not null default current_timestamp,
            created_at  timestamp not null default current_timestamp) partition by hash (wallet);
        create index eth_wallet_balances_updated_at_idx on eth_wallet_balances (updated_at);
        create table balances_0 partition of eth_wallet_balances for values with (modulus 2, remainder 0);
        create table balances_1 partition of eth_wallet_balances for values with (modulus 2, remainder 1);";
    let chain = still_chain().await;
    for form in ["", PARTITIONED] {
        let wallets: Vec<_> = (0..50).map(|n| format!("('{}', {n})", address(n))).collect();
        let fill = format!(
            "insert into eth_wallet_balances (wallet, balance) values {}",
            wallets.join(",")
        );
        let database = original_database(&format!("{form} {fill}"));
        let files = "select relname, relfilenode from pg_class
            where relkind = 'r' and (relname = 'eth_wallet_balances' or relname like 'balances\\__') order by 1";
        let before = database.sql(files).await;
        run(&database, &chain.url(), &example(), &["migrate"]).run().expect(0);
        assert_eq!(database.sql(files).await, before);
        let kinds = "select distinct data_type from information_schema.columns
            where column_name in ('held', 'staked', 'delegated')";
        assert_eq!(database.value(kinds).await, "numeric");
        assert!(rows(&database).await.values().all(|(_, parts)| *parts == [None; 3]));
        run(&database, &chain.url(), &example(), &["sweep", "--all"]).run().expect(0);
        let stored = rows(&database).await;
        for n in 0..50 {
            let at = holding(n);
            let parts = [at.balance, at.staked, at.delegated].map(Some);
            assert_eq!(stored[&address(n)], (at.total(), parts), "wallet {n}");
        }
    }
}

/// A writer that has looked up the columns holds their addition off, and readers continue.
#[tokio::test(flavor = "multi_thread")]
async fn adding_a_column_waits_for_writers() {
    use sqlx::{ConnectOptions, Executor};
    let database = Database::postgres();
    store_unread(&database, 0..5);
    let options: sqlx::postgres::PgConnectOptions = database.url.parse().unwrap();
    let mut writer = options.connect().await.unwrap();
    writer.execute("begin; select count(*) from eth_wallet_parts").await.unwrap();
    let mut migrating = run(&database, "http://127.0.0.1:1", &example(), &["migrate"]).start();
    let (_, stderr) = migrating.output();
    let lines = crate::support::watch::Lines::of(stderr);
    eventually("it waits", || {
        lines.so_far().iter().any(|line| line.contains("waiting to upgrade the tables"))
    });
    assert_eq!(database.value("select count(*) from eth_wallet_balances").await, "5");
    ethtally(["status"]).database(&database).run().expect(0);
    writer.execute("commit").await.unwrap();
    migrating.wait().expect(0);
    run(&database, "http://127.0.0.1:1", &example(), &["status"]).run().expect(0);
}
