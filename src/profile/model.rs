//! What a profile says, once it is parsed.

use std::time::Duration;

use alloy::{
    json_abi::{Event as AbiEvent, Function},
    primitives::{Address, U256, address},
};

/// Multicall3, at the same address on most chains.
///
/// Source: <https://www.multicall3.com>
pub const MULTICALL3: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");

/// How old the newest block may be where a profile does not say.
pub(super) const MAX_HEAD_AGE: Duration = Duration::from_secs(600);

/// What a total is made of, and how it is printed.
#[derive(Clone, Debug)]
pub struct Profile {
    /// A name for people to read.
    pub name: String,
    /// The chain of the contracts; endpoints of other chains are refused.
    pub chain_id: u64,
    /// The symbol of the unit that totals are printed in.
    pub symbol: String,
    /// Decimal digits of that unit: 1 unit = 10^decimals wei.
    pub decimals: u8,
    /// The row of `eth_indexer_checkpoints` that holds the last block whose events were followed.
    pub checkpoint: String,
    /// The views whose values are summed, in this order. Never empty.
    pub reads: Vec<View>,
    /// The storage slot of the mapping that each of them answers from, where the profile names it.
    pub slots: Vec<Option<U256>>,
    /// The events that change a total.
    pub events: Vec<Event>,
    /// Multicall3's address on the chain; `None` if it is not there, so that only the packed reader works.
    pub multicall3: Option<Address>,
    /// How old the newest block may be, unless `--max-head-age` says otherwise; `None` for a chain that stands still.
    pub max_head_age: Option<Duration>,
    /// The TOML text of the profile.
    pub source: String,
}

/// A view of one `address` parameter, on one contract.
#[derive(Clone, Debug)]
pub struct View {
    /// The contract.
    pub contract: Address,
    /// The function, such as `balanceOf(address)`.
    pub function: Function,
}

/// An event that changes the totals of some wallets.
#[derive(Clone, Debug)]
pub struct Event {
    /// The contract that emits the event.
    pub contract: Address,
    /// The event with its parameters.
    pub event: AbiEvent,
    /// Names of the indexed address parameters whose totals the event changes.
    pub wallets: Vec<String>,
    /// A view that lists further wallets whose totals the event changes.
    pub members: Option<Members>,
}

/// A view that lists the wallets that belong to one named by an event.
#[derive(Clone, Debug)]
pub struct Members {
    /// The view; it returns `address[]`.
    pub view: View,
    /// The event parameter that the view is called with.
    pub of: String,
}

impl Profile {
    /// The name of each part of a total, in the order of [`Profile::reads`]: the
    /// function's name, and its contract too where two parts share that name.
    pub fn part_names(&self) -> Vec<String> {
        let shared =
            |name: &str| self.reads.iter().filter(|read| read.function.name == name).count() > 1;
        let name = |read: &View| match &read.function.name {
            name if shared(name) => format!("{name}@{:#x}", read.contract),
            name => name.clone(),
        };
        self.reads.iter().map(name).collect()
    }
}
