//! One chunk of wallets through Multicall3: by which calls it is read, and who is to blame when one fails.
//!
//! What is too much for one call is halved, down to one wallet. A wallet is called
//! unreadable only when it fails alone while the node is well and the profile right:
//! a canary, a wallet that holds nothing, tells.

use std::sync::atomic::Ordering::Relaxed;

use alloy::primitives::{Address, Bytes, U256};
use anyhow::{Context, bail};
use tracing::{info, warn};

use super::{
    Action, Class, Failure, MULTICALL3,
    block::At,
    call::Call,
    method::Method,
    multicall::{Answers, Question, word},
    reader::NodeReader,
};
use crate::tally::{Reading, Wallet};

/// What became of a chunk: its answers, and the error for those wallets that have none.
pub(super) type ChunkRead<T> = (Answers<T>, Option<anyhow::Error>);

impl NodeReader {
    /// Reads through Multicall3, in as many calls as it takes.
    pub(super) async fn read_through_multicall3(
        &self,
        wallets: Vec<Wallet>,
        block: At,
    ) -> ChunkRead<U256> {
        let mut readings = Vec::with_capacity(wallets.len());
        let mut left = wallets.as_slice();
        while !left.is_empty() && !self.stop.is_asked() {
            let endpoint = self.client.preferred();
            let size = self.with_sizes(endpoint, Method::Multicall3, |sizes| sizes.next());
            let (now, later) = left.split_at(size.wallets.min(left.len()));
            let (read, error) = self.ask(&self.parts, now.to_vec(), block).await;
            self.with_sizes(endpoint, Method::Multicall3, |sizes| sizes.over(size));
            readings.extend(read);
            if error.is_some() {
                return (readings, error);
            }
            left = later;
        }
        (readings, None)
    }

