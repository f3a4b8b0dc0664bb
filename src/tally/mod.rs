//! The core: what a wallet, an amount and a reading are, and the one path from
//! reading to recording that every command shares.
//!
//! Nothing here does I/O. The node and the database are two traits, [`Reader`]
//! and [`Ledger`], which [`crate::chain`] and [`crate::store`] implement.

mod amount;
mod reading;
mod run;
mod shard;
mod stop;
mod wallet;

pub use amount::Amount;
pub use reading::{Chunk, Ledger, Pages, Reader, Reading, Recorded, TotalRead, Unreadable};
pub use run::{Counts, Progress, Run, Tally, pages_of};
pub use shard::{Shard, ShardError};
pub use stop::{Stop, Stopped};
pub use wallet::{Wallet, WalletError};
