//! Contracts that fail in every way a contract can; the wallet's address says how.
//!
//! Every chain has the four [`ADVERSARIAL_CONTRACTS`]. The first byte of a wallet's address selects the [`Behaviour`] of the first
//! contract for that wallet, the second byte that of the second, and so on. [`wallet`] makes such wallets, [`profile`] a profile
//! that sums the contracts.

use std::fmt::Write;

use alloy::primitives::{Address, address, keccak256};

/// Their addresses. Any function of theirs takes a wallet; they have no state.
pub const ADVERSARIAL_CONTRACTS: [Address; 4] = [
    address!("000000000000000000000000000000000000BAD0"),
    address!("000000000000000000000000000000000000BAD1"),
    address!("000000000000000000000000000000000000BAD2"),
    address!("000000000000000000000000000000000000BAD3"),
];

/// What a contract does when it is called for a wallet. The numbers are those of `contracts/Adversarial.sol`.
///
/// Unless stated otherwise, the value is a 96-bit hash of the contract's address and the call data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Behaviour {
    /// Returns the value.
    Honest = 0,
    /// Returns 0.
    Zero = 0x80,
    /// Reverts without data.
    Revert = 0x81,
    /// Reverts with the value, in 32 bytes as if it were returned.
    RevertWord = 0x82,
    /// Executes INVALID, which consumes all gas at once.
    Invalid = 0x83,
    /// Loops until all gas is consumed, which costs the node as much time as gas allows.
    Loop = 0x84,
    /// Returns nothing.
    Return0 = 0x85,
    /// Returns the first 31 bytes of the value.
    Return31 = 0x86,
    /// Returns the value and one more byte.
    Return33 = 0x87,
    /// Returns the value and one more word.
    Return64 = 0x88,
    /// Returns 2^256 - 1.
    Max = 0x89,
    /// Returns 2^255; two of these add up to 2^256, which overflows to 0.
    Half = 0x8a,
    /// Returns 2^255 - 1; together with [`Behaviour::Half`] that is 2^256 - 1.
    HalfLess1 = 0x8b,
    /// Returns 100 kB that start with the value.
    ReturnBomb = 0x8c,
    /// Reverts with 100 kB.
    RevertBomb = 0x8d,
    /// Returns the value after calling itself 30 deep.
    Deep = 0x8e,
    /// Returns the value, or 1 if it has less than 30,000 gas.
    LiesBelow30k = 0x8f,
    /// Returns the value and uses about 60,000 gas.
    Hungry = 0x90,
    /// Writes to storage and returns the value: fails in a static call.
    Writes = 0x91,
    /// Returns the value, or 1 if it has less than 2,000,000 gas.
    LiesBelow2M = 0x92,
}

impl Behaviour {
    /// All behaviours.
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

