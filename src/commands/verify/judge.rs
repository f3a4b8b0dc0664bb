//! Reads rows that differ again, at the blocks at which they were read.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::Arc,
};

use itertools::Itertools;

use super::{
    drift::{Drift, Drifted, Judgement},
    explain::Explainer,
};
use crate::{
    app::App,
    read::NodeReader,
    rpc::{Client, ErrorKind, NodeError},
    tally::{RunError, Total, Wallet},
};

/// Finds out why rows differ.
pub(super) struct Judge<'a> {
    app: &'a App,
    reader: Arc<NodeReader>,
    explainer: Explainer<'a>,
    /// The newest block whose state was asked for and is gone.
    gone: Option<u64>,
    /// Rows that only an event can explain.
    unexplained: Vec<Drifted>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(app: &'a App, client: Arc<Client>, reader: Arc<NodeReader>) -> Self {
        let explainer = Explainer::new(app, client, Arc::clone(&reader));
        Self { app, reader, explainer, gone: None, unexplained: Vec::new() }
    }

    /// Judges these rows as far as the state of old blocks allows. The others are left for [`Judge::by_events`].
    pub(super) async fn by_state(&mut self, drifted: Vec<Drifted>) -> Judgement {
        let mut judgement = Judgement::default();
        let mut by_block: BTreeMap<u64, Vec<Drifted>> = BTreeMap::new();
        for drifted in drifted {
            if let (None, Some(columns)) = (&drifted.disagree, &drifted.never_read) {
                let reason = format!("the total is right; never read: {columns}");
                judgement.judged.push(drifted.is(Drift::Moved, reason));
                continue;
            }
            let judged = match (&drifted.disagree, drifted.row.since()) {
                (Some((total, batched)), _) if total.sum == batched.sum => drifted.is(
                    Drift::Wrong,
                    format!(
                        "its parts are {} wei, and Multicall3 returns {}",
                        total.parts.iter().join(", "),
                        batched.parts.iter().join(", ")
                    ),
                ),
                (Some((total, batched)), _) => drifted.is(
                    Drift::Wrong,
                    format!(
                        "its parts sum to {} wei, and Multicall3 returns {}",
                        total.sum, batched.sum
                    ),
                ),
                (None, Some(event)) if event > drifted.block => drifted
                    .is(Drift::Moved, format!("its event of block {event} is newer than the node")),
                (None, Some(since)) => {
                    by_block.entry(since).or_default().push(drifted);
                    continue;
                }
                (None, None) if drifted.row.is_placeholder() => {
                    drifted.is(Drift::Moved, "the wallet was never read")
                }
                (None, None) => {
                    drifted.unexplained("the row does not say at which block it was read")
                }
            };
            judgement.judged.push(judged);
        }
        // From the newest on: once a block's state is gone, so is that of older ones.
        for (block, rows) in by_block.into_iter().rev() {
            judgement.merge(self.at(block, rows).await);
        }
        judgement
    }

    /// Judges rows that were read at this block.
    async fn at(&mut self, block: u64, rows: Vec<Drifted>) -> Judgement {
        if self.gone.is_some_and(|gone| block <= gone) {
            self.unexplained.extend(rows);
            return Judgement::default();
        }
        let totals = match self.totals(&rows, block).await {
            Ok(totals) => totals,
            Err(error) if error.is_stopped() || !is_about_the_block(&error) => {
                return Judgement { error: Some(error), ..Judgement::default() };
            }
            // A newer block has just been read: whatever the node says, it means this one.
            Err(_) => {
                self.gone = Some(block);
                self.unexplained.extend(rows);
                return Judgement::default();
            }
        };
        let mut judgement = Judgement::default();
        for row in rows {
            let total = totals.get(&row.row.wallet);
            match total.and_then(|total| row.against(total, block)) {
                Some(judged) => judgement.judged.push(judged),
                None => self.unexplained.push(row),
            }
        }
        judgement
    }

    /// The totals at a block, of those wallets that have one. What Multicall3 says against a row counts only if the
    /// parts say so too.
    async fn totals(
        &self,
        rows: &[Drifted],
        block: u64,
    ) -> Result<HashMap<Wallet, Total>, RunError> {
        let stored: HashMap<_, _> = rows.iter().map(|row| (row.row.wallet, row)).collect();
        let wallets = stored.keys().copied().collect();
        let mut totals = HashMap::new();
        for (wallet, batched) in self.reader.read_batched(wallets, block).await? {
            if let Ok(total) = &batched
                && stored.get(&wallet).is_some_and(|row| row.was(total))
            {
                totals.insert(wallet, total.clone());
                continue;
            }
            if self.app.shutdown.is_requested() {
                return Err(RunError::stopped());
            }
            let expected = batched.as_ref().ok();
            if let Ok((_, total)) = self.reader.read_parts(wallet, block, expected).await? {
                totals.insert(wallet, total);
            }
        }
        Ok(totals)
    }

    /// Judges the rows that are left by the events of their wallets.
    pub(super) async fn by_events(&mut self) -> Judgement {
        self.explainer.explain(mem::take(&mut self.unexplained)).await
    }
}

/// False where a node would say the same of any block.
fn is_about_the_block(error: &RunError) -> bool {
    let RunError::Node(error) = error else { return matches!(error, RunError::Settings(_)) };
    error.downcast_ref::<NodeError>().is_some_and(|failure| {
        !matches!(
            failure.kind,
            ErrorKind::RateLimited
                | ErrorKind::QuotaExhausted
                | ErrorKind::Refused
                | ErrorKind::TimedOut
        )
    })
}
