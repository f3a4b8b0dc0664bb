//! Reads wallets' totals: chunks of `aggregate3`, several in flight, all at one block.
//!
//! What is too much for one call is halved, down to one wallet. A wallet is called
//! unreadable only when it fails alone while the node is well and the profile right:
//! a canary, a wallet that holds nothing, tells.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use alloy::primitives::{Address, B256, Bytes, U64, U256};
use anyhow::{Context, bail};
use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::{
    Action, BlockChoice, Class, Client, Failure, MULTICALL3,
    block::At,
    multicall::{Answers, List, Parts, Question, word},
};
use crate::{
    profile::{Profile, View},
    tally::{Reader, Reading, Stop, Stopped, Wallet},
};

/// How wallets are read.
#[derive(Clone, Copy, Debug)]
pub struct ReaderSettings {
    /// The block to read at.
    pub block: BlockChoice,
    /// Wallets in one `eth_call`, at most; at least 1.
    pub chunk: usize,
    /// `eth_call`s in flight, at most; at least 1.
    pub concurrency: usize,
}

/// Reads totals through Multicall3.
pub struct MulticallReader {
    client: Arc<Client>,
    parts: Parts,
    settings: ReaderSettings,
    /// One more than the last block at which the parts were seen to give a total.
    sane_at: AtomicU64,
    /// Holds a permit for each `eth_call` in flight, whichever page it is of.
    in_flight: Semaphore,
    /// Whether nodes take a block's hash in an `eth_call`, as far as is known.
    by_hash: AtomicBool,
    stop: Stop,
}

/// What became of a chunk: its answers, and the error for those wallets that have none.
type ChunkRead<T> = (Answers<T>, Option<anyhow::Error>);

impl MulticallReader {
    /// A reader of the totals that `profile` defines.
    pub fn new(
        client: Arc<Client>,
        profile: &Profile,
        settings: ReaderSettings,
        stop: Stop,
    ) -> Self {
        let in_flight = Semaphore::new(settings.concurrency);
        Self {
            client,
            parts: Parts::of(profile),
            settings,
            sane_at: AtomicU64::new(0),
            in_flight,
            by_hash: AtomicBool::new(true),
            stop,
        }
    }

    /// How many `eth_call`s were sent so far.
    pub fn calls(&self) -> u64 {
        self.client.traffic().eth_calls
    }

