//! The call data of Multicall3's `aggregate3` for many wallets, and what its results mean. Pure: bytes in, bytes out.
//!
//! A [`Question`] is what is asked about each wallet: its total ([`Totals`]), or which wallets are its members
//! ([`List`]). In front of its sub-calls stand two that tell where the call ran.

use std::sync::Arc;

use alloy::{
    primitives::{Address, Bytes, U256},
    providers::bindings::IMulticall3::{
        Call3, Result as CallResult, aggregate3Call, getBlockNumberCall, getChainIdCall,
        getCurrentBlockTimestampCall,
    },
    sol_types::{SolCall, SolValue},
};

use crate::{
    profile::{Profile, View},
    rpc::{Call, Limit, Origin, OriginCheck},
    tally::{Reading, Wallet},
};

/// Sub-calls in front, which tell where the call ran.
const IN_FRONT: usize = 2;
/// Bytes of the result for each sub-call that returns a word: its place, its success and its word.
pub(super) const BYTES_OF_WORD: usize = 160;

/// What is known of each wallet, or why it is not.
pub type Answers<T> = Vec<(Wallet, Result<T, String>)>;

/// What can be asked about many wallets at once.
pub(super) trait Question: Send + Sync {
    /// What is learnt of each wallet.
    type Answer: Send;

    /// The largest number of wallets in a call is searched for by this limit; `None` where that is not searched for.
    fn limit(&self) -> Option<Limit>;

    /// Contract and call data of each sub-call.
    fn calls(&self, wallets: &[Wallet]) -> impl Iterator<Item = (Address, Bytes)>;

    /// Bytes that the sub-calls for this number of wallets return at most; `None` if that is not known.
    fn returned(&self, wallets: usize) -> Option<usize>;

    /// The answer for each wallet, or why it has none, from what its sub-calls returned.
    ///
    /// # Errors
    /// When there are not as many results as sub-calls.
    fn decode(
        &self,
        wallets: &[Wallet],
        results: &[CallResult],
    ) -> Result<Answers<Self::Answer>, String>;
}

/// Multicall3, where it is on the chain.
#[derive(Clone, Debug)]
pub(super) struct Aggregator {
    contract: Address,
    /// How it is checked where an answer is from.
    pub(super) origin: Arc<OriginCheck>,
}

impl Aggregator {
    /// Multicall3 at this address, on this chain.
    pub(super) fn new(contract: Address, chain_id: u64) -> Self {
        let timestamp = getCurrentBlockTimestampCall {}.abi_encode();
        let probe = aggregate3(contract, [(contract, timestamp.into())].into_iter());
        let probe = Call {
            returned: Some(64 + BYTES_OF_WORD * (IN_FRONT + 1)),
            ..Call::plain(contract, probe)
        };
        let origin = Arc::new(OriginCheck { chain_id, probe, read: read_probe });
        Self { contract, origin }
    }

    /// The call that asks this about these wallets.
    pub(super) fn call<Q: Question>(&self, question: &Q, wallets: &[Wallet]) -> Call {
        let in_front = 64 + BYTES_OF_WORD * IN_FRONT;
        let data = aggregate3(self.contract, question.calls(wallets));
        Call {
            returned: question.returned(wallets.len()).map(|bytes| in_front + bytes),
            origin: Some(Arc::clone(&self.origin)),
            ..Call::plain(self.contract, data)
        }
    }
}

/// Where the call ran, and the answer for each wallet, from what `aggregate3` returned.
///
/// # Errors
/// When the bytes are not as many results as sub-calls were made.
pub(super) fn decode<Q: Question>(
    question: &Q,
    wallets: &[Wallet],
    returned: &[u8],
) -> Result<(Option<Origin>, Answers<Q::Answer>), String> {
    let (origin, results) = results(returned)?;
    Ok((Some(origin), question.decode(wallets, &results[IN_FRONT..])?))
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
    fn calls(&self, wallets: &[Wallet]) -> impl Iterator<Item = (Address, Bytes)> {
        wallets.iter().flat_map(|wallet| self.parts.calls(*wallet))
    }

    fn returned(&self, wallets: usize) -> Option<usize> {
        Some(BYTES_OF_WORD * wallets * self.parts.views.len())
    }

    fn decode(&self, wallets: &[Wallet], results: &[CallResult]) -> Result<Vec<Reading>, String> {
        self.parts.decode(wallets, results)
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
            sum = sum.checked_add(part).ok_or(OVERFLOW)?;
        }
        Ok(sum)
    }

    fn decode(&self, wallets: &[Wallet], results: &[CallResult]) -> Result<Vec<Reading>, String> {
        require_count(results, wallets.len() * self.views.len())?;
        let of_each = results.chunks_exact(self.views.len());
        Ok(wallets.iter().zip(of_each).map(|(wallet, parts)| (*wallet, self.sum(parts))).collect())
    }
}

