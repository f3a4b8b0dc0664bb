//! `verify` says of a row that differs whether its wallet has moved, or the row is wrong.

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain,
    genesis::{PROVIDERS, provider_of},
    stub::{Fault, When},
    wallet,
};
use serde_json::json;

use crate::support::{
    chains::chain_and_stub,
    database::{Database, on_both_databases},
    program::ethtally,
    requests::decoded_eth_calls,
    table::{dump, store_unread},
    verify::{Sample, read, set_balance, verify},
    wallets::{address, one_audio, sorted_addresses},
};

on_both_databases! {
    a_drifted_row_has_moved_or_is_wrong
    an_event_explains_a_drift_where_the_old_state_is_gone
    a_row_without_a_read_block_is_judged_by_what_is_known
}

async fn a_drifted_row_has_moved_or_is_wrong(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let url = chain.url();
    read(&database, &url, 0..6).await;
    for n in [1, 2, 4] {
        chain.mint(wallet(n), U256::from(5)).await.unwrap();
    }
    let (moved, wrong) = (sorted_addresses([1, 2]), sorted_addresses([3, 4]));
    let args = ["--json", "--sample", "6"];
    set_balance(&database, 3, "1").await;
    // It has changed since, but was not right then either.
    set_balance(&database, 4, "2").await;
    let before = dump(&database).await;

    let ran = verify(&database, &url, &args).expect(1);
    let expected = Sample { in_sync: 2, moved: 2, wrong: 2, ..Sample::default() };
    assert_eq!(ran.json(), expected.json(&sorted_addresses(1..5)));
    for wallet in &wrong {
        let told =
            format!("note: wallet {wallet} is wrong: the total at block 0, where it was read, is ");
        assert!(ran.stderr.contains(&told), "{ran:?}");
    }
    assert_eq!(ran.stderr.lines().count(), 2, "{ran:?}");
    let text = verify(&database, &url, &["--sample", "6", "--ignore-moved"]).expect(1).stdout;
    let mut lines: Vec<_> = moved.iter().map(|wallet| format!("{wallet} moved")).collect();
    lines.extend(wrong.iter().map(|wallet| format!("{wallet} wrong")));
    lines.sort_unstable();
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), lines);
    let seen = verify(&database, &url, &["--json", "--ignore-moved", &address(4)]).expect(1).json();
    assert_eq!(seen["drift"], "wrong");
    let text = verify(&database, &url, &[&address(4)]).expect(1).stdout;
    assert!(text.contains("\nwrong: the total at block 0, where it was read, is "), "{text}");
    assert_eq!(dump(&database).await, before);

    for n in [3, 4] {
        let truth = chain.total_at(wallet(n), 0).await.unwrap();
        set_balance(&database, n, &truth.to_string()).await;
    }
    verify(&database, &url, &args).expect(1);
    let seen = verify(&database, &url, &[&args[..], &["--ignore-moved"]].concat()).expect(0).json();
    let expected = Sample { in_sync: 3, moved: 3, ..Sample::default() };
    assert_eq!(seen, expected.json(&sorted_addresses([1, 2, 4])));
    verify(&database, &url, &["--ignore-moved", &address(4)]).expect(0);
}

