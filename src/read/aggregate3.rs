//! The call data of Multicall3's `aggregate3` for many wallets, and what its results mean. Pure: bytes in, bytes out.
//!
//! A [`Question`] is what is asked about each wallet: its total ([`Totals`]), or which wallets are its members
//! ([`List`]).

use alloy::{
    primitives::{Address, Bytes, U256},
    providers::bindings::IMulticall3::{Call3, Result as CallResult, aggregate3Call},
    sol_types::{SolCall, SolValue},
};

use crate::{
    profile::{Profile, View},
    rpc::Limit,
    tally::{Reading, Wallet},
};

/// What is known of each wallet, or why it is not.
pub type Answers<T> = Vec<(Wallet, Result<T, String>)>;

/// What can be asked about many wallets at once.
pub(super) trait Question: Send + Sync {
    /// What is learnt of each wallet.
    type Answer: Send;

    /// The largest number of wallets in a call is searched for by this limit; `None` where that is not searched for.
    fn limit(&self) -> Option<Limit>;

    /// Call data of `aggregate3` for these wallets.
    fn encode(&self, wallets: &[Wallet]) -> Bytes;

    /// The answer for each wallet, or why it has none, from what `aggregate3` returned.
    ///
    /// # Errors
    /// When the bytes are not as many results as calls were made.
    fn decode(&self, wallets: &[Wallet], returned: &[u8]) -> Result<Answers<Self::Answer>, String>;
}

/// The totals of wallets.
pub(super) struct Totals {
    pub(super) parts: Parts,
    pub(super) limit: Limit,
}

impl Question for Totals {
    /// The total in wei.
    type Answer = U256;

    fn limit(&self) -> Option<Limit> {
        Some(self.limit)
    }

    /// Every part of every wallet: wallet by wallet, each in the profile's order.
    fn encode(&self, wallets: &[Wallet]) -> Bytes {
        self.parts.encode(wallets)
    }

    fn decode(&self, wallets: &[Wallet], returned: &[u8]) -> Result<Vec<Reading>, String> {
        self.parts.decode(wallets, returned)
    }
}

/// The parts of a total as sub-calls, in the profile's order.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    views: Vec<View>,
    names: Vec<String>,
}

impl Parts {
    pub(super) fn of(profile: &Profile) -> Self {
        Self { views: profile.reads.clone(), names: profile.part_names() }
    }

    /// Contract and call data of each part of a wallet's total.
    pub(super) fn calls(&self, wallet: Wallet) -> impl Iterator<Item = (Address, Bytes)> {
        self.views.iter().map(move |view| (view.contract, call_data(view, wallet)))
    }

    /// The views that give the parts, in order.
    pub(super) fn views(&self) -> &[View] {
        &self.views
    }

    /// Names of the parts, in order.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The sum of a wallet's parts in wei; every part must be there.
    fn sum(&self, results: &[CallResult]) -> Result<U256, String> {
        let mut sum = U256::ZERO;
        for (name, result) in self.names.iter().zip(results) {
            if !result.success {
                return Err(format!("{name} failed"));
            }
            let part = word(&result.returnData).map_err(|why| format!("{name} {why}"))?;
            sum = sum.checked_add(part).ok_or("the sum of the parts does not fit a uint256")?;
        }
        Ok(sum)
    }

    fn encode(&self, wallets: &[Wallet]) -> Bytes {
        aggregate3(wallets.iter().flat_map(|wallet| self.calls(*wallet)))
    }

    fn decode(&self, wallets: &[Wallet], returned: &[u8]) -> Result<Vec<Reading>, String> {
        let results = results(returned, wallets.len() * self.views.len())?;
        let of_each = results.chunks_exact(self.views.len());
        Ok(wallets.iter().zip(of_each).map(|(wallet, parts)| (*wallet, self.sum(parts))).collect())
    }
}

/// A view that lists the members of a wallet.
#[derive(Clone, Debug)]
pub(super) struct List(pub(super) View);

impl Question for List {
    type Answer = Vec<Address>;

    fn limit(&self) -> Option<Limit> {
        None
    }

    fn encode(&self, wallets: &[Wallet]) -> Bytes {
        aggregate3(wallets.iter().map(|wallet| (self.0.contract, call_data(&self.0, *wallet))))
    }

    fn decode(&self, wallets: &[Wallet], returned: &[u8]) -> Result<Answers<Self::Answer>, String> {
        let results = results(returned, wallets.len())?;
        let name = &self.0.function.name;
        let list = |result: &CallResult| match result.success {
            false => Err(format!("{name} failed")),
            true => Vec::<Address>::abi_decode(&result.returnData)
                .map_err(|error| format!("{name} returned no list of addresses: {error}")),
        };
        Ok(wallets.iter().zip(&results).map(|(wallet, result)| (*wallet, list(result))).collect())
    }
}

/// Call data of `aggregate3`, failure of each sub-call allowed.
fn aggregate3(calls: impl Iterator<Item = (Address, Bytes)>) -> Bytes {
    let calls =
        calls.map(|(target, data)| Call3 { target, allowFailure: true, callData: data }).collect();
    aggregate3Call { calls }.abi_encode().into()
}

