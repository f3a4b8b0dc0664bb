//! The arguments that belong to one command each.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, ValueEnum};

use super::values::{duration, listen, shard, whole_number};
use crate::tally::{Shard, Wallet};

/// Arguments of `migrate`.
#[derive(Clone, Copy, Debug, Args)]
pub struct MigrateArgs {
    /// Make the table one of this --profile, if it has totals of another one
    ///
    /// The totals of the other profile stay until they are read again.
    #[arg(long)]
    pub adopt_profile: bool,
}

/// Arguments of `sweep`.
#[derive(Clone, Debug, Args)]
pub struct SweepArgs {
    /// Number of wallets to read; at most a quarter are retries of failures
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "all")]
    #[arg(value_parser = whole_number(1u64..))]
    pub batch: u64,
    /// Read every row that was not read since this run began
    #[arg(long)]
    pub all: bool,
    /// Read only rows older than this, such as 90m, 6h or 2d
    #[arg(long, value_name = "AGE", value_parser = duration)]
    pub older_than: Option<Duration>,
    /// Read only rows that `watch` does not keep current
    ///
    /// A row that was read since `watch` follows the events without a gap is current up to the checkpoint; `status` counts
    /// the others. With --write changed, an address bucket is read as a whole if most of its rows are not current.
    #[arg(long, conflicts_with = "older_than")]
    pub not_covered: bool,
    /// Which of the rows that were read to write
    #[arg(long, value_name = "ROWS", value_enum, env = "ETHTALLY_WRITE", default_value_t)]
    pub write: WriteChoice,
    /// Stop cleanly after this time, such as 50s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_duration: Option<Duration>,
    /// Exit 5 instead of 0 if another sweep is running
    #[arg(long)]
    pub fail_if_locked: bool,
    /// How many `eth_call`s may be sent.
    #[command(flatten)]
    pub budget: BudgetArgs,
    /// Read only part I of N of the wallets, counted from 0; /N takes I from JOB_COMPLETION_INDEX
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub shard: Option<Shard>,
    /// Print the wallets, calls, compute units and time of the sweep instead of running it
    #[arg(long)]
    pub dry_run: bool,
    /// Where totals that changed are reported.
    #[command(flatten)]
    pub changes: ChangesArgs,
    /// What counts as success.
    #[command(flatten)]
    pub strict: StrictArgs,
}

/// Which of the rows that were read a sweep writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WriteChoice {
    /// Every row
    #[default]
    All,
    /// Rows whose total changed; the others are recorded as read, range by range
    Changed,
}

/// How many `eth_call`s may be sent.
#[derive(Clone, Copy, Debug, Args)]
pub struct BudgetArgs {
    /// Stop cleanly after N eth_calls, including retries
    #[arg(long, value_name = "N", value_parser = whole_number(NonZeroU64::MIN..))]
    pub max_calls: Option<NonZeroU64>,
}

/// Where totals that changed are reported.
#[derive(Clone, Debug, Args)]
pub struct ChangesArgs {
    /// Append each total that changed to this file as a JSON line, or print it with -
    ///
    /// A line has wallet, old, new and block, and is written after the total is stored; old is null for a wallet
    /// that was never read. If the file cannot be written, the run goes on without it.
    #[arg(long, value_name = "FILE")]
    pub changes: Option<PathBuf>,
}

/// What counts as success.
#[derive(Clone, Copy, Debug, Args)]
pub struct StrictArgs {
    /// Exit 1 if any wallet could not be read or stored
    #[arg(long)]
    pub strict: bool,
}

/// Arguments of `refresh`.
#[derive(Clone, Debug, Args)]
pub struct RefreshArgs {
    /// Wallet addresses
    #[arg(value_name = "ADDR", required = true)]
    pub wallets: Vec<Wallet>,
    /// Where totals that changed are reported.
    #[command(flatten)]
    pub changes: ChangesArgs,
    /// What counts as success.
    #[command(flatten)]
    pub strict: StrictArgs,
}

/// Arguments of `backfill`.
#[derive(Clone, Debug, Args)]
pub struct BackfillArgs {
    /// CSV file to read, or - for standard input
    #[arg(long, value_name = "FILE", required = true)]
    pub from_csv: PathBuf,
    /// Column with the wallet address [default: wallet or address, else the first column]
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// Write the rows without a valid wallet to this file, as CSV
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    /// Store the wallets without reading them, and leave that to sweeps; calls no node
    #[arg(long, conflicts_with = "resume")]
    pub placeholders: bool,
    /// Skip wallets whose total is already stored
    #[arg(long)]
    pub resume: bool,
    /// How many `eth_call`s may be sent.
    #[command(flatten)]
    pub budget: BudgetArgs,
    /// Where totals that changed are reported.
    #[command(flatten)]
    pub changes: ChangesArgs,
    /// What counts as success.
    #[command(flatten)]
    pub strict: StrictArgs,
}

