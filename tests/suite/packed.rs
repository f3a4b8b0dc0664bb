//! The packed reader on contracts that fail in every way: what it stores is what the parts say one by one, or nothing.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    primitives::{Address, Bytes, U256, keccak256},
    providers::Provider,
    rpc::{client::BatchRequest, types::TransactionRequest},
};
use ethtally_testbed::{
    Chain, Freak,
    freak::{self, FREAKS, FUNCTIONS},
    stub::{Fault as NodeFault, Seen, Stub, When},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::{
    harness::{Database, Ethtally, Ran, ethtally},
    world::still_chain,
};

/// Gas enough for any part that gives a word at all.
const GENEROUS: u64 = 4_000_000;

/// A chain of little gas, so that those who burn it are soon done, for stories that change nothing on it.
async fn freaky_chain() -> &'static Chain {
    static CHAIN: OnceCell<Chain> = OnceCell::const_new();
    let start = async || Chain::builder().gas_limit(10_000_000).start().await.expect("a chain");
    CHAIN.get_or_init(start).await
}

/// Each wallet's total by direct calls, one a part; none where a part gives no word, or the sum does not fit.
async fn read_directly(
    chain: &Chain,
    parts: usize,
    wallets: &[Address],
) -> BTreeMap<String, Option<U256>> {
    let mut totals = BTreeMap::new();
    for wallets in wallets.chunks(100) {
        let mut batch = BatchRequest::new(chain.provider().client());
        let mut answers = Vec::new();
        for wallet in wallets {
            for part in 0..parts {
                let selector = &keccak256(format!("{}(address)", FUNCTIONS[part]))[..4];
                let data: Bytes = [selector, wallet.into_word().as_slice()].concat().into();
                let call = TransactionRequest { gas: Some(GENEROUS), ..Default::default() };
                let call = call.to(FREAKS[part]).input(data.into());
                answers.push(batch.add_call::<_, Bytes>("eth_call", &(call, "0x0")).unwrap());
            }
        }
        batch.send().await.unwrap();
        let mut words = Vec::new();
        for answer in answers {
            let data = answer.await.ok().filter(|data| data.len() == 32);
            words.push(data.map(|data| U256::from_be_slice(&data)));
        }
        for (wallet, words) in wallets.iter().zip(words.chunks(parts)) {
            let add = |sum: U256, word: &Option<U256>| sum.checked_add((*word)?);
            totals.insert(format!("{wallet:#x}"), words.iter().try_fold(U256::ZERO, add));
        }
    }
    totals
}

/// A database that knows the profile of so many parts, and these wallets unread.
struct Table {
    database: Database,
    profile: String,
}

impl Table {
    fn of(parts: usize, wallets: &[Address]) -> Self {
        let database = Database::sqlite();
        let file = database.folder().join("freaks.toml");
        std::fs::write(&file, freak::profile(parts)).unwrap();
        let profile = file.to_str().unwrap().to_owned();
        let lines: String = wallets.iter().map(|wallet| format!("{wallet:#x}\n")).collect();
        ethtally(["backfill", "--from-csv", "-", "--placeholders"])
            .database(&database)
            .input(lines)
            .run()
            .expect(0);
        Self { database, profile }
    }

    fn sweep(&self, node: &str, options: &[&str]) -> Ethtally {
        let fixed = ["sweep", "--all", "--json", "--profile", &self.profile];
        let arguments: Vec<_> = fixed.into_iter().chain(options.iter().copied()).collect();
        ethtally(arguments).node(node).database(&self.database)
    }

    /// What was read and stored.
    async fn totals(&self) -> BTreeMap<String, U256> {
        let rows = "select wallet, balance from eth_wallet_balances where read_block is not null";
        let rows = self.database.sql(rows).await;
        let pair = |row: &String| {
            let (wallet, total) = row.split_once('|').expect("two columns");
            (wallet.to_owned(), total.parse().expect("a number"))
        };
        rows.iter().map(pair).collect()
    }