    /// Asks through Multicall3, halving what fails until each wallet is read or has failed alone.
    pub(super) async fn ask<Q: Question>(
        &self,
        question: &Q,
        chunk: Vec<Wallet>,
        block: At,
    ) -> ChunkRead<Q::Answer> {
        let size = chunk.len();
        let mut done = Vec::with_capacity(size);
        let mut open = vec![chunk];
        while let Some(wallets) = open.pop() {
            if self.stop.is_asked() {
                break;
            }
            match self.aggregate(question, self.client.retries(), &wallets, block).await {
                Ok(mut answers) => {
                    let first_failed = answers.iter().position(|(_, answer)| answer.is_err());
                    let mut behind = answers.split_off(first_failed.unwrap_or(answers.len()));
                    let none_read = answers.is_empty() && !behind.is_empty();
                    done.extend(answers);
                    let none_answered = behind.iter().all(|(_, answer)| answer.is_err());
                    if none_read
                        && none_answered
                        && let Err(error) = self.require_sane(block).await
                    {
                        return (done, Some(error));
                    }
                    if wallets.len() == 1 {
                        done.extend(behind);
                        continue;
                    }
                    // A sub-call that burns its gas fails its neighbours too, and a contract that is left
                    // with little may answer what it would not otherwise. So nothing behind a failure is
                    // taken for true, nor called unreadable, before it was read again: first, or alone.
                    behind.sort_by_key(|(_, answer)| answer.is_err());
                    let again: Vec<_> = behind.into_iter().map(|(wallet, _)| wallet).collect();
                    match none_read {
                        true => open.extend(halves(again)),
                        false if again.is_empty() => {}
                        false => open.push(again),
                    }
                }
                Err(error) => {
                    let size = if Q::IS_TOTAL { size } else { 0 };
                    let blamed = self.blame(error, &wallets, Method::Multicall3, size, block).await;
                    match blamed {
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
        contract: Address,
        data: Bytes,
        wallet: Wallet,
        block: At,
    ) -> anyhow::Result<Result<U256, String>> {
        let call = Call { to: contract, data, overrides: None };
        match self.call(self.client.retries(), call, block, Ok).await {
            Ok((bytes, _)) => Ok(word(&bytes).map_err(|why| format!("{name} {why}"))),
            Err(error) => {
                let blamed = self.blame(error, &[wallet], Method::Multicall3, 1, block).await?;
                Ok(Err(format!("{name} failed: {blamed}")))
            }
        }
    }

    /// One `aggregate3` for these wallets.
    async fn aggregate<Q: Question>(
        &self,
        question: &Q,
        retries: u32,
        wallets: &[Wallet],
        block: At,
    ) -> anyhow::Result<Answers<Q::Answer>> {
        let call = Call { to: MULTICALL3, data: question.encode(wallets), overrides: None };
        let decode = |bytes: Bytes| question.decode(wallets, &bytes);
        let (answers, endpoint) = self.call(retries, call, block, decode).await?;
        if Q::IS_TOTAL {
            self.with_sizes(endpoint, Method::Multicall3, |sizes| sizes.took(wallets.len()));
        }
        Ok(answers)
    }

    /// One `eth_call`, by the block's number where its hash is not understood. Returns also which
    /// endpoint answered.
    pub(super) async fn call<T>(
        &self,
        retries: u32,
        call: Call,
        block: At,
        read: impl Fn(Bytes) -> Result<T, String>,
    ) -> anyhow::Result<(T, &str)> {
        let called = self.client.eth_call(retries, call.clone(), block, &read).await;
        let is_strange = |error: &anyhow::Error| {
            error.downcast_ref::<Failure>().is_some_and(|failure| failure.class == Class::Unknown)
        };
        match called {
            Err(error) if block.hash.is_some() && is_strange(&error) => {
                let by_number = At::from(block.number);
                let answer = self.client.eth_call(retries, call, by_number, &read).await?;
                if self.by_hash.swap(false, Relaxed) {
                    warn!("totals are read by block number, as hashes are not understood: {error}");
                }
                Ok(answer)
            }
            called => called,
        }
    }

    /// What the node said of a request that failed, where fewer wallets may succeed or one wallet
    /// is to blame; the error itself where the node is. `size` is that of the whole chunk, if it counts:
    /// if all of it failed, the next one will be smaller.
    pub(super) async fn blame(
        &self,
        error: anyhow::Error,
        wallets: &[Wallet],
        method: Method,
        size: usize,
        block: At,
    ) -> anyhow::Result<String> {
        let Some(failure) = error.downcast_ref::<Failure>() else { return Err(error) };
        let smaller_may_do =
            failure.class == Class::Unknown || failure.class.action() == Action::Split;
        // A gateway may cut off one call that takes too long, each time, and answer all others.
        let cut_off = failure.class == Class::CutOff && self.client.retries() > 0;
        let may_be_the_wallets = smaller_may_do || cut_off;
        let needs_proof = !smaller_may_do || wallets.len() == 1;
        let proven = async || self.canary(block).await.is_ok_and(|(_, total)| total.is_ok());
        if !may_be_the_wallets || needs_proof && !proven().await {
            return Err(error);
        }
        if wallets.len() == size {
            self.with_sizes(&failure.endpoint, method, |sizes| sizes.refused(size));
        }
        if wallets.len() > 1 {
            info!(wallets = wallets.len(), "halving: {}", failure.message);
        }
        Ok(failure.message.clone())
    }

    /// Reads a wallet that holds nothing, once and without retries: is the node well, and the profile right?
    async fn canary(&self, block: At) -> anyhow::Result<Reading> {
        let canary = [Wallet::from(MULTICALL3)];
        let readings = self.aggregate(&self.parts, 0, &canary, block).await?;
        readings.into_iter().next().context("the canary gave no reading")
    }

    /// Fails where no wallet at all has a total: then a part is at fault, and no wallet is.
    async fn require_sane(&self, block: At) -> anyhow::Result<()> {
        if self.sane_at.load(Relaxed) == block.number + 1 {
            return Ok(());
        }
        match self.canary(block).await?.1 {
            Ok(_) => self.sane_at.store(block.number + 1, Relaxed),
            Err(reason) => bail!(
                "no wallet has a total at block {}, not even one that holds nothing: {reason}; \
                 check the profile and --block",
                block.number
            ),
        }
        Ok(())
    }
}

/// The second half and the first, so that from a stack the first comes first.
pub(super) fn halves(mut wallets: Vec<Wallet>) -> [Vec<Wallet>; 2] {
    let second = wallets.split_off(wallets.len() / 2);
    [second, wallets]
}
