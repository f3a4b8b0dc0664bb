//! Reading without writing, and writing without reading: each through the program's own way from
//! pages to records, with nothing at the other end.

use std::{sync::Arc, time::Instant};

use alloy::primitives::{B256, U256};
use anyhow::ensure;
use async_trait::async_trait;
use ethtally::{
    chain::{BlockChoice, Client, ClientSettings, Contracts, MulticallReader, ReaderSettings},
    profile::Profile,
    store::{self, Access},
    tally::{
        Ledger, Progress, Reader, Reading, Recorded, Run, Stop, Tally, TotalRead, Unreadable,
        Wallet,
    },
};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::{
    Arguments, Method,
    ground::{Ground, Table},
    program::own_cpu,
    report::{Row, What, say},
};

/// Wallets in a page, as the program has it.
const PAGE: usize = 5_000;

/// The reader that the program makes of the same settings.
fn reader(url: &str, method: Method, arguments: &Arguments) -> anyhow::Result<MulticallReader> {
    let (profile, stop) = (Profile::audius(), Stop::default());
    let settings = ClientSettings {
        urls: vec![url.parse()?],
        requests_per_second: None,
        retries: 5,
        timeout: std::time::Duration::from_secs(30),
        block: BlockChoice::Latest,
        contracts: Contracts::OfTotals,
    };
    let client = Arc::new(Client::new(settings, &profile, stop.clone())?);
    // Until the library can do more: one method, and a chunk that does not find its size.
    ensure!(method == Method::Multicall3, "this version reads through Multicall3 only");
    let settings = ReaderSettings {
        block: BlockChoice::Latest,
        chunk: arguments.chunk.unwrap_or(200) as usize,
        concurrency: arguments.concurrency as usize,
    };
    Ok(MulticallReader::new(client, &profile, settings, stop))
}

/// Reads every wallet and stores nothing.
pub(crate) async fn reading(
    ground: &Ground,
    method: Method,
    arguments: &Arguments,
) -> anyhow::Result<Row> {
    let what = What::Reading(method);
    say(format_args!("{what} …"));
    let reader = reader(&ground.chain.url(), method, arguments)?;
    let row = measured(what, ground, &reader, &Nowhere).await?;
    Ok(Row { calls: Some(reader.calls()), ..row })
}

/// Writes a total for every wallet and reads nothing.
pub(crate) async fn writing(ground: &Ground, table: &Table) -> anyhow::Result<Row> {
    let what = What::Writing;
    say(format_args!("{what} …"));
    let store = store::open(&table.url, Access::Write).await?;
    store.migrate().await?;
    let row = measured(what, ground, &Known, store.as_ref()).await?;
    store.close().await;
    Ok(row)
}

/// All wallets from this reader to this ledger, in the order in which a sweep takes them.
async fn measured(
    what: What,
    ground: &Ground,
    reader: &dyn Reader,
    ledger: &dyn Ledger,
) -> anyhow::Result<Row> {
    let count = ground.wallets.len() as u64;
    let pages = stream::iter(ground.wallets.chunks(PAGE).map(|page| Ok(page.to_vec())));
    let tally = Tally { reader, ledger, stop: &Stop::default(), progress: &Nobody };
    let (started, cpu) = (Instant::now(), own_cpu()?);
    let run = tally.run(pages, |_, _| {}).await;
    let (time, cpu) = (started.elapsed(), own_cpu()?.saturating_sub(cpu));
    let Run { counts, error, .. } = run;
    error.map_or(Ok(()), Err)?;
    ensure!(counts.updated == count, "of {count} wallets only {} were done", counts.updated);
    Ok(Row { time, cpu: Some(cpu), ..Row::new(what, count) })
}

/// A node that knows every total at once, with as many digits as those of the chain.
struct Known;

#[async_trait]
impl Reader for Known {
    async fn pin(&self) -> anyhow::Result<u64> {
        Ok(1)
    }

    fn read(&self, wallets: Vec<Wallet>, _: u64) -> BoxStream<'_, anyhow::Result<Vec<Reading>>> {
        let total = |wallet: &Wallet| U256::from_be_slice(&wallet.address()[..9]);
        let readings = wallets.iter().map(|wallet| (*wallet, Ok(total(wallet)))).collect();
        stream::iter([Ok(readings)]).boxed()
    }

    fn read_block(
        &self,
        wallets: Vec<Wallet>,
        block: u64,
        _: B256,
    ) -> BoxStream<'_, anyhow::Result<Vec<Reading>>> {
        self.read(wallets, block)
    }
}

/// A database that stores nothing.
struct Nowhere;

#[async_trait]
impl Ledger for Nowhere {
    async fn record(&self, totals: &[TotalRead], _: &[Unreadable]) -> anyhow::Result<Recorded> {
        Ok(Recorded { updated: totals.len() as u64, superseded: 0 })
    }
}

struct Nobody;

impl Progress for Nobody {
    fn wallets(&self, _: u64, _: u64) {}
}
