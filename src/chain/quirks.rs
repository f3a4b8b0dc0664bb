//! How providers word their failures: a table, each of whose rows has a row in the tests.
//!
//! Codes are reused for different things, so a message decides before a code, and a
//! code before an HTTP status.

use super::Class;

/// One way in which a class of failure shows. What a rule leaves open matches anything.
struct Rule {
    class: Class,
    status: Option<u16>,
    code: Option<i64>,
    /// Any of these, in lower case, anywhere in the message or its data.
    says: &'static [&'static str],
}

const fn says(class: Class, says: &'static [&'static str]) -> Rule {
    Rule { class, status: None, code: None, says }
}

const fn code(class: Class, code: i64) -> Rule {
    Rule { class, status: None, code: Some(code), says: &[] }
}

const fn status(class: Class, status: u16) -> Rule {
    Rule { class, status: Some(status), code: None, says: &[] }
}

/// The quirks of providers; the first rule that matches decides.
const RULES: &[Rule] = &[
    // Quotas first: their words are a superset of a rate limit's.
    says(
        Class::QuotaGone,
        &["monthly capacity", "capacity limit exceeded", "payment required", "daily request count"],
    ),
    // A range that ends behind the newest block that the node has, which is not too wide for that.
    says(Class::Behind, &["beyond current head", "beyond latest"]),
    // Asking for too much, also where the code is a rate limit's (-32005).
    says(
        Class::TooMuch,
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
        Class::SlowDown,
        &["per second", "/sec", "rate limit", "request limit", "too many requests", "try again in"],
    ),
    says(
        Class::TooMuch,
        &[
            "out of gas",
            "outofgas",
            "gas required exceeds",
            "execution timeout",
            "execution aborted",
            "request timed out",
        ],
    ),
    says(Class::TooMuch, &["too large", "response size"]),
    says(
        Class::Behind,
        &[
            "header not found",
            "unknown block",
            "block not found",
            "missing trie node",
            "blockoutofrange",
            "block out of range",
        ],
    ),
    says(Class::Reverted, &["execution reverted", "vm execution error", "evm error"]),
    says(
        Class::Refused,
        &["unauthorized", "invalid api key", "api key is not", "must be authenticated"],
    ),
    code(Class::SlowDown, 429),
    code(Class::SlowDown, -32005),
    code(Class::SlowDown, -32007),
    code(Class::SlowDown, -32012),
    code(Class::SlowDown, -32016),
    code(Class::Reverted, 3),
    code(Class::Reverted, -32015),
    code(Class::TooMuch, -32002),
    // Anvil, for a body over its limit.
    Rule { class: Class::TooMuch, status: None, code: Some(-32600), says: &["invalid request"] },
    code(Class::Refused, -32601),
    code(Class::Transport, -32603),
    status(Class::SlowDown, 429),
    status(Class::QuotaGone, 402),
    status(Class::TooMuch, 413),
    status(Class::Refused, 401),
    status(Class::Refused, 403),
    status(Class::Refused, 404),
    status(Class::Refused, 405),
    status(Class::CutOff, 408),
    status(Class::CutOff, 504),
    status(Class::CutOff, 524),
];

/// What a failure is classified by.
#[derive(Debug, Default)]
pub(super) struct Symptoms<'a> {
    pub(super) status: Option<u16>,
    pub(super) code: Option<i64>,
    /// Message and data.
    pub(super) text: &'a str,
}

