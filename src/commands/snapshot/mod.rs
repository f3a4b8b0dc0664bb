//! `snapshot`: every wallet's total at one block, as a file; and what can be told from such files.

mod check;
mod files;
mod in_order;
mod proof;
mod reading;
mod since;
mod take;
mod wallets;

use crate::{app::App, cli::SnapshotArgs, report::Verdict, tally::RunError};

pub(super) async fn run(app: &App, args: SnapshotArgs) -> Result<Verdict, RunError> {
    match (&args.file, args.proof, &args.since, &args.out) {
        (Some(file), Some(wallet), ..) => proof::run(app, wallet, file).await,
        (Some(file), _, Some(older), Some(out)) => since::run(app, older, file, out).await,
        (Some(file), ..) => check::run(app, &args, file).await,
        (None, ..) => take::run(app, &args).await,
    }
}
