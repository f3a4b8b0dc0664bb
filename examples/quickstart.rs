//! The quick start: a chain of our own, the real program, and SQLite. Needs no account anywhere.
//!
//! `examples/quickstart.sh` installs Anvil, builds both programs and runs this one.

use std::{
    env, fs,
    io::{self, Write},
    path::Path,
    process::Command,
};

use alloy::primitives::U256;
use anyhow::{Context, ensure};
use ethtally_testbed::{Chain, wallet};

/// Where the table is left behind.
const DATABASE: &str = "quickstart.db";
/// As many wallets as `examples/wallets.csv` names.
const WALLETS: u64 = 3_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    for suffix in ["", "-shm", "-wal"] {
        let _ = fs::remove_file(format!("{DATABASE}{suffix}"));
    }
    say(
        "Starting a chain of our own: chain id 1, Multicall3, stand-ins for the AUDIO contracts …",
    )?;
    let chain = Chain::builder().wallets(WALLETS).chain_id(1).start().await?;
    let csv = "examples/wallets.csv";
    let tally = Tally { rpc_url: chain.url() };
    let (giver, taker) = (wallet(11), wallet(12));

    say("\n1. Take the wallets in from a CSV file. Two of its rows are bad; they are reported.")?;
    tally.run(&["backfill", "--from-csv", csv], 0)?;
    say("\n2. Sweep: re-read the stalest rows, as cron would.")?;
    tally.run(&["sweep", "--batch", "1000"], 0)?;
    say("\n3. Something happens on the chain: a transfer. The table does not know of it yet.")?;
    chain.transfer(giver, taker, U256::from(1_000_000_000_000_000_000_u64)).await?;
    tally.run(&["verify", &taker.to_string()], 1)?;
    say("\n4. Refresh the two wallets, and verify again.")?;
    tally.run(&["refresh", &giver.to_string(), &taker.to_string()], 0)?;
    tally.run(&["verify", &taker.to_string()], 0)?;
    say("\n5. How fresh is the table?")?;
    tally.run(&["status"], 0)?;
    say(&format!(
        "\nDone: {WALLETS} totals, exact to the wei, are in {DATABASE}, table eth_wallet_balances.\n\
         Against a real node:\n\
         \x20 export ETH_RPC_URL=https://your-node DATABASE_URL=postgres://user:password@host/database\n\
         \x20 cargo install --path .\n\
         \x20 ethtally backfill --from-csv examples/wallets.csv\n\
         \x20 ethtally sweep --all --dry-run --rps 20"
    ))
}

/// The real program, with its settings.
struct Tally {
    rpc_url: String,
}

impl Tally {
    /// Runs a command as a person would, and expects this exit status.
    fn run(&self, arguments: &[&str], expected: i32) -> anyhow::Result<()> {
        say(&format!("$ ethtally {}", arguments.join(" ")))?;
        // The program stands one folder above this example.
        let example = env::current_exe()?;
        let folder = example.parent().and_then(Path::parent).context("no folder above")?;
        let status = Command::new(folder.join("ethtally"))
            .args(arguments)
            .env("ETH_RPC_URL", &self.rpc_url)
            .env("DATABASE_URL", format!("sqlite:{DATABASE}"))
            .status()
            .context("ethtally is not built; run examples/quickstart.sh")?;
        ensure!(status.code() == Some(expected), "it ended with {status}, not {expected}");
        if expected != 0 {
            say(&format!("(exit status {expected}: the answer is no)"))?;
        }
        Ok(())
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}
