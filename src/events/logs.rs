//! What the logs of one block match, or of a range in pieces that the provider takes.
//!
//! In ranges, too, no answer is believed: each block within [`RECENT`] of the newest one is tested by its header's bloom,
//! of older pieces the first, the last and some others. That costs a header a block (20 compute units at Alchemy), and one
//! more `eth_getLogs` (60) for each block that may hold an event that was not given: on mainnet about a third of the blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    sync::Arc,
};

use alloy::primitives::B256;
use futures_util::{StreamExt, TryStreamExt, stream};
use tracing::info;

use super::{
    filter::{Log, LogMatches},
    proof::ProvenLogs,
    shared::SharedLogs,
};
use crate::{
    follow::Block,
    rpc::{Action, Limit, RequestError, allowed_blocks},
    tally::Shutdown,
};

/// Blocks in one `eth_getLogs`. Most providers with a limit allow the first, at least to those who pay, and no more
/// is ever asked for at once.
const RANGE: Limit =
    Limit { kind: "eth_getLogs", first: 10_000, usual: 10_000, ceiling: 10_000, at_most: None };
/// This many blocks behind the newest, each block is tested: nodes that are a little behind, or that have not indexed
/// all receipts yet, are likely to lack some of these.
const RECENT: u64 = 10_000;
/// Blocks whose headers are asked for to test one answer, at most.
const MOST_IN_CHAIN: u64 = 500;
/// How many blocks of an older piece are tested, beside the first and the last.
const SAMPLE: u64 = 8;

/// Asks for logs, and finds out what they match.
pub(super) struct LogReader {
    pub(super) proven: ProvenLogs,
    /// Where the logs of single blocks come from, if others want them too.
    pub(super) shared: Option<Arc<SharedLogs>>,
    /// Blocks, or pieces of ranges, at once.
    pub(super) concurrency: usize,
    pub(super) shutdown: Shutdown,
}

