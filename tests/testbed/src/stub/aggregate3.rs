//! Multicall3's `aggregate3`: counts the calls of a request, and corrupts results.

use alloy::{
    primitives::{Bytes, U256, hex},
    sol,
    sol_types::SolCall,
};
use serde_json::Value;

sol! {
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }

    struct Returned {
        bool success;
        bytes returnData;
    }

    function aggregate3(Call3[] calls) external payable returns (Returned[] returned);
}

/// What stands in front of the calls of an `aggregate3`: `getBlockNumber()` and `getChainId()`.
const IN_FRONT: [[u8; 4]; 2] = [[0x42, 0xcb, 0xb1, 0x5c], [0x34, 0x08, 0xe4, 0x70]];

/// Number of calls in this request, if it is an `eth_call` of `aggregate3`, without those that ask where it runs.
pub(super) fn calls(request: &Value) -> Option<usize> {
    let arguments = arguments(request)?;
    // Decodes only what is needed, as there may be megabytes: the first word is the array's offset, and the array starts with its
    // length.
    let begin = word(arguments, 0)?;
    let calls = word(arguments, begin)?;
    Some(if tells_where_it_runs(request) { calls - IN_FRONT.len() } else { calls })
}

/// Whether this is an `eth_call` of `aggregate3` that asks first where it runs.
pub(super) fn tells_where_it_runs(request: &Value) -> bool {
    let selector = |arguments: &str, index: usize| {
        let array = word(arguments, 0)? + 32;
        let call = array + word(arguments, array + 32 * index)?;
        let data = call + word(arguments, call + 64)? + 32;
        hex::decode(arguments.get(2 * data..2 * data + 8)?).ok()
    };
    let is_there = |arguments: &str| {
        let count = word(arguments, 0).and_then(|begin| word(arguments, begin));
        let mut expected = IN_FRONT.iter().enumerate();
        count >= Some(IN_FRONT.len())
            && expected.all(|(index, expected)| {
                selector(arguments, index).is_some_and(|found| found == expected)
            })
    };
    arguments(request).is_some_and(is_there)
}

/// The arguments of an `aggregate3`, as hexadecimal digits.
fn arguments(request: &Value) -> Option<&str> {
    if request["method"] != "eth_call" {
        return None;
    }
    let call = &request["params"][0];
    let data = call["input"].as_str().or_else(|| call["data"].as_str())?;
    let data = data.strip_prefix("0x")?;
    data.strip_prefix(&hex::encode(aggregate3Call::SELECTOR))
}

/// The number in the 32 bytes from byte `at`.
fn word(hex_digits: &str, at: usize) -> Option<usize> {
    let end = at.checked_add(32)?.checked_mul(2)?;
    let digits = hex_digits.get(at.checked_mul(2)?..end)?;
    usize::from_str_radix(digits, 16).ok()
}

/// The result without its last element.
pub(super) fn shortened(answer: &str) -> Option<String> {
    altered(answer, |returned| {
        returned.pop();
    })
}

/// The result with as many elements, each a success with 0 to 96 random bytes.
pub(super) fn with_garbage_returns(answer: &str) -> Option<String> {
    let mut noise = Noise::new(answer);
    altered(answer, |returned| {
        for one in returned {
            let length = usize::from(noise.byte()) % 97;
            one.success = true;
            one.returnData = noise.bytes(length);
        }
    })
}

/// The result of a node whose contracts return nothing.
pub(super) fn with_empty_returns(answer: &str) -> Option<String> {
    altered(answer, |returned| {
        for one in returned.iter_mut().skip(IN_FRONT.len()) {
            (one.success, one.returnData) = (true, Bytes::new());
        }
    })
}

/// As many random bytes as the result has, which cannot be decoded.
pub(super) fn garbage(answer: &str) -> String {
    let length = answer.len().saturating_sub(2) / 2;
    hex::encode_prefixed(Noise::new(answer).bytes(length))
}

/// The result with this block number.
pub(super) fn with_block_number(answer: &str, number: impl Fn(U256) -> U256) -> Option<String> {
    altered(answer, |returned| {
        if let Some(first) = returned.first_mut() {
            let other = number(U256::from_be_slice(&first.returnData));
            first.returnData = other.to_be_bytes_vec().into();
        }
    })
}

fn altered(answer: &str, alter: impl FnOnce(&mut Vec<Returned>)) -> Option<String> {
    let mut returned = aggregate3Call::abi_decode_returns(&hex::decode(answer).ok()?).ok()?;
    alter(&mut returned);
    Some(hex::encode_prefixed(aggregate3Call::abi_encode_returns(&returned)))
}

/// Random bytes, the same for the same result, so that a failure is reproducible.
struct Noise(u64);

impl Noise {
    fn new(seed: &str) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ seed.len() as u64)
    }

    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_be_bytes()[0]
    }

    fn bytes(&mut self, length: usize) -> Bytes {
        (0..length).map(|_| self.byte()).collect()
    }
}
