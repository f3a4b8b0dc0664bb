//! Chunks find their size: whatever a node takes, a sweep comes near the fewest calls.

use ethtally_testbed::{
    Chain,
    genesis::holdings,
    stub::{Fault, Seen, Stub, When},
};
use tokio::sync::OnceCell;

use crate::{
    harness::{Database, Ethtally, ethtally},
    world::{address, lines},
};

/// Wallets on the chains of these stories.
const WALLETS: u64 = 20_000;
/// Parts of the built-in profile.
const PARTS: usize = 3;
/// Calls that may go into the search for the best size: doublings, halvings, and what is read again after these.
const SEARCH: usize = 16;
/// What a first chunk of 200 costs beyond that on a node that takes but a few: it is halved all the way.
const FIRST_CHUNK: usize = 64;

/// A chain that takes large calls, for stories that change nothing on it.
pub(crate) async fn wide_chain() -> &'static Chain {
    static CHAIN: OnceCell<Chain> = OnceCell::const_new();
    let start = async || {
        let chain = Chain::builder().wallets(WALLETS).gas_limit(550_000_000);
        chain.arg("--no-request-size-limit").start().await.expect("a chain")
    };
    CHAIN.get_or_init(start).await
}

/// A database of the first wallets, unread.
pub(crate) fn table(wallets: u64) -> Database {
    let database = Database::sqlite();
    ethtally(["backfill", "--from-csv", "-", "--placeholders"])
        .database(&database)
        .input(lines(0..wallets))
        .run()
        .expect(0);
    database
}

/// `sweep --all` of it.
pub(crate) fn sweep(database: &Database, node: &str, options: &[&str]) -> Ethtally {
    let arguments = ["sweep", "--all", "--json"].into_iter().chain(options.iter().copied());
    ethtally(arguments.collect::<Vec<_>>()).node(node).database(database)
}

/// What is stored of the first wallets that were read, but those named, must be what they hold.
pub(crate) async fn holds_what_they_hold(database: &Database, wallets: u64, without: &[u64]) {
    let rows = "select wallet, balance from eth_wallet_balances where read_block is not null";
    let mut rows = database.sql(rows).await;
    rows.sort_unstable();
    let mut expected: Vec<_> = (0..wallets)
        .zip(holdings(wallets))
        .filter(|(n, _)| !without.contains(n))
        .map(|(n, holding)| format!("{}|{}", address(n), holding.total()))
        .collect();
    expected.sort_unstable();
    assert!(rows == expected, "{} rows for {} wallets", rows.len(), expected.len());
}

/// How many wallets each call was about, in order, and whether it was answered.
pub(crate) fn sizes(journal: &[Seen]) -> Vec<(usize, bool)> {
    let sizes = journal.iter().filter(|seen| seen.method == "eth_call");
    sizes.map(|seen| (seen.wallets(PARTS).unwrap_or(0), seen.answered == "passed")).collect()
}

/// A node that takes so many wallets in a call; the sweep needs hardly more calls than must be, and some to find out.
async fn comes_near(
    wallets: u64,
    limit: usize,
    search: usize,
    faults: &[(Fault, When)],
    options: &[&str],
) {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    for (fault, when) in faults {
        stub.fault(fault.clone(), when.clone());
    }
    comes_near_at(&stub, wallets, limit, search, options).await;
}

async fn comes_near_at(stub: &Stub, wallets: u64, limit: usize, search: usize, options: &[&str]) {
    let database = table(wallets);
    let ran = sweep(&database, &stub.url(), options).run().expect(0);
    holds_what_they_hold(&database, wallets, &[]).await;

    let calls = stub.count("eth_call");
    assert_eq!(ran.json()["calls"], calls);
    let fewest = (wallets as usize).div_ceil(limit);
    let sizes = sizes(&stub.requests());
    assert!(calls <= fewest * 5 / 4 + search, "{calls} calls, {fewest} would do: {sizes:?}");
    let early = sizes.iter().take(2 * search).filter(|(_, answered)| *answered);
    let best = early.map(|(wallets, _)| *wallets).max().unwrap_or(0);
    assert!(best * 5 >= limit.min(wallets as usize / 4) * 4, "{best} of {limit}: {sizes:?}");
}

