//! What a run found of an endpoint helps the next one, and does no harm where it is wrong.

use ethtally_testbed::stub::{Fault, Stub, When};

use crate::support::{
    chains::{WIDE_CHAIN_WALLETS, wide_chain, wide_stub},
    database::Database,
    program::{ethtally, sweep_all},
    requests::{PARTS, chunk_sizes},
    table::{assert_read_at_genesis, store_unread, unread_table},
};

const WALLETS: u64 = WIDE_CHAIN_WALLETS;
/// Without a hint, a search that begins at some 2,300 wallets and knows that 4,900 are the limit tries no more.
const NOT_TRIED_WITHOUT_HINT: usize = 10_000;
/// More refused calls than a search needs, in whatever order they are answered.
const MANY_REFUSED: usize = 8;
const HINTS: &str = "select kind, accepted, refused from eth_wallet_node_hints order by 1, 2";

async fn stub_with_limit(wallets: usize) -> Stub {
    let stub = wide_stub().await;
    stub.fault(Fault::WalletsAbove { wallets, parts: PARTS }, When::eth_call());
    stub
}

/// Sweeps all wallets again; returns the sizes of the calls, and whether each was answered.
async fn sweep_again(database: &Database, stub: &Stub) -> Vec<(usize, bool)> {
    let unread = "update eth_wallet_balances set balance = '0', read_block = null, \
                  updated_at = '1970-01-01 00:00:00'";
    database.sql(unread).await;
    stub.forget();
    sweep_all(database, &stub.url(), &["--reader", "packed"]).run().expect(0);
    assert_read_at_genesis(database, WALLETS, &[]).await;
    chunk_sizes(stub)
}

fn refused(sizes: &[(usize, bool)]) -> usize {
    sizes.iter().filter(|(_, answered)| !answered).count()
}

/// Accepted and refused of the only hint.
async fn hint(database: &Database) -> (usize, Option<usize>) {
    let hints = database.sql(HINTS).await;
    let [hint] = hints.as_slice() else { panic!("{hints:?}") };
    let columns: Vec<_> = hint.split('|').collect();
    assert_eq!(columns[0], "packed");
    (columns[1].parse().expect("a number"), columns[2].parse().ok())
}

