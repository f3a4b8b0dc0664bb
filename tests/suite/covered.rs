//! What `watch` proves: rows that were read since it follows the events without a gap are current up to the checkpoint, and
//! `sweep --not-covered` reads only the others.

use std::time::Duration;

use alloy::primitives::{U256, hex, keccak256, uint};
use ethtally_testbed::{
    Chain, TokenFault,
    stub::{Fault, When},
    wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::{chain_and_stub, stub_of, transfer},
    database::{Database, on_both_databases},
    program::{ethtally, sweep_all},
    table::store_unread,
    wallets::{address, address_lines, one_audio},
    watch::{assert_matches_chain, watch},
};

on_both_databases! {
    a_table_that_is_swept_once_and_followed_is_covered
    rows_that_were_not_read_since_are_not_covered
    a_gap_uncovers_every_row
    a_wallet_that_could_not_be_read_is_not_covered_until_it_is
    a_first_read_below_the_checkpoint_is_not_covered
    a_row_that_is_written_from_a_read_before_is_not_covered
    a_row_that_appears_while_its_event_is_followed_is_read
    other_events_and_another_profile_begin_anew
    members_that_cannot_be_read_uncover_every_row
    a_reorganisation_below_the_first_followed_block_covers_no_row_of_replaced_blocks
    unchanged_rows_are_covered_by_their_buckets
    counting_agrees_with_looking_at_each_row
}

/// What wallet 20 sends.
const AMOUNT: U256 = uint!(1_000_000_007_U256);

fn once(node: impl Into<String>, database: &Database) {
    watch("--once", node, database).run().expect(0);
}

/// `current_to_block` and `not_covered` of `status`.
#[track_caller]
fn covered(database: &Database) -> (Value, Value) {
    let seen = ethtally(["status", "--json"]).database(database).run().expect(0).json();
    (seen["current_to_block"].clone(), seen["not_covered"].clone())
}

/// Sweeps the rows that are not covered; returns how many wallets it read.
#[track_caller]
fn swept(arguments: &[&str], node: impl Into<String>, database: &Database) -> u64 {
    let sweep = ["sweep", "--all", "--not-covered", "--json"];
    let ran = ethtally(sweep.into_iter().chain(arguments.iter().copied()));
    let seen = ran.node(node).database(database).run().expect(0).json();
    seen["requested"].as_u64().expect("a number")
}

/// A chain and a table of wallets 0 to 59, which was swept and is followed since.
async fn followed(database: &Database) -> Chain {
    let chain = Chain::builder().faulty().start().await.unwrap();
    store_unread(database, 0..60);
    chain.mine(2).await.unwrap();
    sweep_all(database, &chain.url(), &[]).run().expect(0);
    once(chain.url(), database);
    chain
}

async fn a_table_that_is_swept_once_and_followed_is_covered(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..60);
    assert_eq!(covered(&database), (Value::Null, Value::Null), "nobody follows the events");
    once(chain.url(), &database);
    assert_eq!(covered(&database), (json!(0), json!(60)));
    let plan = ["sweep", "--all", "--not-covered", "--dry-run", "--json"];
    let plan = ethtally(plan).database(&database).run().expect(0).json();
    assert_eq!(plan["wallets"], 60);
    assert_eq!(
        swept(&["--shard", "0/2"], chain.url(), &database)
            + swept(&["--shard", "1/2"], chain.url(), &database),
        60
    );
    for n in 1..8 {
        transfer(&chain, 20, n, AMOUNT).await;
    }
    assert_eq!(covered(&database), (json!(0), json!(0)));
    once(chain.url(), &database);
    assert_eq!(covered(&database), (json!(7), json!(0)));
    for write in ["all", "changed"] {
        assert_eq!(swept(&["--write", write], chain.url(), &database), 0);
    }
    assert_matches_chain(&chain, &database, 0..60).await;
    let text = ethtally(["status"]).database(&database).run().expect(0).stdout;
    assert!(text.contains("\ncovered     all rows, up to block 7\n"), "{text}");
    // A placeholder and a new wallet.
    store_unread(&database, 60..61);
    let backfill = ["backfill", "--from-csv", "-"];
    let new = ethtally(backfill).node(chain.url()).database(&database).input(address_lines([61]));
    new.run().expect(0);
    assert_eq!(covered(&database), (json!(7), json!(1)));
    let text = ethtally(["status"]).database(&database).run().expect(0).stdout;
    assert!(text.contains("\ncovered     61 of 62 rows, up to block 7\n"), "{text}");
    assert_eq!(swept(&[], chain.url(), &database), 1);
    assert_eq!(covered(&database), (json!(7), json!(0)));
}

