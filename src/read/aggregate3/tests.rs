use alloy::primitives::{B256, hex};

use super::*;
use crate::profile::MULTICALL3;

fn parts() -> Parts {
    Parts::of(&Profile::audius())
}

fn totals(parts: Parts) -> Totals {
    let limit = Limit { kind: "multicall3", first: 1, usual: 1, ceiling: 1, at_most: None };
    Totals { parts, limit }
}

fn wallet() -> Wallet {
    "0x00000000000000000000000000000000000000aa".parse().unwrap()
}

fn encoded(parts: Parts, wallets: &[Wallet]) -> Bytes {
    Aggregator::new(MULTICALL3, 1).call(&totals(parts), wallets).data
}

#[test]
fn the_selectors_are_those_of_multicall3() {
    assert_eq!(aggregate3Call::SELECTOR, [0x82, 0xad, 0x56, 0xcb]);
    assert_eq!(getBlockNumberCall::SELECTOR, [0x42, 0xcb, 0xb1, 0x5c]);
    assert_eq!(getChainIdCall::SELECTOR, [0x34, 0x08, 0xe4, 0x70]);
}

/// The first part alone.
fn one_part() -> Parts {
    let Parts { views, names, are_stored } = parts();
    let (views, names) = (views[..1].to_vec(), names[..1].to_vec());
    Parts { views, names, are_stored: are_stored[..1].to_vec() }
}

/// Written by hand from the ABI specification, word by word.
#[test]
fn calls_are_encoded_as_the_abi_says() {
    let one_call = one_part();
    let expected = [
        "82ad56cb",
        "0000000000000000000000000000000000000000000000000000000000000020", // where the array begins
        "0000000000000000000000000000000000000000000000000000000000000003", // three calls
        "0000000000000000000000000000000000000000000000000000000000000060", // where each tuple begins
        "0000000000000000000000000000000000000000000000000000000000000100",
        "00000000000000000000000000000000000000000000000000000000000001a0",
        "000000000000000000000000ca11bde05977b3631167028862be2a173976ca11", // target
        "0000000000000000000000000000000000000000000000000000000000000001", // allowFailure
        "0000000000000000000000000000000000000000000000000000000000000060", // where callData begins
        "0000000000000000000000000000000000000000000000000000000000000004", // 4 bytes
        "42cbb15c00000000000000000000000000000000000000000000000000000000",
        "000000000000000000000000ca11bde05977b3631167028862be2a173976ca11",
        "0000000000000000000000000000000000000000000000000000000000000001",
        "0000000000000000000000000000000000000000000000000000000000000060",
        "0000000000000000000000000000000000000000000000000000000000000004",
        "3408e47000000000000000000000000000000000000000000000000000000000",
        "00000000000000000000000018aaa7115705e8be94bffebde57af9bfc265b998",
        "0000000000000000000000000000000000000000000000000000000000000001",
        "0000000000000000000000000000000000000000000000000000000000000060",
        "0000000000000000000000000000000000000000000000000000000000000024", // 36 bytes
        "70a0823100000000000000000000000000000000000000000000000000000000",
        "000000aa00000000000000000000000000000000000000000000000000000000",
    ]
    .concat();
    assert_eq!(hex::encode(encoded(one_call, &[wallet()])), expected);
}

#[test]
fn calls_go_wallet_by_wallet_in_the_profiles_order() {
    let other: Wallet = "0x00000000000000000000000000000000000000bb".parse().unwrap();
    let encoded = encoded(parts(), &[wallet(), other]);
    let calls = aggregate3Call::abi_decode(&encoded).unwrap().calls;
    let seen: Vec<_> = calls[IN_FRONT..]
        .iter()
        .map(|call| (hex::encode(&call.callData[..4]), call.callData[35]))
        .collect();
    let selectors = ["70a08231", "4b341aed", "b0303b75"];
    let expected: Vec<_> = [0xaa, 0xbb]
        .iter()
        .flat_map(|last| selectors.map(|selector| (selector.to_owned(), *last)))
        .collect();
    assert_eq!(seen, expected);
    assert!(calls.iter().all(|call| call.allowFailure));
}

