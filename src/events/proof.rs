//! The logs of a block, and the proof that there are no others.
//!
//! Of several nodes behind one URL, one may announce a block that another does not have yet, and answer with an empty
//! list. Such an answer counts only if the bloom in the block's header cannot hold an event of the profile: the contract
//! and the selector of the same one. On a busy chain that is so for about two blocks of three. Of the others, all logs are
//! asked for: if these make up the header's bloom, none is missing, and if not, the answer is refused and another asked for.
//!
//! Without a bloom that proves anything, or where a node does not give all logs of a block, an empty answer counts once a
//! second one confirms it, from an endpoint that has the block.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use alloy::primitives::Bloom;
use tokio::time::Instant;
use tracing::info;

use super::{
    blooms::{Blooms, may_hold},
    filter::Log,
    requests::LogRequests,
};
use crate::{
    follow::Block,
    rpc::{Action, ErrorKind, Freshness, NodeError, RequestError},
};

/// When a node that refuses to give all logs of a block is asked for them again.
const TRY_AGAIN: Duration = Duration::from_secs(600);

/// Asks for the logs of blocks until they are complete.
pub(super) struct ProvenLogs {
    pub(super) requests: LogRequests,
    pub(super) blooms: Blooms,
    /// When all logs of a block were last refused, whichever block it was.
    refused: Mutex<Option<Instant>>,
}

impl ProvenLogs {
    pub(super) fn new(requests: LogRequests) -> Self {
        Self { requests, blooms: Blooms::default(), refused: Mutex::default() }
    }

    /// The logs of the profile's events in a block, perhaps with others.
    pub(super) async fn of_block(&self, block: &Block) -> Result<Vec<Log>, RequestError> {
        let Some(bloom) = self.blooms.usable(block.logs_bloom) else {
            return self.confirmed(block).await;
        };
        // The bloom says whether the answer counts.
        let logs = self.requests.of_block(block, Freshness::Any).await?;
        self.complete(block, bloom, logs).await
    }

    /// `logs`, or those that prove complete instead, where the block may hold more.
    pub(super) async fn complete(
        &self,
        block: &Block,
        mut bloom: Bloom,
        logs: Vec<Log>,
    ) -> Result<Vec<Log>, RequestError> {
        if !may_hold(&bloom, &logs) {
            // One header may have been wrong.
            let header = self.requests.header_by_hash(block.hash).await?;
            match header.logs_bloom.filter(|again| *again != bloom && may_hold(again, &logs)) {
                Some(again) => bloom = again,
                None => {
                    self.blooms.lack(block.number);
                    return Ok(logs);
                }
            }
        }
        let found: Vec<&Log> = logs.iter().collect();
        if !self.requests.filter.may_hold_more(&bloom, &found) && !self.blooms.are_in_doubt(&bloom)
        {
            return Ok(logs);
        }
        match self.all_of_block(block, &bloom).await? {
            Some(all) => {
                if !may_hold(&bloom, &all) {
                    self.blooms.lack(block.number);
                }
                Ok(all)
            }
            None if logs.is_empty() => self.confirmed(block).await,
            None => Ok(logs),
        }
    }

    /// All logs of a block; `None` if they cannot be had.
    async fn all_of_block(
        &self,
        block: &Block,
        bloom: &Bloom,
    ) -> Result<Option<Vec<Log>>, RequestError> {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.is_some_and(|when| when.elapsed() < TRY_AGAIN) {
            return Ok(None);
        }
        let failure = match self.requests.all_of_block(block, bloom).await {
            Ok(logs) => return Ok(Some(logs)),
            Err(RequestError::Node(failure)) if cannot_be_had(&failure) => failure,
            Err(error) => return Err(error),
        };
        info!("all logs of block {} cannot be had: {failure}", block.number);
        if failure.kind.action() != Action::Split {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            // It was given up for a request that it need not serve.
            self.requests.client.revive();
        }
        Ok(None)
    }

    /// The logs of a block; none only if two answers say so.
    async fn confirmed(&self, block: &Block) -> Result<Vec<Log>, RequestError> {
        let logs = self.requests.of_block(block, Freshness::HasHash(block.hash)).await?;
        match logs.is_empty() {
            true => self.requests.of_block_again(block).await,
            false => Ok(logs),
        }
    }
}

/// True if the size or the form of the request is at fault, so that it would fail again.
fn cannot_be_had(failure: &NodeError) -> bool {
    failure.kind.action() == Action::Split
        || failure.kind.is_odd_answer()
        || matches!(failure.kind, ErrorKind::TimedOut | ErrorKind::Refused)
}
