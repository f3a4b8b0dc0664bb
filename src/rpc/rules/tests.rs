//! Every rule decides an example, and every example is decided as it should be.

use serde_json::Value;

use super::{
    Decision, ErrorSignature, Rule, WORDINGS,
    examples::{Example, examples},
    table::{CODES, REFUSALS, STATUSES},
};
use crate::rpc::{
    Action,
    kind::ErrorKind::{
        BlockUnavailable, NotUnderstood, QuotaExhausted, RateLimited, Refused, Reverted, TimedOut,
        TooLarge, Unknown, Unreachable,
    },
};

fn decide(&(status, code, message, ..): &Example) -> Decision {
    // A body of text has no code.
    let is_own = code != 0 || status == 200;
    let status = Some(status).filter(|status| *status != 200);
    let code = Some(code).filter(|code| *code != 0);
    ErrorSignature { status, code, message, data: None, is_own }.decide()
}

#[test]
fn every_example_is_of_its_kind_and_has_a_source() {
    let wrong = examples().filter(|example| decide(example).kind != example.3);
    let wrong: Vec<_> = wrong.map(|example| (example, decide(example))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(examples().all(|example| !example.4.is_empty()));
}

#[test]
fn every_rule_decides_an_example() {
    let decided: Vec<Rule> = examples().map(|example| decide(example).rule).collect();
    let wordings = WORDINGS.iter().enumerate().flat_map(|(group, wording)| {
        wording
            .says
            .iter()
            .enumerate()
            .map(move |(index, says)| (Rule::Wording(group, index), *says))
    });
    let refusals = (0..=REFUSALS.len()).map(|index| (Rule::Refusal(index), "a refusal"));
    let codes = CODES.iter().enumerate().map(|(index, _)| (Rule::Code(index), "a code"));
    let statuses = STATUSES.iter().enumerate().map(|(index, _)| (Rule::Status(index), "a status"));
    let others = [(Rule::Revert, "revert"), (Rule::ServerError, "5xx"), (Rule::None, "nothing")];
    let rules = wordings.chain(refusals).chain(codes).chain(statuses).chain(others);
    let idle: Vec<_> = rules.filter(|(rule, _)| !decided.contains(rule)).collect();
    assert!(idle.is_empty(), "no example for {idle:#?}");
}

#[test]
fn only_what_words_and_statuses_say_clearly_is_certain() {
    for (status, code, message, is_certain) in [
        (200, -32005, "limit exceeded", false),
        (200, -32005, "", false),
        (200, -32603, "Internal error", false),
        (200, -32602, "something", false),
        (200, -32002, "", false),
        (200, -32001, "", false),
        (200, -32000, "something new", false),
        (400, 0, "", false),
        (502, 0, "", false),
        (200, -32005, "rate limit", true),
        (200, -32602, "invalid params", true),
        (200, -32000, "header not found", true),
        (200, 3, "", true),
        (429, 0, "", true),
        (401, -32005, "", true),
    ] {
        let decision = decide(&(status, code, message, Unknown, ""));
        assert_eq!(decision.is_certain, is_certain, "{status} {code} {message}: {decision:?}");
    }
}

#[test]
fn state_that_is_gone_is_told_from_a_block_that_is_not_there_yet() {
    let is_pruned = |message| decide(&(200, -32000, message, Unknown, "")).is_pruned;
    assert!(is_pruned("missing trie node 1f2e (path )"));
    assert!(is_pruned("state at block #100 is pruned"));
    assert!(!is_pruned("header not found"));
    assert!(!is_pruned("block not yet available"));
}

#[test]
fn data_has_words_too() {
    let decide = |message, data: Value| {
        let data = Some(&data);
        ErrorSignature { code: Some(-32015), message, data, is_own: true, status: None }.decide()
    };
    let text = |text: &str| Value::from(text);
    assert_eq!(decide("VM execution error.", text("Out of gas")).kind, TooLarge);
    assert_eq!(decide("VM execution error.", text("Reverted 0x")).kind, Reverted);
    assert_eq!(decide("VM execution error.", text("Bad instruction fe")).kind, Reverted);
    let nested = serde_json::json!({ "message": "No state available for block 5" });
    assert_eq!(decide("Internal error", nested).kind, BlockUnavailable);
    let see = serde_json::json!({ "see": "rate limit", "rate": { "allowed": "per second" } });
    assert_eq!(decide("", see).kind, Reverted);
}

#[test]
fn each_kind_has_its_reaction() {
    for (kind, action) in [
        (RateLimited, Action::Retry),
        (QuotaExhausted, Action::GiveUp),
        (Refused, Action::GiveUp),
        (TooLarge, Action::Split),
        (Reverted, Action::Split),
        (BlockUnavailable, Action::NextEndpoint),
        (NotUnderstood, Action::NextEndpoint),
        (Unreachable, Action::NextEndpoint),
        (TimedOut, Action::NextEndpoint),
        (Unknown, Action::NextEndpoint),
    ] {
        assert_eq!(kind.action(), action, "{kind:?}");
    }
}
