//! Random transfers in block after block, and the rows that must result from them.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, U256};
use ethtally_testbed::{Chain, holding, wallet};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::support::{
    database::Database,
    table::{read_wallets, store_unread},
    wallets::{address, addresses, random_seed},
    watch::{caught_up, checkpoint},
};

/// Number of wallets that take part.
const WALLETS: usize = 50;
/// All of them are among this many first wallets.
const AMONG: u64 = 200;

/// A new chain, and placeholders for all wallets that [`Traffic`] uses.
pub(crate) async fn chain_for_traffic(database: &Database) -> Chain {
    store_unread(database, 0..AMONG);
    Chain::builder().start().await.expect("a chain")
}

/// Makes blocks with random transfers, and knows what they change.
pub(crate) struct Traffic<'a> {
    chain: &'a Chain,
    wallets: Vec<u64>,
    /// The block of each wallet's last transfer.
    newest: BTreeMap<u64, u64>,
    pub(crate) random: StdRng,
    seed: u64,
}

impl<'a> Traffic<'a> {
    /// Starts without transfers; from now on the chain mines only on request.
    pub(crate) async fn on(chain: &'a Chain) -> Self {
        chain.set_automine(false).await.expect("the chain answers");
        let seed = random_seed();
        let rich = |n: &u64| holding(*n).balance > U256::from(1_000_000_000_u64);
        let wallets: Vec<_> = (0..AMONG).filter(rich).take(WALLETS).collect();
        assert_eq!(wallets.len(), WALLETS);
        let random = StdRng::seed_from_u64(seed);
        Self { chain, wallets, newest: BTreeMap::new(), random, seed }
    }

    /// The wallets that took part so far.
    pub(crate) fn wallets(&self) -> Vec<u64> {
        self.newest.keys().copied().collect()
    }

    /// Mines a block with one to three transfers.
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

    /// Mines this many such blocks.
    pub(crate) async fn blocks(&mut self, count: u64) {
        for _ in 0..count {
            self.block().await;
        }
    }

    /// Panics if the checkpoint has passed a block whose wallets are not stored. Returns the checkpoint.
    pub(crate) async fn assert_stored_to_checkpoint(&self, database: &Database) -> u64 {
        let reached = checkpoint(database).await.expect("a checkpoint");
        let rows = "select wallet, blocknumber from eth_wallet_balances";
        let rows: BTreeSet<String> = database.sql(rows).await.into_iter().collect();
        for (n, block) in self.newest.iter().filter(|(_, block)| **block <= reached) {
            let row = format!("{}|{block}", address(*n));
            assert!(rows.contains(&row), "the checkpoint is at {reached}, and {row} is missing");
        }
        reached
    }

    /// Waits until the checkpoint is the head, and panics unless the read totals are those of the wallets
    /// that took part, as the chain has them. Returns the head.
    pub(crate) async fn until_stored(&self, database: &Database) -> u64 {
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
    #[expect(clippy::print_stderr, reason = "part of the failure message")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to reproduce: SEED={}", self.seed);
        }
    }
}
