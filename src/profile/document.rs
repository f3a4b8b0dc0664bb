//! A profile's TOML text: what may stand in it, and what is wrong with it.

use std::ops::Range;

use alloy::{
    json_abi::{Event as AbiEvent, Function},
    primitives::Address,
};
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::{Event, Members, Profile, View};

/// The file as it is written, with the places of what can be wrong in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    name: String,
    chain_id: u64,
    symbol: String,
    decimals: Spanned<u8>,
    checkpoint: String,
    read: Spanned<Vec<Spanned<ReadTable>>>,
    #[serde(default)]
    event: Vec<EventTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadTable {
    contract: Contract,
    function: ViewOfAddress,
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

/// A contract's address: with a right EIP-55 checksum, or in lower case.
struct Contract(Address);

/// A function with one parameter, an address.
struct ViewOfAddress(Function);

/// An event's signature with the names of its parameters.
struct Signature(AbiEvent);

impl<'de> Deserialize<'de> for Contract {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wallet: crate::tally::Wallet =
            text.parse().map_err(|error| D::Error::custom(format!("contract {text}: {error}")))?;
        Ok(Self(wallet.address()))
    }
}

impl<'de> Deserialize<'de> for ViewOfAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let function = Function::parse(&text).map_err(|error| {
            D::Error::custom(format!("function {text:?} is no signature: {error}"))
        })?;
        match function.inputs.as_slice() {
            [parameter] if parameter.ty == "address" => Ok(Self(function)),
            _ => Err(D::Error::custom(format!(
                "function {text:?} must take one address, as balanceOf(address) does"
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let event = AbiEvent::parse(&text).map_err(|error| {
            D::Error::custom(format!("event {text:?} is no signature: {error}"))
        })?;
        if event.anonymous {
            // Nothing in its logs says which event it is.
            return Err(D::Error::custom(format!(
                "event {text:?} is anonymous, and its logs cannot be found"
            )));
        }
        Ok(Self(event))
    }
}

/// A fault and where it stands.
pub(super) type Fault = (Range<usize>, String);

impl Document {
    /// What the types alone cannot say.
    pub(super) fn check(&self) -> Result<(), Fault> {
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
                    "this [[read]] stands above already; it would count twice".into(),
                ));
            }
        }
        if *self.decimals.get_ref() > 77 {
            return Err((self.decimals.span(), "decimals must be at most 77".into()));
        }
        self.event.iter().try_for_each(EventTable::check)
    }

    pub(super) fn into_profile(self, source: &str) -> Profile {
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
                .map(|table| view(table.contract, table.function))
                .collect(),
            events: self.event.into_iter().map(event).collect(),
            source: source.to_owned(),
        }
    }
}

impl EventTable {
    fn check(&self) -> Result<(), Fault> {
        if self.wallets.get_ref().is_empty() {
            return Err((self.wallets.span(), "wallets names no parameter".into()));
        }
        let members = self.members.iter().map(|members| &members.of);
        self.wallets.get_ref().iter().chain(members).try_for_each(|name| self.check_parameter(name))
    }

    /// Whether `name` is an indexed address parameter of the event.
    fn check_parameter(&self, name: &Spanned<String>) -> Result<(), Fault> {
        let event = &self.event.0;
        let fault = |what: &str| {
            let message = format!("event {} has no {what} {:?}", event.name, name.get_ref());
            Err((name.span(), message))
        };
        match event.inputs.iter().find(|input| input.name == *name.get_ref()) {
            None => fault("parameter"),
            Some(input) if !input.indexed => fault("indexed parameter"),
            Some(input) if input.ty != "address" => fault("address parameter"),
            Some(_) => Ok(()),
        }
    }
}
