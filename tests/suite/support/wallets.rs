//! Wallets by number: their addresses, what they hold at genesis, and which of them can spend.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::U256;
use ethtally_testbed::{
    genesis::{PROVIDERS, holdings, provider_of},
    holding, wallet,
};

/// The address of wallet `n`, as it is stored.
pub(crate) fn address(n: u64) -> String {
    format!("{:#x}", wallet(n))
}

/// The addresses of these wallets.
pub(crate) fn addresses(wallets: impl IntoIterator<Item = u64>) -> BTreeSet<String> {
    wallets.into_iter().map(address).collect()
}

/// The addresses of these wallets, sorted.
pub(crate) fn sorted_addresses(wallets: impl IntoIterator<Item = u64>) -> Vec<String> {
    addresses(wallets).into_iter().collect()
}

/// The addresses of these wallets as CSV without a header: one per line, in this order.
pub(crate) fn address_lines(wallets: impl IntoIterator<Item = u64>) -> String {
    wallets.into_iter().map(|n| address(n) + "\n").collect()
}

/// The totals of these wallets at genesis by address, as they are stored.
pub(crate) fn genesis_totals(wallets: impl IntoIterator<Item = u64>) -> BTreeMap<String, String> {
    let wallets: BTreeSet<u64> = wallets.into_iter().collect();
    let count = wallets.last().map_or(0, |last| last + 1);
    (0..count)
        .zip(holdings(count))
        .filter(|(n, _)| wallets.contains(n))
        .map(|(n, holding)| (address(n), holding.total().to_string()))
        .collect()
}

/// One AUDIO.
pub(crate) fn one_audio() -> U256 {
    U256::from(10).pow(U256::from(18))
}

/// Wallets that hold more than this many AUDIO, and are neither providers nor delegators.
pub(crate) fn spenders(audio: u64) -> Vec<u64> {
    (PROVIDERS..1_000)
        .filter(|n| provider_of(*n).is_none())
        .filter(|n| holding(*n).balance > one_audio() * U256::from(audio))
        .collect()
}

/// The checksummed address of wallet `n`, and the same with a wrong checksum.
pub(crate) fn right_and_wrong_checksum(n: u64) -> (String, String) {
    let right = wallet(n).to_checksum(None);
    let letter = right.rfind(|c: char| c.is_ascii_alphabetic()).expect("a letter");
    let mut wrong = right.clone().into_bytes();
    wrong[letter] ^= 0x20;
    (right, String::from_utf8(wrong).expect("ASCII"))
}

/// The seed in the environment variable `SEED`, else a random one.
pub(crate) fn random_seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    seed.unwrap_or_else(rand::random)
}
