//! `refresh`: re-read these wallets now.

use std::{collections::HashMap, time::Instant};

use itertools::Itertools;
use serde::Serialize;

use super::outcome::{Tallied, TallyOutcome, verdict};
use crate::{
    App,
    cli::RefreshArgs,
    report::{BAD, Outcome, Paint, Verdict},
    store::Access,
    tally::{Tally, Wallet, pages_of},
};

#[derive(Serialize)]
struct Refreshed {
    #[serde(flatten)]
    summary: TallyOutcome,
    wallets: Vec<RefreshedWallet>,
}

/// A wallet as it was read; the total in wei, decimal.
#[derive(Serialize)]
struct RefreshedWallet {
    wallet: Wallet,
    total: Option<String>,
    read_block: Option<u64>,
    /// For people: the amount, or why there is none.
    #[serde(skip)]
    text: String,
}

impl Outcome for Refreshed {
    fn text(&self, paint: &Paint) -> String {
        let line = |read: &RefreshedWallet| match read.total {
            Some(_) => format!("{}  {}", read.wallet, read.text),
            None => format!("{}  {}", read.wallet, paint.style(BAD, &read.text)),
        };
        self.wallets.iter().map(line).join("\n")
    }
}

pub(super) async fn run(app: &App, args: RefreshArgs) -> anyhow::Result<Verdict> {
    let started = Instant::now();
    let reader = app.reader(None)?;
    let store = app.store(Access::Write).await?;
    let wallets: Vec<Wallet> = args.wallets.into_iter().unique().collect();
    let mut read = HashMap::new();
    let run = {
        let bar = app.report.bar("refresh", wallets.len() as u64);
        let tally =
            Tally { reader: &reader, ledger: store.as_ref(), stop: &app.stop, progress: &bar };
        let pages = pages_of(wallets.clone(), app.page_size() as usize);
        tally
            .run(pages, |block, (wallet, total)| drop(read.insert(*wallet, (block, total.clone()))))
            .await
    };
    let tallied = Tallied::new(app, &run.counts, reader.calls(), started);
    let summary = TallyOutcome {
        command: "refresh",
        requested: wallets.len() as u64,
        tallied,
        ending: tallied.ending(&run),
    };
    let wallet = |wallet: Wallet| {
        let (total, read_block, text) = match read.get(&wallet) {
            Some((block, Ok(total))) => {
                (Some(total.to_string()), Some(*block), app.amount(*total).to_string())
            }
            Some((_, Err(reason))) => (None, None, format!("could not be read: {reason}")),
            None => (None, None, "was not read".to_owned()),
        };
        RefreshedWallet { wallet, total, read_block, text }
    };
    let wallets = wallets.into_iter().map(wallet).collect();
    app.report.note(&summary.text(&Paint::default()));
    app.report.result(&Refreshed { summary, wallets })?;
    verdict(run, args.strict.strict)
}
