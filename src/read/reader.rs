//! Reads wallets' totals: takes them page by page, and asks for as many in one call, and in as many calls at once,
//! as suits the node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use alloy::primitives::{Address, B256};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::Mutex;

use super::{
    aggregate3::{Aggregator, Answers, List, Parts},
    auto::{Methods, Trial},
    calls::{Caller, Calls, ReadError},
    chunker::{Chunker, UnderWay},
    direct::{Direct, PartValues},
    method::{TotalsMethod, keep_unread},
    multicall::Multicall3,
    packed::Packed,
    pin::PinnedBlock,
    settings::ReaderSettings,
};
use crate::{
    profile::{Profile, View},
    rpc::{BlockChoice, BlockRef, Client, Endpoint, RequestError, SizeInUse},
    tally::{Chunk, NodeHint, Pages, Reader, Reading, RunError, Shutdown, Total, Wallet},
};

/// Bytes of JSON that all calls in flight may take, so that memory is bounded: three of the largest calls, so that two
/// cores of a node are busy while an answer is decoded.
const BYTES_IN_FLIGHT: usize = 18_000_000;
/// How long a block that is newer than one without state is waited for.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// How often a chunk continues at a newer block.
const RENEWALS: usize = 3;
/// Lists that are asked for in one call, at most: each may be long.
const LISTS_IN_CALL: usize = 200;

/// Reads totals from a node.
pub struct NodeReader {
    caller: Caller,
    methods: Methods,
    direct: Arc<Direct>,
    /// `None` if the chain has no Multicall3.
    aggregator: Option<Aggregator>,
    block: BlockChoice,
    pinned: PinnedBlock,
}

/// A chunk that is about to be read: from this endpoint, first.
struct Cut<'a> {
    endpoint: &'a Endpoint,
    calls: Calls<'a>,
    size: SizeInUse<'a>,
    trial: Option<Trial<'a>>,
}

impl NodeReader {
    /// A reader of the totals that `profile` defines; without Multicall3, by the packed reader only.
    pub fn new(
        client: Arc<Client>,
        profile: &Profile,
        settings: ReaderSettings,
        shutdown: Shutdown,
    ) -> Self {
        let ReaderSettings { block, chunk, method } = settings;
        let (parts, chain_id) = (Parts::of(profile), profile.chain_id);
        let aggregator = profile.multicall3.map(|address| Aggregator::new(address, chain_id));
        let totals = Arc::new(Multicall3::totals(parts.clone(), chunk));
        let direct = Arc::new(Direct::new(parts.clone()));
        let plain: Arc<dyn TotalsMethod> = match &aggregator {
            Some(aggregator) => Arc::new(Multicall3::new(aggregator.clone(), Arc::clone(&totals))),
            None => Arc::clone(&direct) as _,
        };
        let origin = aggregator.as_ref().map(|aggregator| Arc::clone(&aggregator.origin));
        let packed = Packed::new(&parts, chain_id, chunk, Arc::clone(&plain), origin);
        Self {
            caller: Caller::new(client, totals, aggregator.clone(), shutdown),
            methods: Methods { choice: method, plain, packed, trial: Mutex::default() },
            direct,
            aggregator,
            block,
            pinned: PinnedBlock::default(),
        }
    }

    /// Begins to check the endpoint that wallets will be read from, while something else is waited for.
    pub fn check_ahead(&self) {
        self.caller.client.check_ahead();
    }

    /// The table holds a total that was read at this block: an endpoint far behind it is passed over.
    pub fn has_stored(&self, block: Option<u64>) {
        self.caller.client.has_stored(block.unwrap_or_default());
    }

    /// Remembers what earlier runs found of the endpoints.
    pub fn take_hints(&self, hints: &[NodeHint]) {
        self.caller.client.take_hints(hints);
    }

    /// What was found of the endpoints, as far as it is worth to be remembered and not remembered yet.
    pub fn hints(&self) -> Vec<NodeHint> {
        self.caller.client.hints()
    }

    /// `eth_call`s sent so far.
    pub fn calls(&self) -> u64 {
        self.caller.client.counts().eth_calls
    }

    /// True once the limit on `eth_call`s was reached.
    pub fn is_spent(&self) -> bool {
        self.caller.client.is_spent()
    }

    /// The number of the block to read at, asked for now.
    ///
    /// # Errors
    /// When no endpoint can say.
    pub async fn pin(&self) -> Result<u64, RunError> {
        Ok(self.newest().await?)
    }

