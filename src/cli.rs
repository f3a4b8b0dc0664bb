//! The command line, as clap types. What they mean is for the commands to know.

mod settings;

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use settings::{DatabaseArgs, NodeArgs, OutputArgs, Settings};

use crate::tally::{Shard, ShardError, Wallet};

const EXIT_STATUS: &str = "\
Exit status:
  0    done, and all is well
  1    done, and the answer is no: drift was found, a row is past --max-age, or with
       --strict a wallet could not be read
  2    it could not be done: usage, configuration, node, database, or not one of the
       wallets asked for could be read
  130  stopped by SIGINT, 143 by SIGTERM, after what was read had been stored";

/// Keeps a table of on-chain wallet totals fresh
///
/// Reads wallets' totals from an Ethereum node through Multicall3 and stores them in
/// PostgreSQL or SQLite. One run does one thing and ends; cron or a Kubernetes CronJob
/// decides when. Only watch goes on: it follows the chain's events.
#[derive(Debug, Parser)]
#[command(name = "ethtally", version, after_long_help = EXIT_STATUS, propagate_version = true)]
#[command(subcommand_required = true, arg_required_else_help = false, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Settings that every command shares.
    #[command(flatten)]
    pub settings: Settings,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or upgrade the tables
    ///
    /// Adds only what is missing: rows that another program wrote are kept. Every command
    /// that writes does this first; run it by itself to do it at a time of your choosing.
    #[command(after_help = "\
Examples:
  ethtally migrate --database-url postgres://app@db/audius")]
    Migrate,
    /// Re-read the stalest wallets
    ///
    /// Takes the rows with the oldest updated_at, reads their totals and stores them. Wallets
    /// that could not be read are left out for a while (1 minute, doubling, up to 1 day), so
    /// that they hold nothing up. Only one sweep runs per database and shard: another one says
    /// so and exits 0.
    #[command(after_help = "\
Examples:
  ethtally sweep --batch 5000                       the 5,000 stalest, for a cron entry
  ethtally sweep --all --max-duration 50s           as many as fit in, every minute
  ethtally sweep --all --older-than 6h --rps 20     what is older than 6 hours, gently
  ethtally sweep --all --shard 0/4                  a quarter; three more runs do the rest
  ethtally sweep --all --dry-run --rps 20           what it would cost, and how long it takes")]
    Sweep(SweepArgs),
    /// Re-read these wallets now
    ///
    /// A wallet that the table does not have is added to it.
    #[command(after_help = "\
Examples:
  ethtally refresh 0xe6D97B2099F142513be7A2a068bE040656Ae4591
  ethtally refresh --json $(cat wallets.txt) | jq -r '.wallets[] | [.wallet, .total] | @tsv'")]
    Refresh(RefreshArgs),
    /// Take wallets in from a CSV file
    ///
    /// Each wallet is read and stored once, however often it stands in the file. Rows that hold
    /// no wallet are reported with their line number, and the rest goes on. To run it again
    /// changes nothing but freshness.
    #[command(after_help = "\
Examples:
  ethtally backfill --from-csv wallets.csv
  ethtally backfill --from-csv users.csv --column eth_address --rejects bad-rows.csv
  ethtally backfill --from-csv wallets.csv --resume          go on where a run was stopped
  ethtally backfill --from-csv wallets.csv --placeholders    store them unread, for sweeps
  psql -c '\\copy (select wallet from users) to stdout csv' | ethtally backfill --from-csv -")]
    Backfill(BackfillArgs),
    /// Spot-check stored totals against the chain
    ///
    /// Reads each part of a total by an eth_call of its own, not through Multicall3, and the
    /// total through Multicall3, all at one block, and holds both against the row. Exits 1
    /// where they differ. Writes nothing without --fix.
    #[command(after_help = "\
Examples:
  ethtally verify 0xe6D97B2099F142513be7A2a068bE040656Ae4591
  ethtally verify 0xe6D97B2099F142513be7A2a068bE040656Ae4591 --fix
  ethtally verify --sample 500 --json | jq .drifted")]
    Verify(VerifyArgs),
    /// Follow the chain's events, and refresh the wallets that they touch
    ///
    /// The one command that goes on until it is stopped. New blocks are heard of over WebSocket, or
    /// by polling where that cannot be had; their events are read with eth_getLogs, and the wallets
    /// that these touch are read and stored within seconds. It goes on where it was left: every gap
    /// is filled, and what a reorganisation undid is read again. Only one watch works per database
    /// and checkpoint: another one stands by and takes over when the first ends.
    #[command(after_help = "\
Examples:
  ethtally watch
  ethtally watch --listen 1325                       with /healthz, /readyz and /metrics
  ethtally watch --listen 0.0.0.0:1325 --json        in a container
  ethtally watch --confirmations 3                   three blocks behind the newest
  ethtally watch --track all --from-block 21000000   new wallets too, from that block on")]
    Watch(WatchArgs),
    /// How fresh the table is
    ///
    /// Writes nothing and calls no node.
    #[command(after_help = "\
Examples:
  ethtally status
  ethtally status --max-age 3d || echo 'the table is stale'")]
    Status(StatusArgs),
    /// Print the profile: what a total is made of
    ///
    /// Prints the built-in one, or checks and prints that of --profile. To define another
    /// total, print the built-in one to a file and change it.
    #[command(after_help = "\
