//! What a run found of an endpoint, for the next run: a hint, which may be wrong.

/// What an endpoint took last time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHint {
    /// Which endpoint: scheme, host, port, and a few bits of a hash of its URL.
    pub endpoint: String,
    /// What it is about: wallets in a call of one reader, or `gzip`.
    pub kind: String,
    /// The most that it accepted; 0 for nothing.
    pub accepted: u64,
    /// The least above that which it refused, if it refused any.
    pub refused: Option<u64>,
    /// True if it is to be stored again soon, as old hints are not used.
    pub is_old: bool,
}

impl NodeHint {
    /// True if this says nearly what the other does, so that it need not be replaced.
    pub const fn says(&self, other: &Self) -> bool {
        let is_near = self.accepted.abs_diff(other.accepted) <= other.accepted / 32;
        is_near && self.refused.is_some() == other.refused.is_some() && !self.is_old
    }
}
