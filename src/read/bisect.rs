//! The `eth_call`s that one chunk of wallets takes: what is too large for one call is halved, down to one wallet.
//!
//! A wallet is called unreadable only when it fails alone while the node works and the profile is right. A canary,
//! a wallet that holds nothing, shows that.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use alloy::primitives::{Bytes, U256};
use thiserror::Error;
use tracing::info;

use super::aggregate3::{Answers, Question, Totals, word};
use crate::{
    profile::MULTICALL3,
    rpc::{
        Action, BlockRef, Call, Client, Endpoint, EndpointId, ErrorKind, Limit, NodeError, Permit,
        RequestError,
    },
    tally::{Reading, RunError, Shutdown, Wallet},
};

/// What a chunk gave: its answers, and the error for those wallets that have none.
pub(super) type ChunkRead<T> = (Answers<T>, Option<ReadError>);

/// Why wallets could not be read.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// An endpoint cannot be read from by the packed reader.
    #[error(
        "the packed reader does not work with this node: {reason}; use --reader multicall3 or auto"
    )]
    Unsupported {
        /// Which endpoint.
        endpoint: EndpointId,
        /// Why not.
        reason: String,
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
}

/// What the calls of every chunk share.
pub(super) struct Caller {
    pub(super) client: Arc<Client>,
    totals: Arc<Totals>,
    shutdown: Shutdown,
    /// One more than the last block at which the canary had a total.
    sane_at: AtomicU64,
}