fn calls() -> When {
    When::method("eth_call")
}

fn takes(wallets: usize) -> (Fault, When) {
    (Fault::WalletsAbove { wallets, parts: PARTS }, calls())
}

macro_rules! comes_near {
    ($($name:ident: $wallets:expr, $limit:expr, $search:expr, $faults:expr, $options:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            comes_near($wallets, $limit, $search, &$faults, &$options).await;
        })*
    };
}

comes_near! {
    a_node_that_takes_100_wallets_is_asked_for_about_100:
        5_000, 100, SEARCH, [takes(100)], ["--reader", "multicall3"];
    a_node_that_takes_100_wallets_is_asked_for_about_100_packed:
        5_000, 100, SEARCH, [takes(100)], ["--reader", "packed"];
    a_node_that_takes_7_wallets_works_too: 700, 7, SEARCH + FIRST_CHUNK, [takes(7)], ["--reader", "packed"];
    a_node_that_takes_one_wallet_works_too: 60, 1, SEARCH + FIRST_CHUNK, [takes(1)], ["--reader", "packed"];
    a_limit_between_two_doublings_is_closed_in_on:
        WALLETS, 1_150, SEARCH, [takes(1_150)], ["--reader", "packed"];
    a_limit_just_below_a_doubling_is_closed_in_on:
        WALLETS, 795, SEARCH, [takes(795)], ["--reader", "multicall3"];
    // 1,344 bytes a wallet, as aggregate3 wants them.
    bodies_of_a_megabyte_hold_700_wallets_for_multicall3:
        WALLETS, 740, SEARCH, [(Fault::status(413), calls().larger_than(1_000_000))], ["--reader", "multicall3"];
    // Forty: a tenth of the megabyte, so that the table need not be ten times as large.
    bodies_of_a_tenth_of_it_hold_2400_wallets_packed:
        WALLETS, 2_400, SEARCH, [(Fault::status(413), calls().larger_than(100_000))], ["--reader", "packed"];
    answers_that_are_too_large_are_as_good_a_limit:
        10_000, 500, SEARCH, [(Fault::ResponseTooLargeAbove(500), calls())], ["--reader", "packed"];
    a_number_is_where_it_begins_and_ends: 5_000, 500, SEARCH, [], ["--reader", "packed", "--chunk", "500"];
    // All that was begun at once is halved all the way.
    a_number_that_is_too_large_is_halved_and_closed_in_on:
        WALLETS, 700, SEARCH + FIRST_CHUNK, [takes(700)], ["--reader", "packed", "--chunk", "5000"];
    one_call_at_a_time_comes_as_near:
        WALLETS, 1_150, SEARCH, [takes(1_150)], ["--reader", "packed", "--concurrency", "1"];
    // Fifteen go out at the size that is known while one tries the next.
    sixteen_at_a_time_come_as_near:
        WALLETS, 290, 3 * SEARCH, [takes(290)], ["--reader", "packed", "--concurrency", "16"];
}

/// Real gas, as Anvil counts it: about 9,800 a wallet packed, 21,000 through Multicall3.
async fn comes_near_with_gas(gas: u64, reader: &str, limit: usize) {
    let chain = Chain::builder().wallets(WALLETS).gas_limit(gas);
    let chain = chain.arg("--no-request-size-limit").start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    comes_near_at(&stub, WALLETS, limit, SEARCH, &["--reader", reader]).await;
}

macro_rules! with_gas {
    ($($name:ident: $gas:literal, $reader:literal, $limit:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            comes_near_with_gas($gas, $reader, $limit).await;
        })*
    };
}

