//! Totals by a program of our own, which a node is given for the time of one `eth_call`.
//!
//! The third parameter of `eth_call` puts code at an address. Ours, `packed.yul`, takes 20 bytes a wallet and
//! returns 32, where `aggregate3` takes 224 and returns 160 for each part of each wallet; it also needs half of the
//! gas. It changes nothing, keeps nothing, and exists only during the call. Where a part is stored in a column of its
//! own, the program is `packed_parts.yul`, which returns 32 bytes for each part instead.
//!
//! A wallet that it marks by 2²⁵⁶−1 is one that it has no total for, or whose total is just that: it is read again
//! without the program.
//!
//! An endpoint is said not to take state overrides only where the program fails there, whatever the wallet, and the
//! same wallet can be read without it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use alloy::primitives::{Address, Bytes, U256, address, hex};
use async_trait::async_trait;
use tracing::warn;

use super::{
    aggregate3::Parts,
    bisect::{ChunkRead, halves},
    calls::{Calls, ReadError, canary, is_asked_little, may_be_of_request},
    method::{CallCost, TotalsMethod, limit},
    settings::ChunkLimit,
};
use crate::{
    rpc::{
        Action, Call, Client, Endpoint, EndpointId, Feature, Limit, NodeError, Origin, OriginCheck,
        Override, Overrides, RequestError, Support,
    },
    tally::{Reading, Total, Wallet},
};

/// Where the program is for the time of a call: the last 20 bytes of the Keccak-256 hash of
/// "ethtally packed reader", so nobody has the key of it and nothing is there.
const PROGRAM: Address = address!("62c46dC30300c0bfC98fD2380eea0C492aD3896A");

/// The program that returns totals: what solc makes of `packed.yul`.
const TOTALS: &str = include_str!("packed.hex");
/// The program that returns parts: what solc makes of `packed_parts.yul`.
const PARTS: &str = include_str!("packed_parts.hex");

/// Bytes of call data for each wallet.
const BYTES_SENT: usize = 20;
/// Bytes of a word of the result.
const BYTES_OF_WORD: usize = 32;

/// In place of a total or part that is missing.
const MARK: U256 = U256::MAX;

/// Times that the program is tried with one wallet where an error will hardly change.
const TRIES: usize = 3;

/// The total of each wallet, `None` for one that is marked.
type PackedTotals = Vec<(Wallet, Option<Total>)>;

/// The method that reads totals by a program of our own.
pub(super) struct Packed {
    overrides: Arc<Overrides>,
    /// What every call begins with: the parts.
    table: Vec<u8>,
    parts: Parts,
    origin: Arc<OriginCheck>,
    limit: Limit,
    /// Reads the wallets that are marked.
    plain: Arc<dyn TotalsMethod>,
    /// What helps where it does not work.
    remedy: &'static str,
    /// Why it does not work, by endpoint.
    reasons: Mutex<BTreeMap<EndpointId, String>>,
}

/// What the program gave for a chunk.
#[derive(Default)]
pub(super) struct PackedResult {
    pub(super) totals: Vec<(Wallet, Total)>,
    /// Wallets that it has no total for.
    pub(super) marked: Vec<Wallet>,
    /// The endpoints that answered.
    pub(super) answered_by: Vec<EndpointId>,
    /// Why the rest of the chunk was not read.
    pub(super) error: Option<ReadError>,
}

impl PackedResult {
    /// True if nothing is known of any wallet.
    pub(super) fn is_empty(&self) -> bool {
        self.totals.is_empty() && self.marked.is_empty()
    }

    fn into_readings(self) -> Vec<Reading> {
        self.totals.into_iter().map(|(wallet, total)| (wallet, Ok(total))).collect()
    }
}

