//! From wallets to totals.
//!
//! [`NodeReader`] is the [`crate::tally::Reader`]: it cuts wallets into chunks, as large as the node takes them, and
//! reads each by one of two methods: through Multicall3, or by a program of our own that the node is given with the
//! call (see `packed.yul`). What is too large for a call is halved. `README.md` beside this file explains it for
//! operators.

mod aggregate3;
mod auto;
mod bisect;
mod calls;
mod chunker;
mod direct;
mod method;
mod multicall;
mod packed;
mod pin;
mod plan;
mod reader;
mod settings;

pub use aggregate3::Answers;
pub use direct::PartValues;
pub use reader::NodeReader;
pub use settings::{ChunkLimit, ChunkLimitError, MethodChoice, ReaderSettings};
