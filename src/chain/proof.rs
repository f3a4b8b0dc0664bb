//! What shows that an answer counts: a node that lags behind has no logs of blocks that it does not
//! have, and some say so by an empty list.

use std::sync::atomic::Ordering::Relaxed;

use alloy::primitives::{B256, U64, keccak256};
use serde::de::IgnoredAny;
use serde_json::json;
use tracing::info;

use super::{Class, Client, Failure, endpoint::Endpoint};

/// What shows that an endpoint did not answer for blocks that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// What it does not have it refuses.
    Unneeded,
    /// It has this block.
    Block(u64),
    /// It has the block with this hash, or is known to refuse what is asked for by an unknown hash.
    BlockOfHash(B256),
}

/// An endpoint that was seen to have a block so far above another is not asked whether it has that.
const SURELY_HAS: u64 = 256;

impl Client {
    /// Whether what the endpoint answered counts.
    pub(super) async fn prove(&self, endpoint: &Endpoint, proof: Proof) -> Result<(), Failure> {
        match proof {
            Proof::Unneeded => Ok(()),
            Proof::Block(block) => self.require_block(endpoint, block).await,
            Proof::BlockOfHash(hash) => {
                let refuses = &endpoint.refuses_unknown_hash;
                match refuses.get_or_try_init(|| self.try_unknown_hash(endpoint)).await? {
                    true => Ok(()),
                    false => self.require_hash(endpoint, hash).await,
                }
            }
        }
    }

    /// Asks for the logs of a block that nobody has.
    async fn try_unknown_hash(&self, endpoint: &Endpoint) -> Result<bool, Failure> {
        let filter = json!({ "blockHash": keccak256("a block that nobody has") });
        let asked = self.ask(endpoint, "eth_getLogs", (filter,), |_: IgnoredAny| Ok(()));
        match asked.await {
            Ok(()) => {
                info!("{}: gives logs of blocks that do not exist: none", endpoint.label);
                Ok(false)
            }
            Err(failure) if failure.class == Class::Behind => Ok(true),
            // Whatever it means, it is not that the block is unknown.
            Err(failure) if failure.class == Class::Unknown => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Whether the endpoint has this block.
    async fn require_block(&self, endpoint: &Endpoint, block: u64) -> Result<(), Failure> {
        if endpoint.has_block.load(Relaxed) >= block.saturating_add(SURELY_HAS) {
            return Ok(());
        }
        let params = (U64::from(block), false);
        let header: Option<IgnoredAny> =
            self.ask(endpoint, "eth_getBlockByNumber", params, Ok).await?;
        if header.is_none() {
            let message = format!("header not found: it does not have block {block} yet");
            return Err(Failure::new(&endpoint.label, Class::Behind, message));
        }
        endpoint.has_block.fetch_max(block, Relaxed);
        Ok(())
    }

    /// Whether the endpoint has the block with this hash.
    async fn require_hash(&self, endpoint: &Endpoint, hash: B256) -> Result<(), Failure> {
        let params = (hash, false);
        let header: Option<IgnoredAny> =
            self.ask(endpoint, "eth_getBlockByHash", params, Ok).await?;
        match header {
            Some(_) => Ok(()),
            None => {
                let message = format!("header not found: it does not have block {hash} yet");
                Err(Failure::new(&endpoint.label, Class::Behind, message))
            }
        }
    }
}