impl Packed {
    /// Reads these parts on this chain; `plain` reads without the program. `origin` checks where answers are from;
    /// without it the program itself is asked.
    pub(super) fn new(
        parts: &Parts,
        chain_id: u64,
        chunk: ChunkLimit,
        plain: Arc<dyn TotalsMethod>,
        origin: Option<Arc<OriginCheck>>,
    ) -> Self {
        let code = if parts.has_stored() { PARTS } else { TOTALS };
        let code = hex::decode(code.trim()).expect("the program is hexadecimal");
        let overrides = Arc::new([(PROGRAM, Override { code: code.into() })].into());
        let table = table(parts);
        let remedy = match origin {
            Some(_) => "use --reader multicall3 or auto",
            None => "give an --rpc-url whose node takes state overrides",
        };
        let itself = || {
            let probe = Call {
                overrides: Some(Arc::clone(&overrides)),
                ..Call::plain(PROGRAM, table.clone().into())
            };
            let read = |returned: &[u8]| split(returned, 0).map(|(origin, _)| origin);
            Arc::new(OriginCheck { chain_id, probe, read })
        };
        Self {
            origin: origin.unwrap_or_else(itself),
            overrides,
            table,
            parts: parts.clone(),
            limit: limit("packed", chunk, cost_of(parts)),
            plain,
            remedy,
            reasons: Mutex::default(),
        }
    }

    /// What a wallet with this number of parts costs in a call that returns totals.
    pub(super) const fn cost(parts: usize) -> CallCost {
        CallCost { bytes_sent: BYTES_SENT, bytes_returned: BYTES_OF_WORD, gas: 3_400 * parts }
    }

    /// The call for these wallets.
    fn call(&self, wallets: &[Wallet]) -> Call {
        let mut data = Vec::with_capacity(self.table.len() + BYTES_SENT * wallets.len());
        data.extend_from_slice(&self.table);
        wallets.iter().for_each(|wallet| data.extend_from_slice(wallet.address().as_slice()));
        Call {
            overrides: Some(Arc::clone(&self.overrides)),
            returned: Some(BYTES_OF_WORD * (words_of(&self.parts) * wallets.len() + 2)),
            origin: Some(Arc::clone(&self.origin)),
            ..Call::plain(PROGRAM, data.into())
        }
    }

