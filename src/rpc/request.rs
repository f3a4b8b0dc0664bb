//! What is sent: any request, and the parameters of an `eth_call`.

use std::{collections::HashMap, sync::Arc};

use alloy::primitives::{Address, B256, Bytes, U256};
use serde::{Serialize, Serializer};

use super::block::BlockRef;

/// A request, and how it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<P> {
    /// The method.
    pub method: &'static str,
    /// Its parameters.
    pub params: P,
    /// True if less can be asked for in one request: where that may help, the failure comes back after few attempts.
    pub can_split: bool,
    /// When the answer counts.
    pub freshness: Freshness,
}

/// When an answer counts. A node that is behind has no logs of blocks that it does not have, and some say so by an
/// empty list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Always.
    Any,
    /// If the endpoint has this block.
    HasBlock(u64),
    /// If the endpoint has the block with this hash, or is known to refuse requests for unknown blocks.
    HasHash(B256),
}

impl<P> Request<P> {
    /// A request that is retried as usual, whose answer counts as it is.
    pub const fn new(method: &'static str, params: P) -> Self {
        Self { method, params, can_split: false, freshness: Freshness::Any }
    }
}

/// A contract call: its target and its data.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// The contract.
    pub to: Address,
    /// Selector and arguments.
    pub data: Bytes,
    /// Code that replaces an account's for the time of the call.
    #[serde(skip)]
    pub overrides: Option<Arc<Overrides>>,
    /// Bytes that it returns at most; `None` if that is not known.
    #[serde(skip)]
    pub returned: Option<usize>,
    /// How it is checked where the answer is from; `None` if that cannot be told.
    #[serde(skip)]
    pub origin: Option<Arc<OriginCheck>>,
}

/// Where the EVM says that it ran a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The block's number.
    pub block: U256,
    /// The chain's id.
    pub chain_id: U256,
    /// The block's timestamp, where that was asked for.
    pub timestamp: Option<U256>,
}

/// How an answer's origin is checked.
#[derive(Debug)]
pub struct OriginCheck {
    /// The chain that every answer must be from.
    pub chain_id: u64,
    /// A call that asks for nothing but the origin.
    pub probe: Call,
    /// Decodes what `probe` returns.
    pub read: fn(&[u8]) -> Result<Origin, String>,
}

impl Call {
    /// A call of this contract, of whose result nothing is known.
    pub const fn plain(to: Address, data: Bytes) -> Self {
        Self { to, data, overrides: None, returned: None, origin: None }
    }
}

/// The third parameter of `eth_call`: state overrides by account.
pub type Overrides = HashMap<Address, Override>;

/// An account's state for the time of a call.
#[derive(Clone, Debug, Serialize)]
pub struct Override {
    /// Its code.
    pub code: Bytes,
}

/// The parameters of an `eth_call`: two, and a third with overrides.
#[derive(Clone, Debug)]
pub(super) struct CallParams<'a>(pub(super) &'a Call, pub(super) BlockRef);

impl Serialize for CallParams<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(call, block) = self;
        match &call.overrides {
            None => (call, block).serialize(serializer),
            Some(overrides) => (call, block, overrides.as_ref()).serialize(serializer),
        }
    }
}
