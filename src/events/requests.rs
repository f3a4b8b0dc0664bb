//! The requests for logs and headers. An answer that is not about the blocks asked for is refused: the client then
//! asks again, or elsewhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use alloy::primitives::{B256, Bloom, U64};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until},
};

use super::filter::{Blocks, EventFilter, Filter, Log};
use crate::{
    follow::Block,
    rpc::{Client, Endpoint, Freshness, Header, Request, RequestError},
    tally::Shutdown,
};

/// How far apart two answers must be if the second is to confirm the first.
const BETWEEN_ANSWERS: Duration = Duration::from_secs(1);

/// Asks for logs and headers, no more than some at once.
pub(super) struct LogRequests {
    pub(super) client: Arc<Client>,
    pub(super) filter: EventFilter,
    in_flight: Semaphore,
    shutdown: Shutdown,
}

impl LogRequests {
    /// `concurrency` requests at once.
    pub(super) fn new(
        client: Arc<Client>,
        filter: EventFilter,
        concurrency: usize,
        shutdown: Shutdown,
    ) -> Self {
        Self { client, filter, in_flight: Semaphore::new(concurrency), shutdown }
    }

    /// The logs of the profile's events in a block.
    pub(super) async fn of_block(
        &self,
        block: &Block,
        freshness: Freshness,
    ) -> Result<Vec<Log>, RequestError> {
        let blocks = Blocks::One { block_hash: block.hash };
        let request = Request { freshness, ..logs(self.filter.of(blocks)) };
        Ok(self.send(request, |logs| all_in_block(logs, block)).await?.0)
    }

    /// All logs of a block, whose bloom is this. As long as some are missing the answer is refused.
    pub(super) async fn all_of_block(
        &self,
        block: &Block,
        bloom: &Bloom,
    ) -> Result<Vec<Log>, RequestError> {
        let read = |logs: Vec<Log>| {
            let logs = all_in_block(logs, block)?;
            let mut held = Bloom::ZERO;
            logs.iter().for_each(|log| log.accrue(&mut held));
            match held.contains(bloom) {
                true => Ok(logs),
                false => Err(format!(
                    "it has only {} logs of block {}, whose header says that there are more",
                    logs.len(),
                    block.number
                )),
            }
        };
        Ok(self.send(logs(Filter::all_of(Blocks::One { block_hash: block.hash })), read).await?.0)
    }

    /// The logs of the profile's events in a range of blocks, and who gave them.
    pub(super) async fn of_range(
        &self,
        from: u64,
        to: u64,
    ) -> Result<(Vec<Log>, &Endpoint), RequestError> {
        self.send(self.range(from, to), |logs| all_in_range(logs, from, to)).await
    }

    /// All logs in a range of blocks, whoever emitted them, and who gave them.
    pub(super) async fn all_of_range(
        &self,
        from: u64,
        to: u64,
    ) -> Result<(Vec<Log>, &Endpoint), RequestError> {
        let request = in_range(from, to, Filter::all_of);
        self.send(request, |logs| all_in_range(logs, from, to)).await
    }

    fn range(&self, from: u64, to: u64) -> Request<(Filter,)> {
        in_range(from, to, |blocks| self.filter.of(blocks))
    }

    /// The same logs of a block once more, a second later and elsewhere if possible, where the first answer was empty.
    pub(super) async fn of_block_again(&self, block: &Block) -> Result<Vec<Log>, RequestError> {
        self.pause().await?;
        let is_second = self.is_second();
        let blocks = Blocks::One { block_hash: block.hash };
        let request =
            Request { freshness: Freshness::HasHash(block.hash), ..logs(self.filter.of(blocks)) };
        let read = |logs| all_in_block(logs, block).and_then(&is_second);
        Ok(self.send(request, read).await?.0)
    }

    /// The same logs of a range once more, a second later and elsewhere if possible, where the first answer was empty.
    pub(super) async fn of_range_again(
        &self,
        from: u64,
        to: u64,
    ) -> Result<Vec<Log>, RequestError> {
        self.pause().await?;
        let is_second = self.is_second();
        let read = |logs| all_in_range(logs, from, to).and_then(&is_second);
        Ok(self.send(self.range(from, to), read).await?.0)
    }

    /// Refuses the first empty answer where there are several endpoints, so that the next one is asked.
    fn is_second(&self) -> impl Fn(Vec<Log>) -> Result<Vec<Log>, String> {
        let is_first = AtomicBool::new(self.client.has_several_endpoints());
        move |logs| match logs.is_empty() && is_first.swap(false, Relaxed) {
            true => Err("it has no logs; another endpoint has to confirm that".to_owned()),
            false => Ok(logs),
        }
    }

    async fn pause(&self) -> Result<(), RequestError> {
        let end = Instant::now() + BETWEEN_ANSWERS;
        tokio::select! {
            () = sleep_until(end) => Ok(()),
            () = self.shutdown.requested() => Err(RequestError::stopped()),
        }
    }

    /// The header of a block that must exist.
    pub(super) async fn header(&self, number: u64) -> Result<Header, RequestError> {
        let _one_more = self.permit().await?;
        self.client.header_by_number(number).await
    }

    /// The header of a block, asked for once more.
    pub(super) async fn header_by_hash(&self, hash: B256) -> Result<Header, RequestError> {
        self.client.header_by_hash(hash).await
    }

    async fn send<P, R, T>(
        &self,
        request: Request<P>,
        read: impl Fn(R) -> Result<T, String> + Sync,
    ) -> Result<(T, &Endpoint), RequestError>
    where
        P: Serialize + Send + Sync,
        R: DeserializeOwned + Send,
        T: Send,
    {
        let _one_more = self.permit().await?;
        self.client.send(request, read).await
    }

    /// Waits until one more request may be in flight.
    async fn permit(&self) -> Result<SemaphorePermit<'_>, RequestError> {
        let permit = self.in_flight.acquire().await.expect("the semaphore is never closed");
        if self.shutdown.is_requested() {
            return Err(RequestError::stopped());
        }
        Ok(permit)
    }
}

fn in_range(from: u64, to: u64, filter: impl Fn(Blocks) -> Filter) -> Request<(Filter,)> {
    let blocks = Blocks::Range { from_block: U64::from(from), to_block: U64::from(to) };
    let freshness = Freshness::HasBlock(to);
    Request { can_split: to > from, freshness, ..logs(filter(blocks)) }
}

const fn logs(filter: Filter) -> Request<(Filter,)> {
    Request::new("eth_getLogs", (filter,))
}

fn all_in_block(logs: Vec<Log>, block: &Block) -> Result<Vec<Log>, String> {
    let is_of_it =
        |log: &Log| log.block_hash == block.hash && log.block_number == U64::from(block.number);
    match logs.iter().find(|log| !is_of_it(log)) {
        Some(other) => Err(format!(
            "it gives a log of block {} ({}) as one of block {} ({})",
            other.block_number, other.block_hash, block.number, block.hash
        )),
        None => Ok(logs),
    }
}

fn all_in_range(logs: Vec<Log>, from: u64, to: u64) -> Result<Vec<Log>, String> {
    match logs.iter().find(|log| !(from..=to).contains(&log.block_number.to())) {
        Some(other) => Err(format!(
            "it gives a log of block {} as one of blocks {from} to {to}",
            other.block_number
        )),
        None => Ok(logs),
    }
}
