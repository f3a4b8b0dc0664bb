//! `eth_call`: at a block by its hash, or where that is not understood, by its number.

use std::time::Duration;

use alloy::primitives::Bytes;
use async_trait::async_trait;
use tracing::warn;

use super::{
    block::BlockRef,
    client::{Attempt, Client, LAG},
    endpoint::Endpoint,
    error::RequestError,
    kind::ErrorKind,
    learnt::{Feature, Support},
    limiter::Permit,
    request::{Call, CallParams},
    sender::{Rejected, Sender},
};

impl Client {
    /// An `eth_call` at this block; `read` decodes the returned bytes. Returns also which endpoint answered.
    /// `can_split` is as in [`super::Request`].
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn eth_call<T: Send>(
        &self,
        permit: &Permit<'_>,
        can_split: bool,
        call: Call,
        block: BlockRef,
        read: impl Fn(Bytes) -> Result<T, String> + Sync,
    ) -> Result<(T, &Endpoint), RequestError> {
        let sender = &self.sender;
        self.attempt(&CallAttempt { sender, permit, can_split, call, block, read }).await
    }
}

struct CallAttempt<'a, F> {
    sender: &'a Sender,
    permit: &'a Permit<'a>,
    can_split: bool,
    call: Call,
    block: BlockRef,
    read: F,
}

#[async_trait]
impl<T: Send, F: Fn(Bytes) -> Result<T, String> + Sync> Attempt for CallAttempt<'_, F> {
    type Answer = T;

    async fn at(&self, endpoint: &Endpoint) -> Result<T, RequestError> {
        self.sender.unless_stopped(endpoint, self.permit.renew()).await?;
        let takes_hash = match self.block.hash {
            Some(_) => endpoint.support(Feature::BlockHash),
            None => Support::Missing,
        };
        let answer = match takes_hash {
            Support::Missing => self.by_number(endpoint).await?,
            Support::Works => self.by_hash(endpoint).await?,
            Support::Untried => self.by_either(endpoint).await?,
        };
        endpoint.has_state(self.block.number);
        Ok(answer)
    }

    fn method(&self) -> &'static str {
        "eth_call"
    }

    fn can_split(&self) -> bool {
        self.can_split
    }

    fn patience(&self, endpoint: &Endpoint) -> Option<Duration> {
        match endpoint.may_have_state(self.block.number) {
            false => Some(Duration::ZERO),
            true => {
                (self.block.hash.is_some() || endpoint.had_block(self.block.number)).then_some(LAG)
            }
        }
    }

    fn state_of(&self) -> Option<u64> {
        Some(self.block.number)
    }
}

impl<T: Send, F: Fn(Bytes) -> Result<T, String> + Sync> CallAttempt<'_, F> {
    async fn send(&self, endpoint: &Endpoint, block: BlockRef) -> Result<T, RequestError> {
        let params = CallParams(&self.call, block);
        let returned = self.call.returned;
        let read = |bytes| (self.read)(bytes).map_err(Rejected::from);
        self.sender.ask_long(endpoint, "eth_call", &params, returned, read).await
    }

    async fn by_number(&self, endpoint: &Endpoint) -> Result<T, RequestError> {
        let answer = self.send(endpoint, self.block.number.into()).await?;
        if self.block.hash.is_some() {
            // At that height the endpoint may have had another block.
            self.sender.require_same(endpoint, self.block).await?;
        }
        Ok(answer)
    }

    async fn by_hash(&self, endpoint: &Endpoint) -> Result<T, RequestError> {
        let mut answer = self.send(endpoint, self.block).await;
        if let Err(RequestError::Node(failure)) = &mut answer
            && failure.kind == ErrorKind::BlockUnavailable
            && let Ok(Some(true)) = self.sender.is_replaced(endpoint, self.block).await
        {
            failure.kind = ErrorKind::BlockReplaced;
        }
        answer
    }

    /// By hash; if that fails in a way that may be due to the form, by number. Only that the other form works shows
    /// that it is the form.
    async fn by_either(&self, endpoint: &Endpoint) -> Result<T, RequestError> {
        let failure = match self.by_hash(endpoint).await {
            Err(RequestError::Node(failure)) => failure,
            answer => {
                if answer.is_ok() {
                    endpoint.learn(Feature::BlockHash, Support::Works);
                }
                return answer;
            }
        };
        if !failure.kind.is_odd_answer() && failure.kind != ErrorKind::Unreachable {
            return Err(failure.into());
        }
        let Ok(answer) = self.by_number(endpoint).await else { return Err(failure.into()) };
        endpoint.learn(Feature::BlockHash, Support::Missing);
        warn!(
            "totals are read by block number, as {} does not take hashes: {}",
            endpoint.id, failure.message
        );
        Ok(answer)
    }
}
