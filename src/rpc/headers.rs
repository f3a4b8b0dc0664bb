//! Asks for blocks' numbers and headers.

use alloy::primitives::{B256, U64};
use serde::Deserialize;

use super::{
    block::{BlockChoice, Header},
    checks::CheckFailure,
    client::Client,
    error::RequestError,
    request::{Freshness, Request},
    sender::Rejected,
};

impl Client {
    /// The number of the block that was chosen, asked for now.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn block_number(&self, choice: BlockChoice) -> Result<u64, RequestError> {
        #[derive(Debug, Deserialize)]
        struct Numbered {
            number: U64,
        }
        match choice {
            BlockChoice::Number(number) => Ok(number),
            BlockChoice::Latest => Ok(self.newest_header().await?.number.to()),
            tag @ (BlockChoice::Safe | BlockChoice::Finalized) => {
                let number = |block: Option<Numbered>| match block {
                    Some(block) => Ok(block.number.to()),
                    None => Err(format!("it has no {tag} block yet")),
                };
                self.request("eth_getBlockByNumber", (tag.to_string(), false), number).await
            }
        }
    }

    /// The newest header, of an endpoint that is not behind.
    ///
    /// # Errors
    /// As [`Client::send`]; if every endpoint is behind, [`RequestError::NoEndpoint`].
    pub async fn newest_header(&self) -> Result<Header, RequestError> {
        let present = |header: Option<Header>| header.ok_or_else(|| "it has no block".to_owned());
        loop {
            let request = Request::new("eth_getBlockByNumber", ("latest", false));
            let (header, endpoint) = self.send_and_tell(request, present).await?;
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
    /// As [`Client::request`].
    pub async fn header(&self, number: u64, seen: u64) -> Result<Option<Header>, RequestError> {
        let request = Request {
            freshness: Freshness::HasBlock(seen),
            ..Request::new("eth_getBlockByNumber", (U64::from(number), false))
        };
        self.send(request, |header: Option<Header>| match header {
            Some(header) if header.number.to::<u64>() != number => {
                Err(format!("it gave block {} for block {number}", header.number))
            }
            header => Ok(header),
        })
        .await
    }

    /// The header of the block with this hash.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn header_by_hash(&self, hash: B256) -> Result<Header, RequestError> {
        let request = Request::new("eth_getBlockByHash", (hash, false));
        let read = |header: Option<Header>| match header {
            Some(header) if header.hash == hash => Ok(header),
            Some(header) => {
                Err(Rejected::Malformed(format!("it gave block {} for {hash}", header.hash)))
            }
            None => Err(Rejected::NoBlock(format!("it does not have block {hash}"))),
        };
        Ok(self.send_strictly(request, read).await?.0)
    }
}
