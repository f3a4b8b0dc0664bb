//! One kind of trouble at a time, in a world where all else is well.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};

use crate::{
    contracts::Sickness,
    faults::{Fault, Hint, Kind},
    node::{Character, Overrides},
    world::{FOREVER, Run, STALE},
};

/// The only trouble of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Focus {
    /// A fault strikes so many requests of a hundred.
    Now(Kind, u32),
    /// A fault strikes every request for a while; there is one endpoint.
    While(Kind),
    /// There is one endpoint, and it tells for how long it limits the rate.
    Told(Hint),
    /// The program's NUMBER is not the block's.
    OtherNumber,
    /// The first of two endpoints is of no use, for good.
    Useless(Kind),
    /// Endpoints are peculiar in this way.
    Quirk(Quirk),
    /// Some wallets are sick in this way.
    Sick(Sickness),
    /// Reorganisations of at most this depth.
    Reorgs(u64),
    /// The database fails, and takes its time.
    Database,
}

/// How an endpoint is peculiar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quirk {
    /// Its backends are up to 0.4 s behind.
    Pool,
    /// Logs are found up to 0.4 s after their block.
    Indexing,
    /// A call has little gas.
    Gas,
    /// A request or a response has few bytes.
    Bytes,
    /// A range has few blocks.
    Range,
    /// State is kept of few blocks.
    Pruned,
    /// A call does not take a hash.
    NoHashes,
    /// A call does not take overrides, and says so.
    RefusesOverrides,
    /// A call does not take overrides, and does not say so.
    IgnoresOverrides,
}

/// Every kind of trouble.
pub(crate) const ALL: &[Focus] = &[
    Focus::Now(Kind::Breaks, 20),
    Focus::Now(Kind::Silent, 5),
    Focus::Now(Kind::Page, 20),
    Focus::Now(Kind::Redirect, 20),
    Focus::Now(Kind::Refuses, 30),
    Focus::Now(Kind::Limits, 30),
    Focus::Now(Kind::Cut, 20),
    Focus::Now(Kind::Repeats, 20),
    Focus::Now(Kind::NullResult, 20),
    Focus::Now(Kind::EmptyCall, 20),
    Focus::Now(Kind::OlderBlock, 30),
    Focus::Now(Kind::Newest, 30),
    Focus::Now(Kind::OtherChain, 20),
    Focus::Now(Kind::OtherHeader, 20),
    Focus::Now(Kind::NoLogs, 30),
    Focus::Now(Kind::OtherLogs, 30),
    Focus::Now(Kind::OddNumbers, 20),
    Focus::Now(Kind::Odd, 50),
    Focus::While(Kind::Dead),
    Focus::While(Kind::Limits),
    Focus::While(Kind::Frozen),
    Focus::While(Kind::GoesBack(5)),
    Focus::While(Kind::Resyncs),
    Focus::While(Kind::Silent),
    Focus::Told(Hint::RetryAfter),
    Focus::Told(Hint::RateLimitReset),
    Focus::Told(Hint::XRateLimitReset),
    Focus::Told(Hint::Message),
    Focus::Told(Hint::Backoff),
    Focus::OtherNumber,
    Focus::Useless(Kind::Dead),
    Focus::Useless(Kind::Silent),
    Focus::Useless(Kind::Page),
    Focus::Useless(Kind::Forbids(401)),
    Focus::Useless(Kind::Forbids(404)),
    Focus::Useless(Kind::WrongChain),
    Focus::Useless(Kind::Resyncs),
    Focus::Quirk(Quirk::Pool),
    Focus::Quirk(Quirk::Indexing),
    Focus::Quirk(Quirk::Gas),
    Focus::Quirk(Quirk::Bytes),
    Focus::Quirk(Quirk::Range),
    Focus::Quirk(Quirk::Pruned),
    Focus::Quirk(Quirk::NoHashes),
    Focus::Quirk(Quirk::RefusesOverrides),
    Focus::Quirk(Quirk::IgnoresOverrides),
    Focus::Sick(Sickness::Reverts),
    Focus::Sick(Sickness::Short),
    Focus::Sick(Sickness::Burns),
    Focus::Sick(Sickness::Overflows),
    Focus::Sick(Sickness::Breaks),
    Focus::Reorgs(5),
    Focus::Reorgs(60),
    Focus::Reorgs(200),
    Focus::Database,
    Focus::Useless(STALE),
];

impl Focus {
    /// How many endpoints there are.
    pub(crate) fn endpoints(self, drawn: usize) -> usize {
        match self {
            Self::Useless(_) => 2,
            Self::While(_) | Self::Told(_) => 1,
            _ => drawn,
        }
    }

    /// Gives an endpoint its trouble.
    pub(crate) fn spoil(
        self,
        index: usize,
        character: &mut Character,
        random: &mut StdRng,
        run: Run,
        end: Duration,
    ) {
        let ms = Duration::from_millis;
        let always = |kind| Fault { kind, percent: 100, from: Duration::ZERO, to: FOREVER };
        match self {
            Self::Now(kind, percent) => {
                let to = if run == Run::Sweep { FOREVER } else { end };
                character.faults.push(Fault { kind, percent, from: Duration::ZERO, to });
            }
            // A sweep has little patience: an outage ends it, and rightly.
            Self::While(_) if run == Run::Sweep => {}
            Self::While(kind) => {
                let from = end.mul_f64(random.random_range(0.0..0.6));
                let to = (from + ms(random.random_range(1_000..60_000))).min(end);
                character.faults.push(Fault { kind, percent: 100, from, to });
            }
            Self::Told(hint) => {
                let to = ms(random.random_range(2_000..90_000));
                let from = Duration::from_millis(random.random_range(0..500));
                let kind = Kind::Tells(hint);
                character.faults.push(Fault { kind, percent: 100, from, to });
            }
            Self::Useless(kind) if index == 0 => character.faults.push(always(kind)),
            Self::Quirk(quirk) => quirk.apply(index, character, random),
            Self::Useless(_)
            | Self::Sick(_)
            | Self::Reorgs(_)
            | Self::Database
            | Self::OtherNumber => {}
        }
    }
}

impl Quirk {
    fn apply(self, index: usize, character: &mut Character, random: &mut StdRng) {
        let ms = Duration::from_millis;
        match self {
            Self::Pool => {
                character.lags = (0..3).map(|_| ms(random.random_range(0..400))).collect();
            }
            Self::Indexing => character.indexing = ms(random.random_range(50..400)),
            Self::Gas => character.gas = random.random_range(1_000_000..3_000_000),
            Self::Bytes => character.bytes = random.random_range(8_000..40_000),
            Self::Range => character.range = random.random_range(2..100),
            Self::Pruned => character.keeps = random.random_range(40..128),
            Self::NoHashes => character.hashes = false,
            // With one that takes them, so that the packed reader is no mistake.
            Self::RefusesOverrides if index == 0 => character.overrides = Overrides::Refuses,
            Self::IgnoresOverrides if index == 0 => character.overrides = Overrides::Ignores,
            Self::RefusesOverrides | Self::IgnoresOverrides => {}
        }
    }
}
