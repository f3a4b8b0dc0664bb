//! The profile: which contracts make up a total, as data.
//!
//! Everything that is particular to AUDIO is in `audius.toml`; nothing else in the crate knows of it.

mod document;
mod load;
mod model;

pub use load::ProfileError;
pub use model::{Event, MULTICALL3, Members, Profile, View};
