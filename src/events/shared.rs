//! The logs of new blocks for several profiles: asked for once, with the filters of all.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use alloy::primitives::B256;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    filter::{EventFilter, Log},
    proof::ProvenLogs,
    requests::LogRequests,
};
use crate::{
    follow::Block,
    profile::Profile,
    rpc::{Client, RequestError},
    tally::Shutdown,
};

/// Blocks whose logs are kept: more than a follower asks for one by one.
const BLOCKS: usize = 32;

/// The logs of a block, once they are known.
type LogsOfBlock = Arc<OnceCell<Arc<Vec<Log>>>>;

/// The logs of new blocks for the events of several profiles of one chain.
pub struct SharedLogs {
    proven: ProvenLogs,
    /// By the hash of their blocks, the newest last.
    kept: Mutex<VecDeque<(B256, LogsOfBlock)>>,
}

impl SharedLogs {
    /// For the events of these profiles; `concurrency` requests at once.
    pub fn new<'a>(
        client: Arc<Client>,
        profiles: impl IntoIterator<Item = &'a Profile>,
        concurrency: usize,
        shutdown: Shutdown,
    ) -> Self {
        let filter = EventFilter::of_profiles(profiles);
        let requests = LogRequests::new(client, filter, concurrency, shutdown);
        Self { proven: ProvenLogs::new(requests), kept: Mutex::default() }
    }

    /// What to subscribe to.
    pub(super) fn subscription(&self) -> Value {
        self.proven.requests.filter.subscription()
    }

    /// The logs of all these events in a block. Whoever asks first asks the node; if that fails, the next one does.
    pub(super) async fn of_block(&self, block: &Block) -> Result<Arc<Vec<Log>>, RequestError> {
        let kept = self.kept_of(block.hash);
        let ask = async || {
            let mut logs = self.proven.of_block(block).await?;
            // To prove that none is missing, all logs of the block may have been asked for.
            logs.retain(|log| self.proven.requests.filter.fits(log));
            Ok(Arc::new(logs))
        };
        kept.get_or_try_init(ask).await.cloned()
    }

    fn kept_of(&self, hash: B256) -> LogsOfBlock {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, logs)) = kept.iter().find(|(of, _)| *of == hash) {
            return Arc::clone(logs);
        }
        if kept.len() == BLOCKS {
            kept.pop_front();
        }
        let logs = LogsOfBlock::default();
        kept.push_back((hash, Arc::clone(&logs)));
        logs
    }
}
