//! The wish to stop: raised by a signal, by `--max-duration` or by `--max-calls`, seen by everybody.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// Something was not done because a stop was asked for: no failure to tell anybody of.
#[derive(Clone, Copy, Debug, Error)]
#[error("stopped before it was done")]
pub struct Stopped;

/// Raised once, never taken back. Work that is under way is finished and
/// stored; new work is not begun.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    token: CancellationToken,
    /// Raised with it where calls that are under way are not to take their time.
    urgent: CancellationToken,
    signal: Arc<OnceLock<i32>>,
}

impl Stop {
    /// How long calls that are under way may still take once a stop was asked for.
    pub const GRACE: Duration = Duration::from_secs(5);

    /// Ends the run cleanly, for a reason that is no interruption.
    pub fn ask(&self) {
        self.token.cancel();
        self.urgent.cancel();
    }

    /// The same, with all the time that calls under way may need.
    pub fn wind_down(&self) {
        self.token.cancel();
    }

    /// Ends the run cleanly because this signal came.
    pub fn interrupt(&self, signal: i32) {
        let _ = self.signal.set(signal);
        self.ask();
    }

    /// The signal that interrupted the run.
    pub fn signal(&self) -> Option<i32> {
        self.signal.get().copied()
    }

    /// Whether a stop was asked for.
    pub fn is_asked(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns as soon as a stop is asked for.
    pub async fn asked(&self) {
        self.token.cancelled().await;
    }

    /// Returns [`Stop::GRACE`] after a stop was asked for that does not leave all the time.
    pub async fn overdue(&self) {
        self.urgent.cancelled().await;
        tokio::time::sleep(Self::GRACE).await;
    }
}