async fn rows_that_were_not_read_since_are_not_covered(database: Database) {
    let chain = followed(&database).await;
    assert_eq!(covered(&database), (json!(2), json!(0)));
    let old = format!(
        "update eth_wallet_balances set read_block = 1 where wallet in ('{}', '{}')",
        address(5),
        address(6)
    );
    database.sql(&old).await;
    let foreign =
        format!("insert into eth_wallet_balances (wallet, balance) values ('{}', 5)", address(70));
    database.sql(&foreign).await;
    assert_eq!(covered(&database), (json!(2), json!(3)));
    let batch = ["sweep", "--not-covered", "--batch", "2", "--json"];
    let ran = ethtally(batch).node(chain.url()).database(&database).run().expect(0).json();
    assert_eq!(ran["requested"], 2);
    assert_eq!(swept(&[], chain.url(), &database), 1);
    assert_eq!(covered(&database), (json!(2), json!(0)));
}

async fn a_gap_uncovers_every_row(database: Database) {
    let chain = followed(&database).await;
    let last = transfer(&chain, 20, 1, AMOUNT).await;
    let moved = format!("update eth_indexer_checkpoints set last_block = {last}");
    database.sql(&moved).await;
    assert_eq!(covered(&database), (json!(3), json!(60)));
    chain.mine(1).await.unwrap();
    once(chain.url(), &database);
    // `watch` remembers the last blocks, and has not missed the event.
    assert_eq!(covered(&database), (json!(4), json!(58)));
    assert_matches_chain(&chain, &database, [1, 20]).await;
    assert_eq!(swept(&[], chain.url(), &database), 58);
    assert_eq!(covered(&database), (json!(4), json!(0)));

    // A checkpoint that is made anew, further on.
    database.sql("delete from eth_indexer_checkpoints").await;
    assert_eq!(covered(&database), (Value::Null, Value::Null));
    transfer(&chain, 20, 1, AMOUNT).await;
    chain.mine(1).await.unwrap();
    once(chain.url(), &database);
    assert_eq!(covered(&database), (json!(6), json!(60)));
}

async fn a_wallet_that_could_not_be_read_is_not_covered_until_it_is(database: Database) {
    let chain = followed(&database).await;
    transfer(&chain, 20, 7, AMOUNT).await;
    chain.set_fault(wallet(7), TokenFault::Revert).await.unwrap();
    let before = chain.block_number().await.unwrap() - 2;
    once(chain.url(), &database);
    let head = chain.block_number().await.unwrap();
    assert_eq!(covered(&database), (json!(head), json!(1)));
    assert_eq!(swept(&[], chain.url(), &database), 0, "it is not due");
    // A read from before the event takes it off the record, and leaves it uncovered.
    let refresh = |block: &str| {
        let wallet = address(7);
        let arguments = ["refresh", &wallet, "--block", block];
        ethtally(arguments).node(chain.url()).database(&database).run().expect(0);
    };
    refresh(&before.to_string());
    let failures = "select count(*) from eth_wallet_read_failures";
    assert_eq!(database.value(failures).await, "0");
    assert_eq!(covered(&database), (json!(head), json!(1)));
    chain.set_fault(wallet(7), TokenFault::None).await.unwrap();
    once(chain.url(), &database);
    assert_eq!(covered(&database).1, json!(1));
    assert_eq!(swept(&[], chain.url(), &database), 1);
    assert_eq!(covered(&database).1, json!(0));
    assert_matches_chain(&chain, &database, [7]).await;
    let left = "select count(*) from eth_watch_uncovered";
    assert_eq!(database.value(left).await, "0", "it is forgotten");
}