    /// Reads a wallet that holds nothing at this block: to find out before a long run whether a node has its state.
    ///
    /// # Errors
    /// When none has it, or the parts of a total cannot be read there.
    pub async fn probe(&self, block: BlockRef) -> Result<(), RunError> {
        Ok(self.caller.calls(block).await.require_sane().await?)
    }

    async fn newest(&self) -> Result<u64, RequestError> {
        self.caller.client.block_number(self.block).await
    }

    /// Reads these wallets through Multicall3 at `block`; on a chain without it, by the packed reader.
    ///
    /// # Errors
    /// When the node fails, or a shutdown came in between.
    pub async fn read_batched(
        &self,
        wallets: Vec<Wallet>,
        block: u64,
    ) -> Result<Vec<Reading>, RunError> {
        let count = wallets.len();
        let calls = self.caller.calls(block.into()).await;
        match self.methods.batched().read_all(&calls, wallets).await {
            (_, Some(error)) => Err(error.into()),
            (readings, None) if readings.len() < count => Err(RunError::stopped()),
            (readings, None) => Ok(readings),
        }
    }

    /// Reads each part of a wallet's total by an `eth_call` of its own, not through Multicall3. Parts whose total is not
    /// `expected` are read again, until the same are read twice.
    ///
    /// Returns name and wei of each part in the profile's order with their total, or why there is none.
    ///
    /// # Errors
    /// When the node fails.
    pub async fn read_parts(
        &self,
        wallet: Wallet,
        block: u64,
        expected: Option<&Total>,
    ) -> Result<Result<(PartValues, Total), String>, RunError> {
        let calls = self.caller.calls(block.into()).await;
        let parts = self.direct.parts(&calls, wallet, expected).await?;
        let total = self.direct.total_of(&parts);
        Ok(parts.and_then(|parts| Ok((parts, total?))))
    }

    /// The wallets that `view` lists for each of `owners` at `block`, or why it lists none.
    ///
    /// # Errors
    /// When the node fails, or a shutdown came in between.
    pub async fn lists(
        &self,
        view: &View,
        owners: &[Wallet],
        block: BlockRef,
    ) -> Result<Answers<Vec<Address>>, RunError> {
        let question = List(view.clone());
        let mut lists = Vec::with_capacity(owners.len());
        for chunk in owners.chunks(LISTS_IN_CALL) {
            let calls = self.caller.calls(block).await;
            let Some(aggregator) = &self.aggregator else {
                lists.extend(Direct::lists(&calls, &question, chunk).await?);
                continue;
            };
            let (answers, error) = calls.ask(aggregator, &question, chunk.to_vec()).await;
            lists.extend(answers);
            if let Some(error) = error {
                return Err(error.into());
            }
        }
        if lists.len() < owners.len() {
            return Err(RunError::stopped());
        }
        Ok(lists)
    }

