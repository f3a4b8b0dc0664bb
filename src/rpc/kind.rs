//! The kinds of failure, and what to do about each.

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The provider wants fewer requests a second.
    RateLimited,
    /// The plan's quota is used up.
    QuotaExhausted,
    /// The endpoint refuses us: a bad key, a wrong path, a method it does not serve.
    Refused,
    /// One request asked for too much: gas, bytes, time or blocks.
    TooLarge,
    /// The call reverted as a whole.
    Reverted,
    /// The node does not have the block or its state.
    BlockUnavailable,
    /// The node has another block in the place of the one that was asked for.
    BlockReplaced,
    /// The node does not understand the form of the request, such as a block's hash or a state override.
    NotUnderstood,
    /// No answer, or one that makes no sense.
    Unreachable,
    /// An answer was begun or waited for, and cut off.
    TimedOut,
    /// An error that the table does not know.
    Unknown,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait, then ask again.
    Retry,
    /// Ask the next endpoint; this one again after a pause.
    NextEndpoint,
    /// Ask for less in one request.
    Split,
    /// Never ask this endpoint again; with no other left, stop.
    GiveUp,
}

impl ErrorKind {
    /// True if the endpoint answered with an error that is neither about its state nor about ours.
    pub const fn is_odd_answer(self) -> bool {
        matches!(self, Self::Unknown | Self::NotUnderstood)
    }

    /// What to do about a failure of this kind.
    pub const fn action(self) -> Action {
        match self {
            Self::RateLimited => Action::Retry,
            Self::BlockUnavailable
            | Self::BlockReplaced
            | Self::NotUnderstood
            | Self::Unreachable
            | Self::TimedOut
            | Self::Unknown => Action::NextEndpoint,
            Self::TooLarge | Self::Reverted => Action::Split,
            Self::QuotaExhausted | Self::Refused => Action::GiveUp,
        }
    }

    /// True if it is about what was asked for, so that the endpoint itself works.
    pub const fn is_of_request(self) -> bool {
        matches!(self, Self::TooLarge | Self::Reverted)
    }

    /// Its name in metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::QuotaExhausted => "quota_exhausted",
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
            Self::Reverted => "reverted",
            Self::BlockUnavailable => "block_unavailable",
            Self::BlockReplaced => "block_replaced",
            Self::NotUnderstood => "not_understood",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Unknown => "unknown",
        }
    }

    /// What an operator can do about it, where the failure itself says nothing better.
    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::RateLimited => "; lower --rps or --concurrency, or raise --retries",
            Self::QuotaExhausted => {
                "; the plan's quota is used up: raise it or give another --rpc-url"
            }
            Self::Refused => "; check the URL and its key",
            Self::BlockUnavailable => {
                "; the node lacks that block or its state: give another --block or --rpc-url"
            }
            Self::NotUnderstood => {
                "; the node does not understand this form of request: give another --rpc-url"
            }
            Self::Unreachable => {
                "; check the URL and that the node is up, or give a second --rpc-url"
            }
            Self::TimedOut => "; lower --chunk, raise --timeout, or give a second --rpc-url",
            Self::TooLarge => "; the node refuses even the smallest request: use another --rpc-url",
            Self::BlockReplaced => "; the block was replaced in a reorganisation",
            Self::Reverted | Self::Unknown => "",
        }
    }
}
