//! The requests that a stub has recorded, decoded.

use alloy::{
    primitives::{Address, hex},
    providers::bindings::IMulticall3::aggregate3Call,
    sol_types::SolCall,
};
use ethtally_testbed::{
    contracts::{AUDIO, MULTICALL3},
    stub::{RecordedRequest, Stub},
};
use serde_json::Value;

/// Parts of the built-in profile.
pub(crate) const PARTS: usize = 3;

/// A decoded `eth_call`.
pub(crate) struct EthCall {
    pub(crate) to: Address,
    pub(crate) data: Vec<u8>,
    /// By number or by hash.
    pub(crate) block: String,
}

/// The `eth_call`s that a stub has recorded, decoded.
pub(crate) fn decoded_eth_calls(stub: &Stub) -> Vec<EthCall> {
    let call = |request: RecordedRequest| {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let call = &request.params[0];
        let data = if call["input"].is_string() { &call["input"] } else { &call["data"] };
        EthCall {
            to: text(&call["to"]).parse().expect("an address"),
            data: hex::decode(text(data)).expect("hexadecimal data"),
            block: text(request.params[1].get("blockHash").unwrap_or(&request.params[1])),
        }
    };
    stub.eth_calls().into_iter().map(call).collect()
}

/// The wallets whose AUDIO was read through Multicall3, sorted, each as often as it was read.
pub(crate) fn wallets_read(stub: &Stub) -> Vec<String> {
    let mut wallets = Vec::new();
    for call in decoded_eth_calls(stub).iter().filter(|call| call.to == MULTICALL3) {
        let parts = aggregate3Call::abi_decode(&call.data).expect("an aggregate3").calls;
        let of_audio = parts.iter().filter(|part| part.target == AUDIO);
        wallets.extend(of_audio.map(|part| hex::encode_prefixed(&part.callData[16..36])));
    }
    wallets.sort_unstable();
    wallets
}

/// The number of wallets in each `eth_call`, in order, and whether the call passed.
pub(crate) fn chunk_sizes(stub: &Stub) -> Vec<(usize, bool)> {
    let size =
        |call: RecordedRequest| (call.wallets(PARTS).unwrap_or(0), call.answered == "passed");
    stub.eth_calls().into_iter().map(size).collect()
}
