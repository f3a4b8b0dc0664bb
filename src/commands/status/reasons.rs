//! Why wallets are unreadable: the most frequent reasons, whatever numbers they mention.

use std::{collections::HashMap, sync::LazyLock};

use regex::{Captures, Regex};
use serde::Serialize;

use crate::{store::Store, tally::RunError};

/// Failures that are fetched at once.
const PAGE: u32 = 5_000;
/// Different reasons that are told apart, at most: every reason takes memory.
const MOST_KINDS: usize = 10_000;
/// How many reasons are shown.
const SHOWN: usize = 3;

/// Code of an error, which is kept, or a number or hash that differs between failures of one kind.
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?i)(?P<code>\b(?:error|http|status)(?: code)?:? -?\d+\b)|(?P<hex>\b0x[0-9a-f]+\b|\b[0-9a-f]{16,}\b)|\b\d+(?:[.,:_-]\d+)*";
    Regex::new(pattern).expect("the pattern is valid")
});

/// A reason, and how many wallets have it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    pub(super) reason: String,
    pub(super) count: u64,
}

/// The most frequent reasons on the record of failures.
pub(super) async fn most_frequent(store: &dyn Store) -> Result<Vec<Reason>, RunError> {
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut after = String::new();
    loop {
        let page = store.failures_page(&after, PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        if let Some((wallet, _)) = page.last() {
            after.clone_from(wallet);
        }
        for (_, error) in page {
            let reason = kind_of(&error);
            if counts.len() < MOST_KINDS || counts.contains_key(&reason) {
                *counts.entry(reason).or_default() += 1;
            }
        }
        if is_last {
            break;
        }
    }
    let mut reasons: Vec<_> =
        counts.into_iter().map(|(reason, count)| Reason { reason, count }).collect();
    reasons.sort_by(|one, other| (other.count, &one.reason).cmp(&(one.count, &other.reason)));
    reasons.truncate(SHOWN);
    Ok(reasons)
}

/// The reason without what differs between failures of one kind, such as block numbers.
fn kind_of(error: &str) -> String {
    let replaced = VARIABLE.replace_all(error, |found: &Captures<'_>| {
        if let Some(code) = found.name("code") {
            return code.as_str().to_owned();
        }
        if found.name("hex").is_some() { "0x…" } else { "N" }.to_owned()
    });
    replaced.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_hashes_do_not_tell_reasons_apart_but_codes_do() {
        for (error, kind) in [
            (
                "balanceOf failed: error -32000: state of block 21000000 is pruned",
                "balanceOf failed: error -32000: state of block N is pruned",
            ),
            ("error 3: execution reverted: faulty", "error 3: execution reverted: faulty"),
            ("HTTP 429 after 5.5s, 12:30:01", "HTTP 429 after Ns, N"),
            ("block #5 of 0xAbc0: 1,000,000 gas", "block #N of 0x…: N gas"),
            ("uint256 overflow in totalStakedFor", "uint256 overflow in totalStakedFor"),
            ("request deadbeefdeadbeef00 failed", "request 0x… failed"),
        ] {
            assert_eq!(kind_of(error), kind);
        }
    }
}
