//! The core: what a wallet, an amount and a reading are, and the one pipeline from wallets to stored totals.
//!
//! Nothing here does I/O. Node and database are two traits, [`Reader`] and [`Ledger`], which
//! [`crate::read`] and [`crate::store`] implement.

mod amount;
mod bucket;
mod bucket_reads;
mod change;
mod check;
mod confirming;
mod error;
mod hint;
mod lock;
mod pipeline;
mod reading;
mod retries;
mod selection;
mod shard;
mod shutdown;
mod wallet;

pub use amount::Amount;
pub use bucket::Bucket;
pub use bucket_reads::{BucketReads, Verdict, verdict};
pub use change::{Change, ChangeSink};
pub use check::{Check, CheckStatus};
pub use confirming::{Confirmer, Confirming};
pub use error::RunError;
pub use hint::NodeHint;
pub use lock::{Lock, Locked};
pub use pipeline::{Counts, Pipeline, Progress, RunSummary, pages_of};
pub use reading::{
    Chunk, Ledger, Outcome, Pages, Reader, Reading, Recorded, RequestCounts, RequestSeries, Total,
    TotalRead, Unreadable,
};
pub use retries::Retries;
pub use selection::{SelectedRow, SelectedRows, Selection};
pub use shard::{Shard, ShardError};
pub use shutdown::Shutdown;
pub use wallet::{Wallet, WalletError};
