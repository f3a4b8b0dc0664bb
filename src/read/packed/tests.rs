use alloy::primitives::keccak256;

use super::{super::direct::Direct, *};
use crate::profile::Profile;

fn parts() -> Parts {
    Parts::of(&Profile::audius())
}

/// The parts of a profile that stores the first and the last.
fn stored_parts() -> Parts {
    let mut profile = Profile::audius();
    for (number, name) in [(0, "held"), (2, "delegated")] {
        profile.reads[number].column = Some(name.to_owned());
    }
    Parts::of(&profile)
}

fn packed() -> Packed {
    packed_of(&parts())
}

fn packed_of(parts: &Parts) -> Packed {
    let plain = Arc::new(Direct::new(parts.clone()));
    Packed::new(parts, 1, ChunkLimit::Auto, plain, None)
}

fn wallets(count: u8) -> Vec<Wallet> {
    (1..=count).map(|last| Wallet::from(Address::repeat_byte(last))).collect()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| U256::from(*word).to_be_bytes::<32>()).collect()
}

#[test]
fn the_program_is_where_nothing_is() {
    assert_eq!(PROGRAM, Address::from_word(keccak256("ethtally packed reader")));
}

#[test]
fn call_data_is_the_parts_from_the_last_to_the_first_and_20_bytes_a_wallet() {
    let data = packed().call(&wallets(2)).data;
    let expected = [
        "0000000000000003",
        "4d7968ebfd390d5e7926cb3587c39eff2f9fb225b0303b75",
        "e6d97b2099f142513be7a2a068be040656ae45914b341aed",
        "18aaa7115705e8be94bffebde57af9bfc265b99870a08231",
        "0101010101010101010101010101010101010101",
        "0202020202020202020202020202020202020202",
    ];
    assert_eq!(hex::encode(data), expected.concat());
}

#[test]
fn totals_and_marks_are_told_apart() {
    let mut returned = words(&[7, 1, 5, 0]);
    returned.extend([0xff; 32]);
    let (origin, totals) = decode(&parts(), &wallets(3), &returned).unwrap();
    let [block, chain_id] = [7, 1].map(U256::from);
    assert_eq!(origin, Some(Origin { block, chain_id, timestamp: None }));
    let totals: Vec<_> = totals.into_iter().map(|(_, total)| total).collect();
    let some = |number| Some(Total::from(U256::from(number)));
    assert_eq!(totals, [some(5), some(0), None]);
}

#[test]
fn what_the_program_does_not_return_is_refused() {
    let whole = words(&[7, 1, 5]);
    let refused = |returned: &[u8]| decode(&parts(), &wallets(1), returned).unwrap_err();
    assert_eq!(refused(&[]), "it returned nothing, as if it took no state overrides");
    assert_eq!(refused(&whole[..32]), "it returned 32 bytes, not 96");
    assert_eq!(refused(&[&whole[..], &[0]].concat()), "it returned 97 bytes, not 96");
}

#[test]
fn the_program_itself_tells_where_it_runs() {
    let packed = packed();
    let OriginCheck { probe, read, .. } = packed.origin.as_ref();
    assert_eq!(probe.data, packed.call(&[]).data);
    assert_eq!(read(&words(&[7, 1])).unwrap().block, U256::from(7));
    assert!(read(&words(&[7, 1, 5])).is_err());
}

#[test]
fn parts_are_words_of_their_own_only_where_any_is_stored() {
    let (plain, stored) =
        (packed().call(&wallets(2)), packed_of(&stored_parts()).call(&wallets(2)));
    assert_eq!(plain.data, stored.data);
    assert_eq!((plain.returned, stored.returned), (Some(4 * 32), Some(8 * 32)));
    let code = |call: &Call| call.overrides.as_ref().unwrap()[&PROGRAM].code.clone();
    assert_ne!(code(&plain), code(&stored));
    // The second wallet lacks a part that is not stored, the third one's sum does not fit.
    let mut returned = words(&[7, 1, 5, 6, 7, 5]);
    returned.extend([0xff; 32]);
    returned.extend(words(&[7]));
    let most = U256::MAX - U256::ONE;
    returned.extend(most.to_be_bytes::<32>());
    returned.extend(words(&[1, 1]));
    let (_, totals) = decode(&stored_parts(), &wallets(3), &returned).unwrap();
    let totals: Vec<_> = totals.into_iter().map(|(_, total)| total).collect();
    let [sum, first, last] = [18, 5, 7].map(U256::from);
    assert_eq!(totals, [Some(Total { sum, parts: [first, last].into() }), None, None]);
    let error = decode(&stored_parts(), &wallets(3), &returned[32..]).unwrap_err();
    assert_eq!(error, "it returned 320 bytes, not 352");
}
