//! The simulated contracts: what changes totals, and how calls end, gas included.

use std::collections::HashMap;

use alloy::{
    primitives::{Address, B256, U256, address, keccak256},
    providers::bindings::IMulticall3::{Call3, Result as CallResult, aggregate3Call},
    sol_types::{SolCall, SolValue},
};
use rand::{RngExt, rngs::StdRng};

use crate::chain::{Block, Log};

pub(crate) const MULTICALL3: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");

/// Gas of a view, of what aggregate3 does around a sub-call, and of a part in the packed program.
const VIEW: u64 = 5_000;
const AROUND: u64 = 3_000;
const PACKED: u64 = 5_400;
/// As packed.yul has them.
const STIPEND: u64 = 200_000;
const NEEDED: u64 = 225_000;

/// What is wrong with a wallet, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sickness {
    /// Its last part reverts.
    Reverts,
    /// Its first part returns 31 bytes.
    Short,
    /// Its first part takes all gas.
    Burns,
    /// Its parts do not fit a uint256, or the only one reverts.
    Overflows,
    /// A node fails with every call that asks for it.
    Breaks,
}

/// How a call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Returns(Vec<u8>),
    Reverts,
    OutOfGas,
}

/// The contracts of a profile and the wallets that they know.
pub(crate) struct Contracts {
    pub(crate) wallets: Vec<Address>,
    pub(crate) sick: HashMap<usize, Sickness>,
    index: HashMap<Address, usize>,
    pub(crate) reads: Vec<(Address, [u8; 4])>,
    /// Whose members a claim changes, and who they are.
    pub(crate) members: Option<Vec<(usize, Vec<usize>)>>,
    pub(crate) chain_id: u64,
    /// How far NUMBER is from the block's number, as on a chain that gives another one's.
    pub(crate) number_off: u64,
}

fn selector(signature: &str) -> [u8; 4] {
    keccak256(signature)[..4].try_into().expect("four bytes")
}

fn topic(signature: &str) -> B256 {
    keccak256(signature)
}

const TRANSFER: &str = "Transfer(address,address,uint256)";
const STAKED: &str = "Staked(address,uint256)";
const CLAIM: &str = "Claim(address,uint256)";
const APPROVAL: &str = "Approval(address,address,uint256)";
const VIEWS: [&str; 3] = ["balanceOf", "stakedFor", "delegated"];

impl Contracts {
    /// Contracts of `reads` views for these wallets.
    pub(crate) fn new(
        chain_id: u64,
        reads: usize,
        wallets: Vec<Address>,
        sick: HashMap<usize, Sickness>,
        members: Option<Vec<(usize, Vec<usize>)>>,
    ) -> Self {
        let index = wallets.iter().enumerate().map(|(index, wallet)| (*wallet, index)).collect();
        let view = |part: usize| (contract(part), selector(&format!("{}(address)", VIEWS[part])));
        let reads = (0..reads).map(view).collect();
        Self { wallets, sick, index, reads, members, chain_id, number_off: 0 }
    }

    /// The profile, as TOML.
    pub(crate) fn profile(&self) -> String {
        let mut text = format!(
            "name = \"field\"\nchain_id = {}\nsymbol = \"TOK\"\ndecimals = 18\ncheckpoint = \"field\"\n",
            self.chain_id
        );
        for (part, (contract, _)) in self.reads.iter().enumerate() {
            let view = VIEWS[part];
            text +=
                &format!("[[read]]\ncontract = \"{contract}\"\nfunction = \"{view}(address)\"\n");
        }
        text += &format!(
            "[[event]]\ncontract = \"{}\"\n\
             event = \"Transfer(address indexed from, address indexed to, uint256 value)\"\n\
             wallets = [\"from\", \"to\"]\n",
            contract(0)
        );
        if self.reads.len() > 1 {
            text += &format!(
                "[[event]]\ncontract = \"{}\"\nevent = \"Staked(address indexed user, uint256 amount)\"\n\
                 wallets = [\"user\"]\n",
                contract(1)
            );
        }
        if self.members.is_some() {
            let contract = contract(2);
            text += &format!(
                "[[event]]\ncontract = \"{contract}\"\nevent = \"Claim(address indexed claimer, uint256 amount)\"\n\
                 wallets = [\"claimer\"]\n\
                 members = {{ contract = \"{contract}\", function = \"members(address)\", of = \"claimer\" }}\n"
            );
        }
        text
    }

