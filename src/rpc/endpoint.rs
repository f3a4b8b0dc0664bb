//! One endpoint: sends it a request, and knows whether it may be asked.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{
    endpoint_id::EndpointId,
    error::{NodeError, excerpt},
    json::{self, Answer},
    kind::Action,
    learnt::{Learnt, lock},
    transport::{HttpError, Transport},
};

/// The longest wait that a provider may ask for; with a longer one the endpoint is given up.
const LONGEST_ASKED_WAIT: Duration = Duration::from_secs(120);

/// Bytes of a request from which on it may be compressed.
const WORTH_GZIP: usize = 16 << 10;

/// How long an endpoint that does not answer cools down while there are others.
pub(super) const SILENT: Duration = Duration::from_secs(30);
/// How long ago an answer shows that an endpoint is well.
const LATELY: Duration = Duration::from_secs(30);

/// How long an endpoint cools down after each failure of a request in a row: 125 to 250 ms at first, twice as long each
/// time, up to 15 to 30 s.
fn cool_down(seed: u64) -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(125))
        .with_max_delay(Duration::from_secs(15))
        .with_jitter()
        .with_jitter_seed(seed)
        .without_max_times()
}

/// An endpoint of a provider.
pub struct Endpoint {
    /// Which one it is.
    pub id: EndpointId,
    transport: Arc<dyn Transport>,
    /// How long to wait for a response.
    timeout: Duration,
    /// The id of the next request.
    next_id: AtomicU64,
    /// The seed of the next random pause.
    next_seed: AtomicU64,
    availability: Mutex<Availability>,
    pub(super) learnt: Learnt,
}

/// Whether an endpoint may be asked.
#[derive(Clone, Debug)]
pub(super) enum Availability {
    /// From then on.
    From(Instant),
    /// Not until it is revived.
    GivenUp(Unfit),
    /// Not until then, when it is to be checked again.
    Unfit(Unfit, Instant),
}

/// Why an endpoint cannot be used.
#[derive(Clone, Debug)]
pub(super) struct Unfit {
    /// What it lacks, with the endpoint's name.
    pub(super) reason: String,
    /// True if the settings do not fit it, so that it does not help to try again.
    pub(super) is_mistake: bool,
}

impl Endpoint {
    pub(super) fn new(
        id: EndpointId,
        transport: Arc<dyn Transport>,
        timeout: Duration,
        seed: u64,
    ) -> Self {
        Self {
            id,
            transport,
            timeout,
            // Two processes behind one gateway do not share their ids. Some nodes read 32 bits, with a sign.
            next_id: AtomicU64::new(seed % (1 << 30)),
            next_seed: AtomicU64::new(seed),
            availability: Mutex::new(Availability::From(Instant::now())),
            learnt: Learnt::default(),
        }
    }

    /// Sends a request, once; the response may have `limit` bytes. Returns also whether it was compressed.
    pub(super) async fn request<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        params: &P,
        limit: usize,
    ) -> (Result<R, NodeError>, bool) {
        let id = self.next_id.fetch_add(1, Relaxed);
        let body = json::request(id, method, params);
        let is_compressed = body.len() >= WORTH_GZIP && self.may_take_gzip();
        (self.post(id, body, is_compressed, limit).await, is_compressed)
    }

    async fn post<R: DeserializeOwned>(
        &self,
        id: u64,
        body: Vec<u8>,
        is_compressed: bool,
        limit: usize,
    ) -> Result<R, NodeError> {
        let posted = match is_compressed {
            true => self.transport.post_compressed(body, limit),
            false => self.transport.post(body, limit),
        };
        let posted = timeout(self.timeout, posted).await.unwrap_or(Err(HttpError::TimedOut));
        let response = posted.map_err(|error| NodeError::of_http(&self.id, error))?;
        if response.shows_gzip() {
            self.learnt.knows_gzip.store(true, Relaxed);
        }
        if !(200..300).contains(&response.status) {
            return Err(NodeError::of_response(&self.id, &response));
        }
        match json::answer(id, &response.body) {
            Answer::Result(result) => Ok(result),
            Answer::Error(error) => Err(NodeError::of_error_object(
                &self.id,
                response.status,
                &response.headers,
                &error,
            )),
            Answer::Malformed(why) => Err(NodeError::malformed(
                &self.id,
                format!("{why}{}", excerpt(&String::from_utf8_lossy(&response.body))),
            )),
        }
    }

    /// Whether it may be asked.
    pub(super) fn availability(&self) -> Availability {
        let mut availability = lock(&self.availability);
        if let Availability::Unfit(_, until) = *availability
            && until <= Instant::now()
        {
            *availability = Availability::From(until);
        }
        availability.clone()
    }

    /// True if it may be asked now.
    pub(super) fn is_available(&self) -> bool {
        matches!(self.availability(), Availability::From(then) if then <= Instant::now())
    }

    /// True if it was not given up: it may be asked now, or after a pause.
    pub(super) fn is_left(&self) -> bool {
        matches!(self.availability(), Availability::From(_))
    }

    /// Gives it another chance if it was given up.
    pub(super) fn revive(&self) {
        let mut availability = lock(&self.availability);
        if !matches!(*availability, Availability::From(_)) {
            *availability = Availability::From(Instant::now());
        }
    }

    /// True if it answered a request within the last half minute.
    pub(super) fn answered_lately(&self) -> bool {
        lock(&self.learnt.answered).is_some_and(|answered| answered.elapsed() < LATELY)
    }

    /// Keeps requests away after a failure, for a while or until it is revived. `attempt` counts from 0.
    pub(super) fn let_cool_down(&self, failure: &NodeError, attempt: u32, is_only_one: bool) {
        let asked = failure.wait.unwrap_or_default();
        if failure.kind.action() == Action::GiveUp || asked > LONGEST_ASKED_WAIT {
            if !is_only_one {
                warn!("{failure}; this endpoint is not used any more");
            }
            let unfit = Unfit { reason: failure.to_string(), is_mistake: false };
            *lock(&self.availability) = Availability::GivenUp(unfit);
            return;
        }
        let seed = self.next_seed.fetch_add(1, Relaxed);
        let wait = cool_down(seed).build().nth(attempt as usize).unwrap_or_default().max(asked);
        // One that has been silent for so long is not to hold up every request.
        let wait = if failure.is_silent() && !is_only_one { wait.max(SILENT) } else { wait };
        if let Availability::From(then) = &mut *lock(&self.availability) {
            *then = (*then).max(Instant::now() + wait);
        }
    }

    /// Passes it over for this time, as it cannot be used.
    pub(super) fn pass_over(&self, unfit: Unfit, time: Duration, is_only_one: bool) {
        if !is_only_one {
            warn!("{}; passing it over", unfit.reason);
        }
        *lock(&self.availability) = Availability::Unfit(unfit, Instant::now() + time);
    }

    /// Lets it be checked again now if it is passed over for what may have ended; whether it is.
    pub(super) fn ends_pause(&self) -> bool {
        let mut availability = lock(&self.availability);
        let is_paused =
            matches!(&*availability, Availability::Unfit(unfit, _) if !unfit.is_mistake);
        if is_paused {
            *availability = Availability::From(Instant::now());
        }
        is_paused
    }
}
