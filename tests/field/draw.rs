//! Draws contracts and endpoints from a seed.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use alloy::primitives::{Address, keccak256};
use ethtally::read::MethodChoice;
use rand::{RngExt, rngs::StdRng};

use crate::{
    contracts::{Contracts, Sickness},
    faults::{Fault, Hint, Kind},
    focus::Focus,
    node::{Character, Overrides},
    words::{MEANINGS, Wording},
    world::{FOREVER, Run, STALE, one, percent, spread},
};

/// Contracts with their wallets, healthy and sick.
pub(crate) fn contracts(
    seed: u64,
    random: &mut StdRng,
    run: Run,
    focus: Option<Focus>,
) -> Contracts {
    let count = match percent(random, 5) && run == Run::Sweep {
        true => random.random_range(1..3),
        false => random.random_range(20..150),
    };
    let address = |index: usize| {
        Address::from_word(keccak256([seed.to_be_bytes(), (index as u64).to_be_bytes()].concat()))
    };
    let wallets = (0..count).map(address).collect();
    let reads = random.random_range(1..4);
    let mut sick = HashMap::new();
    if let Some(Focus::Sick(sickness)) = focus {
        sick.insert(random.random_range(0..count), sickness);
    } else if focus.is_none() && percent(random, 35) {
        for _ in 0..random.random_range(1..3) {
            let sickness = one(
                random,
                &[
                    Sickness::Reverts,
                    Sickness::Short,
                    Sickness::Burns,
                    Sickness::Overflows,
                    Sickness::Breaks,
                ],
            );
            sick.insert(random.random_range(0..count), sickness);
        }
    }
    let members = percent(random, 30).then(|| {
        let owner = |_| {
            let members = random.random_range(0..6);
            let some = (0..members).map(|_| random.random_range(0..count)).collect();
            (random.random_range(0..count), some)
        };
        let mut owners: Vec<(usize, Vec<usize>)> = (0..3).map(owner).collect();
        owners.sort_by_key(|(owner, _)| *owner);
        owners.dedup_by_key(|(owner, _)| *owner);
        owners
    });
    Contracts::new(random.random_range(1..100_000), reads, wallets, sick, members)
}

/// What an endpoint is like.
pub(crate) fn character(
    random: &mut StdRng,
    run: Run,
    is_calm: bool,
    method: MethodChoice,
    end: Duration,
) -> Character {
    let often = if is_calm { 0 } else { 22 };
    let ms = Duration::from_millis;
    let is_pool = percent(random, often);
    let lags = match is_pool {
        true => (0..random.random_range(2..4)).map(|_| ms(random.random_range(0..400))).collect(),
        false => vec![Duration::ZERO],
    };
    let quirk = |random: &mut StdRng| percent(random, often);
    let least_gas = if method == MethodChoice::Multicall3 { 100_000 } else { 1_000_000 };
    let mut wording = BTreeMap::new();
    for meaning in MEANINGS {
        wording.insert(meaning, Wording::of(meaning, random));
    }
    let mut faults = Vec::new();
    if !is_calm {
        if run == Run::Sweep && percent(random, 25) {
            faults.push(sickness(random));
        }
        for _ in 0..one(random, &[0, 1, 1, 2, 4]) {
            faults.push(fault(random, run, end));
        }
    }
    Character {
        lags,
        indexing: if quirk(random) { ms(random.random_range(50..400)) } else { Duration::ZERO },
        latency: ms(one(random, &[4, 40, 300])),
        gas: if quirk(random) { spread(random, least_gas, 5_000_000) } else { 500_000_000 },
        bytes: if quirk(random) { spread(random, 8_000, 100_000) as usize } else { 20_000_000 },
        range: if quirk(random) { spread(random, 2, 150) } else { 1_000_000 },
        keeps: if quirk(random) { random.random_range(40..128) } else { 1_000_000 },
        empty_when_gone: percent(random, 10),
        hashes: !quirk(random),
        overrides: match percent(random, 30) && !is_calm {
            true => one(random, &[Overrides::Refuses, Overrides::Ignores]),
            false => Overrides::Takes,
        },
        empty_when_unknown: percent(random, 40),
        forgets_replaced: percent(random, 50),
        wording,
        faults,
    }
}

