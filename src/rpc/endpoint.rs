//! One endpoint: whether it may be asked, and all that was learnt of it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout},
};
use tracing::warn;

use super::{
    endpoint_id::EndpointId,
    error::{NodeError, excerpt},
    json::{self, Answer},
    kind::Action,
    transport::{HttpError, Transport},
};
use crate::limit::{LimitSearch, Size};

/// The longest wait that a provider may ask for; with a longer one the endpoint is given up.
const LONGEST_ASKED_WAIT: Duration = Duration::from_secs(120);

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
    learnt: Learnt,
}

/// Whether an endpoint may be asked.
#[derive(Clone)]
pub(super) enum Availability {
    /// From then on.
    From(Instant),
    /// No more, for this reason.
    GivenUp(String),
}

/// What was learnt of an endpoint.
#[derive(Default)]
struct Learnt {
    /// Set once it is known to be of the right chain with every contract.
    checked: OnceCell<()>,
    /// The highest block that it is known to have, and when it was seen to.
    head: Mutex<Option<Head>>,
    /// One more than the highest block that it has, or had, but whose state it lacked.
    state_from: AtomicU64,
    /// Whether it refuses to give the logs of a block that it does not have.
    refuses_unknown_blocks: OnceCell<bool>,
    /// Whether it takes the hash of a block in an `eth_call`, and state overrides.
    features: Mutex<HashMap<Feature, Support>>,
    /// How large requests may be, by kind.
    limits: Mutex<HashMap<&'static str, LimitSearch>>,
}

/// A block that an endpoint is known to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) number: u64,
    /// When it was last seen to have that block, or a higher one.
    pub(super) seen: Instant,
}

/// A form of request that not every node understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// The hash of a block in an `eth_call` (EIP-1898).
    BlockHash,
    /// State overrides in an `eth_call`.
    Overrides,
}

/// Whether an endpoint has a [`Feature`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Support {
    /// Not tried yet.
    #[default]
    Untried,
    /// It was seen to work.
    Works,
    /// It was seen not to work.
    Missing,
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

    /// Sends a request, once; the response may have `limit` bytes.
    pub(super) async fn request<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        params: &P,
        limit: usize,
    ) -> Result<R, NodeError> {
        let id = self.next_id.fetch_add(1, Relaxed);
        let posted = self.transport.post(json::request(id, method, params), limit);
        let posted = timeout(self.timeout, posted).await.unwrap_or(Err(HttpError::TimedOut));
        let response = posted.map_err(|error| NodeError::of_http(&self.id, error))?;
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
        lock(&self.availability).clone()
    }

    /// True if it may be asked now.
    pub(super) fn is_available(&self) -> bool {
        matches!(self.availability(), Availability::From(then) if then <= Instant::now())
    }

    /// Gives it another chance if it was given up.
    pub(super) fn revive(&self) {
        let mut availability = lock(&self.availability);
        if let Availability::GivenUp(_) = *availability {
            *availability = Availability::From(Instant::now());
        }
    }

    /// Keeps requests away after a failure, for a while or until it is revived. `attempt` counts from 0.
    pub(super) fn let_cool_down(&self, failure: &NodeError, attempt: usize, is_only_one: bool) {
        let asked = failure.wait.unwrap_or_default();
        if failure.kind.action() == Action::GiveUp || asked > LONGEST_ASKED_WAIT {
            if !is_only_one {
                warn!("{failure}; this endpoint is not used any more");
            }
            *lock(&self.availability) = Availability::GivenUp(failure.to_string());
            return;
        }
        let seed = self.next_seed.fetch_add(1, Relaxed);
        let wait = cool_down(seed).build().nth(attempt).unwrap_or_default().max(asked);
        if let Availability::From(then) = &mut *lock(&self.availability) {
            *then = (*then).max(Instant::now() + wait);
        }
    }

    /// Set once it is known to be of the right chain with every contract.
    pub(super) const fn checked(&self) -> &OnceCell<()> {
        &self.learnt.checked
    }

    /// Set once it is known whether it refuses to give the logs of a block that it does not have.
    pub(super) const fn refuses_unknown_blocks(&self) -> &OnceCell<bool> {
        &self.learnt.refuses_unknown_blocks
    }

    /// The highest block that it is known to have.
    pub(super) fn head(&self) -> Option<Head> {
        *lock(&self.learnt.head)
    }

    /// It has this block.
    pub(super) fn has_block(&self, number: u64) {
        let mut head = lock(&self.learnt.head);
        if head.is_none_or(|head| head.number <= number) {
            *head = Some(Head { number, seen: Instant::now() });
        }
    }

    /// It refused this block. If it has had it, it lacks that block's state, and so that of older ones.
    pub(super) fn refused_block(&self, number: u64) {
        if self.head().is_some_and(|head| head.number >= number) {
            self.learnt.state_from.fetch_max(number.saturating_add(1), Relaxed);
        }
    }

    /// False if it is known to lack the state of this block.
    pub(super) fn may_have_state(&self, number: u64) -> bool {
        number >= self.learnt.state_from.load(Relaxed)
    }

    /// Whether it has this feature, as far as is known.
    pub fn support(&self, feature: Feature) -> Support {
        lock(&self.learnt.features).get(&feature).copied().unwrap_or_default()
    }

    /// Remembers whether it has this feature; returns what was known before.
    pub fn learn(&self, feature: Feature, support: Support) -> Support {
        lock(&self.learnt.features).insert(feature, support).unwrap_or_default()
    }

    /// The search for the largest request of this kind.
    pub fn limit<T>(&self, limit: Limit, work: impl FnOnce(&mut LimitSearch) -> T) -> T {
        let mut limits = lock(&self.learnt.limits);
        let new = || match limit.at_most {
            Some(number) => LimitSearch::at_most(number),
            None => LimitSearch::from(limit.first, limit.ceiling),
        };
        work(limits.entry(limit.kind).or_insert_with(new))
    }

    /// The size of the next request of this kind.
    pub fn next_size(&self, limit: Limit) -> SizeInUse<'_> {
        let size = self.limit(limit, LimitSearch::next_size);
        SizeInUse { endpoint: self, limit, size }
    }
}

