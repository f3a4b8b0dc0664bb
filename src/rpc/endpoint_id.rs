//! Names an endpoint without its secrets.

use std::{fmt, sync::Arc};

use url::Url;

/// Which endpoint: its place in the list, and all of its URL that may be shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    index: usize,
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
        Self { index, label: url.origin().ascii_serialization().into() }
    }

    #[cfg(test)]
    pub(super) fn labelled(label: &str) -> Self {
        Self { index: 0, label: label.into() }
    }

    /// Its place in the list of endpoints.
    pub(super) const fn index(&self) -> usize {
        self.index
    }
}