with_gas! {
    thirty_million_gas_hold_3000_wallets_packed: 30_000_000, "packed", 3_000;
    thirty_million_gas_hold_1400_wallets_through_multicall3: 30_000_000, "multicall3", 1_400;
    fifty_million_gas_hold_5000_wallets_packed: 50_000_000, "packed", 5_000;
    fifty_million_gas_hold_2300_wallets_through_multicall3: 50_000_000, "multicall3", 2_300;
    with_550_million_gas_the_whole_table_goes_into_one_call: 550_000_000, "packed", 20_000;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_holds_more_wallets_than_chunk_whatever_the_node_takes() {
    for reader in ["multicall3", "packed"] {
        let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
        let database = table(1_000);
        let options = ["--reader", reader, "--chunk", "70"];
        sweep(&database, &stub.url(), &options).run().expect(0);
        holds_what_they_hold(&database, 1_000, &[]).await;
        let mut sizes = sizes(&stub.requests());
        sizes.sort_unstable();
        assert_eq!(sizes[0], (20, true), "{reader}");
        assert!(
            sizes.len() == 15 && sizes[1..].iter().all(|size| *size == (70, true)),
            "{sizes:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_that_spoil_their_chunks_do_not_make_chunks_small_for_good() {
    for reader in ["multicall3", "packed"] {
        let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
        let poisoned = [3_000, 9_000, 15_000];
        for n in poisoned {
            let out_of_gas = Fault::error(-32000, "out of gas");
            stub.fault(out_of_gas, calls().mentioning(&address(n)));
        }
        let (fault, when) = takes(500);
        stub.fault(fault, when);
        let database = table(WALLETS);
        let ran = sweep(&database, &stub.url(), &["--reader", reader]).run().expect(0);
        assert_eq!(ran.json()["failed"], 3);
        holds_what_they_hold(&database, WALLETS, &poisoned).await;
        // To find one among 500 takes 9 halvings, two calls each; alone it is read once more, and the
        // canary beside it. Smaller chunks meanwhile cost a few calls more.
        let calls = stub.count("eth_call");
        let most = 40 * 5 / 4 + SEARCH + poisoned.len() * 30;
        assert!(calls <= most, "{calls} of {most}: {:?}", sizes(&stub.requests()));
        let last = sizes(&stub.requests()).into_iter().rev().take(40);
        let best = last.filter(|(_, answered)| *answered).map(|(wallets, _)| wallets).max();
        assert!(best >= Some(400), "{best:?}: {:?}", sizes(&stub.requests()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_minute_of_the_node_does_not_make_chunks_small_for_good() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    let (fault, when) = takes(100);
    stub.fault(Fault::error(-32000, "execution timeout"), calls().after(20).times(6));
    stub.fault(fault, when);
    let database = table(WALLETS);
    sweep(&database, &stub.url(), &["--reader", "packed"]).run().expect(0);
    holds_what_they_hold(&database, WALLETS, &[]).await;
    let sizes = sizes(&stub.requests());
    let late = &sizes[sizes.len() - 40..];
    assert!(late.iter().any(|(wallets, answered)| *answered && *wallets >= 90), "{sizes:?}");
    assert!(sizes.len() <= 200 * 5 / 4 + SEARCH + 30, "{} calls: {sizes:?}", sizes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_endpoint_has_a_size_of_its_own() {
    let chain = wide_chain().await;
    let [first, second] = [(); 2].map(|()| Stub::in_front_of(&chain.url()).unwrap());
    let ((fault, when), (more, always)) = (takes(100), takes(1_000));
    // Its quota is gone after thirty calls.
    first.fault(fault, when.times(5));
    first.fault(Fault::status(402), calls().after(30));
    first.fault(Fault::WalletsAbove { wallets: 100, parts: PARTS }, calls());
    second.fault(more, always);
    let database = table(WALLETS);
    let urls = format!("{},{}", first.url(), second.url());
    sweep(&database, &urls, &["--reader", "packed"]).run().expect(0);
    holds_what_they_hold(&database, WALLETS, &[]).await;

    let taken = sizes(&first.requests()).into_iter().filter(|(_, answered)| *answered);
    assert!(taken.map(|(wallets, _)| wallets).max() > Some(90));
    let sizes = sizes(&second.requests());
    let best = sizes.iter().filter(|(_, answered)| *answered).map(|(wallets, _)| *wallets).max();
    assert!(best >= Some(900), "{sizes:?}");
    assert!(sizes.len() <= 18 * 5 / 4 + SEARCH + 8, "{} calls: {sizes:?}", sizes.len());
}
