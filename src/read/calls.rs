//! The `eth_call`s of one chunk, and what their failures mean.
//!
//! Words and codes only save attempts; what decides is the canary, a wallet that holds nothing. While it can be read, a
//! call that fails is too large, or its wallet is unreadable; while it cannot, the node is what fails.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use alloy::primitives::{Bytes, U256};
use thiserror::Error;
use tracing::info;

use super::aggregate3::{Aggregator, OVERFLOW, Totals, decode, word};
use crate::{
    profile::MULTICALL3,
    rpc::{
        Action, BlockRef, Call, Client, Endpoint, EndpointId, ErrorKind, Limit, NodeError, Origin,
        Parked, Permit, RequestError,
    },
    tally::{RunError, Shutdown, Wallet},
};

/// Why wallets could not be read.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// An endpoint cannot be read from by the packed reader.
    #[error("the packed reader does not work with this node: {reason}; {remedy}")]
    Unsupported {
        /// Which endpoint.
        endpoint: EndpointId,
        /// Why not.
        reason: String,
        /// What helps.
        remedy: &'static str,
    },
}

impl From<ReadError> for RunError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Request(error) => error.into(),
            ReadError::Unsupported { .. } => Self::settings(error),
        }
    }
}

impl From<NodeError> for ReadError {
    fn from(error: NodeError) -> Self {
        RequestError::from(error).into()
    }
}

impl ReadError {
    /// True if a node does not have the block, or no longer its state.
    pub(super) fn is_block_unavailable(&self) -> bool {
        matches!(self, Self::Request(error) if error.is(ErrorKind::BlockUnavailable))
    }

    /// True if what was asked for may be what failed: its size, its form or its block.
    pub(super) fn may_be_of_request(&self) -> bool {
        matches!(self, Self::Request(RequestError::Node(failure)) if may_be_of_request(failure))
    }
}

/// True if what was asked for may be what failed, whatever the node says: it was reached, and has not refused us.
pub(super) fn may_be_of_request(failure: &NodeError) -> bool {
    failure.is_answer() || failure.kind == ErrorKind::BlockUnavailable
}

/// True if the client does not ask the same endpoint again after such a failure, as another answer is unlikely.
pub(super) const fn is_asked_little(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TooLarge | ErrorKind::Reverted)
}

/// What the calls of every chunk share.
pub(super) struct Caller {
    pub(super) client: Arc<Client>,
    totals: Arc<Totals>,
    /// `None` if the chain has no Multicall3.
    aggregator: Option<Aggregator>,
    shutdown: Shutdown,
    /// One more than the last block at which the canary had a total.
    sane_at: AtomicU64,
}

impl Caller {
    pub(super) fn new(
        client: Arc<Client>,
        totals: Arc<Totals>,
        aggregator: Option<Aggregator>,
        shutdown: Shutdown,
    ) -> Self {
        Self { client, totals, aggregator, shutdown, sane_at: AtomicU64::new(0) }
    }

    /// The calls of a chunk at this block, as soon as one more may be in flight.
    pub(super) async fn calls(&self, block: BlockRef) -> Calls<'_> {
        let permit = self.client.permit(|| usize::MAX).await;
        self.with_permit(permit, block)
    }

    /// The calls of a chunk at this block, one at a time under this permit.
    pub(super) const fn with_permit<'a>(
        &'a self,
        permit: Permit<'a>,
        block: BlockRef,
    ) -> Calls<'a> {
        Calls { caller: self, permit, block }
    }
}

/// The calls of one chunk, one at a time, all at one block.
pub(super) struct Calls<'a> {
    caller: &'a Caller,
    permit: Permit<'a>,
    pub(super) block: BlockRef,
}

/// Why a call failed while the node works: it is too large, or its wallet cannot be read.
pub(super) struct Blame {
    /// What the node said.
    pub(super) reason: String,
    /// How often a wallet has to fail alone in this way before it is called unreadable.
    pub(super) enough: u32,
}

