//! The ways in which a broken sweep would stay green: it ends with 0, or does not reach what would notice.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use ethtally_testbed::{
    Chain, TokenFault,
    stub::{Fault, Stub, When},
    wallet,
};

use crate::support::{
    chains::{faulty_chain, still_chain, still_stub},
    database::Database,
    program::{Running, eventually, sweep, sweep_all},
    table::{date_rows, store_unread},
};

/// Wallets in the table.
const WALLETS: u64 = 20;

/// A table with something wrong, and what keeps it so.
pub(crate) struct Broken {
    pub(crate) database: Database,
    /// The node's URL.
    pub(crate) node: String,
    _chain: Option<Chain>,
    _stubs: Vec<Stub>,
    _running: Option<Running>,
}

impl Broken {
    async fn new(database: Database) -> Self {
        let node = still_chain().await.url();
        Self { database, node, _chain: None, _stubs: Vec::new(), _running: None }
    }

    /// Nothing is wrong: all rows have just been read.
    pub(crate) async fn not() -> Self {
        let all = Self::new(Database::sqlite()).await;
        store_unread(&all.database, 0..WALLETS);
        sweep_all(&all.database, &all.node, &[]).run().expect(0);
        all
    }

    /// Another sweep holds the lock, and does not end.
    pub(crate) async fn skipped() -> Self {
        let mut all = Self::stale().await;
        let stub = still_stub().await;
        stub.fault(Fault::Hang, When::eth_call().mentioning("0x82ad56cb"));
        let running = sweep(&all.database, &stub.url(), &["--all", "--timeout", "3600"]).start();
        eventually("it holds the lock", || stub.count("eth_call") > 0);
        all._stubs.push(stub);
        all._running = Some(running);
        all
    }

    /// The table is empty.
    pub(crate) async fn empty() -> Self {
        let all = Self::new(Database::sqlite()).await;
        store_unread(&all.database, []);
        all
    }

    /// Every run is cut short: the node is too slow.
    pub(crate) async fn cut_short() -> Self {
        let mut all = Self::stale().await;
        let stub = still_stub().await;
        stub.fault(Fault::Delay(Duration::from_millis(400)), When::eth_call());
        all.node = stub.url();
        all._stubs.push(stub);
        all
    }

    /// One wallet cannot be read, ever.
    pub(crate) async fn partly_failing() -> Self {
        let mut all = Self::stale().await;
        let chain = faulty_chain([(2, TokenFault::Revert)]).await;
        all.node = chain.url();
        // All others are read.
        let swept = sweep_all(&all.database, &all.node, &[]).run().expect(0);
        assert_eq!(swept.json()["updated"], WALLETS - 1, "{swept:?} {}", wallet(2));
        all._chain = Some(chain);
        all
    }

    /// A row was edited.
    pub(crate) async fn drifted() -> Self {
        let all = Self::not().await;
        all.database.sql("update eth_wallet_balances set balance = '12345'").await;
        all
    }

    /// All rows are 13 hours old.
    pub(crate) async fn stale() -> Self {
        let all = Self::not().await;
        let time = (Utc::now() - TimeDelta::hours(13)).format("%F %T").to_string();
        let rows: Vec<_> = (0..WALLETS).map(|n| (n, &*time)).collect();
        date_rows(&all.database, &rows).await;
        all
    }
}
