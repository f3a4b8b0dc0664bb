//! The contracts on the test chain: addresses, bindings, code, and storage layout.
//!
//! The code comes from `contracts/artifacts`, which `contracts/compile.mjs` compiles from the Solidity sources next to it;
//! only Multicall3 is the original. Nothing here talks to a chain.

use alloy::primitives::{Address, B256, Bytes, U256, address, b256, keccak256};
use alloy::providers::bindings::IMulticall3;
use anyhow::{Context, Result};

/// The AUDIO token, a proxy at its mainnet address.
pub const AUDIO: Address = address!("18aAA7115705e8be94bfFEBDE57Af9BFc265B998");
/// Audius' Staking contract, a proxy at its mainnet address.
pub const STAKING: Address = address!("e6D97B2099F142513be7A2a068bE040656Ae4591");
/// Audius' DelegateManager contract, a proxy at its mainnet address.
pub const DELEGATE_MANAGER: Address = address!("4d7968ebfD390D5E7926Cb3587C39eFf2F9FB225");
/// Multicall3, at the address it has on every chain.
pub const MULTICALL3: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");

/// The implementation behind the proxy at [`AUDIO`].
pub const AUDIO_IMPLEMENTATION: Address = address!("00000000000000000000000000000000000A0D10");
/// The implementation behind the proxy at [`STAKING`].
pub const STAKING_IMPLEMENTATION: Address = address!("0000000000000000000000000000000000057a4e");
/// The implementation behind the proxy at [`DELEGATE_MANAGER`].
pub const DELEGATE_MANAGER_IMPLEMENTATION: Address =
    address!("00000000000000000000000000000000000De1E6");

/// The storage slot of a proxy's implementation address (ERC-1967).
pub const IMPLEMENTATION_SLOT: B256 =
    b256!("360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc");

/// Bindings of the token: `contracts/Token.sol` and, for `setFault`, `contracts/FaultyToken.sol`.
pub mod audio {
    #![allow(missing_docs)] // generated
    alloy::sol! {
        event Transfer(address indexed from, address indexed to, uint256 value);
        function balanceOf(address account) external view returns (uint256);
        function transfer(address to, uint256 amount) external returns (bool);
        function mint(address to, uint256 amount) external;
        function burn(address from, uint256 amount) external;
        function setFault(address account, uint8 fault) external;
    }
}

/// Bindings of `contracts/Staking.sol`.
pub mod staking {
    #![allow(missing_docs)] // generated
    alloy::sol! {
        event Staked(address indexed user, uint256 amount, uint256 total);
        event Unstaked(address indexed user, uint256 amount, uint256 total);
        event Slashed(address indexed user, uint256 amount, uint256 total);
        function totalStakedFor(address account) external view returns (uint256);
        function stakeFor(address account, uint256 amount) external;
        function unstakeFor(address account, uint256 amount) external;
        function stakeRewards(address account, uint256 amount) external;
        function slash(address account, uint256 amount) external;
    }
}

/// Bindings of `contracts/DelegateManager.sol`.
pub mod delegate_manager {
    #![allow(missing_docs)] // generated
    alloy::sol! {
        event IncreaseDelegatedStake(
            address indexed delegator, address indexed serviceProvider, uint256 indexed amount
        );
        event UndelegateStakeRequestEvaluated(
            address indexed delegator, address indexed serviceProvider, uint256 indexed amount
        );
        event RemoveDelegatorRequestEvaluated(
            address indexed serviceProvider, address indexed delegator, uint256 indexed amount
        );
        event Claim(address indexed claimer, uint256 indexed rewards, uint256 indexed newTotal);
        event Slash(address indexed target, uint256 indexed amount, uint256 indexed newTotal);
        function getTotalDelegatorStake(address delegator) external view returns (uint256);
        function getDelegatorsList(address provider) external view returns (address[] memory);
        function delegateStake(address delegator, address provider, uint256 amount) external;
        function undelegateStake(address delegator, address provider, uint256 amount) external;
        function removeDelegator(address provider, address delegator) external;
        function claimRewards(address claimer, uint256 rewards) external;
        function slash(address target, uint256 amount) external;
    }
}

/// A compiled contract.
#[derive(Debug)]
pub struct Artifact {
    json: serde_json::Value,
}

impl Artifact {
    /// The proxy at each of the three mainnet addresses.
    pub fn proxy() -> Result<Self> {
        Self::parse(include_str!("../contracts/artifacts/Proxy.json"))
    }

    /// The token.
    pub fn token() -> Result<Self> {
        Self::parse(include_str!("../contracts/artifacts/Token.json"))
    }

    /// The token whose `balanceOf` can be made to fail. Its storage starts like that of [`Artifact::token`].
    pub fn faulty_token() -> Result<Self> {
        Self::parse(include_str!("../contracts/artifacts/FaultyToken.json"))
    }

    /// The Staking contract.
    pub fn staking() -> Result<Self> {
        Self::parse(include_str!("../contracts/artifacts/Staking.json"))
    }

    /// The DelegateManager contract.
    pub fn delegate_manager() -> Result<Self> {
        Self::parse(include_str!("../contracts/artifacts/DelegateManager.json"))
    }

    /// The token whose balances change without an event.
    pub fn rebasing() -> Result<Self> {
        Self::parse(include_str!("../contracts/artifacts/Rebasing.json"))
    }

    /// The contract whose answer depends on the wallet's bytes: see [`crate::adversarial`].
    pub fn adversarial() -> Result<Self> {
        Self::parse(include_str!("../contracts/artifacts/Adversarial.json"))
    }

    fn parse(json: &str) -> Result<Self> {
        Ok(Self { json: serde_json::from_str(json)? })
    }

    /// The runtime code.
    pub fn runtime_code(&self) -> Result<Bytes> {
        let code = self.json["deployedBytecode"]
            .as_str()
            .context("an artifact without deployedBytecode")?;
        Ok(code.parse()?)
    }

    /// The storage slot of a state variable.
    pub fn slot(&self, variable: &str) -> Result<U256> {
        let layout =
            self.json["storageLayout"].as_array().context("an artifact without storageLayout")?;
        let entry = layout
            .iter()
            .find(|entry| entry["label"] == variable)
            .with_context(|| format!("{} has no variable {variable}", self.json["contract"]))?;
        Ok(entry["slot"].as_str().context("a variable without slot")?.parse()?)
    }
}

/// Multicall3's runtime code, taken from the original creation code in alloy.
pub fn multicall3_code() -> Bytes {
    // The creation code returns a copy of this part: PUSH2 0x0ee0, DUP1, PUSH2 0x0020, …, CODECOPY, …, RETURN.
    const START: usize = 0x20;
    const LENGTH: usize = 0xee0;
    IMulticall3::BYTECODE.slice(START..START + LENGTH)
}

/// The slot of `mapping(address => …)[key]` for a mapping declared at `slot`.
pub fn mapping_slot(key: Address, slot: U256) -> U256 {
    let mut words = [0; 64];
    words[..32].copy_from_slice(key.into_word().as_slice());
    words[32..].copy_from_slice(&slot.to_be_bytes::<32>());
    keccak256(words).into()
}

/// The slot of the first element of a dynamic array whose length is at `slot`.
pub fn array_slot(slot: U256) -> U256 {
    keccak256(slot.to_be_bytes::<32>()).into()
}