    /// Runs the program for these wallets.
    async fn run<'a>(
        &self,
        calls: &Calls<'a>,
        wallets: &[Wallet],
    ) -> Result<(PackedTotals, &'a Endpoint), RequestError> {
        let read = |bytes: Bytes| decode(&self.parts, wallets, &bytes);
        calls.call(wallets.len() > 1, self.call(wallets), read).await
    }

    /// Reads a chunk by the program alone, halving what is too large, or giving it back for other chunks. While an endpoint `is_trial`, what it does not say
    /// to be too large fails at once: the chunk is then read without the program, which shows whether that is the cause.
    pub(super) async fn read_packed(
        &self,
        calls: &Calls<'_>,
        chunk: Vec<Wallet>,
        is_trial: impl Fn(&EndpointId) -> bool + Sync,
    ) -> PackedResult {
        let mut result = PackedResult::default();
        result.error = self.read_into(&mut result, calls, chunk, is_trial).await.err();
        result
    }

    async fn read_into(
        &self,
        result: &mut PackedResult,
        calls: &Calls<'_>,
        chunk: Vec<Wallet>,
        is_trial: impl Fn(&EndpointId) -> bool + Sync,
    ) -> Result<(), ReadError> {
        let size = chunk.len();
        let mut open = vec![chunk];
        while let Some(wallets) = open.pop() {
            if calls.is_stopped() {
                break;
            }
            let failure = match self.run(calls, &wallets).await {
                Ok((totals, endpoint)) => {
                    endpoint.limit(self.limit, |search| search.succeeded(wallets.len()));
                    result.answered_by.push(endpoint.id.clone());
                    for (wallet, total) in totals {
                        match total {
                            Some(total) => result.totals.push((wallet, total)),
                            None => result.marked.push(wallet),
                        }
                    }
                    continue;
                }
                Err(RequestError::Node(failure)) => failure,
                Err(error) => return Err(error.into()),
            };
            let is_alone = wallets.len() == 1;
            let is_clear = failure.kind.action() == Action::Split && !is_alone;
            if !may_be_of_request(&failure) || !is_alone && !is_clear && is_trial(&failure.endpoint)
            {
                return Err(failure.into());
            }
            if !is_clear {
                self.require_runs(calls).await?;
            }
            if wallets.len() == size {
                let endpoint = calls.client().endpoint(&failure.endpoint);
                let gives_back = endpoint.limit(self.limit, |search| search.gives_back(size));
                endpoint.too_large(self.limit, size, &failure);
                if gives_back {
                    break;
                }
            }
            match is_alone {
                true => result.marked.extend(wallets),
                false => open.extend(halves(wallets)),
            }
        }
        Ok(())
    }

    /// Fails unless the program runs for a wallet that holds nothing: because the node fails, or, if that wallet can be
    /// read without the program, because the endpoint does not take it.
    async fn require_runs(&self, calls: &Calls<'_>) -> Result<(), ReadError> {
        let canary = [canary()];
        let mut failure: Option<NodeError> = None;
        for _ in 0..TRIES {
            match self.run(calls, &canary).await {
                Ok(_) => return Ok(()),
                Err(RequestError::Node(node)) if may_be_of_request(&node) => failure = Some(node),
                Err(error) => return Err(error.into()),
            }
            // The client has retried the others as often as it may.
            if failure.as_ref().is_some_and(|failure| !is_asked_little(failure.kind)) {
                break;
            }
        }
        let Some(mut failure) = failure else { return Ok(()) };
        let endpoint = calls.client().endpoint(&failure.endpoint);
        // One failure more may be of a bad moment, several beside a node that works are not.
        for _ in 0..TRIES {
            if !calls.is_well(endpoint).await? {
                return Err(failure.into());
            }
            let read = |bytes: Bytes| decode(&self.parts, &canary, &bytes);
            match calls.call_at(endpoint, self.call(&canary), read).await {
                Ok(_) => return Ok(()),
                Err(RequestError::Node(again)) => failure = again,
                Err(error) => return Err(error.into()),
            }
        }
        Err(self.unsupported(&failure))
    }

    fn unsupported(&self, failure: &NodeError) -> ReadError {
        ReadError::Unsupported {
            endpoint: failure.endpoint.clone(),
            reason: format!("{}: {}", failure.endpoint, failure.message),
            remedy: self.remedy,
        }
    }

    /// Remembers that it does not work with this endpoint; returns true if that is news.
    pub(super) fn give_up(&self, client: &Client, endpoint: &EndpointId, reason: &str) -> bool {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.insert(endpoint.clone(), reason.to_owned());
        let before = client.endpoint(endpoint).learn(Feature::Overrides, Support::Missing);
        before != Support::Missing
    }

    /// Fails if no endpoint may take state overrides.
    fn require_endpoint(&self, client: &Client) -> Result<(), ReadError> {
        if client.preferred_of(|endpoint| self.suits(endpoint)).is_some() {
            return Ok(());
        }
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons: Vec<_> = reasons.values().map(String::as_str).collect();
        Err(ReadError::Unsupported {
            endpoint: client.preferred().id.clone(),
            reason: reasons.join("; "),
            remedy: self.remedy,
        })
    }

    /// The readings of a chunk, with the wallets that the program has no total for read without it.
    pub(super) async fn complete(
        &self,
        calls: &Calls<'_>,
        mut result: PackedResult,
    ) -> ChunkRead<Total> {
        if let Some(error) = result.error.take() {
            return (result.into_readings(), Some(error));
        }
        let marked = std::mem::take(&mut result.marked);
        let mut readings = result.into_readings();
        let (read, error) = self.plain.read_all(calls, marked).await;
        readings.extend(read);
        (readings, error)
    }
}

#[async_trait]
impl TotalsMethod for Packed {
    fn cost_of_wallet(&self) -> CallCost {
        cost_of(&self.parts)
    }

    fn limit(&self) -> Limit {
        self.limit
    }

