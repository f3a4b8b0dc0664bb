//! The wordings of nodes and providers, as a table; each rule decides at least one example in the tests.
//!
//! Codes are reused for different things, so a message decides before a code, and a
//! code before an HTTP status.

use super::kind::ErrorKind;

/// One sign of a kind of failure. What a rule leaves open matches anything.
struct Rule {
    kind: ErrorKind,
    status: Option<u16>,
    code: Option<i64>,
    /// Any of these, in lower case, anywhere in the message or its data.
    says: &'static [&'static str],
}

const fn says(kind: ErrorKind, says: &'static [&'static str]) -> Rule {
    Rule { kind, status: None, code: None, says }
}

const fn code(kind: ErrorKind, code: i64) -> Rule {
    Rule { kind, status: None, code: Some(code), says: &[] }
}

const fn status(kind: ErrorKind, status: u16) -> Rule {
    Rule { kind, status: Some(status), code: None, says: &[] }
}

/// The rules of providers; the first rule that matches decides.
const RULES: &[Rule] = &[
    // Quotas first: their words are a superset of a rate limit's.
    says(
        ErrorKind::QuotaExhausted,
        &["monthly capacity", "capacity limit exceeded", "payment required", "daily request count"],
    ),
    // A range that ends behind the newest block that the node has, which is not too wide for that.
    says(ErrorKind::BlockUnavailable, &["beyond current head", "beyond latest"]),
    // Asking for too much, also where the code is a rate limit's (-32005).
    says(
        ErrorKind::TooLarge,
        &[
            "query returned more than",
            "query exceeds max results",
            "requested too many blocks",
            "block range",
            "limited to a ",
            "exceeds limit of",
        ],
    ),
    says(
        ErrorKind::RateLimited,
        &["per second", "/sec", "rate limit", "request limit", "too many requests", "try again in"],
    ),
    says(
        ErrorKind::TooLarge,
        &[
            "out of gas",
            "outofgas",
            "gas required exceeds",
            "execution timeout",
            "execution aborted",
            "request timed out",
        ],
    ),
    says(ErrorKind::TooLarge, &["too large", "response size"]),
    says(
        ErrorKind::BlockUnavailable,
        &[
            "header not found",
            "unknown block",
            "block not found",
            "missing trie node",
            "blockoutofrange",
            "block out of range",
        ],
    ),
    says(ErrorKind::Reverted, &["execution reverted", "vm execution error", "evm error"]),
    says(
        ErrorKind::Refused,
        &["unauthorized", "invalid api key", "api key is not", "must be authenticated"],
    ),
    code(ErrorKind::RateLimited, 429),
    code(ErrorKind::RateLimited, -32005),
    code(ErrorKind::RateLimited, -32007),
    code(ErrorKind::RateLimited, -32012),
    code(ErrorKind::RateLimited, -32016),
    code(ErrorKind::Reverted, 3),
    code(ErrorKind::Reverted, -32015),
    code(ErrorKind::TooLarge, -32002),
    // Anvil, for a body over its limit.
    Rule {
        kind: ErrorKind::TooLarge,
        status: None,
        code: Some(-32600),
        says: &["invalid request"],
    },
    code(ErrorKind::Refused, -32601),
    code(ErrorKind::Unreachable, -32603),
    status(ErrorKind::RateLimited, 429),
    status(ErrorKind::QuotaExhausted, 402),
    status(ErrorKind::TooLarge, 413),
    status(ErrorKind::Refused, 401),
    status(ErrorKind::Refused, 403),
    status(ErrorKind::Refused, 404),
    status(ErrorKind::Refused, 405),
    status(ErrorKind::TimedOut, 408),
    status(ErrorKind::TimedOut, 504),
    status(ErrorKind::TimedOut, 524),
];

/// What a failure is classified by.
#[derive(Debug, Default)]
pub(super) struct ErrorSignature<'a> {
    pub(super) status: Option<u16>,
    pub(super) code: Option<i64>,
    /// Message and data.
    pub(super) text: &'a str,
}

