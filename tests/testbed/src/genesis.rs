//! What each wallet holds at genesis, and the `genesis.json` for Anvil.
//!
//! Everything is a function of the wallet's number: the same on every machine, and known without a chain.
//! The storage written here is exactly what the contracts would write.
//!
//! Wallets form groups of a thousand. The first ten of a group are service providers, and the delegators of a group
//! delegate to those ten, so that one block can process every provider's list of delegators.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, Bytes, U256, hex, keccak256};
use anyhow::Result;

use crate::adversarial::ADVERSARIAL_CONTRACTS;
use crate::contracts::{
    AUDIO, AUDIO_IMPLEMENTATION, Artifact, DELEGATE_MANAGER, DELEGATE_MANAGER_IMPLEMENTATION,
    IMPLEMENTATION_SLOT, MULTICALL3, STAKING, STAKING_IMPLEMENTATION, array_slot, mapping_slot,
    multicall3_code,
};

/// Wallets per group; genesis always holds whole groups.
pub const GROUP: u64 = 1_000;
/// Service providers per group: its first wallets.
pub const PROVIDERS: u64 = 10;

/// The address of wallet `n`. Any `n` is valid; only the wallets that the chain starts with hold something.
pub fn wallet(n: u64) -> Address {
    let mut seed = *b"ethtally wallet ________";
    seed[16..].copy_from_slice(&n.to_be_bytes());
    Address::from_word(keccak256(seed))
}

/// What a wallet holds, in wei.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// `AUDIO.balanceOf`.
    pub balance: U256,
    /// `Staking.totalStakedFor`: for a service provider its own stake and what is delegated to it.
    pub staked: U256,
    /// `DelegateManager.getTotalDelegatorStake`.
    pub delegated: U256,
}

impl Holding {
    /// The total that ethtally must find.
    pub fn total(&self) -> U256 {
        self.balance + self.staked + self.delegated
    }
}

/// What wallet `n` holds at genesis. [`holdings`] is faster for many wallets.
pub fn holding(n: u64) -> Holding {
    let mut holding = own_holding(n);
    for delegator in delegators_of(n) {
        holding.staked += own_holding(delegator).delegated;
    }
    holding
}

/// What the wallets 0, 1, 2, … `count - 1` hold at genesis.
pub fn holdings(count: u64) -> impl Iterator<Item = Holding> {
    (0..count.div_ceil(GROUP)).flat_map(group_holdings).take(count as usize)
}

/// The service provider that wallet `n` delegates to at genesis, by number.
pub fn provider_of(n: u64) -> Option<u64> {
    let mut random = Random::of(!n); // independent of the amounts
    let delegates = n % GROUP >= PROVIDERS && random.one_in(5);
    delegates.then(|| n - n % GROUP + random.next() % PROVIDERS)
}

/// The wallets that delegate to wallet `n` at genesis, by number, in the order of `getDelegatorsList`.
/// Empty if `n` is not a service provider.
pub fn delegators_of(n: u64) -> Vec<u64> {
    if n % GROUP >= PROVIDERS {
        return Vec::new();
    }
    let start = n - n % GROUP;
    (start + PROVIDERS..start + GROUP)
        .filter(|&delegator| provider_of(delegator) == Some(n))
        .collect()
}

/// The settings of a `genesis.json`.
#[derive(Clone, Copy, Debug)]
pub struct Genesis {
    /// How many wallets hold something; rounded up to whole groups.
    pub wallets: u64,
    /// Whether AUDIO is the token with faults.
    pub faulty: bool,
    /// The chain id.
    pub chain_id: u64,
    /// Gas limit of a block, which is also that of an `eth_call`.
    pub gas_limit: u64,
    /// How old the first block is.
    pub age: Duration,
}

