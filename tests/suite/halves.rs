//! Rows that the database refuses: only they fail, and they are on the record with what the database says.

use std::collections::BTreeSet;

use alloy::primitives::U256;
use ethtally_testbed::{Chain, TokenFault, wallet};

use crate::support::{
    chains::{faulty_chain, still_chain, transfer},
    database::{Database, on_both_databases},
    program::{ethtally, refresh_first, sweep, sweep_all},
    table::{read_failures, read_totals, store_unread, stored_totals},
    wallets::{address, address_lines, genesis_totals, spenders},
    watch::{caught_up, start_connected, watch},
};

on_both_databases! {
    a_sweep_stores_all_rows_but_those_that_a_trigger_refuses
    rows_that_are_refused_for_different_reasons_each_have_theirs
    a_refresh_says_which_wallet_was_refused
    a_backfill_stores_all_rows_but_those_that_are_refused
    placeholders_are_stored_but_for_those_that_are_refused
    fix_says_that_a_row_was_refused
    a_watch_goes_on_past_a_row_that_is_refused
    a_table_that_refuses_every_row_is_an_error_of_the_database
    a_few_rows_that_are_all_refused_are_an_error_and_on_the_record
    a_failure_whose_reason_is_refused_loses_no_other
    an_error_that_is_not_about_a_row_is_not_halved
    a_row_that_was_refused_is_stored_once_it_is_accepted
}

/// Makes the database refuse rows of the table of totals with these wallets.
async fn refuse(database: &Database, wallets: &[u64]) {
    let list: Vec<_> = wallets.iter().map(|n| format!("'{}'", address(*n))).collect();
    refuse_where(database, "eth_wallet_balances", &format!("new.wallet in ({})", list.join(", ")))
        .await;
}

/// Makes the database refuse rows of a table for which this is true.
async fn refuse_where(database: &Database, table: &str, condition: &str) {
    let statements = match database.is_sqlite() {
        true => {
            let trigger = |event: &str| {
                format!(
                    "create trigger {table}_{event} before {event} on {table} when {condition}
                     begin select raise(abort, 'this row is frozen'); end"
                )
            };
            vec![trigger("insert"), trigger("update")]
        }
        false => vec![format!(
            "create function refuse_{table}() returns trigger language plpgsql as $$
             begin
                 if {condition} then raise exception 'this row is frozen'; end if;
                 return new;
             end $$;
             create trigger refuse before insert or update on {table}
             for each row execute function refuse_{table}()"
        )],
    };
    for statement in statements {
        database.sql(&statement).await;
    }
}

async fn accept(database: &Database) {
    let statements: &[&str] = match database.is_sqlite() {
        true => {
            &["drop trigger eth_wallet_balances_insert", "drop trigger eth_wallet_balances_update"]
        }
        false => &["drop trigger refuse on eth_wallet_balances"],
    };
    for statement in statements {
        database.sql(statement).await;
    }
}

/// Panics unless these wallets are on the record of failures, each once and with a reason that says this.
async fn assert_on_record(database: &Database, wallets: &[u64], says: &str) {
    let failures = read_failures(database).await;
    let expected: BTreeSet<_> = wallets.iter().map(|n| address(*n)).collect();
    assert_eq!(failures.keys().cloned().collect::<BTreeSet<_>>(), expected);
    for (wallet, reason) in failures {
        assert!(reason.starts_with("cannot be stored: "), "{wallet}: {reason}");
        assert!(reason.contains(says), "{wallet}: {reason}");
    }
}

async fn a_sweep_stores_all_rows_but_those_that_a_trigger_refuses(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..1_000);
    let refused = [0, 7, 8, 500, 999];
    refuse(&database, &refused).await;
    let ran = sweep_all(&database, &chain.url(), &[]).run().expect(0).json();
    assert_eq!(
        (&ran["requested"], &ran["failed"], &ran["superseded"]),
        (&1_000.into(), &5.into(), &0.into())
    );
    assert_eq!(ran["updated"], 995);
    let expected = genesis_totals((0..1_000).filter(|n| !refused.contains(n)));
    assert_eq!(read_totals(&database).await, expected);
    assert_on_record(&database, &refused, "this row is frozen").await;
    // A wallet that was refused is not tried before it is due, and --strict tells of it.
    assert_eq!(
        sweep_all(&database, &chain.url(), &["--strict"]).run().expect(0).json()["failed"],
        0
    );
    let arguments = ["refresh", "--json", "--strict", &address(0), &address(1)];
    ethtally(arguments).node(chain.url()).database(&database).run().expect(1);
}