async fn a_first_read_below_the_checkpoint_is_not_covered(database: Database) {
    let chain = followed(&database).await;
    // `watch` passes an event of a wallet without a row.
    transfer(&chain, 20, 80, AMOUNT).await;
    transfer(&chain, 20, 81, AMOUNT).await;
    once(chain.url(), &database);
    assert_eq!(covered(&database), (json!(4), json!(0)));
    store_unread(&database, 81..82);
    let wallets = [80, 81].map(address);
    let refresh = ["refresh", &wallets[0], &wallets[1], "--block", "2"];
    ethtally(refresh).node(chain.url()).database(&database).run().expect(0);
    assert_eq!(covered(&database), (json!(4), json!(2)));
    assert_eq!(swept(&["--write", "changed"], chain.url(), &database), 2);
    assert_eq!(covered(&database), (json!(4), json!(0)));
    assert_matches_chain(&chain, &database, [80, 81]).await;
}

/// The rows are written after following began, each from a read before the first block that is followed.
async fn a_row_that_is_written_from_a_read_before_is_not_covered(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..60);
    let old = chain.block_number().await.unwrap().to_string();
    sweep_all(&database, &chain.url(), &["--block", &old]).run().expect(0);
    chain.mine(3).await.unwrap();
    let new = chain.block_number().await.unwrap();
    once(chain.url(), &database);
    for write in ["all", "changed"] {
        sweep_all(&database, &chain.url(), &["--block", &old, "--write", write]).run().expect(0);
        assert_eq!(covered(&database), (json!(new), json!(60)), "{write}");
    }
    // They are known until each has been read.
    let some = ethtally(["sweep", "--not-covered", "--batch", "20"]);
    some.node(chain.url()).database(&database).run().expect(0);
    assert_eq!(covered(&database), (json!(new), json!(40)));
    assert_eq!(swept(&[], chain.url(), &database), 40);
    assert_eq!(covered(&database), (json!(new), json!(0)));
    // An old read that changes no row is no exception.
    sweep_all(&database, &chain.url(), &["--block", &old]).run().expect(0);
    assert_eq!(covered(&database), (json!(new), json!(0)));
}

async fn a_row_that_appears_while_its_event_is_followed_is_read(database: Database) {
    let chain = followed(&database).await;
    let stub = stub_of(&chain);
    let block = transfer(&chain, 20, 80, AMOUNT).await;
    stub.fault(Fault::Delay(Duration::from_secs(3)), When::eth_call());
    let running = watch("--once", stub.url(), &database).start();
    while stub.eth_calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What was read before the event is stored after it was looked for whom it affects.
    let (wallet, before) = (address(80), (block - 1).to_string());
    let refresh = ["refresh", &wallet, "--block", &before];
    ethtally(refresh).node(chain.url()).database(&database).run().expect(0);
    running.wait().expect(0);
    assert_matches_chain(&chain, &database, [20, 80]).await;
    assert_eq!(covered(&database), (json!(block), json!(0)));
}

