//! Transfers in block after block, drawn from a seed, and what the table must say of them in the end.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, U256};
use ethtally_testbed::{Chain, holding, wallet};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    harness::Database,
    watching::{caught_up, checkpoint},
    world::{address, addresses, read_wallets},
};

/// How many wallets take part.
const WALLETS: usize = 50;
/// All of them are among the first so many.
pub(crate) const AMONG: u64 = 200;

/// A chain with transfers in every block.
pub(crate) struct Traffic<'a> {
    chain: &'a Chain,
    wallets: Vec<u64>,
    /// Who took part so far, and the block of each one's last transfer.
    newest: BTreeMap<u64, u64>,
    pub(crate) random: StdRng,
    seed: u64,
}

impl<'a> Traffic<'a> {
    /// Nothing yet; from now on the chain makes blocks only when it is told to.
    pub(crate) async fn on(chain: &'a Chain) -> Self {
        chain.set_automine(false).await.expect("the chain answers");
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(rand::random);
        let rich = |n: &u64| holding(*n).balance > U256::from(1_000_000_000_u64);
        let wallets: Vec<_> = (0..AMONG).filter(rich).take(WALLETS).collect();
        assert_eq!(wallets.len(), WALLETS);
        let random = StdRng::seed_from_u64(seed);
        Self { chain, wallets, newest: BTreeMap::new(), random, seed }
    }

    /// A block with one to three transfers in it.
    pub(crate) async fn block(&mut self) {
        let mut pairs = Vec::new();
        for _ in 0..self.random.random_range(1..=3) {
            let pair: Vec<u64> = self.wallets.sample(&mut self.random, 2).copied().collect();
            pairs.push((pair[0], pair[1]));
        }
        let transfers: Vec<(Address, Address, U256)> = (pairs.iter())
            .map(|(from, to)| {
                let amount = U256::from(self.random.random_range(1..1_000_000_u64));
                (wallet(*from), wallet(*to), amount)
            })
            .collect();
        self.chain.send(&transfers).await.expect("the chain takes transfers");
        self.chain.mine(1).await.expect("the chain makes a block");
        let block = self.chain.block_number().await.expect("the chain answers");
        self.newest.extend(pairs.into_iter().flat_map(|(from, to)| [(from, block), (to, block)]));
    }

    /// So many of them.
    pub(crate) async fn blocks(&mut self, count: u64) {
        for _ in 0..count {
            self.block().await;
        }
    }

    /// Fails if the checkpoint, which it returns, has moved over a block whose wallets are not stored.
    pub(crate) async fn checkpoint_is_kept(&self, database: &Database) -> u64 {
        let reached = checkpoint(database).await.expect("a checkpoint");
        let rows = "select wallet, blocknumber from eth_wallet_balances";
        let rows: BTreeSet<String> = database.sql(rows).await.into_iter().collect();
        for (n, block) in self.newest.iter().filter(|(_, block)| **block <= reached) {
            let row = format!("{}|{block}", address(*n));
            assert!(rows.contains(&row), "the checkpoint is at {reached}, and {row} is missing");
        }
        reached
    }

    /// Waits until the checkpoint is the head, and fails unless the table holds what the chain says
    /// of each wallet that took part, and no total of any other. Returns the head.
    pub(crate) async fn is_stored(&self, database: &Database) -> u64 {
        let head = caught_up(self.chain, database).await;
        assert_eq!(checkpoint(database).await, Some(head));
        let rows = "select wallet, balance, blocknumber from eth_wallet_balances
            where read_block is not null order by wallet";
        let mut expected = Vec::new();
        for (n, block) in &self.newest {
            let total = self.chain.total(wallet(*n)).await.expect("the chain answers");
            expected.push(format!("{}|{total}|{block}", address(*n)));
        }
        expected.sort();
        assert_eq!(database.sql(rows).await, expected);
        assert_eq!(read_wallets(database).await, addresses(self.newest.keys().copied()));
        head
    }
}

impl Drop for Traffic<'_> {
    #[expect(clippy::print_stderr, reason = "it belongs to the message of the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the same again: SEED={}", self.seed);
        }
    }
}
