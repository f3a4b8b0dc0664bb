//! Parts of a total that fail in every way a contract can, each for the wallets that say so.
//!
//! Every chain has the four [`FREAKS`]. The first byte of a wallet says what the first of them does when it is asked about that
//! wallet, the second byte what the second does, and so on; [`wallet`] makes such wallets, [`profile`] a profile of them.

use std::fmt::Write;

use alloy::primitives::{Address, address, keccak256};

/// Where they live. Any function of theirs takes a wallet; there is no state.
pub const FREAKS: [Address; 4] = [
    address!("00000000000000000000000000000000000F4EA0"),
    address!("00000000000000000000000000000000000F4EA1"),
    address!("00000000000000000000000000000000000F4EA2"),
    address!("00000000000000000000000000000000000F4EA3"),
];

/// What a part does when it is asked about a wallet. The numbers are those of `contracts/Freak.sol`.
///
/// Unless said otherwise the value is one of 96 bits, made of the contract's address and all of the call data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Freak {
    /// Returns the value.
    Honest = 0,
    /// Returns 0.
    Zero = 0x80,
    /// Reverts with nothing.
    Revert = 0x81,
    /// Reverts with the value, in 32 bytes as if it were returned.
    RevertWord = 0x82,
    /// The opcode INVALID: all gas is gone at once.
    Invalid = 0x83,
    /// Goes round until all gas is gone, which takes a node as long as gas allows.
    Loop = 0x84,
    /// Returns nothing.
    Return0 = 0x85,
    /// Returns the first 31 bytes of the value.
    Return31 = 0x86,
    /// Returns the value and a byte more.
    Return33 = 0x87,
    /// Returns the value and a word more.
    Return64 = 0x88,
    /// Returns 2^256 - 1.
    Max = 0x89,
    /// Returns 2^255, two of which are 2^256, which looks like 0.
    Half = 0x8a,
    /// Returns 2^255 - 1: with one of [`Freak::Half`], 2^256 - 1.
    HalfLess1 = 0x8b,
    /// Returns the value and 100 kB in all.
    ReturnBomb = 0x8c,
    /// Reverts with 100 kB.
    RevertBomb = 0x8d,
    /// Returns the value after calling itself 30 deep.
    Deep = 0x8e,
    /// Returns the value, or 1 where it is left with less than 30,000 gas.
    LiesBelow30k = 0x8f,
    /// Returns the value for some 60,000 gas.
    Hungry = 0x90,
    /// Writes to its storage and returns the value: fails in a static call.
    Writes = 0x91,
    /// Returns the value, or 1 where it is left with less than 2,000,000 gas.
    LiesBelow2M = 0x92,
}

impl Freak {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Honest,
        Self::Zero,
        Self::Revert,
        Self::RevertWord,
        Self::Invalid,
        Self::Loop,
        Self::Return0,
        Self::Return31,
        Self::Return33,
        Self::Return64,
        Self::Max,
        Self::Half,
        Self::HalfLess1,
        Self::ReturnBomb,
        Self::RevertBomb,
        Self::Deep,
        Self::LiesBelow30k,
        Self::Hungry,
        Self::Writes,
        Self::LiesBelow2M,
    ];

    /// Whether it gives 32 bytes to somebody who has gas enough.
    pub fn gives_a_word(self) -> bool {
        use Freak::{
            Invalid, Loop, Return0, Return31, Return33, Return64, ReturnBomb, Revert, RevertBomb,
            RevertWord,
        };
        !matches!(
            self,
            Revert
                | RevertWord
                | Invalid
                | Loop
                | Return0
                | Return31
                | Return33
                | Return64
                | ReturnBomb
                | RevertBomb
        )
    }
}

/// A wallet with which each of the [`FREAKS`] does this; other numbers make other wallets.
pub fn wallet(does: [Freak; 4], n: u64) -> Address {
    let mut address = Address::from_word(keccak256(n.to_be_bytes()));
    for (byte, freak) in address.iter_mut().zip(does) {
        *byte = freak as u8;
    }
    address
}

/// The name of a part's function. No two have the same selector.
pub const FUNCTIONS: [&str; 4] = ["first", "second", "third", "fourth"];

