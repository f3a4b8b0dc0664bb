//! What a failure means: a status that refuses, then a revert, then the node's own words, then a code, then any status.
//!
//! Words and codes only save tries: codes are reused for different things, and a word may mean another thing than it
//! did in the example. So a decision says whether it is certain, and a caller may hold the others against evidence.

#[cfg(test)]
mod examples;
mod ranges;
mod table;
#[cfg(test)]
mod tests;
mod words;

use std::sync::LazyLock;

use regex::RegexSet;
use serde_json::Value;

use super::kind::ErrorKind;
use table::{CODES, REFUSALS, STATUSES, WORDINGS};
use words::{Words, is_page};

pub(crate) use ranges::allowed_blocks;

/// What a failure is classified by.
#[derive(Debug, Default)]
pub(super) struct ErrorSignature<'a> {
    /// The HTTP status, if it is not one of success.
    pub(super) status: Option<u16>,
    /// The code of a JSON-RPC error.
    pub(super) code: Option<i64>,
    /// The message of a JSON-RPC error; else the body.
    pub(super) message: &'a str,
    /// The data of a JSON-RPC error.
    pub(super) data: Option<&'a Value>,
    /// True if the message is a JSON-RPC error's, and not just whatever a body holds.
    pub(super) is_own: bool,
}

/// What a failure was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// What kind of failure it is.
    pub(super) kind: ErrorKind,
    /// False if a vague word, a code that is used for several things, or nothing at all has decided.
    pub(super) is_certain: bool,
    /// True if the state of the block is gone, so that no waiting helps.
    pub(super) is_pruned: bool,
    /// What has decided.
    pub(super) rule: Rule,
}

/// What has decided, by its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// A status that refuses.
    Refusal(usize),
    /// A revert, by code 3, its beginning or its data.
    Revert,
    /// Words: which group, and which of them.
    Wording(usize, usize),
    /// A code.
    Code(usize),
    /// Another status.
    Status(usize),
    /// A status from 500 on.
    ServerError,
    /// Nothing.
    None,
}

/// The patterns of all wordings, in order.
static PATTERNS: LazyLock<RegexSet> = LazyLock::new(|| {
    let patterns = WORDINGS.iter().flat_map(|wording| wording.says);
    // As words: `/sec` is not in `/security`.
    RegexSet::new(patterns.map(|says| format!(r"(?-u:\b)(?:{says})(?-u:\b)")))
        .expect("the patterns of the table are valid, as its tests show")
});

impl ErrorSignature<'_> {
    /// What kind of failure it is.
    pub(super) fn decide(&self) -> Decision {
        // A page is a gateway's, and may say anything.
        let has_words =
            self.is_own || !is_page(self.message) && self.status.is_none_or(|status| status < 500);
        let words = match has_words {
            true => Words::of(self.message, self.data),
            false => Words::default(),
        };
        let refusal = REFUSALS.iter().position(|refusal| Some(refusal.status) == self.status);
        if let Some(index) = refusal.or_else(|| self.is_redirect().then_some(REFUSALS.len())) {
            let exceptions = REFUSALS.get(index).map_or(&[][..], |refusal| refusal.unless_it_says);
            let exception = wording(&words.text).filter(|said| exceptions.contains(&said.kind));
            let kind = REFUSALS.get(index).map_or(ErrorKind::Refused, |refusal| refusal.kind);
            return exception.unwrap_or_else(|| Decision::certain(kind, Rule::Refusal(index)));
        }
        if self.is_own && self.code == Some(3) {
            return Decision::certain(ErrorKind::Reverted, Rule::Revert);
        }
        // Of a revert, what stands before it is the node's, and all behind it is the contract's.
        if let Some(decision) = wording(&words.text) {
            return decision;
        }
        if words.is_revert {
            return Decision::certain(ErrorKind::Reverted, Rule::Revert);
        }
        if let Some(index) = CODES.iter().position(|code| Some(code.code) == self.code) {
            let code = &CODES[index];
            let decision = Decision::certain(code.kind, Rule::Code(index));
            return Decision { is_certain: code.is_certain, ..decision };
        }
        self.by_status()
    }

    fn by_status(&self) -> Decision {
        let vague = |kind, rule| Decision { is_certain: false, ..Decision::certain(kind, rule) };
        match STATUSES.iter().position(|(status, _)| Some(*status) == self.status) {
            Some(index) => vague(STATUSES[index].1, Rule::Status(index)),
            None if self.status.is_some_and(|status| status >= 500) => {
                vague(ErrorKind::Unreachable, Rule::ServerError)
            }
            None => vague(ErrorKind::Unknown, Rule::None),
        }
    }

    fn is_redirect(&self) -> bool {
        self.status.is_some_and(|status| (300..400).contains(&status))
    }
}

impl Decision {
    const fn certain(kind: ErrorKind, rule: Rule) -> Self {
        Self { kind, is_certain: true, is_pruned: false, rule }
    }
}

/// What the first wording of the table that is in the text says.
fn wording(text: &str) -> Option<Decision> {
    let mut first = PATTERNS.matches(text).iter().next()?;
    let group =
        WORDINGS.iter().position(|wording| match first.checked_sub(wording.says.len()) {
            Some(rest) => {
                first = rest;
                false
            }
            None => true,
        })?;
    let wording = &WORDINGS[group];
    let decision = Decision::certain(wording.kind, Rule::Wording(group, first));
    Some(Decision { is_certain: wording.is_certain, is_pruned: wording.is_pruned, ..decision })
}
