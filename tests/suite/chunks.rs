//! Chunk size: a sweep needs nearly the fewest calls, whatever the node's limit.

use ethtally_testbed::{
    Chain,
    stub::{Fault, Stub, When},
};

use crate::support::{
    chains::{WIDE_CHAIN_WALLETS, stub_of, wide_chain, wide_stub},
    program::sweep_all,
    requests::{PARTS, chunk_sizes},
    table::{assert_read_at_genesis, unread_table},
    wallets::address,
};

const WALLETS: u64 = WIDE_CHAIN_WALLETS;
/// Calls that the search for the best size may cost: doublings, halvings and rereads.
const SEARCH: usize = 16;
/// Extra calls for a first chunk of 200 that must be halved down to a few wallets.
const FIRST_CHUNK: usize = 64;

/// Sweeps a node with these faults, which limit a call to `limit` wallets, and asserts that the sweep finds the limit.
async fn assert_finds_limit(
    wallets: u64,
    limit: usize,
    search: usize,
    faults: &[(Fault, When)],
    options: &[&str],
) {
    let stub = wide_stub().await;
    for (fault, when) in faults {
        stub.fault(fault.clone(), when.clone());
    }
    assert_finds_limit_at(&stub, wallets, limit, search, options).await;
}

/// Asserts that a sweep of this node stores everything with nearly the fewest calls, and `search` calls to find the limit.
async fn assert_finds_limit_at(
    stub: &Stub,
    wallets: u64,
    limit: usize,
    search: usize,
    options: &[&str],
) {
    let database = unread_table(wallets);
    let ran = sweep_all(&database, &stub.url(), options).run().expect(0);
    assert_read_at_genesis(&database, wallets, &[]).await;

    let calls = stub.count("eth_call");
    assert_eq!(ran.json()["calls"], calls);
    let fewest = (wallets as usize).div_ceil(limit);
    let sizes = chunk_sizes(stub);
    assert!(calls <= fewest * 5 / 4 + search, "{calls} calls, {fewest} would do: {sizes:?}");
    let early = sizes.iter().take(2 * search).filter(|(_, answered)| *answered);
    let best = early.map(|(wallets, _)| *wallets).max().unwrap_or(0);
    assert!(best * 5 >= limit.min(wallets as usize / 4) * 4, "{best} of {limit}: {sizes:?}");
}

fn accepts(wallets: usize) -> (Fault, When) {
    (Fault::WalletsAbove { wallets, parts: PARTS }, When::eth_call())
}

macro_rules! finds_limit {
    ($($name:ident: $wallets:expr, $limit:expr, $search:expr, $faults:expr, $options:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            assert_finds_limit($wallets, $limit, $search, &$faults, &$options).await;
        })*
    };
}

