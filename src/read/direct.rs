//! Reads without Multicall3: each part by an `eth_call` of its own. For spot checks, and for chains without Multicall3.

use alloy::primitives::{Address, U256};
use async_trait::async_trait;

use super::{
    aggregate3::{Answers, List, Parts, word},
    bisect::ChunkRead,
    calls::{Calls, ReadError},
    method::{CallCost, TotalsMethod},
};
use crate::{
    rpc::{Call, Limit},
    tally::{Reading, Total, Wallet},
};

/// How often a total is read to see two that are the same.
const READS: usize = 5;

/// Name and wei of each part, in the profile's order.
pub type PartValues = Vec<(String, U256)>;

/// The parts, or why one is missing.
pub(super) type PartsRead = Result<PartValues, String>;

/// Reads totals by an `eth_call` for each part.
pub(super) struct Direct {
    parts: Parts,
}

impl Direct {
    /// Reads these parts.
    pub(super) const fn new(parts: Parts) -> Self {
        Self { parts }
    }

    /// Each part of a wallet's total. An answer to a plain call does not tell where it ran, so parts whose total is not
    /// `expected` are read again, until the same are read twice.
    pub(super) async fn parts(
        &self,
        calls: &Calls<'_>,
        wallet: Wallet,
        expected: Option<&Total>,
    ) -> Result<PartsRead, ReadError> {
        let mut before: Option<PartsRead> = None;
        for _ in 0..READS {
            let read = self.read_parts(calls, wallet).await?;
            let is_expected = expected.is_some() && self.total_of(&read).ok().as_ref() == expected;
            if is_expected || before.as_ref() == Some(&read) {
                return Ok(read);
            }
            before = Some(read);
        }
        Ok(Err("the node gives different values at one block".to_owned()))
    }

    async fn read_parts(&self, calls: &Calls<'_>, wallet: Wallet) -> Result<PartsRead, ReadError> {
        let mut read = Vec::with_capacity(self.parts.names().len());
        for (name, (to, data)) in self.parts.names().iter().zip(self.parts.calls(wallet)) {
            let part = match calls.call_alone(Call::plain(to, data)).await? {
                Ok(bytes) => word(&bytes).map_err(|why| format!("{name} {why}")),
                Err(reason) => Err(format!("{name} failed: {reason}")),
            };
            match part {
                Ok(part) => read.push((name.clone(), part)),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(read))
    }

    /// The wallets that this list has for each of `owners`.
    pub(super) async fn lists(
        calls: &Calls<'_>,
        list: &List,
        owners: &[Wallet],
    ) -> Result<Answers<Vec<Address>>, ReadError> {
        let mut lists = Vec::with_capacity(owners.len());
        for owner in owners {
            if calls.is_stopped() {
                break;
            }
            let (to, data) = list.call(*owner);
            let members = match calls.call_alone(Call::plain(to, data)).await? {
                Ok(bytes) => list.members(&bytes),
                Err(reason) => Err(format!("{} failed: {reason}", list.name())),
            };
            lists.push((*owner, members));
        }
        Ok(lists)
    }

    async fn total(&self, calls: &Calls<'_>, wallet: Wallet) -> Result<Reading, ReadError> {
        let parts = self.parts(calls, wallet, None).await?;
        if parts.is_err() {
            calls.require_sane().await?;
        }
        Ok((wallet, self.total_of(&parts)))
    }

    /// The total of these parts.
    pub(super) fn total_of(&self, parts: &PartsRead) -> Result<Total, String> {
        let parts = parts.as_ref().map_err(String::clone)?;
        self.parts.total(parts.iter().map(|(_, part)| Ok(*part)))
    }
}

#[async_trait]
impl TotalsMethod for Direct {
    fn cost_of_wallet(&self) -> CallCost {
        CallCost { bytes_sent: 36, bytes_returned: 32, gas: 30_000 }
    }

    fn limit(&self) -> Limit {
        Limit { kind: "direct", first: 1, usual: 1, ceiling: 1, at_most: Some(1) }
    }

    async fn read(&self, calls: &Calls<'_>, wallets: Vec<Wallet>) -> ChunkRead<Total> {
        let mut readings = Vec::with_capacity(wallets.len());
        for wallet in wallets {
            if calls.is_stopped() {
                break;
            }
            match self.total(calls, wallet).await {
                Ok(reading) => readings.push(reading),
                Err(error) => return (readings, Some(error)),
            }
        }
        (readings, None)
    }
}
