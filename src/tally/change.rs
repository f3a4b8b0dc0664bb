//! Totals that changed as they were stored.

use alloy::primitives::U256;

use super::Wallet;

/// A total that a committed write changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose total it is.
    pub wallet: Wallet,
    /// What the table held, decimal, as another program may have stored anything; `None` for a wallet that was never read.
    pub old: Option<String>,
    /// What it holds now, in wei.
    pub new: U256,
    /// The block at which that was read.
    pub block: u64,
}

/// Takes changes once they are committed.
pub trait ChangeSink: Send + Sync {
    /// These totals changed. Returns at once.
    fn changed(&self, changes: &[Change]);
}
