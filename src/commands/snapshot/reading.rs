//! Reads the wallets of a snapshot at its block, and writes their rows in order.

use futures_util::StreamExt;
use tokio::{sync::mpsc, task::JoinHandle};

use super::in_order::InOrder;
use crate::{
    app::App,
    cli::SnapshotArgs,
    read::NodeReader,
    snapshot::{SnapshotBlock, Unfinished},
    tally::{Progress, Reader, RunError, Total, Wallet},
};

/// Wallets that may be missing: with more, it is not the wallets that are at fault.
const MOST_MISSING: usize = 10_000;
/// How many of them are named on stderr.
const MISSING_SHOWN: usize = 10;

/// A snapshot that is being read.
pub(super) struct Run<'a> {
    pub(super) app: &'a App,
    pub(super) args: &'a SnapshotArgs,
    pub(super) reader: NodeReader,
    pub(super) block: SnapshotBlock,
}

/// Rows on their way to the file; without a total if it is missing.
type Rows = Vec<(Wallet, Option<Total>)>;

impl Run<'_> {
    /// Reads what is left. Returns how that ended, too; what was read by then is in the file.
    pub(super) async fn read(
        &self,
        unfinished: Unfinished,
    ) -> Result<(Unfinished, Result<(), RunError>), RunError> {
        let bar = self.app.report.bar("snapshot", unfinished.left());
        let missing = unfinished.missing();
        let order = InOrder::new();
        let pages = order.pages(unfinished.wallets()?);
        let pages = pages.take_until(self.app.shutdown.requested());
        let SnapshotBlock { number, hash, .. } = self.block;
        let mut chunks = self.reader.read_block(pages.boxed(), number, hash);
        let (rows, writer) = start_writer(unfinished);
        let mut missing = Missing { run: self, count: missing };
        let mut ended = Ok(());
        while let Some(chunk) = chunks.next().await {
            let failed = chunk.readings.iter().filter(|(_, read)| read.is_err()).count();
            bar.wallets(chunk.readings.len() as u64, failed as u64);
            if let Some(error) = chunk.error
                && ended.is_ok()
                && !(error.is_stopped() && self.app.shutdown.is_requested())
            {
                ended = Err(error);
            }
            let mut ready = Rows::new();
            let mut is_over = false;
            for (wallet, read) in order.take(chunk.readings) {
                match read {
                    Ok(total) => ready.push((wallet, Some(total))),
                    Err(reason) => match missing.add(wallet, &reason) {
                        Ok(()) => ready.push((wallet, None)),
                        Err(error) => {
                            (ended, is_over) = (Err(error), true);
                            break;
                        }
                    },
                }
            }
            // If it takes no more, it says why at the end.
            if rows.send(ready).await.is_err() || is_over {
                break;
            }
        }
        drop(rows);
        let unfinished = match writer.await {
            Ok(written) => written?,
            Err(panicked) => return Err(RunError::settings(panicked)),
        };
        Ok((unfinished, ended))
    }
}

/// Wallets that cannot be read.
struct Missing<'a> {
    run: &'a Run<'a>,
    count: usize,
}

impl Missing<'_> {
    fn add(&mut self, wallet: Wallet, reason: &str) -> Result<(), RunError> {
        let number = self.run.block.number;
        if !self.run.args.allow_missing {
            return Err(RunError::Unreadable(format!(
                "{wallet} cannot be read at block {number}: {reason}; give --allow-missing to leave such wallets \
                 out and list them in the manifest"
            )));
        }
        self.count += 1;
        match self.count {
            1..=MISSING_SHOWN => {
                self.run.app.report.note(&format!("{wallet} cannot be read: {reason}"))
            }
            count if count == MISSING_SHOWN + 1 => {
                self.run
                    .app
                    .report
                    .note("further ones are not shown; the manifest lists all of them");
            }
            _ => {}
        }
        if self.count > MOST_MISSING {
            return Err(RunError::Unreadable(format!(
                "more than {MOST_MISSING} wallets cannot be read at block {number}; check the profile and --block: \
                 {wallet}: {reason}"
            )));
        }
        Ok(())
    }
}

/// Writes rows in a thread of its own: compressing takes time. What it wrote is kept however the run ends.
fn start_writer(
    mut unfinished: Unfinished,
) -> (mpsc::Sender<Rows>, JoinHandle<anyhow::Result<Unfinished>>) {
    let (sender, mut receiver) = mpsc::channel::<Rows>(4);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(rows) = receiver.blocking_recv() {
            for (wallet, total) in rows {
                match total {
                    Some(total) => unfinished.push(wallet, &total)?,
                    None => unfinished.miss(wallet),
                }
            }
            unfinished.keep(false)?;
        }
        unfinished.keep(true)?;
        Ok(unfinished)
    });
    (sender, writer)
}