Examples:
  ethtally profile > mine.toml
  ethtally profile --profile mine.toml")]
    Profile,
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  ethtally completions bash > /etc/bash_completion.d/ethtally")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print a manual page
    #[command(after_help = "\
Examples:
  ethtally man > ethtally.1
  ethtally man sweep > ethtally-sweep.1")]
    Man {
        /// Of this subcommand; without one, of ethtally itself
        subcommand: Option<String>,
    },
}

/// Arguments of `sweep`.
#[derive(Clone, Debug, Args)]
pub struct SweepArgs {
    /// How many wallets
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "all")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub batch: u64,
    /// Every row that is older than the start of the run
    #[arg(long)]
    pub all: bool,
    /// Only rows older than this, such as 90m, 6h or 2d
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    pub older_than: Option<Duration>,
    /// Stop cleanly when this is over, such as 50s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub max_duration: Option<Duration>,
    /// How many eth_calls may be sent.
    #[command(flatten)]
    pub budget: BudgetArgs,
    /// Only part I of N of the wallets, 0 ≤ I < N; /N takes I from JOB_COMPLETION_INDEX
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub shard: Option<Shard>,
    /// Say what it would do: wallets, calls, compute units and time; read and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// What counts as done.
    #[command(flatten)]
    pub strict: StrictArgs,
}

/// How many `eth_call`s may be sent.
#[derive(Clone, Copy, Debug, Args)]
pub struct BudgetArgs {
    /// Stop cleanly when so many eth_calls were sent, every retry counted
    #[arg(long, value_name = "N")]
    pub max_calls: Option<NonZeroU64>,
}

/// What counts as done.
#[derive(Clone, Copy, Debug, Args)]
pub struct StrictArgs {
    /// Exit 1 if a wallet could not be read
    #[arg(long)]
    pub strict: bool,
}

/// Arguments of `refresh`.
#[derive(Clone, Debug, Args)]
pub struct RefreshArgs {
    /// The wallets' addresses
    #[arg(value_name = "ADDR", required = true)]
    pub wallets: Vec<Wallet>,
    /// What counts as done.
    #[command(flatten)]
    pub strict: StrictArgs,
}

/// Arguments of `backfill`.
#[derive(Clone, Debug, Args)]
pub struct BackfillArgs {
    /// The file; - is standard input
    #[arg(long, value_name = "FILE", required = true)]
    pub from_csv: PathBuf,
    /// The column that holds the wallet [default: wallet or address, else the first]
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// Write every row that holds no wallet to this file, as CSV
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    /// Store the wallets unread, for sweeps to fill; calls no node
    #[arg(long, conflicts_with = "resume")]
    pub placeholders: bool,
    /// Leave out wallets that the table has a read total for
    #[arg(long)]
    pub resume: bool,
    /// How many eth_calls may be sent.
    #[command(flatten)]
    pub budget: BudgetArgs,
    /// What counts as done.
    #[command(flatten)]
    pub strict: StrictArgs,
}

/// Arguments of `verify`.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct VerifyArgs {
    /// The wallet's address
    #[arg(value_name = "ADDR", group = "which")]
    pub wallet: Option<Wallet>,
    /// Check so many rows, drawn at random
    #[arg(long, value_name = "N", group = "which")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: Option<u32>,
    /// Store what was read where the row differs
    #[arg(long)]
    pub fix: bool,
    /// What counts as done.
    #[command(flatten)]
    pub strict: StrictArgs,
}

/// Arguments of `watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// Serve health and metrics there: a port of 127.0.0.1, or HOST:PORT
    #[arg(long, value_name = "ADDR", value_parser = listen)]
    pub listen: Option<String>,
    /// Where to begin when there is no checkpoint yet [default: the newest block]
    #[arg(long, value_name = "N")]
    pub from_block: Option<u64>,
    /// How many blocks to stay behind the newest
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub confirmations: u64,
    /// Which wallets to refresh
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    pub track: TrackChoice,
    /// How long there may be no new block
    ///
    /// Then the connection is made anew, and /healthz says 503; that it does also when blocks wait
    /// longer to be stored.
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub max_lag: u64,
}

/// Which wallets `watch` refreshes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TrackChoice {
    /// Those that the table has
    #[default]
    Known,
    /// New ones too
    All,
}

/// Arguments of `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Exit 1 if a row is older than this, such as 12h or 3d
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    pub max_age: Option<Duration>,
}

/// The variable in which a Kubernetes Indexed Job tells a pod its number.
const JOB_COMPLETION_INDEX: &str = "JOB_COMPLETION_INDEX";

/// An address to listen on as `HOST:PORT`; a port alone is one of 127.0.0.1.
fn listen(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    let is_host = !host.is_empty() && (!host.contains(':') || host.starts_with('['));
    match port.parse::<u16>() {
        Ok(port) if is_host => Ok(format!("{host}:{port}")),
        _ => Err("write a port, such as 1325, or HOST:PORT".to_owned()),
    }
}

/// A shard as `I/N`, or as `/N` or `N` with I from the environment.
fn shard(text: &str) -> Result<Shard, String> {
    let count = match text.split_once('/') {
        Some(("", count)) => count,
        Some(_) => return text.parse().map_err(|error: ShardError| error.to_string()),
        None => text,
    };
    let index = std::env::var(JOB_COMPLETION_INDEX)
        .map_err(|_| format!("write I/N, such as 0/4; {JOB_COMPLETION_INDEX} is not set"))?;
    format!("{index}/{count}").parse().map_err(|error: ShardError| error.to_string())
}
