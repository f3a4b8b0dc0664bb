//! From pages of wallets to chunks of another size.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    vec,
};

use futures_util::StreamExt;
use tokio::sync::Notify;

use crate::tally::{Pages, RunError, Wallet};

/// Cuts pages into chunks of any size.
pub(super) struct Chunker<'a> {
    pages: Pages<'a>,
    /// What is left of the pages that came. A page may be large, so it is not copied.
    left: VecDeque<vec::IntoIter<Wallet>>,
    /// The error that ended the pages.
    error: Option<RunError>,
    /// True if the pages have ended.
    is_over: bool,
    returned: Arc<Returned>,
}

/// Wallets of chunks that were too large, until they are part of other chunks.
#[derive(Default)]
struct Returned {
    wallets: Mutex<VecDeque<Wallet>>,
    /// Chunks that are being read.
    under_way: AtomicUsize,
    changed: Notify,
}

/// A chunk that is being read.
pub(super) struct UnderWay(Arc<Returned>);

impl<'a> Chunker<'a> {
    pub(super) fn new(pages: Pages<'a>) -> Self {
        let left = VecDeque::new();
        Self { pages, left, error: None, is_over: false, returned: Arc::default() }
    }

    /// How many wallets are left to take; `None` if there are more than `most`.
    pub(super) async fn left(&mut self, most: usize) -> Option<usize> {
        let returned = self.returned.wallets().len();
        while !self.is_over && self.count() + returned <= most {
            self.next_page().await;
        }
        let left = self.count() + returned;
        (left <= most).then_some(left)
    }

    /// The error that ended the pages, once every wallet before it was taken.
    pub(super) fn error(&mut self) -> Option<RunError> {
        if self.count() == 0 { self.error.take() } else { None }
    }

    /// The next `count` wallets; fewer at the end, and before an error.
    pub(super) async fn take(&mut self, count: usize) -> Vec<Wallet> {
        let mut taken: Vec<_> = {
            let mut returned = self.returned.wallets();
            let count = count.min(returned.len());
            returned.drain(..count).collect()
        };
        while taken.len() < count {
            if let Some(page) = self.left.front_mut() {
                taken.extend(page.take(count - taken.len()));
                self.left.pop_front_if(|page| page.len() == 0);
            } else if self.is_over {
                break;
            } else {
                self.next_page().await;
            }
        }
        taken
    }

    fn count(&self) -> usize {
        self.left.iter().map(|page| page.len()).sum()
    }

    async fn next_page(&mut self) {
        match self.pages.next().await {
            Some(Ok(page)) => self.left.push_back(page.into_iter()),
            Some(Err(error)) => (self.error, self.is_over) = (Some(error), true),
            None => self.is_over = true,
        }
    }

    /// Reading begins with what was taken last.
    pub(super) fn begin(&self) -> UnderWay {
        self.returned.under_way.fetch_add(1, SeqCst);
        UnderWay(Arc::clone(&self.returned))
    }

    /// After the last page: waits until wallets come back; false if none will.
    pub(super) async fn has_more(&mut self) -> bool {
        loop {
            let changed = self.returned.changed.notified();
            let is_last = self.returned.under_way.load(SeqCst) == 0;
            if !self.returned.wallets().is_empty() {
                return true;
            }
            if is_last {
                return false;
            }
            changed.await;
        }
    }
}

impl Returned {
    fn wallets(&self) -> MutexGuard<'_, VecDeque<Wallet>> {
        self.wallets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// These wallets are to be part of other chunks.
    pub(super) fn give_back(&self, wallets: Vec<Wallet>) {
        self.0.wallets().extend(wallets);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
        self.0.changed.notify_one();
    }
}
