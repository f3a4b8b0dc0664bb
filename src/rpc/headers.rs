//! Asks for blocks' numbers and headers.

use std::time::Duration;

use alloy::primitives::{B256, U64};
use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    block::{BlockChoice, Header},
    checks::CheckFailure,
    client::Client,
    endpoint::Endpoint,
    error::RequestError,
    failover::Attempt,
    request::{Freshness, Request},
    sender::{Rejected, Sender},
};

impl Client {
    /// The number of the block that was chosen, asked for now.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn block_number(&self, choice: BlockChoice) -> Result<u64, RequestError> {
        let tag = match choice {
            BlockChoice::Number(number) => return Ok(number),
            BlockChoice::Latest => return self.newest_number().await,
            tag @ (BlockChoice::Safe | BlockChoice::Finalized) => tag,
        };
        let present = |header: Option<Header>| header.ok_or(format!("it has no {tag} block yet"));
        let request = Request::new("eth_getBlockByNumber", (tag.to_string(), false));
        Ok(self.send(request, present).await?.0.number.to())
    }

    /// The number of the newest block, which the checks of an endpoint have just seen or which is asked for.
    async fn newest_number(&self) -> Result<u64, RequestError> {
        let attempt = SeenInChecks { since: Instant::now() };
        match self.attempt(&attempt).await?.0 {
            Some(number) => Ok(number),
            None => Ok(self.newest_header().await?.number.to()),
        }
    }

    /// The newest header, of an endpoint that is not behind.
    ///
    /// # Errors
    /// As [`Client::send`]; if every endpoint is behind, [`RequestError::NoEndpoint`].
    pub async fn newest_header(&self) -> Result<Header, RequestError> {
        loop {
            let request = Request::new("eth_getBlockByNumber", ("latest", false));
            let (header, endpoint) = self.send(request, Header::existing).await?;
            match self.checker(endpoint).check_age(&header).await {
                Ok(()) => return Ok(header),
                Err(CheckFailure::Unfit(unfit, time)) => {
                    self.pass_over(endpoint, unfit, time).await;
                }
                Err(CheckFailure::Request(error)) => return Err(error),
            }
        }
    }

    /// The header of the block with this number, if there is one, from an endpoint that has the block `seen` too.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn header(&self, number: u64, seen: u64) -> Result<Option<Header>, RequestError> {
        let request = Request {
            freshness: Freshness::HasBlock(seen),
            ..Request::new("eth_getBlockByNumber", (U64::from(number), false))
        };
        Ok(self.send(request, Header::numbered(number)).await?.0)
    }

    /// The header of the block with this number, which must exist.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn header_by_number(&self, number: u64) -> Result<Header, RequestError> {
        let request = Request::new("eth_getBlockByNumber", (U64::from(number), false));
        let read = |header| existing(Header::numbered(number)(header)?, number);
        Ok(self.send_strictly(request, read).await?.0)
    }

    /// The header of the block with this hash.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn header_by_hash(&self, hash: B256) -> Result<Header, RequestError> {
        let request = Request::new("eth_getBlockByHash", (hash, false));
        let read = |header| existing(Header::hashed(hash)(header)?, hash);
        Ok(self.send_strictly(request, read).await?.0)
    }
}

/// The header of this block, or that there is no such block.
fn existing(header: Option<Header>, block: impl std::fmt::Display) -> Result<Header, Rejected> {
    header.ok_or_else(|| Rejected::NoBlock(format!("it does not have block {block}")))
}

/// The block that the checks of an endpoint see, if they are made now. Sends nothing itself.
struct SeenInChecks {
    since: Instant,
}

#[async_trait]
impl Attempt for SeenInChecks {
    type Answer = Option<u64>;

    async fn at(&self, endpoint: &Endpoint) -> Result<Option<u64>, RequestError> {
        let seen = endpoint.head().filter(|head| head.seen >= self.since);
        Ok(seen.map(|head| head.number))
    }

    fn method(&self) -> &'static str {
        "eth_getBlockByNumber"
    }

    fn can_split(&self) -> bool {
        false
    }

    fn patience(&self, _endpoint: &Endpoint) -> Option<Duration> {
        None
    }
}

impl Sender {
    /// The header that an endpoint has at this height, if it has one.
    pub(super) async fn header_at(
        &self,
        endpoint: &Endpoint,
        number: u64,
    ) -> Result<Option<Header>, RequestError> {
        let read = |header| Header::numbered(number)(header).map_err(Rejected::from);
        self.ask(endpoint, "eth_getBlockByNumber", (U64::from(number), false), read).await
    }
}