    /// Whether there is code at this address.
    pub(crate) fn has_code(&self, address: Address) -> bool {
        address == MULTICALL3 || (0..3).any(|part| contract(part) == address)
    }

    /// Changes some wallets; the log tells.
    pub(crate) fn change(&self, random: &mut StdRng, parts: &mut [u64]) -> Log {
        let count = self.reads.len();
        let some = |random: &mut StdRng| random.random_range(0..self.wallets.len());
        match (random.random_range(0..10), &self.members) {
            (0, Some(members)) if !members.is_empty() => {
                let (owner, members) = &members[random.random_range(0..members.len())];
                members.iter().for_each(|member| parts[member * count] += 7);
                parts[owner * count] += 11;
                let mut wallets = members.clone();
                wallets.push(*owner);
                Log { address: contract(2), topics: vec![topic(CLAIM), self.word(*owner)], wallets }
            }
            (1..4, _) if count > 1 => {
                let user = some(random);
                parts[user * count + 1] = random.random_range(0..1_000_000);
                let topics = vec![topic(STAKED), self.word(user)];
                Log { address: contract(1), topics, wallets: vec![user] }
            }
            _ => {
                let (from, to) = (some(random), some(random));
                let amount = random.random_range(0..=parts[from * count]);
                parts[from * count] -= amount;
                parts[to * count] += amount;
                // Minted, or to somebody that nobody tracks.
                let outside = random.random_range(0..10);
                let (mut first, second) = (self.word(from), self.word(to));
                let mut wallets = vec![from, to];
                if outside == 0 {
                    parts[from * count] += amount;
                    first = B256::ZERO;
                    wallets = vec![to];
                }
                let topics = vec![topic(TRANSFER), first, second];
                Log { address: contract(0), topics, wallets }
            }
        }
    }

    /// A log that is none of ours, though its bloom may look like it.
    pub(crate) fn noise(&self, random: &mut StdRng) -> Log {
        let words = || [self.word(0), self.word(self.wallets.len() - 1)];
        let (address, name) = match random.random_range(0..3) {
            0 => (contract(0), APPROVAL),
            1 => (Address::repeat_byte(0xee), TRANSFER),
            _ => (Address::repeat_byte(0xee), APPROVAL),
        };
        let mut topics = vec![topic(name)];
        topics.extend(words());
        Log { address, topics, wallets: Vec::new() }
    }

    fn word(&self, wallet: usize) -> B256 {
        self.wallets[wallet].into_word()
    }

    /// The wallet with this address.
    pub(crate) fn wallet(&self, address: &Address) -> Option<usize> {
        self.index.get(address).copied()
    }

    /// Whether a call of a sick wallet fails as a whole.
    pub(crate) fn breaks(&self, data: &[u8]) -> bool {
        let breaks = |(wallet, sickness): (&usize, &Sickness)| {
            *sickness == Sickness::Breaks
                && data.windows(20).any(|window| window == self.wallets[*wallet].as_slice())
        };
        self.sick.iter().any(breaks)
    }

    /// A view's outcome, and the gas that it takes of `gas`.
    fn view(&self, block: &Block, to: Address, data: &[u8], gas: u64) -> (Outcome, u64) {
        if gas < VIEW {
            return (Outcome::OutOfGas, gas);
        }
        let returns = |bytes: Vec<u8>| (Outcome::Returns(bytes), VIEW);
        let (Some(selector), Some(argument)) = (data.get(..4), data.get(4..36)) else {
            return (Outcome::Reverts, VIEW);
        };
        let wallet = self.wallet(&Address::from_slice(&argument[12..]));
        let part = self.reads.iter().position(|read| read.0 == to && read.1 == selector);
        if to == contract(2) && selector == self::selector("members(address)") {
            let of = |owner: usize| {
                let all = self.members.iter().flatten();
                all.filter(move |(other, _)| *other == owner)
                    .flat_map(|(_, members)| members.clone())
            };
            let members: Vec<Address> =
                wallet.into_iter().flat_map(of).map(|member| self.wallets[member]).collect();
            return returns(members.abi_encode());
        }
        let Some(part) = part else { return (Outcome::Reverts, VIEW) };
        // A wallet that nobody knows holds nothing.
        let Some(wallet) = wallet else { return returns(vec![0; 32]) };
        let count = self.reads.len();
        let value = U256::from(block.parts[wallet * count + part]).to_be_bytes_vec();
        let is_last = part + 1 == count;
        match self.sick.get(&wallet) {
            Some(Sickness::Reverts) if is_last => (Outcome::Reverts, VIEW),
            Some(Sickness::Short) if part == 0 => returns(vec![0; 31]),
            Some(Sickness::Burns) if part == 0 => (Outcome::OutOfGas, gas),
            Some(Sickness::Overflows) if count == 1 => (Outcome::Reverts, VIEW),
            Some(Sickness::Overflows) if part < 2 => returns(vec![0xff; 32]),
            _ => returns(value),
        }
    }

