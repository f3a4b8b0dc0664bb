//! Totals by a program of our own, which a node is given for the time of one `eth_call`.
//!
//! The third parameter of `eth_call` puts code at an address. Ours, `packed.yul`, takes 20 bytes a wallet and
//! returns 32, where `aggregate3` takes 224 and returns 160 for each part of each wallet; it also needs half of the
//! gas. It changes nothing, keeps nothing, and exists only during the call.
//!
//! A wallet that it marks by 2²⁵⁶−1 is one that it has no total for, or whose total is just that: it is read again
//! through Multicall3.

use std::{collections::HashSet, sync::Arc};

use alloy::primitives::{Address, U256, address, hex};
use async_trait::async_trait;

use super::{
    aggregate3::Parts,
    bisect::{Calls, ChunkRead, ReadError, halves},
    method::{CallCost, TotalsMethod, limit},
    multicall::Multicall3,
    settings::ChunkLimit,
};
use crate::{
    rpc::{Call, EndpointId, Feature, Limit, Override, Overrides, RequestError, Support},
    tally::{Reading, Wallet},
};

/// Where the program is for the time of a call: the last 20 bytes of the Keccak-256 hash of
/// "ethtally packed reader", so nobody has the key of it and nothing is there.
const PROGRAM: Address = address!("62c46dC30300c0bfC98fD2380eea0C492aD3896A");

/// The program: what solc makes of `packed.yul`.
const CODE: &str = include_str!("packed.hex");

/// Bytes of call data and of the result for each wallet.
const BYTES_SENT: usize = 20;
const BYTES_RETURNED: usize = 32;

/// In place of a total that is missing.
const MARK: U256 = U256::MAX;

/// The method that reads totals by a program of our own.
pub(super) struct Packed {
    overrides: Arc<Overrides>,
    /// What every call begins with: the parts.
    table: Vec<u8>,
    parts: usize,
    chain_id: u64,
    limit: Limit,
    /// Reads the wallets that are marked.
    multicall3: Arc<Multicall3>,
}

/// What the program gave for a chunk.
#[derive(Default)]
pub(super) struct PackedResult {
    pub(super) totals: Vec<(Wallet, U256)>,
    /// Wallets that it has no total for.
    pub(super) marked: Vec<Wallet>,
    /// The endpoints that answered.
    pub(super) answered_by: Vec<EndpointId>,
    /// Why the rest of the chunk was not read.
    pub(super) error: Option<ReadError>,
}

impl PackedResult {
    pub(super) fn readings(&self) -> Vec<Reading> {
        self.totals.iter().map(|(wallet, total)| (*wallet, Ok(*total))).collect()
    }
}

impl Packed {
    /// Reads the parts that `multicall3` reads.
    pub(super) fn new(multicall3: Arc<Multicall3>, chain_id: u64, chunk: ChunkLimit) -> Self {
        let code = hex::decode(CODE.trim()).expect("packed.hex is hexadecimal");
        let parts = multicall3.parts().views().len();
        Self {
            overrides: Arc::new([(PROGRAM, Override { code: code.into() })].into()),
            table: table(multicall3.parts()),
            parts,
            chain_id,
            limit: limit("packed", chunk, Self::cost(parts)),
            multicall3,
        }
    }

    /// What a wallet with this number of parts costs in a call.
    pub(super) const fn cost(parts: usize) -> CallCost {
        CallCost { bytes_sent: BYTES_SENT, bytes_returned: BYTES_RETURNED, gas: 3_400 * parts }
    }

    /// The call for these wallets.
    fn call(&self, wallets: &[Wallet]) -> Call {
        let mut data = Vec::with_capacity(self.table.len() + BYTES_SENT * wallets.len());
        data.extend_from_slice(&self.table);
        wallets.iter().for_each(|wallet| data.extend_from_slice(wallet.address().as_slice()));
        Call {
            to: PROGRAM,
            data: data.into(),
            overrides: Some(Arc::clone(&self.overrides)),
            returned: Some(BYTES_RETURNED * (wallets.len() + 2)),
        }
    }

