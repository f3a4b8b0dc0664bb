//! One chunk of wallets: by which calls it is read, and who is to blame when one fails.
//!
//! What is too much for one call is halved, down to one wallet. A wallet is called
//! unreadable only when it fails alone while the node is well and the profile right:
//! a canary, a wallet that holds nothing, tells. Whatever the packed reader has no total for is
//! read through Multicall3 before anything is said of it.

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering::Relaxed};

use alloy::primitives::{Address, Bytes, U256};
use anyhow::{Context, bail};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    Action, Class, Failure, MULTICALL3,
    block::At,
    call::Call,
    method::{Method, Packing},
    multicall::{Answers, Question, word},
    packed,
    reader::NodeReader,
};
use crate::tally::{Reading, Wallet};

/// What became of a chunk: its answers, and the error for those wallets that have none.
pub(super) type ChunkRead<T> = (Answers<T>, Option<anyhow::Error>);

/// The packed reader cannot be used with this node.
#[derive(Debug, Error)]
#[error("the packed reader does not work with this node: {0}; give --reader multicall3 or auto")]
struct Unfit(String);

/// What the packed reader gave: totals, and the wallets that it has none for.
#[derive(Default)]
struct Unpacked {
    totals: Vec<(Wallet, U256)>,
    left: Vec<Wallet>,
}

impl Unpacked {
    fn readings(self) -> Vec<Reading> {
        self.totals.into_iter().map(|(wallet, total)| (wallet, Ok(total))).collect()
    }
}

impl NodeReader {
    /// The totals of a chunk, by the method that it is the turn of.
    pub(super) async fn read_totals(
        &self,
        method: Method,
        wallets: Vec<Wallet>,
        block: At,
    ) -> ChunkRead<U256> {
        if method == Method::Multicall3 {
            return self.ask(&self.parts, wallets, block).await;
        }
        let mut unpacked = Unpacked::default();
        let error = self.read_packed(wallets.clone(), block, &mut unpacked).await.err();
        let is_untried = *self.packing() == Packing::Untried;
        match error {
            Some(error) if error.is::<Unfit>() && self.is_packing_optional() => {
                self.do_without_packing(&error);
                return self.read_through_multicall3(wallets, block).await;
            }
            None if is_untried && self.is_packing_optional() => {
                return self.compare(wallets, block, unpacked).await;
            }
            // What was read so far was not compared with anything.
            Some(error) if is_untried && self.is_packing_optional() => match is_refusal(&error) {
                true => return self.try_without_packing(wallets, block, error).await,
                false => return (Vec::new(), Some(error)),
            },
            Some(error) => return (unpacked.readings(), Some(error)),
            None if is_untried => *self.packing() = Packing::Trusted,
            None => {}
        }
        let left = std::mem::take(&mut unpacked.left);
        let mut readings = unpacked.readings();
        let (read, error) = self.read_through_multicall3(left, block).await;
        readings.extend(read);
        (readings, error)
    }

    /// Reads through Multicall3 what was read by the packed reader, and trusts that from now on if
    /// both are equal.
    async fn compare(
        &self,
        wallets: Vec<Wallet>,
        block: At,
        unpacked: Unpacked,
    ) -> ChunkRead<U256> {
        let count = wallets.len();
        let (readings, error) = self.read_through_multicall3(wallets, block).await;
        if error.is_some() || readings.len() < count {
            // Nothing was learnt.
            return (readings, error);
        }
        let packed: HashMap<_, _> = unpacked.totals.into_iter().collect();
        // A wallet that is marked is read through Multicall3 in any case; when all are, packing is no help.
        let differs = |(wallet, total): &&Reading| match packed.get(wallet) {
            Some(by_it) => total.as_ref() != Ok(by_it),
            None => packed.is_empty() && total.is_ok(),
        };
        match readings.iter().find(differs) {
            // Not one total could be compared.
            None if packed.is_empty() => {}
            None => {
                info!(wallets = count, "the packed reader gives what multicall3 gives");
                *self.packing() = Packing::Trusted;
            }
            Some((wallet, total)) => {
                let shown = |total: Option<&U256>| total.map_or("none".into(), U256::to_string);
                self.do_without_packing(
                    &Unfit(format!(
                        "the total of {wallet} is {} by it and {} through multicall3",
                        shown(packed.get(wallet)),
                        shown(total.as_ref().ok()),
                    ))
                    .into(),
                );
            }
        }
        (readings, error)
    }

