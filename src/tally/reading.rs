//! What a read gives, and the two traits that the core works between.

use alloy::primitives::{B256, U256};
use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::{RunError, Wallet};

/// A total in wei: the sum of all parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// The sum.
    pub sum: U256,
    /// Those parts that are stored in columns of their own, in the profile's order; most profiles have none.
    pub parts: Box<[U256]>,
}

impl From<U256> for Total {
    /// A total of which no part is stored.
    fn from(sum: U256) -> Self {
        Self { sum, parts: Box::default() }
    }
}

/// A total as it was read: every part at one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotalRead {
    /// Whose total it is.
    pub wallet: Wallet,
    /// The total.
    pub total: Total,
    /// The block at which every part was read.
    pub read_block: u64,
    /// The block of the event that asked for this read; `None` for a read that no event asked for.
    pub event_block: Option<u64>,
}

/// A wallet whose total could not be read, or could not be stored, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The wallet.
    pub wallet: Wallet,
    /// The reason, one line.
    pub reason: String,
}

/// The outcome for one wallet: its total, or why it has none.
pub type Reading = (Wallet, Result<Total, String>);

/// What became of a wallet that was taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its total was read, and is stored unless the table holds a newer one.
    Read(Total),
    /// It could not be read, for this reason.
    Unreadable(String),
    /// Its total was read, but the database refuses its row, for this reason.
    Refused(String),
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Rows written.
    pub updated: u64,
    /// Rows that hold a newer read already and were left alone.
    pub superseded: u64,
    /// Rows that hold the total that was read, and were confirmed without a write.
    pub unchanged: u64,
    /// Wallets whose row the database refuses. They are on the record of failures.
    pub refused: Vec<Unreadable>,
    /// Wallets that were not tried, since a shutdown came first.
    pub left: Vec<Wallet>,
}

impl Recorded {
    /// Adds what became of others.
    pub fn add(&mut self, others: Self) {
        self.updated += others.updated;
        self.superseded += others.superseded;
        self.unchanged += others.unchanged;
        self.refused.extend(others.refused);
        self.left.extend(others.left);
    }
}

/// Requests sent to the node so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Requests of every kind, every attempt counted.
    pub requests: u64,
    /// `eth_call`s among them.
    pub eth_calls: u64,
    /// Attempts after a failure among them.
    pub retries: u64,
}

/// Requests of one kind, sent so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSeries {
    /// The method of JSON-RPC.
    pub method: &'static str,
    /// Host and port.
    pub endpoint: String,
    /// `ok`, or what failed.
    pub outcome: &'static str,
    /// How many, every attempt counted.
    pub count: u64,
}

/// Wallets on their way to a [`Reader`], page by page.
pub type Pages<'a> = BoxStream<'a, Result<Vec<Wallet>, RunError>>;

/// What became of some wallets that were asked for together, at one block.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The block at which they were read.
    pub block: u64,
    /// How many wallets were taken up; more than there are readings where something failed or a
    /// stop came in between.
    pub requested: u64,
    /// What was read.
    pub readings: Vec<Reading>,
    /// Why the rest was not read: the node failed, or the pages did. Wallets without a reading are
    /// then neither read nor unreadable.
    pub error: Option<RunError>,
}

/// The node, as the core sees it.
///
/// A reader takes pages as it has room for them, cuts and joins them as suits the node, and gives
/// what was read as it comes, in no order. After an error it takes no more; what is under way is
/// still given. Of what was not begun when a stop was asked for, nothing is read.
pub trait Reader: Send + Sync {
    /// Reads at the block that the user chose, resolved again from time to time.
    fn read<'a>(&'a self, pages: Pages<'a>) -> BoxStream<'a, Chunk>;

    /// Reads at the block of this number that has this hash, where the node can tell them apart:
    /// on another fork it is another block.
    fn read_block<'a>(&'a self, pages: Pages<'a>, block: u64, hash: B256) -> BoxStream<'a, Chunk>;
}

/// The database, as the core sees it.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Stores a batch in one transaction: every total, and every failure. Rows that the database refuses are found by
    /// halving; all others are stored.
    ///
    /// A total takes its wallet's failure off the record. A total whose `read_block` is older than
    /// the stored one changes nothing and counts as superseded. `blocknumber` only ever rises: to
    /// the block of the event that asked for a read, also where another read superseded that.
    ///
    /// # Errors
    /// When the database fails, or refuses every row: then nothing of the batch is stored, unless it failed between
    /// two halves.
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> Result<Recorded, RunError>;
}
