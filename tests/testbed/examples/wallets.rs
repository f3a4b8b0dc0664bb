//! Prints the first N wallets of the local chain as CSV, as in `examples/wallets.csv`.
//!
//! `cargo run --locked -p ethtally-testbed --example wallets -- 3000`

use std::{
    env,
    io::{self, BufWriter, Write},
};

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let count = env::args().nth(1).context("how many wallets?")?.parse()?;
    let mut stdout = BufWriter::new(io::stdout().lock());
    writeln!(stdout, "wallet")?;
    for n in 0..count {
        writeln!(stdout, "{}", ethtally_testbed::wallet(n))?;
    }
    Ok(stdout.flush()?)
}
