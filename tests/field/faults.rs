//! What a simulated endpoint does wrong: for good, in a window of time, or now and then.

use std::time::Duration;

/// Something that an endpoint does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There is no connection.
    Dead,
    /// The connection breaks.
    Breaks,
    /// No answer ever comes.
    Silent,
    /// A page of a gateway with a status of 500 and more.
    Page,
    /// A redirect to elsewhere.
    Redirect,
    /// An error with the node's words for it.
    Refuses,
    /// A rate limit.
    Limits,
    /// A rate limit that tells how long it lasts.
    Tells(Hint),
    /// The answer is cut off.
    Cut,
    /// The answer to the request before comes, with its id, as where two are swapped.
    Repeats,
    /// The result is null.
    NullResult,
    /// A call returns nothing.
    EmptyCall,
    /// A call is answered at an older block.
    OlderBlock,
    /// A call is answered at the newest block.
    Newest,
    /// A call is answered by another chain.
    OtherChain,
    /// A header is that of another block.
    OtherHeader,
    /// No logs are found.
    NoLogs,
    /// The logs are those of another block.
    OtherLogs,
    /// Numbers do not fit, or are none.
    OddNumbers,
    /// All is well, with `"error": null` beside the result and the id as a text.
    Odd,
    /// It is a node of another chain.
    WrongChain,
    /// It starts anew, at block 0.
    Resyncs,
    /// It refuses us, by this status.
    Forbids(u16),
    /// Its head stands still.
    Frozen,
    /// Its head goes back by so many blocks.
    GoesBack(u64),
}

/// Where a rate limit tells how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    RetryAfter,
    RateLimitReset,
    XRateLimitReset,
    Message,
    Backoff,
}

impl Hint {
    /// The header for it, if it is one.
    pub(crate) const fn header(self) -> Option<&'static str> {
        match self {
            Self::RetryAfter => Some("retry-after"),
            Self::RateLimitReset => Some("ratelimit-reset"),
            Self::XRateLimitReset => Some("x-ratelimit-reset"),
            Self::Message | Self::Backoff => None,
        }
    }
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dead => "no connection",
            Self::Breaks => "broken connection",
            Self::Silent => "no answer",
            Self::Page => "page",
            Self::Redirect => "redirect",
            Self::Refuses => "refusal",
            Self::Limits => "rate limit",
            Self::Tells(_) => "told rate limit",
            Self::Cut => "cut answer",
            Self::Repeats => "answer to another request",
            Self::NullResult => "null",
            Self::EmptyCall => "empty call",
            Self::OlderBlock => "call at an older block",
            Self::Newest => "call at the newest block",
            Self::OtherChain => "call on another chain",
            Self::OtherHeader => "header of another block",
            Self::NoLogs => "logs left out",
            Self::OtherLogs => "logs of another block",
            Self::OddNumbers => "odd number",
            Self::Odd => "odd form",
            Self::WrongChain => "wrong chain",
            Self::Resyncs => "resync",
            Self::Forbids(_) => "forbidden",
            Self::Frozen => "frozen head",
            Self::GoesBack(_) => "head goes back",
        }
    }
}

/// Something that an endpoint does wrong to so many requests of a hundred, for a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) percent: u32,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Fault {
    pub(crate) fn is_on(&self, now: Duration) -> bool {
        (self.from..self.to).contains(&now)
    }
}
