//! Asks for the logs of one block, or of a range in pieces that the provider takes.

use std::{iter, sync::Arc};

use alloy::primitives::U64;
use futures_util::{StreamExt, TryStreamExt, stream};
use tracing::info;

use super::filter::{Blocks, EventFilter, Log, LogMatches};
use crate::{
    follow::Block,
    rpc::{
        Action, Client, ErrorKind, Freshness, Limit, NodeError, Request, RequestError,
        allowed_blocks,
    },
    tally::Shutdown,
};

/// Blocks in one `eth_getLogs`. Most providers with a limit allow the first, at least to those who pay, and no more
/// is ever asked for at once.
const RANGE: Limit = Limit { kind: "eth_getLogs", first: 10_000, ceiling: 10_000, at_most: None };

/// Asks for logs, and finds out what they match.
pub(super) struct LogReader {
    pub(super) client: Arc<Client>,
    pub(super) filter: EventFilter,
    /// Requests at once.
    pub(super) concurrency: usize,
    pub(super) shutdown: Shutdown,
}

impl LogReader {
    /// What the logs of one block match.
    pub(super) async fn of_block(&self, block: &Block) -> Result<LogMatches, RequestError> {
        let filter = self.filter.of(Blocks::One { block_hash: block.hash });
        let request = Request {
            freshness: Freshness::HasHash(block.hash),
            ..Request::new("eth_getLogs", (filter,))
        };
        let read = |logs: Vec<Log>| match logs.iter().find(|log| log.block_hash != block.hash) {
            Some(other) => Err(format!("a log of block {} was not asked for", other.block_hash)),
            None => Ok(logs),
        };
        Ok(self.filter.matches_in(&self.client.send(request, read).await?))
    }

    /// What the logs of these blocks match, one request for each block, several at once.
    pub(super) async fn of_blocks(&self, blocks: Vec<Block>) -> Result<LogMatches, RequestError> {
        stream::iter(blocks)
            .map(|block| async move { self.of_block(&block).await })
            .buffered(self.concurrency)
            .try_fold(LogMatches::default(), |all, more| async { Ok(all.merge(more)) })
            .await
    }

    /// What the logs of the blocks from `from` to `to` match, piece by piece, several at once.
    pub(super) async fn of_range(&self, from: u64, to: u64) -> Result<LogMatches, RequestError> {
        let mut matches = LogMatches::default();
        let mut next = from;
        // One at a time, until a size is known to succeed.
        while next <= to && !self.is_size_known() {
            if let Some((more, end)) = self.beginning(next, to).await? {
                matches = matches.merge(more);
                next = end + 1;
            }
        }
        // Each piece is cut when it is about to be asked for, as large as is known to succeed by then.
        let pieces = iter::from_fn(|| {
            let from = next;
            let end = end_of(from, to, self.size_known());
            next = end + 1;
            (from <= to).then_some((from, end))
        });
        stream::iter(pieces)
            .map(|(from, to)| self.of_piece(from, to))
            .buffered(self.concurrency)
            .try_fold(matches, |all, more| async { Ok(all.merge(more)) })
            .await
    }

    /// What the logs of a piece match, in smaller pieces if it turns out to be too large.
    async fn of_piece(&self, from: u64, to: u64) -> Result<LogMatches, RequestError> {
        let mut matches = LogMatches::default();
        let mut next = from;
        while next <= to {
            if let Some((more, end)) = self.beginning(next, to).await? {
                matches = matches.merge(more);
                next = end + 1;
            }
        }
        Ok(matches)
    }

    /// What the logs at the beginning of a range match, and where that ends; `None` if it was too large, and the next
    /// try will be smaller.
    async fn beginning(
        &self,
        from: u64,
        to: u64,
    ) -> Result<Option<(LogMatches, u64)>, RequestError> {
        if self.shutdown.is_requested() {
            return Err(RequestError::stopped());
        }
        let size = self.client.preferred().next_size(RANGE);
        let end = end_of(from, to, size.get());
        let blocks = Blocks::Range { from_block: U64::from(from), to_block: U64::from(end) };
        let request = Request {
            freshness: Freshness::HasBlock(end),
            ..Request::new("eth_getLogs", (self.filter.of(blocks),))
        };
        let len = usize::try_from(end - from + 1).unwrap_or(usize::MAX);
        match self.client.send_and_tell(request, Ok::<Vec<Log>, _>).await {
            Ok((logs, endpoint)) => {
                endpoint.limit(RANGE, |search| search.succeeded(len));
                Ok(Some((self.filter.matches_in(&logs), end)))
            }
            Err(RequestError::Node(failure)) if len > 1 && may_be_too_large(&failure) => {
                let allowed = allowed_blocks(&failure.message);
                let allowed = allowed.map(|blocks| usize::try_from(blocks).unwrap_or(usize::MAX));
                let endpoint = self.client.endpoint(&failure.endpoint);
                endpoint.limit(RANGE, |search| search.too_large(len, allowed));
                info!(blocks = len, "too many blocks at once: {}", failure.message);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn is_size_known(&self) -> bool {
        self.client.preferred().limit(RANGE, |search| search.is_known())
    }

    fn size_known(&self) -> usize {
        self.client.preferred().limit(RANGE, |search| search.largest())
    }
}

/// The last of `size` blocks from `from` on, or `to`.
fn end_of(from: u64, to: u64, size: usize) -> u64 {
    from.saturating_add(size as u64 - 1).min(to)
}

/// True if fewer blocks may succeed: it says so, or was cut off again and again, or says something new.
fn may_be_too_large(failure: &NodeError) -> bool {
    failure.kind.action() == Action::Split
        || failure.kind == ErrorKind::TimedOut
        || failure.kind.is_odd_answer()
}
