//! The list of commands, with what each one does.

use std::path::Path;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use super::{
    args::{
        BackfillArgs, MigrateArgs, RefreshArgs, SnapshotArgs, StatusArgs, SweepArgs, VerifyArgs,
        WatchArgs,
    },
    settings::Settings,
};

/// Keep a table of on-chain wallet totals fresh
///
/// Reads wallet totals from an Ethereum node through Multicall3 and stores them in PostgreSQL or SQLite.
/// Every command runs once and exits, so that cron or a Kubernetes CronJob can schedule it. Only `watch`
/// keeps running: it follows the chain's events.
#[derive(Debug, Parser)]
#[command(name = "ethtally", version = env!("ETHTALLY_VERSION"), propagate_version = true)]
#[command(subcommand_required = true, subcommand_value_name = "COMMAND", max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Settings that the commands share.
    #[command(flatten)]
    pub settings: Settings,
}

/// The forms of `snapshot`.
const SNAPSHOT_USAGE: &str = "ethtally snapshot --block BLOCK --out FILE [OPTIONS]
       ethtally snapshot --check FILE [OPTIONS]
       ethtally snapshot --proof ADDR FILE [OPTIONS]
       ethtally snapshot --since OLD FILE --out FILE [OPTIONS]";

/// The subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Create or upgrade the tables
    ///
    /// Adds only what is missing and keeps every row, including those that other programs wrote. The
    /// commands that write to the table do this first; run it on its own to choose the time.
    ///
    /// A table has one profile: that of the first run that stored something. A run with another one is
    /// refused; --adopt-profile makes the table one of that profile.
    Migrate(MigrateArgs),
    /// Re-read the stalest wallets
    ///
    /// Reads the wallets whose totals were not read for longest and stores them. A wallet that cannot be read
    /// or stored is skipped for 1 minute, and for twice as long after each further failure, up to 1 day.
    /// Its retries count in `failed` and do not decide the exit status. Only one sweep runs per database
    /// and shard: a second one says so and exits 0.
    ///
    /// With --write changed, rows are read in ranges of addresses, and only those whose total differs are
    /// written; the table eth_wallet_confirmations records when the rest of a range was read, and at which
    /// block. updated_at is then the time of the last change: ask the view eth_wallet_freshness how fresh a
    /// row is. --batch reads whole ranges until it has N wallets.
    Sweep(SweepArgs),
    /// Re-read the given wallets now
    ///
    /// Adds the wallets that the table does not have yet.
    Refresh(RefreshArgs),
    /// Import wallets from a CSV file
    ///
    /// Reads and stores each wallet once, however often the file lists it. Rows without a valid wallet
    /// are reported by line number and skipped. Running it again only refreshes the totals.
    ///
    /// The file is text in UTF-8 or UTF-16, with commas, semicolons, tabs or pipes between columns, and may be
    /// compressed by gzip. Large files are sorted in temporary files in the folder that TMPDIR names.
    Backfill(BackfillArgs),
    /// Spot-check stored totals against the chain
    ///
    /// Reads each part of a total with its own eth_call, and the total through Multicall3, at the same
    /// block, and compares both with the row. Exits 1 if any differ. Writes nothing without --fix.
    ///
    /// A row that differs is read again at the block at which it was read. If it was right then, or was
    /// never read, its wallet has moved since; otherwise the row is wrong. If the node no longer has the
    /// state of that block, an event of the wallet since then shows that it has moved. A row is never
    /// compared with a block older than its own: if the node is behind, it stays unchecked.
    ///
    /// --proof also proves the value of each view that has a slot in the profile, by eth_getProof and the
    /// hash of the block, which must be the same at every --rpc-url. The result names the parts that are
    /// proven and those that are believed.
    Verify(VerifyArgs),
    /// Follow the chain's events and refresh the wallets they affect
    ///
    /// Runs until it is stopped. Receives new blocks over WebSocket, or polls where WebSocket is not
    /// available, reads their events with eth_getLogs, and stores the affected wallets within seconds.
    /// Resumes from its checkpoint, so that no block is missed, and re-reads wallets after a
    /// reorganisation. Only one watch works per database and checkpoint: a second one stands by and takes
    /// over when the first ends. With --once, it ends at the newest block: for cron.
    Watch(WatchArgs),
    /// Show how fresh the table is
    ///
    /// Writes nothing and calls no node.
    Status(StatusArgs),
    /// Check node, database, profile and rights
    ///
    /// The command to run first. Prints a line for each check with ok, warn or fail, and what helps. Goes on
    /// after a check that failed, and exits 1 if one did. Writes nothing.
    Doctor,
    /// Write every wallet's total at one block to a file that can be checked
    ///
    /// Reads the wallets of the table, or of --from-csv, at the --block: a number, safe or finalized. Writes
    /// `wallet,total` and the profile's columns of parts as CSV, sorted by wallet, and beside it FILE.json, the
    /// manifest: block, profile, number of rows, sum and SHA-256. The same wallets at the same block give the
    /// same bytes. Writes nothing to the table. An old block needs an archive node.
    ///
    /// A run that was stopped leaves FILE.partial; --resume continues it. A wallet that cannot be read ends
    /// the run, unless --allow-missing is given.
    ///
    /// --check exits 1 if the file differs from its manifest or the chain. --since writes wallet, change (added,
    /// gone or changed), from and to.
    #[command(override_usage = SNAPSHOT_USAGE)]
    Snapshot(SnapshotArgs),
    /// Print the profile: what a total is made of
    ///
    /// Prints the built-in profile, or checks and prints the one that --profile names. To define another
    /// total, save the built-in profile to a file and edit it.
    Profile,
    /// Print a shell completion script
    Completions {
        /// Shell to complete for
        shell: Shell,
    },
    /// Print a manual page
    Man {
        /// Command to print the page of [default: ethtally itself]
        #[arg(value_name = "COMMAND")]
        subcommand: Option<String>,
    },
}

impl Command {
    /// Where it is to write which totals it changed.
    pub fn changes(&self) -> Option<&Path> {
        let args = match self {
            Self::Sweep(args) => &args.changes,
            Self::Refresh(args) => &args.changes,
            Self::Backfill(args) => &args.changes,
            Self::Verify(args) => &args.changes,
            Self::Watch(args) => &args.changes,
            _ => return None,
        };
        args.changes.as_deref()
    }

    /// True if it runs until it is stopped; it serves its metrics.
    pub const fn is_service(&self) -> bool {
        matches!(self, Self::Watch(args) if !args.once)
    }

    /// True if it has to do with no profile.
    pub const fn is_for_packagers(&self) -> bool {
        matches!(self, Self::Completions { .. } | Self::Man { .. })
    }

    /// Its name on the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Migrate(_) => "migrate",
            Self::Sweep(_) => "sweep",
            Self::Refresh(_) => "refresh",
            Self::Backfill(_) => "backfill",
            Self::Verify(_) => "verify",
            Self::Watch(_) => "watch",
            Self::Status(_) => "status",
            Self::Doctor => "doctor",
            Self::Snapshot(_) => "snapshot",
            Self::Profile => "profile",
            Self::Completions { .. } => "completions",
            Self::Man { .. } => "man",
        }
    }
}
