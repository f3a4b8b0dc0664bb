//! One endpoint: what is known of it, and whether it may be asked.

use std::{
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use alloy::rpc::client::RpcClient;
use tokio::{sync::OnceCell, time::Instant};
use tracing::warn;
use url::Url;

use super::{Action, Failure, http::HttpPost};

/// The first pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause of our own.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause that a provider may ask for; with a longer one the endpoint counts as gone.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(120);

/// An endpoint of a provider.
pub(super) struct Endpoint {
    /// Scheme, host and port: all that may be shown of a URL.
    pub(super) label: String,
    pub(super) rpc: RpcClient,
    state: Mutex<State>,
    /// Whether it is of the right chain and has every contract.
    pub(super) checked: OnceCell<()>,
    /// The highest block that it was seen to have.
    pub(super) has_block: AtomicU64,
    /// Whether it refuses to give the logs of a block that it does not have.
    pub(super) refuses_unknown_hash: OnceCell<bool>,
}

/// Whether an endpoint may be asked.
#[derive(Clone)]
pub(super) enum State {
    /// May be asked from then on.
    RestingUntil(Instant),
    /// Not asked again, and why.
    Gone(String),
}

impl Endpoint {
    pub(super) fn new(http: reqwest::Client, url: Url) -> Self {
        Self {
            label: url.origin().ascii_serialization(),
            rpc: RpcClient::new(HttpPost::new(http, url), false),
            state: Mutex::new(State::RestingUntil(Instant::now())),
            checked: OnceCell::new(),
            has_block: AtomicU64::new(0),
            refuses_unknown_hash: OnceCell::new(),
        }
    }

    /// Whether it may be asked.
    pub(super) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives it another chance if it was given up.
    pub(super) fn revive(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Gone(_) = *state {
            *state = State::RestingUntil(Instant::now());
        }
    }

    /// Keeps requests away after a failure, for a while or for good.
    pub(super) fn let_rest(&self, failure: &Failure, attempt: usize, is_only_one: bool) {
        let asked = failure.pause.unwrap_or_default();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.class.action() == Action::Stop || asked > LONGEST_ASKED_PAUSE {
            if !is_only_one {
                warn!("{failure}; this endpoint is not asked again");
            }
            *state = State::Gone(failure.to_string());
            return;
        }
        let exponent = u32::try_from(attempt).unwrap_or(u32::MAX).min(16);
        let full = FIRST_PAUSE.saturating_mul(1 << exponent).min(LONGEST_PAUSE);
        let pause = full.mul_f64(rand::random_range(0.5..=1.0)).max(asked);
        if let State::RestingUntil(then) = &mut *state {
            *then = (*then).max(Instant::now() + pause);
        }
    }
}