async fn the_next_run_begins_where_the_last_one_ended(database: Database) {
    store_unread(&database, 0..WALLETS);
    let stub = stub_with_limit(1_000).await;
    let first = sweep_again(&database, &stub).await;
    assert!(refused(&first) >= 3, "{first:?}");
    let (accepted, refused_size) = hint(&database).await;
    assert!((900..=1_000).contains(&accepted) && refused_size > Some(1_000), "{accepted}");

    let second = sweep_again(&database, &stub).await;
    assert!(refused(&second) <= 2, "{second:?}");
    assert!(second.len() < first.len(), "{} and {}", second.len(), first.len());
    assert!(second[..4].contains(&(accepted, true)), "{second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_run_begins_where_the_last_one_ended_with_sqlite() {
    the_next_run_begins_where_the_last_one_ended(Database::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_run_begins_where_the_last_one_ended_with_postgres() {
    the_next_run_begins_where_the_last_one_ended(Database::postgres()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_hint_costs_one_call_and_is_replaced() {
    let database = unread_table(WALLETS);
    let stub = stub_with_limit(4_900).await;
    let without = sweep_again(&database, &stub).await;
    assert!(without.iter().all(|(wallets, _)| *wallets <= NOT_TRIED_WITHOUT_HINT), "{without:?}");
    assert!(refused(&without) < MANY_REFUSED, "{without:?}");
    for (accepted, refuses) in [("19000", "null"), ("19000", "19500"), ("50000", "51000")] {
        let wrong =
            format!("update eth_wallet_node_hints set accepted = {accepted}, refused = {refuses}");
        database.sql(&wrong).await;
        let sizes = sweep_again(&database, &stub).await;
        // How many sizes are refused after that depends on the order of the answers.
        let by_hint = sizes.iter().filter(|(wallets, _)| *wallets > NOT_TRIED_WITHOUT_HINT);
        assert!(by_hint.count() <= 1, "{sizes:?}");
        assert!(refused(&sizes) <= MANY_REFUSED, "{sizes:?}");
        assert!(hint(&database).await.0 <= 4_900);
    }
    // One that is far too small.
    database.sql("update eth_wallet_node_hints set accepted = 7, refused = null").await;
    let sizes = sweep_again(&database, &stub).await;
    assert!(sizes.len() <= without.len() + 30, "{sizes:?}");
    assert!(hint(&database).await.0 >= 1_000, "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_are_of_one_endpoint_and_hold_no_key() {
    let database = unread_table(WALLETS);
    let (one, other) = (stub_with_limit(1_000).await, stub_with_limit(300).await);
    for stub in [&one, &other] {
        sweep_again(&database, stub).await;
    }
    let hints = database.sql(HINTS).await;
    assert_eq!(hints.len(), 2, "{hints:?}");
    let sizes = sweep_again(&database, &one).await;
    assert!(sizes[..4].iter().any(|(wallets, fits)| *fits && *wallets >= 900), "{sizes:?}");

    // Keys are in paths, queries and passwords.
    let urls = ["/v2/SECRETKEY", "/v2/SECRETKEY2", "/?apikey=SECRETKEY"];
    for url in urls.map(|path| one.url_with_path(path)) {
        database.sql("update eth_wallet_balances set updated_at = '1970-01-01 00:00:00'").await;
        sweep_all(&database, &url, &["--reader", "packed"]).run().expect(0);
    }
    let endpoints = database.sql("select endpoint from eth_wallet_node_hints order by 1").await;
    assert_eq!(endpoints.len(), 5, "{endpoints:?}");
    assert!(!endpoints.concat().contains("SECRET"), "{endpoints:?}");
    assert!(endpoints.iter().all(|name| name.starts_with("http://127.0.0.1:")), "{endpoints:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_hint_is_not_used() {
    let database = unread_table(WALLETS);
    let stub = stub_with_limit(1_000).await;
    let first = sweep_again(&database, &stub).await;
    database.sql("update eth_wallet_node_hints set seen_at = '2026-01-01 00:00:00'").await;
    let second = sweep_again(&database, &stub).await;
    assert!(refused(&second) >= 3, "{first:?}, then {second:?}");
    assert!(refused(&sweep_again(&database, &stub).await) <= 2, "it is a new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_is_right_is_written_once_a_day() {
    let database = unread_table(WALLETS);
    let stub = stub_with_limit(1_000).await;
    sweep_again(&database, &stub).await;
    sweep_again(&database, &stub).await;
    for (age, is_written) in [("-2 hours", false), ("-2 days", true)] {
        let older = format!(
            "update eth_wallet_node_hints set seen_at = strftime('%Y-%m-%d %H:%M:%f', 'now', '{age}')"
        );
        database.sql(&older).await;
        let seen = "select seen_at from eth_wallet_node_hints";
        let before = database.value(seen).await;
        sweep_again(&database, &stub).await;
        assert_eq!(database.value(seen).await != before, is_written, "{age}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_write_nothing_write_no_hints() {
    let database = unread_table(2_000);
    sweep_all(&database, &wide_chain().await.url(), &["--reader", "packed"]).run().expect(0);
    database.sql("delete from eth_wallet_node_hints").await;
    for command in [
        &["sweep", "--all", "--dry-run"][..],
        &["status"],
        &["verify", "--sample", "300"],
        &["doctor"],
    ] {
        let stub = stub_with_limit(50).await;
        let ran =
            ethtally(command.iter().copied()).env("ETHTALLY_READER", "packed").node(stub.url());
        ran.database(&database).run();
        assert!(database.sql(HINTS).await.is_empty(), "{command:?}");
    }
}
