//! The TOML text of a profile: its keys, and the checks of their values.

use std::{ops::Range, time::Duration};

use alloy::{
    json_abi::{Event as AbiEvent, Function},
    primitives::Address,
};
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::{
    column,
    model::{Event, MAX_HEAD_AGE, MULTICALL3, Members, Profile, Read, View},
    slot::Slot,
};

/// The file as it is written; a [`Spanned`] value is one whose mistakes are found after parsing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    name: String,
    chain_id: u64,
    symbol: String,
    decimals: Spanned<u8>,
    checkpoint: String,
    multicall3: Option<OrNone<Contract>>,
    max_head_age: Option<OrNone<Age>>,
    events: Option<Spanned<NoEvents>>,
    read: Spanned<Vec<Spanned<ReadTable>>>,
    #[serde(default)]
    event: Vec<EventTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadTable {
    contract: Contract,
    function: ViewOfAddress,
    slot: Option<Spanned<Slot>>,
    column: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventTable {
    contract: Contract,
    event: Signature,
    wallets: Spanned<Vec<Spanned<String>>>,
    members: Option<MembersTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MembersTable {
    contract: Contract,
    function: ViewOfAddress,
    of: Spanned<String>,
}

/// The word that says that no event tells when a total changes.
struct NoEvents;

/// A value, or the word that says that there is none.
enum OrNone<T> {
    Value(T),
    None,
}

/// A time with its unit.
struct Age(Duration);

/// A contract's address: with a correct EIP-55 checksum, or in lower case.
struct Contract(Address);

/// A function with one parameter, an address.
struct ViewOfAddress(Function);

/// An event's signature with the names of its parameters.
struct Signature(AbiEvent);

impl<'de> Deserialize<'de> for Contract {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        contract(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn contract(text: &str) -> Result<Contract, String> {
    let wallet: Result<crate::tally::Wallet, _> = text.parse();
    match wallet {
        Ok(wallet) => Ok(Contract(wallet.address())),
        Err(error) => Err(format!("contract {text:?} {error}")),
    }
}

impl<'de> Deserialize<'de> for NoEvents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = "events can only be \"none\"; write each event as an [[event]] table";
        match String::deserialize(deserializer) {
            Ok(text) if text == "none" => Ok(Self),
            _ => Err(D::Error::custom(wrong)),
        }
    }
}

impl<'de> Deserialize<'de> for OrNone<Contract> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "none" => Ok(Self::None),
            text => contract(text).map(Self::Value).map_err(|error| {
                D::Error::custom(format!("{error}; write an address, or \"none\""))
            }),
        }
    }
}

impl<'de> Deserialize<'de> for OrNone<Age> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "off" => Ok(Self::None),
            text => {
                humantime::parse_duration(text).map(|age| Self::Value(Age(age))).map_err(|_| {
                    D::Error::custom(format!(
                        "max_head_age {text:?} is not a time; write one such as 10m, or \"off\""
                    ))
                })
            }
        }
    }
}

