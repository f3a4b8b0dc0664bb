//! Whether what an endpoint answered counts: it must have had the block that it was asked about.

use alloy::primitives::{B256, keccak256};
use serde::de::IgnoredAny;
use serde_json::json;
use tracing::info;

use super::{
    block::{BlockRef, Header},
    endpoint::Endpoint,
    error::{NodeError, RequestError},
    kind::ErrorKind,
    request::Freshness,
    sender::{Rejected, Sender},
};

/// An endpoint with a block this far above another is assumed to have that one too.
const SURELY_HAS: u64 = 256;

impl Sender {
    /// Checks that what the endpoint answered counts.
    pub(super) async fn require_fresh(
        &self,
        endpoint: &Endpoint,
        freshness: Freshness,
    ) -> Result<(), RequestError> {
        match freshness {
            Freshness::Any => Ok(()),
            Freshness::HasBlock(block) => self.require_block(endpoint, block).await,
            Freshness::HasHash(hash) => {
                let refuses = endpoint.refuses_unknown_blocks();
                match refuses.get_or_try_init(|| self.try_unknown_block(endpoint)).await? {
                    true => Ok(()),
                    false => self.require_hash(endpoint, hash).await,
                }
            }
        }
    }

    /// Checks that the block of this number has this hash, at this endpoint and now.
    pub(super) async fn require_same(
        &self,
        endpoint: &Endpoint,
        block: BlockRef,
    ) -> Result<(), RequestError> {
        match self.is_replaced(endpoint, block).await? {
            Some(false) => Ok(()),
            None => Err(lacks_block(endpoint, block.number.to_string())),
            Some(true) => {
                let message = format!("it has another block at height {}", block.number);
                Err(NodeError::new(&endpoint.id, ErrorKind::BlockReplaced, message).into())
            }
        }
    }

    /// Whether the endpoint has another block in the place of this one; `None` if it has none.
    pub(super) async fn is_replaced(
        &self,
        endpoint: &Endpoint,
        block: BlockRef,
    ) -> Result<Option<bool>, RequestError> {
        let header = self.header_at(endpoint, block.number).await?;
        Ok(header.map(|header| Some(header.hash) != block.hash))
    }

    /// Asks for the logs of a block that no node has.
    async fn try_unknown_block(&self, endpoint: &Endpoint) -> Result<bool, RequestError> {
        let filter = json!({ "blockHash": keccak256("a block that nobody has") });
        let asked = self.ask(endpoint, "eth_getLogs", (filter,), |_: IgnoredAny| Ok(()));
        match asked.await {
            Ok(()) => {
                info!("{}: answers for unknown blocks with an empty list", endpoint.id);
                Ok(false)
            }
            Err(RequestError::Node(failure)) => match failure.kind {
                ErrorKind::BlockUnavailable => Ok(true),
                // These are not about the block.
                ErrorKind::RateLimited
                | ErrorKind::QuotaExhausted
                | ErrorKind::Refused
                | ErrorKind::TimedOut => Err(failure.into()),
                ErrorKind::Unreachable if failure.cause.is_some() => Err(failure.into()),
                // It does not surely mean that the block is unknown, but it is an answer.
                _ => Ok(false),
            },
            Err(error) => Err(error),
        }
    }

    async fn require_block(&self, endpoint: &Endpoint, block: u64) -> Result<(), RequestError> {
        if endpoint.had_block(block.saturating_add(SURELY_HAS)) {
            return Ok(());
        }
        if self.header_at(endpoint, block).await?.is_none() {
            return Err(lacks_block(endpoint, block.to_string()));
        }
        endpoint.has_block(block);
        Ok(())
    }

    async fn require_hash(&self, endpoint: &Endpoint, hash: B256) -> Result<(), RequestError> {
        let read = |header| Header::hashed(hash)(header).map_err(Rejected::from);
        let header = self.ask(endpoint, "eth_getBlockByHash", (hash, false), read).await?;
        header.map(drop).ok_or_else(|| lacks_block(endpoint, hash.to_string()))
    }
}

fn lacks_block(endpoint: &Endpoint, block: String) -> RequestError {
    let known = endpoint.head().map_or_else(String::new, |head| {
        let age = head.seen.elapsed().as_secs();
        format!("; the newest block it was seen to have is {}, {age} s ago", head.number)
    });
    let message = format!("header not found: it does not have block {block} yet{known}");
    NodeError::new(&endpoint.id, ErrorKind::BlockUnavailable, message).into()
}
