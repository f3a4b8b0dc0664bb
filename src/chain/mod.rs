//! Everything that talks to a node.
//!
//! A request goes down through [`Client`], which meters it, retries it and picks
//! the endpoint, to one HTTP POST; a failure comes back up with a [`Class`], by
//! which each layer decides. [`MulticallReader`] is the [`crate::tally::Reader`]
//! on top: it cuts wallets into chunks and halves what is too much. [`Events`] is the
//! [`crate::follow::Source`] beside it, and [`Heads`] tells when there is something new.

mod block;
mod classify;
mod client;
mod events;
mod heads;
mod http;
mod logs;
mod multicall;
mod preflight;
mod proof;
mod quirks;
mod ranges;
mod reader;

pub use block::{BlockChoice, BlockChoiceError};
pub use classify::{Action, Class, Failure};
pub use client::{Client, ClientSettings, Request, Traffic};
pub use events::Events;
pub use heads::Heads;
pub use multicall::MULTICALL3;
pub use preflight::Contracts;
pub use proof::Proof;
pub use reader::{MulticallReader, ReaderSettings};