/// A kind of request whose largest size is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Its name.
    pub kind: &'static str,
    /// Where the search begins; at least 1.
    pub first: usize,
    /// The largest size to try; at least 1.
    pub ceiling: usize,
    /// Where the user set an upper limit: the search begins with it.
    pub at_most: Option<usize>,
}

/// A size that a request under way is trying.
pub struct SizeInUse<'a> {
    endpoint: &'a Endpoint,
    limit: Limit,
    size: Size,
}

impl SizeInUse<'_> {
    /// The most that the request may ask for.
    pub const fn get(&self) -> usize {
        self.size.len
    }
}

impl Drop for SizeInUse<'_> {
    fn drop(&mut self) {
        self.endpoint.limit(self.limit, |search| search.ended(self.size));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::HttpResponse;

    struct Nowhere;

    #[async_trait::async_trait]
    impl Transport for Nowhere {
        async fn post(&self, _: Vec<u8>, _: usize) -> Result<HttpResponse, HttpError> {
            Err(HttpError::TimedOut)
        }
    }

    fn endpoint() -> Endpoint {
        Endpoint::new(EndpointId::labelled("http://host"), Arc::new(Nowhere), Duration::MAX, 0)
    }

    #[tokio::test]
    async fn a_block_that_it_has_had_and_refuses_is_one_whose_state_it_lacks() {
        let endpoint = endpoint();
        endpoint.refused_block(100);
        assert!(endpoint.may_have_state(100), "it may only be behind");
        endpoint.has_block(120);
        endpoint.has_block(110);
        assert_eq!(endpoint.head().unwrap().number, 120);
        endpoint.refused_block(100);
        assert_eq!(
            [99, 100, 101].map(|block| endpoint.may_have_state(block)),
            [false, false, true]
        );
        endpoint.refused_block(121);
        assert!(endpoint.may_have_state(101));
    }
}