impl<'de> Deserialize<'de> for ViewOfAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let function = Function::parse(&text).map_err(|error| {
            D::Error::custom(format!(
                "{text:?} is not a function signature, such as balanceOf(address): {error}"
            ))
        })?;
        match function.inputs.as_slice() {
            [parameter] if parameter.ty == "address" => Ok(Self(function)),
            _ => Err(D::Error::custom(format!(
                "function {text:?} must have one parameter, an address, as balanceOf(address) has"
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let event = AbiEvent::parse(&text).map_err(|error| {
            D::Error::custom(format!("{text:?} is not an event signature: {error}"))
        })?;
        if event.anonymous {
            // Its logs do not name the event.
            return Err(D::Error::custom(format!(
                "event {text:?} is anonymous; its logs cannot be told from others"
            )));
        }
        Ok(Self(event))
    }
}

/// What is wrong, and where in the text.
pub(super) type Mistake = (Range<usize>, String);

impl Document {
    /// Checks what the types do not.
    pub(super) fn check(&self) -> Result<(), Mistake> {
        if self.read.get_ref().is_empty() {
            return Err((self.read.span(), "a total needs at least one [[read]]".into()));
        }
        for (index, read) in self.read.get_ref().iter().enumerate() {
            let same = |other: &ReadTable| {
                other.contract.0 == read.get_ref().contract.0
                    && other.function.0.selector() == read.get_ref().function.0.selector()
            };
            if self.read.get_ref()[..index].iter().any(|other| same(other.get_ref())) {
                return Err((
                    read.span(),
                    "this [[read]] is a duplicate and would count twice; remove it".into(),
                ));
            }
            let ReadTable { contract, function, column, slot } = read.get_ref();
            if let Some(column) = column {
                let before = &self.read.get_ref()[..index];
                let taken = before.iter().filter_map(|other| other.get_ref().column.as_ref());
                column::check(column.get_ref(), taken.map(|other| other.get_ref().as_str()))
                    .map_err(|mistake| (column.span(), mistake))?;
            }
            if let Some(slot) = slot {
                let is_multicall3 = Some(contract.0) == self.multicall3();
                Slot::check(&function.0, is_multicall3).map_err(|why| (slot.span(), why))?;
            }
        }
        if *self.decimals.get_ref() > 77 {
            return Err((self.decimals.span(), "decimals must be at most 77".into()));
        }
        if let Some(events) = self.events.as_ref().filter(|_| !self.event.is_empty()) {
            let message = "events is \"none\", but there is an [[event]]; remove one of them";
            return Err((events.span(), message.into()));
        }
        self.event.iter().try_for_each(EventTable::check)
    }

    fn multicall3(&self) -> Option<Address> {
        match &self.multicall3 {
            Some(OrNone::Value(contract)) => Some(contract.0),
            Some(OrNone::None) => None,
            None => Some(MULTICALL3),
        }
    }

    pub(super) fn into_profile(self, source: &str) -> Profile {
        let multicall3 = self.multicall3();
        let view = |contract: Contract, function: ViewOfAddress| View {
            contract: contract.0,
            function: function.0,
        };
        let event = |table: EventTable| Event {
            contract: table.contract.0,
            event: table.event.0,
            wallets: table.wallets.into_inner().into_iter().map(Spanned::into_inner).collect(),
            members: table.members.map(|members| Members {
                view: view(members.contract, members.function),
                of: members.of.into_inner(),
            }),
        };
        Profile {
            name: self.name,
            chain_id: self.chain_id,
            symbol: self.symbol,
            decimals: self.decimals.into_inner(),
            checkpoint: self.checkpoint,
            reads: (self.read.into_inner().into_iter())
                .map(Spanned::into_inner)
                .map(|ReadTable { contract, function, column, slot }| Read {
                    view: view(contract, function),
                    column: column.map(Spanned::into_inner),
                    slot: slot.map(|slot| slot.into_inner().0),
                })
                .collect(),
            events: self.event.into_iter().map(event).collect(),
            is_without_events: self.events.is_some(),
            multicall3,
            max_head_age: match self.max_head_age {
                Some(OrNone::Value(age)) => Some(age.0),
                Some(OrNone::None) => None,
                None => Some(MAX_HEAD_AGE),
            },
            source: source.to_owned(),
        }
    }
}

impl EventTable {
    fn check(&self) -> Result<(), Mistake> {
        if self.wallets.get_ref().is_empty() {
            let message = format!("wallets is empty; use {}", self.choices());
            return Err((self.wallets.span(), message));
        }
        let members = self.members.iter().map(|members| &members.of);
        self.wallets.get_ref().iter().chain(members).try_for_each(|name| self.check_parameter(name))
    }

    /// Refuses a `name` that is not an indexed address parameter of the event.
    fn check_parameter(&self, name: &Spanned<String>) -> Result<(), Mistake> {
        let event = &self.event.0;
        let (span, name) = (name.span(), name.get_ref());
        let refuse = |what: String| Err((span, format!("{what}; use {}", self.choices())));
        match event.inputs.iter().find(|input| input.name == *name) {
            None => refuse(format!("event {} has no parameter {name:?}", event.name)),
            Some(input) if !input.indexed => {
                refuse(format!("parameter {name:?} of event {} is not indexed", event.name))
            }
            Some(input) if input.ty != "address" => {
                refuse(format!("parameter {name:?} of event {} is not an address", event.name))
            }
            Some(_) => Ok(()),
        }
    }

    /// The event's indexed address parameters.
    fn choices(&self) -> String {
        let inputs = self.event.0.inputs.iter();
        let names: Vec<_> = inputs
            .filter(|input| input.indexed && input.ty == "address")
            .map(|input| input.name.as_str())
            .collect();
        if names.is_empty() {
            return "another event: this one has no indexed address parameter".to_owned();
        }
        names.join(" or ")
    }
}
