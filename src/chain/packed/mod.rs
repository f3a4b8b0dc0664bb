//! Totals by a program of our own, which a node is given for the time of one `eth_call`.
//!
//! The third parameter of `eth_call` puts code at an address. Ours takes 20 bytes a wallet and returns
//! 32, where `aggregate3` takes 224 and returns 160 for each part of each wallet; it also needs half
//! of the gas. In Yul, for the parts of a profile, this is what it does:
//!
//! ```yul
//! mstore(OUT, number())                                        // so that a lie about the block shows
//! let out := add(OUT, 32)
//! for { let in := 0 } lt(in, calldatasize()) { in := add(in, 20) } {
//!     let wallet := shr(96, calldataload(in))
//!     let sum := 0
//!     // for each part; its selector stands at IN already
//!         if lt(gas(), NEEDED) { revert(0, 0) }                // none is called with less than its stipend
//!         mstore(add(IN, 4), wallet)
//!         let ok := staticcall(STIPEND, contract, IN, 36, RESULT, 32)
//!         if iszero(and(ok, eq(returndatasize(), 32))) { sum := not(0) break }
//!         let more := add(sum, mload(RESULT))
//!         if lt(more, sum) { sum := not(0) break }
//!         sum := more
//!     mstore(out, sum)
//!     out := add(out, 32)
//! }
//! return(OUT, sub(out, OUT))
//! ```
//!
//! It changes nothing (`staticcall`), keeps nothing, and is as short-lived as the call. A wallet that it
//! marks by 2²⁵⁶−1 is one that it has no total for, or whose total is just that: it is read again through
//! Multicall3. The listing, instruction by instruction, is in `listing.txt` beside this file; a test
//! holds the program against it.

mod assembly;

use std::collections::HashMap;

use alloy::primitives::{Address, Bytes, U256, address};
use serde::Serialize;

use self::assembly::{Assembly, Op};
use super::multicall::Parts;
use crate::tally::Wallet;

/// Where the program stands for the time of a call: the last 20 bytes of the Keccak-256 hash of
/// "ethtally packed reader", so nobody has the key of it and nothing is there.
pub(super) const PROGRAM: Address = address!("62c46dC30300c0bfC98fD2380eea0C492aD3896A");

/// Gas for each part. Enough for any view that reads a few slots through a proxy, little enough that a
/// call survives many parts that burn all of it.
const STIPEND: u64 = 200_000;
/// What must be left before a part is called: of what is left a call gets 63/64 at most, and
/// `STATICCALL` to a contract that was not touched yet costs 2,600 beforehand.
const NEEDED: u64 = STIPEND * 64 / 63 + 2_600 + 400;

/// Bytes of call data that a wallet takes.
pub(super) const BYTES_ASKED: usize = 20;
/// Bytes that it gives back.
pub(super) const BYTES_RETURNED: usize = 32;

/// In place of a total that there is none of.
const MARK: U256 = U256::MAX;

/// The program for the parts of one profile.
#[derive(Debug)]
pub(super) struct Program {
    code: Bytes,
}

/// The third parameter of `eth_call`: what is put where.
pub(super) type Overrides = HashMap<Address, Override>;

/// Code that stands at an address for the time of a call.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Override {
    code: Bytes,
}

impl Program {
    /// The program that sums these parts.
    pub(super) fn of(parts: &Parts) -> Self {
        Self { code: assembly(parts).assemble() }
    }

    /// What the node is given with each call.
    pub(super) fn overrides(&self) -> Overrides {
        [(PROGRAM, Override { code: self.code.clone() })].into()
    }
}

/// Call data for these wallets: 20 bytes each, and nothing else.
pub(super) fn encode(wallets: &[Wallet]) -> Bytes {
    let mut data = Vec::with_capacity(BYTES_ASKED * wallets.len());
    wallets.iter().for_each(|wallet| data.extend_from_slice(wallet.address().as_slice()));
    data.into()
}

/// The total of each wallet in wei, `None` for one that is marked.
///
/// # Errors
/// When it is not what the program returns for so many wallets at this block.
pub(super) fn decode(
    wallets: &[Wallet],
    block: u64,
    returned: &[u8],
) -> Result<Vec<(Wallet, Option<U256>)>, String> {
    if returned.is_empty() {
        return Err("it returned nothing, as if there were no code".to_owned());
    }
    let expected = BYTES_RETURNED * (wallets.len() + 1);
    if returned.len() != expected {
        return Err(format!("it returned {} bytes, not {expected}", returned.len()));
    }
    let mut words = returned.chunks_exact(32).map(U256::from_be_slice);
    match words.next() {
        Some(number) if number == U256::from(block) => {}
        number => {
            let number = number.unwrap_or_default();
            return Err(format!("it ran at block {number}, not {block}"));
        }
    }
    Ok(wallets.iter().copied().zip(words.map(|word| (word != MARK).then_some(word))).collect())
}

/// Bytes of memory that the call data of one part takes, rounded up to whole words.
const ROOM: usize = 64;