finds_limit! {
    a_node_that_accepts_100_wallets_gets_about_100:
        5_000, 100, SEARCH, [accepts(100)], ["--reader", "multicall3"];
    a_node_that_accepts_100_wallets_gets_about_100_packed:
        5_000, 100, SEARCH, [accepts(100)], ["--reader", "packed"];
    a_node_that_accepts_7_wallets_works: 700, 7, SEARCH + FIRST_CHUNK, [accepts(7)], ["--reader", "packed"];
    a_node_that_accepts_one_wallet_works: 60, 1, SEARCH + FIRST_CHUNK, [accepts(1)], ["--reader", "packed"];
    a_limit_between_two_doublings_is_found:
        WALLETS, 1_150, SEARCH, [accepts(1_150)], ["--reader", "packed"];
    a_limit_just_below_a_doubling_is_found:
        WALLETS, 795, SEARCH, [accepts(795)], ["--reader", "multicall3"];
    // aggregate3 needs 1,344 bytes per wallet.
    request_bodies_of_a_megabyte_hold_700_wallets_with_multicall3:
        WALLETS, 740, SEARCH, [(Fault::status(413), When::eth_call().larger_than(1_000_000))], ["--reader", "multicall3"];
    // Packed needs 40 bytes per wallet: a limit of a tenth, so that the table can be smaller.
    request_bodies_of_100_kb_hold_2400_wallets_packed:
        WALLETS, 2_400, SEARCH, [(Fault::status(413), When::eth_call().larger_than(100_000))], ["--reader", "packed"];
    a_limit_on_response_size_is_found:
        10_000, 500, SEARCH, [(Fault::ResponseTooLargeAbove(500), When::eth_call())], ["--reader", "packed"];
    a_fixed_chunk_size_is_kept: 5_000, 500, SEARCH, [], ["--reader", "packed", "--chunk", "500"];
    // All concurrent first chunks are halved.
    a_fixed_chunk_size_that_is_too_large_is_reduced_to_the_limit:
        WALLETS, 700, SEARCH + FIRST_CHUNK, [accepts(700)], ["--reader", "packed", "--chunk", "5000"];
    one_call_at_a_time_finds_the_limit:
        WALLETS, 1_150, SEARCH, [accepts(1_150)], ["--reader", "packed", "--concurrency", "1"];
    // Fifteen calls use the known size while one tries the next.
    sixteen_calls_at_a_time_find_the_limit:
        WALLETS, 290, 3 * SEARCH, [accepts(290)], ["--reader", "packed", "--concurrency", "16"];
}

/// The same with Anvil's real gas limit: a wallet needs about 9,800 gas packed, 21,000 with Multicall3.
async fn assert_finds_limit_with_gas(gas: u64, reader: &str, limit: usize) {
    let chain = Chain::builder().wallets(WALLETS).gas_limit(gas);
    let chain = chain.arg("--no-request-size-limit").start().await.unwrap();
    let stub = stub_of(&chain);
    assert_finds_limit_at(&stub, WALLETS, limit, SEARCH, &["--reader", reader]).await;
}

macro_rules! with_gas {
    ($($name:ident: $gas:literal, $reader:literal, $limit:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            assert_finds_limit_with_gas($gas, $reader, $limit).await;
        })*
    };
}

with_gas! {
    thirty_million_gas_hold_3000_wallets_packed: 30_000_000, "packed", 3_000;
    thirty_million_gas_hold_1400_wallets_through_multicall3: 30_000_000, "multicall3", 1_400;
    fifty_million_gas_hold_5000_wallets_packed: 50_000_000, "packed", 5_000;
    fifty_million_gas_hold_2300_wallets_through_multicall3: 50_000_000, "multicall3", 2_300;
    with_550_million_gas_one_call_holds_the_whole_table: 550_000_000, "packed", 20_000;
}