async fn rows_that_are_refused_for_different_reasons_each_have_theirs(database: Database) {
    let chain = faulty_chain([(3, TokenFault::Revert)]).await;
    store_unread(&database, 0..50);
    refuse(&database, &[7]).await;
    if !database.is_sqlite() {
        // A column that is too narrow for one total, and a constraint that another one breaks.
        let total = genesis_totals(8..10);
        let (wide, broken) = (&total[&address(8)], &total[&address(9)]);
        database
            .sql(&format!(
                "alter table eth_wallet_balances add check (balance <> {broken});
                 create function narrow() returns trigger language plpgsql as $$
                 begin
                     if new.balance = {wide} then new.balance := repeat('9', 40)::numeric(30); end if;
                     return new;
                 end $$;
                 create trigger narrow before insert or update on eth_wallet_balances
                 for each row execute function narrow()"
            ))
            .await;
    }
    let refused: &[u64] = if database.is_sqlite() { &[7] } else { &[7, 8, 9] };
    let ran = sweep_all(&database, &chain.url(), &[]).run().expect(0).json();
    assert_eq!(ran["failed"], refused.len() + 1);
    let failures = read_failures(&database).await;
    assert_eq!(failures.len(), refused.len() + 1);
    assert_eq!(failures[&address(3)], "balanceOf failed");
    assert_eq!(failures[&address(7)], "cannot be stored: this row is frozen");
    if !database.is_sqlite() {
        assert!(failures[&address(8)].contains("numeric field overflow"), "{failures:?}");
        assert!(failures[&address(9)].contains("violates check constraint"), "{failures:?}");
    }
}

async fn a_refresh_says_which_wallet_was_refused(database: Database) {
    let chain = still_chain().await;
    refuse(database_with_tables(&database).await, &[1]).await;
    let ran = refresh_first(3, &[]).node(chain.url()).database(&database).run().expect(0).json();
    assert_eq!((&ran["updated"], &ran["failed"]), (&2.into(), &1.into()));
    assert_eq!(ran["wallets"][1]["total"], serde_json::Value::Null);
    assert_eq!(stored_totals(&database).await, genesis_totals([0, 2]));
    let text = ethtally(["refresh", &address(1), &address(2)]);
    let text = text.node(chain.url()).database(&database).run().expect(0).stdout;
    let line = format!("{}  cannot be stored: this row is frozen\n", address(1));
    assert!(text.starts_with(&line), "{text}");
}

/// The same database with its tables.
async fn database_with_tables(database: &Database) -> &Database {
    ethtally(["migrate"]).database(database).run().expect(0);
    database
}

async fn a_backfill_stores_all_rows_but_those_that_are_refused(database: Database) {
    let chain = still_chain().await;
    refuse(database_with_tables(&database).await, &[5, 6]).await;
    let backfill = || {
        let backfill = ethtally(["backfill", "--from-csv", "-", "--json"]);
        backfill.node(chain.url()).database(&database).input(address_lines(0..40)).run().expect(0)
    };
    for _ in 0..2 {
        let ran = backfill().json();
        assert_eq!((&ran["updated"], &ran["failed"]), (&38.into(), &2.into()));
    }
    assert_eq!(
        stored_totals(&database).await,
        genesis_totals((0..40).filter(|n| ![5, 6].contains(n)))
    );
    assert_on_record(&database, &[5, 6], "this row is frozen").await;
}

async fn placeholders_are_stored_but_for_those_that_are_refused(database: Database) {
    refuse(database_with_tables(&database).await, &[5, 6]).await;
    let backfill = |options: &[&str]| {
        let arguments = [&["backfill", "--from-csv", "-", "--placeholders", "--json"], options];
        ethtally(arguments.concat()).database(&database).input(address_lines(0..40)).run()
    };
    let ran = backfill(&[]).expect(0).json();
    assert_eq!((&ran["updated"], &ran["failed"], &ran["kept"]), (&38.into(), &2.into(), &0.into()));
    assert_on_record(&database, &[5, 6], "this row is frozen").await;
    let ran = backfill(&[]).expect(0).json();
    assert_eq!((&ran["updated"], &ran["failed"], &ran["kept"]), (&0.into(), &2.into(), &38.into()));
    backfill(&["--strict"]).expect(1);
    assert_eq!(stored_totals(&database).await.len(), 38);
}

async fn fix_says_that_a_row_was_refused(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..3);
    refuse(&database, &[1]).await;
    for (which, status, fixed) in [(address(1), 1, "false"), ("--sample=3".to_owned(), 1, "2")] {
        let ran = ethtally(["verify", &which, "--fix", "--json"]);
        let ran = ran.node(chain.url()).database(&database).run().expect(status);
        assert_eq!(ran.json()["fixed"].to_string(), fixed);
        assert!(
            ran.stderr.contains("is not fixed: cannot be stored: this row is frozen"),
            "{ran:?}"
        );
    }
    assert_eq!(read_totals(&database).await, genesis_totals([0, 2]));
}

