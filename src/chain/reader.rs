//! Reads wallets' totals: takes them page by page, and asks for as many in one call, and in as many
//! calls at once, as suits the node.
//!
//! By what is in `method`; how one chunk is read, in `totals` and `chunks`; how many wallets it is for, in
//! `sizes`; at which block, in `pin`.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use alloy::primitives::{Address, B256, U64, U256};
use anyhow::bail;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::{
    BlockChoice, Class, Client, Failure, MethodChoice, ReaderSettings,
    block::At,
    lanes::{Gate, Inside},
    method::{Method, Packing},
    multicall::{Answers, List, Parts},
    packed::{Overrides, Program},
    pin::Pin,
    sizes::{Size, Sizes},
    supply::Supply,
};
use crate::{
    profile::{Profile, View},
    tally::{Chunk, Pages, Reader, Reading, Stop, Stopped, Wallet},
};

/// Bytes of JSON that all calls under way may take, so that memory is bounded.
const BYTES_IN_FLIGHT: usize = 16_000_000;
/// How often a chunk goes on at a newer block.
const RENEWALS: usize = 3;
/// Lists that are asked for in one call, at most: each may be long.
const LISTS_IN_CALL: usize = 200;

/// Reads totals from a node.
pub struct NodeReader {
    pub(super) client: Arc<Client>,
    pub(super) parts: Parts,
    pub(super) overrides: Arc<Overrides>,
    settings: ReaderSettings,
    pin: Pin,
    /// Chunks that are under way.
    under_way: Gate,
    /// What each endpoint takes in one call, by either method.
    sizes: Mutex<HashMap<(String, Method), Sizes>>,
    packing: Mutex<Packing>,
    /// One more than the last block at which the parts were seen to give a total.
    pub(super) sane_at: AtomicU64,
    /// Whether nodes take a block's hash in an `eth_call`, as far as is known.
    pub(super) by_hash: AtomicBool,
    pub(super) stop: Stop,
}

/// Leave to read one chunk now: by this method, so many wallets.
pub(super) struct Turn<'a> {
    reader: &'a NodeReader,
    endpoint: String,
    pub(super) method: Method,
    size: Size,
    _inside: Inside<'a>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.reader.with_sizes(&self.endpoint, self.method, |sizes| sizes.over(self.size));
    }
}

/// At which block.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The one that was chosen, resolved anew from time to time.
    Chosen,
    /// This one.
    Fixed(At),
}

impl NodeReader {
    /// A reader of the totals that `profile` defines.
    pub fn new(
        client: Arc<Client>,
        profile: &Profile,
        settings: ReaderSettings,
        stop: Stop,
    ) -> Self {
        let parts = Parts::of(profile);
        let packing = match settings.method {
            MethodChoice::Multicall3 => Packing::Off,
            MethodChoice::Packed | MethodChoice::Auto => Packing::Untried,
        };
        Self {
            client,
            overrides: Arc::new(Program::of(&parts).overrides()),
            parts,
            settings,
            pin: Pin::default(),
            under_way: Gate::default(),
            sizes: Mutex::default(),
            packing: Mutex::new(packing),
            sane_at: AtomicU64::new(0),
            by_hash: AtomicBool::new(true),
            stop,
        }
    }

    /// How many `eth_call`s were sent so far.
    pub fn calls(&self) -> u64 {
        self.client.traffic().eth_calls
    }

    /// Whether there may be no more `eth_call`s, as the greatest number of them was reached.
    pub fn is_spent(&self) -> bool {
        self.client.is_spent()
    }

