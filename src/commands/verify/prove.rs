//! `verify ADDR --proof`: proves the parts whose slot the profile names.
//!
//! A part is proven if what stands in its mapping hashes up to the state root of the block, and the view answers the same.

use std::sync::Arc;

use alloy::primitives::{B256, U256};
use serde::Serialize;

use super::both_ways::OnChain;
use crate::{
    app::App,
    profile::View,
    rpc::{Client, EndpointId, Mapping, ProvenBlock},
    tally::{RunError, Wallet},
};

const CORRECT_IT: &str =
    "correct `slot` in the profile to that of the view's mapping, or remove it";

/// Proves parts of a wallet's total.
pub(super) struct Prover<'a> {
    app: &'a App,
    client: Arc<Client>,
}

/// Which parts of a total are proven, against which block.
#[derive(Serialize)]
pub(super) struct Proof {
    /// The parts that are proven.
    pub(super) proven: Vec<String>,
    /// The parts for which the node's word is taken.
    pub(super) believed: Vec<String>,
    /// The hash of the block, computed from its header.
    block_hash: B256,
    state_root: B256,
    /// The endpoints whose block has this hash: all.
    endpoints: Vec<String>,
}

/// A part of a wallet's total as it was read, whose slot the profile names.
struct Part<'a> {
    name: &'a str,
    view: &'a View,
    slot: U256,
    wallet: Wallet,
    read: U256,
}

impl<'a> Prover<'a> {
    /// A prover of what the profile names slots for.
    ///
    /// # Errors
    /// If it names none.
    pub(super) fn new(app: &'a App, client: Arc<Client>) -> Result<Self, RunError> {
        if app.profile.reads.iter().all(|read| read.slot.is_none()) {
            return Err(RunError::settings(format!(
                "--proof proves the parts whose [[read]] has a slot, and profile {} has none; add `slot = N`, the \
                 storage slot of the view's mapping, or leave out --proof",
                app.profile.name
            )));
        }
        Ok(Self { app, client })
    }

    /// Proves each part whose slot is known, at the block at which it was read.
    ///
    /// # Errors
    /// When a proof is missing or does not hold, an endpoint has another block, or a slot is not the view's.
    pub(super) async fn prove(
        &self,
        wallet: Wallet,
        on_chain: &OnChain,
    ) -> Result<Proof, RunError> {
        let profile = &self.app.profile;
        let (block, endpoints) = self.client.proven_block(on_chain.block).await?;
        let (mut proven, mut believed) = (Vec::new(), Vec::new());
        for (part, (name, read)) in profile.reads.iter().zip(&on_chain.parts) {
            let (view, slot) = (&part.view, &part.slot);
            let is_proven = match *slot {
                Some(slot) => {
                    let part = Part { name, view, slot, wallet, read: *read };
                    self.is_proven(&part, &block).await?
                }
                None => false,
            };
            if is_proven { &mut proven } else { &mut believed }.push(name.clone());
        }
        let endpoints = endpoints.iter().map(EndpointId::to_string).collect();
        let (block_hash, state_root) = (block.hash, block.state_root);
        Ok(Proof { proven, believed, block_hash, state_root, endpoints })
    }

    /// Whether a part is what its slot is proven to hold; false if it cannot be seen whether the view reads the slot.
    async fn is_proven(&self, part: &Part<'_>, block: &ProvenBlock) -> Result<bool, RunError> {
        let &Part { name, view, slot, wallet, read } = part;
        let (client, number, slot_text) = (&self.client, block.number, shown(slot));
        let owner = wallet.address();
        let call = [view.function.selector().as_slice(), owner.into_word().as_slice()].concat();
        let mapping = Mapping::of(view.contract, slot, owner, call.into());
        let (value, endpoint) = client.proven_entry(&mapping, block).await?;
        if value != read {
            if client.answer_of(endpoint, &mapping, number).await? == Some(value) {
                let text =
                    format!("block {number} was replaced while {name} was read; run it again");
                return Err(RunError::node(text));
            }
            return Err(RunError::settings(format!(
                "slot {slot_text} of {name} holds {value} for {wallet} at block {number}, and the view answers {read}; \
                 {CORRECT_IT}"
            )));
        }
        if !value.is_zero() {
            return Ok(true);
        }
        // Most slots hold zero, so a zero here does not prove that the view reads this slot.
        match client.answers_from(endpoint, &mapping, number).await? {
            Some(true) => Ok(true),
            Some(false) => Err(RunError::settings(format!(
                "slot {slot_text} of {name} is not what the view answers: for {wallet} it answers {read} whatever \
                 the slot holds; {CORRECT_IT}"
            ))),
            None => {
                self.app.report.note(&format!(
                    "{name} is 0, as slot {slot_text} is; whether the view reads that slot cannot be checked, since \
                     {} takes no state overrides",
                    endpoint.id
                ));
                Ok(false)
            }
        }
    }
}

impl Proof {
    /// For people: a name and what it is on each line.
    pub(super) fn lines(&self) -> impl Iterator<Item = (String, String)> {
        let list = |names: &[String]| match names {
            [] => "nothing".to_owned(),
            names => names.join(", "),
        };
        let hash = format!("{}, the same at {}", self.block_hash, self.endpoints.join(", "));
        [
            ("proven", list(&self.proven)),
            ("believed", list(&self.believed)),
            ("block hash", hash),
            ("state root", self.state_root.to_string()),
        ]
        .map(|(name, text)| (name.to_owned(), text))
        .into_iter()
    }
}

/// A slot as people write it: a small one as a number.
fn shown(slot: U256) -> String {
    match u32::try_from(slot) {
        Ok(number) => number.to_string(),
        Err(_) => format!("{slot:#x}"),
    }
}
