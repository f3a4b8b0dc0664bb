//! Proofs of what a contract stores: from `eth_getProof`, against the hash of a block that all endpoints have.

use std::collections::HashMap;

use alloy::primitives::{Address, B256, Bytes, U64, U256, keccak256};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};
use tracing::{info, warn};

use super::{
    checks::{CheckFailure, Checker},
    client::Client,
    endpoint::Endpoint,
    endpoint_id::EndpointId,
    error::{NodeError, RequestError},
    kind::ErrorKind,
    preflight::{ANSWER, CODE, NOWHERE},
    sender::Rejected,
    trie::{ProvenBlock, proven_block, proven_value},
};

/// The first pause before an endpoint is asked again; then twice as long each time.
const PAUSE: Duration = Duration::from_millis(100);
/// What is stored for the time of a call, to see whether a view answers with it.
const MARK: U256 = U256::ONE;

const UNTRUE: &str = "; do not trust this endpoint: give another --rpc-url";
const NO_PROOFS: &str = "; give --rpc-url a node that answers eth_getProof, or leave out --proof";
const NOT_COMPARED: &str =
    "; --proof compares the block at every --rpc-url: try again, or leave this one out";
const ANOTHER_BLOCK: &str =
    "; try again with --block finalized, and if they still differ, do not trust one of them";

/// An entry of a mapping in a contract's storage, and the view that answers with it.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The contract.
    pub contract: Address,
    /// Where the entry is stored.
    pub key: B256,
    /// Selector and arguments of the view.
    pub call: Bytes,
}

impl Mapping {
    /// The entry for an address of a Solidity mapping at this slot.
    pub fn of(contract: Address, slot: U256, owner: Address, call: Bytes) -> Self {
        let key = keccak256([owner.into_word(), slot.into()].concat());
        Self { contract, key, call }
    }
}

impl Client {
    /// The block of this number, which must be the same at every endpoint, and hash to its hash at each; and the
    /// endpoints.
    ///
    /// # Errors
    /// When an endpoint cannot be asked, or has another block.
    pub async fn proven_block(
        &self,
        number: u64,
    ) -> Result<(ProvenBlock, Vec<EndpointId>), RequestError> {
        let mut first: Option<ProvenBlock> = None;
        for endpoint in &self.endpoints {
            let block = self.proven_block_at(endpoint, number).await?;
            match first {
                None => first = Some(block),
                Some(first) if first.hash == block.hash => {}
                Some(first) => {
                    let message = format!(
                        "block {number} has the hash {} here (--rpc-url number {}), and {} at {}",
                        block.hash,
                        endpoint.id.index() + 1,
                        first.hash,
                        self.endpoints[0].id
                    );
                    let failure = NodeError::new(&endpoint.id, ErrorKind::BlockReplaced, message);
                    return Err(failure.with_remedy(ANOTHER_BLOCK).into());
                }
            }
        }
        let endpoints = self.endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
        first.map(|block| (block, endpoints)).ok_or_else(RequestError::stopped)
    }

    async fn proven_block_at(
        &self,
        endpoint: &Endpoint,
        number: u64,
    ) -> Result<ProvenBlock, RequestError> {
        let checker = Checker { has_others: false, ..self.checker(endpoint) };
        match checker.check_chain().await {
            Ok(()) => {}
            Err(CheckFailure::Request(RequestError::Node(failure))) => {
                return Err(failure.with_remedy(NOT_COMPARED).into());
            }
            Err(CheckFailure::Request(error)) => return Err(error),
            Err(CheckFailure::Unfit(unfit, _)) => return Err(RequestError::Settings(unfit.reason)),
        }
        let read = |answer| proven_block(number, answer);
        let asked =
            self.ask_this(endpoint, "eth_getBlockByNumber", (U64::from(number), false), read);
        asked.await.map_err(|error| match error {
            RequestError::Node(failure) if !failure.has_remedy() => {
                failure.with_remedy(NOT_COMPARED).into()
            }
            error => error,
        })
    }