impl Genesis {
    /// Writes the `genesis.json`, about 170 bytes per wallet, with one group of wallets in memory at a time.
    pub fn write(&self, out: &mut impl Write) -> Result<()> {
        let made = (SystemTime::now() - self.age).duration_since(UNIX_EPOCH)?.as_secs();
        write!(
            out,
            r#"{{"config":{{"chainId":{}}},"difficulty":"0x0","timestamp":"{made:#x}","gasLimit":"{:#x}","#,
            self.chain_id, self.gas_limit
        )?;
        write!(out, r#""baseFeePerGas":"0x0","alloc":{{"#)?;
        let token = if self.faulty { Artifact::faulty_token()? } else { Artifact::token()? };
        let staking = Artifact::staking()?;
        let delegate_manager = Artifact::delegate_manager()?;
        for (implementation, artifact) in [
            (AUDIO_IMPLEMENTATION, &token),
            (STAKING_IMPLEMENTATION, &staking),
            (DELEGATE_MANAGER_IMPLEMENTATION, &delegate_manager),
        ] {
            write!(
                out,
                r#""{implementation}":{{"balance":"0x0","code":"{}"}},"#,
                artifact.runtime_code()?
            )?;
        }
        let adversarial = Artifact::adversarial()?.runtime_code()?;
        for address in ADVERSARIAL_CONTRACTS {
            write!(out, r#""{address}":{{"balance":"0x0","code":"{adversarial}"}},"#)?;
        }
        write!(out, r#""{MULTICALL3}":{{"balance":"0x0","code":"{}"}},"#, multicall3_code())?;
        let proxy = Artifact::proxy()?.runtime_code()?;
        self.write_staking(
            &mut Account::open(out, STAKING, &proxy, STAKING_IMPLEMENTATION)?,
            &staking,
        )?;
        write!(out, "}}}},")?;
        self.write_delegate_manager(
            &mut Account::open(out, DELEGATE_MANAGER, &proxy, DELEGATE_MANAGER_IMPLEMENTATION)?,
            &delegate_manager,
        )?;
        write!(out, "}}}},")?;
        self.write_token(&mut Account::open(out, AUDIO, &proxy, AUDIO_IMPLEMENTATION)?, &token)?;
        write!(out, "}}}}}}}}")?;
        Ok(())
    }

    fn groups(&self) -> std::ops::Range<u64> {
        0..self.wallets.div_ceil(GROUP)
    }

    /// `mapping(address => Checkpoint[]) history`: one checkpoint, at block 0.
    fn write_staking(
        &self,
        account: &mut Account<'_, impl Write>,
        artifact: &Artifact,
    ) -> Result<()> {
        let history = artifact.slot("history")?;
        for group in self.groups() {
            for (n, holding) in (group * GROUP..).zip(group_holdings(group)) {
                if holding.staked.is_zero() {
                    continue;
                }
                let checkpoints = mapping_slot(wallet(n), history);
                account.store(checkpoints, U256::ONE)?;
                account.store(array_slot(checkpoints), holding.staked << 64)?;
            }
        }
        Ok(())
    }

    /// `delegatorTotal`, `delegated` of delegator and provider, and each provider's list of `delegators`.
    fn write_delegate_manager(
        &self,
        account: &mut Account<'_, impl Write>,
        artifact: &Artifact,
    ) -> Result<()> {
        let delegator_total = artifact.slot("delegatorTotal")?;
        let delegated = artifact.slot("delegated")?;
        let delegators = artifact.slot("delegators")?;
        for group in self.groups() {
            let providers: [Address; PROVIDERS as usize] =
                std::array::from_fn(|index| wallet(group * GROUP + index as u64));
            let lists = providers.map(|provider| mapping_slot(provider, delegators));
            let elements = lists.map(array_slot);
            let mut lengths = [U256::ZERO; PROVIDERS as usize];
            for n in group * GROUP..(group + 1) * GROUP {
                let Some(provider) = provider_of(n) else {
                    continue;
                };
                let index = (provider % GROUP) as usize;
                let (delegator, amount) = (wallet(n), own_holding(n).delegated);
                let with_provider =
                    mapping_slot(providers[index], mapping_slot(delegator, delegated));
                account.store(mapping_slot(delegator, delegator_total), amount)?;
                account.store(with_provider, amount)?;
                account.store(elements[index] + lengths[index], delegator.into_word().into())?;
                lengths[index] += U256::ONE;
            }
            for (list, length) in lists.into_iter().zip(lengths) {
                account.store(list, length)?;
            }
        }
        Ok(())
    }

    /// `balances` and `totalSupply`; staked tokens belong to the Staking contract.
    fn write_token(
        &self,
        account: &mut Account<'_, impl Write>,
        artifact: &Artifact,
    ) -> Result<()> {
        let balances = artifact.slot("balances")?;
        let (mut held, mut staked) = (U256::ZERO, U256::ZERO);
        for group in self.groups() {
            for (n, holding) in (group * GROUP..).zip(group_holdings(group)) {
                account.store(mapping_slot(wallet(n), balances), holding.balance)?;
                held += holding.balance;
                staked += holding.staked;
            }
        }
        account.store(mapping_slot(STAKING, balances), staked)?;
        account.store(artifact.slot("totalSupply")?, held + staked)?;
        Ok(())
    }
}

/// An account of `alloc` whose storage is being written.
struct Account<'a, W> {
    out: &'a mut W,
}

impl<'a, W: Write> Account<'a, W> {
    fn open(
        out: &'a mut W,
        proxy: Address,
        code: &Bytes,
        implementation: Address,
    ) -> io::Result<Self> {
        write!(out, r#""{proxy}":{{"balance":"0x0","code":"{code}","storage":{{"#)?;
        write!(out, r#""{IMPLEMENTATION_SLOT}":"{}""#, implementation.into_word())?;
        Ok(Self { out })
    }

    /// Writes a slot; zeroes are omitted, as in a chain's storage.
    fn store(&mut self, slot: U256, value: U256) -> io::Result<()> {
        if value.is_zero() {
            return Ok(());
        }
        let mut digits = [0_u8; 64];
        let mut write_hex = |bytes: &[u8], out: &mut W| {
            let digits = &mut digits[..bytes.len() * 2];
            hex::encode_to_slice(bytes, digits).map_err(io::Error::other)?;
            out.write_all(digits)
        };
        self.out.write_all(b",\"0x")?;
        write_hex(&slot.to_be_bytes::<32>(), self.out)?;
        self.out.write_all(b"\":\"0x")?;
        write_hex(&value.to_be_bytes_trimmed_vec(), self.out)?;
        self.out.write_all(b"\"")
    }
}

/// The holdings of all wallets of a group; each delegation also counts as stake of its provider.
fn group_holdings(group: u64) -> Vec<Holding> {
    let start = group * GROUP;
    let mut holdings: Vec<Holding> = (start..start + GROUP).map(own_holding).collect();
    for n in start..start + GROUP {
        if let Some(provider) = provider_of(n) {
            let delegated = holdings[(n - start) as usize].delegated;
            holdings[(provider - start) as usize].staked += delegated;
        }
    }
    holdings
}

/// What wallet `n` holds without delegations to it. Nine in ten have a balance, one in seven has a stake.
fn own_holding(n: u64) -> Holding {
    let mut random = Random::of(n);
    let balance = if random.one_in(10) { 0 } else { random.amount() };
    let staked = if n % GROUP < PROVIDERS {
        // The minimum stake of a provider: 200,000 AUDIO.
        200_000 * 10_u128.pow(18) + random.amount()
    } else if random.one_in(7) {
        random.amount()
    } else {
        0
    };
    let delegated = if provider_of(n).is_some() { random.amount() } else { 0 };
    Holding {
        balance: U256::from(balance),
        staked: U256::from(staked),
        delegated: U256::from(delegated),
    }
}

/// SplitMix64: reproducible numbers, ten times faster than a hash.
struct Random(u64);

impl Random {
    fn of(n: u64) -> Self {
        Self(n.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn one_in(&mut self, number: u64) -> bool {
        self.next().is_multiple_of(number)
    }

    /// An amount in wei with all digits random, of any order of magnitude from 0.01 to 100,000 AUDIO; never zero.
    fn amount(&mut self) -> u128 {
        let limit = 10_u128.pow(16 + (self.next() % 8) as u32);
        let digits = u128::from(self.next()) << 64 | u128::from(self.next());
        digits % limit + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holdings_agree_with_holding() {
        let many: Vec<Holding> = holdings(2_020).collect();
        assert_eq!(many.len(), 2_020);
        for n in [0, 1, 9, 10, 11, 999, 1_000, 1_009, 1_010, 2_000, 2_019] {
            assert_eq!(many[n as usize], holding(n), "wallet {n}");
        }
    }

    #[test]
    fn wallets_hold_amounts_like_real_ones() {
        let many: Vec<Holding> = holdings(10_000).collect();
        let count =
            |test: fn(&Holding) -> bool| many.iter().filter(|holding| test(holding)).count();
        assert!((500..1_500).contains(&count(|holding| holding.balance.is_zero())));
        assert!((1_200..1_900).contains(&count(|holding| !holding.staked.is_zero())));
        assert!((1_600..2_400).contains(&count(|holding| !holding.delegated.is_zero())));
        assert!((4_000..5_000).contains(&count(|holding| holding.balance.bit(0))), "odd balances");
    }
}
