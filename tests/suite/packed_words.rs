//! Which reader reads: what `auto` finds out about a node, what it says of it, and what `packed` insists on.

use ethtally_testbed::stub::{Fault, Lie, Seen, Stub, When};

use crate::{
    chunks::{holds_what_they_hold, sweep, table, wide_chain},
    harness::{Database, Ran},
    world::{address, dump},
};

const WALLETS: u64 = 1_000;
/// Parts of the built-in profile.
const PARTS: usize = 3;

fn calls() -> When {
    When::method("eth_call")
}

/// A sweep in chunks of a hundred, and what the node was asked.
struct Swept {
    database: Database,
    stub: Stub,
    ran: Ran,
}

/// Calls with a third parameter.
fn overridden() -> When {
    calls().matching(|request| !request["params"][2].is_null())
}

async fn swept(reader: &str, fault: Fault) -> Swept {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    stub.fault(fault, overridden());
    let database = table(WALLETS);
    let options = ["--reader", reader, "--chunk", "100", "--retries", "2"];
    let ran = sweep(&database, &stub.url(), &options).run();
    Swept { database, stub, ran }
}

impl Swept {
    /// Fails unless all is stored and true.
    async fn is_well(&self) {
        assert_eq!(self.ran.status, 0, "{:?}", self.ran);
        assert!(!self.ran.stderr.contains("error: "), "{:?}", self.ran);
        holds_what_they_hold(&self.database, WALLETS, &[]).await;
        assert_eq!(self.ran.json()["calls"], self.stub.count("eth_call"));
    }

    fn packed(&self) -> Vec<Seen> {
        self.stub.requests().into_iter().filter(Seen::is_packed).collect()
    }

    fn through_multicall3(&self) -> Vec<Seen> {
        let is_one = |seen: &Seen| !seen.is_packed() && seen.wallets(PARTS).is_some();
        self.stub.requests().into_iter().filter(is_one).collect()
    }

    /// What stands on stderr, line by line.
    fn notes(&self) -> Vec<&str> {
        self.ran.stderr.lines().collect()
    }
}

/// The wallets of a call, wherever they stand in it.
fn names(seen: &Seen, wallets: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let data = seen.params.to_string();
    wallets.into_iter().filter(|n| data.contains(&address(*n)[2..])).collect()
}

/// The first wallets in the order in which a sweep takes rows of one age.
fn wallets_in_order(count: u64) -> Vec<u64> {
    let mut wallets: Vec<_> = (0..count).collect();
    wallets.sort_by_key(|n| address(*n));
    wallets
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_reads_the_first_chunk_both_ways_and_the_rest_packed() {
    let swept = swept("auto", Fault::Pass).await;
    swept.is_well().await;
    let (packed, compared) = (swept.packed(), swept.through_multicall3());
    assert_eq!((packed.len(), compared.len()), (10, 1));
    assert_eq!(names(&packed[0], 0..WALLETS), names(&compared[0], 0..WALLETS));
    assert!(packed[1..].iter().all(|later| later.at >= compared[0].at));
    assert!(swept.notes().is_empty(), "{:?}", swept.ran);
}

#[tokio::test(flavor = "multi_thread")]
async fn multicall3_is_what_reads_unless_it_is_asked_for_otherwise() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    for (reader, expected) in [(None, 0), (Some("packed"), 2), (Some("multicall3"), 0)] {
        stub.forget();
        let database = table(200);
        let mut sweep = sweep(&database, &stub.url(), &["--chunk", "100"]);
        if let Some(reader) = reader {
            sweep = sweep.env("ETHTALLY_READER", reader);
        }
        sweep.run().expect(0);
        assert_eq!(stub.requests().iter().filter(|seen| seen.is_packed()).count(), expected);
        assert_eq!(stub.count("eth_call"), 2);
    }
}

/// `auto` finds the node out with its first chunk, says so in a note, and reads as if nothing had been.
async fn auto_takes_multicall3(fault: Fault) {
    let shown = format!("{fault:?}");
    let swept = swept("auto", fault).await;
    swept.is_well().await;
    assert!((1..=3).contains(&swept.packed().len()), "{shown}: {}", swept.packed().len());
    assert_eq!(swept.through_multicall3().len(), 10, "{shown}");
    let notes = swept.notes();
    assert_eq!(notes.len(), 1, "{shown}: {:?}", swept.ran);
    assert!(notes[0].contains("through multicall3"), "{shown}: {notes:?}");
}

/// `packed` ends with one line that says what to do, and stores nothing.
async fn packed_insists(fault: Fault, words: &[&str]) {
    let shown = format!("{fault:?}");
    let swept = swept("packed", fault).await;
    assert_eq!(swept.ran.status, 2, "{shown}: {:?}", swept.ran);
    for word in words {
        assert!(swept.ran.error().contains(word), "{shown}: {}", swept.ran.error());
    }
    assert_eq!(swept.ran.stderr.lines().count(), 1, "{shown}: {:?}", swept.ran);
    assert!(swept.through_multicall3().len() <= 1, "{shown}");
    holds_what_they_hold(&swept.database, 0, &[]).await;
    let failures = "select count(*) from eth_wallet_read_failures";
    assert_eq!(swept.database.value(failures).await, "0", "no wallet is to blame: {shown}");
}

