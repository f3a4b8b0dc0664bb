//! How fast a sweep is, beside reading alone and writing alone, in one run.
//!
//! Starts its own Anvil and PostgreSQL. These share the machine with the program, as
//! they do not in production: the ratios hold, the absolute numbers are of this machine.
//!
//! `examples/bench.sh --wallets 200000 --database postgres`

use std::{
    env,
    future::Future,
    io::{self, Write},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::primitives::U256;
use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use ethtally::{
    chain::{
        BlockChoice, ChunkLimit, Client, ClientSettings, Contracts, MethodChoice, NodeReader,
        PaceSettings, ReaderSettings,
    },
    profile::Profile,
    store::{self, Access, Store},
    tally::{Reader, Stop, TotalRead, Wallet, pages_of},
};
use ethtally_testbed::{Chain, postgres::Cluster, wallet};
use futures_util::StreamExt;
use serde_json::Value;

/// Wallets in a page, as the program has it.
const PAGE: usize = 5_000;

#[derive(Parser)]
struct Arguments {
    /// How many wallets the chain and the table have
    #[arg(long, default_value_t = 200_000)]
    wallets: u64,
    /// Where the table is
    #[arg(long, value_enum, default_value = "postgres")]
    database: Backend,
    /// Wallets in one eth_call
    #[arg(long, default_value_t = 200)]
    chunk: usize,
    /// eth_calls in flight
    #[arg(long, default_value_t = 4)]
    concurrency: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    Postgres,
    Sqlite,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let wallets: Vec<Wallet> = (0..arguments.wallets).map(|n| wallet(n).into()).collect();
    let chain = Chain::builder().wallets(arguments.wallets).start().await?;
    let folder = tempfile::tempdir()?;
    // As a server runs in production, durable writes included.
    let settings = [("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on")];
    let cluster = match arguments.database {
        Backend::Postgres => Some(Cluster::start_with(&settings)?),
        Backend::Sqlite => None,
    };
    let database = |name: &str| match &cluster {
        Some(cluster) => cluster.create_database(name),
        None => Ok(format!("sqlite:{}", folder.path().join(name).display())),
    };

    let reading = timed(read_all(&chain, &arguments, &wallets)).await?;
    let writing = {
        let store = table_of(&database("writing")?, &wallets).await?;
        timed(write_all(store.as_ref(), &wallets)).await?
    };
    let url = database("sweep")?;
    drop(table_of(&url, &wallets).await?);
    let sweep = sweep(&chain, &url, &arguments)?;

    let per_second = |time: Duration| arguments.wallets as f64 / time.as_secs_f64();
    let floor = reading + writing;
    let rows = [
        ("reading alone", reading, String::new()),
        ("writing alone", writing, String::new()),
        (
            "sweep --all",
            sweep.time,
            format!("{} eth_calls, {} MiB at its peak", sweep.calls, sweep.peak_kib / 1024),
        ),
    ];
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} wallets, {} an eth_call, {} in flight",
        arguments.wallets, arguments.chunk, arguments.concurrency
    )?;
    for (what, time, note) in rows {
        writeln!(
            out,
            "{what:<15} {:>8.2} s {:>9.0} wallets/s  {note}",
            time.as_secs_f64(),
            per_second(time)
        )?;
    }
    writeln!(
        out,
        "one after the other would take {:.2} s; the sweep takes {:.2} of that",
        floor.as_secs_f64(),
        sweep.time.as_secs_f64() / floor.as_secs_f64()
    )?;
    Ok(())
}

async fn timed(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Duration> {
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed())
}

/// Reads every wallet and stores nothing.
async fn read_all(chain: &Chain, arguments: &Arguments, wallets: &[Wallet]) -> anyhow::Result<()> {
    let (profile, stop) = (Profile::audius(), Stop::default());
    let settings = ClientSettings {
        urls: vec![chain.url().parse()?],
        pace: PaceSettings::default(),
        concurrency: arguments.concurrency,
        retries: 0,
        timeout: Duration::from_secs(60),
        block: BlockChoice::Latest,
        contracts: Contracts::OfTotals,
    };
    let client = Arc::new(Client::new(settings, &profile, stop.clone())?);
    let settings = ReaderSettings {
        block: BlockChoice::Latest,
        chunk: ChunkLimit::AtMost(arguments.chunk.try_into()?),
        concurrency: arguments.concurrency.try_into()?,
        method: MethodChoice::Multicall3,
    };
    let reader = NodeReader::new(client, &profile, settings, stop);
    let mut chunks = reader.read(pages_of(wallets.to_vec(), PAGE).boxed());
    let mut read = 0;
    while let Some(chunk) = chunks.next().await {
        read += chunk.readings.iter().filter(|(_, total)| total.is_ok()).count();
    }
    ensure!(read == wallets.len(), "not every wallet was read");
    Ok(())
}

/// A table that holds every wallet, none of them read.
async fn table_of(url: &str, wallets: &[Wallet]) -> anyhow::Result<Box<dyn Store>> {
    let store = store::open(url, Access::Write).await?;
    store.migrate().await?;
    for page in wallets.chunks(PAGE) {
        store.insert_placeholders(page).await?;
    }
    Ok(store)
}

/// Writes a total for every wallet and reads nothing.
async fn write_all(store: &dyn Store, wallets: &[Wallet]) -> anyhow::Result<()> {
    for page in wallets.chunks(PAGE) {
        let totals: Vec<_> = (page.iter())
            .map(|wallet| TotalRead {
                wallet: *wallet,
                total: U256::from_be_slice(wallet.address().as_slice()),
                read_block: 1,
                event_block: None,
            })
            .collect();
        store.record(&totals, &[]).await?;
    }
    Ok(())
}

struct Sweep {
    time: Duration,
    calls: u64,
    peak_kib: u64,
}

/// Runs the real program.
fn sweep(chain: &Chain, url: &str, arguments: &Arguments) -> anyhow::Result<Sweep> {
    // The program stands one folder above this example.
    let example = env::current_exe()?;
    let folder = example.parent().and_then(Path::parent).context("no folder above")?;
    let started = Instant::now();
    let mut child = Command::new(folder.join("ethtally"))
        .args(["sweep", "--all", "--json", "--chunk", &arguments.chunk.to_string()])
        .args(["--concurrency", &arguments.concurrency.to_string()])
        .env("ETH_RPC_URL", chain.url())
        .env("DATABASE_URL", url)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("ethtally is not built; run examples/bench.sh")?;
    let mut peak_kib = 0;
    while child.try_wait()?.is_none() {
        peak_kib = peak_kib.max(peak_memory_kib(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let time = started.elapsed();
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the sweep ended with {}", output.status);
    let result: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(result["updated"] == arguments.wallets, "not every wallet was swept: {result}");
    Ok(Sweep { time, calls: result["calls"].as_u64().unwrap_or_default(), peak_kib })
}

/// The most memory that a running process has had so far, from Linux's /proc.
fn peak_memory_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