    /// The total of each wallet in wei, `None` for one that is marked.
    ///
    /// # Errors
    /// If it is not what the program returns for these wallets, on this chain at this block.
    fn decode(
        &self,
        wallets: &[Wallet],
        block: u64,
        returned: &[u8],
    ) -> Result<Vec<(Wallet, Option<U256>)>, String> {
        if returned.is_empty() {
            return Err("it returned nothing, as if there were no code".to_owned());
        }
        let expected = BYTES_RETURNED * (wallets.len() + 2);
        if returned.len() != expected {
            return Err(format!("it returned {} bytes, not {expected}", returned.len()));
        }
        let mut words = returned.chunks_exact(32).map(U256::from_be_slice);
        for (what, right) in [("at block", block), ("on chain", self.chain_id)] {
            let word = words.next().unwrap_or_default();
            if word != U256::from(right) {
                return Err(format!("it ran {what} {word}, not {right}"));
            }
        }
        Ok(wallets.iter().copied().zip(words.map(|word| (word != MARK).then_some(word))).collect())
    }

    /// Reads a chunk by the program alone, halving what is too large.
    pub(super) async fn read_packed(&self, calls: &Calls<'_>, chunk: Vec<Wallet>) -> PackedResult {
        let mut result = PackedResult::default();
        result.error = self.read_into(&mut result, calls, chunk).await.err();
        result
    }

