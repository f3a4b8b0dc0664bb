//! Explains rows that differ, and whose old state no node has, by the events of their wallets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::drift::{Drift, Drifted, Judgement};
use crate::{
    app::App,
    events::Events,
    follow::{Block, Source},
    read::NodeReader,
    redact,
    rpc::Client,
    tally::RunError,
};

/// Blocks whose events are asked for at once, from the newest back.
const STEP: u64 = 10_000;
/// How long events are looked for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks for events of wallets.
pub(super) struct Explainer<'a> {
    app: &'a App,
    events: Events,
}

impl<'a> Explainer<'a> {
    pub(super) fn new(app: &'a App, client: Arc<Client>, reader: Arc<NodeReader>) -> Self {
        let (concurrency, shutdown) = (app.concurrency().get(), app.shutdown.clone());
        Self { app, events: Events::new(client, reader, &app.profile, concurrency, shutdown) }
    }

    /// Judges these rows: an event of the wallet since the read explains the difference.
    pub(super) async fn explain(&self, mut open: Vec<Drifted>) -> Judgement {
        let mut judgement = Judgement::default();
        open.retain(|row| match (row.row.since(), row.row.blocknumber) {
            (Some(since), Some(event)) if event.unsigned_abs() > since && event > 0 => {
                judgement.judged.push(row.is(Drift::Moved, moved(event.unsigned_abs())));
                false
            }
            _ => true,
        });
        if open.is_empty() {
            return judgement;
        }
        let unknown = if self.app.profile.events.is_empty() {
            format!("profile {} has no [[event]]", self.app.profile.name)
        } else {
            let looked = tokio::select! {
                looked = timeout(PATIENCE, self.look_for_events(&mut open, &mut judgement)) => looked,
                () = self.app.shutdown.requested() => Ok(Err(RunError::stopped())),
            };
            match looked {
                Ok(Ok(())) => return judgement,
                Ok(Err(error)) if error.is_stopped() => {
                    judgement.error = Some(error);
                    return judgement;
                }
                Ok(Err(error)) => {
                    format!("its events cannot be read: {}", redact::clean_error(&error))
                }
                Err(_) => format!("its events could not be read within {} s", PATIENCE.as_secs()),
            }
        };
        let unknown = format!("it cannot be read again at that block, and {unknown}");
        judgement.judged.extend(open.iter().map(|row| row.unexplained(&unknown)));
        judgement
    }

    /// Looks for events from the newest block back, until each row is explained or has none.
    async fn look_for_events(
        &self,
        open: &mut Vec<Drifted>,
        judgement: &mut Judgement,
    ) -> Result<(), RunError> {
        let since = |row: &Drifted| row.row.since().unwrap_or_default();
        let newest = open.iter().map(|row| row.block).max().unwrap_or_default();
        let newest = self.block(newest, newest).await?;
        let mut to = newest;
        while let Some(oldest) = open.iter().map(since).min() {
            let from = (oldest + 1).max((to.number + 1).saturating_sub(STEP));
            let found = match from <= to.number {
                true => self.events.affected(from, &to, &newest).await?.wallets,
                false => BTreeMap::new(),
            };
            open.retain(|row| match found.get(&row.row.wallet) {
                Some(event) if *event > since(row) => {
                    judgement.judged.push(row.is(Drift::Moved, moved(*event)));
                    false
                }
                _ if since(row) + 1 >= from => {
                    judgement.judged.push(row.unexplained(
                        "it cannot be read again at that block, and the wallet has had no event",
                    ));
                    false
                }
                _ => true,
            });
            if !open.is_empty() {
                to = self.block(from - 1, newest.number).await?;
            }
        }
        Ok(())
    }

    async fn block(&self, number: u64, seen: u64) -> Result<Block, RunError> {
        let block = self.events.block(number, seen).await?;
        block.ok_or_else(|| RunError::node(format!("no endpoint has block {number}")))
    }
}

fn moved(event: u64) -> String {
    format!("an event of block {event} has changed the wallet since")
}
