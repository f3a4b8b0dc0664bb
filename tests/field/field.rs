//! What all of a life share: the chain, the time, and the book of what was asked and what was done to it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::chain::Chain;

/// Lines of a trace that are kept.
const LINES: usize = 50_000;

/// The chain, the time and the book.
pub(crate) struct Field {
    start: Instant,
    chain: Mutex<Chain>,
    book: Mutex<Book>,
    /// Notified once there were too many requests.
    pub(crate) too_many: Notify,
    most: u64,
}

/// What was asked, and what was done to it.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) requests: u64,
    /// How often each fault struck.
    pub(crate) struck: BTreeMap<&'static str, u64>,
    /// Statuses and codes that were given.
    pub(crate) statuses: BTreeSet<u16>,
    pub(crate) codes: BTreeSet<i64>,
    streaks: HashMap<u64, Streak>,
    /// The longest streak, rate limits left out, and the longest time that a rate limit lasted for one request.
    pub(crate) longest: u32,
    pub(crate) longest_limited: Duration,
    pub(crate) trace: Vec<String>,
    fingerprint: DefaultHasher,
}

/// Failures of one request in a row.
#[derive(Clone, Copy, Default)]
struct Streak {
    failures: u32,
    limited_since: Option<Duration>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was answered well, or by an error that is due.
    Answered,
    /// A fault of this name struck.
    Struck(&'static str),
    /// It was limited by rate.
    Limited,
    /// The same, and it was told for how long.
    Told,
}

impl Field {
    pub(crate) fn new(chain: Chain, most: u64) -> Self {
        Self {
            start: Instant::now(),
            chain: Mutex::new(chain),
            book: Mutex::default(),
            too_many: Notify::new(),
            most,
        }
    }

    /// The time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line to the trace.
    pub(crate) fn tell(&self, line: impl AsRef<str>) {
        let now = self.now();
        let mut book = self.book();
        (now, line.as_ref()).hash(&mut book.fingerprint);
        if book.trace.len() < LINES {
            book.trace.push(format!("{:>9.3} {}", now.as_secs_f64(), line.as_ref()));
        }
    }

    /// Counts a request; false if there were too many.
    pub(crate) fn count(&self) -> bool {
        let mut book = self.book();
        book.requests += 1;
        if book.requests > self.most {
            self.too_many.notify_one();
        }
        book.requests <= self.most
    }

    /// Notes what became of the request with this key.
    pub(crate) fn note(&self, key: u64, fate: Fate) {
        let now = self.now();
        let mut book = self.book();
        let book = &mut *book;
        let streak = book.streaks.entry(key).or_default();
        match fate {
            Fate::Answered => *streak = Streak::default(),
            Fate::Struck(name) => {
                streak.failures += 1;
                book.longest = book.longest.max(streak.failures);
                *book.struck.entry(name).or_default() += 1;
            }
            Fate::Told => *book.struck.entry("rate limit").or_default() += 1,
            Fate::Limited => {
                let since = *streak.limited_since.get_or_insert(now);
                book.longest_limited = book.longest_limited.max(now - since);
                *book.struck.entry("rate limit").or_default() += 1;
            }
        }
    }
}

impl Book {
    /// A number that two equal traces share.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint.finish()
    }

    /// Whether a fault of this name struck.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.struck.contains_key(name)
    }
}
