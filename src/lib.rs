//! ethtally keeps a table of on-chain wallet totals fresh.
//!
//! # The map of the code
//!
//! Data flows one way: command line → command → the core that plans and sums → the node, and back through
//! the core to the database.
//!
//! | module | what it owns |
//! |---|---|
//! | [`cli`] | the command line, as clap types |
//! | [`app`] | what a command gets; opens node and database |
//! | [`commands`] | one file a subcommand, each a short story; only here do the others meet |
//! | [`profile`] | what a total is made of, as data |
//! | [`tally`] | the core: wallets, amounts, and the one pipeline from wallets to stored totals; no I/O |
//! | [`follow`] | the core of `watch`: blocks, reorganisations, the checkpoint; no I/O |
//! | [`limit`] | the search for how much a node takes in one request; pure |
//! | [`rpc`] | one chain over several endpoints: retries, failover, what was learnt of each; knows no wallet |
//! | [`read`] | wallets → totals: Multicall3, the packed reader, halving what is too large |
//! | [`events`] | blocks → affected wallets: logs, new heads |
//! | [`store`] | everything that talks to a database: all SQL, in two dialects |
//! | [`monitor`] | how `watch` is doing: health, metrics and a page, over HTTP |
//! | [`intake`] | wallets from a CSV file |
//! | [`snapshot`] | files of totals at one block: rows, manifest, Merkle tree, differences; no node, no database |
//! | [`external_sort`] | sorts more keys than fit in memory |
//! | [`report`] | everything that a person or a script sees |
//! | [`redact`] | keeps secrets out of every output |
//!
//! `read` and `events` know `rpc`; `events` also asks `read` for the members of a wallet. These, `store`, `monitor`,
//! `intake`, `snapshot` and `report` know the core (`tally`, `follow`), and otherwise never each other. The core knows none of
//! them: node and database are the traits [`tally::Reader`] and [`follow::Source`], [`tally::Ledger`] and
//! [`follow::Journal`]. `tests/architecture.rs` holds this, and that no files of a room form a circle.

pub mod app;
pub mod cli;
pub mod commands;
pub mod events;
pub mod external_sort;
pub mod follow;
pub mod intake;
pub mod limit;
pub mod monitor;
pub mod profile;
pub mod read;
pub mod redact;
pub mod report;
pub mod rpc;
pub mod snapshot;
pub mod store;
pub mod tally;
