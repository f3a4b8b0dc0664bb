//! Wallets that a sweep tries again although their last read failed.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use super::Wallet;

/// Wallets on the record of failures that are tried again. If they fail again, they count as failed and decide nothing.
#[derive(Debug, Default)]
pub struct Retries(Mutex<HashSet<Wallet>>);

impl Retries {
    /// Adds wallets that are about to be tried.
    pub fn add(&self, wallets: &[Wallet]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(wallets);
    }

    /// Takes a wallet out; true if it was there.
    pub fn take(&self, wallet: Wallet) -> bool {
        let mut wallets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Mostly there is none, and millions are asked for.
        !wallets.is_empty() && wallets.remove(&wallet)
    }
}
