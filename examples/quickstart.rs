//! The quick start: a local chain, the real program, and SQLite. Needs no account.
//!
//! `examples/quickstart.sh` installs Anvil, builds the program and this example, and runs it.

use std::{
    env, fs,
    io::{self, Write},
    path::Path,
    process::Command,
};

use alloy::primitives::U256;
use anyhow::{Context, ensure};
use ethtally_testbed::{Chain, wallet};

/// The database file, which is kept.
const DATABASE: &str = "quickstart.db";
/// Number of wallets in `examples/wallets.csv`.
const WALLETS: u64 = 3_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    for suffix in ["", "-shm", "-wal"] {
        let _ = fs::remove_file(format!("{DATABASE}{suffix}"));
    }
    say("Starting a local chain: chain id 1, Multicall3, stand-ins for the AUDIO contracts …")?;
    let chain = Chain::builder().wallets(WALLETS).chain_id(1).start().await?;
    let csv = "examples/wallets.csv";
    let ethtally = Runner { rpc_url: chain.url() };
    let (sender, receiver) = (wallet(11), wallet(12));

    say("\n1. Backfill the wallets of a CSV file. Two of its rows are invalid and are reported.")?;
    ethtally.run(&["backfill", "--from-csv", csv], 0)?;
    say("\n2. Sweep: re-read the stalest rows, as cron does.")?;
    ethtally.run(&["sweep", "--batch", "1000"], 0)?;
    say("\n3. A transfer changes a total on the chain; the table still has the old one.")?;
    chain.transfer(sender, receiver, U256::from(1_000_000_000_000_000_000_u64)).await?;
    ethtally.run(&["verify", &receiver.to_string()], 1)?;
    say("\n4. Refresh both wallets and verify again.")?;
    ethtally.run(&["refresh", &sender.to_string(), &receiver.to_string()], 0)?;
    ethtally.run(&["verify", &receiver.to_string()], 0)?;
    say("\n5. Show how fresh the table is.")?;
    ethtally.run(&["status"], 0)?;
    say(&format!(
        "\nDone: {DATABASE} has {WALLETS} totals, exact to the wei, in the table eth_wallet_balances.\n\
         With a real node:\n\
         \x20 export ETH_RPC_URL=https://your-node DATABASE_URL=postgres://user:password@host/database\n\
         \x20 cargo install --locked --path .\n\
         \x20 ethtally backfill --from-csv examples/wallets.csv\n\
         \x20 ethtally sweep --all --dry-run --rps 20"
    ))
}

/// Runs the real program with these settings.
struct Runner {
    rpc_url: String,
}

impl Runner {
    /// Runs a command like a user, and fails unless it ends with this exit status.
    fn run(&self, arguments: &[&str], expected: i32) -> anyhow::Result<()> {
        say(&format!("$ ethtally {}", arguments.join(" ")))?;
        // The program is one folder above this example.
        let example = env::current_exe()?;
        let folder = example.parent().and_then(Path::parent).context("no parent folder")?;
        let status = Command::new(folder.join("ethtally"))
            .args(arguments)
            .env("ETH_RPC_URL", &self.rpc_url)
            .env("DATABASE_URL", format!("sqlite:{DATABASE}"))
            .status()
            .context("ethtally is not built; run examples/quickstart.sh")?;
        ensure!(status.code() == Some(expected), "ethtally ended with {status}, not {expected}");
        if expected != 0 {
            say(&format!("(exit status {expected}: not in sync)"))?;
        }
        Ok(())
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}