    /// Reads through Multicall3 what the packed reader failed with; if that succeeds, it was the way
    /// of asking that failed.
    async fn try_without_packing(
        &self,
        wallets: Vec<Wallet>,
        block: At,
        error: anyhow::Error,
    ) -> ChunkRead<U256> {
        let count = wallets.len();
        let (readings, second) = self.read_through_multicall3(wallets, block).await;
        if second.is_none() && readings.len() == count {
            self.do_without_packing(&error);
            return (readings, None);
        }
        (readings, Some(error))
    }

    /// From now on all is read through Multicall3.
    fn do_without_packing(&self, why: &anyhow::Error) {
        let before = std::mem::replace(&mut *self.packing(), Packing::Off);
        if before != Packing::Off {
            let why = why.downcast_ref().map_or_else(|| why.to_string(), |Unfit(why)| why.clone());
            warn!(
                "totals are read through multicall3, as the packed reader does not work here: {why}"
            );
        }
    }

    /// Reads by the packed reader, halving what is too much.
    ///
    /// # Errors
    /// [`Unfit`] where the node does not take it, another when the node fails. What was read until
    /// then stands in `unpacked`.
    async fn read_packed(
        &self,
        chunk: Vec<Wallet>,
        block: At,
        unpacked: &mut Unpacked,
    ) -> anyhow::Result<()> {
        let size = chunk.len();
        let mut open = vec![chunk];
        // One wallet that fails alone before any was read may be to blame itself; two are not. A node that
        // was seen to work may have stopped to, or another one answers.
        let mut has_answered = *self.packing() == Packing::Trusted;
        let mut has_answered_now = false;
        let mut failed_alone = false;
        // One strange answer is put down to the moment.
        let mut may_be_strange = *self.packing() == Packing::Trusted;
        while let Some(wallets) = open.pop() {
            if self.stop.is_asked() {
                break;
            }
            let call = Call {
                to: packed::PROGRAM,
                data: packed::encode(&wallets),
                overrides: Some(Arc::clone(&self.overrides)),
            };
            let returned = self.call(self.client.retries(), call, block, Ok).await;
            match returned {
                Ok((returned, endpoint)) => {
                    let totals = match packed::decode(&wallets, block.number, &returned) {
                        Ok(totals) => totals,
                        Err(_) if may_be_strange => {
                            may_be_strange = false;
                            open.push(wallets);
                            continue;
                        }
                        Err(why) => bail!(Unfit(format!("{endpoint}: {why}"))),
                    };
                    self.with_sizes(endpoint, Method::Packed, |sizes| sizes.took(wallets.len()));
                    (has_answered, has_answered_now) = (true, true);
                    for (wallet, total) in totals {
                        match total {
                            Some(total) => unpacked.totals.push((wallet, total)),
                            None => unpacked.left.push(wallet),
                        }
                    }
                }
                Err(error) => {
                    let Some(failure) = error.downcast_ref::<Failure>() else { return Err(error) };
                    let is_strange = failure.class == Class::Unknown;
                    if is_strange && !has_answered {
                        bail!(Unfit(failure.message.clone()));
                    }
                    let is_open = !has_answered || is_strange && !has_answered_now;
                    let reason = self.blame(error, &wallets, Method::Packed, size, block).await?;
                    match wallets.len() {
                        1 if is_open && (failed_alone || size == 1) => bail!(Unfit(reason)),
                        1 => {
                            failed_alone = true;
                            unpacked.left.extend(wallets);
                        }
                        _ => open.extend(halves(wallets)),
                    }
                }
            }
        }
        Ok(())
    }

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
    async fn call<T>(
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
    async fn blame(
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

/// Whether the node answered, and may have meant the way of asking.
fn is_refusal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| {
        failure.cause.is_none() && matches!(failure.class, Class::Transport | Class::Refused)
    })
}

/// The second half and the first, so that from a stack the first comes first.
fn halves(mut wallets: Vec<Wallet>) -> [Vec<Wallet>; 2] {
    let second = wallets.split_off(wallets.len() / 2);
    [second, wallets]
}