/// Arguments of `verify`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub struct VerifyArgs {
    /// Wallet address
    #[arg(value_name = "ADDR", group = "which")]
    pub wallet: Option<Wallet>,
    /// Check N random rows; exits 1 if the table is empty
    #[arg(long, value_name = "N", group = "which", value_parser = whole_number(1u32..))]
    pub sample: Option<u32>,
    /// Store the total from the chain in every row that differs
    #[arg(long)]
    pub fix: bool,
    /// Prove those parts of the total whose storage slot the profile names
    #[arg(long, conflicts_with = "sample")]
    pub proof: bool,
    /// Exit 1 only for wrong rows, not for those whose wallets have changed since they were read
    #[arg(long)]
    pub ignore_moved: bool,
    /// Where totals that --fix changed are reported.
    #[command(flatten)]
    pub changes: ChangesArgs,
    /// What counts as success.
    #[command(flatten)]
    pub strict: StrictArgs,
}

/// Arguments of `watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// Follow the events from the checkpoint to the newest block, and end
    ///
    /// For cron: what `watch` does as it runs, once. Needs no WebSocket.
    #[arg(long, conflicts_with = "listen")]
    pub once: bool,
    /// With --once, stop cleanly after this time, such as 50s; the next run continues
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "once")]
    pub max_duration: Option<Duration>,
    /// With --once, exit 5 instead of 0 if another watch is running
    #[arg(long, requires = "once")]
    pub fail_if_locked: bool,
    /// Serve health, metrics and a page on this address: HOST:PORT, or a port of 127.0.0.1
    #[arg(long, value_name = "ADDR", value_parser = listen)]
    pub listen: Option<String>,
    /// First block to follow if there is no checkpoint yet [default: the newest block]
    #[arg(long, value_name = "N", value_parser = whole_number(0u64..))]
    pub from_block: Option<u64>,
    /// Number of blocks to stay behind the newest block
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole_number(0u64..))]
    pub confirmations: u64,
    /// Which wallets to refresh
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    pub track: TrackChoice,
    /// Seconds without a new block before reconnecting and reporting unhealthy
    ///
    /// Blocks that wait longer than this to be stored are reported as unhealthy too: /healthz answers 503.
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    #[arg(value_parser = whole_number(1u64..=86_400))]
    pub max_lag: u64,
    /// Where totals that changed are reported.
    #[command(flatten)]
    pub changes: ChangesArgs,
}

/// Which wallets `watch` refreshes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TrackChoice {
    /// Wallets that the table already has
    #[default]
    Known,
    /// New wallets too
    All,
}

/// Arguments of `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Exit 1 if any row is older than this, such as 12h or 3d, or the table is empty
    #[arg(long, value_name = "AGE", value_parser = duration)]
    pub max_age: Option<Duration>,
}

/// Arguments of `snapshot`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("of_file").args(["check", "proof", "since"]))]
pub struct SnapshotArgs {
    /// Snapshot that --check, --proof and --since are about
    #[arg(value_name = "FILE", requires = "of_file")]
    pub file: Option<PathBuf>,
    /// File to write, compressed if its name ends in .gz or .zst; FILE.json beside it says what it is
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "proof"])]
    pub out: Option<PathBuf>,
    /// CSV file with the wallets, or - for standard input [default: the wallets of the table]
    #[arg(long, value_name = "FILE", conflicts_with = "of_file")]
    pub from_csv: Option<PathBuf>,
    /// Column with the wallet address [default: wallet or address, else the first column]
    #[arg(long, value_name = "NAME", requires = "from_csv")]
    pub column: Option<String>,
    /// Write the rows of --from-csv without a valid wallet to this file, as CSV
    #[arg(long, value_name = "FILE", requires = "from_csv")]
    pub rejects: Option<PathBuf>,
    /// Leave out wallets that cannot be read, and list them in the manifest
    #[arg(long, conflicts_with = "of_file")]
    pub allow_missing: bool,
    /// Continue the unfinished --out of a run that was stopped, with its wallets and its block
    #[arg(long, requires = "out", conflicts_with_all = ["of_file", "dry_run"])]
    pub resume: bool,
    /// Add the root of a Merkle tree to the manifest: OpenZeppelin's StandardMerkleTree of address, uint256
    #[arg(long, conflicts_with = "of_file")]
    pub root: bool,
    /// Print the wallets, calls, compute units and time of the snapshot instead of taking it
    #[arg(long, conflicts_with = "of_file")]
    pub dry_run: bool,
    /// Compare FILE with its manifest, and a sample of its rows with the chain
    #[arg(long, requires = "file")]
    pub check: bool,
    /// Number of random rows that --check compares with the chain
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "check")]
    #[arg(value_parser = whole_number(0u32..))]
    pub sample: u32,
    /// Compare every row with the chain
    #[arg(long, requires = "check", conflicts_with = "sample")]
    pub all: bool,
    /// Print the Merkle proof of this wallet's row in FILE
    #[arg(long, value_name = "ADDR", requires = "file")]
    pub proof: Option<Wallet>,
    /// Write to --out what changed from the snapshot OLD to FILE
    #[arg(long, value_name = "OLD", requires_all = ["file", "out"])]
    pub since: Option<PathBuf>,
}