impl<'a> Calls<'a> {
    /// The same permit for calls at another block.
    pub(super) fn at(self, block: BlockRef) -> Self {
        Self { block, ..self }
    }

    /// Calls at the same block under another permit.
    pub(super) const fn beside(&self, permit: Permit<'a>) -> Self {
        Self { caller: self.caller, permit, block: self.block }
    }

    /// Nothing is sent until this is dropped, as another chunk is waited for.
    pub(super) fn park(&self) -> Parked<'_> {
        self.permit.park()
    }

    /// True if a shutdown was requested.
    pub(super) fn is_stopped(&self) -> bool {
        self.caller.shutdown.is_requested()
    }

    /// The client that sends them.
    pub(super) fn client(&self) -> &'a Client {
        &self.caller.client
    }

    /// One `eth_call`. Returns also which endpoint answered.
    pub(super) async fn call<T: Send>(
        &self,
        can_split: bool,
        call: Call,
        read: impl Fn(Bytes) -> Result<(Option<Origin>, T), String> + Sync,
    ) -> Result<(T, &'a Endpoint), RequestError> {
        self.client().eth_call(&self.permit, can_split, call, self.block, read).await
    }

    /// The same once, at this endpoint, of which something is to be learnt.
    pub(super) async fn call_at<T: Send>(
        &self,
        endpoint: &Endpoint,
        call: Call,
        read: impl Fn(Bytes) -> Result<(Option<Origin>, T), String> + Sync,
    ) -> Result<T, RequestError> {
        self.client().eth_call_at(endpoint, 0, &self.permit, call, self.block, read).await
    }

    /// One `eth_call` for one wallet; what it returned, or why that cannot be read.
    pub(super) async fn call_alone(&self, call: Call) -> Result<Result<Bytes, String>, ReadError> {
        let mut failures = 0;
        loop {
            let error = match self.call(false, call.clone(), |bytes| Ok((None, bytes))).await {
                Ok((bytes, _)) => return Ok(Ok(bytes)),
                Err(error) => error,
            };
            let Blame { reason, enough } = self.blame(error, 1, None).await?;
            failures += 1;
            if failures >= enough {
                return Ok(Err(reason));
            }
        }
    }

    /// What is to blame for a request that failed, where fewer wallets may succeed or one wallet is the cause; an error
    /// where the node is. With `limit`, the next chunks will be smaller.
    pub(super) async fn blame(
        &self,
        error: RequestError,
        wallets: usize,
        limit: Option<Limit>,
    ) -> Result<Blame, ReadError> {
        let RequestError::Node(failure) = error else { return Err(error.into()) };
        // Without retries, nothing has failed again.
        let is_split = failure.kind.action() == Action::Split;
        if !may_be_of_request(&failure) || !is_split && self.client().retries() == 0 {
            return Err(failure.into());
        }
        if wallets == 1 || !is_split {
            match self.canary(self.block).await {
                Ok(Ok(_)) => {}
                // That something failed says more than that nothing was sent any more.
                Ok(Err(_)) | Err(RequestError::Stopped(_)) => return Err(failure.into()),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(limit) = limit {
            self.client().endpoint(&failure.endpoint).too_large(limit, wallets, &failure);
        }
        if wallets > 1 {
            info!(wallets, "halving: {}", failure.message);
        }
        // The kinds differ in how often the client has asked.
        let enough = match failure.kind {
            ErrorKind::Reverted => 1,
            ErrorKind::TooLarge => 3,
            _ => 2,
        };
        Ok(Blame { reason: failure.message, enough })
    }

    /// True if the canary can be read at this block.
    pub(super) async fn is_well_at(&self, block: BlockRef) -> bool {
        self.canary(block).await.is_ok_and(|total| total.is_ok())
    }

    /// True if the canary can be read at this endpoint, without state overrides.
    pub(super) async fn is_well(&self, endpoint: &Endpoint) -> Result<bool, RequestError> {
        match self.read_canary(self.block, Some(endpoint), &AtomicBool::new(false)).await {
            Ok(total) => Ok(total.is_ok()),
            Err(RequestError::Node(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fails where no wallet at all has a total: then a part is the cause, and no wallet is.
    pub(super) async fn require_sane(&self) -> Result<(), ReadError> {
        let (block, sane_at) = (self.block.number, &self.caller.sane_at);
        if sane_at.load(Relaxed) == block + 1 {
            return Ok(());
        }
        if let Err(reason) = self.canary(self.block).await? {
            return Err(ReadError::Request(RequestError::Settings(format!(
                "no wallet has a total at block {block}, not even one that holds nothing: {reason}; \
                 check the profile and --block"
            ))));
        }
        sane_at.store(block + 1, Relaxed);
        Ok(())
    }

    /// Reads a wallet that holds nothing, with every retry; or why two answers, of two endpoints where there are two,
    /// give it no total.
    async fn canary(&self, block: BlockRef) -> Result<Result<U256, String>, RequestError> {
        let is_doubted = AtomicBool::new(true);
        let mut failures = 0;
        loop {
            let was_doubted = is_doubted.load(Relaxed);
            let error = match self.read_canary(block, None, &is_doubted).await {
                Err(error) if !self.is_stopped() => error,
                done => return done,
            };
            if was_doubted && !is_doubted.load(Relaxed) {
                // With few retries there was no second answer.
                continue;
            }
            let is_asked_little =
                matches!(&error, RequestError::Node(failure) if is_asked_little(failure.kind));
            if failures >= self.client().retries() || !is_asked_little {
                return Err(error);
            }
            failures += 1;
        }
    }

    /// Reads the canary once, from this endpoint or any. While it is doubted, the first answer without a total is taken
    /// for a failure of the endpoint.
    async fn read_canary(
        &self,
        block: BlockRef,
        endpoint: Option<&Endpoint>,
        is_doubted: &AtomicBool,
    ) -> Result<Result<U256, String>, RequestError> {
        let Caller { client, totals, aggregator, .. } = self.caller;
        let retries = client.retries();
        let judged = |total: Result<U256, String>| match total {
            Err(reason) if is_doubted.swap(false, Relaxed) => Err(reason),
            total => Ok(total),
        };
        let canary = [canary()];
        if let Some(aggregator) = aggregator {
            let read = |bytes: Bytes| {
                let (origin, mut readings) = decode(totals.as_ref(), &canary, &bytes)?;
                let (_, total) = readings.pop().ok_or("no reading")?;
                Ok((origin, judged(total.map(|total| total.sum))?))
            };
            let call = aggregator.call(totals.as_ref(), &canary);
            return match endpoint {
                Some(endpoint) => {
                    client.eth_call_at(endpoint, retries, &self.permit, call, block, read).await
                }
                None => Ok(client.eth_call(&self.permit, false, call, block, read).await?.0),
            };
        }
        let mut sum = U256::ZERO;
        for (name, (to, data)) in totals.parts.names().iter().zip(totals.parts.calls(canary[0])) {
            let read = |bytes: Bytes| {
                let part = word(&bytes).map_err(|why| format!("{name} {why}"));
                Ok((None, judged(part)?))
            };
            let call = Call::plain(to, data);
            let part = match endpoint {
                Some(endpoint) => {
                    client.eth_call_at(endpoint, retries, &self.permit, call, block, read).await
                }
                None => {
                    let asked = client.eth_call(&self.permit, false, call, block, read).await;
                    asked.map(|(part, _)| part)
                }
            };
            let part = match part {
                Err(RequestError::Node(failure)) if failure.kind == ErrorKind::Reverted => {
                    Err(format!("{name} failed: {}", failure.message))
                }
                part => part?,
            };
            match part.map(|part| sum.checked_add(part)) {
                Ok(Some(more)) => sum = more,
                Ok(None) => return Ok(Err(OVERFLOW.to_owned())),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(sum))
    }
}

/// A wallet that holds nothing.
pub(super) fn canary() -> Wallet {
    MULTICALL3.into()
}