/// What makes an endpoint of no use, for good.
fn sickness(random: &mut StdRng) -> Fault {
    let kind = one(
        random,
        &[
            Kind::Dead,
            Kind::Forbids(401),
            Kind::Forbids(403),
            Kind::Forbids(404),
            Kind::WrongChain,
            Kind::Resyncs,
            Kind::Silent,
            Kind::Page,
            STALE,
        ],
    );
    Fault { kind, percent: 100, from: Duration::ZERO, to: FOREVER }
}

/// What an endpoint does wrong now and then.
fn fault(random: &mut StdRng, run: Run, end: Duration) -> Fault {
    let transient = [
        Kind::Breaks,
        Kind::Silent,
        Kind::Page,
        Kind::Redirect,
        Kind::Refuses,
        Kind::Limits,
        Kind::Cut,
        Kind::Repeats,
        Kind::NullResult,
        Kind::EmptyCall,
        Kind::OlderBlock,
        Kind::Newest,
        Kind::OtherChain,
        Kind::OtherHeader,
        Kind::NoLogs,
        Kind::OtherLogs,
        Kind::OddNumbers,
        Kind::Odd,
    ];
    let hints = [
        Hint::RetryAfter,
        Hint::RateLimitReset,
        Hint::XRateLimitReset,
        Hint::Message,
        Hint::Backoff,
    ];
    let windowed = [
        Kind::Tells(one(random, &hints)),
        Kind::Dead,
        Kind::Limits,
        Kind::Frozen,
        Kind::GoesBack(3),
        Kind::Resyncs,
        Kind::Silent,
    ];
    if run != Run::Sweep && percent(random, 35) {
        let kind = match one(random, &windowed) {
            Kind::GoesBack(_) => Kind::GoesBack(random.random_range(1..20)),
            kind => kind,
        };
        let from = end.mul_f64(random.random_range(0.0..0.7));
        let length = Duration::from_secs(random.random_range(1..60));
        return Fault { kind, percent: 100, from, to: (from + length).min(end) };
    }
    let percent = one(random, &[3, 10, 20, 30]);
    let kind = one(random, &transient);
    // Each takes as long as a client waits.
    let percent = if kind == Kind::Silent { percent / 3 } else { percent };
    Fault { kind, percent, from: Duration::ZERO, to: end }
}

/// An endpoint in one line.
pub(crate) fn shown(character: &Character) -> String {
    let faults: Vec<_> = (character.faults.iter())
        .map(|fault| match fault.to == FOREVER {
            true => format!("{:?} {} %", fault.kind, fault.percent),
            false => {
                format!("{:?} {} % {:.0?}..{:.0?}", fault.kind, fault.percent, fault.from, fault.to)
            }
        })
        .collect();
    let mut text = format!("latency {:?}", character.latency);
    let mut add = |is: bool, what: String| {
        if is {
            text += ", ";
            text += &what;
        }
    };
    add(character.lags.len() > 1, format!("lags {:?}", character.lags));
    add(!character.indexing.is_zero(), format!("indexing {:?}", character.indexing));
    add(character.gas < 500_000_000, format!("gas {}", character.gas));
    add(character.bytes < 20_000_000, format!("bytes {}", character.bytes));
    add(character.range < 1_000_000, format!("range {}", character.range));
    add(character.keeps < 1_000_000, format!("keeps {}", character.keeps));
    add(!character.hashes, "no hashes".into());
    add(character.overrides != Overrides::Takes, format!("{:?} overrides", character.overrides));
    add(!faults.is_empty(), faults.join(", "));
    text
}