/// Written by hand from the ABI specification, word by word.
#[test]
fn results_are_decoded_as_the_abi_says() {
    let returned = hex::decode(
        [
            "0000000000000000000000000000000000000000000000000000000000000020", // where the array begins
            "0000000000000000000000000000000000000000000000000000000000000003", // three results
            "0000000000000000000000000000000000000000000000000000000000000060", // where each tuple begins
            "00000000000000000000000000000000000000000000000000000000000000e0",
            "0000000000000000000000000000000000000000000000000000000000000160",
            "0000000000000000000000000000000000000000000000000000000000000001", // success
            "0000000000000000000000000000000000000000000000000000000000000040", // where returnData begins
            "0000000000000000000000000000000000000000000000000000000000000020", // 32 bytes
            "0000000000000000000000000000000000000000000000000000000000000007", // block 7
            "0000000000000000000000000000000000000000000000000000000000000001",
            "0000000000000000000000000000000000000000000000000000000000000040",
            "0000000000000000000000000000000000000000000000000000000000000020",
            "0000000000000000000000000000000000000000000000000000000000000005", // chain 5
            "0000000000000000000000000000000000000000000000000000000000000001",
            "0000000000000000000000000000000000000000000000000000000000000040",
            "0000000000000000000000000000000000000000000000000000000000000020",
            "0000000000000000000000000000000000000000000000000de0b6b3a7640000", // 10^18
        ]
        .concat(),
    )
    .unwrap();
    let one_call = one_part();
    let (origin, readings) = decode(&totals(one_call), &[wallet()], &returned).unwrap();
    let [block, chain_id] = [7, 5].map(U256::from);
    assert_eq!(origin, Some(Origin { block, chain_id, timestamp: None }));
    assert_eq!(readings, [(wallet(), Ok(U256::from(10).pow(U256::from(18)).into()))]);
    let size = Aggregator::new(MULTICALL3, 1).call(&totals(parts()), &[wallet()]).returned;
    assert_eq!(size, Some(returned.len() + 2 * BYTES_OF_WORD), "with three parts");
}

fn ok(bytes: impl Into<Vec<u8>>) -> (bool, Bytes) {
    (true, bytes.into().into())
}

/// What `aggregate3` returns, with these results behind those in front.
fn returned(results: Vec<(bool, Bytes)>) -> Vec<u8> {
    let in_front = [7, 1].map(|number| ok(B256::with_last_byte(number).to_vec()));
    in_front.into_iter().chain(results).collect::<Vec<_>>().abi_encode()
}

fn reading(results: Vec<(bool, Bytes)>) -> Result<Vec<Reading>, String> {
    decode(&totals(parts()), &[wallet()], &returned(results)).map(|(_, readings)| readings)
}

/// Decodes three parts of one wallet, of which the last is given.
fn with_last_part(last: (bool, Bytes)) -> Result<U256, String> {
    let results =
        vec![ok(B256::with_last_byte(1).to_vec()), ok(B256::with_last_byte(2).to_vec()), last];
    reading(results).unwrap().remove(0).1.map(|total| total.sum)
}

#[test]
fn each_state_of_a_sub_calls_result() {
    let name = "getTotalDelegatorStake";
    let cases = [
        (ok(B256::with_last_byte(4).to_vec()), Ok(U256::from(7))),
        (ok([0; 32]), Ok(U256::from(3))),
        ((false, Bytes::new()), Err(format!("{name} failed"))),
        // A failed call may carry 32 bytes of a reason.
        ((false, vec![1; 32].into()), Err(format!("{name} failed"))),
        (ok([]), Err(format!("{name} returned nothing"))),
        (ok([0; 31]), Err(format!("{name} returned 31 bytes, not 32"))),
        (ok([0; 33]), Err(format!("{name} returned 33 bytes, not 32"))),
        (ok([0; 64]), Err(format!("{name} returned 64 bytes, not 32"))),
        (ok([0xff; 32]), Err("the sum of the parts does not fit a uint256".into())),
    ];
    for (last, expected) in cases {
        assert_eq!(with_last_part(last.clone()), expected, "{last:?}");
    }
}

