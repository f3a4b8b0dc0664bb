//! The profile: which contracts make up a total, as data.
//!
//! Everything that is particular to AUDIO is in `audius.toml`; nothing else in the crate knows of it.

mod column;
mod document;
mod identity;
mod load;
mod model;
mod slot;

pub use identity::Identity;
pub use load::ProfileError;
pub use model::{Event, MULTICALL3, Members, Profile, Read, View};
