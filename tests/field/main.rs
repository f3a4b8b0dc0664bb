//! A simulated field: the real client, reader, pipeline and follower against endpoints and a database that misbehave
//! by a seed. README.md says how to run it.

mod answers;
mod causes;
mod chain;
mod contracts;
mod database;
mod draw;
mod faults;
mod field;
mod focus;
mod heads;
mod life;
mod node;
mod one_shot;
mod regressions;
mod spoil;
mod watch;
mod words;
mod world;

use std::{
    collections::BTreeMap,
    env,
    io::{self, Write},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use focus::Focus;
use life::{Report, live};

/// Lives in one run, unless `FIELD_SEEDS` says otherwise.
const SEEDS: u64 = 2_000;
/// Lives with each single kind of trouble, unless `FIELD_EACH` says otherwise.
const EACH: u64 = 20;
/// Failing lives that are shown.
const SHOWN: usize = 5;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// What came of many lives.
#[derive(Default)]
struct Sum {
    runs: BTreeMap<&'static str, u64>,
    requests: u64,
    failed_truly: u64,
    struck: BTreeMap<&'static str, u64>,
    failing: Vec<Report>,
}

impl Sum {
    fn add(&mut self, mut report: Report) {
        *self.runs.entry(report.run.name()).or_default() += 1;
        self.requests += report.requests;
        self.failed_truly += u64::from(report.failed_truly);
        for (name, count) in std::mem::take(&mut report.struck) {
            *self.struck.entry(name).or_default() += count;
        }
        if !report.violations.is_empty() {
            report.trace = Vec::new();
            self.failing.push(report);
        }
    }

    fn merge(&mut self, other: Self) {
        for (name, count) in other.runs {
            *self.runs.entry(name).or_default() += count;
        }
        for (name, count) in other.struck {
            *self.struck.entry(name).or_default() += count;
        }
        self.requests += other.requests;
        self.failed_truly += other.failed_truly;
        self.failing.extend(other.failing);
    }

    fn lives(&self) -> u64 {
        self.runs.values().sum()
    }
}

/// Lives all of these, on every core.
fn live_all(lives: &[(u64, Option<Focus>)]) -> Sum {
    let next = AtomicUsize::new(0);
    let threads = number("FIELD_THREADS").map_or_else(
        || thread::available_parallelism().map_or(1, usize::from),
        |threads| threads as usize,
    );
    let mut all = Sum::default();
    thread::scope(|scope| {
        let work = || {
            let mut sum = Sum::default();
            while let Some((seed, focus)) = lives.get(next.fetch_add(1, Relaxed)) {
                sum.add(live(*seed, *focus));
            }
            sum
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.merge(worker.join().expect("no life panics"));
        }
    });
    all.failing.sort_by_key(|report| report.seed);
    all
}

/// What was found, by kind, and some lives in full.
fn told(sum: &Sum) -> String {
    let failing = &sum.failing;
    let mut kinds: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
    for report in failing {
        let mut of_report: Vec<_> = report.violations.iter().map(|(kind, _)| *kind).collect();
        of_report.sort_unstable();
        of_report.dedup();
        for kind in of_report {
            kinds.entry((report.run.name(), kind)).or_default().push(report.seed);
        }
    }
    let mut text = format!(
        "{} of {} lives ended wrong; {:?}, {} requests, {} ended rightly with an error; faults {:?}\n",
        failing.len(),
        sum.lives(),
        sum.runs,
        sum.requests,
        sum.failed_truly,
        sum.struck
    );
    for ((run, kind), seeds) in &kinds {
        text += &format!("{:>6}  {run}: {kind} {:?}\n", seeds.len(), &seeds[..seeds.len().min(12)]);
    }
    let shown = number("FIELD_SHOWN").map_or(SHOWN, |shown| shown as usize);
    for report in failing.iter().take(shown) {
        text += &format!("\nseed {}: {}\n", report.seed, report.summary);
        for (kind, what) in report.violations.iter().take(4) {
            text += &format!("  {kind}: {what}\n");
        }
    }
    text + "\nFIELD_SEED=n cargo test --locked --test field -- --nocapture prints all that happens in one life\n"
}

#[test]
fn whatever_the_field_does_rows_stay_right_and_runs_end_truthfully() {
    if let Some(seed) = number("FIELD_SEED") {
        let focus = number("FIELD_FOCUS").map(|focus| focus::ALL[focus as usize]);
        let report = live(seed, focus);
        let trace = report.trace.join("\n");
        let violations: Vec<_> =
            report.violations.iter().map(|(kind, what)| format!("{kind}: {what}")).collect();
        assert!(
            report.violations.is_empty() && env::var_os("FIELD_TRACE").is_none(),
            "{trace}\nseed {seed}: {}\n{} requests\n{}",
            report.summary,
            report.requests,
            violations.join("\n")
        );
        return;
    }
    let (first, count) =
        (number("FIELD_FIRST").unwrap_or(0), number("FIELD_SEEDS").unwrap_or(SEEDS));
    let lives: Vec<_> = (first..first + count).map(|seed| (seed, None)).collect();
    let sum = live_all(&lives);
    let told = told(&sum);
    assert!(sum.failing.is_empty(), "{told}");
    // Shown with --nocapture.
    writeln!(io::stdout(), "{told}").expect("an output");
}

#[test]
fn no_single_kind_of_trouble_does_harm() {
    let each = number("FIELD_EACH").unwrap_or(EACH);
    let mut text = String::new();
    let only = number("FIELD_FOCUS");
    for (index, focus) in focus::ALL.iter().enumerate() {
        if only.is_some_and(|only| only != index as u64) {
            continue;
        }
        let lives: Vec<_> = (0..each).map(|seed| (seed, Some(*focus))).collect();
        let sum = live_all(&lives);
        if !sum.failing.is_empty() {
            text += &format!("\n{index} {focus:?}: {}", told(&sum));
        }
    }
    assert!(text.is_empty(), "{text}");
}

#[test]
fn what_was_found_once_does_not_come_back() {
    let mut text = String::new();
    for found in regressions::ALL {
        let lives: Vec<_> = found.seeds.iter().map(|seed| (*seed, found.focus)).collect();
        let sum = live_all(&lives);
        if !sum.failing.is_empty() {
            text += &format!("\n{}: {:?} {}", found.what, found.focus, told(&sum));
        }
    }
    assert!(text.is_empty(), "{text}");
}

#[test]
fn one_seed_is_one_life() {
    for seed in 0..number("FIELD_SAME").unwrap_or(40) {
        let (one, other) = (live(seed, None), live(seed, None));
        let differing = one.trace.iter().zip(&other.trace).find(|(one, other)| one != other);
        assert_eq!(one.fingerprint, other.fingerprint, "seed {seed}: {differing:#?}");
    }
}
