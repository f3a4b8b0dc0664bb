//! Asks for an early end: by a signal, `--max-duration` or `--max-calls`.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// Requested once, and never revoked. Work in progress is finished and stored; no new work begins.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    /// Raised with it where calls that are under way are not to take their time.
    urgent: CancellationToken,
    signal: Arc<OnceLock<i32>>,
}

impl Shutdown {
    /// How long calls that are under way may still take once a stop was asked for.
    pub const GRACE: Duration = Duration::from_secs(5);

    /// A shutdown of a part of the run: requested with this one, and without it.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
            urgent: self.urgent.child_token(),
            signal: Arc::clone(&self.signal),
        }
    }

    /// Ends the run cleanly, for a reason other than a signal.
    pub fn request(&self) {
        self.token.cancel();
        self.urgent.cancel();
    }

    /// The same, with all the time that calls under way may need.
    pub fn drain(&self) {
        self.token.cancel();
    }

    /// Ends the run cleanly because this signal came.
    pub fn interrupt(&self, signal: i32) {
        let _ = self.signal.set(signal);
        self.request();
    }

    /// The signal that interrupted the run.
    pub fn signal(&self) -> Option<i32> {
        self.signal.get().copied()
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns as soon as a stop is asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Returns [`Shutdown::GRACE`] after a stop was asked for that does not leave all the time.
    pub async fn overdue(&self) {
        self.urgent.cancelled().await;
        tokio::time::sleep(Self::GRACE).await;
    }
}