    async fn read_into(
        &self,
        result: &mut PackedResult,
        calls: &Calls<'_>,
        chunk: Vec<Wallet>,
    ) -> Result<(), ReadError> {
        let size = chunk.len();
        let client = calls.client();
        let is_trusted = client.preferred().support(Feature::Overrides) == Support::Works;
        let mut open = vec![chunk];
        // One wallet that fails alone before any was read may be the cause itself; two are not. A node that
        // was seen to work may have stopped to, or another one answers.
        let mut has_answered = is_trusted;
        let mut failed_alone = false;
        // One strange answer may be a bad moment.
        let mut may_be_strange = is_trusted;
        while let Some(wallets) = open.pop() {
            if calls.is_stopped() {
                break;
            }
            match calls.call(wallets.len() > 1, self.call(&wallets), Ok).await {
                Ok((returned, endpoint)) => {
                    let totals = match self.decode(&wallets, calls.block.number, &returned) {
                        Ok(totals) => totals,
                        Err(_) if may_be_strange => {
                            may_be_strange = false;
                            open.push(wallets);
                            continue;
                        }
                        Err(why) => {
                            let reason = format!("{}: {why}", endpoint.id);
                            return Err(ReadError::Unsupported {
                                endpoint: endpoint.id.clone(),
                                reason,
                            });
                        }
                    };
                    endpoint.limit(self.limit, |search| search.succeeded(wallets.len()));
                    has_answered = true;
                    result.answered_by.push(endpoint.id.clone());
                    for (wallet, total) in totals {
                        match total {
                            Some(total) => result.totals.push((wallet, total)),
                            None => result.marked.push(wallet),
                        }
                    }
                }
                Err(RequestError::Node(failure)) => {
                    let endpoint = failure.endpoint.clone();
                    let is_strange = failure.kind.is_odd_answer();
                    if is_strange && !has_answered {
                        return Err(ReadError::Unsupported { endpoint, reason: failure.message });
                    }
                    let has_answered_now = !result.answered_by.is_empty();
                    let is_open = !has_answered || is_strange && !has_answered_now;
                    let limit = Some(self.limit).filter(|_| wallets.len() == size);
                    let reason = calls.blame(failure.into(), &wallets, limit).await?;
                    match wallets.len() {
                        1 if is_open && (failed_alone || size == 1) => {
                            return Err(ReadError::Unsupported { endpoint, reason });
                        }
                        1 => {
                            failed_alone = true;
                            result.marked.extend(wallets);
                        }
                        _ => open.extend(halves(wallets)),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The readings of a chunk, with the wallets that the program has no total for read through Multicall3.
    pub(super) async fn complete(
        &self,
        calls: &Calls<'_>,
        mut result: PackedResult,
    ) -> ChunkRead<U256> {
        let mut readings = result.readings();
        if result.error.is_some() {
            return (readings, result.error);
        }
        let marked = std::mem::take(&mut result.marked);
        let (read, error) = self.multicall3.read_all(calls, marked).await;
        readings.extend(read);
        (readings, error)
    }
}

#[async_trait]
impl TotalsMethod for Packed {
    fn cost_of_wallet(&self) -> CallCost {
        Self::cost(self.parts)
    }

    fn limit(&self) -> Limit {
        self.limit
    }

    async fn read(&self, calls: &Calls<'_>, wallets: Vec<Wallet>) -> ChunkRead<U256> {
        let result = self.read_packed(calls, wallets).await;
        let answered: HashSet<_> =
            result.answered_by.iter().filter(|_| result.error.is_none()).collect();
        for id in answered {
            calls.client().endpoint(id).learn(Feature::Overrides, Support::Works);
        }
        self.complete(calls, result).await
    }
}

/// The parts as a call begins with them: their number, then contract and selector of each. The program calls
/// them from the last to the first.
fn table(parts: &Parts) -> Vec<u8> {
    let views = parts.views();
    let mut table = (views.len() as u64).to_be_bytes().to_vec();
    for view in views.iter().rev() {
        table.extend_from_slice(view.contract.as_slice());
        table.extend_from_slice(view.function.selector().as_slice());
    }
    table
}

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;

    use super::*;
    use crate::profile::Profile;

    fn packed() -> Packed {
        let parts = Parts::of(&Profile::audius());
        let multicall3 = Arc::new(Multicall3::new(parts, ChunkLimit::Auto));
        Packed::new(multicall3, 1, ChunkLimit::Auto)
    }

    fn wallets(count: u8) -> Vec<Wallet> {
        (1..=count).map(|last| Wallet::from(Address::repeat_byte(last))).collect()
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| U256::from(*word).to_be_bytes::<32>()).collect()
    }

    #[test]
    fn the_program_is_where_nothing_is() {
        assert_eq!(PROGRAM, Address::from_word(keccak256("ethtally packed reader")));
    }

    #[test]
    fn call_data_is_the_parts_from_the_last_to_the_first_and_20_bytes_a_wallet() {
        let data = packed().call(&wallets(2)).data;
        let expected = [
            "0000000000000003",
            "4d7968ebfd390d5e7926cb3587c39eff2f9fb225b0303b75",
            "e6d97b2099f142513be7a2a068be040656ae45914b341aed",
            "18aaa7115705e8be94bffebde57af9bfc265b99870a08231",
            "0101010101010101010101010101010101010101",
            "0202020202020202020202020202020202020202",
        ];
        assert_eq!(hex::encode(data), expected.concat());
    }

    #[test]
    fn totals_and_marks_are_told_apart() {
        let mut returned = words(&[7, 1, 5, 0]);
        returned.extend([0xff; 32]);
        let totals: Vec<_> = (packed().decode(&wallets(3), 7, &returned).unwrap().into_iter())
            .map(|(_, total)| total)
            .collect();
        assert_eq!(totals, [Some(U256::from(5)), Some(U256::ZERO), None]);
    }

    #[test]
    fn what_the_program_does_not_return_is_refused() {
        let whole = words(&[7, 1, 5]);
        let refused =
            |block, returned: &[u8]| packed().decode(&wallets(1), block, returned).unwrap_err();
        assert_eq!(refused(7, &[]), "it returned nothing, as if there were no code");
        assert_eq!(refused(7, &whole[..32]), "it returned 32 bytes, not 96");
        assert_eq!(refused(7, &[&whole[..], &[0]].concat()), "it returned 97 bytes, not 96");
        assert_eq!(refused(8, &whole), "it ran at block 7, not 8");
        assert_eq!(refused(7, &words(&[7, 5, 5])), "it ran on chain 5, not 1");
    }
}