    /// What is stored in the mapping after this block, proven by the first endpoint that can.
    ///
    /// # Errors
    /// When none can.
    pub async fn proven_entry(
        &self,
        mapping: &Mapping,
        block: &ProvenBlock,
    ) -> Result<(U256, &Endpoint), RequestError> {
        let mut failures: Vec<NodeError> = Vec::new();
        for endpoint in &self.endpoints {
            let params = (mapping.contract, [mapping.key], U64::from(block.number));
            let read = |answer| {
                let value = proven_value(mapping.contract, mapping.key, block.state_root, answer);
                value.map_err(|why| Rejected::Malformed(format!("eth_getProof: {why}")))
            };
            match self.ask_this(endpoint, "eth_getProof", params, read).await {
                Ok(value) => {
                    failures.iter().for_each(|failure| warn!("{failure}"));
                    return Ok((value, endpoint));
                }
                Err(RequestError::Node(failure)) => failures.push(match failure.kind {
                    ErrorKind::Refused | ErrorKind::NotUnderstood | ErrorKind::Unknown => {
                        failure.with_remedy(NO_PROOFS)
                    }
                    _ => failure,
                }),
                Err(error) => return Err(error),
            }
        }
        let elsewhere = failures.iter().skip(1).map(NodeError::to_string).collect();
        let mut failures = failures.into_iter();
        let mut first = failures.next().ok_or_else(RequestError::stopped)?;
        first.elsewhere = elsewhere;
        Err(first.into())
    }

    /// What the view answers at the block of this number, at this endpoint; `None` if it is not a word.
    ///
    /// # Errors
    /// When the endpoint does not answer.
    pub async fn answer_of(
        &self,
        endpoint: &Endpoint,
        mapping: &Mapping,
        number: u64,
    ) -> Result<Option<U256>, RequestError> {
        let call = json!({ "to": mapping.contract, "data": mapping.call });
        self.ask_this(endpoint, "eth_call", (call, U64::from(number)), word).await
    }

    /// Whether the view answers with what is stored in the mapping: it is called while another value stands there. `None`
    /// if the endpoint takes no state overrides.
    ///
    /// # Errors
    /// When a shutdown came in between.
    pub async fn answers_from(
        &self,
        endpoint: &Endpoint,
        mapping: &Mapping,
        number: u64,
    ) -> Result<Option<bool>, RequestError> {
        let Mapping { contract, key, call } = mapping;
        let stored = HashMap::from([(key, B256::from(MARK))]);
        let overrides = json!({ contract.to_string(): { "stateDiff": stored } });
        let call = json!({ "to": contract, "data": call });
        if self.call_with(endpoint, call, number, overrides).await? == Some(MARK) {
            return Ok(Some(true));
        }
        let code = json!({ NOWHERE.to_string(): { "code": CODE } });
        let answer = self.call_with(endpoint, json!({ "to": NOWHERE }), number, code).await?;
        Ok((answer == Some(U256::from(ANSWER))).then_some(false))
    }

    /// The word that a call with overrides returns; `None` also if the endpoint fails.
    async fn call_with(
        &self,
        endpoint: &Endpoint,
        call: Value,
        number: u64,
        overrides: Value,
    ) -> Result<Option<U256>, RequestError> {
        let params = (call, U64::from(number), overrides);
        match self.ask_this(endpoint, "eth_call", params, word).await {
            Err(RequestError::Node(_)) => Ok(None),
            answer => answer,
        }
    }

    /// Asks this endpoint only, again after a failure that may pass. None keeps other requests from it.
    async fn ask_this<P: Serialize, T>(
        &self,
        endpoint: &Endpoint,
        method: &'static str,
        params: P,
        read: impl Fn(Value) -> Result<T, Rejected>,
    ) -> Result<T, RequestError> {
        let mut failures = 0;
        loop {
            let failure = match self.sender.ask(endpoint, method, &params, Ok).await {
                Ok(answer) => match read(answer) {
                    Ok(read) => return Ok(read),
                    Err(why @ Rejected::NoBlock(_)) => why.by(&endpoint.id),
                    Err(why @ Rejected::Malformed(_)) => why.by(&endpoint.id).with_remedy(UNTRUE),
                },
                Err(RequestError::Node(failure)) => failure,
                Err(error) => return Err(error),
            };
            info!(method, kind = ?failure.kind, "{failure}");
            let may_pass = match failure.kind {
                ErrorKind::RateLimited
                | ErrorKind::Unreachable
                | ErrorKind::TimedOut
                | ErrorKind::Unknown => true,
                ErrorKind::BlockUnavailable => !failure.is_pruned(),
                _ => false,
            };
            if !may_pass || failures >= self.retries {
                return Err(failure.into());
            }
            let pause = failure.wait.unwrap_or(PAUSE.saturating_mul(1 << failures.min(8)));
            self.sender.unless_stopped(endpoint, sleep(pause)).await?;
            failures += 1;
        }
    }
}

/// The word that a call returns.
fn word(answer: Value) -> Result<Option<U256>, Rejected> {
    let bytes: Option<Bytes> = serde_json::from_value(answer).ok();
    Ok(bytes.filter(|bytes| bytes.len() == 32).map(|bytes| U256::from_be_slice(&bytes)))
}