    /// A call with this gas.
    pub(crate) fn call(&self, block: &Block, to: Address, data: &[u8], gas: u64) -> Outcome {
        if to == MULTICALL3 {
            self.multicall3(block, data, gas).0
        } else {
            self.view(block, to, data, gas).0
        }
    }

    fn multicall3(&self, block: &Block, data: &[u8], gas: u64) -> (Outcome, u64) {
        let word = |value: u64| (Outcome::Returns(U256::from(value).to_be_bytes_vec()), 200);
        match data.get(..4) {
            Some(name) if name == selector("getBlockNumber()") => {
                word(block.number + self.number_off)
            }
            Some(name) if name == selector("getChainId()") => word(block.chain),
            Some(name) if name == selector("getCurrentBlockTimestamp()") => word(block.timestamp),
            Some(name) if name == aggregate3Call::SELECTOR => self.aggregate3(block, data, gas),
            _ => (Outcome::Reverts, 200),
        }
    }

    fn aggregate3(&self, block: &Block, data: &[u8], mut gas: u64) -> (Outcome, u64) {
        let all = gas;
        let Ok(aggregate3Call { calls }) = aggregate3Call::abi_decode(data) else {
            return (Outcome::Reverts, 200);
        };
        let mut results = Vec::with_capacity(calls.len());
        for Call3 { target, allowFailure, callData } in &calls {
            let Some(left) = gas.checked_sub(AROUND) else { return (Outcome::OutOfGas, all) };
            let given = left - left / 64;
            let (outcome, used) = match *target == MULTICALL3 {
                true => self.multicall3(block, callData, given),
                false => self.view(block, *target, callData, given),
            };
            gas = left - used.min(given);
            let (success, bytes) = match outcome {
                Outcome::Returns(bytes) => (true, bytes),
                Outcome::Reverts | Outcome::OutOfGas => (false, Vec::new()),
            };
            if !success && !allowFailure {
                return (Outcome::Reverts, all - gas);
            }
            results.push(CallResult { success, returnData: bytes.into() });
        }
        (Outcome::Returns(aggregate3Call::abi_encode_returns(&results)), all - gas)
    }

    /// The packed program with this gas.
    pub(crate) fn packed(&self, block: &Block, data: &[u8], mut gas: u64) -> Outcome {
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
        let count = data.get(..8).map_or(0, number) as usize;
        let wallets = 8 + 24 * count;
        if count == 0 || data.len() < wallets || !(data.len() - wallets).is_multiple_of(20) {
            return Outcome::Reverts;
        }
        let mut returned = Vec::new();
        let push = |out: &mut Vec<u8>, value: U256| out.extend(value.to_be_bytes::<32>());
        push(&mut returned, U256::from(block.number + self.number_off));
        push(&mut returned, U256::from(block.chain));
        for wallet in data[wallets..].chunks_exact(20) {
            let mut sum = Some(U256::ZERO);
            for part in data[8..wallets].chunks_exact(24).rev() {
                if gas < NEEDED {
                    return Outcome::Reverts;
                }
                let mut call_data = part[20..].to_vec();
                call_data.extend([0; 12]);
                call_data.extend(wallet);
                let (outcome, used) =
                    self.view(block, Address::from_slice(&part[..20]), &call_data, STIPEND);
                gas -= used.clamp(PACKED, STIPEND);
                sum = match outcome {
                    Outcome::Returns(bytes) if bytes.len() == 32 => {
                        sum.and_then(|sum| sum.checked_add(U256::from_be_slice(&bytes)))
                    }
                    _ => None,
                };
                if sum.is_none() {
                    break;
                }
            }
            push(&mut returned, sum.unwrap_or(U256::MAX));
        }
        Outcome::Returns(returned)
    }
}

/// The contract of a part; the third also lists members.
fn contract(part: usize) -> Address {
    Address::repeat_byte(0xc0 + part as u8)
}