/// A profile whose total is the sum of the first so many of the [`FREAKS`].
pub fn profile(parts: usize) -> String {
    let mut text = "name = \"freaks\"\nchain_id = 1\nsymbol = \"FREAK\"\ndecimals = 0\n\
         checkpoint = \"freak_transfers\"\n"
        .to_owned();
    for (contract, function) in FREAKS.iter().zip(FUNCTIONS).take(parts) {
        let read = format!("contract = \"{contract}\"\nfunction = \"{function}(address)\"\n");
        write!(text, "\n[[read]]\n{read}").expect("a String takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use alloy::{
        eips::BlockId,
        primitives::{Bytes, U256},
        providers::Provider,
        rpc::types::TransactionRequest,
        transports::TransportError,
    };

    use super::*;
    use crate::Chain;

    /// What the `part`-th of them answers about a wallet, with so much gas.
    async fn answer(
        chain: &Chain,
        part: usize,
        wallet: Address,
        gas: u64,
    ) -> Result<Bytes, TransportError> {
        let selector = &keccak256(format!("{}(address)", FUNCTIONS[part]))[..4];
        let data = [selector, wallet.into_word().as_slice()].concat();
        let request = TransactionRequest { gas: Some(gas), ..TransactionRequest::default() }
            .to(FREAKS[part])
            .input(Bytes::from(data).into());
        chain.provider().call(request).block(BlockId::latest()).await
    }

    #[tokio::test]
    async fn each_does_what_its_byte_of_the_wallet_says() {
        let chain = Chain::builder().start().await.unwrap();
        let answer = async |part, does, gas| {
            let mut all = [Freak::Revert; 4];
            all[part] = does;
            answer(&chain, part, wallet(all, 7), gas).await
        };
        for part in 0..4 {
            for freak in Freak::ALL {
                let answer = answer(part, freak, 5_000_000).await;
                let word = answer
                    .as_ref()
                    .ok()
                    .filter(|data| data.len() == 32)
                    .map(|data| U256::from_be_slice(data));
                assert_eq!(word.is_some(), freak.gives_a_word(), "{freak:?}: {answer:?}");
                match freak {
                    Freak::Zero => assert_eq!(word, Some(U256::ZERO)),
                    Freak::Max => assert_eq!(word, Some(U256::MAX)),
                    Freak::Half => assert_eq!(word, Some(U256::ONE << 255)),
                    Freak::HalfLess1 => assert_eq!(word, Some((U256::ONE << 255) - U256::ONE)),
                    Freak::Revert | Freak::Invalid | Freak::Loop | Freak::RevertBomb => {
                        answer.unwrap_err();
                    }
                    Freak::RevertWord => {
                        let error = answer.unwrap_err();
                        let data = error.as_error_resp().unwrap().as_revert_data().unwrap();
                        assert_eq!(data.len(), 32);
                    }
                    Freak::Return0 => assert_eq!(answer.unwrap().len(), 0),
                    Freak::Return31 => assert_eq!(answer.unwrap().len(), 31),
                    Freak::Return33 => assert_eq!(answer.unwrap().len(), 33),
                    Freak::Return64 => assert_eq!(answer.unwrap().len(), 64),
                    Freak::ReturnBomb => assert_eq!(answer.unwrap().len(), 100_000),
                    _ => {
                        let word = word.unwrap();
                        assert!(word > U256::ONE << 64 && word < U256::ONE << 96, "{freak:?}");
                    }
                }
            }
        }
        // Some of it depends on gas.
        for (freak, gas) in [(Freak::LiesBelow30k, 50_000), (Freak::LiesBelow2M, 2_000_000)] {
            let lie = U256::from_be_slice(&answer(2, freak, gas).await.unwrap());
            assert_eq!(lie, U256::ONE, "{freak:?}");
        }
        answer(2, Freak::Hungry, 60_000).await.unwrap_err();
        answer(2, Freak::Hungry, 100_000).await.unwrap();
    }

    #[tokio::test]
    async fn values_depend_on_part_wallet_and_selector() {
        let chain = Chain::builder().start().await.unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for part in 0..4 {
            for n in 0..5 {
                let wallet = wallet([Freak::Honest; 4], n);
                seen.insert(answer(&chain, part, wallet, 100_000).await.unwrap());
            }
        }
        assert_eq!(seen.len(), 20);
        assert_eq!(profile(3).matches("[[read]]").count(), 3);
    }
}