async fn other_events_and_another_profile_begin_anew(database: Database) {
    let chain = followed(&database).await;
    let text = ethtally(["profile"]).run().expect(0).stdout;
    let file = database.folder().join("profile.toml");
    let path = file.to_str().expect("a path").to_owned();
    let with = |arguments: &[&str]| {
        let arguments = arguments.iter().copied().chain(["--profile", &path]);
        ethtally(arguments.collect::<Vec<_>>()).node(chain.url()).database(&database).run()
    };
    // One event less.
    let (kept, _) = text.rsplit_once("[[event]]").expect("events");
    std::fs::write(&file, kept).unwrap();
    let status = with(&["status", "--json"]).expect(0).json();
    assert_eq!(status["not_covered"], Value::Null);
    chain.mine(2).await.unwrap();
    with(&["watch", "--once"]).expect(0);
    assert_eq!(covered(&database), (Value::Null, Value::Null), "the other profile has more events");
    let status = with(&["status", "--json"]).expect(0).json();
    assert_eq!((&status["current_to_block"], &status["not_covered"]), (&json!(4), &json!(0)));

    // Back again: what was not followed meanwhile is not covered.
    chain.mine(1).await.unwrap();
    once(chain.url(), &database);
    assert_eq!(covered(&database), (json!(5), json!(60)));
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(covered(&database), (json!(5), json!(0)));

    // Totals of another profile do not count, although they were read after the checkpoint.
    chain.mine(3).await.unwrap();
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    let reads: Vec<_> = text.split("[[read]]").collect();
    std::fs::write(&file, format!("{}[[read]]{}[[read]]{}", reads[0], reads[1], reads[3])).unwrap();
    with(&["migrate", "--adopt-profile"]).expect(0);
    with(&["watch", "--once"]).expect(0);
    let status = with(&["status", "--json"]).expect(0).json();
    assert_eq!(status["not_covered"], json!(60));
    chain.mine(1).await.unwrap();
    assert_eq!(
        with(&["sweep", "--not-covered", "--all", "--json"]).expect(0).json()["requested"],
        60
    );
    let status = with(&["status", "--json"]).expect(0).json();
    assert_eq!(status["not_covered"], json!(0));
}

async fn members_that_cannot_be_read_uncover_every_row(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    store_unread(&database, 0..60);
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    once(chain.url(), &database);
    assert_eq!(covered(&database), (json!(0), json!(0)));
    chain.claim(wallet(3), one_audio()).await.unwrap();
    let selector = hex::encode(&keccak256("getDelegatorsList(address)")[..4]);
    let list = When::eth_call().mentioning(&selector);
    stub.fault(Fault::error(3, "execution reverted"), list);
    once(stub.url(), &database);
    let head = chain.block_number().await.unwrap();
    let seen = covered(&database);
    assert_eq!(seen.0, json!(head));
    assert!(seen.1.as_u64().unwrap() > 50, "{seen:?}");
    swept(&[], chain.url(), &database);
    assert_eq!(covered(&database), (json!(head), json!(0)));
}

async fn a_reorganisation_below_the_first_followed_block_covers_no_row_of_replaced_blocks(
    database: Database,
) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..60);
    for n in 1..=5 {
        transfer(&chain, 20, n, AMOUNT).await;
    }
    once(chain.url(), &database);
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(covered(&database), (json!(5), json!(0)));
    // Two of the transfers are not on the chain any more.
    chain.reorg(2).await.unwrap();
    once(chain.url(), &database);
    let (block, rows) = covered(&database);
    assert!(block.as_u64().unwrap() <= 3 && rows == json!(60), "{block} {rows}");
    chain.mine(10).await.unwrap();
    tokio::time::sleep(Duration::from_secs(16)).await;
    once(chain.url(), &database);
    assert_eq!(covered(&database), (json!(15), json!(0)));
    assert_matches_chain(&chain, &database, 0..60).await;
}

async fn unchanged_rows_are_covered_by_their_buckets(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..200);
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    chain.mine(5).await.unwrap();
    once(chain.url(), &database);
    assert_eq!(covered(&database), (json!(5), json!(200)));
    // A confirmation in SQLite does not count for rows that were written in the same second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let sweep = ["sweep", "--all", "--not-covered", "--write", "changed", "--json"];
    let ran = ethtally(sweep).node(chain.url()).database(&database).run().expect(0).json();
    assert_eq!((&ran["requested"], &ran["unchanged"]), (&json!(200), &json!(200)));
    assert_eq!(covered(&database), (json!(5), json!(0)));
    assert_eq!(swept(&["--write", "changed"], chain.url(), &database), 0);
    // A few rows that are not covered do not make their buckets be read.
    let newest = transfer(&chain, 20, 7, AMOUNT).await;
    let claim = format!(
        "insert into eth_watch_uncovered select 'audio_transfers', '{}', {newest}",
        address(7)
    );
    database.sql(&claim).await;
    assert_eq!(covered(&database).1, json!(1));
    assert_eq!(swept(&["--write", "changed"], chain.url(), &database), 1);
    assert_eq!(covered(&database).1, json!(0));
}

