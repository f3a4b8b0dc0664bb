//! What is checked of an endpoint before it is used: its chain, how old its newest block is, and its contracts.
//!
//! Each request has its own retries, and what was checked once is not asked again.

use std::{
    collections::BTreeMap,
    fmt,
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy::primitives::{Address, Bytes, U64};
use futures_util::future::join_all;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tracing::info;

use super::{
    attempts::{Attempts, Next},
    block::{BlockChoice, Header},
    endpoint::{Availability, Endpoint, Unfit},
    error::RequestError,
    learnt::{Checks, lock},
    sender::{Rejected, Sender},
};
use crate::{profile::Profile, tally::Shutdown};

/// How long an endpoint that is behind is passed over.
const BEHIND: Duration = Duration::from_secs(30);
/// How long one that does not fit the settings is passed over.
const MISTAKEN: Duration = Duration::from_secs(600);
/// Blocks over which the time between two blocks is measured.
const SPAN: u64 = 100;

/// How long an endpoint that is near takes to answer.
const NEAR: Duration = Duration::from_millis(50);
/// How long the answers of checks that were begun ahead count as those of now.
const RECENT: Duration = Duration::from_secs(1);

/// Tells the time; a simulation has its own.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The contracts of a profile that every endpoint must have, beside Multicall3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contracts {
    /// Those whose views make up a total.
    OfTotals,
    /// Those of events and their members as well.
    OfEvents,
}

/// What every endpoint must have before it is read from.
pub(super) struct Expected {
    pub(super) chain_id: u64,
    profile: String,
    /// Address, and what it is called in errors.
    pub(super) contracts: BTreeMap<Address, String>,
    block: BlockChoice,
    /// How old the newest block may be; `None` for a chain that stands still.
    max_head_age: Option<Duration>,
    clock: Clock,
}

/// Why an endpoint has not passed.
pub(super) enum CheckFailure {
    /// A request failed.
    Request(RequestError),
    /// It cannot be used, and is not to be asked for this time.
    Unfit(Unfit, Duration),
}

impl From<RequestError> for CheckFailure {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

impl Expected {
    /// What `profile` needs; code is looked for at `block`.
    pub(super) fn of(
        profile: &Profile,
        which: Contracts,
        block: BlockChoice,
        max_head_age: Option<Duration>,
        clock: Clock,
    ) -> Self {
        let mut contracts = BTreeMap::new();
        let mut expect = |address: Address, name: String| {
            contracts.entry(address).or_insert(name);
        };
        if let Some(multicall3) = profile.multicall3 {
            expect(multicall3, "Multicall3".to_owned());
        }
        let named = |name: &str| format!("the contract of {name}");
        for read in profile.reads.iter().map(|read| &read.view) {
            expect(read.contract, named(&read.function.name));
        }
        let events = profile.events.iter();
        for event in events.filter(|_| which == Contracts::OfEvents) {
            expect(event.contract, named(&event.event.name));
            if let Some(members) = &event.members {
                expect(members.view.contract, named(&members.view.function.name));
            }
        }
        let (chain_id, profile) = (profile.chain_id, profile.name.clone());
        Self { chain_id, profile, contracts, block, max_head_age, clock }
    }
}

impl Checks {
    /// Keeps what has passed; the first failure, if there is one. How old the newest block is, is not judged here.
    fn keep(&mut self, answers: Answers) -> Result<(), CheckFailure> {
        let Answers { of_chain, newest, looked } = answers;
        self.is_of_chain |= of_chain.is_ok();
        let mut first_failure = of_chain.and(newest.map(drop));
        for (address, result) in looked {
            match result {
                Ok(()) => drop(self.contracts.insert(address)),
                Err(failure) => first_failure = first_failure.and(Err(failure)),
            }
        }
        first_failure
    }
}

/// Checks one endpoint.
pub(super) struct Checker<'a> {
    pub(super) sender: &'a Sender,
    pub(super) expected: &'a Expected,
    pub(super) endpoint: &'a Endpoint,
    /// Retries per request.
    pub(super) retries: u32,
    /// True if no other endpoint is configured.
    pub(super) is_only_one: bool,
    /// True if another endpoint can be asked instead.
    pub(super) has_others: bool,
    /// The newest block of a total in the table.
    pub(super) newest_stored: u64,
    /// Checks of this endpoint that were begun ahead.
    pub(super) ahead: Option<&'a Mutex<Option<Ahead>>>,
    pub(super) shutdown: &'a Shutdown,
}

/// When an endpoint is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Before it is needed, and before it is known how new its blocks have to be.
    Ahead,
    Now,
}

/// What was asked, and whether it is as it must be.
pub(super) struct Answers {
    of_chain: Result<(), CheckFailure>,
    /// The newest block, and when it was seen, if its age is still to be judged.
    newest: Result<Option<(Header, Instant)>, CheckFailure>,
    /// By contract.
    looked: Vec<(Address, Result<(), CheckFailure>)>,
}

