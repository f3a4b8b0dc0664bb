//! From blocks to the wallets that their events affect.
//!
//! [`Events`] is the [`crate::follow::Source`]; [`Heads`] notifies of new blocks. `proof` sees to it that no event is missed,
//! `requests` asks the node.

mod blooms;
mod filter;
mod heads;
mod logs;
mod proof;
mod requests;
mod source;

pub use heads::{Heads, try_subscription};
pub use source::Events;