impl LogReader {
    fn matches_in<'a>(&self, logs: impl IntoIterator<Item = &'a Log>) -> LogMatches {
        self.proven.requests.filter.matches_in(logs)
    }

    /// What the logs of these blocks match, several blocks at once.
    pub(super) async fn of_blocks(&self, blocks: Vec<Block>) -> Result<LogMatches, RequestError> {
        stream::iter(blocks)
            .map(|block| self.matches_of(block))
            .buffered(self.concurrency)
            .try_fold(LogMatches::default(), |all, more| async { Ok(all.merge(more)) })
            .await
    }

    async fn matches_of(&self, block: Block) -> Result<LogMatches, RequestError> {
        Ok(match &self.shared {
            Some(shared) => self.matches_in(shared.of_block(&block).await?.iter()),
            None => self.matches_in(&self.proven.of_block(&block).await?),
        })
    }

    /// What the logs of the blocks from `from` to `to` match, piece by piece, several at once; `newest` is the newest
    /// block.
    pub(super) async fn of_range(
        &self,
        from: u64,
        to: u64,
        newest: u64,
    ) -> Result<LogMatches, RequestError> {
        let mut matches = LogMatches::default();
        let mut next = from;
        // One at a time, until a size is known to succeed.
        while next <= to && !self.is_size_known() {
            if let Some((more, end)) = self.beginning(next, to, newest).await? {
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
            .map(|(from, to)| self.of_piece(from, to, newest))
            .buffered(self.concurrency)
            .try_fold(matches, |all, more| async { Ok(all.merge(more)) })
            .await
    }

    /// What the logs of the blocks from `from` to `to` match, asked for at once. Each block's header is asked for, too, and
    /// tests the answer. `None` if there are too many, the headers do not form one chain up to `to` or prove nothing, or the
    /// node does not take so many at once.
    pub(super) async fn of_chain(
        &self,
        from: u64,
        to: &Block,
    ) -> Result<Option<LogMatches>, RequestError> {
        let requests = &self.proven.requests;
        let size = requests.client.preferred().next_size(RANGE).get() as u64;
        if to.number - from >= size.min(MOST_IN_CHAIN) {
            return Ok(None);
        }
        let headers = stream::iter(from..to.number)
            .map(|number| requests.header(number))
            .buffered(self.concurrency);
        let mut blocks: Vec<Block> = headers.map_ok(Block::from).try_collect().await?;
        blocks.push(*to);
        let is_chain = blocks.windows(2).all(|pair| pair[1].parent == pair[0].hash);
        let usable = |block: &Block| self.proven.blooms.usable(block.logs_bloom);
        if !is_chain || blocks.iter().any(|block| usable(block).is_none()) {
            return Ok(None);
        }
        let are_empty =
            self.proven.blooms.are_all_empty(blocks.iter().map(|block| block.logs_bloom));
        // If it has no logs of any kind, the blooms are right.
        let answer = match are_empty {
            true => requests.all_of_range(from, to.number).await,
            false => requests.of_range(from, to.number).await,
        };
        let logs = match answer {
            Ok((logs, endpoint)) => {
                endpoint.limit(RANGE, |search| search.succeeded(blocks.len()));
                logs
            }
            // One by one they may be had.
            Err(RequestError::Node(failure)) if failure.is_answer() => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut by_hash: BTreeMap<B256, Vec<Log>> = BTreeMap::new();
        for log in logs {
            by_hash.entry(log.block_hash).or_default().push(log);
        }
        let blocks = blocks.into_iter().map(|block| {
            let logs = by_hash.remove(&block.hash).unwrap_or_default();
            (block, logs)
        });
        let blocks: Vec<_> = blocks.collect();
        if !by_hash.is_empty() {
            // Some are of replaced blocks.
            return Ok(None);
        }
        if are_empty && blocks.iter().all(|(_, logs)| logs.is_empty()) {
            return Ok(Some(LogMatches::default()));
        }
        let complete = stream::iter(blocks)
            .map(|(block, logs)| async move {
                match self.proven.blooms.usable(block.logs_bloom) {
                    Some(bloom) => self.proven.complete(&block, bloom, logs).await,
                    None => self.proven.of_block(&block).await,
                }
            })
            .buffered(self.concurrency);
        complete
            .try_fold(LogMatches::default(), |all, logs| async move {
                Ok(all.merge(self.matches_in(&logs)))
            })
            .await
            .map(Some)
    }

    /// What the logs of a piece match, in smaller pieces if it turns out to be too large.
    async fn of_piece(&self, from: u64, to: u64, newest: u64) -> Result<LogMatches, RequestError> {
        let mut matches = LogMatches::default();
        let mut next = from;
        while next <= to {
            if let Some((more, end)) = self.beginning(next, to, newest).await? {
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
        newest: u64,
    ) -> Result<Option<(LogMatches, u64)>, RequestError> {
        if self.shutdown.is_requested() {
            return Err(RequestError::stopped());
        }
        let client = &self.proven.requests.client;
        let asked = {
            let size = client.preferred().next_size(RANGE);
            let end = end_of(from, to, size.get());
            (self.proven.requests.of_range(from, end).await, end)
        };
        let (answer, end) = asked;
        let len = usize::try_from(end - from + 1).unwrap_or(usize::MAX);
        match answer {
            Ok((logs, endpoint)) => {
                endpoint.limit(RANGE, |search| search.succeeded(len));
                Ok(Some((self.complete(from, end, newest, logs).await?, end)))
            }
            Err(RequestError::Node(failure)) if len > 1 && failure.is_answer() => {
                // Unless it says that it was too much, only that less works shows that it was.
                let one = match failure.kind.action() == Action::Split {
                    true => None,
                    false => match self.proven.requests.of_range(from, from).await {
                        Ok((logs, _)) => {
                            Some((self.complete(from, from, newest, logs).await?, from))
                        }
                        Err(_) => return Err(failure.into()),
                    },
                };
                let allowed = allowed_blocks(&failure.message);
                let allowed = allowed.map(|blocks| usize::try_from(blocks).unwrap_or(usize::MAX));
                let endpoint = client.endpoint(&failure.endpoint);
                endpoint.limit(RANGE, |search| search.too_large(len, allowed));
                info!(blocks = len, "too many blocks at once: {}", failure.message);
                Ok(one)
            }
            Err(error) => Err(error),
        }
    }

    /// What the logs of these blocks match, with those that the answer of a range lacked.
    async fn complete(
        &self,
        from: u64,
        to: u64,
        newest: u64,
        logs: Vec<Log>,
    ) -> Result<LogMatches, RequestError> {
        let mut by_block: BTreeMap<u64, Vec<Log>> = BTreeMap::new();
        for log in logs {
            by_block.entry(log.block_number.to()).or_default().push(log);
        }
        let mut tested = stream::iter(blocks_to_test(from, to, newest))
            .map(|number| {
                let logs = by_block.get(&number).cloned().unwrap_or_default();
                async move { Ok::<_, RequestError>((number, self.test(number, logs).await?)) }
            })
            .buffered(self.concurrency);
        let mut complete = BTreeMap::new();
        let mut has_blooms = true;
        while let Some((number, logs)) = tested.try_next().await? {
            match logs {
                Some(logs) => drop(complete.insert(number, logs)),
                None => {
                    has_blooms = false;
                    break;
                }
            }
        }
        drop(tested);
        by_block.append(&mut complete);
        let mut matches = self.matches_in(by_block.values().flatten());
        if !has_blooms && matches.logs == 0 {
            let again = self.proven.requests.of_range_again(from, to).await?;
            matches = self.matches_in(&again);
        }
        Ok(matches)
    }

    /// `logs`, which a range gave of this block, or all that it holds; `None` if its bloom tells nothing.
    async fn test(&self, number: u64, logs: Vec<Log>) -> Result<Option<Vec<Log>>, RequestError> {
        let block = Block::from(self.proven.requests.header(number).await?);
        let Some(bloom) = self.proven.blooms.usable(block.logs_bloom) else { return Ok(None) };
        if logs.iter().any(|log| log.block_hash != block.hash) {
            // One of the two was of a replaced block, or of a node that is behind.
            return self.proven.of_block(&block).await.map(Some);
        }
        self.proven.complete(&block, bloom, logs).await.map(Some)
    }

    fn is_size_known(&self) -> bool {
        self.proven.requests.client.preferred().limit(RANGE, |search| search.is_known())
    }

    fn size_known(&self) -> usize {
        self.proven.requests.client.preferred().limit(RANGE, |search| search.largest())
    }
}

/// Which blocks of a range are tested by their blooms.
fn blocks_to_test(from: u64, to: u64, newest: u64) -> Vec<u64> {
    let recent = newest.saturating_sub(RECENT).max(from);
    if recent > to {
        let sample = (0..SAMPLE).map(|_| rand::random_range(from..=to));
        return sample.chain([from, to]).collect::<BTreeSet<_>>().into_iter().collect();
    }
    let first = (recent > from).then_some(from);
    first.into_iter().chain(recent..=to).collect()
}

/// The last of `size` blocks from `from` on, or `to`.
fn end_of(from: u64, to: u64, size: usize) -> u64 {
    from.saturating_add(size as u64 - 1).min(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_recent_block_is_tested_and_some_of_the_older_ones() {
        assert_eq!(blocks_to_test(5, 9, 5_000), [5, 6, 7, 8, 9]);
        assert_eq!(
            blocks_to_test(10, 105, 10_100),
            [&[10][..], &(100..=105).collect::<Vec<_>>()].concat()
        );
        let old = blocks_to_test(1_000, 9_999, 1_000_000);
        assert!((3..=10).contains(&old.len()), "{old:?}");
        assert_eq!((old.first(), old.last()), (Some(&1_000), Some(&9_999)));
        assert_eq!(blocks_to_test(7, 7, 1_000_000), [7]);
    }
}
