//! `verify`: spot-check stored totals against the chain.
//!
//! `page` reads wallets in a few attempts, each `both_ways` at one block; `judge` finds out why a row differs, with
//! `explain` where the node has lost the old state; `one` and `sample` report it.
//! `prove` proves what `one` read.

mod both_ways;
mod drift;
mod explain;
mod fix;
mod judge;
mod one;
mod page;
mod prove;
mod sample;
mod stale;

use std::sync::Arc;

pub(super) use one::{as_object, rfc3339};

use self::{both_ways::BothWays, judge::Judge, page::PageReader, prove::Prover};
use crate::{
    app::App, cli::VerifyArgs, report::Verdict, rpc::Contracts, store::Access, tally::RunError,
};

pub(super) async fn run(app: &App, args: VerifyArgs) -> Result<Verdict, RunError> {
    let client = app.client(Contracts::OfTotals, None)?;
    let reader = Arc::new(app.reader_through(Arc::clone(&client)));
    let store = app.store(if args.fix { Access::Update } else { Access::Read }).await?;
    let pages = PageReader { app, both_ways: BothWays { app, reader: &reader } };
    let prover = args.proof.then(|| Prover::new(app, Arc::clone(&client))).transpose()?;
    let judge = Judge::new(app, client, Arc::clone(&reader));
    match args.wallet {
        Some(wallet) => one::run(app, &pages, judge, prover, store.as_ref(), wallet, &args).await,
        None => sample::run(app, &pages, judge, store.as_ref(), &args).await,
    }
}
