//! The packed reader with adversarial contracts: it stores what direct calls return, or nothing.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    primitives::{Address, Bytes, U256, keccak256},
    providers::Provider,
    rpc::{client::BatchRequest, types::TransactionRequest},
};
use ethtally_testbed::{
    Behaviour, Chain,
    adversarial::{self, ADVERSARIAL_CONTRACTS, FUNCTIONS},
    stub::{Fault, RecordedRequest, Stub, When},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::support::{
    chains::{still_chain, stub_of},
    database::Database,
    program::{Ethtally, Output, ethtally, sweep_all},
    table::{read_failures, read_totals},
    wallets::random_seed,
};

/// Enough gas for any contract that returns a word.
const GENEROUS: u64 = 4_000_000;

/// A shared chain with a low gas limit, so that burning gas is fast, for tests that do not change it.
async fn low_gas_chain() -> &'static Chain {
    static CHAIN: OnceCell<Chain> = OnceCell::const_new();
    let start = async || Chain::builder().gas_limit(10_000_000).start().await.expect("a chain");
    CHAIN.get_or_init(start).await
}

/// Each wallet's total by direct calls, one per part; `None` if a part returns no word or the sum overflows.
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
                let call = call.to(ADVERSARIAL_CONTRACTS[part]).input(data.into());
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

/// A database with these wallets unread, and a profile of this many parts.
struct AdversarialTable {
    database: Database,
    profile: String,
}

impl AdversarialTable {
    fn of(parts: usize, wallets: &[Address]) -> Self {
        let database = Database::sqlite();
        let file = database.folder().join("adversarial.toml");
        std::fs::write(&file, adversarial::profile(parts)).unwrap();
        let profile = file.to_str().unwrap().to_owned();
        let lines: String = wallets.iter().map(|wallet| format!("{wallet:#x}\n")).collect();
        ethtally(["backfill", "--from-csv", "-", "--placeholders", "--profile", &profile])
            .database(&database)
            .input(lines)
            .run()
            .expect(0);
        Self { database, profile }
    }

    fn sweep(&self, node: &str, options: &[&str]) -> Ethtally {
        sweep_all(&self.database, node, &[&["--profile", self.profile.as_str()], options].concat())
    }

    /// The totals that were read.
    async fn totals(&self) -> BTreeMap<String, U256> {
        let read = read_totals(&self.database).await.into_iter();
        read.map(|(wallet, total)| (wallet, total.parse().expect("a number"))).collect()
    }

    /// Panics unless exactly the wallets with a total are stored with it, and all others are recorded as unreadable.
    async fn assert_stored(&self, expected: &BTreeMap<String, Option<U256>>, ran: &Output) {
        let stored = self.totals().await;
        for (wallet, total) in expected {
            assert_eq!(stored.get(wallet), total.as_ref(), "{wallet}: {ran:?}");
        }
        let unreadable: BTreeSet<_> = read_failures(&self.database).await.into_keys().collect();
        let without = expected.iter().filter(|(_, total)| total.is_none());
        assert_eq!(unreadable, without.map(|(wallet, _)| wallet.clone()).collect());
        let said = ran.json();
        assert_eq!(
            (&said["requested"], &said["updated"], &said["failed"]),
            (&json!(expected.len()), &json!(stored.len()), &json!(unreadable.len()))
        );
    }
}

/// The recorded calls of one reader, each with its number of wallets.
fn calls_of(stub: &Stub, packed: bool, parts: usize) -> Vec<(RecordedRequest, usize)> {
    let calls = stub.requests().into_iter().filter(|seen| seen.is_packed() == packed);
    calls.filter_map(|seen| seen.wallets(parts).map(|wallets| (seen, wallets))).collect()
}

/// Mostly honest wallets, some of which fail in one or more parts.
fn some_wallets(random: &mut StdRng, parts: usize, count: u64) -> Vec<Address> {
    // Its wrong value cannot be distinguished from a right one.
    let weird: Vec<_> = Behaviour::ALL
        .into_iter()
        .filter(|behaviour| *behaviour != Behaviour::LiesBelow2M)
        .collect();
    let mut wallets: Vec<_> = (0..count)
        .map(|n| {
            let mut behaviours = [Behaviour::Honest; 4];
            for behaviour in behaviours.iter_mut().take(parts) {
                if random.random_bool(0.4 / parts as f64) {
                    *behaviour = *weird.choose(random).expect("there are some");
                }
            }
            adversarial::wallet(behaviours, n ^ random.random::<u64>() << 32)
        })
        .collect();
    // Special addresses.
    wallets.extend([Address::ZERO, Address::repeat_byte(0xff), ADVERSARIAL_CONTRACTS[0]]);
    wallets.extend((1..4).map(Address::with_last_byte));
    wallets
}

