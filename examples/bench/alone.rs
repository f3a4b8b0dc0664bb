//! Reading without writing, and writing without reading: each runs the program's own pipeline with a null
//! reader or a null ledger.

use std::{sync::Arc, time::Instant};

use alloy::primitives::{B256, U256};
use anyhow::ensure;
use async_trait::async_trait;
use ethtally::{
    profile::Profile,
    read::{ChunkLimit, MethodChoice, NodeReader, ReaderSettings},
    rpc::{BlockChoice, Client, ClientSettings, Contracts, RateLimits},
    store::{self, Access},
    tally::{
        Chunk, Ledger, Pages, Pipeline, Progress, Reader, Recorded, Retries, RunError, RunSummary,
        Shutdown, TotalRead, Unreadable, Wallet,
    },
};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::{
    Arguments, Method,
    fixture::Fixture,
    program::own_cpu,
    report::{Row, What, say},
    table::Table,
};

/// Wallets per page, as in the program.
const PAGE: usize = 5_000;

/// The reader that the program builds from the same settings.
fn reader(url: &str, method: Method, arguments: &Arguments) -> anyhow::Result<NodeReader> {
    let (profile, shutdown) = (Profile::audius(), Shutdown::default());
    let settings = ClientSettings {
        urls: vec![url.parse()?],
        rates: RateLimits::default(),
        concurrency: arguments.concurrency as usize,
        retries: 5,
        timeout: std::time::Duration::from_secs(30),
        block: BlockChoice::Latest,
        contracts: Contracts::OfTotals,
        // A chain made for the benchmark may stand still.
        max_head_age: None,
    };
    let client = Arc::new(Client::new(settings, &profile, shutdown.clone())?);
    let chunk = match arguments.chunk {
        Some(wallets) => ChunkLimit::AtMost((wallets as usize).try_into()?),
        None => ChunkLimit::Auto,
    };
    let settings = ReaderSettings {
        block: BlockChoice::Latest,
        chunk,
        method: match method {
            Method::Multicall3 => MethodChoice::Multicall3,
            Method::Packed => MethodChoice::Packed,
            Method::Auto => MethodChoice::Auto,
        },
    };
    Ok(NodeReader::new(client, &profile, settings, shutdown))
}

/// Reads every wallet and stores nothing.
pub(crate) async fn reading(
    fixture: &Fixture,
    method: Method,
    arguments: &Arguments,
) -> anyhow::Result<Row> {
    let what = What::Reading(method);
    say(format_args!("{what} …"));
    let reader = reader(&fixture.chain.url(), method, arguments)?;
    let row = measured(what, fixture, &reader, &NullLedger).await?;
    Ok(Row { calls: Some(reader.calls()), ..row })
}

/// Writes a total for every wallet and reads nothing.
pub(crate) async fn writing(fixture: &Fixture, table: &Table) -> anyhow::Result<Row> {
    let what = What::Writing;
    say(format_args!("{what} …"));
    let store =
        store::open(&table.url, None, Vec::new(), Access::Write, &Shutdown::default()).await?;
    store.migrate().await?;
    let row = measured(what, fixture, &NullReader, store.as_ref()).await?;
    store.close().await;
    Ok(row)
}

/// Measures all wallets from this reader to this ledger, in the order of a sweep.
async fn measured(
    what: What,
    fixture: &Fixture,
    reader: &dyn Reader,
    ledger: &dyn Ledger,
) -> anyhow::Result<Row> {
    let count = fixture.wallets.len() as u64;
    let pages = stream::iter(fixture.wallets.chunks(PAGE).map(|page| Ok(page.to_vec())));
    let (shutdown, retries) = (&Shutdown::default(), &Retries::default());
    let pipeline = Pipeline { reader, ledger, shutdown, progress: &NoProgress, retries };
    let (started, cpu) = (Instant::now(), own_cpu()?);
    let run = pipeline.run(pages, |_, _, _| {}).await;
    let (time, cpu) = (started.elapsed(), own_cpu()?.saturating_sub(cpu));
    let RunSummary { counts, error, .. } = run;
    error.map_or(Ok(()), Err)?;
    ensure!(counts.updated == count, "of {count} wallets only {} were processed", counts.updated);
    Ok(Row { time, cpu: Some(cpu), ..Row::new(what, count) })
}

/// A reader that returns a total for every wallet at once, with as many digits as a real one.
struct NullReader;

impl Reader for NullReader {
    fn read<'a>(&'a self, pages: Pages<'a>) -> BoxStream<'a, Chunk> {
        let total = |wallet: &Wallet| U256::from_be_slice(&wallet.address()[..9]);
        pages
            .map(move |page| match page {
                Ok(wallets) => Chunk {
                    block: 1,
                    requested: wallets.len() as u64,
                    readings: wallets
                        .iter()
                        .map(|wallet| (*wallet, Ok(total(wallet).into())))
                        .collect(),
                    error: None,
                },
                Err(error) => Chunk { error: Some(error), ..Chunk::default() },
            })
            .boxed()
    }

    fn read_block<'a>(&'a self, pages: Pages<'a>, _: u64, _: B256) -> BoxStream<'a, Chunk> {
        self.read(pages)
    }
}

/// A ledger that stores nothing.
struct NullLedger;

#[async_trait]
impl Ledger for NullLedger {
    async fn record(&self, totals: &[TotalRead], _: &[Unreadable]) -> Result<Recorded, RunError> {
        Ok(Recorded { updated: totals.len() as u64, ..Recorded::default() })
    }
}

/// Shows no progress.
struct NoProgress;

impl Progress for NoProgress {
    fn wallets(&self, _: u64, _: u64) {}
}
