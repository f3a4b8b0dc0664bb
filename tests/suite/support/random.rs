//! Faults by chance, the same for the same seed.

use std::sync::Mutex;

use ethtally_testbed::stub::When;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// How many schedules a test runs: as many as the environment variable says, else `few`.
pub(crate) fn schedules(variable: &str, few: u64) -> u64 {
    std::env::var(variable).map_or(few, |number| number.parse().expect("a number"))
}

/// The generator of a schedule.
pub(crate) fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Of these requests, this share at random.
pub(crate) fn sometimes(when: When, rate: f64, seed: u64) -> When {
    let random = Mutex::new(random(seed));
    when.matching(move |_| random.lock().expect("no panic before").random_bool(rate))
}