/// Nothing is risked where a few calls of a size that works are enough: over a distance each refused one is a round trip.
#[tokio::test(flavor = "multi_thread")]
async fn at_the_usual_limit_a_small_table_is_read_without_a_refused_call() {
    for reader in ["packed", "auto"] {
        let stub = wide_stub().await;
        let (fault, when) = accepts(4_900);
        stub.fault(fault, when);
        let database = unread_table(WALLETS);
        sweep_all(&database, &stub.url(), &["--reader", reader]).run().expect(0);
        assert_read_at_genesis(&database, WALLETS, &[]).await;
        let sizes = chunk_sizes(&stub);
        assert!(sizes.iter().all(|(_, answered)| *answered), "{reader}: {sizes:?}");
        // Five, and one to compare.
        assert!(sizes.len() <= 7, "{reader}: {sizes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_exceeds_chunk_with_either_reader() {
    for reader in ["multicall3", "packed"] {
        let stub = wide_stub().await;
        let database = unread_table(1_000);
        let options = ["--reader", reader, "--chunk", "70"];
        sweep_all(&database, &stub.url(), &options).run().expect(0);
        assert_read_at_genesis(&database, 1_000, &[]).await;
        let mut sizes = chunk_sizes(&stub);
        sizes.sort_unstable();
        assert_eq!(sizes[0], (20, true), "{reader}");
        assert!(
            sizes.len() == 15 && sizes[1..].iter().all(|size| *size == (70, true)),
            "{sizes:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_wallets_do_not_keep_chunks_small() {
    for reader in ["multicall3", "packed"] {
        let stub = wide_stub().await;
        let poisoned = [3_000, 9_000, 15_000];
        for n in poisoned {
            let out_of_gas = Fault::error(-32000, "out of gas");
            stub.fault(out_of_gas, When::eth_call().mentioning(&address(n)));
        }
        let (fault, when) = accepts(500);
        stub.fault(fault, when);
        let database = unread_table(WALLETS);
        let ran = sweep_all(&database, &stub.url(), &["--reader", reader]).run().expect(0);
        assert_eq!(ran.json()["failed"], 3);
        assert_read_at_genesis(&database, WALLETS, &poisoned).await;
        // Finding one among 500 takes 9 halvings of two calls; then it is read alone, with the canary.
        // Smaller chunks meanwhile cost a few more calls.
        let calls = stub.count("eth_call");
        let most = 40 * 5 / 4 + SEARCH + poisoned.len() * 30;
        assert!(calls <= most, "{calls} of {most}: {:?}", chunk_sizes(&stub));
        // The first unreadable wallet comes early. How busy the machine is decides in which order calls arrive, and how close
        // to the limit the search ends.
        let large = |(wallets, answered): &(usize, bool)| *answered && *wallets >= 300;
        let in_large: usize = chunk_sizes(&stub)
            .iter()
            .filter(|chunk| large(chunk))
            .map(|(wallets, _)| wallets)
            .sum();
        assert!(in_large >= WALLETS as usize / 2, "{in_large}: {:?}", chunk_sizes(&stub));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_timeouts_do_not_keep_chunks_small() {
    let stub = wide_stub().await;
    let (fault, when) = accepts(100);
    stub.fault(Fault::error(-32000, "execution timeout"), When::eth_call().after(20).times(6));
    stub.fault(fault, when);
    let database = unread_table(WALLETS);
    sweep_all(&database, &stub.url(), &["--reader", "packed"]).run().expect(0);
    assert_read_at_genesis(&database, WALLETS, &[]).await;
    let sizes = chunk_sizes(&stub);
    let late = &sizes[sizes.len() - 40..];
    assert!(late.iter().any(|(wallets, answered)| *answered && *wallets >= 90), "{sizes:?}");
    assert!(sizes.len() <= 200 * 5 / 4 + SEARCH + 30, "{} calls: {sizes:?}", sizes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_endpoint_has_its_own_chunk_size() {
    let chain = wide_chain().await;
    let [first, second] = [(); 2].map(|()| stub_of(chain));
    let ((fault, when), (more, always)) = (accepts(100), accepts(1_000));
    // Its quota is exhausted after thirty calls.
    first.fault(fault, when.times(5));
    first.fault(Fault::status(402), When::eth_call().after(30));
    first.fault(Fault::WalletsAbove { wallets: 100, parts: PARTS }, When::eth_call());
    second.fault(more, always);
    let database = unread_table(WALLETS);
    let urls = format!("{},{}", first.url(), second.url());
    sweep_all(&database, &urls, &["--reader", "packed"]).run().expect(0);
    assert_read_at_genesis(&database, WALLETS, &[]).await;

    let taken = chunk_sizes(&first).into_iter().filter(|(_, answered)| *answered);
    assert!(taken.map(|(wallets, _)| wallets).max() > Some(90));
    let sizes = chunk_sizes(&second);
    let best = sizes.iter().filter(|(_, answered)| *answered).map(|(wallets, _)| *wallets).max();
    assert!(best >= Some(900), "{sizes:?}");
    assert!(sizes.len() <= 18 * 5 / 4 + SEARCH + 8, "{} calls: {sizes:?}", sizes.len());
}
