//! From blocks to the wallets that their events affect.
//!
//! [`Events`] is the [`crate::follow::Source`]; [`Heads`] notifies of new blocks.

mod filter;
mod heads;
mod logs;
mod source;

pub use heads::Heads;
pub use source::Events;
