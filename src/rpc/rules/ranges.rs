//! How many blocks a provider allows in one `eth_getLogs`, as the message of one that was too wide says.

use std::sync::LazyLock;

use regex::Regex;

/// What stands around the number of blocks.
static ALLOWED: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    const NUMBER: &str = "([0-9][0-9,_]*)(k?)";
    let patterns = [
        "up to a #",
        "limited to (?:a |0 ?- ?)?# ?(?:blocks?|range)",
        "limit(?: of|:) #",
        "max(?:imum)?(?: allowed)?(?: block)? range(?: is|:| of)? ?#",
        "maximum is set to #",
        r"\(max(?:imum)? #\)",
        r"\([0-9]+ > #\)",
        "max is #",
        "at most # blocks",
        "requested blocks is #",
        "blocks? distance: #",
        "range (?:greater than|exceeds) #",
        "smaller than size #",
    ];
    let pattern = |text: &str| Regex::new(&text.replace('#', NUMBER)).expect("a valid pattern");
    patterns.into_iter().map(pattern).collect()
});

/// How many blocks one `eth_getLogs` may span, from the message of one that was too wide.
pub(crate) fn allowed_blocks(message: &str) -> Option<u64> {
    let text = message.to_lowercase();
    let span = |one: u64, other: u64| one.abs_diff(other).saturating_add(1);
    let worded = ALLOWED.iter().find_map(|pattern| {
        let found = pattern.captures(&text)?;
        let number: u64 = found[1].replace([',', '_'], "").parse().ok()?;
        Some(if found[2].is_empty() { number } else { number.saturating_mul(1_000) })
    });
    let worded = worded.filter(|allowed| *allowed > 0).or_else(|| {
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

    #[test]
    fn the_range_that_a_message_allows_is_understood() {
        for (message, allowed) in [
            ("eth_getLogs is limited to a 10,000 range", Some(10_000)),
            ("eth_getLogs is limited to 1024 block range", Some(1_024)),
            ("eth_getLogs is limited to 0 - 5 blocks range", Some(5)),
            ("you can make eth_getLogs requests with up to a 10 block range.", Some(10)),
            ("range 20000 exceeds limit of 10000", Some(10_000)),
            ("maximum block range: 50", Some(50)),
            ("exceeded maximum block range of 1,024", Some(1_024)),
            ("query exceeds max block range 1000", Some(1_000)),
            ("Max range: 800", Some(800)),
            ("Maximum allowed number of requested blocks is 3500", Some(3_500)),
            ("please limit the query to at most 1,000 blocks", Some(1_000)),
            ("block range is too wide (maximum 1024)", Some(1_024)),
            ("exceeds the range allowed for your plan (9000 > 5000)", Some(5_000)),
            ("eth_getLogs range is too large, max is 10k blocks", Some(10_000)),
            ("block range greater than 2000 max", Some(2_000)),
            ("maximum [from, to] blocks distance: 2000", Some(2_000)),
            ("query must be smaller than size 1024", Some(1_024)),
            ("Log response size exceeded. This block range should work: [0x1, 0xa]", Some(10)),
            ("this block range should work: [0xa, 0x1]", Some(10)),
            ("Try with this block range [0x10, 0x1F].", Some(16)),
            ("query exceeds max results 20000, retry with the range 101-120", Some(20)),
            ("requested too many blocks from 0 to 9999, maximum is set to 2048", Some(2_048)),
            ("query returned more than 10000 results", None),
            ("block range is too wide", None),
            ("block range too large", None),
            ("exceed maximum block range", None),
            ("limited to a 0 range", None),
            ("limited to a 99999999999999999999 range", None),
            ("[not, a range]", None),
        ] {
            assert_eq!(allowed_blocks(message), allowed, "{message}");
        }
    }
}
