//! Lives that ended wrong once, under names that say what they found.

use crate::{
    contracts::Sickness,
    faults::{Hint, Kind},
    focus::{Focus, Quirk},
    world::STALE,
};

/// A life that ended wrong once.
pub(crate) struct Found {
    /// What was wrong.
    pub(crate) what: &'static str,
    pub(crate) focus: Option<Focus>,
    pub(crate) seeds: &'static [u64],
}

const fn found(what: &'static str, focus: Focus, seeds: &'static [u64]) -> Found {
    Found { what, focus: Some(focus), seeds }
}

const fn mixed(what: &'static str, seeds: &'static [u64]) -> Found {
    Found { what, focus: None, seeds }
}

pub(crate) const ALL: &[Found] = &[
    found(
        "a removed log of a remembered block took that block for the fork, and events below it were lost",
        Focus::Reorgs(5),
        &[22],
    ),
    found(
        "a reorganisation while many blocks were caught up with lost events",
        Focus::Reorgs(60),
        &[51, 64, 66, 74],
    ),
    found(
        "rows above a fork deeper than what is remembered stayed wrong",
        Focus::Reorgs(200),
        &[1, 4, 8, 34, 35, 64, 84, 98],
    ),
    found(
        "a head that went back and came again lost events",
        Focus::While(Kind::GoesBack(5)),
        &[47],
    ),
    found(
        "backends that are behind lost events",
        Focus::Quirk(Quirk::Pool),
        &[3, 14, 47, 50, 62, 96],
    ),
    found(
        "logs that were found late were lost",
        Focus::Quirk(Quirk::Indexing),
        &[0, 3, 34, 39, 47, 74, 88],
    ),
    found(
        "an empty list of logs was believed",
        Focus::Now(Kind::NoLogs, 30),
        &[1, 3, 4, 8, 35, 84],
    ),
    found(
        "logs of another block were believed",
        Focus::Now(Kind::OtherLogs, 30),
        &[3, 4, 15, 35, 46],
    ),
    found(
        "the header of another block was believed",
        Focus::Now(Kind::OtherHeader, 20),
        &[3, 8, 17, 35, 46, 88],
    ),
    found(
        "a call at an older block was believed",
        Focus::Now(Kind::OlderBlock, 30),
        &[3, 8, 11, 54, 83],
    ),
    found(
        "a call on another chain was believed",
        Focus::Now(Kind::OtherChain, 20),
        &[8, 13, 42, 87, 94],
    ),
    found(
        "one strange answer to the packed reader was called a mistake in the settings",
        Focus::Now(Kind::EmptyCall, 20),
        &[12, 38, 70, 74, 84],
    ),
    found(
        "one answer of another chain was called a mistake in the settings",
        Focus::Now(Kind::OtherChain, 20),
        &[6, 20, 31],
    ),
    found(
        "a probe for an unknown block failed for ever where that was worded like a failure",
        Focus::Now(Kind::Odd, 50),
        &[29, 53, 72],
    ),
    found("the same after the endpoint had been away", Focus::While(Kind::Dead), &[25, 81, 98]),
    found(
        "an endpoint of another chain in front of a good one ended everything",
        Focus::Useless(Kind::WrongChain),
        &[2, 3, 14],
    ),
    found(
        "an endpoint that had not synced in front of a good one ended everything",
        Focus::Useless(Kind::Resyncs),
        &[2, 3, 14],
    ),
    found("an endpoint that had stopped syncing was read from", Focus::Useless(STALE), &[2, 3, 14]),
    found(
        "a code in a refusal decided before its status",
        Focus::Useless(Kind::Forbids(401)),
        &[1, 3, 5, 6],
    ),
    found(
        "a range that was too wide in other words was tried for ever",
        Focus::Quirk(Quirk::Range),
        &[4, 9, 13, 57, 74],
    ),
    found(
        "a call that was too large in other words was given up",
        Focus::Quirk(Quirk::Bytes),
        &[10, 11, 32, 39, 56, 98],
    ),
    found(
        "a call with too little gas in other words was given up",
        Focus::Quirk(Quirk::Gas),
        &[11],
    ),
    found(
        "one wallet that breaks every call in other words ended the run",
        Focus::Sick(Sickness::Breaks),
        &[1, 2, 5, 8, 19, 44],
    ),
    found(
        "a second endpoint with overrides was not asked",
        Focus::Quirk(Quirk::IgnoresOverrides),
        &[18, 26, 70],
    ),
    found("the words of a page decided", Focus::Now(Kind::Page, 20), &[0, 3, 7, 10]),
    found("a redirect now and then ended the run", Focus::Now(Kind::Redirect, 20), &[2, 6, 7, 22]),
    found("refusals in other words ended the run", Focus::Now(Kind::Refuses, 30), &[2, 5, 6, 55]),
    found("a canary without retries ended the run", Focus::Now(Kind::Limits, 30), &[2, 30, 31]),
    found(
        "a broken connection asked for a lower --chunk",
        Focus::Now(Kind::Breaks, 20),
        &[2, 4, 22],
    ),
    found(
        "a wait in a header of another name was not heeded",
        Focus::Told(Hint::RateLimitReset),
        &[2, 5, 11],
    ),
    found("a wait in the data of an error was not heeded", Focus::Told(Hint::Backoff), &[2, 5, 11]),
    mixed("events were lost where several things went wrong", &[19, 43, 81, 150, 170, 222]),
];