/// The results of an `aggregate3` with this number of sub-calls.
fn results(returned: &[u8], expected: usize) -> Result<Vec<CallResult>, String> {
    let results = aggregate3Call::abi_decode_returns(returned)
        .map_err(|error| format!("aggregate3 returned no list of results: {error}"))?;
    match results.len() {
        count if count == expected => Ok(results),
        count => Err(format!("aggregate3 returned {count} results for {expected} calls")),
    }
}

/// What a view returned, as the uint256 that it must be: exactly 32 bytes.
pub(super) fn word(returned: &[u8]) -> Result<U256, String> {
    match returned.len() {
        32 => Ok(U256::from_be_slice(returned)),
        0 => Err("returned nothing".into()),
        other => Err(format!("returned {other} bytes, not 32")),
    }
}

/// Selector and the wallet's address as a word.
fn call_data(view: &View, wallet: Wallet) -> Bytes {
    let selector = view.function.selector();
    [selector.as_slice(), wallet.address().into_word().as_slice()].concat().into()
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, hex};

    use super::*;

    fn parts() -> Parts {
        Parts::of(&Profile::audius())
    }

    fn wallet() -> Wallet {
        "0x00000000000000000000000000000000000000aa".parse().unwrap()
    }

    #[test]
    fn the_selector_of_aggregate3_is_82ad56cb() {
        assert_eq!(aggregate3Call::SELECTOR, [0x82, 0xad, 0x56, 0xcb]);
    }

    /// Written by hand from the ABI specification, word by word.
    #[test]
    fn calls_are_encoded_as_the_abi_says() {
        let one_call =
            Parts { views: parts().views[..1].to_vec(), names: vec!["balanceOf".into()] };
        let expected = [
            "82ad56cb",
            "0000000000000000000000000000000000000000000000000000000000000020", // where the array begins
            "0000000000000000000000000000000000000000000000000000000000000001", // one call
            "0000000000000000000000000000000000000000000000000000000000000020", // where its tuple begins
            "00000000000000000000000018aaa7115705e8be94bffebde57af9bfc265b998", // target
            "0000000000000000000000000000000000000000000000000000000000000001", // allowFailure
            "0000000000000000000000000000000000000000000000000000000000000060", // where callData begins
            "0000000000000000000000000000000000000000000000000000000000000024", // 36 bytes
            "70a0823100000000000000000000000000000000000000000000000000000000",
            "000000aa00000000000000000000000000000000000000000000000000000000",
        ]
        .concat();
        assert_eq!(hex::encode(one_call.encode(&[wallet()])), expected);
    }

    #[test]
    fn calls_go_wallet_by_wallet_in_the_profiles_order() {
        let other: Wallet = "0x00000000000000000000000000000000000000bb".parse().unwrap();
        let encoded = parts().encode(&[wallet(), other]);
        let calls = aggregate3Call::abi_decode(&encoded).unwrap().calls;
        let seen: Vec<_> = calls
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
                "0000000000000000000000000000000000000000000000000000000000000001", // one result
                "0000000000000000000000000000000000000000000000000000000000000020", // where its tuple begins
                "0000000000000000000000000000000000000000000000000000000000000001", // success
                "0000000000000000000000000000000000000000000000000000000000000040", // where returnData begins
                "0000000000000000000000000000000000000000000000000000000000000020", // 32 bytes
                "0000000000000000000000000000000000000000000000000de0b6b3a7640000", // 10^18
            ]
            .concat(),
        )
        .unwrap();
        let one_call =
            Parts { views: parts().views[..1].to_vec(), names: vec!["balanceOf".into()] };
        let readings = one_call.decode(&[wallet()], &returned).unwrap();
        assert_eq!(readings, [(wallet(), Ok(U256::from(10).pow(U256::from(18))))]);
    }

    fn ok(bytes: impl Into<Vec<u8>>) -> (bool, Bytes) {
        (true, bytes.into().into())
    }

    /// Decodes three parts of one wallet, of which the last is given.
    fn with_last_part(last: (bool, Bytes)) -> Result<U256, String> {
        let results: Vec<(bool, Bytes)> =
            vec![ok(B256::with_last_byte(1).to_vec()), ok(B256::with_last_byte(2).to_vec()), last];
        let returned = results.abi_encode();
        parts().decode(&[wallet()], &returned).unwrap().remove(0).1
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
            list.decode(&[wallet()], &vec![result].abi_encode()).unwrap().remove(0).1
        };
        assert_eq!(answer(ok(vec![member].abi_encode())), Ok(vec![member]));
        assert_eq!(answer(ok(Vec::<Address>::new().abi_encode())), Ok(vec![]));
        let failed = answer((false, Bytes::new()));
        assert_eq!(failed, Err("getDelegatorsList failed".into()));
        let none = answer(ok([])).unwrap_err();
        assert!(none.starts_with("getDelegatorsList returned no list of addresses"), "{none}");
        assert_eq!(hex::encode(&list.encode(&[wallet()])[..4]), "82ad56cb");
    }

    #[test]
    fn a_result_too_few_or_too_many_is_an_error() {
        for count in [2, 4] {
            let results: Vec<(bool, Bytes)> = vec![ok([0; 32]); count];
            let error = parts().decode(&[wallet()], &results.abi_encode()).unwrap_err();
            assert_eq!(error, format!("aggregate3 returned {count} results for 3 calls"));
        }
        assert!(parts().decode(&[wallet()], &[1, 2, 3]).is_err());
        assert!(parts().decode(&[wallet()], &[]).is_err());
    }
}