/// The program as it is written.
///
/// Memory: for each part its call data (selector, wallet); one word for the result of a part; behind it
/// what is returned. The stack, between two instructions of the loop, from its bottom: `out`, where the
/// next total goes; `in`, where the next wallet comes from; then `wallet` and `sum`.
fn assembly(parts: &Parts) -> Assembly {
    let number = |number: usize| U256::from(number);
    let result = number(parts.views().len() * ROOM);
    let out = result + number(32);
    let mut code = Assembly::default();

    for (index, view) in parts.views().iter().enumerate() {
        let selector = U256::from_be_slice(view.function.selector().as_slice());
        code.push(selector, &view.function.signature());
        code.push(number(224), "to the front of the word");
        code.op(Op::Shl, "");
        code.push(number(index * ROOM), "");
        code.op(Op::MStore, "the selector, where it stays");
    }
    code.op(Op::Number, "");
    code.push(out, "");
    code.op(Op::MStore, "the first word of what is returned: the block's number");
    code.push(out + number(32), "out: behind that word");
    code.push(number(0), "in: the first wallet");

    code.label("next", "out in");
    code.op(Op::CallDataSize, "");
    code.op(Op::Dup2, "");
    code.op(Op::Lt, "in < size");
    code.op(Op::IsZero, "");
    code.push_label("done");
    code.op(Op::JumpI, "no more wallets");
    code.op(Op::Dup1, "");
    code.op(Op::CallDataLoad, "32 bytes, of which the wallet is the first 20");
    code.push(number(96), "");
    code.op(Op::Shr, "wallet");
    code.push(number(0), "sum");

    for (index, view) in parts.views().iter().enumerate() {
        let data = number(index * ROOM);
        code.push(U256::from(NEEDED), &view.function.name);
        code.op(Op::Gas, "");
        code.op(Op::Lt, "gas < needed");
        code.push_label("starved");
        code.op(Op::JumpI, "");
        code.op(Op::Dup2, "wallet");
        code.push(data + number(4), "");
        code.op(Op::MStore, "the argument, behind the selector");
        code.push(number(32), "room for the result");
        code.push(result, "where it goes");
        code.push(number(36), "bytes of call data");
        code.push(data, "where they are");
        code.push(U256::from_be_slice(view.contract.as_slice()), "the contract");
        code.push(U256::from(STIPEND), "the stipend");
        code.op(Op::StaticCall, "success");
        code.op(Op::ReturnDataSize, "");
        code.push(number(32), "");
        code.op(Op::Eq, "exactly 32 bytes");
        code.op(Op::And, "and success");
        code.op(Op::IsZero, "");
        code.push_label("mark");
        code.op(Op::JumpI, "out in wallet sum");
        code.op(Op::Dup1, "");
        code.push(result, "");
        code.op(Op::MLoad, "this part");
        code.op(Op::Add, "sum, more");
        code.op(Op::Swap1, "more, sum");
        code.op(Op::Dup2, "");
        code.op(Op::Lt, "more < sum: it did not fit");
        code.push_label("mark");
        code.op(Op::JumpI, "out in wallet more, which is the new sum");
    }

    code.label("store", "out in wallet sum");
    code.op(Op::Dup4, "out");
    code.op(Op::MStore, "");
    code.op(Op::Pop, "out in");
    code.push(number(20), "");
    code.op(Op::Add, "the next wallet");
    code.op(Op::Swap1, "");
    code.push(number(32), "");
    code.op(Op::Add, "the next total");
    code.op(Op::Swap1, "");
    code.push_label("next");
    code.op(Op::Jump, "");

    code.label("mark", "out in wallet sum");
    code.op(Op::Pop, "");
    code.push(number(0), "");
    code.op(Op::Not, "the mark in place of the sum");
    code.push_label("store");
    code.op(Op::Jump, "");

    code.label("done", "out in");
    code.op(Op::Pop, "");
    code.push(out, "");
    code.op(Op::Swap1, "");
    code.op(Op::Sub, "how many bytes are returned");
    code.push(out, "from where on");
    code.op(Op::Return, "");

    code.label("starved", "too many wallets for the gas");
    code.push(number(0), "");
    code.op(Op::Dup1, "");
    code.op(Op::Revert, "with no data");
    code
}

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;

    use super::*;
    use crate::profile::Profile;

    fn wallets(count: u8) -> Vec<Wallet> {
        (1..=count).map(|last| Wallet::from(Address::repeat_byte(last))).collect()
    }

    fn words(words: &[U256]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes::<32>()).collect()
    }

    #[test]
    fn it_stands_where_nothing_is() {
        assert_eq!(PROGRAM, Address::from_word(keccak256("ethtally packed reader")));
    }

    /// Every instruction of the built-in profile's program, for a reviewer to read.
    #[test]
    fn the_program_is_as_listed() {
        let listing = assembly(&Parts::of(&Profile::audius())).listing();
        assert_eq!(listing.trim(), include_str!("listing.txt").trim(), "\n{listing}");
    }

    #[test]
    fn it_is_a_few_hundred_bytes() {
        let code = Program::of(&Parts::of(&Profile::audius())).code;
        assert!((200..500).contains(&code.len()), "{}", code.len());
    }

    #[test]
    fn call_data_is_20_bytes_a_wallet_and_nothing_else() {
        let data = encode(&wallets(2));
        assert_eq!(data.as_ref(), [[1; 20], [2; 20]].concat());
    }

    #[test]
    fn totals_and_marks_are_told_apart() {
        let returned = words(&[U256::from(7), U256::from(5), U256::MAX, U256::ZERO]);
        let totals: Vec<_> = decode(&wallets(3), 7, &returned)
            .unwrap()
            .into_iter()
            .map(|(_, total)| total)
            .collect();
        assert_eq!(totals, [Some(U256::from(5)), None, Some(U256::ZERO)]);
    }

    #[test]
    fn what_the_program_does_not_return_is_refused() {
        let whole = words(&[U256::from(7), U256::from(5)]);
        let refused = |block, returned: &[u8]| decode(&wallets(1), block, returned).unwrap_err();
        assert_eq!(refused(7, &[]), "it returned nothing, as if there were no code");
        assert_eq!(refused(7, &whole[..32]), "it returned 32 bytes, not 64");
        assert_eq!(refused(7, &[&whole[..], &[0]].concat()), "it returned 65 bytes, not 64");
        assert_eq!(refused(8, &whole), "it ran at block 7, not 8");
    }
}
