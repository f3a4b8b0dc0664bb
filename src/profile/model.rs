//! What a profile says, once it is parsed.

use std::{fmt, time::Duration};

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
    pub reads: Vec<Read>,
    /// The events that change a total.
    pub events: Vec<Event>,
    /// Whether the profile says that totals change without any event.
    pub is_without_events: bool,
    /// Multicall3's address on the chain; `None` if it is not there, so that only the packed reader works.
    pub multicall3: Option<Address>,
    /// How old the newest block may be, unless `--max-head-age` says otherwise; `None` for a chain that stands still.
    pub max_head_age: Option<Duration>,
    /// The TOML text of the profile.
    pub source: String,
}

/// A part of a total.
#[derive(Clone, Debug)]
pub struct Read {
    /// The view that gives it.
    pub view: View,
    /// The column that it is stored in, beside the total; `None` if only the total has it.
    pub column: Option<String>,
    /// The storage slot of the mapping that the view answers from, where the profile names it.
    pub slot: Option<U256>,
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

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:#x}", self.function.signature(), self.contract)
    }
}

impl Profile {
    /// What is needed of a chain for all these profiles, which must be of one chain: reads and events of each. `None` if
    /// there is none.
    pub(crate) fn together<'a>(profiles: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut profiles = profiles.into_iter();
        let mut together = profiles.next()?.clone();
        for profile in profiles {
            together.name = format!("{}, {}", together.name, profile.name);
            together.reads.extend(profile.reads.iter().cloned());
            together.events.extend(profile.events.iter().cloned());
            together.multicall3 = together.multicall3.or(profile.multicall3);
        }
        Some(together)
    }

    /// The name of each part of a total, in the order of [`Profile::reads`]: the
    /// function's name, and its contract too where two parts share that name.
    pub fn part_names(&self) -> Vec<String> {
        let views = || self.reads.iter().map(|read| &read.view);
        let shared = |name: &str| views().filter(|view| view.function.name == name).count() > 1;
        let name = |view: &View| match &view.function.name {
            name if shared(name) => format!("{name}@{:#x}", view.contract),
            name => name.clone(),
        };
        views().map(name).collect()
    }

    /// The columns of those parts that have one, in the order of [`Profile::reads`].
    pub fn columns(&self) -> impl Iterator<Item = (&str, &View)> {
        self.reads.iter().filter_map(|read| Some((read.column.as_deref()?, &read.view)))
    }

    /// The profile with these columns instead of its own, in this order: a name each, and the view that gives the part as
    /// text.
    ///
    /// # Errors
    /// If it has no such view.
    pub fn with_columns<'a>(
        &self,
        columns: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let mut left = self.reads.clone();
        let mut reads = Vec::with_capacity(left.len());
        for (column, holds) in columns {
            let place = left.iter().position(|read| read.view.to_string() == holds);
            let place = place.ok_or_else(|| {
                format!("column {column} holds {holds}, which is not a part of the total")
            })?;
            reads.push(Read { column: Some(column.to_owned()), ..left.remove(place) });
        }
        reads.extend(left.into_iter().map(|read| Read { column: None, ..read }));
        Ok(Self { reads, ..self.clone() })
    }
}
