//! Snapshots: files with the total of every wallet at one block, and what can be told from them.
//!
//! A snapshot is two files: rows in CSV, sorted by wallet, and beside it the manifest, which says what they are. `lines`
//! writes rows so that the same rows are the same bytes, however often the writing was interrupted; `unfinished` is a
//! file that is not complete yet; `rows` reads one again. `merkle` is the tree of OpenZeppelin's library over the rows, and
//! `differences` compares two snapshots. Memory does not grow with the files. Knows neither node nor database.

mod differences;
mod lines;
mod manifest;
mod merkle;
mod rows;
mod unfinished;

pub use differences::{DifferenceCounts, write_differences};
pub use manifest::{Manifest, Part, SnapshotBlock, manifest_path};
pub use merkle::{MerkleTree, Proof, leaf};
pub use rows::{Row, SnapshotReader};
pub use unfinished::{Origin, Unfinished};