    /// Fails unless exactly those that have a total are stored with it, and all others are on the record.
    async fn holds(&self, expected: &BTreeMap<String, Option<U256>>, ran: &Ran) {
        let stored = self.totals().await;
        for (wallet, total) in expected {
            assert_eq!(stored.get(wallet), total.as_ref(), "{wallet}: {ran:?}");
        }
        let unreadable = "select wallet from eth_wallet_read_failures";
        let unreadable: BTreeSet<_> = self.database.sql(unreadable).await.into_iter().collect();
        let without = expected.iter().filter(|(_, total)| total.is_none());
        assert_eq!(unreadable, without.map(|(wallet, _)| wallet.clone()).collect());
        let said = ran.json();
        assert_eq!(
            (&said["requested"], &said["updated"], &said["failed"]),
            (&json!(expected.len()), &json!(stored.len()), &json!(unreadable.len()))
        );
    }
}

/// The calls of a kind that a node was asked, and how many wallets each was about.
fn calls_of(stub: &Stub, packed: bool, parts: usize) -> Vec<(Seen, usize)> {
    let calls = stub.requests().into_iter().filter(|seen| seen.is_packed() == packed);
    calls.filter_map(|seen| seen.wallets(parts).map(|wallets| (seen, wallets))).collect()
}

/// Wallets most of which are fine, and some of which are not with one part or more.
fn some_wallets(random: &mut StdRng, parts: usize, count: u64) -> Vec<Address> {
    // Nobody can tell this one's lie from the truth without knowing that it lies.
    let weird: Vec<_> =
        Freak::ALL.into_iter().filter(|freak| *freak != Freak::LiesBelow2M).collect();
    let mut wallets: Vec<_> = (0..count)
        .map(|n| {
            let mut does = [Freak::Honest; 4];
            for freak in does.iter_mut().take(parts) {
                if random.random_bool(0.4 / parts as f64) {
                    *freak = *weird.choose(random).expect("there are some");
                }
            }
            freak::wallet(does, n ^ random.random::<u64>() << 32)
        })
        .collect();
    // Addresses that mean something to somebody.
    wallets.extend([Address::ZERO, Address::repeat_byte(0xff), FREAKS[0]]);
    wallets.extend((1..4).map(Address::with_last_byte));
    wallets
}

#[expect(clippy::print_stderr, reason = "it belongs to the message of a failure")]
async fn agrees_with_direct_reads(parts: usize, options: &[&str]) {
    let chain = freaky_chain().await;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    eprintln!("the same again: SEED={seed}");
    let wallets = some_wallets(&mut StdRng::seed_from_u64(seed), parts, 150);
    let expected = read_directly(chain, parts, &wallets).await;
    let read = expected.values().flatten().count();
    assert!(read > 50 && expected.len() - read > 3, "a story worth telling");

    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let table = Table::of(parts, &wallets);
    let ran = table.sweep(&stub.url(), options).run().expect(0);
    table.holds(&expected, &ran).await;
    assert!(!calls_of(&stub, true, parts).is_empty());
}

macro_rules! agrees {
    ($($name:ident: $parts:literal, $options:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            agrees_with_direct_reads($parts, &$options).await;
        })*
    };
}

agrees! {
    one_part_agrees_with_direct_reads: 1, ["--reader", "packed"];
    two_parts_agree_with_direct_reads: 2, ["--reader", "packed"];
    three_parts_agree_with_direct_reads: 3, ["--reader", "packed"];
    four_parts_agree_with_direct_reads: 4, ["--reader", "packed"];
    four_parts_agree_in_small_chunks: 4, ["--reader", "packed", "--chunk", "7"];
    four_parts_agree_also_when_the_reader_is_chosen_by_itself: 4, ["--reader", "auto"];
}