async fn an_event_explains_a_drift_where_the_old_state_is_gone(database: Database) {
    let (chain, stub) = chain_and_stub().await;
    read(&database, &chain.url(), 0..10).await;
    // Wallet 1 by an event of its own; those who delegate to provider 0 by one that does not name them.
    chain.mint(wallet(1), U256::from(5)).await.unwrap();
    let delegators: Vec<_> =
        (PROVIDERS..200).filter(|n| provider_of(*n) == Some(0)).take(3).collect();
    assert!(!delegators.is_empty());
    read(&database, &chain.url(), delegators.iter().copied()).await;
    chain.claim(wallet(0), one_audio() * U256::from(1_000_000)).await.unwrap();
    chain.mine(20).await.unwrap();
    set_balance(&database, 3, "1").await;
    // An event before the read explains nothing.
    let last = delegators[0];
    set_balance(&database, last, "7").await;
    read(&database, &chain.url(), [last]).await;
    chain.mine(20).await.unwrap();
    set_balance(&database, last, "7").await;
    stub.fault(Fault::StateDroppedAfter(3), When::eth_call());

    let args = ["--json", "--sample=1000", "--retries=0"];
    let ran = verify(&database, &stub.url(), &args).expect(1);
    let newest = format!("{:#x}", chain.block_number().await.unwrap());
    let old = decoded_eth_calls(&stub)
        .into_iter()
        .filter(|call| call.block.len() <= newest.len() && call.block != newest);
    assert_eq!(old.count(), 1, "what is gone is not asked for again");
    let seen = ran.json();
    assert_eq!((&seen["wrong"], &seen["unchecked"]), (&json!(2), &json!(0)), "{ran:?}");
    let mut moved: Vec<_> = [0, 1].into_iter().chain(delegators[1..].iter().copied()).collect();
    assert_eq!(seen["moved"], moved.len(), "{ran:?}");
    moved.extend([3, last]);
    assert_eq!(seen["drifted_wallets"], json!(sorted_addresses(moved)));
    for n in [3, last] {
        let told =
            format!("wallet {} is wrong: nothing explains the difference since block ", address(n));
        assert!(ran.stderr.contains(&told), "{ran:?}");
    }
    let seen = verify(&database, &stub.url(), &["--json", "--retries=0", &address(1)]).expect(1);
    assert_eq!(seen.json()["drift"], "moved");

    // Events that cannot be read explain nothing.
    stub.fault(Fault::error(-32601, "no eth_getLogs here"), When::method("eth_getLogs"));
    let ran = verify(&database, &stub.url(), &args).expect(1);
    assert_eq!(ran.json()["moved"], 0, "{ran:?}");
    assert!(ran.stderr.contains("its events cannot be read"), "{ran:?}");
    // Nor does a profile without any.
    let (before_events, _) = ethtally(["profile"])
        .run()
        .expect(0)
        .stdout
        .split_once("[[event]]")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let profile = database.folder().join("profile.toml");
    std::fs::write(&profile, before_events).unwrap();
    let profile = format!("--profile={}", profile.display());
    let ran = verify(&database, &stub.url(), &[&args[..], &[&profile]].concat()).expect(1);
    assert_eq!(ran.json()["moved"], 0, "{ran:?}");
    assert!(ran.stderr.contains("has no [[event]]"), "{ran:?}");
}

async fn a_row_without_a_read_block_is_judged_by_what_is_known(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let url = chain.url();
    read(&database, &url, 1..5).await;
    store_unread(&database, [0]);
    // As the original leaves them: the block of the event, if any, and not that of the read.
    database.sql("update eth_wallet_balances set read_block = null where balance <> '0'").await;
    chain.mint(wallet(1), U256::from(5)).await.unwrap();
    for n in [1, 2, 3] {
        let event = format!(
            "update eth_wallet_balances set blocknumber = 0 where wallet = '{}'",
            address(n)
        );
        database.sql(&event).await;
    }
    // Read between its event and the next one.
    set_balance(&database, 2, "1").await;
    chain.mint(wallet(2), U256::from(5)).await.unwrap();
    set_balance(&database, 3, "1").await;
    chain.mint(wallet(4), U256::from(5)).await.unwrap();

    for (n, drift) in [(0, "moved"), (1, "moved"), (2, "moved"), (3, "wrong"), (4, "wrong")] {
        let seen = verify(&database, &url, &["--json", &address(n)]).expect(1).json();
        assert_eq!(seen["drift"], drift, "{n}");
    }
    let ran = verify(&database, &url, &["--json", "--sample=9"]).expect(1);
    assert_eq!((&ran.json()["moved"], &ran.json()["wrong"]), (&json!(3), &json!(2)), "{ran:?}");
    assert!(ran.stderr.contains("does not say at which block it was read"), "{ran:?}");

    // An event that the node does not have yet: the row may well be right, and stays as it is.
    database.sql("update eth_wallet_balances set blocknumber = 9000").await;
    let before = dump(&database).await;
    for arguments in [["--ignore-moved", &address(3)], ["--ignore-moved", "--sample=9"]] {
        verify(&database, &url, &[&arguments[..], &["--fix"]].concat()).expect(0);
        assert_eq!(dump(&database).await, before);
    }
}
