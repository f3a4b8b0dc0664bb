//! The choice of the reader: when `auto` uses Multicall3, and when `packed` fails.

use ethtally_testbed::stub::{Corruption, Fault, RecordedRequest, Stub, When};

use crate::support::{
    chains::{stub_of, wide_chain, wide_stub},
    database::Database,
    program::{Output, sweep_all},
    requests::PARTS,
    table::{assert_read_at_genesis, dump, unread_table},
    wallets::address,
};

const WALLETS: u64 = 1_000;

/// The result of a sweep in chunks of a hundred.
struct SweepRun {
    database: Database,
    stub: Stub,
    ran: Output,
}

/// `eth_call`s with state overrides.
fn with_overrides() -> When {
    When::eth_call().matching(|request| !request["params"][2].is_null())
}

async fn swept(reader: &str, fault: Fault) -> SweepRun {
    let stub = wide_stub().await;
    stub.fault(fault, with_overrides());
    let database = unread_table(WALLETS);
    let options = ["--reader", reader, "--chunk", "100", "--retries", "2"];
    let ran = sweep_all(&database, &stub.url(), &options).run();
    SweepRun { database, stub, ran }
}

impl SweepRun {
    /// Panics unless all totals are stored and right.
    async fn assert_complete(&self) {
        assert_eq!(self.ran.status, 0, "{:?}", self.ran);
        assert!(!self.ran.stderr.contains("error: "), "{:?}", self.ran);
        assert_read_at_genesis(&self.database, WALLETS, &[]).await;
        assert_eq!(self.ran.json()["calls"], self.stub.count("eth_call"));
    }

    fn packed(&self) -> Vec<RecordedRequest> {
        self.stub.requests().into_iter().filter(RecordedRequest::is_packed).collect()
    }

    fn through_multicall3(&self) -> Vec<RecordedRequest> {
        let is_one = |seen: &RecordedRequest| !seen.is_packed() && seen.wallets(PARTS).is_some();
        self.stub.requests().into_iter().filter(is_one).collect()
    }

    /// The lines on stderr.
    fn notes(&self) -> Vec<&str> {
        self.ran.stderr.lines().collect()
    }
}

/// Those of these wallets that a call contains.
fn wallets_in(seen: &RecordedRequest, wallets: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let data = seen.params.to_string();
    wallets.into_iter().filter(|n| data.contains(&address(*n)[2..])).collect()
}

