//! Where a call ran: the block and the chain that the EVM names in an answer, held against those that were asked for.
//!
//! On some chains, such as Arbitrum, the EVM names the number of another chain's block. That is found out once for each
//! endpoint; its answers are then checked by the chain alone.

use std::collections::HashMap;

use alloy::primitives::{Bytes, U64, U256};
use serde::{Serialize, de::DeserializeOwned};
use tracing::{info, warn};

use super::{
    block::{BlockRef, Header},
    endpoint::Endpoint,
    error::{NodeError, RequestError},
    learnt::{Feature, Support},
    request::{CallParams, Origin, OriginCheck},
    sender::{Rejected, Sender},
};

/// How far off a block's number is at least if it is another chain's.
const FOREIGN: u64 = 1_000;
/// Blocks between the two that are asked about; few, as most nodes have the state of 128 only.
const SPAN: u64 = 64;
/// How often each of them is asked about: a pool has several backends.
const ROUNDS: usize = 3;
/// Retries of each of these requests.
const RETRIES: usize = 3;

impl Sender {
    /// Checks that what the endpoint answered is from the block that was asked for, and from the right chain.
    pub(super) async fn require_origin(
        &self,
        endpoint: &Endpoint,
        block: u64,
        origin: Origin,
        check: &OriginCheck,
    ) -> Result<(), RequestError> {
        let malformed = |what, seen, asked| {
            let message = format!("it ran {what} {seen}, not {asked}");
            Err(NodeError::malformed(&endpoint.id, message).into())
        };
        if origin.chain_id != U256::from(check.chain_id) {
            return malformed("on chain", origin.chain_id, check.chain_id);
        }
        let support = endpoint.support(Feature::BlockNumber);
        if support == Support::Missing {
            return Ok(());
        }
        if origin.block == U256::from(block) {
            if support == Support::Untried {
                endpoint.learn(Feature::BlockNumber, Support::Works);
            }
            return Ok(());
        }
        if support == Support::Untried && self.is_foreign(endpoint, block, origin, check).await? {
            if endpoint.learn(Feature::BlockNumber, Support::Missing) != Support::Missing {
                warn!(
                    "{}: contracts see another chain's block number, as on Arbitrum; answers are checked by chain only",
                    endpoint.id
                );
            }
            return Ok(());
        }
        malformed("at block", origin.block, block)
    }

    /// True if the endpoint's EVM is shown to name another chain's blocks: every answer is from the right chain, has
    /// the timestamp of the block that was asked for, and names a number that is far off and the same each time. That
    /// rules out backends that answer from another block.
    async fn is_foreign(
        &self,
        endpoint: &Endpoint,
        block: u64,
        origin: Origin,
        check: &OriginCheck,
    ) -> Result<bool, RequestError> {
        let mut seen = HashMap::from([(block, origin.block)]);
        for asked in [block, block.saturating_sub(SPAN)].repeat(ROUNDS) {
            if seen
                .get(&asked)
                .is_some_and(|number| number.abs_diff(U256::from(asked)) <= U256::from(FOREIGN))
            {
                return Ok(false);
            }
            let params = CallParams(&check.probe, BlockRef::from(asked));
            let read = |bytes: Bytes| (check.read)(&bytes).map_err(Rejected::from);
            let origin = match self.ask_steadily(endpoint, "eth_call", &params, read).await {
                Ok(origin) => origin,
                Err(RequestError::Node(failure)) => {
                    info!("cannot tell whose block number contracts see: {failure}");
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            let is_consistent = *seen.entry(asked).or_insert(origin.block) == origin.block;
            let is_of_chain = origin.chain_id == U256::from(check.chain_id);
            if !is_consistent || !is_of_chain || !self.fits_time(endpoint, asked, origin).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True unless the origin has a timestamp that is not this block's.
    async fn fits_time(
        &self,
        endpoint: &Endpoint,
        block: u64,
        origin: Origin,
    ) -> Result<bool, RequestError> {
        let Some(timestamp) = origin.timestamp else { return Ok(true) };
        let params = (U64::from(block), false);
        let read = |header| Ok(Header::numbered(block)(header)?);
        match self.ask_steadily(endpoint, "eth_getBlockByNumber", &params, read).await {
            Ok(header) => {
                let made = header.map(|header| U256::from(header.timestamp.to::<u64>()));
                Ok(made == Some(timestamp))
            }
            Err(RequestError::Node(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a request to an endpoint, and again while it fails.
    async fn ask_steadily<P: Serialize, R: DeserializeOwned, T>(
        &self,
        endpoint: &Endpoint,
        method: &'static str,
        params: &P,
        read: impl Fn(R) -> Result<T, Rejected>,
    ) -> Result<T, RequestError> {
        let mut answer = self.ask(endpoint, method, params, &read).await;
        for _ in 0..RETRIES {
            if matches!(answer, Err(RequestError::Node(_))) {
                answer = self.ask(endpoint, method, params, &read).await;
            }
        }
        answer
    }
}
