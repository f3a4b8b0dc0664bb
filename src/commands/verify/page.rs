//! Reads a page of wallets, in a few attempts.
//!
//! Every attempt has a block of its own, so that no node has forgotten its state by then. What fails is tried once
//! more at a newer block, and holds nothing else up.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    both_ways::{Attempt, BothWays, OnChain, count},
    stale::Stale,
};
use crate::{
    app::App,
    redact,
    rpc::BlockChoice,
    store::Row,
    tally::{Progress, RunError, Wallet},
};

/// How often a wallet is tried, and how many attempts in a row may check nothing.
const ATTEMPTS: u32 = 2;
/// How long a node that is behind gets for its next block.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads pages.
pub(super) struct PageReader<'a> {
    pub(super) app: &'a App,
    pub(super) both_ways: BothWays<'a>,
}

/// A wallet to check, with its row.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) wallet: Wallet,
    pub(super) row: Option<Row>,
}

/// What was found out about a wallet.
#[derive(Debug)]
pub(super) enum Check {
    /// It was read.
    Read(OnChain),
    /// It has no total, for this reason.
    Unreadable(String),
    /// Its row was read at a newer block than the one to compare it at.
    Stale(Stale),
}

/// What became of a page.
#[derive(Debug, Default)]
pub(super) struct PageRead {
    /// Wallets without one were not checked.
    pub(super) checks: Vec<(Target, Check)>,
    /// Why the rest was not checked.
    pub(super) error: Option<RunError>,
    /// True if another page would not do better.
    pub(super) is_last: bool,
}

impl PageReader<'_> {
    /// Reads these wallets.
    pub(super) async fn read(
        &self,
        targets: Vec<Target>,
        progress: Option<&dyn Progress>,
    ) -> PageRead {
        let mut page = PageRead::default();
        let mut open: Vec<(Target, u32)> = targets.into_iter().map(|target| (target, 0)).collect();
        let (mut is_complete, mut fruitless) = (true, 0);
        while !open.is_empty() && fruitless < ATTEMPTS {
            if self.app.shutdown.is_requested() {
                page.fail(RunError::stopped());
                break;
            }
            let block = match self.both_ways.reader.pin().await {
                Ok(block) => block,
                Err(error) => {
                    page.fail(error);
                    break;
                }
            };
            let is_behind = |target: &Target| {
                target.row.as_ref().and_then(Row::read_at).filter(|row| *row > block)
            };
            let ready = open.iter().filter(|(target, _)| is_behind(target).is_none());
            let ready: Vec<_> = ready.map(|(target, _)| target.wallet).collect();
            let mut attempt = match ready.is_empty() {
                true => Attempt::default(),
                false => self.both_ways.read(ready, block, progress).await,
            };
            let before = page.checks.len();
            let (mut rest, mut failed) = (Vec::new(), Vec::new());
            for (target, failures) in open {
                let fails = match (attempt.read.remove(&target.wallet), is_behind(&target)) {
                    (Some(Ok(on_chain)), _) => {
                        page.checks.push((target, Check::Read(on_chain)));
                        continue;
                    }
                    (Some(Err(unread)), _) if unread.in_both_ways || failures + 1 == ATTEMPTS => {
                        count(progress, true);
                        page.checks.push((target, Check::Unreadable(unread.reason)));
                        continue;
                    }
                    (Some(Err(_)), _) => true,
                    (None, Some(row)) if failures + 1 == ATTEMPTS || !self.follows_the_head() => {
                        page.checks.push((target, Check::Stale(Stale { newest: block, row })));
                        continue;
                    }
                    (None, Some(_)) => true,
                    (None, None) => attempt.failed.is_none_or(|wallet| wallet == target.wallet),
                };
                match fails {
                    false => rest.push((target, failures)),
                    true if failures + 1 < ATTEMPTS => failed.push((target, failures + 1)),
                    true => {
                        is_complete = false;
                        if let (Some(wallet), Some(error)) = (attempt.failed, &attempt.error) {
                            let why = redact::clean_error(error);
                            self.app
                                .report
                                .note(&format!("wallet {wallet} was not checked: {why}"));
                        }
                    }
                }
            }
            let found_some = page.checks.len() > before;
            fruitless = if found_some { 0 } else { fruitless + 1 };
            match attempt.error {
                Some(error) if error.is_stopped() => {
                    page.fail(error);
                    return page;
                }
                Some(error) => page.error = Some(error),
                None if !found_some => self.pause().await,
                None => {}
            }
            // Those that failed come last, so that they hold up nothing.
            rest.append(&mut failed);
            open = rest;
        }
        if is_complete && open.is_empty() {
            page.error = None;
        }
        page
    }

    /// True if a later pin may be newer.
    pub(super) fn follows_the_head(&self) -> bool {
        self.app.settings.node.block == BlockChoice::Latest
    }

    async fn pause(&self) {
        tokio::select! {
            () = self.app.shutdown.requested() => {}
            () = sleep(PAUSE) => {}
        }
    }
}

impl PageRead {
    /// Another page would fail in the same way.
    fn fail(&mut self, error: RunError) {
        (self.error, self.is_last) = (Some(error), true);
    }
}