#[test]
fn a_total_has_those_of_its_parts_that_are_stored() {
    let word = |number| ok(B256::with_last_byte(number).to_vec());
    let stored = Parts { are_stored: vec![true, false, true], ..parts() };
    let returned = returned(vec![word(1), word(2), word(4)]);
    let (_, readings) = decode(&totals(stored), &[wallet()], &returned).unwrap();
    let [sum, first, last] = [7, 1, 4].map(U256::from);
    assert_eq!(readings, [(wallet(), Ok(Total { sum, parts: [first, last].into() }))]);
    assert!(!parts().has_stored());
}

#[test]
fn the_greatest_sum_that_fits_is_taken() {
    let last = (U256::MAX - U256::from(3)).to_be_bytes_vec();
    assert_eq!(with_last_part(ok(last)), Ok(U256::MAX));
}

#[test]
fn a_list_is_decoded_or_says_why_not() {
    let view = Profile::audius().events.iter().find_map(|event| event.members.clone());
    let list = List(view.expect("audius has members").view);
    let member = Address::repeat_byte(7);
    let answer = |result: (bool, Bytes)| {
        decode(&list, &[wallet()], &returned(vec![result])).unwrap().1.remove(0).1
    };
    assert_eq!(answer(ok(vec![member].abi_encode())), Ok(vec![member]));
    assert_eq!(answer(ok(Vec::<Address>::new().abi_encode())), Ok(vec![]));
    let failed = answer((false, Bytes::new()));
    assert_eq!(failed, Err("getDelegatorsList failed".into()));
    let none = answer(ok([])).unwrap_err();
    assert!(none.starts_with("getDelegatorsList returned no list of addresses"), "{none}");
    assert_eq!(Aggregator::new(MULTICALL3, 1).call(&list, &[wallet()]).returned, None);
}

#[test]
fn a_result_too_few_or_too_many_is_an_error() {
    for count in [2, 4] {
        let error = reading(vec![ok([0; 32]); count]).unwrap_err();
        assert_eq!(error, format!("aggregate3 returned {count} results for 3 calls"));
    }
    for bytes in [&[1_u8, 2, 3][..], &[]] {
        assert!(decode(&totals(parts()), &[wallet()], bytes).is_err());
    }
}

#[test]
fn an_answer_that_does_not_tell_where_it_ran_is_an_error() {
    let part = ok([0; 32]);
    let silent = |first: (bool, Bytes)| vec![first, part.clone(), part.clone()].abi_encode();
    for (first, why) in [
        ((false, Bytes::new()), "getBlockNumber of Multicall3 failed"),
        (ok([]), "getBlockNumber of Multicall3 returned nothing"),
    ] {
        assert_eq!(decode(&totals(parts()), &[wallet()], &silent(first)).unwrap_err(), why);
    }
    let none = Vec::<(bool, Bytes)>::new().abi_encode();
    let error = decode(&totals(parts()), &[], &none).unwrap_err();
    assert_eq!(error, "aggregate3 returned 0 results");
}

#[test]
fn the_probe_tells_block_chain_and_time() {
    let origin = read_probe(&returned(vec![ok(B256::with_last_byte(9).to_vec())])).unwrap();
    let [block, chain_id, timestamp] = [7, 1, 9].map(U256::from);
    assert_eq!(origin, Origin { block, chain_id, timestamp: Some(timestamp) });
}
