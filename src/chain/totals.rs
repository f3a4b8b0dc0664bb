//! The totals of one chunk: by the packed reader where that can be used, else through Multicall3.
//!
//! Whatever the packed reader has no total for is read through Multicall3 before anything is said of it.

use std::{collections::HashMap, sync::Arc};

use alloy::primitives::U256;
use anyhow::bail;
use thiserror::Error;
use tracing::{info, warn};

use super::{
    Class, Failure,
    block::At,
    call::Call,
    chunks::{ChunkRead, halves},
    method::{Method, Packing},
    packed,
    reader::NodeReader,
};
use crate::tally::{Reading, Wallet};

/// The packed reader cannot be used with this node.
#[derive(Debug, Error)]
#[error("the packed reader does not work with this node: {0}; give --reader multicall3 or auto")]
struct Unfit(String);

/// What the packed reader gave: totals, and the wallets that it has none for.
#[derive(Default)]
struct Unpacked {
    totals: Vec<(Wallet, U256)>,
    left: Vec<Wallet>,
}

impl Unpacked {
    fn readings(self) -> Vec<Reading> {
        self.totals.into_iter().map(|(wallet, total)| (wallet, Ok(total))).collect()
    }
}

impl NodeReader {
    /// The totals of a chunk, by the method that it is the turn of.
    pub(super) async fn read_totals(
        &self,
        method: Method,
        wallets: Vec<Wallet>,
        block: At,
    ) -> ChunkRead<U256> {
        if method == Method::Multicall3 {
            return self.ask(&self.parts, wallets, block).await;
        }
        let mut unpacked = Unpacked::default();
        let error = self.read_packed(wallets.clone(), block, &mut unpacked).await.err();
        let is_untried = *self.packing() == Packing::Untried;
        match error {
            Some(error) if error.is::<Unfit>() && self.is_packing_optional() => {
                self.do_without_packing(&error);
                return self.read_through_multicall3(wallets, block).await;
            }
            None if is_untried && self.is_packing_optional() => {
                return self.compare(wallets, block, unpacked).await;
            }
            // What was read so far was not compared with anything.
            Some(error) if is_untried && self.is_packing_optional() => match is_refusal(&error) {
                true => return self.try_without_packing(wallets, block, error).await,
                false => return (Vec::new(), Some(error)),
            },
            Some(error) => return (unpacked.readings(), Some(error)),
            None if is_untried => *self.packing() = Packing::Trusted,
            None => {}
        }
        let left = std::mem::take(&mut unpacked.left);
        let mut readings = unpacked.readings();
        let (read, error) = self.read_through_multicall3(left, block).await;
        readings.extend(read);
        (readings, error)
    }

    /// Reads through Multicall3 what was read by the packed reader, and trusts that from now on if
    /// both are equal.
    async fn compare(
        &self,
        wallets: Vec<Wallet>,
        block: At,
        unpacked: Unpacked,
    ) -> ChunkRead<U256> {
        let count = wallets.len();
        let (readings, error) = self.read_through_multicall3(wallets, block).await;
        if error.is_some() || readings.len() < count {
            // Nothing was learnt.
            return (readings, error);
        }
        let packed: HashMap<_, _> = unpacked.totals.into_iter().collect();
        // A wallet that is marked is read through Multicall3 in any case; when all are, packing is no help.
        let differs = |(wallet, total): &&Reading| match packed.get(wallet) {
            Some(by_it) => total.as_ref() != Ok(by_it),
            None => packed.is_empty() && total.is_ok(),
        };
        match readings.iter().find(differs) {
            // Not one total could be compared.
            None if packed.is_empty() => {}
            None => {
                info!(wallets = count, "the packed reader gives what multicall3 gives");
                *self.packing() = Packing::Trusted;
            }
            Some((wallet, total)) => {
                let shown = |total: Option<&U256>| total.map_or("none".into(), U256::to_string);
                self.do_without_packing(
                    &Unfit(format!(
                        "the total of {wallet} is {} by it and {} through multicall3",
                        shown(packed.get(wallet)),
                        shown(total.as_ref().ok()),
                    ))
                    .into(),
                );
            }
        }
        (readings, error)
    }

