//! Reads wallets' total AUDIO with the library: `cargo run --locked --example totals -- URL ADDRESS...`
//!
//! Prints a line for each wallet, and fails if a wallet cannot be read.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use ethtally::{BlockChoice, Profile, ReadOptions, TotalsReader, Wallet};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let are_all_read = run(env::args().skip(1), &mut io::stdout()).await?;
    Ok(if are_all_read { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the totals of the wallets that the arguments name, behind the URL of a node; whether all could be read.
pub(crate) async fn run(
    mut arguments: impl Iterator<Item = String>,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let url = arguments.next().context("usage: totals URL ADDRESS...")?;
    let wallets = arguments
        .map(|text| text.parse::<Wallet>().with_context(|| format!("{text:?} is not an address")))
        .collect::<Result<Vec<_>, _>>()?;

    let reader = TotalsReader::new(&Profile::audius(), [&*url], &ReadOptions::default())?;
    let totals = reader.read(&wallets, BlockChoice::Latest).await?;

    for (wallet, total) in &totals.wallets {
        match total {
            Ok(total) => writeln!(out, "{wallet} {}", total.sum)?,
            Err(reason) => writeln!(out, "{wallet} cannot be read: {reason}")?,
        }
    }
    Ok(totals.wallets.iter().all(|(_, total)| total.is_ok()))
}
