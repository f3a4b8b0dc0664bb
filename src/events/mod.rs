//! From blocks to the wallets that their events affect.
//!
//! [`Events`] is the [`crate::follow::Source`]; [`Heads`] notifies of new blocks. `proof` sees to it that no event is missed,
//! `requests` asks the node. Several profiles of one chain share one connection (`listeners`) and the logs of new blocks
//! (`shared`).

mod blooms;
mod filter;
mod heads;
mod listeners;
mod logs;
mod proof;
mod requests;
mod shared;
mod source;

pub use heads::{Heads, try_subscription};
pub use listeners::{Listener, Listeners};
pub use shared::SharedLogs;
pub use source::Events;
