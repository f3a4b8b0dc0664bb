//! Reads wallets both ways at one block: each part by an `eth_call` of its own, and the total through Multicall3.

use std::{collections::HashMap, pin::pin};

use futures_util::{StreamExt, stream};

use crate::{
    app::App,
    read::{NodeReader, PartValues},
    store::Row,
    tally::{Progress, RunError, Total, Wallet},
};

/// Reads wallets both ways.
pub(super) struct BothWays<'a> {
    pub(super) app: &'a App,
    pub(super) reader: &'a NodeReader,
}

/// A wallet's total as it was read both ways at one block, in wei.
#[derive(Debug)]
pub(super) struct OnChain {
    pub(super) block: u64,
    /// A name and an amount each, in the profile's order.
    pub(super) parts: PartValues,
    /// What the parts make.
    pub(super) total: Total,
    /// What Multicall3 gave.
    pub(super) batched: Total,
}

/// What one attempt gave.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    pub(super) read: HashMap<Wallet, Result<OnChain, Unread>>,
    /// The wallet whose read failed; `None` if all failed together.
    pub(super) failed: Option<Wallet>,
    pub(super) error: Option<RunError>,
}

/// Why a wallet has no total.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) reason: String,
    /// False if only one of the two ways failed: the node may have lost the block's state meanwhile.
    pub(super) in_both_ways: bool,
}

impl OnChain {
    /// True if both ways of reading gave the same.
    pub(super) fn agrees(&self) -> bool {
        self.total == self.batched
    }

    /// True if the row holds what both ways of reading gave.
    pub(super) fn fits(&self, row: Option<&Row>) -> bool {
        self.agrees() && row.is_some_and(|row| row.holds(&self.total))
    }
}

impl BothWays<'_> {
    /// Reads these wallets at one block, until one of them fails.
    pub(super) async fn read(
        &self,
        wallets: Vec<Wallet>,
        block: u64,
        progress: Option<&dyn Progress>,
    ) -> Attempt {
        let wanted = wallets.len();
        let mut attempt = Attempt::default();
        let batched = match self.reader.read_batched(wallets, block).await {
            Ok(batched) => batched,
            Err(error) => return Attempt { error: Some(error), ..attempt },
        };
        let read = stream::iter(batched)
            .take_until(self.app.shutdown.requested())
            .map(async |(wallet, batched)| (wallet, self.compare(wallet, batched, block).await))
            .buffer_unordered(self.app.concurrency().get());
        let mut read = pin!(read);
        while let Some((wallet, both)) = read.next().await {
            match both {
                Ok(both) => {
                    if both.is_ok() {
                        count(progress, false);
                    }
                    attempt.read.insert(wallet, both);
                }
                Err(error) => {
                    (attempt.failed, attempt.error) = (Some(wallet), Some(error));
                    return attempt;
                }
            }
        }
        if attempt.read.len() < wanted {
            attempt.error = Some(RunError::stopped());
        }
        attempt
    }

    /// The wallet's total both ways; the inner error says why there is none.
    async fn compare(
        &self,
        wallet: Wallet,
        batched: Result<Total, String>,
        block: u64,
    ) -> Result<Result<OnChain, Unread>, RunError> {
        let unread = |reason, in_both_ways| Ok(Err(Unread { reason, in_both_ways }));
        let expected = batched.as_ref().ok();
        match (self.reader.read_parts(wallet, block, expected).await, batched) {
            (Ok(Ok((parts, total))), Ok(batched)) => {
                Ok(Ok(OnChain { block, parts, total, batched }))
            }
            (Ok(Err(reason)), Err(_)) => unread(reason, true),
            (Ok(Err(reason)), Ok(_)) | (Ok(Ok(_)), Err(reason)) => unread(reason, false),
            // Whatever the node says, the wallet is the cause.
            (Err(error), Err(reason)) if !error.is_stopped() => unread(reason, true),
            (Err(error), _) => Err(error),
        }
    }
}

/// One more wallet is checked.
pub(super) fn count(progress: Option<&dyn Progress>, is_unreadable: bool) {
    if let Some(progress) = progress {
        progress.wallets(1, is_unreadable.into());
    }
}
