//! `verify`: spot-check stored totals against the chain.

use std::collections::HashMap;

use alloy::primitives::U256;
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Serialize, Serializer};

use crate::{
    app::App,
    cli::VerifyArgs,
    read::NodeReader,
    report::{BAD, CommandOutput, GOOD, Styler, Verdict},
    store::{Access, Row, Store},
    tally::{RunError, TotalRead, Wallet},
};

pub(super) async fn run(app: &App, args: VerifyArgs) -> Result<Verdict, RunError> {
    let reader = app.reader(None)?;
    let store = app.store(if args.fix { Access::Write } else { Access::Read }).await?;
    match (args.wallet, args.sample) {
        (Some(wallet), _) => one(app, &reader, store.as_ref(), wallet, args.fix).await,
        (None, sample) => {
            let rows = store.sample(sample.unwrap_or_default()).await?;
            many(app, &reader, store.as_ref(), rows, &args).await
        }
    }
}

/// A wallet's total as it was read both ways at one block, in wei.
struct OnChain {
    block: u64,
    parts: Vec<(String, U256)>,
    /// The sum of the parts.
    total: U256,
    /// What Multicall3 gave.
    batched: U256,
}

impl OnChain {
    fn fits(&self, row: Option<&Row>) -> bool {
        self.total == self.batched && row.is_some_and(|row| row.total == self.total.to_string())
    }

    /// Stores the total, unless the two ways of reading differ; says whether it did.
    async fn store(&self, store: &dyn Store, wallet: Wallet) -> Result<bool, RunError> {
        if self.total != self.batched {
            return Ok(false);
        }
        let read =
            TotalRead { wallet, total: self.total, read_block: self.block, event_block: None };
        Ok(store.record(&[read], &[]).await?.updated == 1)
    }
}

/// Reads each part directly, and sums them; the inner error says why the wallet has no total.
async fn read_directly(
    reader: &NodeReader,
    wallet: Wallet,
    block: u64,
) -> Result<Result<(Vec<(String, U256)>, U256), String>, RunError> {
    let parts = match reader.read_parts(wallet, block).await? {
        Ok(parts) => parts,
        Err(reason) => return Ok(Err(reason)),
    };
    let sum = parts.iter().try_fold(U256::ZERO, |sum, (_, part)| sum.checked_add(*part));
    Ok(sum
        .map(|sum| (parts, sum))
        .ok_or_else(|| "the sum of the parts does not fit a uint256".into()))
}

/// Reads wallets both ways at one block.
async fn read_both_ways(
    app: &App,
    reader: &NodeReader,
    wallets: Vec<Wallet>,
) -> Result<HashMap<Wallet, Result<OnChain, String>>, RunError> {
    let block = reader.pin().await?;
    let batched = reader.read_batched(wallets, block).await?;
    stream::iter(batched)
        .map(async |(wallet, batched)| {
            let direct = read_directly(reader, wallet, block).await?;
            let both = direct.and_then(|(parts, total)| {
                batched.map(|batched| OnChain { block, parts, total, batched })
            });
            Ok((wallet, both))
        })
        .buffer_unordered(app.settings.node.concurrency as usize)
        .try_collect()
        .await
}

/// Pairs as a JSON object in their order.
fn as_object<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, amount)| (name, amount)))
}

/// The result for one wallet; amounts in wei, decimal.
#[derive(Serialize)]
struct VerifiedWallet {
    command: &'static str,
    wallet: Wallet,
    block: u64,
    /// A name and an amount each, in the profile's order.
    #[serde(serialize_with = "as_object")]
    parts: Vec<(String, String)>,
    chain_total: String,
    batched_total: String,
    stored_total: Option<String>,
    stored_read_block: Option<i64>,
    stored_blocknumber: Option<i64>,
    updated_at: Option<String>,
    in_sync: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed: Option<bool>,
    /// For people: a name and an amount on each line.
    #[serde(skip)]
    lines: Vec<(String, String)>,
}

impl CommandOutput for VerifiedWallet {
    fn text(&self, styler: &Styler) -> String {
        let width = self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let lines = self.lines.iter().map(|(name, amount)| format!("  {name:width$}  {amount}\n"));
        let answer = match (self.in_sync, self.fixed) {
            (true, _) => styler.style(GOOD, "in sync"),
            (false, Some(true)) => styler.style(BAD, "drifted; fixed"),
            (false, _) => styler.style(BAD, "drifted"),
        };
        format!("{} at block {}\n{}{answer}", self.wallet, self.block, lines.collect::<String>())
    }
}

