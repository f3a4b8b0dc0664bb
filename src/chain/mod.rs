//! Everything that talks to a node.
//!
//! A request goes down through [`Client`], which meters it, retries it and picks
//! the endpoint, to one HTTP POST; a failure comes back up with a [`Class`], by
//! which each layer decides. [`NodeReader`] is the [`crate::tally::Reader`]
//! on top: it cuts wallets into chunks, as large as the node takes them, reads them through Multicall3
//! or by a program of our own, and halves what is too much. [`Events`] is the
//! [`crate::follow::Source`] beside it, and [`Heads`] tells when there is something new.

mod block;
mod call;
mod chunk_limit;
mod chunks;
mod classify;
mod client;
mod endpoint;
mod events;
mod heads;
mod http;
mod lanes;
mod logs;
mod method;
mod multicall;
mod pace;
mod packed;
mod pin;
mod preflight;
mod proof;
mod quirks;
mod ranges;
mod reader;
mod sizes;
mod supply;
mod totals;

pub use block::{BlockChoice, BlockChoiceError};
pub use chunk_limit::{ChunkLimit, ChunkLimitError};
pub use classify::{Action, Class, Failure};
pub use client::{Client, ClientSettings, Request, Traffic};
pub use events::Events;
pub use heads::Heads;
pub use method::{MethodChoice, ReaderSettings};
pub use multicall::MULTICALL3;
pub use pace::{PaceSettings, UNITS_PER_CALL};
pub use preflight::Contracts;
pub use proof::Proof;
pub use reader::NodeReader;