#[tokio::test(flavor = "multi_thread")]
async fn only_wallets_that_fail_are_read_again_however_their_neighbours_burn_gas() {
    let chain = freaky_chain().await;
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let burners = [
        [Freak::Loop, Freak::Loop, Freak::Loop, Freak::Loop],
        [Freak::Invalid, Freak::Loop, Freak::Honest, Freak::Honest],
        [Freak::Honest, Freak::Honest, Freak::Honest, Freak::Loop],
        [Freak::ReturnBomb, Freak::RevertBomb, Freak::Invalid, Freak::Honest],
    ];
    let is_burner = |n: u64| n < 2 || n == 50 || n == 99;
    let wallets: Vec<_> = (0..100)
        .map(|n| {
            let does = if is_burner(n) { burners[n as usize % 4] } else { [Freak::Honest; 4] };
            freak::wallet(does, n)
        })
        .collect();
    let expected = read_directly(chain, 4, &wallets).await;
    assert_eq!(expected.values().filter(|total| total.is_none()).count(), 4);

    let table = Table::of(4, &wallets);
    let ran = table.sweep(&stub.url(), &["--reader", "packed"]).run().expect(0);
    table.holds(&expected, &ran).await;
    // The others are in none of Multicall3's calls.
    for (seen, wallets_asked) in calls_of(&stub, false, 4) {
        assert!(wallets_asked <= 4, "{wallets_asked}");
        let data = seen.params.to_string();
        for n in (0..100).filter(|n| !is_burner(*n)) {
            let address = format!("{:x}", wallets[n as usize]);
            assert!(!data.contains(&address), "wallet {n} was read through Multicall3");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greatest_sum_that_fits_is_stored_and_one_more_is_not() {
    use Freak::{Half, HalfLess1, Max, Zero};
    let chain = freaky_chain().await;
    let sums = [
        ([Max, Zero, Zero, Zero], true),
        ([Zero, Zero, Zero, Max], true),
        ([Half, HalfLess1, Zero, Zero], true),
        ([HalfLess1, Zero, Zero, Half], true),
        // Two halves are 2^256, and with something beside it, a number that looks small.
        ([Half, Half, Zero, Zero], false),
        ([Half, Zero, Half, Max], false),
        ([Max, Max, Max, Max], false),
        ([Max, Zero, Zero, Freak::Honest], false),
        ([Zero; 4], false),
    ];
    let wallets: Vec<_> = (0..).zip(sums).map(|(n, (does, _))| freak::wallet(does, n)).collect();
    let expected = read_directly(chain, 4, &wallets).await;
    for (wallet, (does, is_greatest)) in wallets.iter().zip(sums) {
        let total = expected[&format!("{wallet:#x}")];
        assert_eq!(total == Some(U256::MAX), is_greatest, "{does:?}");
    }
    let table = Table::of(4, &wallets);
    let ran = table.sweep(&chain.url(), &["--reader", "packed"]).run().expect(0);
    table.holds(&expected, &ran).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_whose_sum_is_the_mark_is_no_failure_of_a_wallet_alone() {
    let chain = freaky_chain().await;
    let wallets = [freak::wallet([Freak::Max; 4], 1)];
    let table = Table::of(1, &wallets);
    let ran = table.sweep(&chain.url(), &["--reader", "packed"]).run().expect(0);
    table.holds(&[(format!("{:#x}", wallets[0]), Some(U256::MAX))].into(), &ran).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_runs_short_of_gas_tells_no_lie() {
    // Each wallet takes some 130,000 gas, of 10,000,000; and who has little left says 1.
    let does = [Freak::Hungry, Freak::LiesBelow30k, Freak::Hungry, Freak::LiesBelow30k];
    let chain = freaky_chain().await;
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let wallets: Vec<_> = (0..400).map(|n| freak::wallet(does, n)).collect();
    let expected = read_directly(chain, 4, &wallets).await;
    assert!(expected.values().all(|total| total.is_some_and(|total| total > U256::ONE << 64)));
    for chunk in ["auto", "400", "130", "83", "77", "76", "75", "74", "70"] {
        let table = Table::of(4, &wallets);
        let options = ["--reader", "packed", "--chunk", chunk];
        let ran = table.sweep(&stub.url(), &options).run().expect(0);
        table.holds(&expected, &ran).await;
    }
    let asked = calls_of(&stub, true, 4).into_iter().map(|(_, wallets)| wallets);
    assert!(asked.max() > Some(200), "chunks that are too large are a part of the story");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_left_with_too_little_gas_is_not_called_at_all() {
    let chain = freaky_chain().await;
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let wallets: Vec<_> = (0..3).map(|n| freak::wallet([Freak::LiesBelow30k; 4], n)).collect();
    let expected = read_directly(chain, 4, &wallets).await;
    let table = Table::of(4, &wallets);
    let mut read = 0;
    for gas in (25_000..325_000).step_by(6_000) {
        stub.clear();
        stub.fault(
            NodeFault::GasCap(gas),
            When::always().matching(|call| !call["params"][2].is_null()),
        );
        let ran = table.sweep(&stub.url(), &["--reader", "packed"]).run();
        let stored = table.totals().await;
        if ran.status == 0 {
            read += 1;
            table.holds(&expected, &ran).await;
        } else {
            assert!(ran.error().contains("--reader"), "{gas}: {ran:?}");
            assert!(stored.iter().all(|(wallet, total)| expected[wallet] == Some(*total)), "{gas}");
        }
    }
    assert!((5..45).contains(&read), "with little gas nobody is read, with much everybody: {read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_packed_calls_is_needed_where_all_is_well() {
    let chain = freaky_chain().await;
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let wallets: Vec<_> = (0..300).map(|n| freak::wallet([Freak::Honest; 4], n)).collect();
    let expected = read_directly(chain, 3, &wallets).await;
    let table = Table::of(3, &wallets);
    let ran = table.sweep(&stub.url(), &["--reader", "packed", "--chunk", "100"]).run().expect(0);
    table.holds(&expected, &ran).await;
    assert_eq!(calls_of(&stub, true, 3).len(), 3);
    assert_eq!(calls_of(&stub, false, 3).len(), 0);
    // The table of three parts, then twenty bytes a wallet.
    for (seen, wallets) in calls_of(&stub, true, 3) {
        let data = seen.params[0]["data"].as_str().expect("call data");
        assert_eq!((data.len() - 2) / 2, 8 + 3 * 24 + wallets * 20);
    }
}

/// Two or more wallets that burn all gas leave the wallets behind them so little that one of these lies.
async fn is_told_no_lie_behind_burners(reader: &str, behind: [Freak; 4]) {
    let chain = still_chain().await;
    for burners in 1..=4 {
        let burning = [Freak::Invalid, Freak::Honest, Freak::Honest, Freak::Honest];
        // Sweeps take wallets of the same age in the order of their addresses.
        let mut wallets: Vec<_> = (0..burners).map(|n| freak::wallet(burning, n)).collect();
        wallets.push(freak::wallet(behind, 99));
        assert!(wallets.iter().is_sorted_by_key(|wallet| wallet[0]));
        let expected = read_directly(chain, 2, &wallets).await;
        let table = Table::of(2, &wallets);
        let ran = table.sweep(&chain.url(), &["--reader", reader]).run().expect(0);
        table.holds(&expected, &ran).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_behind_gas_burners_is_told_no_lie_through_multicall3() {
    use Freak::{Honest, LiesBelow30k};
    is_told_no_lie_behind_burners("multicall3", [LiesBelow30k, Honest, Honest, Honest]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_wallet_behind_gas_burners_is_told_no_lie() {
    use Freak::{Honest, LiesBelow30k, Writes};
    is_told_no_lie_behind_burners("packed", [LiesBelow30k, Writes, Honest, Honest]).await;
}
