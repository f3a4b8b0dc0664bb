//! Starts the local chain with N wallets, prints its URL, and runs until stdin closes.
//!
//! `cargo run --locked -p ethtally-testbed --example chain -- 3000`

use std::{
    env,
    io::{self, Read, Write},
};

use anyhow::Context;
use ethtally_testbed::Chain;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count = env::args().nth(1).context("how many wallets?")?.parse()?;
    let chain = Chain::builder().wallets(count).start().await?;
    writeln!(io::stdout(), "{}", chain.url())?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