#[expect(clippy::print_stderr, reason = "part of the failure message")]
async fn agrees_with_direct_reads(parts: usize, options: &[&str]) {
    let chain = low_gas_chain().await;
    let seed = random_seed();
    eprintln!("to reproduce: SEED={seed}");
    let wallets = some_wallets(&mut StdRng::seed_from_u64(seed), parts, 150);
    let expected = read_directly(chain, parts, &wallets).await;
    let read = expected.values().flatten().count();
    assert!(read > 50 && expected.len() - read > 3, "a useful mix of wallets");

    let stub = stub_of(chain);
    let table = AdversarialTable::of(parts, &wallets);
    let ran = table.sweep(&stub.url(), options).run().expect(0);
    table.assert_stored(&expected, &ran).await;
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
    four_parts_agree_with_reader_auto: 4, ["--reader", "auto"];
}

#[tokio::test(flavor = "multi_thread")]
async fn only_failing_wallets_are_read_again_even_beside_gas_burners() {
    let chain = low_gas_chain().await;
    let stub = stub_of(chain);
    let burners = [
        [Behaviour::Loop, Behaviour::Loop, Behaviour::Loop, Behaviour::Loop],
        [Behaviour::Invalid, Behaviour::Loop, Behaviour::Honest, Behaviour::Honest],
        [Behaviour::Honest, Behaviour::Honest, Behaviour::Honest, Behaviour::Loop],
        [Behaviour::ReturnBomb, Behaviour::RevertBomb, Behaviour::Invalid, Behaviour::Honest],
    ];
    let is_burner = |n: u64| n < 2 || n == 50 || n == 99;
    let wallets: Vec<_> = (0..100)
        .map(|n| {
            let does = if is_burner(n) { burners[n as usize % 4] } else { [Behaviour::Honest; 4] };
            adversarial::wallet(does, n)
        })
        .collect();
    let expected = read_directly(chain, 4, &wallets).await;
    assert_eq!(expected.values().filter(|total| total.is_none()).count(), 4);

    let table = AdversarialTable::of(4, &wallets);
    let ran = table.sweep(&stub.url(), &["--reader", "packed"]).run().expect(0);
    table.assert_stored(&expected, &ran).await;
    // No Multicall3 call contains the others.
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
async fn the_largest_sum_is_stored_and_an_overflow_is_not() {
    use Behaviour::{Half, HalfLess1, Max, Zero};
    let chain = low_gas_chain().await;
    let sums = [
        ([Max, Zero, Zero, Zero], true),
        ([Zero, Zero, Zero, Max], true),
        ([Half, HalfLess1, Zero, Zero], true),
        ([HalfLess1, Zero, Zero, Half], true),
        // Two halves are 2^256, which overflows to a small number.
        ([Half, Half, Zero, Zero], false),
        ([Half, Zero, Half, Max], false),
        ([Max, Max, Max, Max], false),
        ([Max, Zero, Zero, Behaviour::Honest], false),
        ([Zero; 4], false),
    ];
    let wallets: Vec<_> =
        (0..).zip(sums).map(|(n, (does, _))| adversarial::wallet(does, n)).collect();
    let expected = read_directly(chain, 4, &wallets).await;
    for (wallet, (does, is_greatest)) in wallets.iter().zip(sums) {
        let total = expected[&format!("{wallet:#x}")];
        assert_eq!(total == Some(U256::MAX), is_greatest, "{does:?}");
    }
    let table = AdversarialTable::of(4, &wallets);
    let ran = table.sweep(&chain.url(), &["--reader", "packed"]).run().expect(0);
    table.assert_stored(&expected, &ran).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_total_equal_to_the_failure_marker_is_stored() {
    let chain = low_gas_chain().await;
    let wallets = [adversarial::wallet([Behaviour::Max; 4], 1)];
    let table = AdversarialTable::of(1, &wallets);
    let ran = table.sweep(&chain.url(), &["--reader", "packed"]).run().expect(0);
    table.assert_stored(&[(format!("{:#x}", wallets[0]), Some(U256::MAX))].into(), &ran).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_short_of_gas_stores_no_wrong_total() {
    // A wallet needs about 130,000 of 10,000,000 gas, and returns 1 if little is left.
    let does =
        [Behaviour::Hungry, Behaviour::LiesBelow30k, Behaviour::Hungry, Behaviour::LiesBelow30k];
    let chain = low_gas_chain().await;
    let stub = stub_of(chain);
    let wallets: Vec<_> = (0..400).map(|n| adversarial::wallet(does, n)).collect();
    let expected = read_directly(chain, 4, &wallets).await;
    assert!(expected.values().all(|total| total.is_some_and(|total| total > U256::ONE << 64)));
    for chunk in ["auto", "400", "130", "83", "77", "76", "75", "74", "70"] {
        let table = AdversarialTable::of(4, &wallets);
        let options = ["--reader", "packed", "--chunk", chunk];
        let ran = table.sweep(&stub.url(), &options).run().expect(0);
        table.assert_stored(&expected, &ran).await;
    }
    let asked = calls_of(&stub, true, 4).into_iter().map(|(_, wallets)| wallets);
    assert!(asked.max() > Some(200), "some chunks were too large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_not_called_with_too_little_gas() {
    let chain = low_gas_chain().await;
    let stub = stub_of(chain);
    let wallets: Vec<_> =
        (0..3).map(|n| adversarial::wallet([Behaviour::LiesBelow30k; 4], n)).collect();
    let expected = read_directly(chain, 4, &wallets).await;
    let table = AdversarialTable::of(4, &wallets);
    let mut read = 0;
    for gas in (25_000..325_000).step_by(6_000) {
        stub.clear();
        stub.fault(
            Fault::GasCap(gas),
            When::always().matching(|call| !call["params"][2].is_null()),
        );
        let ran = table.sweep(&stub.url(), &["--reader", "packed"]).run();
        let stored = table.totals().await;
        if ran.status == 0 {
            read += 1;
            table.assert_stored(&expected, &ran).await;
        } else {
            assert!(ran.error().contains("--reader"), "{gas}: {ran:?}");
            assert!(stored.iter().all(|(wallet, total)| expected[wallet] == Some(*total)), "{gas}");
        }
    }
    assert!((5..45).contains(&read), "no wallet is read with little gas, all with much: {read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_failures_only_packed_calls_are_sent() {
    let chain = low_gas_chain().await;
    let stub = stub_of(chain);
    let wallets: Vec<_> =
        (0..300).map(|n| adversarial::wallet([Behaviour::Honest; 4], n)).collect();
    let expected = read_directly(chain, 3, &wallets).await;
    let table = AdversarialTable::of(3, &wallets);
    let ran = table.sweep(&stub.url(), &["--reader", "packed", "--chunk", "100"]).run().expect(0);
    table.assert_stored(&expected, &ran).await;
    assert_eq!(calls_of(&stub, true, 3).len(), 3);
    assert_eq!(calls_of(&stub, false, 3).len(), 0);
    // The table of three parts, then twenty bytes a wallet.
    for (seen, wallets) in calls_of(&stub, true, 3) {
        let data = seen.params[0]["data"].as_str().expect("call data");
        assert_eq!((data.len() - 2) / 2, 8 + 3 * 24 + wallets * 20);
    }
}

/// Two or more wallets that burn all gas leave so little to the next that it returns a wrong value.
async fn is_read_correctly_behind_gas_burners(reader: &str, behind: [Behaviour; 4]) {
    let chain = still_chain().await;
    for burners in 1..=4 {
        let burning = [Behaviour::Invalid, Behaviour::Honest, Behaviour::Honest, Behaviour::Honest];
        // A sweep takes wallets of the same age in the order of their addresses.
        let mut wallets: Vec<_> = (0..burners).map(|n| adversarial::wallet(burning, n)).collect();
        wallets.push(adversarial::wallet(behind, 99));
        assert!(wallets.iter().is_sorted_by_key(|wallet| wallet[0]));
        let expected = read_directly(chain, 2, &wallets).await;
        let table = AdversarialTable::of(2, &wallets);
        let ran = table.sweep(&chain.url(), &["--reader", reader]).run().expect(0);
        table.assert_stored(&expected, &ran).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_behind_gas_burners_is_read_correctly_with_multicall3() {
    use Behaviour::{Honest, LiesBelow30k};
    is_read_correctly_behind_gas_burners("multicall3", [LiesBelow30k, Honest, Honest, Honest])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_wallet_behind_gas_burners_is_read_correctly() {
    use Behaviour::{Honest, LiesBelow30k, Writes};
    is_read_correctly_behind_gas_burners("packed", [LiesBelow30k, Writes, Honest, Honest]).await;
}