    /// Waits until one more chunk may be in flight, and finds out how large it may be.
    async fn cut(&self, chunker: &mut Chunker<'_>) -> Cut<'_> {
        let client = &self.caller.client;
        let permit = client.permit(|| self.chunks_at_once()).await;
        let endpoint = self.methods.preferred(client);
        let limit = self.methods.of(endpoint).limit();
        let at_once = self.chunks_at_once().min(client.calls_at_once());
        let size = match endpoint.limit(limit, |search| search.enough_without_trying(at_once)) {
            Some(enough) if let Some(left) = chunker.left(enough).await => {
                endpoint.last_size(limit, left)
            }
            _ => endpoint.next_size(limit),
        };
        let trial = self.methods.begin_trial(endpoint, client);
        // The block is resolved once there are wallets.
        Cut { endpoint, calls: self.caller.with_permit(permit, 0.into()), size, trial }
    }

    /// How many chunks may be in flight now.
    fn chunks_at_once(&self) -> usize {
        let endpoint = self.methods.preferred(&self.caller.client);
        let method = self.methods.of(endpoint);
        let limit = method.limit();
        // Where the user limits calls, one finds out whether the reader works, at the price of one.
        if limit.at_most.is_some() && self.methods.is_trial(endpoint) {
            return 1;
        }
        let (at_once, largest) =
            endpoint.limit(limit, |search| (search.at_once(), search.largest()));
        let fit = BYTES_IN_FLIGHT / (largest * method.cost_of_wallet().json_bytes());
        at_once.min(fit).max(1)
    }

    /// Reads what `pages` gives in chunks, several at once: at `fixed`, or at the block that was chosen, resolved
    /// again from time to time.
    fn read_pages<'a>(&'a self, pages: Pages<'a>, fixed: Option<BlockRef>) -> BoxStream<'a, Chunk> {
        // After a chunk has failed, no further one is begun.
        let gave_up = Arc::new(AtomicBool::new(false));
        let state = (Chunker::new(pages), Arc::clone(&gave_up));
        let chunks = stream::unfold(state, move |(mut chunker, gave_up)| async move {
            loop {
                let cut = self.cut(&mut chunker).await;
                if gave_up.load(Relaxed) {
                    return None;
                }
                let wallets = chunker.take(cut.size.get()).await;
                let error = chunker.error();
                if !wallets.is_empty() || error.is_some() {
                    let under_way = chunker.begin();
                    return Some(((cut, wallets, error, under_way), (chunker, gave_up)));
                }
                drop(cut);
                if !chunker.has_more().await {
                    return None;
                }
            }
        });
        let read = chunks.map(move |(cut, wallets, error, under_way)| {
            let gave_up = Arc::clone(&gave_up);
            async move {
                let mut chunks = match wallets.is_empty() {
                    true => Vec::new(),
                    false => self.read_chunk(cut, wallets, fixed, &under_way).await,
                };
                if let Some(error) = error {
                    chunks.push(Chunk { error: Some(error), ..Chunk::default() });
                }
                gave_up.fetch_or(chunks.iter().any(|chunk| chunk.error.is_some()), Relaxed);
                stream::iter(chunks)
            }
        });
        // The permits limit how many are read at once.
        read.buffer_unordered(usize::MAX).flatten().boxed()
    }

    /// Reads one chunk at one block; where a node no longer has that block's state, the rest of it at a newer one. What
    /// turns out to be too much for a call is given back.
    async fn read_chunk(
        &self,
        Cut { endpoint, mut calls, size, mut trial }: Cut<'_>,
        mut wallets: Vec<Wallet>,
        fixed: Option<BlockRef>,
        under_way: &UnderWay,
    ) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut requested = wallets.len() as u64;
        let mut block = match fixed {
            Some(block) => block,
            None => match self.pinned.block(self.newest()).await {
                Ok(number) => number.into(),
                Err(error) => {
                    return vec![Chunk {
                        requested,
                        error: Some(error.into()),
                        ..Chunk::default()
                    }];
                }
            },
        };
        loop {
            calls = calls.at(block);
            let reading = self.methods.read(endpoint, &calls, wallets.clone(), trial.take());
            let (readings, error) = reading.await;
            let newer = match &error {
                Some(error) if chunks.len() < RENEWALS && fixed.is_none() => {
                    self.newer_than(block, &calls, error).await
                }
                _ => None,
            };
            let Some(newer) = newer else {
                if error.is_none() && !calls.is_stopped() {
                    keep_unread(&mut wallets, &readings);
                    requested -= wallets.len() as u64;
                    under_way.give_back(wallets);
                }
                let error = error.map(RunError::from);
                chunks.push(Chunk { block: block.number, requested, readings, error });
                drop(size);
                return chunks;
            };
            keep_unread(&mut wallets, &readings);
            let left = wallets.len() as u64;
            let requested_here = requested - left;
            chunks.push(Chunk {
                block: block.number,
                requested: requested_here,
                readings,
                error: None,
            });
            (requested, block) = (left, newer);
        }
    }

    /// A newer block to read at, if there is one, and the older one's state is gone: the node says so, or, whatever it
    /// says, it can be read from at the newer one.
    async fn newer_than(
        &self,
        block: BlockRef,
        calls: &Calls<'_>,
        error: &ReadError,
    ) -> Option<BlockRef> {
        if matches!(self.block, BlockChoice::Number(_)) || !error.may_be_of_request() {
            return None;
        }
        let mut pauses = PAUSES.into_iter();
        let newest = loop {
            self.pinned.expire(block.number).await;
            let newest = self.pinned.block(self.newest()).await.ok()?;
            if newest > block.number {
                break newest;
            }
            // The next one may be about to come.
            let pause = pauses.next().filter(|_| !calls.is_stopped())?;
            tokio::time::sleep(pause).await;
        };
        let newer = BlockRef::from(newest);
        (error.is_block_unavailable() || calls.is_well_at(newer).await).then_some(newer)
    }
}

impl Reader for NodeReader {
    fn read<'a>(&'a self, pages: Pages<'a>) -> BoxStream<'a, Chunk> {
        self.read_pages(pages, None)
    }

    fn read_block<'a>(&'a self, pages: Pages<'a>, number: u64, hash: B256) -> BoxStream<'a, Chunk> {
        self.read_pages(pages, Some(BlockRef { number, hash: Some(hash) }))
    }
}
