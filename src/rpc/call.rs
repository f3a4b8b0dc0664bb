//! `eth_call`: at a block by its hash, or where that is not understood, by its number.
//!
//! An answer counts only if it ran where it was asked to, where the call can tell that.

use std::time::Duration;

use alloy::primitives::Bytes;
use async_trait::async_trait;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    block::BlockRef,
    client::Client,
    endpoint::Endpoint,
    error::RequestError,
    failover::Attempt,
    kind::ErrorKind,
    learnt::{Feature, Support},
    limiter::Permit,
    request::{Call, CallParams, Origin},
    send::LAG,
    sender::{Rejected, Sender},
};

/// The first pause before an endpoint is asked again of which something is to be learnt; then twice as long each time.
const PAUSE: Duration = Duration::from_millis(100);

impl Client {
    /// An `eth_call` at this block; `read` decodes the returned bytes, and where they are from. Returns also which
    /// endpoint answered. `can_split` is as in [`super::Request`].
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn eth_call<T: Send>(
        &self,
        permit: &Permit<'_>,
        can_split: bool,
        call: Call,
        block: BlockRef,
        read: impl Fn(Bytes) -> Result<(Option<Origin>, T), String> + Sync,
    ) -> Result<(T, &Endpoint), RequestError> {
        let sender = &self.sender;
        self.attempt(&CallAttempt { sender, permit, can_split, call, block, read }).await
    }

    /// The same at this endpoint only, of which something is to be learnt: every failure is retried, `retries` times.
    ///
    /// # Errors
    /// [`RequestError::Node`] when every retry is spent.
    pub async fn eth_call_at<T: Send>(
        &self,
        endpoint: &Endpoint,
        retries: u32,
        permit: &Permit<'_>,
        call: Call,
        block: BlockRef,
        read: impl Fn(Bytes) -> Result<(Option<Origin>, T), String> + Sync,
    ) -> Result<T, RequestError> {
        let sender = &self.sender;
        let attempt = CallAttempt { sender, permit, can_split: false, call, block, read };
        let mut failures = 0;
        loop {
            let failure = match attempt.at(endpoint).await {
                Err(RequestError::Node(failure)) => failure,
                answer => return answer,
            };
            info!(method = attempt.method(), kind = ?failure.kind, "{failure}");
            if failures >= retries {
                return Err(failure.into());
            }
            let pause = failure.wait.unwrap_or(PAUSE.saturating_mul(1 << failures.min(8)));
            sender.unless_stopped(endpoint, sleep(pause)).await?;
            failures += 1;
        }
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
impl<T: Send, F: Fn(Bytes) -> Result<(Option<Origin>, T), String> + Sync> Attempt
    for CallAttempt<'_, F>
{
    type Answer = T;

    async fn at(&self, endpoint: &Endpoint) -> Result<T, RequestError> {
        self.sender.unless_stopped(endpoint, self.permit.renew()).await?;
        let takes_hash = match self.block.hash {
            Some(_) => endpoint.support(Feature::BlockHash),
            None => Support::Missing,
        };
        let answer = match takes_hash {
            Support::Missing => self.by_number(endpoint).await?,
            Support::Works | Support::Untried => self.by_either(endpoint).await?,
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

    fn suits(&self, endpoint: &Endpoint) -> bool {
        self.call.overrides.is_none() || endpoint.support(Feature::Overrides) != Support::Missing
    }
}

impl<T: Send, F: Fn(Bytes) -> Result<(Option<Origin>, T), String> + Sync> CallAttempt<'_, F> {
    async fn send(&self, endpoint: &Endpoint, block: BlockRef) -> Result<T, RequestError> {
        let params = CallParams(&self.call, block);
        let returned = self.call.returned;
        let read = |bytes| (self.read)(bytes).map_err(Rejected::from);
        let answer = self.sender.ask_long(endpoint, "eth_call", &params, returned, read);
        let (origin, value) = answer.await?;
        if let (Some(check), Some(origin)) = (&self.call.origin, origin) {
            self.sender.require_origin(endpoint, self.block.number, origin, check).await?;
        }
        Ok(value)
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
    /// that it is the form; one that has worked is doubted only if the node says so.
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
        let may_be_the_form = match endpoint.support(Feature::BlockHash) {
            Support::Works => failure.kind == ErrorKind::NotUnderstood,
            _ => failure.kind.is_odd_answer() || failure.kind == ErrorKind::Unreachable,
        };
        if !may_be_the_form {
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
