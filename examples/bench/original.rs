//! The original system, which sweeps its table in ticks: 50 wallets, one `aggregate3`, one INSERT of 50 rows; here
//! without the pause of 30 s between ticks.

use std::time::{Duration, Instant};

use alloy::{
    primitives::{Address, Bytes, U256},
    providers::{
        Provider, RootProvider,
        bindings::IMulticall3::{Call3, aggregate3Call},
    },
    rpc::client::RpcClient,
    sol_types::{SolCall, SolValue},
    transports::http::{Http, reqwest},
};
use anyhow::{Context, ensure};
use ethtally::profile::{MULTICALL3, Profile};
use serde_json::{Value, json};
use sqlx::{PgConnection, SqliteConnection};

use crate::{
    fixture::{Fixture, postgres, sqlite},
    price::{self, Price},
    table::Table,
};

/// Wallets per tick and call.
pub(crate) const WALLETS_A_TICK: u64 = 50;

/// Its connection, on which each statement is a round trip and a transaction.
enum Connection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// Runs this many ticks; returns their time, and a note on where it was spent.
pub(crate) async fn run(
    table: &Table,
    node: &str,
    ticks: u64,
) -> anyhow::Result<(Duration, String)> {
    ensure!(ticks > 0, "there are no ticks to time");
    let provider = provider(node)?;
    let mut connection = Connection::open(table).await?;
    let (mut selects, mut calls) = (Duration::ZERO, Duration::ZERO);
    let started = Instant::now();
    for _ in 0..ticks {
        let begun = Instant::now();
        let wallets = connection.oldest().await?;
        selects += begun.elapsed();
        ensure!(wallets.len() as u64 == WALLETS_A_TICK, "a tick of {} wallets", wallets.len());
        let begun = Instant::now();
        let returned: Bytes =
            provider.raw_request("eth_call".into(), call(&wallets, "latest")).await?;
        calls += begun.elapsed();
        connection.upsert(&wallets, totals(&returned)?).await?;
    }
    let time = started.elapsed();
    let of_each = |time: Duration| time.as_secs_f64() * 1e3 / ticks as f64;
    let note = format!(
        "{:.1} ms per tick: select {:.1}, eth_call {:.1}, upsert {:.1}",
        of_each(time),
        of_each(selects),
        of_each(calls),
        of_each(time - selects - calls)
    );
    Ok((time, note))
}

/// The price of one of its calls.
pub(crate) async fn price(fixture: &Fixture) -> anyhow::Result<Price> {
    let wallets: Vec<_> = fixture
        .wallets
        .iter()
        .take(WALLETS_A_TICK as usize)
        .map(|wallet| wallet.address())
        .collect();
    price::of_call(&fixture.chain, call(&wallets, "latest"), WALLETS_A_TICK).await
}

/// A provider that keeps its connection open, like Go's HTTP client.
fn provider(node: &str) -> anyhow::Result<RootProvider> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let transport = Http::with_client(client, node.parse()?);
    Ok(RootProvider::new(RpcClient::new(transport, true)))
}

fn call(wallets: &[Address], block: &str) -> Value {
    let views: Vec<_> = Profile::audius().reads.into_iter().map(|read| read.view).collect();
    let part = |wallet: &Address, view: &ethtally::profile::View| Call3 {
        target: view.contract,
        allowFailure: true,
        callData: [view.function.selector().as_slice(), wallet.into_word().as_slice()]
            .concat()
            .into(),
    };
    let calls = wallets
        .iter()
        .flat_map(|wallet| views.iter().map(move |view| part(wallet, view)))
        .collect();
    let data: Bytes = aggregate3Call { calls }.abi_encode().into();
    json!([{ "to": MULTICALL3, "data": data }, block])
}

fn totals(returned: &[u8]) -> anyhow::Result<Vec<U256>> {
    let results = aggregate3Call::abi_decode_returns(returned)?;
    let parts: Vec<U256> =
        results.iter().map(|part| U256::abi_decode(&part.returnData)).collect::<Result<_, _>>()?;
    let views = Profile::audius().reads.len();
    Ok(parts.chunks(views).map(|parts| parts.iter().sum()).collect())
}

impl Connection {
    async fn open(table: &Table) -> anyhow::Result<Self> {
        // The original's table does not have this index.
        const DROP: &str = "drop index if exists eth_wallet_balances_sweep_idx";
        Ok(if table.url.starts_with("sqlite:") {
            let mut connection = sqlite(&table.url).await?;
            sqlx::raw_sql(DROP).execute(&mut connection).await?;
            Self::Sqlite(connection)
        } else {
            let mut connection = postgres(&table.url).await?;
            sqlx::raw_sql(DROP).execute(&mut connection).await?;
            Self::Postgres(connection)
        })
    }

    async fn oldest(&mut self) -> anyhow::Result<Vec<Address>> {
        const OLDEST: &str = "select wallet from eth_wallet_balances order by updated_at limit 50";
        let texts: Vec<String> = match self {
            Self::Postgres(connection) => sqlx::query_scalar(OLDEST).fetch_all(connection).await?,
            Self::Sqlite(connection) => sqlx::query_scalar(OLDEST).fetch_all(connection).await?,
        };
        texts.iter().map(|text| text.parse().context("an invalid wallet")).collect()
    }

    /// Stores all of them in one statement.
    async fn upsert(&mut self, wallets: &[Address], totals: Vec<U256>) -> anyhow::Result<()> {
        let wallets = wallets.iter().map(|wallet| format!("{wallet:#x}"));
        let totals = totals.iter().map(U256::to_string);
        match self {
            Self::Postgres(connection) => {
                sqlx::query(
                    "insert into eth_wallet_balances as stored (wallet, balance, blocknumber, updated_at)
                     select wallet, balance::numeric, null, now()
                     from unnest($1::text[], $2::text[]) as read (wallet, balance)
                     on conflict (wallet) do update set
                         balance = excluded.balance,
                         blocknumber = greatest(stored.blocknumber, excluded.blocknumber),
                         updated_at = excluded.updated_at",
                )
                .bind(wallets.collect::<Vec<_>>())
                .bind(totals.collect::<Vec<_>>())
                .execute(connection)
                .await?;
            }
            Self::Sqlite(connection) => {
                sqlx::query(
                    "insert into eth_wallet_balances as stored
                         (wallet, balance, blocknumber, updated_at, created_at)
                     select value ->> 0, value ->> 1, null, datetime('now'), datetime('now')
                     from json_each($1)
                     where true
                     on conflict (wallet) do update set
                         balance = excluded.balance,
                         updated_at = excluded.updated_at",
                )
                .bind(serde_json::to_string(&wallets.zip(totals).collect::<Vec<_>>())?)
                .execute(connection)
                .await?;
            }
        }
        Ok(())
    }
}
