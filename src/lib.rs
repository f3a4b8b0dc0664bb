//! ethtally keeps a table of on-chain wallet totals fresh. The program does that from
//! the command line; with this crate another Rust program reads the totals themselves.
//!
//! # Reading totals
//!
//! A [`Profile`] says what a total is: the views whose values are summed, and the chain they are on. A [`TotalsReader`]
//! takes one, and the JSON-RPC endpoints of a node; give it wallets and a block, and it returns [`Totals`] in wei.
//!
//! ```no_run
//! use ethtally::{BlockChoice, Profile, ReadOptions, TotalsReader, Wallet};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let profile = Profile::audius();
//! let endpoints = ["https://ethereum-rpc.publicnode.com"];
//! let reader = TotalsReader::new(&profile, endpoints, &ReadOptions::default())?;
//!
//! let wallet: Wallet = "0x5e98cbeeaa2acedec0833ac3d1634e2a7ae0f3c2".parse()?;
//! let totals = reader.read(&[wallet], BlockChoice::Latest).await?;
//! for (wallet, total) in &totals.wallets {
//!     match total {
//!         Ok(total) => println!("{wallet} has {} wei at block {}", total.sum, totals.block),
//!         Err(reason) => println!("{wallet} cannot be read: {reason}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `examples/totals.rs` in the repository is a small program that does this:
//! `cargo run --locked --example totals -- URL ADDRESS...`.
//!
//! What a read guarantees: every part of every total is of the same block, a number that a node did not give is an
//! error and never zero, and amounts are integers from end to end. Errors are one line, and show no more of a URL than
//! scheme, host and port.
//!
//! # The map of the code, for those who work on it
//!
//! Data flows one way: command line → command → the core that plans and sums → the node, and back through
//! the core to the database.
//!
//! | module | what it owns |
//! |---|---|
//! | `cli` | the command line, as clap types |
//! | `app` | what a command gets; opens node and database |
//! | `commands` | one file a subcommand, each a short story; only here do the others meet |
//! | `profile` | what a total is made of, as data |
//! | `tally` | the core: wallets, amounts, and the one pipeline from wallets to stored totals; no I/O |
//! | `follow` | the core of `watch`: blocks, reorganisations, the checkpoint; no I/O |
//! | `limit` | the search for how much a node takes in one request; pure |
//! | `rpc` | one chain over several endpoints: retries, failover, what was learnt of each; knows no wallet |
//! | `read` | wallets → totals: Multicall3, the packed reader, halving what is too large |
//! | `events` | blocks → affected wallets: logs, new heads |
//! | `store` | everything that talks to a database: all SQL, in two dialects |
//! | `monitor` | how `watch` is doing: health, metrics and a page, over HTTP |
//! | `intake` | wallets from a CSV file |
//! | `snapshot` | files of totals at one block: rows, manifest, Merkle tree, differences; no node, no database |
//! | `external_sort` | sorts more keys than fit in memory |
//! | `report` | everything that a person or a script sees |
//! | `redact` | keeps secrets out of every output |
//! | `totals` | the reader that other programs use |
//!
//! `read` and `events` know `rpc`; `events` also asks `read` for the members of a wallet. These, `store`, `monitor`,
//! `intake`, `snapshot` and `report` know the core (`tally`, `follow`), and otherwise never each other. The core knows none of
//! them: node and database are the traits `tally::Reader` and `follow::Source`, `tally::Ledger` and
//! `follow::Journal`. `tests/architecture.rs` holds this, and that no files of a room form a circle.

// Those that are hidden are for this package's own program, tests and benchmark, and change without notice.
#[doc(hidden)]
pub mod app;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod commands;
#[doc(hidden)]
pub mod events;
#[doc(hidden)]
pub mod external_sort;
#[doc(hidden)]
pub mod follow;
#[doc(hidden)]
pub mod intake;
#[doc(hidden)]
pub mod limit;
#[doc(hidden)]
pub mod monitor;
#[doc(hidden)]
pub mod profile;
#[doc(hidden)]
pub mod read;
#[doc(hidden)]
pub mod redact;
#[doc(hidden)]
pub mod report;
#[doc(hidden)]
pub mod rpc;
#[doc(hidden)]
pub mod snapshot;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod tally;
mod totals;

pub use profile::{Event, Members, Profile, ProfileError, Read, View};
pub use read::MethodChoice;
pub use rpc::{BlockChoice, BlockChoiceError};
pub use tally::{Total, Wallet, WalletError};
pub use totals::{ReadOptions, Totals, TotalsError, TotalsReader};
