//! Reads wallets' totals: chunks of `aggregate3`, several in flight, all at one block.
//!
//! What is too much for one call is halved, down to one wallet. A wallet is called
//! unreadable only when it fails alone and the node is well.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use alloy::primitives::{Address, Bytes, U64, U256};
use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::Semaphore;
use tracing::debug;

use super::{
    Action, BlockChoice, Class, Client, Failure, MULTICALL3,
    multicall::{Parts, word},
};
use crate::{
    profile::Profile,
    tally::{Reader, Reading, Stop, Wallet},
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
    client: Client,
    parts: Parts,
    settings: ReaderSettings,
    /// Holds a permit for each `eth_call` in flight, whichever page it is of.
    in_flight: Semaphore,
    stop: Stop,
}

/// What became of a chunk: its readings, and the error for those wallets that have none.
type ChunkRead = (Vec<Reading>, Option<anyhow::Error>);

impl MulticallReader {
    /// A reader of the totals that `profile` defines.
    pub fn new(client: Client, profile: &Profile, settings: ReaderSettings, stop: Stop) -> Self {
        let in_flight = Semaphore::new(settings.concurrency);
        Self { client, parts: Parts::of(profile), settings, in_flight, stop }
    }

    /// How many `eth_call`s were sent so far.
    pub fn calls(&self) -> u64 {
        self.client.calls()
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
        let mut parts = Vec::with_capacity(self.parts.names().len());
        for (name, (contract, data)) in self.parts.names().iter().zip(self.parts.calls(wallet)) {
            let part = match self.call(contract, data, block, Ok).await {
                Ok(bytes) => word(&bytes).map_err(|why| format!("{name} {why}")),
                Err(error) => match blame(&error) {
                    Some(reason) => Err(format!("{name} failed: {reason}")),
                    None => return Err(error),
                },
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
        to: Address,
        data: Bytes,
        block: u64,
        read: impl Fn(Bytes) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let _permit = self.in_flight.acquire().await?;
        self.client.eth_call(to, data, block, read).await
    }

    /// One `aggregate3` for these wallets.
    async fn aggregate(&self, wallets: &[Wallet], block: u64) -> anyhow::Result<Vec<Reading>> {
        let data = self.parts.encode(wallets);
        self.call(MULTICALL3, data, block, |bytes| self.parts.decode(wallets, &bytes)).await
    }

    /// Reads a chunk, halving what fails until each wallet is read or has failed alone.
    async fn read_chunk(&self, chunk: Vec<Wallet>, block: u64) -> ChunkRead {
        let mut done = Vec::with_capacity(chunk.len());
        let mut open = vec![chunk];
        while let Some(mut wallets) = open.pop() {
            if self.stop.is_asked() {
                break;
            }
            match self.aggregate(&wallets, block).await {
                Ok(readings) if wallets.len() == 1 => done.extend(readings),
                Ok(readings) => {
                    let (read, failed): (Vec<_>, Vec<_>) =
                        readings.into_iter().partition(|(_, total)| total.is_ok());
                    done.extend(read);
                    // A sub-call that burns its gas fails its neighbours too: none of them is
                    // called unreadable before it was read again in a smaller chunk.
                    let mut again: Vec<_> = failed.into_iter().map(|(wallet, _)| wallet).collect();
                    if again.len() == wallets.len() {
                        open.push(again.split_off(again.len() / 2));
                    }
                    if !again.is_empty() {
                        debug!(
                            failed = again.len(),
                            of = wallets.len(),
                            "reading again in smaller chunks"
                        );
                        open.push(again);
                    }
                }
                Err(error) => match blame(&error) {
                    None => return (done, Some(error)),
                    Some(reason) if wallets.len() > 1 => {
                        debug!(wallets = wallets.len(), "halving: {reason}");
                        open.push(wallets.split_off(wallets.len() / 2));
                        open.push(wallets);
                    }
                    Some(reason) => match self.canary(block).await {
                        Ok(()) => done.push((wallets[0], Err(reason.to_owned()))),
                        Err(_) => return (done, Some(error)),
                    },
                },
            }
        }
        (done, None)
    }

    /// Whether the node can run an `aggregate3` of nothing: if not, no wallet is to blame.
    async fn canary(&self, block: u64) -> anyhow::Result<()> {
        self.aggregate(&[], block).await.map(drop)
    }
}

/// What the node said, where the request is to blame and a smaller one may succeed.
fn blame(error: &anyhow::Error) -> Option<&str> {
    let failure = error.downcast_ref::<Failure>()?;
    let smaller_may_do = failure.class == Class::Unknown || failure.class.action() == Action::Split;
    smaller_may_do.then_some(&failure.message)
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
        let chunks: Vec<_> = wallets.chunks(self.settings.chunk).map(<[Wallet]>::to_vec).collect();
        // A node that failed one chunk for good is not asked for the next.
        let gave_up = Arc::new(AtomicBool::new(false));
        let read = move |chunk| {
            let gave_up = Arc::clone(&gave_up);
            async move {
                if gave_up.load(Relaxed) {
                    return (Vec::new(), None);
                }
                let (readings, error) = self.read_chunk(chunk, block).await;
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
