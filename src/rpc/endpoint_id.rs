//! Names an endpoint without its secrets.

use std::{fmt, sync::Arc};

use alloy::primitives::keccak256;
use url::Url;

/// Which endpoint: its place in the list, and all of its URL that may be shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    // Small, as every error holds one.
    index: u32,
    /// Tells apart the URLs of one origin. So few bits are of no use to someone who guesses at a key.
    hash: [u8; 2],
    label: Arc<str>,
}

/// Scheme, host and port.
impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl EndpointId {
    pub(super) fn new(index: usize, url: &Url) -> Self {
        let hash = keccak256(url.as_str());
        let label = url.origin().ascii_serialization().into();
        Self { index: index as u32, hash: [hash[0], hash[1]], label }
    }

    #[cfg(test)]
    pub(super) fn labelled(label: &str) -> Self {
        Self { index: 0, hash: [0; 2], label: label.into() }
    }

    /// Names its URL from run to run, without secrets.
    pub(super) fn key(&self) -> String {
        let [high, low] = self.hash;
        format!("{}#{high:02x}{low:02x}", self.label)
    }

    /// Its place in the list of endpoints.
    pub(super) const fn index(&self) -> usize {
        self.index as usize
    }
}
