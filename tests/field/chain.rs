//! The simulated chain: blocks on forks, wallets' parts of a total at each, logs, and reorganisations.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use alloy::primitives::{Address, B256, Bloom, BloomInput, U256, keccak256};
use rand::{RngExt, rngs::StdRng};

use crate::contracts::Contracts;

/// A log, without its place in a block.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) address: Address,
    pub(crate) topics: Vec<B256>,
    /// Wallets whose totals it changes, for those that announce it.
    pub(crate) wallets: Vec<usize>,
}

/// A block with the state after it.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// The id of its chain.
    pub(crate) chain: u64,
    pub(crate) number: u64,
    pub(crate) hash: B256,
    /// The place of the block before it; a block of number 0 names itself.
    pub(crate) parent: usize,
    pub(crate) timestamp: u64,
    /// When the first node had it.
    pub(crate) at: Duration,
    /// The parts of all wallets, wallet by wallet.
    pub(crate) parts: Arc<Vec<u64>>,
    pub(crate) logs: Arc<Vec<Log>>,
    pub(crate) bloom: Bloom,
}

/// How busy blocks are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activity {
    /// Changes in a block, at most.
    pub(crate) changes: u32,
    /// In so many of a hundred blocks nothing of ours happens.
    pub(crate) idle: u32,
    /// In so many of a hundred blocks the same contract, or another one's event of the same form, logs something.
    pub(crate) noise: u32,
}

/// Blocks on every fork that there ever was.
pub(crate) struct Chain {
    pub(crate) blocks: Vec<Block>,
    by_hash: HashMap<B256, usize>,
    /// Which block was the head from when on.
    heads: Vec<(Duration, usize)>,
    seed: u64,
    random: StdRng,
    activity: Activity,
    pub(crate) contracts: Contracts,
    /// Seconds since 1970 at the beginning.
    epoch: u64,
    block_time: Duration,
}

impl Chain {
    /// A chain that has grown by `history` blocks so far.
    pub(crate) fn new(
        seed: u64,
        mut random: StdRng,
        contracts: Contracts,
        activity: Activity,
        epoch: u64,
        block_time: Duration,
        history: u64,
    ) -> Self {
        let parts = contracts.reads.len() * contracts.wallets.len();
        let first = (0..parts).map(|_| random.random_range(0..1_000_000)).collect();
        let mut chain = Self {
            blocks: Vec::new(),
            by_hash: HashMap::new(),
            heads: Vec::new(),
            seed,
            random,
            activity,
            contracts,
            epoch,
            block_time,
        };
        let age = chain.block_time.as_secs_f64() * history as f64;
        let genesis = Block {
            chain: chain.contracts.chain_id,
            number: 0,
            hash: chain.next_hash(),
            parent: 0,
            timestamp: epoch - age as u64,
            at: Duration::ZERO,
            parts: Arc::new(first),
            logs: Arc::default(),
            bloom: Bloom::ZERO,
        };
        chain.by_hash.insert(genesis.hash, 0);
        chain.blocks.push(genesis);
        let mut head = 0;
        for _ in 0..history {
            head = chain.make(head, Duration::ZERO);
        }
        chain.heads.push((Duration::ZERO, head));
        chain
    }

    fn next_hash(&self) -> B256 {
        let mut bytes = self.seed.to_be_bytes().to_vec();
        bytes.extend((self.blocks.len() as u64).to_be_bytes());
        keccak256(bytes)
    }