impl Caller {
    pub(super) fn new(client: Arc<Client>, totals: Arc<Totals>, shutdown: Shutdown) -> Self {
        Self { client, totals, shutdown, sane_at: AtomicU64::new(0) }
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

impl<'a> Calls<'a> {
    /// The same permit for calls at another block.
    pub(super) fn at(self, block: BlockRef) -> Self {
        Self { block, ..self }
    }

    /// True if a shutdown was requested.
    pub(super) fn is_stopped(&self) -> bool {
        self.caller.shutdown.is_requested()
    }

    /// The client that sends them.
    pub(super) fn client(&self) -> &'a Client {
        &self.caller.client
    }

    /// Asks through Multicall3, halving what fails until each wallet is answered or has failed alone.
    pub(super) async fn ask<Q: Question>(
        &self,
        question: &Q,
        chunk: Vec<Wallet>,
    ) -> ChunkRead<Q::Answer> {
        let size = chunk.len();
        let mut done = Vec::with_capacity(size);
        let mut open = vec![chunk];
        while let Some(wallets) = open.pop() {
            if self.is_stopped() {
                break;
            }
            match self.aggregate(question, &wallets).await {
                Ok(mut answers) => {
                    let first_failed = answers.iter().position(|(_, answer)| answer.is_err());
                    let mut behind = answers.split_off(first_failed.unwrap_or(answers.len()));
                    let none_read = answers.is_empty() && !behind.is_empty();
                    done.extend(answers);
                    let none_answered = behind.iter().all(|(_, answer)| answer.is_err());
                    if none_read
                        && none_answered
                        && let Err(error) = self.require_sane().await
                    {
                        return (done, Some(error));
                    }
                    if wallets.len() == 1 {
                        done.extend(behind);
                        continue;
                    }
                    // A sub-call that burns its gas fails its neighbours too, and a contract that is left
                    // with little may answer what it would not otherwise. So nothing behind a failure is
                    // believed, nor called unreadable, before it was read again: first, or alone.
                    behind.sort_by_key(|(_, answer)| answer.is_err());
                    let again: Vec<_> = behind.into_iter().map(|(wallet, _)| wallet).collect();
                    match none_read {
                        true => open.extend(halves(again)),
                        false if again.is_empty() => {}
                        false => open.push(again),
                    }
                }
                Err(error) => {
                    let limit = question.limit().filter(|_| wallets.len() == size);
                    match self.blame(error, &wallets, limit).await {
                        Err(error) => return (done, Some(error)),
                        Ok(reason) if wallets.len() == 1 => done.push((wallets[0], Err(reason))),
                        Ok(_) => open.extend(halves(wallets)),
                    }
                }
            }
        }
        (done, None)
    }

    /// One part of one wallet's total, in wei, by an `eth_call` of its own; or why it is missing.
    pub(super) async fn read_part(
        &self,
        name: &str,
        call: Call,
        wallet: Wallet,
    ) -> Result<Result<U256, String>, ReadError> {
        match self.call(false, call, Ok).await {
            Ok((bytes, _)) => Ok(word(&bytes).map_err(|why| format!("{name} {why}"))),
            Err(error) => {
                let reason = self.blame(error, &[wallet], None).await?;
                Ok(Err(format!("{name} failed: {reason}")))
            }
        }
    }

    /// One `aggregate3` for these wallets.
    async fn aggregate<Q: Question>(
        &self,
        question: &Q,
        wallets: &[Wallet],
    ) -> Result<Answers<Q::Answer>, RequestError> {
        let call = Call {
            to: MULTICALL3,
            data: question.encode(wallets),
            overrides: None,
            returned: None,
        };
        let decode = |bytes: Bytes| question.decode(wallets, &bytes);
        let (answers, endpoint) = self.call(wallets.len() > 1, call, decode).await?;
        if let Some(limit) = question.limit() {
            endpoint.limit(limit, |search| search.succeeded(wallets.len()));
        }
        Ok(answers)
    }

    /// One `eth_call`. Returns also which endpoint answered.
    pub(super) async fn call<T: Send>(
        &self,
        can_split: bool,
        call: Call,
        read: impl Fn(Bytes) -> Result<T, String> + Sync,
    ) -> Result<(T, &'a Endpoint), RequestError> {
        self.caller.client.eth_call(&self.permit, can_split, call, self.block, read).await
    }

    /// What the node said of a request that failed, where fewer wallets may succeed or one wallet is the cause;
    /// the error itself where the node is. With `limit`, the next chunks will be smaller.
    pub(super) async fn blame(
        &self,
        error: RequestError,
        wallets: &[Wallet],
        limit: Option<Limit>,
    ) -> Result<String, ReadError> {
        let RequestError::Node(failure) = error else { return Err(error.into()) };
        let client = &self.caller.client;
        let smaller_may_do = failure.kind.is_odd_answer() || failure.kind.action() == Action::Split;
        // A gateway may cut off one call that takes too long, each time, and answer all others.
        let timed_out = failure.kind == ErrorKind::TimedOut && client.retries() > 0;
        let may_be_the_wallets = smaller_may_do || timed_out;
        let needs_canary = !smaller_may_do || wallets.len() == 1;
        let canary_sings = async || self.canary().await.is_ok_and(|(_, total)| total.is_ok());
        if !may_be_the_wallets || needs_canary && !canary_sings().await {
            return Err(failure.into());
        }
        if let Some(limit) = limit {
            let endpoint = client.endpoint(&failure.endpoint);
            endpoint.limit(limit, |search| search.too_large(wallets.len(), None));
        }
        if wallets.len() > 1 {
            info!(wallets = wallets.len(), "halving: {}", failure.message);
        }
        Ok(failure.message)
    }

    /// Reads a wallet that holds nothing: does the node work, and is the profile right?
    async fn canary(&self) -> Result<Reading, RequestError> {
        let canary = [Wallet::from(MULTICALL3)];
        let mut readings = self.aggregate(self.caller.totals.as_ref(), &canary).await?;
        Ok(readings.pop().expect("one reading for one wallet"))
    }

    /// Fails where no wallet at all has a total: then a part is the cause, and no wallet is.
    async fn require_sane(&self) -> Result<(), ReadError> {
        let (block, sane_at) = (self.block.number, &self.caller.sane_at);
        if sane_at.load(Relaxed) == block + 1 {
            return Ok(());
        }
        if let Err(reason) = self.canary().await?.1 {
            return Err(ReadError::Request(RequestError::Settings(format!(
                "no wallet has a total at block {block}, not even one that holds nothing: {reason}; \
                 check the profile and --block"
            ))));
        }
        sane_at.store(block + 1, Relaxed);
        Ok(())
    }
}

/// The second half and the first, so that from a stack the first comes first.
pub(super) fn halves(mut wallets: Vec<Wallet>) -> [Vec<Wallet>; 2] {
    let second = wallets.split_off(wallets.len() / 2);
    [second, wallets]
}