    /// Whether it returns 32 bytes if it has enough gas.
    pub fn returns_a_word(self) -> bool {
        use Behaviour::{
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

/// The `n`-th wallet for which the four [`ADVERSARIAL_CONTRACTS`] behave like this.
pub fn wallet(behaviours: [Behaviour; 4], n: u64) -> Address {
    let mut address = Address::from_word(keccak256(n.to_be_bytes()));
    for (byte, behaviour) in address.iter_mut().zip(behaviours) {
        *byte = behaviour as u8;
    }
    address
}

/// The names of the contracts' functions; each has a different selector.
pub const FUNCTIONS: [&str; 4] = ["first", "second", "third", "fourth"];

/// A profile whose total is the sum of the first `parts` of the [`ADVERSARIAL_CONTRACTS`].
pub fn profile(parts: usize) -> String {
    let mut text = "name = \"adversarial\"\nchain_id = 1\nsymbol = \"ADV\"\ndecimals = 0\n\
         checkpoint = \"adversarial_transfers\"\n"
        .to_owned();
    for (contract, function) in ADVERSARIAL_CONTRACTS.iter().zip(FUNCTIONS).take(parts) {
        let read = format!("contract = \"{contract}\"\nfunction = \"{function}(address)\"\n");
        write!(text, "\n[[read]]\n{read}").expect("writing to a String never fails");
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

    /// What the `part`-th contract returns for a wallet, with this much gas.
    async fn answer(
        chain: &Chain,
        part: usize,
        wallet: Address,
        gas: u64,
    ) -> Result<Bytes, TransportError> {
        let selector = &keccak256(format!("{}(address)", FUNCTIONS[part]))[..4];
        let data = [selector, wallet.into_word().as_slice()].concat();
        let request = TransactionRequest { gas: Some(gas), ..TransactionRequest::default() }
            .to(ADVERSARIAL_CONTRACTS[part])
            .input(Bytes::from(data).into());
        chain.provider().call(request).block(BlockId::latest()).await
    }

    #[tokio::test]
    async fn each_contract_behaves_as_its_byte_of_the_wallet_says() {
        let chain = Chain::builder().start().await.unwrap();
        let answer = async |part, does, gas| {
            let mut all = [Behaviour::Revert; 4];
            all[part] = does;
            answer(&chain, part, wallet(all, 7), gas).await
        };
        for part in 0..4 {
            for behaviour in Behaviour::ALL {
                let answer = answer(part, behaviour, 5_000_000).await;
                let word = answer
                    .as_ref()
                    .ok()
                    .filter(|data| data.len() == 32)
                    .map(|data| U256::from_be_slice(data));
                assert_eq!(word.is_some(), behaviour.returns_a_word(), "{behaviour:?}: {answer:?}");
                match behaviour {
                    Behaviour::Zero => assert_eq!(word, Some(U256::ZERO)),
                    Behaviour::Max => assert_eq!(word, Some(U256::MAX)),
                    Behaviour::Half => assert_eq!(word, Some(U256::ONE << 255)),
                    Behaviour::HalfLess1 => assert_eq!(word, Some((U256::ONE << 255) - U256::ONE)),
                    Behaviour::Revert
                    | Behaviour::Invalid
                    | Behaviour::Loop
                    | Behaviour::RevertBomb => {
                        answer.unwrap_err();
                    }
                    Behaviour::RevertWord => {
                        let error = answer.unwrap_err();
                        let data = error.as_error_resp().unwrap().as_revert_data().unwrap();
                        assert_eq!(data.len(), 32);
                    }
                    Behaviour::Return0 => assert_eq!(answer.unwrap().len(), 0),
                    Behaviour::Return31 => assert_eq!(answer.unwrap().len(), 31),
                    Behaviour::Return33 => assert_eq!(answer.unwrap().len(), 33),
                    Behaviour::Return64 => assert_eq!(answer.unwrap().len(), 64),
                    Behaviour::ReturnBomb => assert_eq!(answer.unwrap().len(), 100_000),
                    _ => {
                        let word = word.unwrap();
                        assert!(word > U256::ONE << 64 && word < U256::ONE << 96, "{behaviour:?}");
                    }
                }
            }
        }
        // Some behaviours depend on gas.
        for (behaviour, gas) in
            [(Behaviour::LiesBelow30k, 50_000), (Behaviour::LiesBelow2M, 2_000_000)]
        {
            let lie = U256::from_be_slice(&answer(2, behaviour, gas).await.unwrap());
            assert_eq!(lie, U256::ONE, "{behaviour:?}");
        }
        answer(2, Behaviour::Hungry, 60_000).await.unwrap_err();
        answer(2, Behaviour::Hungry, 100_000).await.unwrap();
    }

    #[tokio::test]
    async fn values_depend_on_contract_wallet_and_selector() {
        let chain = Chain::builder().start().await.unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for part in 0..4 {
            for n in 0..5 {
                let wallet = wallet([Behaviour::Honest; 4], n);
                seen.insert(answer(&chain, part, wallet, 100_000).await.unwrap());
            }
        }
        assert_eq!(seen.len(), 20);
        assert_eq!(profile(3).matches("[[read]]").count(), 3);
    }
}
