//! `refresh`: re-read these wallets now.

use std::collections::HashMap;

use itertools::Itertools;
use serde::Serialize;

use super::{
    story::{RunOutput, Story, verdict},
    verify::as_object,
};
use crate::{
    app::{App, PAGE},
    cli::RefreshArgs,
    report::{BAD, CommandOutput, RunOutcome, Styler, Verdict},
    store::Access,
    tally::{Outcome, Retries, RunError, Wallet, pages_of},
};

#[derive(Serialize)]
struct Refreshed {
    #[serde(flatten)]
    summary: RunOutput,
    wallets: Vec<RefreshedWallet>,
}

/// A wallet as it was read; the total in wei, decimal.
#[derive(Serialize)]
struct RefreshedWallet {
    wallet: Wallet,
    total: Option<String>,
    /// Those parts that have a column; `null` where none was read.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_object")]
    parts: Vec<(String, Option<String>)>,
    read_block: Option<u64>,
    /// For people: the amount, or why there is none.
    #[serde(skip)]
    text: String,
}

impl CommandOutput for Refreshed {
    fn text(&self, styler: &Styler) -> String {
        let line = |read: &RefreshedWallet| match read.total {
            Some(_) => format!("{}  {}", read.wallet, read.text),
            None => format!("{}  {}", read.wallet, styler.style(BAD, &read.text)),
        };
        self.wallets.iter().map(line).join("\n")
    }

    fn outcome(&self) -> RunOutcome {
        self.summary.outcome()
    }
}

pub(super) async fn run(app: &App, args: RefreshArgs) -> Result<Verdict, RunError> {
    let story = Story::open(app, "refresh", Some(app.reader(None)?), Access::Write).await?;
    let wallets: Vec<Wallet> = args.wallets.into_iter().unique().collect();
    let requested = wallets.len() as u64;
    let mut read = HashMap::new();
    let pages = pages_of(wallets.clone(), PAGE as usize);
    let keep =
        |block, wallet, outcome: &Outcome| drop(read.insert(wallet, (block, outcome.clone())));
    let none = Retries::default();
    let run = story.run(story.store.as_ref(), requested, pages, &none, keep).await;
    let summary = RunOutput { command: "refresh", requested, counts: story.counts(&run) };
    let columns: Vec<_> = app.profile.columns().map(|(name, _)| name).collect();
    let wallet = |wallet: Wallet| {
        let mut parts: Vec<_> = columns.iter().map(|name| ((*name).to_owned(), None)).collect();
        let (total, read_block, text) = match read.get(&wallet) {
            Some((block, Outcome::Read(total))) => {
                let mut text = app.amount(total.sum).to_string();
                for ((name, shown), part) in parts.iter_mut().zip(&total.parts) {
                    text.push_str(&format!(", {name} {}", app.amount(*part)));
                    *shown = Some(part.to_string());
                }
                (Some(total.sum.to_string()), Some(*block), text)
            }
            Some((_, Outcome::Unreadable(reason))) => {
                (None, None, format!("could not be read: {reason}"))
            }
            Some((_, Outcome::Refused(reason))) => (None, None, reason.clone()),
            None => (None, None, "was not read".to_owned()),
        };
        RefreshedWallet { wallet, total, parts, read_block, text }
    };
    let wallets = wallets.into_iter().map(wallet).collect();
    app.report.note(&summary.text(&Styler::default()));
    app.report.result(&Refreshed { summary, wallets })?;
    verdict(run, args.strict.strict)
}
