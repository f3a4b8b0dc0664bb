//! Another Rust program reads totals with the library.

use alloy::primitives::U256;
use ethtally::{
    BlockChoice, MethodChoice, Profile, ReadOptions, TotalsError, TotalsReader, Wallet,
};
use ethtally_testbed::{Chain, TokenFault, stub::Stub, wallet};

use crate::support::{chains::faulty_chain, wallets::address};

#[expect(dead_code, reason = "its main is the example's")]
#[path = "../../examples/totals.rs"]
mod example;

fn wallets(numbers: &[u64]) -> Vec<Wallet> {
    numbers.iter().map(|n| Wallet::from(wallet(*n))).collect()
}

fn reader(url: &str, method: MethodChoice) -> TotalsReader {
    let options = ReadOptions { method, retries: 0, ..ReadOptions::default() };
    TotalsReader::new(&Profile::audius(), [url], &options).unwrap()
}

const METHODS: [MethodChoice; 3] =
    [MethodChoice::Multicall3, MethodChoice::Packed, MethodChoice::Auto];

#[tokio::test(flavor = "multi_thread")]
async fn totals_come_in_the_order_asked_for_and_of_one_block() {
    let chain = Chain::builder().start().await.unwrap();
    let before = chain.block_number().await.unwrap();
    chain.transfer(wallet(3), wallet(4), U256::from(5)).await.unwrap();
    let asked = [4, 3, 900, 4, 5_000];
    for method in METHODS {
        let reader = reader(&chain.url(), method);
        for (choice, block) in
            [(BlockChoice::Latest, before + 1), (BlockChoice::Number(before), before)]
        {
            let read = reader.read(&wallets(&asked), choice).await.unwrap();
            assert_eq!(read.block, block, "{method:?}");
            let header = chain.header(block).await.unwrap();
            assert_eq!(read.hash.to_string(), header["hash"].as_str().unwrap());
            let mut expected = Vec::new();
            for n in asked {
                let total = chain.total_at(wallet(n), block).await.unwrap();
                expected.push((Wallet::from(wallet(n)), Ok(total.into())));
            }
            assert_eq!(read.wallets, expected, "{method:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_cannot_be_read_keeps_no_other_from_being_read() {
    let chain = faulty_chain([(7, TokenFault::Revert)]).await;
    for method in METHODS {
        let reader = reader(&chain.url(), method);
        let read = reader.read(&wallets(&[6, 7, 8]), BlockChoice::Latest).await.unwrap();
        let [six, seven, eight] = &read.wallets[..] else { panic!("{read:?}") };
        assert!(six.1.is_ok() && eight.1.is_ok(), "{read:?}");
        assert!(seven.1.as_ref().is_err_and(|reason| reason == "balanceOf failed"), "{read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_whose_fault_it_is_and_show_no_key() {
    let profile = Profile::audius();
    for endpoints in [&[][..], &["node.example"], &["ftp://node.example/key-1234567890"]] {
        let error = TotalsReader::new(&profile, endpoints.iter().copied(), &ReadOptions::default());
        let error = error.err().expect("an error");
        assert!(matches!(error, TotalsError::Settings(_)), "{error:?}");
        assert!(!error.to_string().contains("1234567890"), "{error}");
    }
    let dead = format!("{}/key-1234567890", Stub::dead());
    let error = reader(&dead, MethodChoice::Multicall3)
        .read(&wallets(&[1]), BlockChoice::Latest)
        .await
        .unwrap_err();
    assert!(matches!(error, TotalsError::Node(_)), "{error:?}");
    assert!(!error.to_string().contains("1234567890"), "{error}");

    let other = Chain::builder().chain_id(5).start().await.unwrap();
    let error = reader(&other.url(), MethodChoice::Multicall3)
        .read(&wallets(&[1]), BlockChoice::Latest)
        .await
        .unwrap_err();
    assert!(matches!(error, TotalsError::Settings(_)), "{error:?}");
    assert!(error.to_string().contains("chain"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_prints_totals() {
    let chain = faulty_chain([(7, TokenFault::Revert)]).await;
    let run = async |wallets: &[u64]| {
        let arguments = wallets.iter().map(|n| address(*n));
        let mut out = Vec::new();
        let are_all_read = example::run([chain.url()].into_iter().chain(arguments), &mut out);
        (are_all_read.await.unwrap(), String::from_utf8(out).unwrap())
    };
    let total = chain.total_at(wallet(6), chain.block_number().await.unwrap()).await.unwrap();
    let line = format!("{} {total}\n", address(6));
    assert_eq!(run(&[6]).await, (true, line.clone()));
    let (are_all_read, lines) = run(&[6, 7]).await;
    assert!(!are_all_read && lines.starts_with(&line), "{lines}");
    assert!(
        lines.ends_with(&format!("{} cannot be read: balanceOf failed\n", address(7))),
        "{lines}"
    );
}