/// Why a sum is not stored as a total.
pub(super) const OVERFLOW: &str = "the sum of the parts does not fit a uint256";

/// A view that lists the members of a wallet.
#[derive(Clone, Debug)]
pub(super) struct List(pub(super) View);

impl List {
    /// Contract and call data for one wallet.
    pub(super) fn call(&self, wallet: Wallet) -> (Address, Bytes) {
        (self.0.contract, call_data(&self.0, wallet))
    }

    /// The members that the view returned.
    pub(super) fn members(&self, returned: &[u8]) -> Result<Vec<Address>, String> {
        let name = &self.0.function.name;
        Vec::<Address>::abi_decode(returned)
            .map_err(|error| format!("{name} returned no list of addresses: {error}"))
    }

    /// The view's name.
    pub(super) fn name(&self) -> &str {
        &self.0.function.name
    }
}

impl Question for List {
    type Answer = Vec<Address>;

    fn limit(&self) -> Option<Limit> {
        None
    }

    fn calls(&self, wallets: &[Wallet]) -> impl Iterator<Item = (Address, Bytes)> {
        wallets.iter().map(|wallet| self.call(*wallet))
    }

    fn returned(&self, _wallets: usize) -> Option<usize> {
        None
    }

    fn decode(
        &self,
        wallets: &[Wallet],
        results: &[CallResult],
    ) -> Result<Answers<Self::Answer>, String> {
        require_count(results, wallets.len())?;
        let list = |result: &CallResult| match result.success {
            false => Err(format!("{} failed", self.name())),
            true => self.members(&result.returnData),
        };
        Ok(wallets.iter().zip(results).map(|(wallet, result)| (*wallet, list(result))).collect())
    }
}

/// Call data of `aggregate3` of this contract, failure of each sub-call allowed. First it tells where it runs.
fn aggregate3(contract: Address, calls: impl Iterator<Item = (Address, Bytes)>) -> Bytes {
    let in_front: [Vec<u8>; IN_FRONT] =
        [getBlockNumberCall {}.abi_encode(), getChainIdCall {}.abi_encode()];
    let in_front = in_front.into_iter().map(|data| (contract, Bytes::from(data)));
    let calls = in_front
        .chain(calls)
        .map(|(target, data)| Call3 { target, allowFailure: true, callData: data })
        .collect();
    aggregate3Call { calls }.abi_encode().into()
}

/// Where an `aggregate3` ran, and all its results.
fn results(returned: &[u8]) -> Result<(Origin, Vec<CallResult>), String> {
    let results = aggregate3Call::abi_decode_returns(returned)
        .map_err(|error| format!("aggregate3 returned no list of results: {error}"))?;
    let in_front = |index: usize, what: &str| match results.get(index) {
        Some(result) if result.success => {
            word(&result.returnData).map_err(|why| format!("{what} of Multicall3 {why}"))
        }
        Some(_) => Err(format!("{what} of Multicall3 failed")),
        None => Err(format!("aggregate3 returned {} results", results.len())),
    };
    let block = in_front(0, "getBlockNumber")?;
    let chain_id = in_front(1, "getChainId")?;
    Ok((Origin { block, chain_id, timestamp: None }, results))
}

/// The origin of a call that asks for nothing else, with the block's timestamp.
fn read_probe(returned: &[u8]) -> Result<Origin, String> {
    let (origin, results) = results(returned)?;
    require_count(&results[IN_FRONT..], 1)?;
    let timestamp = word(&results[IN_FRONT].returnData)?;
    Ok(Origin { timestamp: Some(timestamp), ..origin })
}

/// Fails unless there is a result for each sub-call.
fn require_count(results: &[CallResult], calls: usize) -> Result<(), String> {
    match results.len() {
        count if count == calls => Ok(()),
        count => Err(format!("aggregate3 returned {count} results for {calls} calls")),
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
    use crate::profile::MULTICALL3;

    fn parts() -> Parts {
        Parts::of(&Profile::audius())
    }

    fn totals(parts: Parts) -> Totals {
        let limit = Limit { kind: "multicall3", first: 1, ceiling: 1, at_most: None };
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

    /// Written by hand from the ABI specification, word by word.
    #[test]
    fn calls_are_encoded_as_the_abi_says() {
        let one_call =
            Parts { views: parts().views[..1].to_vec(), names: vec!["balanceOf".into()] };
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
        let one_call =
            Parts { views: parts().views[..1].to_vec(), names: vec!["balanceOf".into()] };
        let (origin, readings) = decode(&totals(one_call), &[wallet()], &returned).unwrap();
        let [block, chain_id] = [7, 5].map(U256::from);
        assert_eq!(origin, Some(Origin { block, chain_id, timestamp: None }));
        assert_eq!(readings, [(wallet(), Ok(U256::from(10).pow(U256::from(18))))]);
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
        reading(results).unwrap().remove(0).1
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
}
