//! How many calls a sweep would take, for `--dry-run`.

use super::{
    auto::COMPARED,
    method::{CallCost, search},
    multicall::Multicall3,
    packed::Packed,
    settings::{ChunkLimit, MethodChoice, ReaderSettings},
};

impl ReaderSettings {
    /// About how many `eth_call`s the totals of `wallets` take, each of `parts` parts, from a node with the usual
    /// limits: 50M gas in a call, and bodies of 2 MB. `at_once` of them are in flight.
    pub fn expected_calls(&self, parts: usize, wallets: u64, at_once: usize) -> u64 {
        let search = |cost| search(self.chunk, cost);
        let calls =
            |cost: CallCost, wallets| search(cost).requests_for(wallets, cost.usual(), at_once);
        let (multicall3, packed) = (Multicall3::cost(parts), Packed::cost(parts));
        match self.method {
            MethodChoice::Multicall3 => calls(multicall3, wallets),
            MethodChoice::Packed => calls(packed, wallets),
            // Some wallets of the first chunk are read by both methods.
            MethodChoice::Auto => {
                let compared = search(packed).next_size().len.min(COMPARED) as u64;
                calls(packed, wallets) + calls(multicall3, compared.min(wallets))
            }
        }
    }

    /// True if that number depends on these limits.
    pub fn depends_on_limits(&self, parts: usize) -> bool {
        let cost = match self.method {
            MethodChoice::Packed => Packed::cost(parts),
            MethodChoice::Multicall3 | MethodChoice::Auto => Multicall3::cost(parts),
        };
        match self.chunk {
            ChunkLimit::Auto => true,
            ChunkLimit::AtMost(number) => number.get() > cost.usual(),
        }
    }
}