/// What nodes say that know nothing of a third parameter.
fn refusals() -> Vec<Fault> {
    vec![
        Fault::RefusesOverrides,
        Fault::error(-32602, "Invalid params: expected 2 parameters, got 3"),
        Fault::error(-32602, "invalid params"),
        Fault::error(-32602, "Incorrect parameters count, expected: 2, actual: 3"),
        Fault::error(-32000, "state overrides are not supported"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_overrides_is_read_through_multicall3() {
    for refusal in refusals() {
        auto_takes_multicall3(refusal).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ignores_overrides_is_read_through_multicall3() {
    auto_takes_multicall3(Fault::IgnoresOverrides).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_packed_answers_are_wrong_is_read_through_multicall3() {
    for lie in Lie::ALL {
        auto_takes_multicall3(Fault::Packed(lie)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_ends_where_a_node_refuses_overrides() {
    for refusal in refusals() {
        packed_insists(refusal, &["--reader"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_ends_where_a_node_ignores_overrides() {
    packed_insists(Fault::IgnoresOverrides, &["--reader"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_ends_where_an_answer_is_not_what_the_program_returns() {
    for lie in [Lie::Block, Lie::Short, Lie::Long, Lie::Ragged, Lie::Empty] {
        packed_insists(Fault::Packed(lie), &["127.0.0.1"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_to_take_overrides_is_read_through_multicall3_from_then_on() {
    for fault in [Fault::RefusesOverrides, Fault::IgnoresOverrides, Fault::Packed(Lie::Short)] {
        let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
        stub.fault(fault.clone(), calls().after(4));
        let database = table(WALLETS);
        let options =
            ["--reader", "auto", "--chunk", "100", "--concurrency", "1", "--retries", "2"];
        let ran = sweep(&database, &stub.url(), &options).run().expect(0);
        let swept = Swept { database, stub, ran };
        swept.is_well().await;
        // What it says may also be said of a chunk that is too large, and so some are halved.
        assert!((5..=50).contains(&swept.packed().len()), "{fault:?}: {}", swept.packed().len());
        assert_eq!(swept.notes().len(), 1, "{fault:?}: {:?}", swept.ran);
        assert!(swept.notes()[0].contains("through multicall3"), "{fault:?}: {:?}", swept.notes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_endpoint_without_overrides_stands_in_for_the_first() {
    let chain = wide_chain().await;
    let [first, second] = [(); 2].map(|()| Stub::in_front_of(&chain.url()).unwrap());
    first.fault(Fault::status(402), calls().after(4));
    for fault in [Fault::RefusesOverrides, Fault::IgnoresOverrides, Fault::Packed(Lie::Block)] {
        first.clear();
        first.forget();
        second.clear();
        second.forget();
        first.fault(Fault::status(402), calls().after(4));
        second.fault(fault.clone(), calls());
        let database = table(WALLETS);
        let urls = format!("{},{}", first.url(), second.url());
        let options = ["--reader", "auto", "--chunk", "100", "--concurrency", "2"];
        let ran = sweep(&database, &urls, &options).run().expect(0);
        holds_what_they_hold(&database, WALLETS, &[]).await;
        assert_eq!(ran.json()["failed"], 0);
        assert!(second.count("eth_call") >= 6, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_merely_slow_is_not_called_one_without_overrides() {
    let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
    let faults =
        [Fault::status(429), Fault::status(503), Fault::Reset, Fault::error(-32000, "out of gas")];
    stub.script(faults, calls());
    let database = table(WALLETS);
    let options = ["--reader", "auto", "--chunk", "100", "--concurrency", "1"];
    let ran = sweep(&database, &stub.url(), &options).run().expect(0);
    let swept = Swept { database, stub, ran };
    swept.is_well().await;
    assert!(swept.notes().is_empty(), "{:?}", swept.ran);
    assert!(swept.through_multicall3().len() <= 3, "{}", swept.through_multicall3().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wallet_that_a_node_cannot_stomach_is_no_reason_to_do_without_the_packed_reader() {
    let poisoned = wallets_in_order(WALLETS)[0];
    for reader in ["packed", "auto"] {
        let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
        let out_of_gas = Fault::error(-32000, "out of gas");
        stub.fault(out_of_gas.clone(), overridden().mentioning(&address(poisoned)));
        let database = table(WALLETS);
        let options = ["--reader", reader, "--chunk", "100"];
        let ran = sweep(&database, &stub.url(), &options).run().expect(0);
        let swept = Swept { database, stub, ran };
        swept.is_well().await;
        assert!(swept.notes().is_empty(), "{:?}", swept.ran);
        assert!(swept.packed().len() > 10 && swept.through_multicall3().len() <= 10);

        // A node that can stomach none is found out soon.
        let stub = Stub::in_front_of(&wide_chain().await.url()).unwrap();
        stub.fault(out_of_gas, overridden());
        let database = table(WALLETS);
        let ran = sweep(&database, &stub.url(), &options).run();
        let swept = Swept { database, stub, ran };
        assert!(swept.packed().len() < 20, "{}", swept.packed().len());
        if reader == "auto" {
            swept.is_well().await;
            assert_eq!(swept.notes().len(), 1, "{:?}", swept.ran);
        } else {
            assert!(swept.ran.error().contains("--reader"), "{:?}", swept.ran);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_table_and_one_wallet_are_read_by_every_reader() {
    let chain = wide_chain().await;
    for reader in ["multicall3", "packed", "auto"] {
        for wallets in [0, 1] {
            let database = table(wallets);
            let ran = sweep(&database, &chain.url(), &["--reader", reader]).run().expect(0);
            assert_eq!(ran.json()["updated"], wallets);
            holds_what_they_hold(&database, wallets, &[]).await;
            assert_eq!(dump(&database).await.len() as u64, wallets);
        }
    }
}
