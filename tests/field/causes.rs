//! Whether what an error says is true: each phrase stands for something that must have happened.

use std::collections::BTreeSet;

use crate::{faults::Kind, life::sickness_of, node::Overrides, world::World};

/// A phrase of errors, and what must have happened for it.
struct Claim {
    says: &'static str,
    is_true: fn(&World) -> bool,
}

fn struck(world: &World, names: &[&str]) -> bool {
    let book = world.field.book();
    names.iter().any(|name| book.has(name))
}

fn is_limited(world: &World) -> bool {
    world.nodes.iter().any(|node| {
        let character = &node.character;
        character.gas < 500_000_000 || character.bytes < 20_000_000 || character.range < 1_000_000
    })
}

/// Whether an endpoint has this for good.
fn has(world: &World, kinds: fn(Kind) -> bool) -> bool {
    world.nodes.iter().any(|node| sickness_of(node).is_some_and(kinds))
}

/// Whether an endpoint has this at some time.
fn may(world: &World, kinds: fn(Kind) -> bool) -> bool {
    world.nodes.iter().flat_map(|node| &node.character.faults).any(|fault| kinds(fault.kind))
}

const CLAIMS: &[Claim] = &[
    Claim { says: "no answer within", is_true: |world| struck(world, &["no answer"]) },
    Claim { says: "no connection", is_true: |world| struck(world, &["no connection"]) },
    Claim { says: "the connection broke", is_true: |world| struck(world, &["broken connection"]) },
    Claim {
        says: "not JSON-RPC",
        is_true: |world| struck(world, &["cut answer", "page", "redirect"]),
    },
    Claim {
        says: "is for another request",
        is_true: |world| struck(world, &["answer to another request"]),
    },
    Claim {
        says: "is a node of chain",
        is_true: |world| {
            has(world, |kind| kind == Kind::WrongChain) || struck(world, &["call on another chain"])
        },
    },
    Claim { says: "has no code", is_true: |world| may(world, |kind| kind == Kind::Resyncs) },
    Claim { says: "lower --rps", is_true: |world| struck(world, &["rate limit"]) },
    Claim {
        says: "check the URL and its key",
        is_true: |world| has(world, |kind| matches!(kind, Kind::Forbids(_))),
    },
    Claim { says: "quota is used up", is_true: |_| false },
    Claim { says: "refuses even the smallest request", is_true: |_| false },
    Claim {
        says: "lower --chunk",
        is_true: |world| {
            let gave_up =
                |statuses: &BTreeSet<u16>| statuses.iter().any(|s| matches!(s, 504 | 524));
            is_limited(world)
                || struck(world, &["no answer"])
                || gave_up(&world.field.book().statuses)
        },
    },
    Claim {
        says: "the packed reader does not work",
        is_true: |world| {
            world.nodes.iter().any(|node| node.character.overrides != Overrides::Takes)
        },
    },
    Claim {
        says: "lacks that block or its state",
        is_true: |world| {
            let lags = |faults: &[crate::faults::Fault]| {
                faults.iter().any(|fault| {
                    matches!(fault.kind, Kind::Frozen | Kind::GoesBack(_) | Kind::Resyncs)
                })
            };
            world.reorgs.0 > 0
                || struck(world, &["lag", "null"])
                || world
                    .nodes
                    .iter()
                    .any(|node| node.character.keeps < 1_000_000 || lags(&node.character.faults))
        },
    },
];

/// Checks every claim of an error.
pub(crate) fn check(world: &World, text: &str) -> Result<(), String> {
    let false_claim =
        CLAIMS.iter().find(|claim| text.contains(claim.says) && !(claim.is_true)(world));
    if let Some(claim) = false_claim {
        return Err(format!("nothing of the kind of {:?} happened", claim.says));
    }
    let book = world.field.book();
    for (before, rest) in parts_behind(text, "HTTP ") {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if let Ok(status) = digits.parse()
            && !book.statuses.contains(&status)
        {
            return Err(format!("no HTTP {status} was given ({before} characters in)"));
        }
    }
    Ok(())
}

/// What stands behind each occurrence of some words, and where they are.
fn parts_behind<'a>(text: &'a str, words: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.match_indices(words).map(|(at, found)| (at, &text[at + found.len()..]))
}