    /// Reads each part of a wallet's total by an `eth_call` of its own, not through Multicall3.
    ///
    /// Returns name and wei of each part in the profile's order, or why a part is missing.
    ///
    /// # Errors
    /// When the node fails.
    pub async fn read_parts(
        &self,
        wallet: Wallet,
        block: u64,
    ) -> anyhow::Result<Result<Vec<(String, U256)>, String>> {
        let block = At::from(block);
        let mut parts = Vec::with_capacity(self.parts.names().len());
        for (name, (contract, data)) in self.parts.names().iter().zip(self.parts.calls(wallet)) {
            let part = match self.call(self.client.retries(), contract, data, block, Ok).await {
                Ok(bytes) => word(&bytes).map_err(|why| format!("{name} {why}")),
                Err(error) => {
                    let reason = self.blame(error, &[wallet], block).await?;
                    Err(format!("{name} failed: {reason}"))
                }
            };
            match part {
                Ok(part) => parts.push((name.clone(), part)),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(parts))
    }

    /// One `eth_call`, not more than so many at once.
    async fn call<T>(
        &self,
        retries: u32,
        to: Address,
        data: Bytes,
        block: At,
        read: impl Fn(Bytes) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let _permit = self.in_flight.acquire().await?;
        let called = self.client.eth_call(retries, to, data.clone(), block, &read).await;
        let is_strange = |error: &anyhow::Error| {
            error.downcast_ref::<Failure>().is_some_and(|failure| failure.class == Class::Unknown)
        };
        match called {
            Err(error) if block.hash.is_some() && is_strange(&error) => {
                let by_number = At::from(block.number);
                let answer = self.client.eth_call(retries, to, data, by_number, &read).await?;
                if self.by_hash.swap(false, Relaxed) {
                    warn!("totals are read by block number, as hashes are not understood: {error}");
                }
                Ok(answer)
            }
            called => called,
        }
    }

    /// The block by its hash, unless that is not understood.
    fn at(&self, number: u64, hash: B256) -> At {
        At { number, hash: Some(hash).filter(|_| self.by_hash.load(Relaxed)) }
    }

    /// The wallets that `view` lists for each of `owners` at `block`, or why it lists none.
    ///
    /// # Errors
    /// When the node fails, or a stop came in between.
    pub async fn lists(
        &self,
        view: &View,
        owners: &[Wallet],
        block: u64,
        hash: B256,
    ) -> anyhow::Result<Answers<Vec<Address>>> {
        let block = self.at(block, hash);
        let question = List(view.clone());
        let mut lists = Vec::with_capacity(owners.len());
        for chunk in owners.chunks(self.settings.chunk) {
            let (answers, error) = self.read_chunk(&question, chunk.to_vec(), block).await;
            lists.extend(answers);
            if let Some(error) = error {
                return Err(error);
            }
        }
        if lists.len() < owners.len() {
            bail!(Stopped);
        }
        Ok(lists)
    }

    /// One `aggregate3` for these wallets.
    async fn aggregate<Q: Question>(
        &self,
        question: &Q,
        retries: u32,
        wallets: &[Wallet],
        block: At,
    ) -> anyhow::Result<Answers<Q::Answer>> {
        let data = question.encode(wallets);
        self.call(retries, MULTICALL3, data, block, |bytes| question.decode(wallets, &bytes)).await
    }

    /// Reads a chunk, halving what fails until each wallet is read or has failed alone.
    async fn read_chunk<Q: Question>(
        &self,
        question: &Q,
        chunk: Vec<Wallet>,
        block: At,
    ) -> ChunkRead<Q::Answer> {
        let mut done = Vec::with_capacity(chunk.len());
        let mut open = vec![chunk];
        while let Some(wallets) = open.pop() {
            if self.stop.is_asked() {
                break;
            }
            match self.aggregate(question, self.client.retries(), &wallets, block).await {
                Ok(answers) => {
                    let (read, failed): (Vec<_>, Vec<_>) =
                        answers.into_iter().partition(|(_, answer)| answer.is_ok());
                    let none_read = read.is_empty() && !failed.is_empty();
                    done.extend(read);
                    if none_read && let Err(error) = self.require_sane(block).await {
                        return (done, Some(error));
                    }
                    if wallets.len() == 1 {
                        done.extend(failed);
                        continue;
                    }
                    // A sub-call that burns its gas fails its neighbours too: none of them is
                    // called unreadable before it was read again in a smaller chunk.
                    let again: Vec<_> = failed.into_iter().map(|(wallet, _)| wallet).collect();
                    match none_read {
                        true => open.extend(halves(again)),
                        false if again.is_empty() => {}
                        false => open.push(again),
                    }
                }
                Err(error) => match self.blame(error, &wallets, block).await {
                    Err(error) => return (done, Some(error)),
                    Ok(reason) if wallets.len() == 1 => done.push((wallets[0], Err(reason))),
                    Ok(reason) => {
                        info!(wallets = wallets.len(), "halving: {reason}");
                        open.extend(halves(wallets));
                    }
                },
            }
        }
        (done, None)
    }

    /// What the node said of a request that failed, where fewer wallets may succeed or one wallet
    /// is to blame; the error itself where the node is.
    async fn blame(
        &self,
        error: anyhow::Error,
        wallets: &[Wallet],
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
fn halves(mut wallets: Vec<Wallet>) -> [Vec<Wallet>; 2] {
    let second = wallets.split_off(wallets.len() / 2);
    [second, wallets]
}

#[async_trait]
impl Reader for MulticallReader {
    async fn pin(&self) -> anyhow::Result<u64> {
        let number = |number: U64| Ok(number.to::<u64>());
        match self.settings.block {
            BlockChoice::Number(number) => Ok(number),
            BlockChoice::Latest => self.client.request("eth_blockNumber", (), number).await,
            tag @ (BlockChoice::Safe | BlockChoice::Finalized) => {
                #[derive(Debug, serde::Deserialize)]
                struct Header {
                    number: U64,
                }
                let header = |header: Option<Header>| match header {
                    Some(header) => Ok(header.number.to::<u64>()),
                    None => Err(format!("it has no {tag} block yet")),
                };
                self.client.request("eth_getBlockByNumber", (tag.to_string(), false), header).await
            }
        }
    }

    fn read(
        &self,
        wallets: Vec<Wallet>,
        block: u64,
    ) -> BoxStream<'_, anyhow::Result<Vec<Reading>>> {
        self.read_at(wallets, block.into())
    }

    fn read_block(
        &self,
        wallets: Vec<Wallet>,
        block: u64,
        hash: B256,
    ) -> BoxStream<'_, anyhow::Result<Vec<Reading>>> {
        self.read_at(wallets, self.at(block, hash))
    }
}

impl MulticallReader {
    /// Chunks, several in flight, all at one block.
    fn read_at(
        &self,
        wallets: Vec<Wallet>,
        block: At,
    ) -> BoxStream<'_, anyhow::Result<Vec<Reading>>> {
        let chunks: Vec<_> = wallets.chunks(self.settings.chunk).map(<[Wallet]>::to_vec).collect();
        // A node that failed one chunk for good is not asked for the next.
        let gave_up = Arc::new(AtomicBool::new(false));
        let read = move |chunk| {
            let gave_up = Arc::clone(&gave_up);
            async move {
                if gave_up.load(Relaxed) {
                    return (Vec::new(), None);
                }
                let (readings, error) = self.read_chunk(&self.parts, chunk, block).await;
                gave_up.fetch_or(error.is_some(), Relaxed);
                (readings, error)
            }
        };
        stream::iter(chunks)
            .map(read)
            .buffer_unordered(self.settings.concurrency)
            .flat_map(|(readings, error)| {
                stream::iter([Ok(readings)].into_iter().chain(error.map(Err)))
            })
            .boxed()
    }
}
