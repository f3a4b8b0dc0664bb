//! From pages of wallets to chunks of another size.

use futures_util::StreamExt;

use crate::tally::{Pages, RunError, Wallet};

/// Cuts pages into chunks of any size.
pub(super) struct Chunker<'a> {
    pages: Pages<'a>,
    wallets: std::vec::IntoIter<Wallet>,
    /// The error that ended the pages.
    pub(super) error: Option<RunError>,
    /// True if the pages have ended.
    pub(super) is_over: bool,
}

impl<'a> Chunker<'a> {
    pub(super) fn new(pages: Pages<'a>) -> Self {
        Self { pages, wallets: Vec::new().into_iter(), error: None, is_over: false }
    }

    /// The next `count` wallets; fewer at the end, and before an error.
    pub(super) async fn take(&mut self, count: usize) -> Vec<Wallet> {
        let mut taken: Vec<_> = self.wallets.by_ref().take(count).collect();
        while taken.len() < count && !self.is_over {
            match self.pages.next().await {
                Some(Ok(page)) => {
                    self.wallets = page.into_iter();
                    taken.extend(self.wallets.by_ref().take(count - taken.len()));
                }
                Some(Err(error)) => (self.error, self.is_over) = (Some(error), true),
                None => self.is_over = true,
            }
        }
        taken
    }
}