    /// Adds a block on top of another one.
    fn make(&mut self, parent: usize, at: Duration) -> usize {
        let before = &self.blocks[parent];
        let number = before.number + 1;
        let now = self.epoch + at.as_secs();
        let timestamp = match at.is_zero() {
            true => before.timestamp + self.block_time.as_secs(),
            false => now.max(before.timestamp),
        };
        let mut parts = Arc::clone(&before.parts);
        let mut logs = Vec::new();
        if self.random.random_range(0..100) >= self.activity.idle {
            for _ in 0..self.random.random_range(0..=self.activity.changes) {
                let log = self
                    .contracts
                    .change(&mut self.random, Arc::make_mut(&mut parts).as_mut_slice());
                logs.push(log);
            }
        }
        if self.random.random_range(0..100) < self.activity.noise {
            logs.push(self.contracts.noise(&mut self.random));
        }
        let mut bloom = Bloom::ZERO;
        for log in &logs {
            bloom.accrue(BloomInput::Raw(log.address.as_slice()));
            log.topics.iter().for_each(|topic| bloom.accrue(BloomInput::Raw(topic.as_slice())));
        }
        let (chain, hash) = (self.contracts.chain_id, self.next_hash());
        let logs = Arc::new(logs);
        self.blocks.push(Block { chain, number, hash, parent, timestamp, at, parts, logs, bloom });
        self.by_hash.insert(hash, self.blocks.len() - 1);
        self.blocks.len() - 1
    }

    /// Makes the next block.
    pub(crate) fn mine(&mut self, at: Duration) -> usize {
        let head = self.make(self.head(), at);
        self.heads.push((at, head));
        head
    }

    /// Replaces the newest `depth` blocks by `depth` and `more` others.
    pub(crate) fn reorganise(&mut self, at: Duration, depth: u64, more: u64) -> usize {
        let head = self.head();
        let fork = self.blocks[head].number.saturating_sub(depth).max(1);
        let mut at_fork = self.ancestor(head, fork).expect("an ancestor");
        let top = self.blocks[head].number + more;
        while self.blocks[at_fork].number < top {
            at_fork = self.make(at_fork, at);
        }
        self.heads.push((at, at_fork));
        at_fork
    }

    /// The head now.
    pub(crate) fn head(&self) -> usize {
        self.heads.last().expect("a head").1
    }

    /// The head at that time.
    pub(crate) fn head_at(&self, time: Duration) -> usize {
        let later = self.heads.partition_point(|(at, _)| *at <= time);
        self.heads[later.saturating_sub(1)].1
    }

    /// The block with this hash.
    pub(crate) fn find(&self, hash: &B256) -> Option<usize> {
        self.by_hash.get(hash).copied()
    }

    /// The block of this number below `head`.
    pub(crate) fn ancestor(&self, head: usize, number: u64) -> Option<usize> {
        let mut block = head;
        if self.blocks[block].number < number {
            return None;
        }
        while self.blocks[block].number > number {
            block = self.blocks[block].parent;
        }
        Some(block)
    }

    /// Every block of this number that was ever on the chain.
    pub(crate) fn ever(&self, number: u64) -> BTreeSet<usize> {
        self.heads.iter().filter_map(|(_, head)| self.ancestor(*head, number)).collect()
    }

    /// The total of a wallet after this block.
    pub(crate) fn total(&self, block: usize, wallet: usize) -> U256 {
        let count = self.contracts.reads.len();
        let parts = &self.blocks[block].parts[wallet * count..(wallet + 1) * count];
        parts.iter().map(|part| U256::from(*part)).sum()
    }

    /// The newest block below `head` with an event for a wallet.
    pub(crate) fn newest_event(&self, head: usize, wallet: usize) -> Option<u64> {
        let mut block = head;
        loop {
            let made = &self.blocks[block];
            if made.logs.iter().any(|log| log.wallets.contains(&wallet)) {
                return Some(made.number);
            }
            if made.number == 0 {
                return None;
            }
            block = made.parent;
        }
    }

    /// A block and whom it affects, for the trace.
    pub(crate) fn told(&self, block: usize) -> String {
        let made = &self.blocks[block];
        let mut text = format!("{} {} affects", made.number, &made.hash.to_string()[..10]);
        for log in made.logs.iter() {
            let wallets =
                log.wallets.iter().map(|wallet| self.contracts.wallets[*wallet].to_string());
            let wallets: Vec<_> = wallets.map(|wallet| wallet[..8].to_lowercase()).collect();
            text += &format!(" {}", wallets.join("+"));
        }
        text
    }
}