    fn suits(&self, endpoint: &Endpoint) -> bool {
        endpoint.support(Feature::Overrides) != Support::Missing
    }

    /// At one endpoint after another, as long as there is one that may take state overrides.
    async fn read(&self, calls: &Calls<'_>, wallets: Vec<Wallet>) -> ChunkRead<Total> {
        let client = calls.client();
        loop {
            if let Err(error) = self.require_endpoint(client) {
                return (Vec::new(), Some(error));
            }
            let result = self.read_packed(calls, wallets.clone(), |_| false).await;
            match &result.error {
                Some(ReadError::Unsupported { endpoint, reason, .. }) => {
                    let is_news = self.give_up(client, endpoint, reason);
                    if is_news && self.require_endpoint(client).is_ok() {
                        warn!(
                            "the packed reader does not work with {reason}; using another endpoint for it"
                        );
                    }
                }
                // Another chunk has found that out of the last endpoint.
                Some(_) if self.require_endpoint(client).is_err() => {}
                _ => {
                    let answered: HashSet<_> =
                        result.answered_by.iter().filter(|_| result.error.is_none()).collect();
                    for id in answered {
                        client.endpoint(id).learn(Feature::Overrides, Support::Works);
                    }
                    return self.complete(calls, result).await;
                }
            }
        }
    }
}

/// The parts as a call begins with them: their number, then contract and selector of each. The program calls
/// them from the last to the first.
fn table(parts: &Parts) -> Vec<u8> {
    let views = parts.views();
    let mut table = (views.len() as u64).to_be_bytes().to_vec();
    for view in views.iter().rev() {
        table.extend_from_slice(view.contract.as_slice());
        table.extend_from_slice(view.function.selector().as_slice());
    }
    table
}

/// Words that the program returns for each wallet: its total, or each part.
fn words_of(parts: &Parts) -> usize {
    if parts.has_stored() { parts.views().len() } else { 1 }
}

/// What a wallet with these parts costs in a call.
fn cost_of(parts: &Parts) -> CallCost {
    let bytes_returned = BYTES_OF_WORD * words_of(parts);
    CallCost { bytes_returned, ..Packed::cost(parts.views().len()) }
}

/// Where the program ran, and the totals of these wallets.
///
/// # Errors
/// If it is not what the program returns for these wallets.
fn decode(
    parts: &Parts,
    wallets: &[Wallet],
    returned: &[u8],
) -> Result<(Option<Origin>, PackedTotals), String> {
    let words_of_each = words_of(parts);
    let (origin, words) = split(returned, words_of_each * wallets.len())?;
    let total = |words: &[u8]| {
        let mut words = words.chunks_exact(BYTES_OF_WORD).map(U256::from_be_slice);
        match parts.has_stored() {
            // A sum that does not fit is found out about, and put in words, without the program.
            true => parts
                .total(words.map(|word| if word == MARK { Err(String::new()) } else { Ok(word) }))
                .ok(),
            false => words.next().filter(|word| *word != MARK).map(Total::from),
        }
    };
    let totals = words.chunks_exact(BYTES_OF_WORD * words_of_each).map(total);
    Ok((Some(origin), wallets.iter().copied().zip(totals).collect()))
}

/// Where the program ran, and so many words behind that.
fn split(returned: &[u8], words: usize) -> Result<(Origin, &[u8]), String> {
    if returned.is_empty() {
        return Err("it returned nothing, as if it took no state overrides".to_owned());
    }
    let expected = BYTES_OF_WORD * (words + 2);
    if returned.len() != expected {
        return Err(format!("it returned {} bytes, not {expected}", returned.len()));
    }
    let (block, rest) = returned.split_at(BYTES_OF_WORD);
    let (chain_id, words) = rest.split_at(BYTES_OF_WORD);
    let [block, chain_id] = [block, chain_id].map(U256::from_be_slice);
    Ok((Origin { block, chain_id, timestamp: None }, words))
}

#[cfg(test)]
mod tests;