async fn one(
    app: &App,
    reader: &NodeReader,
    store: &dyn Store,
    wallet: Wallet,
    fix: bool,
) -> Result<Verdict, RunError> {
    let row = store.row(wallet).await?;
    let read = read_both_ways(app, reader, vec![wallet]).await?.remove(&wallet);
    let on_chain = read.ok_or_else(RunError::stopped)?.map_err(|reason| {
        RunError::Unreadable(format!("wallet {wallet} could not be read: {reason}"))
    })?;
    let in_sync = on_chain.fits(row.as_ref());
    let fixed = match fix {
        true if in_sync => Some(false),
        true => Some(on_chain.store(store, wallet).await?),
        false => None,
    };
    let amount = |wei| app.amount(wei).to_string();
    let stored = match row.as_ref().map(|row| (&row.total, row.total.parse())) {
        Some((_, Ok(total))) => amount(total),
        Some((text, Err(_))) => format!("{text}, which is no uint256"),
        None => "no row".to_owned(),
    };
    let parts = on_chain.parts.iter().map(|(name, part)| (name.clone(), amount(*part)));
    let totals = [
        ("chain total".to_owned(), amount(on_chain.total)),
        ("batched total".to_owned(), amount(on_chain.batched)),
        ("stored total".to_owned(), stored),
    ];
    app.report.result(&VerifiedWallet {
        command: "verify",
        wallet,
        block: on_chain.block,
        lines: parts.chain(totals).collect(),
        parts: (on_chain.parts.iter())
            .map(|(name, part)| (name.clone(), part.to_string()))
            .collect(),
        chain_total: on_chain.total.to_string(),
        batched_total: on_chain.batched.to_string(),
        stored_read_block: row.as_ref().and_then(|row| row.read_block),
        stored_blocknumber: row.as_ref().and_then(|row| row.blocknumber),
        updated_at: row.as_ref().map(|row| rfc3339(row.updated_at)),
        stored_total: row.map(|row| row.total),
        in_sync,
        fixed,
    })?;
    Ok(if in_sync { Verdict::Pass } else { Verdict::Fail })
}

/// The result for a sample.
#[derive(Serialize)]
struct VerifiedSample {
    command: &'static str,
    sampled: u64,
    in_sync: u64,
    drifted: u64,
    unreadable: u64,
    drifted_wallets: Vec<Wallet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed: Option<u64>,
}

impl CommandOutput for VerifiedSample {
    fn text(&self, styler: &Styler) -> String {
        let style = if self.drifted == 0 { GOOD } else { BAD };
        let drifted = styler.style(style, &format!("drifted:{}", self.drifted));
        let mut text = format!(
            "verify complete sampled:{} in_sync:{} {drifted} unreadable:{}",
            self.sampled, self.in_sync, self.unreadable
        );
        if let Some(fixed) = self.fixed {
            text.push_str(&format!(" fixed:{fixed}"));
        }
        for wallet in &self.drifted_wallets {
            text.push_str(&format!("\n{wallet}"));
        }
        text
    }
}

async fn many(
    app: &App,
    reader: &NodeReader,
    store: &dyn Store,
    rows: Vec<Row>,
    args: &VerifyArgs,
) -> Result<Verdict, RunError> {
    let wallets = rows.iter().map(|row| row.wallet).collect();
    let read = read_both_ways(app, reader, wallets).await?;
    let mut outcome = VerifiedSample {
        command: "verify",
        sampled: rows.len() as u64,
        in_sync: 0,
        drifted: 0,
        unreadable: 0,
        drifted_wallets: Vec::new(),
        fixed: args.fix.then_some(0),
    };
    for row in &rows {
        match read.get(&row.wallet) {
            Some(Ok(on_chain)) if on_chain.fits(Some(row)) => outcome.in_sync += 1,
            Some(Ok(on_chain)) => {
                outcome.drifted_wallets.push(row.wallet);
                if let Some(fixed) = &mut outcome.fixed {
                    *fixed += u64::from(on_chain.store(store, row.wallet).await?);
                }
            }
            Some(Err(reason)) => {
                app.report.note(&format!("wallet {} could not be read: {reason}", row.wallet));
                outcome.unreadable += 1;
            }
            // Left out because a stop was asked for.
            None => outcome.sampled -= 1,
        }
    }
    outcome.drifted_wallets.sort_unstable();
    outcome.drifted = outcome.drifted_wallets.len() as u64;
    app.report.result(&outcome)?;
    if outcome.unreadable > 0 && outcome.unreadable == outcome.sampled {
        return Err(RunError::Unreadable(format!(
            "not one of {} wallets could be read; check the profile and --block",
            outcome.sampled
        )));
    }
    let no = outcome.drifted > 0 || args.strict.strict && outcome.unreadable > 0;
    Ok(if no { Verdict::Fail } else { Verdict::Pass })
}

/// A time as JSON shows it, in UTC.
pub(super) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
