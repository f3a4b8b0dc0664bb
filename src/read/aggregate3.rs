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
    profile::{Profile, Read, View},
    rpc::{Call, Limit, Origin, OriginCheck},
    tally::{Reading, Total, Wallet},
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
    type Answer = Total;

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
    /// Which of them are stored in columns of their own.
    are_stored: Vec<bool>,
}

impl Parts {
    pub(super) fn of(profile: &Profile) -> Self {
        let reads = || profile.reads.iter();
        Self {
            views: reads().map(|Read { view, .. }| view.clone()).collect(),
            names: profile.part_names(),
            are_stored: reads().map(|read| read.column.is_some()).collect(),
        }
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

    /// True if any part is stored in a column of its own.
    pub(super) fn has_stored(&self) -> bool {
        self.are_stored.contains(&true)
    }

    /// A wallet's total from the values of its parts in wei, in order; every part must be there.
    pub(super) fn total(
        &self,
        values: impl Iterator<Item = Result<U256, String>>,
    ) -> Result<Total, String> {
        let (mut sum, mut parts) = (U256::ZERO, Vec::new());
        for (value, is_stored) in values.zip(&self.are_stored) {
            let value = value?;
            sum = sum.checked_add(value).ok_or(OVERFLOW)?;
            if *is_stored {
                parts.push(value);
            }
        }
        Ok(Total { sum, parts: parts.into() })
    }

    /// The value of a part, from the result of its sub-call.
    fn value((name, result): (&String, &CallResult)) -> Result<U256, String> {
        match result.success {
            true => word(&result.returnData).map_err(|why| format!("{name} {why}")),
            false => Err(format!("{name} failed")),
        }
    }

    fn decode(&self, wallets: &[Wallet], results: &[CallResult]) -> Result<Vec<Reading>, String> {
        require_count(results, wallets.len() * self.views.len())?;
        let of_each = results.chunks_exact(self.views.len());
        let total = |results| self.total(self.names.iter().zip(results).map(Self::value));
        Ok(wallets.iter().zip(of_each).map(|(wallet, results)| (*wallet, total(results))).collect())
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
mod tests;