impl Symptoms<'_> {
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
    pub(super) fn class(&self) -> Class {
        let broken = self.status.is_some_and(|status| status >= 500);
        let otherwise = if broken { Class::Transport } else { Class::Unknown };
        self.rule().map_or(otherwise, |rule| RULES[rule].class)
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
pub(super) fn allowed_blocks(message: &str) -> Option<u64> {
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
    use crate::chain::Action;

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

    fn symptoms(said: &Said) -> Symptoms<'static> {
        Symptoms { status: said.0, code: said.1, text: said.2 }
    }

    const EXAMPLES: &[(Said, Class, Action)] = &[
        ((Some(429), None, ""), Class::SlowDown, Action::Retry),
        (
            (None, Some(429), "Your app has exceeded its compute units per second capacity"),
            Class::SlowDown,
            Action::Retry,
        ),
        ((None, Some(429), ""), Class::SlowDown, Action::Retry),
        ((None, Some(-32005), "rate limited, try again in 4ms"), Class::SlowDown, Action::Retry),
        ((None, Some(-32005), "limit exceeded"), Class::SlowDown, Action::Retry),
        (
            (None, Some(-32007), "100/second request limit reached - reduce calls per second"),
            Class::SlowDown,
            Action::Retry,
        ),
        ((None, Some(-32007), ""), Class::SlowDown, Action::Retry),
        ((None, Some(-32012), "credits limited to 6000/sec"), Class::SlowDown, Action::Retry),
        ((None, Some(-32012), ""), Class::SlowDown, Action::Retry),
        ((None, Some(-32016), "over rate limit"), Class::SlowDown, Action::Retry),
        ((None, Some(-32016), ""), Class::SlowDown, Action::Retry),
        ((None, Some(-32000), "Too Many Requests"), Class::SlowDown, Action::Retry),
        ((Some(402), None, "Payment Required"), Class::QuotaGone, Action::Stop),
        ((Some(402), None, ""), Class::QuotaGone, Action::Stop),
        ((Some(429), None, "Monthly capacity limit exceeded."), Class::QuotaGone, Action::Stop),
        (
            (None, Some(-32005), "daily request count exceeded, request rate limited"),
            Class::QuotaGone,
            Action::Stop,
        ),
        ((Some(413), None, ""), Class::TooMuch, Action::Split),
        ((Some(413), None, "Payload Too Large"), Class::TooMuch, Action::Split),
        ((None, Some(-32600), "Invalid request"), Class::TooMuch, Action::Split),
        ((None, Some(-32000), "response too large"), Class::TooMuch, Action::Split),
        ((None, Some(-32000), "batch too large"), Class::TooMuch, Action::Split),
        (
            (None, Some(-32008), "response size should not greater than 10485760 bytes"),
            Class::TooMuch,
            Action::Split,
        ),
        ((None, Some(-32000), "out of gas"), Class::TooMuch, Action::Split),
        (
            (None, Some(-32000), "out of gas (gas capped at: 50000000)"),
            Class::TooMuch,
            Action::Split,
        ),
        (
            (None, Some(-32000), "out of gas: gas required exceeds: 550000000"),
            Class::TooMuch,
            Action::Split,
        ),
        ((None, Some(-32015), "VM execution error. \"Out of gas\""), Class::TooMuch, Action::Split),
        ((None, Some(-32003), "EVM error OutOfGas"), Class::TooMuch, Action::Split),
        ((None, Some(-32000), "execution timeout"), Class::TooMuch, Action::Split),
        ((None, Some(-32000), "execution aborted (timeout = 5s)"), Class::TooMuch, Action::Split),
        ((None, Some(-32002), "request timed out"), Class::TooMuch, Action::Split),
        ((None, Some(-32002), ""), Class::TooMuch, Action::Split),
        (
            (None, Some(-32005), "query returned more than 10000 results"),
            Class::TooMuch,
            Action::Split,
        ),
        (
            (None, Some(-32602), "this block range should work: [0x1, 0x2]"),
            Class::TooMuch,
            Action::Split,
        ),
        ((None, Some(-32600), "up to a 10 block range"), Class::TooMuch, Action::Split),
        (
            (None, Some(-32614), "eth_getLogs is limited to a 10,000 range"),
            Class::TooMuch,
            Action::Split,
        ),
        ((None, Some(-32602), "range 20000 exceeds limit of 10000"), Class::TooMuch, Action::Split),
        ((None, Some(-32000), "block range is too wide"), Class::TooMuch, Action::Split),
        ((None, Some(-32000), "block range too large"), Class::TooMuch, Action::Split),
        ((None, Some(-32000), "maximum block range: 50"), Class::TooMuch, Action::Split),
        ((None, Some(-32000), "exceed maximum block range"), Class::TooMuch, Action::Split),
        (
            (None, Some(-32602), "query exceeds max results 20000, retry with the range 1-20"),
            Class::TooMuch,
            Action::Split,
        ),
        (
            (
                None,
                Some(-32000),
                "requested too many blocks from 0 to 9999, maximum is set to 2048",
            ),
            Class::TooMuch,
            Action::Split,
        ),
        (
            (None, Some(-32602), "block range extends beyond current head block"),
            Class::Behind,
            Action::NextEndpoint,
        ),
        ((None, Some(-32000), "header not found"), Class::Behind, Action::NextEndpoint),
        ((None, Some(-32000), "unknown block"), Class::Behind, Action::NextEndpoint),
        ((None, Some(-32001), "block not found: 0x10"), Class::Behind, Action::NextEndpoint),
        (
            (None, Some(-32000), "missing trie node 1f2e (path )"),
            Class::Behind,
            Action::NextEndpoint,
        ),
        (
            (None, Some(-32602), "BlockOutOfRangeError: block height is 5 but requested was 10"),
            Class::Behind,
            Action::NextEndpoint,
        ),
        ((None, Some(3), "execution reverted"), Class::Reverted, Action::Split),
        ((None, Some(3), ""), Class::Reverted, Action::Split),
        ((None, Some(-32015), "VM execution error."), Class::Reverted, Action::Split),
        ((None, Some(-32015), ""), Class::Reverted, Action::Split),
        ((None, Some(-32003), "EVM error StackOverflow"), Class::Reverted, Action::Split),
        ((Some(401), None, ""), Class::Refused, Action::Stop),
        ((Some(403), None, ""), Class::Refused, Action::Stop),
        ((Some(404), None, ""), Class::Refused, Action::Stop),
        ((Some(405), None, ""), Class::Refused, Action::Stop),
        ((None, Some(-32000), "invalid api key"), Class::Refused, Action::Stop),
        ((None, Some(-32601), "the method eth_call does not exist"), Class::Refused, Action::Stop),
        ((Some(408), None, ""), Class::CutOff, Action::NextEndpoint),
        ((Some(500), None, ""), Class::Transport, Action::NextEndpoint),
        ((Some(502), None, "<html>Bad Gateway</html>"), Class::Transport, Action::NextEndpoint),
        ((Some(503), None, ""), Class::Transport, Action::NextEndpoint),
        ((Some(504), None, ""), Class::CutOff, Action::NextEndpoint),
        ((Some(524), None, ""), Class::CutOff, Action::NextEndpoint),
        ((Some(522), None, ""), Class::Transport, Action::NextEndpoint),
        ((None, Some(-32603), "Internal error"), Class::Transport, Action::NextEndpoint),
        ((None, Some(-32000), "something new"), Class::Unknown, Action::NextEndpoint),
        ((Some(400), None, "something new"), Class::Unknown, Action::NextEndpoint),
    ];

    #[test]
    fn every_example_is_classified() {
        for (said, expected, action) in EXAMPLES {
            assert_eq!(symptoms(said).class(), *expected, "{said:?}");
            assert_eq!(expected.action(), *action, "{said:?}");
        }
    }

    #[test]
    fn every_rule_decides_an_example() {
        for (index, rule) in RULES.iter().enumerate() {
            let decides = |(said, ..): &(Said, Class, Action)| symptoms(said).rule() == Some(index);
            assert!(EXAMPLES.iter().any(decides), "no example for rule {index}: {:?}", rule.class);
        }
    }
}