impl ErrorSignature<'_> {
    /// The index of the rule that decides.
    fn rule(&self) -> Option<usize> {
        let text = self.text.to_lowercase();
        RULES.iter().position(|rule| {
            rule.status.is_none_or(|status| self.status == Some(status))
                && rule.code.is_none_or(|code| self.code == Some(code))
                && (rule.says.is_empty() || rule.says.iter().any(|words| text.contains(words)))
        })
    }

    /// What kind of failure it is.
    pub(super) fn kind(&self) -> ErrorKind {
        let broken = self.status.is_some_and(|status| status >= 500);
        let otherwise = if broken { ErrorKind::Unreachable } else { ErrorKind::Unknown };
        self.rule().map_or(otherwise, |rule| RULES[rule].kind)
    }
}

/// What stands in front of the number of blocks that a provider allows in one `eth_getLogs`.
const ALLOWED_AFTER: &[&str] = &[
    "up to a ",
    "limited to a ",
    "limit of ",
    "maximum block range: ",
    "maximum block range of ",
    "maximum is set to ",
];

/// How many blocks one `eth_getLogs` may span, from the message of one that was too wide.
pub(crate) fn allowed_blocks(message: &str) -> Option<u64> {
    let text = message.to_lowercase();
    let worded = ALLOWED_AFTER.iter().find_map(|words| {
        let (_, rest) = text.split_once(words)?;
        let digits = rest.chars().take_while(|c| c.is_ascii_digit() || *c == ',');
        digits.filter(char::is_ascii_digit).collect::<String>().parse().ok()
    });
    let span = |one: u64, other: u64| one.abs_diff(other) + 1;
    let worded = worded.or_else(|| {
        let (_, rest) = text.split_once("with the range ")?;
        let (one, rest) = rest.split_once('-')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(span(one.parse().ok()?, rest[..end].parse().ok()?))
    });
    worded.or_else(|| {
        // "this block range should work: [0x10, 0x1f]", of which some have it the other way round.
        let (_, rest) = text.split_once('[')?;
        let (range, _) = rest.split_once(']')?;
        let (one, other) = range.split_once(',')?;
        let number = |text: &str| u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok();
        Some(span(number(one)?, number(other)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::Action;

    #[test]
    fn the_range_that_a_message_allows_is_understood() {
        for (message, allowed) in [
            ("eth_getLogs is limited to a 10,000 range", Some(10_000)),
            ("you can make eth_getLogs requests with up to a 10 block range.", Some(10)),
            ("range 20000 exceeds limit of 10000", Some(10_000)),
            ("maximum block range: 50", Some(50)),
            ("exceeded maximum block range of 1,024", Some(1_024)),
            ("Log response size exceeded. This block range should work: [0x1, 0xa]", Some(10)),
            ("this block range should work: [0xa, 0x1]", Some(10)),
            ("Try with this block range [0x10, 0x1F].", Some(16)),
            ("query exceeds max results 20000, retry with the range 101-120", Some(20)),
            ("requested too many blocks from 0 to 9999, maximum is set to 2048", Some(2_048)),
            ("query returned more than 10000 results", None),
            ("block range is too wide", None),
            ("block range too large", None),
            ("exceed maximum block range", None),
            ("[not, a range]", None),
        ] {
            assert_eq!(allowed_blocks(message), allowed, "{message}");
        }
    }

    /// What a node says, as status, code, and message with data.
    type Said = (Option<u16>, Option<i64>, &'static str);

    fn signature(said: &Said) -> ErrorSignature<'static> {
        ErrorSignature { status: said.0, code: said.1, text: said.2 }
    }

    const EXAMPLES: &[(Said, ErrorKind, Action)] = &[
        ((Some(429), None, ""), ErrorKind::RateLimited, Action::Retry),
        (
            (None, Some(429), "Your app has exceeded its compute units per second capacity"),
            ErrorKind::RateLimited,
            Action::Retry,
        ),
        ((None, Some(429), ""), ErrorKind::RateLimited, Action::Retry),
        (
            (None, Some(-32005), "rate limited, try again in 4ms"),
            ErrorKind::RateLimited,
            Action::Retry,
        ),
        ((None, Some(-32005), "limit exceeded"), ErrorKind::RateLimited, Action::Retry),
        (
            (None, Some(-32007), "100/second request limit reached - reduce calls per second"),
            ErrorKind::RateLimited,
            Action::Retry,
        ),
        ((None, Some(-32007), ""), ErrorKind::RateLimited, Action::Retry),
        (
            (None, Some(-32012), "credits limited to 6000/sec"),
            ErrorKind::RateLimited,
            Action::Retry,
        ),
        ((None, Some(-32012), ""), ErrorKind::RateLimited, Action::Retry),
        ((None, Some(-32016), "over rate limit"), ErrorKind::RateLimited, Action::Retry),
        ((None, Some(-32016), ""), ErrorKind::RateLimited, Action::Retry),
        ((None, Some(-32000), "Too Many Requests"), ErrorKind::RateLimited, Action::Retry),
        ((Some(402), None, "Payment Required"), ErrorKind::QuotaExhausted, Action::GiveUp),
        ((Some(402), None, ""), ErrorKind::QuotaExhausted, Action::GiveUp),
        (
            (Some(429), None, "Monthly capacity limit exceeded."),
            ErrorKind::QuotaExhausted,
            Action::GiveUp,
        ),
        (
            (None, Some(-32005), "daily request count exceeded, request rate limited"),
            ErrorKind::QuotaExhausted,
            Action::GiveUp,
        ),
        ((Some(413), None, ""), ErrorKind::TooLarge, Action::Split),
        ((Some(413), None, "Payload Too Large"), ErrorKind::TooLarge, Action::Split),
        ((None, Some(-32600), "Invalid request"), ErrorKind::TooLarge, Action::Split),
        ((None, Some(-32000), "response too large"), ErrorKind::TooLarge, Action::Split),
        ((None, Some(-32000), "batch too large"), ErrorKind::TooLarge, Action::Split),
        (
            (None, Some(-32008), "response size should not greater than 10485760 bytes"),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        ((None, Some(-32000), "out of gas"), ErrorKind::TooLarge, Action::Split),
        (
            (None, Some(-32000), "out of gas (gas capped at: 50000000)"),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        (
            (None, Some(-32000), "out of gas: gas required exceeds: 550000000"),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        (
            (None, Some(-32015), "VM execution error. \"Out of gas\""),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        ((None, Some(-32003), "EVM error OutOfGas"), ErrorKind::TooLarge, Action::Split),
        ((None, Some(-32000), "execution timeout"), ErrorKind::TooLarge, Action::Split),
        (
            (None, Some(-32000), "execution aborted (timeout = 5s)"),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        ((None, Some(-32002), "request timed out"), ErrorKind::TooLarge, Action::Split),
        ((None, Some(-32002), ""), ErrorKind::TooLarge, Action::Split),
        (
            (None, Some(-32005), "query returned more than 10000 results"),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        (
            (None, Some(-32602), "this block range should work: [0x1, 0x2]"),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        ((None, Some(-32600), "up to a 10 block range"), ErrorKind::TooLarge, Action::Split),
        (
            (None, Some(-32614), "eth_getLogs is limited to a 10,000 range"),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        (
            (None, Some(-32602), "range 20000 exceeds limit of 10000"),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        ((None, Some(-32000), "block range is too wide"), ErrorKind::TooLarge, Action::Split),
        ((None, Some(-32000), "block range too large"), ErrorKind::TooLarge, Action::Split),
        ((None, Some(-32000), "maximum block range: 50"), ErrorKind::TooLarge, Action::Split),
        ((None, Some(-32000), "exceed maximum block range"), ErrorKind::TooLarge, Action::Split),
        (
            (None, Some(-32602), "query exceeds max results 20000, retry with the range 1-20"),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        (
            (
                None,
                Some(-32000),
                "requested too many blocks from 0 to 9999, maximum is set to 2048",
            ),
            ErrorKind::TooLarge,
            Action::Split,
        ),
        (
            (None, Some(-32602), "block range extends beyond current head block"),
            ErrorKind::BlockUnavailable,
            Action::NextEndpoint,
        ),
        (
            (None, Some(-32000), "header not found"),
            ErrorKind::BlockUnavailable,
            Action::NextEndpoint,
        ),
        ((None, Some(-32000), "unknown block"), ErrorKind::BlockUnavailable, Action::NextEndpoint),
        (
            (None, Some(-32001), "block not found: 0x10"),
            ErrorKind::BlockUnavailable,
            Action::NextEndpoint,
        ),
        (
            (None, Some(-32000), "missing trie node 1f2e (path )"),
            ErrorKind::BlockUnavailable,
            Action::NextEndpoint,
        ),
        (
            (None, Some(-32602), "BlockOutOfRangeError: block height is 5 but requested was 10"),
            ErrorKind::BlockUnavailable,
            Action::NextEndpoint,
        ),
        ((None, Some(3), "execution reverted"), ErrorKind::Reverted, Action::Split),
        ((None, Some(3), ""), ErrorKind::Reverted, Action::Split),
        ((None, Some(-32015), "VM execution error."), ErrorKind::Reverted, Action::Split),
        ((None, Some(-32015), ""), ErrorKind::Reverted, Action::Split),
        ((None, Some(-32003), "EVM error StackOverflow"), ErrorKind::Reverted, Action::Split),
        ((Some(401), None, ""), ErrorKind::Refused, Action::GiveUp),
        ((Some(403), None, ""), ErrorKind::Refused, Action::GiveUp),
        ((Some(404), None, ""), ErrorKind::Refused, Action::GiveUp),
        ((Some(405), None, ""), ErrorKind::Refused, Action::GiveUp),
        ((None, Some(-32000), "invalid api key"), ErrorKind::Refused, Action::GiveUp),
        (
            (None, Some(-32601), "the method eth_call does not exist"),
            ErrorKind::Refused,
            Action::GiveUp,
        ),
        ((Some(408), None, ""), ErrorKind::TimedOut, Action::NextEndpoint),
        ((Some(500), None, ""), ErrorKind::Unreachable, Action::NextEndpoint),
        (
            (Some(502), None, "<html>Bad Gateway</html>"),
            ErrorKind::Unreachable,
            Action::NextEndpoint,
        ),
        ((Some(503), None, ""), ErrorKind::Unreachable, Action::NextEndpoint),
        ((Some(504), None, ""), ErrorKind::TimedOut, Action::NextEndpoint),
        ((Some(524), None, ""), ErrorKind::TimedOut, Action::NextEndpoint),
        ((Some(522), None, ""), ErrorKind::Unreachable, Action::NextEndpoint),
        ((None, Some(-32603), "Internal error"), ErrorKind::Unreachable, Action::NextEndpoint),
        ((None, Some(-32000), "something new"), ErrorKind::Unknown, Action::NextEndpoint),
        ((Some(400), None, "something new"), ErrorKind::Unknown, Action::NextEndpoint),
    ];

    #[test]
    fn every_example_is_classified() {
        for (said, expected, action) in EXAMPLES {
            assert_eq!(signature(said).kind(), *expected, "{said:?}");
            assert_eq!(expected.action(), *action, "{said:?}");
        }
    }

    #[test]
    fn every_rule_decides_an_example() {
        for (index, rule) in RULES.iter().enumerate() {
            let decides =
                |(said, ..): &(Said, ErrorKind, Action)| signature(said).rule() == Some(index);
            assert!(EXAMPLES.iter().any(decides), "no example for rule {index}: {:?}", rule.kind);
        }
    }
}