/// Checks that were begun before the endpoint is needed.
pub(super) type Ahead = JoinHandle<(Result<Answers, CheckFailure>, Instant)>;

impl Checker<'_> {
    /// Checks what is not known yet.
    pub(super) async fn check(&self) -> Result<(), CheckFailure> {
        let endpoint = self.endpoint;
        let mut checks = endpoint.checks().await;
        if endpoint.is_checked() {
            return Ok(());
        }
        let answers = match self.answers_ahead(&mut checks).await {
            Some(answers) => answers?,
            None => self.ask_all(&checks, When::Now).await?,
        };
        let newest = match &answers.newest {
            Ok(Some((newest, seen))) if seen.elapsed() <= RECENT => self.check_age(newest).await,
            Ok(Some(_)) => self.check_newest().await,
            Ok(None) | Err(_) => Ok(()),
        };
        checks.is_fresh = answers.newest.is_ok() && newest.is_ok();
        checks.keep(answers).and(newest)?;
        info!("{}: chain {}, every contract has code", endpoint.id, self.expected.chain_id);
        endpoint.passed_checks();
        Ok(())
    }

    /// The answers to checks that were begun ahead, if they are recent. Of older ones, what does not change is kept.
    async fn answers_ahead(&self, checks: &mut Checks) -> Option<Result<Answers, CheckFailure>> {
        let ahead = lock(self.ahead?).take()?;
        let (answers, at) = ahead.await.ok()?;
        if at.elapsed() <= RECENT {
            return Some(answers);
        }
        if let Ok(answers) = answers {
            // What failed is asked for again.
            let _ = checks.keep(answers);
        }
        None
    }

    /// Asks for everything at once, before the endpoint is needed.
    pub(super) async fn ask_ahead(&self) -> (Result<Answers, CheckFailure>, Instant) {
        (self.ask_all(&Checks::default(), When::Ahead).await, Instant::now())
    }

    /// Asks for what is not known yet. One that is near is asked no more once its chain is not the right one, or it does
    /// not answer. Of one that is far each round trip is as long as a whole call, so that all is asked at once; that also
    /// opens the connections that calls will use.
    async fn ask_all(&self, checks: &Checks, when: When) -> Result<Answers, CheckFailure> {
        let Expected { contracts, block, .. } = self.expected;
        let block = block.to_string();
        let missing = contracts.iter().filter(|(address, _)| !checks.contracts.contains(*address));
        let of_chain = async { if checks.is_of_chain { Ok(()) } else { self.check_chain().await } };
        let newest = async {
            match when {
                _ if checks.is_fresh => Ok(None),
                When::Now => self.check_newest().await.map(|()| None),
                When::Ahead => Ok(self.newest().await?.map(|newest| (newest, Instant::now()))),
            }
        };
        let looked = join_all(missing.map(async |(address, what)| {
            (*address, self.check_code(*address, what, &block).await)
        }));
        let near = if when == When::Now { NEAR } else { Duration::ZERO };
        let mut of_chain = pin!(of_chain);
        let first = match timeout(near, &mut of_chain).await {
            // It has failed, and is asked again.
            Err(_) if !self.endpoint.is_available() => Ok((&mut of_chain).await),
            first => first,
        };
        let (of_chain, newest, looked) = match first {
            Ok(of_chain) => {
                of_chain?;
                let (newest, looked) = tokio::join!(newest, looked);
                (Ok(()), newest, looked)
            }
            Err(_) => tokio::join!(of_chain, newest, looked),
        };
        Ok(Answers { of_chain, newest, looked })
    }

    pub(super) async fn check_chain(&self) -> Result<(), CheckFailure> {
        let Expected { chain_id: expected, profile, .. } = self.expected;
        let ask = async || self.ask("eth_chainId", (), |id: U64| Ok(id.to::<u64>())).await;
        // A gateway may mistake one request.
        if ask().await? == *expected {
            return Ok(());
        }
        let chain_id = ask().await?;
        if chain_id == *expected {
            return Ok(());
        }
        Err(self.mistake(format_args!(
            "{} is a node of chain {chain_id}, but profile {profile} is for chain {expected}; \
             give --rpc-url a node of chain {expected}, or another --profile",
            self.endpoint.id
        )))
    }

    /// The newest block, unless totals are read at a certain one.
    async fn newest(&self) -> Result<Option<Header>, CheckFailure> {
        if matches!(self.expected.block, BlockChoice::Number(_)) {
            return Ok(None);
        }
        let newest = self.ask("eth_getBlockByNumber", ("latest", false), Header::existing);
        Ok(Some(newest.await?))
    }

    /// Checks how old the newest block is.
    async fn check_newest(&self) -> Result<(), CheckFailure> {
        match self.newest().await? {
            Some(newest) => self.check_age(&newest).await,
            None => Ok(()),
        }
    }

    /// Fails if the newest block is too old, or too far behind the table.
    pub(super) async fn check_age(&self, newest: &Header) -> Result<(), CheckFailure> {
        let number: u64 = newest.number.to();
        self.endpoint.has_block(number);
        let Some(longest) = self.expected.max_head_age else { return Ok(()) };
        let longest_text = humantime::format_duration(longest);
        let label = &self.endpoint.id;
        let made = UNIX_EPOCH + Duration::from_secs(newest.timestamp.to());
        let age = (self.expected.clock)().duration_since(made).unwrap_or_default();
        if age > longest {
            let what = match number {
                0 => "has only block 0; it has not synced yet".to_owned(),
                _ => format!(
                    "the newest block, {number}, is {} old, and --max-head-age is {longest_text}; \
                     it may have stopped syncing",
                    Age(age)
                ),
            };
            return Err(self.behind(format_args!("{label}: {what}")));
        }
        let missing = self.newest_stored.saturating_sub(number);
        if missing == 0 || number == 0 {
            return Ok(());
        }
        let before = number - number.min(SPAN);
        let present = |header| Header::existing(Header::numbered(before)(header)?);
        let older = self.ask("eth_getBlockByNumber", (U64::from(before), false), present).await?;
        let span = newest.timestamp.saturating_sub(older.timestamp).to::<u64>();
        let seconds = u128::from(missing) * u128::from(span) / u128::from(number - before);
        let lag = Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX));
        if lag <= longest {
            return Ok(());
        }
        Err(self.behind(format_args!(
            "{label}: the newest block, {number}, is {missing} blocks, about {}, behind the newest block \
             that the table was read at, {}, and --max-head-age is {longest_text}",
            Age(lag),
            self.newest_stored
        )))
    }

    pub(super) async fn check_code(
        &self,
        address: Address,
        what: &str,
        block: &str,
    ) -> Result<(), CheckFailure> {
        let ask = async || self.ask("eth_getCode", (address, block), |code: Bytes| Ok(code)).await;
        if !ask().await?.is_empty() || !ask().await?.is_empty() {
            return Ok(());
        }
        Err(self.mistake(format_args!(
            "{} has no code at {address} ({what}) on chain {} at block {}; check the profile and --block",
            self.endpoint.id, self.expected.chain_id, self.expected.block
        )))
    }

    /// Sends a request with retries of its own.
    pub(super) async fn ask<P: Serialize, R: DeserializeOwned, T>(
        &self,
        method: &'static str,
        params: P,
        read: impl Fn(R) -> Result<T, String>,
    ) -> Result<T, RequestError> {
        let mut attempts = Attempts::at(method, self.endpoint.id.index(), self.retries);
        loop {
            let counts = |result| read(result).map_err(Rejected::from);
            let failure = match self.sender.ask(self.endpoint, method, &params, counts).await {
                Err(RequestError::Node(failure)) => failure,
                answer => return answer,
            };
            info!(method, "{failure}");
            self.endpoint.let_cool_down(&failure, attempts.failures(), self.is_only_one);
            let is_silent = failure.is_silent();
            let next = attempts.failed(failure, None, self.endpoint.answered_lately());
            let Availability::From(then) = self.endpoint.availability() else { break };
            // With another endpoint at hand it is quicker to ask that.
            let is_enough = self.has_others && (is_silent || attempts.failures() >= 2);
            if next == Next::Return || is_enough || self.shutdown.is_requested() {
                break;
            }
            tokio::select! {
                () = sleep_until(then) => {}
                () = self.shutdown.requested() => break,
            }
        }
        let (failure, _) = attempts.into_failures().expect("the loop ends after a failure");
        Err(failure.into())
    }

    fn mistake(&self, reason: fmt::Arguments<'_>) -> CheckFailure {
        CheckFailure::Unfit(Unfit { reason: reason.to_string(), is_mistake: true }, MISTAKEN)
    }

    fn behind(&self, reason: fmt::Arguments<'_>) -> CheckFailure {
        CheckFailure::Unfit(Unfit { reason: reason.to_string(), is_mistake: false }, BEHIND)
    }
}

/// A time in its two largest units.
struct Age(Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let unit = [86_400, 3_600, 60].into_iter().find(|unit| seconds >= *unit).unwrap_or(1);
        // Days with hours, hours with minutes, minutes with seconds.
        let next = match unit {
            86_400 => 3_600,
            3_600 => 60,
            _ => 1,
        };
        humantime::format_duration(Duration::from_secs(seconds - seconds % next)).fmt(f)
    }
}

#[cfg(test)]
mod tests;