    /// The number of the block to read at, asked for now.
    ///
    /// # Errors
    /// When no endpoint can say.
    pub async fn pin(&self) -> anyhow::Result<u64> {
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

    /// Reads these wallets through Multicall3 at `block`.
    ///
    /// # Errors
    /// When the node fails, or a stop came in between.
    pub async fn read_batched(
        &self,
        wallets: Vec<Wallet>,
        block: u64,
    ) -> anyhow::Result<Vec<Reading>> {
        let count = wallets.len();
        match self.read_through_multicall3(wallets, block.into()).await {
            (_, Some(error)) => Err(error),
            (readings, None) if readings.len() < count => bail!(Stopped),
            (readings, None) => Ok(readings),
        }
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
            match self.read_part(name, contract, data, wallet, block).await? {
                Ok(part) => parts.push((name.clone(), part)),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(parts))
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
        for chunk in owners.chunks(LISTS_IN_CALL) {
            let (answers, error) = self.ask(&question, chunk.to_vec(), block).await;
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

    /// The block by its hash, unless that is not understood.
    fn at(&self, number: u64, hash: B256) -> At {
        At { number, hash: Some(hash).filter(|_| self.by_hash.load(Relaxed)) }
    }

    /// What is known of the sizes that an endpoint takes.
    pub(super) fn with_sizes<T>(
        &self,
        endpoint: &str,
        method: Method,
        work: impl FnOnce(&mut Sizes) -> T,
    ) -> T {
        let mut all = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Sizes::new(self.settings.chunk, method.ceiling(self.parts.views().len()));
        work(all.entry((endpoint.to_owned(), method)).or_insert_with(new))
    }

    pub(super) fn packing(&self) -> MutexGuard<'_, Packing> {
        self.packing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is another way where the packed reader cannot be used.
    pub(super) fn is_packing_optional(&self) -> bool {
        self.settings.method == MethodChoice::Auto
    }

    /// By which method the next chunk is read.
    fn method(&self) -> Method {
        if *self.packing() == Packing::Off { Method::Multicall3 } else { Method::Packed }
    }

    /// Waits until one more chunk may be under way.
    async fn turn(&self) -> Turn<'_> {
        let inside = self.under_way.enter(|| self.chunks_at_once()).await;
        let (endpoint, method) = (self.client.preferred().to_owned(), self.method());
        let size = self.with_sizes(&endpoint, method, Sizes::next);
        Turn { reader: self, endpoint, method, size, _inside: inside }
    }

    /// How many chunks may be under way now.
    fn chunks_at_once(&self) -> usize {
        let method = self.method();
        let (is_doubling, largest) = self.with_sizes(self.client.preferred(), method, |sizes| {
            (sizes.is_doubling(), sizes.largest())
        });
        // What is found out by one call would be found out by several at the price of several.
        if is_doubling || *self.packing() == Packing::Untried {
            return 1;
        }
        let bytes = largest * method.bytes(self.parts.views().len());
        (BYTES_IN_FLIGHT / bytes).clamp(1, self.client.open_lanes())
    }

    /// Reads what `pages` gives, in chunks, several at once.
    fn read_pages<'a>(&'a self, pages: Pages<'a>, place: Place) -> BoxStream<'a, Chunk> {
        let supply = Supply::new(pages);
        // A node that failed one chunk for good is not asked for the next.
        let gave_up = Arc::new(AtomicBool::new(false));
        let state = Some((supply, Arc::clone(&gave_up)));
        let chunks = stream::unfold(state, move |state| async move {
            let (mut supply, gave_up) = state?;
            let turn = self.turn().await;
            if gave_up.load(Relaxed) {
                return None;
            }
            let wallets = supply.take(turn.size.wallets).await;
            let error = supply.error.take();
            let is_over = wallets.is_empty() && error.is_none();
            let next = (!supply.is_over).then_some((supply, gave_up));
            (!is_over).then_some(((turn, wallets, error), next))
        });
        chunks
            .map(move |(turn, wallets, error)| {
                let gave_up = Arc::clone(&gave_up);
                async move {
                    let mut chunks = match wallets.is_empty() {
                        true => Vec::new(),
                        false => self.read_chunk(turn, wallets, place).await,
                    };
                    if let Some(error) = error {
                        chunks.push(Chunk { error: Some(error), ..Chunk::default() });
                    }
                    gave_up.fetch_or(chunks.iter().any(|chunk| chunk.error.is_some()), Relaxed);
                    stream::iter(chunks)
                }
            })
            .buffer_unordered(self.settings.concurrency.get())
            .flatten()
            .boxed()
    }

    /// Reads one chunk, at one block; where a node has forgotten that, the rest of it at a newer one.
    async fn read_chunk(
        &self,
        turn: Turn<'_>,
        mut wallets: Vec<Wallet>,
        place: Place,
    ) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut requested = wallets.len() as u64;
        let mut at = match place {
            Place::Fixed(at) => at,
            Place::Chosen => match self.pin.block(self.pin()).await {
                Ok(block) => block.into(),
                Err(error) => {
                    return vec![Chunk { requested, error: Some(error), ..Chunk::default() }];
                }
            },
        };
        loop {
            let (readings, error) = self.read_totals(turn.method, wallets.clone(), at).await;
            let mut chunk = Chunk { block: at.number, requested, readings, error };
            let newer = match &chunk.error {
                Some(error) if chunks.len() < RENEWALS && is_behind(error) => {
                    self.newer_than(place, at).await
                }
                _ => None,
            };
            let Some(newer) = newer else {
                chunks.push(chunk);
                return chunks;
            };
            let read: HashSet<_> = chunk.readings.iter().map(|(wallet, _)| *wallet).collect();
            wallets.retain(|wallet| !read.contains(wallet));
            requested = wallets.len() as u64;
            chunk.requested -= requested;
            chunk.error = None;
            chunks.push(chunk);
            at = newer;
        }
    }

    /// A newer block to read at, if there is one and it may be used.
    async fn newer_than(&self, place: Place, at: At) -> Option<At> {
        if matches!(place, Place::Fixed(_)) || matches!(self.settings.block, BlockChoice::Number(_))
        {
            return None;
        }
        self.pin.expire(at.number).await;
        let block = self.pin.block(self.pin()).await.ok()?;
        (block > at.number).then(|| block.into())
    }
}

/// Whether the node does not have the block, or no longer its state.
fn is_behind(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.class == Class::Behind)
}

impl Reader for NodeReader {
    fn read<'a>(&'a self, pages: Pages<'a>) -> BoxStream<'a, Chunk> {
        self.read_pages(pages, Place::Chosen)
    }

    fn read_block<'a>(&'a self, pages: Pages<'a>, block: u64, hash: B256) -> BoxStream<'a, Chunk> {
        self.read_pages(pages, Place::Fixed(self.at(block, hash)))
    }
}