/// A table with rows of every kind, small and large: what is found by indexes is what a look at each row finds.
async fn counting_agrees_with_looking_at_each_row(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..1);
    once(chain.url(), &database);
    let digits = "substr('0123456789abcdef', 1 + n % 16, 1)";
    let (numbers, pad) = match database.is_sqlite() {
        true => (
            "(with recursive numbers(n) as (select 0 union all select n + 1 from numbers where n < {last})
              select n from numbers)",
            "printf('%039d', n)",
        ),
        false => ("generate_series(0, {last}) as numbers (n)", "lpad(n::text, 39, '0')"),
    };
    for buckets in 0..16 {
        let digit = "0123456789abcdef".chars().nth(buckets).expect("a digit");
        let block = if buckets % 4 == 3 { "1" } else { "20" };
        let insert = format!(
            "insert into eth_wallet_confirmations (bucket, block, selected_at, wallets)
             values ('0x{digit}', {block}, '2026-02-01 00:00:00', 1)"
        );
        database.sql(&insert).await;
    }
    for (last, doubt) in [(4_000, "null"), (60_000, "null"), (60_000, "12")] {
        database.sql("delete from eth_wallet_balances").await;
        database.sql("delete from eth_wallet_read_failures").await;
        database.sql("delete from eth_watch_uncovered").await;
        let rows = format!(
            "insert into eth_wallet_balances (wallet, balance, read_block, updated_at, created_at)
             select '0x' || {digits} || {pad}, '1',
                 case when n % 101 = 0 or n % 59 = 0 then null when n % 97 = 0 then 15 when n % 89 = 0 then 11 else 5 end,
                 case when n % 53 = 0 then '2026-03-01 00:00:00' when n % 59 = 0 then '1970-01-01 00:00:00'
                     else '2026-01-01 00:00:00' end{time},
                 '2026-01-01 00:00:00'{time}
             from {}",
            numbers.replace("{last}", &last.to_string()),
            time = if database.is_sqlite() { "" } else { "::timestamp" },
        );
        database.sql(&rows).await;
        let some = |part: &str| {
            format!("select wallet from eth_wallet_balances where wallet like '%{part}'")
        };
        let failing = format!(
            "insert into eth_wallet_read_failures select wallet, 1, 'x', '2026-01-01 00:00:00'{time}, '2099-01-01 00:00:00'{time}
             from ({}) failing",
            some("777"),
            time = if database.is_sqlite() { "" } else { "::timestamp" },
        );
        database.sql(&failing).await;
        let missed = format!(
            "insert into eth_watch_uncovered select 'audio_transfers', wallet, 14 from ({}) missed",
            some("55")
        );
        database.sql(&missed).await;
        let coverage = format!(
            "update eth_watch_coverage
             set followed_from = 10, followed_since = '2026-02-15 00:00:00', doubt_from = {doubt}
             where checkpoint = 'audio_transfers'"
        );
        database.sql(&coverage).await;
        let early = "insert into eth_watch_uncovered select 'audio_transfers', wallet, 10
             from eth_wallet_balances
             where read_block < 10 and updated_at > '2026-02-15 00:00:00'
                 and wallet not in (select wallet from eth_watch_uncovered)";
        database.sql(early).await;
        let expected = database
            .value(
                "select count(*) from eth_wallet_balances stored
                 join eth_wallet_freshness fresh on fresh.wallet = stored.wallet
                 join eth_watch_coverage coverage on coverage.checkpoint = 'audio_transfers'
                 left join eth_watch_uncovered missed on missed.wallet = stored.wallet
                 where exists (select 1 from eth_wallet_read_failures failed where failed.wallet = stored.wallet)
                     or stored.read_block >= coverage.doubt_from
                     or coalesce(case when fresh.read_block >= coverage.doubt_from then stored.read_block
                         else fresh.read_block end, -1) < coalesce(missed.block, 10)",
            )
            .await;
        assert_eq!(covered(&database).1.to_string(), expected, "{last} {doubt}");
        assert!(expected.parse::<u64>().unwrap() > 100, "{expected}");
    }
}
