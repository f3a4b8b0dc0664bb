//! From readings in any order back to the order of the wallets, in bounded memory.
//!
//! Chunks are read at once and come as they come. Each waits here for those before it; wallets that are further ahead of the
//! last one that left than [`WINDOW`] are not asked for yet.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use futures_util::{Stream, stream};
use tokio::sync::Semaphore;

use crate::{
    app::PAGE,
    tally::{Reading, RunError, Total, Wallet},
};

/// Wallets that are asked for and have not left, at most. More than the largest chunk and a page, so that a chunk never
/// waits for wallets that wait for it.
const WINDOW: usize = 120_000;

/// Wallets that are asked for, in order.
#[derive(Clone)]
pub(super) struct InOrder {
    waiting: Arc<Mutex<VecDeque<Waiting>>>,
    room: Arc<Semaphore>,
}

struct Waiting {
    wallet: Wallet,
    read: Option<Result<Total, String>>,
}

impl InOrder {
    pub(super) fn new() -> Self {
        Self { waiting: Arc::default(), room: Arc::new(Semaphore::new(WINDOW)) }
    }

    /// These wallets, which are sorted, in pages, as there is room for them.
    pub(super) fn pages(
        &self,
        wallets: impl Iterator<Item = io::Result<Wallet>> + Send,
    ) -> impl Stream<Item = Result<Vec<Wallet>, RunError>> + Send {
        let order = self.clone();
        stream::try_unfold((wallets, order), |(mut wallets, order)| async move {
            let page: Result<Vec<_>, _> = wallets.by_ref().take(PAGE as usize).collect();
            let page = page.context("the list of wallets cannot be read")?;
            if page.is_empty() {
                return Ok(None);
            }
            if let Ok(room) = order.room.acquire_many(page.len() as u32).await {
                room.forget();
            }
            order
                .waiting()
                .extend(page.iter().map(|wallet| Waiting { wallet: *wallet, read: None }));
            Ok(Some((page, (wallets, order))))
        })
    }

    /// Takes what was read of some; returns those whose turn it is.
    pub(super) fn take(&self, readings: Vec<Reading>) -> Vec<Reading> {
        let mut waiting = self.waiting();
        let mut next = 0;
        for (wallet, read) in readings {
            // Most follow the one before.
            let is_next = waiting.get(next).is_some_and(|waiting| waiting.wallet == wallet);
            let place = match is_next {
                true => Ok(next),
                false => waiting.binary_search_by_key(&wallet, |waiting| waiting.wallet),
            };
            if let Ok(place) = place {
                waiting[place].read = Some(read);
                next = place + 1;
            }
        }
        let mut ready = Vec::new();
        while let Some(first) = waiting.pop_front() {
            match first.read {
                Some(read) => ready.push((first.wallet, read)),
                None => {
                    waiting.push_front(first);
                    break;
                }
            }
        }
        self.room.add_permits(ready.len());
        ready
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};
    use futures_util::{StreamExt, poll};

    use super::*;

    fn wallet(n: usize) -> Wallet {
        Wallet::from(Address::left_padding_from(&n.to_be_bytes()))
    }

    fn read(from: usize, to: usize) -> Vec<Reading> {
        (from..to).map(|n| (wallet(n), Ok(U256::from(n).into()))).collect()
    }

    #[tokio::test]
    async fn readings_leave_in_order_and_no_more_than_a_window_is_asked_for() {
        let order = InOrder::new();
        let page = PAGE as usize;
        let mut pages = Box::pin(order.pages((0..WINDOW * 3).map(|n| Ok(wallet(n)))));
        for _ in 0..WINDOW / page {
            pages.next().await.unwrap().unwrap();
        }
        assert!(poll!(pages.next()).is_pending());
        assert_eq!(order.take(read(10, 20)), []);
        assert!(poll!(pages.next()).is_pending());
        assert_eq!(order.take(read(0, 9)), read(0, 9));
        assert_eq!(order.take(read(9, 10)), read(9, 20));
        assert_eq!(order.take(read(20, page)), read(20, page));
        assert_eq!(pages.next().await.unwrap().unwrap().len(), page);
    }
}