/// The first wallets in the order of a sweep, which sorts rows of the same age by address.
fn wallets_in_order(count: u64) -> Vec<u64> {
    let mut wallets: Vec<_> = (0..count).collect();
    wallets.sort_by_key(|n| address(*n));
    wallets
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_reads_the_first_chunk_with_both_readers_and_the_rest_packed() {
    let swept = swept("auto", Fault::Pass).await;
    swept.assert_complete().await;
    let (packed, compared) = (swept.packed(), swept.through_multicall3());
    assert_eq!((packed.len(), compared.len()), (10, 1));
    assert_eq!(wallets_in(&packed[0], 0..WALLETS), wallets_in(&compared[0], 0..WALLETS));
    assert!(packed[1..].iter().all(|later| later.at >= compared[0].at));
    assert!(swept.notes().is_empty(), "{:?}", swept.ran);
}

#[tokio::test(flavor = "multi_thread")]
async fn multicall3_is_the_default_reader() {
    let stub = wide_stub().await;
    for (reader, expected) in [(None, 0), (Some("packed"), 2), (Some("multicall3"), 0)] {
        stub.forget();
        let database = unread_table(200);
        let mut sweep = sweep_all(&database, &stub.url(), &["--chunk", "100"]);
        if let Some(reader) = reader {
            sweep = sweep.env("ETHTALLY_READER", reader);
        }
        sweep.run().expect(0);
        assert_eq!(stub.requests().iter().filter(|seen| seen.is_packed()).count(), expected);
        assert_eq!(stub.count("eth_call"), 2);
    }
}

/// Asserts that `auto` detects the fault in its first chunk, prints a note, and reads everything.
async fn assert_auto_uses_multicall3(fault: Fault) {
    let shown = format!("{fault:?}");
    let swept = swept("auto", fault).await;
    swept.assert_complete().await;
    assert!((1..=3).contains(&swept.packed().len()), "{shown}: {}", swept.packed().len());
    assert_eq!(swept.through_multicall3().len(), 10, "{shown}");
    let notes = swept.notes();
    assert_eq!(notes.len(), 1, "{shown}: {:?}", swept.ran);
    assert!(notes[0].contains("through multicall3"), "{shown}: {notes:?}");
}

/// Asserts that `packed` fails with one error line that contains these words, and stores nothing.
async fn assert_packed_fails(fault: Fault, words: &[&str]) {
    let shown = format!("{fault:?}");
    let swept = swept("packed", fault).await;
    assert_eq!(swept.ran.status, 2, "{shown}: {:?}", swept.ran);
    for word in words {
        assert!(swept.ran.error().contains(word), "{shown}: {}", swept.ran.error());
    }
    assert_eq!(swept.ran.stderr.lines().count(), 1, "{shown}: {:?}", swept.ran);
    assert!(swept.through_multicall3().len() <= 4, "{shown}");
    assert_read_at_genesis(&swept.database, 0, &[]).await;
    let failures = "select count(*) from eth_wallet_read_failures";
    assert_eq!(
        swept.database.value(failures).await,
        "0",
        "no wallet counts as unreadable: {shown}"
    );
}

/// Errors of nodes that do not support state overrides.
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
async fn auto_uses_multicall3_if_a_node_refuses_overrides() {
    for refusal in refusals() {
        assert_auto_uses_multicall3(refusal).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_uses_multicall3_if_a_node_ignores_overrides() {
    assert_auto_uses_multicall3(Fault::IgnoresOverrides).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_uses_multicall3_if_packed_results_are_wrong() {
    for corruption in Corruption::ALL {
        assert_auto_uses_multicall3(Fault::CorruptPacked(corruption)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_fails_if_a_node_refuses_overrides() {
    for refusal in refusals() {
        assert_packed_fails(refusal, &["--reader"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_fails_if_a_node_ignores_overrides() {
    assert_packed_fails(Fault::IgnoresOverrides, &["--reader"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_fails_on_corrupt_results() {
    for corruption in [
        Corruption::Block,
        Corruption::Short,
        Corruption::Long,
        Corruption::PartialWord,
        Corruption::Empty,
    ] {
        assert_packed_fails(Fault::CorruptPacked(corruption), &["127.0.0.1"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_switches_to_multicall3_when_a_node_stops_supporting_overrides() {
    for fault in
        [Fault::RefusesOverrides, Fault::IgnoresOverrides, Fault::CorruptPacked(Corruption::Short)]
    {
        let stub = wide_stub().await;
        stub.fault(fault.clone(), When::eth_call().after(4));
        let database = unread_table(WALLETS);
        let options =
            ["--reader", "auto", "--chunk", "100", "--concurrency", "1", "--retries", "2"];
        let ran = sweep_all(&database, &stub.url(), &options).run().expect(0);
        let swept = SweepRun { database, stub, ran };
        swept.assert_complete().await;
        // Some of these errors may also mean a too large chunk, so some chunks are halved.
        assert!((5..=50).contains(&swept.packed().len()), "{fault:?}: {}", swept.packed().len());
        assert_eq!(swept.notes().len(), 1, "{fault:?}: {:?}", swept.ran);
        assert!(swept.notes()[0].contains("through multicall3"), "{fault:?}: {:?}", swept.notes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_fails_over_to_an_endpoint_without_overrides() {
    let chain = wide_chain().await;
    let [first, second] = [(); 2].map(|()| stub_of(chain));
    first.fault(Fault::status(402), When::eth_call().after(4));
    for fault in
        [Fault::RefusesOverrides, Fault::IgnoresOverrides, Fault::CorruptPacked(Corruption::Block)]
    {
        first.clear();
        first.forget();
        second.clear();
        second.forget();
        first.fault(Fault::status(402), When::eth_call().after(4));
        second.fault(fault.clone(), When::eth_call());
        let database = unread_table(WALLETS);
        let urls = format!("{},{}", first.url(), second.url());
        let options = ["--reader", "auto", "--chunk", "100", "--concurrency", "2"];
        let ran = sweep_all(&database, &urls, &options).run().expect(0);
        assert_read_at_genesis(&database, WALLETS, &[]).await;
        assert_eq!(ran.json()["failed"], 0);
        assert!(second.count("eth_call") >= 6, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_failures_do_not_count_as_missing_overrides() {
    let stub = wide_stub().await;
    let faults =
        [Fault::status(429), Fault::status(503), Fault::Reset, Fault::error(-32000, "out of gas")];
    stub.script(faults, When::eth_call());
    let database = unread_table(WALLETS);
    let options = ["--reader", "auto", "--chunk", "100", "--concurrency", "1"];
    let ran = sweep_all(&database, &stub.url(), &options).run().expect(0);
    let swept = SweepRun { database, stub, ran };
    swept.assert_complete().await;
    assert!(swept.notes().is_empty(), "{:?}", swept.ran);
    assert!(swept.through_multicall3().len() <= 3, "{}", swept.through_multicall3().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_unreadable_wallet_does_not_disable_the_packed_reader() {
    let failing = wallets_in_order(WALLETS)[0];
    for reader in ["packed", "auto"] {
        let stub = wide_stub().await;
        let out_of_gas = Fault::error(-32000, "out of gas");
        stub.fault(out_of_gas.clone(), with_overrides().mentioning(&address(failing)));
        let database = unread_table(WALLETS);
        let options = ["--reader", reader, "--chunk", "100"];
        let ran = sweep_all(&database, &stub.url(), &options).run().expect(0);
        let swept = SweepRun { database, stub, ran };
        swept.assert_complete().await;
        assert!(swept.notes().is_empty(), "{:?}", swept.ran);
        assert!(swept.packed().len() > 10 && swept.through_multicall3().len() <= 10);

        // A node that fails for every wallet is detected soon.
        let stub = wide_stub().await;
        stub.fault(out_of_gas, with_overrides());
        let database = unread_table(WALLETS);
        let ran = sweep_all(&database, &stub.url(), &options).run();
        let swept = SweepRun { database, stub, ran };
        assert!(swept.packed().len() < 20, "{}", swept.packed().len());
        if reader == "auto" {
            swept.assert_complete().await;
            assert_eq!(swept.notes().len(), 1, "{:?}", swept.ran);
        } else {
            assert!(swept.ran.error().contains("--reader"), "{:?}", swept.ran);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_handles_an_empty_table_and_a_single_wallet() {
    let chain = wide_chain().await;
    for reader in ["multicall3", "packed", "auto"] {
        for wallets in [0, 1] {
            let database = unread_table(wallets);
            let ran = sweep_all(&database, &chain.url(), &["--reader", reader]).run().expect(0);
            assert_eq!(ran.json()["updated"], wallets);
            assert_read_at_genesis(&database, wallets, &[]).await;
            assert_eq!(dump(&database).await.len() as u64, wallets);
        }
    }
}
