//! What nodes and providers say, each with where it is from, and what it means.
//!
//! Some of the texts are shortened; their words are as they came.

mod blocks;
mod calls;
mod gateways;
mod sources;

pub(super) use sources::Example;

/// All of them.
pub(super) fn examples() -> impl Iterator<Item = &'static Example> {
    [gateways::EXAMPLES, calls::EXAMPLES, blocks::EXAMPLES].into_iter().flatten()
}
