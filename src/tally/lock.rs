//! Locks between processes, and a ledger that stores only while one is held.

use async_trait::async_trait;

use super::{Ledger, Recorded, RunError, TotalRead, Unreadable};

/// What only one process holds at a time. It ends with this value, and with the process, however it ends.
#[async_trait]
pub trait Lock: Send + Sync {
    /// Proves that it is held now.
    async fn is_held(&self) -> bool;

    /// Returns once it is lost; the text says why.
    async fn lost(&self) -> String;

    /// Gives it up, so that it is free by the time this returns. Without this, it is free a moment after the end.
    async fn release(&self);
}

/// A ledger that stores only what is read under a lock.
pub struct Locked<'a> {
    /// Where totals are stored.
    pub ledger: &'a dyn Ledger,
    /// Proven before each batch.
    pub lock: &'a dyn Lock,
}

impl Locked<'_> {
    /// Proves that the lock is held.
    ///
    /// # Errors
    /// If it was lost.
    pub async fn check(&self) -> Result<(), RunError> {
        match self.lock.is_held().await {
            true => Ok(()),
            false => Err(RunError::lock_lost(&self.lock.lost().await)),
        }
    }
}

#[async_trait]
impl Ledger for Locked<'_> {
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> Result<Recorded, RunError> {
        self.check().await?;
        self.ledger.record(totals, failures).await
    }
}
