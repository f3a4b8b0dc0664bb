//! The parameters of an `eth_call`.

use std::sync::Arc;

use alloy::primitives::{Address, Bytes};
use serde::{Serialize, Serializer};

use super::{block::At, packed::Overrides};

/// What is called, with what.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Call {
    pub(super) to: Address,
    pub(super) data: Bytes,
    /// Code that is put somewhere for the time of the call.
    #[serde(skip)]
    pub(super) overrides: Option<Arc<Overrides>>,
}

/// The parameters of an `eth_call`: two, and a third where something is put somewhere.
#[derive(Clone, Debug)]
pub(super) struct CallParams(pub(super) Call, pub(super) At);

impl Serialize for CallParams {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(call, block) = self;
        match &call.overrides {
            None => (call, block).serialize(serializer),
            Some(overrides) => (call, block, overrides.as_ref()).serialize(serializer),
        }
    }
}