    /// Reads through Multicall3 what the packed reader failed with; if that succeeds, it was the way
    /// of asking that failed.
    async fn try_without_packing(
        &self,
        wallets: Vec<Wallet>,
        block: At,
        error: anyhow::Error,
    ) -> ChunkRead<U256> {
        let count = wallets.len();
        let (readings, second) = self.read_through_multicall3(wallets, block).await;
        if second.is_none() && readings.len() == count {
            self.do_without_packing(&error);
            return (readings, None);
        }
        (readings, Some(error))
    }

    /// From now on all is read through Multicall3.
    fn do_without_packing(&self, why: &anyhow::Error) {
        let before = std::mem::replace(&mut *self.packing(), Packing::Off);
        if before != Packing::Off {
            let why = why.downcast_ref().map_or_else(|| why.to_string(), |Unfit(why)| why.clone());
            warn!(
                "totals are read through multicall3, as the packed reader does not work here: {why}"
            );
        }
    }

    /// Reads by the packed reader, halving what is too much.
    ///
    /// # Errors
    /// [`Unfit`] where the node does not take it, another when the node fails. What was read until
    /// then stands in `unpacked`.
    async fn read_packed(
        &self,
        chunk: Vec<Wallet>,
        block: At,
        unpacked: &mut Unpacked,
    ) -> anyhow::Result<()> {
        let size = chunk.len();
        let mut open = vec![chunk];
        // One wallet that fails alone before any was read may be to blame itself; two are not. A node that
        // was seen to work may have stopped to, or another one answers.
        let mut has_answered = *self.packing() == Packing::Trusted;
        let mut has_answered_now = false;
        let mut failed_alone = false;
        // One strange answer is put down to the moment.
        let mut may_be_strange = *self.packing() == Packing::Trusted;
        while let Some(wallets) = open.pop() {
            if self.stop.is_asked() {
                break;
            }
            let call = Call {
                to: packed::PROGRAM,
                data: packed::encode(&wallets),
                overrides: Some(Arc::clone(&self.overrides)),
            };
            let returned = self.call(self.client.retries(), call, block, Ok).await;
            match returned {
                Ok((returned, endpoint)) => {
                    let totals = match packed::decode(&wallets, block.number, &returned) {
                        Ok(totals) => totals,
                        Err(_) if may_be_strange => {
                            may_be_strange = false;
                            open.push(wallets);
                            continue;
                        }
                        Err(why) => bail!(Unfit(format!("{endpoint}: {why}"))),
                    };
                    self.with_sizes(endpoint, Method::Packed, |sizes| sizes.took(wallets.len()));
                    (has_answered, has_answered_now) = (true, true);
                    for (wallet, total) in totals {
                        match total {
                            Some(total) => unpacked.totals.push((wallet, total)),
                            None => unpacked.left.push(wallet),
                        }
                    }
                }
                Err(error) => {
                    let Some(failure) = error.downcast_ref::<Failure>() else { return Err(error) };
                    let is_strange = failure.class == Class::Unknown;
                    if is_strange && !has_answered {
                        bail!(Unfit(failure.message.clone()));
                    }
                    let is_open = !has_answered || is_strange && !has_answered_now;
                    let reason = self.blame(error, &wallets, Method::Packed, size, block).await?;
                    match wallets.len() {
                        1 if is_open && (failed_alone || size == 1) => bail!(Unfit(reason)),
                        1 => {
                            failed_alone = true;
                            unpacked.left.extend(wallets);
                        }
                        _ => open.extend(halves(wallets)),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether the node answered, and may have meant the way of asking.
fn is_refusal(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| {
        failure.cause.is_none() && matches!(failure.class, Class::Transport | Class::Refused)
    })
}