async fn a_watch_goes_on_past_a_row_that_is_refused(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let [from, to, other] = spenders(10)[..3] else { panic!("spenders") };
    let wallets = [from, to, other];
    ethtally(["backfill", "--from-csv", "-"])
        .node(chain.url())
        .database(&database)
        .input(address_lines(wallets))
        .run()
        .expect(0);
    refuse(&database, &[to]).await;
    let watching = start_connected(watch("", chain.url(), &database));
    // A block with one wallet that is accepted, and one with none.
    transfer(&chain, from, to, U256::from(5)).await;
    caught_up(&chain, &database).await;
    transfer(&chain, other, from, U256::from(7)).await;
    caught_up(&chain, &database).await;
    let stored = stored_totals(&database).await;
    for n in [from, other] {
        assert_eq!(stored[&address(n)], chain.total(wallet(n)).await.unwrap().to_string());
    }
    assert_ne!(stored[&address(to)], chain.total(wallet(to)).await.unwrap().to_string());
    assert_on_record(&database, &[to], "this row is frozen").await;
    watching.stop();
}

async fn a_table_that_refuses_every_row_is_an_error_of_the_database(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..300);
    refuse_where(&database, "eth_wallet_balances", "new.read_block is not null").await;
    let ran = sweep_all(&database, &chain.url(), &[]).run().expect(4);
    assert!(
        ran.error().contains("eth_wallet_balances refuses every row: this row is frozen"),
        "{ran:?}"
    );
    assert!(ran.error().contains("triggers and constraints"), "{ran:?}");
    assert_eq!(ran.json()["updated"], 0);
    assert!(read_failures(&database).await.is_empty());
    assert!(read_totals(&database).await.is_empty());
}

async fn a_few_rows_that_are_all_refused_are_an_error_and_on_the_record(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..3);
    refuse(&database, &[0, 1, 2]).await;
    let ran = sweep_all(&database, &chain.url(), &[]).run().expect(4);
    assert!(ran.error().contains("not one of 3 wallets could be stored"), "{ran:?}");
    assert!(ran.error().contains("this row is frozen"), "{ran:?}");
    assert_on_record(&database, &[0, 1, 2], "this row is frozen").await;
    // Once they are known, they decide nothing.
    database.sql("update eth_wallet_read_failures set next_try_at = '2001-01-01 00:00:00'").await;
    let ran = sweep_all(&database, &chain.url(), &["--strict"]).run().expect(0).json();
    assert_eq!((&ran["requested"], &ran["failed"]), (&3.into(), &3.into()));
}

async fn a_failure_whose_reason_is_refused_loses_no_other(database: Database) {
    let chain = faulty_chain([
        (3, TokenFault::Revert),
        (4, TokenFault::Return0),
        (5, TokenFault::Return31),
    ])
    .await;
    store_unread(&database, 0..20);
    refuse(&database, &[6]).await;
    let fails = "new.last_error like '%31%' or new.last_error like '%failed'";
    refuse_where(&database, "eth_wallet_read_failures", fails).await;
    let ran = sweep_all(&database, &chain.url(), &[]).run().expect(0).json();
    assert_eq!((&ran["updated"], &ran["failed"]), (&16.into(), &4.into()));
    let failures = read_failures(&database).await;
    for (n, reason) in [
        (3, "its reason cannot be stored"),
        (4, "balanceOf returned nothing"),
        (5, "its reason cannot be stored"),
        (6, "cannot be stored: this row is frozen"),
    ] {
        assert_eq!(failures[&address(n)], reason);
    }

    // Not even that is accepted for one of them.
    database.sql("delete from eth_wallet_read_failures").await;
    let never = format!("new.wallet = '{}'", address(4));
    match database.is_sqlite() {
        true => {
            database
                .sql(&format!(
                    "create trigger never before insert on eth_wallet_read_failures when {never}
                     begin select raise(abort, 'never'); end"
                ))
                .await;
        }
        false => {
            database
                .sql(&format!(
                    "alter table eth_wallet_read_failures add check (wallet <> '{}')",
                    address(4)
                ))
                .await;
        }
    }
    let ran = sweep_all(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(ran.json()["failed"], 4);
    assert!(
        ran.stderr.contains(&format!("the failure of wallet {} is not on record", address(4))),
        "{ran:?}"
    );
    let recorded: BTreeSet<_> = read_failures(&database).await.into_keys().collect();
    assert_eq!(recorded, [3, 5, 6].map(address).into());
}

async fn an_error_that_is_not_about_a_row_is_not_halved(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..20);
    database.sql("alter table eth_wallet_read_failures rename column failures to renamed").await;
    let ran = ethtally(["refresh", &address(1), &address(2)]);
    let ran = ran.node(chain.url()).database(&database);
    // The statement that fails is not needed for these.
    ran.run().expect(0);
    let faulty = faulty_chain([(3, TokenFault::Revert)]).await;
    let ran = sweep(&database, &faulty.url(), &[]).run();
    assert!([2, 4].contains(&ran.status) && ran.error().contains("failures"), "{ran:?}");
    assert_eq!(read_totals(&database).await.len(), 2, "nothing of the batch is stored");
}

async fn a_row_that_was_refused_is_stored_once_it_is_accepted(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..20);
    refuse(&database, &[4]).await;
    assert_eq!(sweep_all(&database, &chain.url(), &[]).run().expect(0).json()["failed"], 1);
    accept(&database).await;
    database.sql("update eth_wallet_read_failures set next_try_at = '2001-01-01 00:00:00'").await;
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(read_totals(&database).await, genesis_totals(0..20));
    assert!(read_failures(&database).await.is_empty());
}

/// Row-level security, a not-null column, a deferred constraint and an index that is too small for a reason.
#[tokio::test(flavor = "multi_thread")]
async fn other_rules_of_postgres_are_about_rows_too() {
    let chain = still_chain().await;
    let rules = [
        (
            "create function own() returns trigger language plpgsql as $$
             begin
                 if new.wallet = 'WALLET' then raise exception 'not yours' using errcode = '42501'; end if;
                 return new;
             end $$;
             create trigger own before insert or update on eth_wallet_balances
             for each row execute function own()",
            "not yours",
        ),
        (
            "create table frozen (wallet text);
             create function late() returns trigger language plpgsql as $$
             begin
                 if new.wallet = 'WALLET' then raise exception 'too late'; end if;
                 return null;
             end $$;
             create constraint trigger late after insert or update on eth_wallet_balances
             deferrable initially deferred for each row execute function late()",
            "too late",
        ),
        (
            "create unique index on eth_wallet_balances ((case when wallet in ('WALLET', 'OTHER') then 1 end))
             where updated_at > '2000-01-01'",
            "duplicate key value violates unique constraint",
        ),
    ];
    for (rule, says) in rules {
        let database = Database::postgres();
        store_unread(&database, 0..20);
        let other = address(7);
        let rule = rule.replace("WALLET", &address(9)).replace("OTHER", &other);
        database.sql(&rule).await;
        let ran = sweep_all(&database, &chain.url(), &[]).run().expect(0).json();
        assert_eq!((&ran["updated"], &ran["failed"]), (&19.into(), &1.into()), "{rule}");
        let failures = read_failures(&database).await;
        let reason = failures.values().next().expect("a failure");
        assert!(reason.contains(says), "{reason}");
    }
}

/// What the database says may be longer than any message is worth.
#[tokio::test(flavor = "multi_thread")]
async fn a_reason_is_cleaned_and_cut() {
    let chain = still_chain().await;
    let database = Database::postgres();
    store_unread(&database, 0..20);
    let trigger = format!(
        "create function long() returns trigger language plpgsql as $$
         begin
             if new.wallet = '{}' then
                 raise exception '%', E'\\x1b[31mred\\n' || repeat('long ', 500000);
             end if;
             return new;
         end $$;
         create trigger long before insert or update on eth_wallet_balances
         for each row execute function long()",
        address(9)
    );
    database.sql(&trigger).await;
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    let reason = &read_failures(&database).await[&address(9)];
    assert_eq!(reason.chars().count(), 1_000, "{reason}");
    assert!(reason.starts_with("cannot be stored: ") && reason.ends_with('…'), "{reason}");
    assert!(!reason.contains('\u{1b}') && !reason.contains('\n'), "{reason}");
}

/// A database of another encoding lacks some characters of reasons.
#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_the_databases_encoding_lacks_is_stored_in_ascii() {
    use ethtally_testbed::postgres;
    let chain = still_chain().await;
    let name = format!("latin_{}", std::process::id());
    let server = Database::postgres();
    let create = format!(
        "create database {name} encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0"
    );
    postgres::psql(&server.url, &create).unwrap();
    let (base, _) = server.url.rsplit_once('/').unwrap();
    let database = Database::at(format!("{base}/{name}"));
    store_unread(&database, 0..20);
    let long = format!("new.wallet = '{}'", address(9));
    database
        .sql(&format!(
            "create function long() returns trigger language plpgsql as $$
             begin
                 if {long} then raise exception '%', repeat('long ', 500); end if;
                 return new;
             end $$;
             create trigger long before insert or update on eth_wallet_balances
             for each row execute function long()"
        ))
        .await;
    let ran = sweep_all(&database, &chain.url(), &[]).run().expect(0).json();
    assert_eq!((&ran["updated"], &ran["failed"]), (&19.into(), &1.into()));
    let reason = &read_failures(&database).await[&address(9)];
    assert!(reason.starts_with("cannot be stored: long long") && reason.ends_with('?'), "{reason}");
}
