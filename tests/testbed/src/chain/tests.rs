//! Tests of chain.

use alloy::primitives::{LogData, b256, keccak256};
use alloy::providers::bindings::IMulticall3;
use alloy::sol_types::SolEvent;

use super::*;
use crate::contracts::{MULTICALL3, multicall3_code};
use crate::genesis::{delegators_of, holding, provider_of, wallet};

/// A provider whose delegators hold stakes.
const PROVIDER: u64 = 3;

fn audio(amount: u64) -> U256 {
    U256::from(amount) * U256::from(10).pow(U256::from(18))
}

/// The raw result of `balanceOf`.
async fn raw_balance(chain: &Chain, wallet: Address) -> Result<Bytes, String> {
    let call = audio::balanceOfCall { account: wallet };
    let request = TransactionRequest::default().to(AUDIO).input(call.abi_encode().into());
    chain.provider().call(request).block(BlockId::latest()).await.map_err(|error| error.to_string())
}

/// How an action changes the totals of some wallets, as gain and loss.
async fn change<T>(
    chain: &Chain,
    wallets: &[Address],
    doing: impl Future<Output = Result<T>>,
) -> Vec<(U256, U256)> {
    let mut before = Vec::new();
    for &wallet in wallets {
        before.push(chain.total(wallet).await.unwrap());
    }
    doing.await.unwrap();
    let mut changes = Vec::new();
    for (&wallet, before) in wallets.iter().zip(before) {
        let after = chain.total(wallet).await.unwrap();
        changes.push((after.saturating_sub(before), before.saturating_sub(after)));
    }
    changes
}

const fn grows(by: U256) -> (U256, U256) {
    (by, U256::ZERO)
}

const fn shrinks(by: U256) -> (U256, U256) {
    (U256::ZERO, by)
}

const STAYS: (U256, U256) = (U256::ZERO, U256::ZERO);

#[tokio::test]
async fn multicall3_is_the_original_and_works() {
    // EXTCODEHASH of Multicall3 on mainnet.
    let mainnet = b256!("d5c15df687b16f2ff992fc8d767b4216323184a2bbc6ee2f9c398c318e770891");
    assert_eq!(keccak256(multicall3_code()), mainnet);

    let chain = Chain::builder().start().await.unwrap();
    assert_eq!(keccak256(chain.provider().get_code_at(MULTICALL3).await.unwrap()), mainnet);
    let call = audio::balanceOfCall { account: wallet(12) };
    let calls = vec![
        IMulticall3::Call3 {
            target: AUDIO,
            allowFailure: true,
            callData: call.abi_encode().into()
        };
        3
    ];
    let request = TransactionRequest::default()
        .to(MULTICALL3)
        .input(IMulticall3::aggregate3Call { calls }.abi_encode().into());
    let data = chain.provider().call(request).block(BlockId::latest()).await.unwrap();
    let results = IMulticall3::aggregate3Call::abi_decode_returns(&data).unwrap();
    assert_eq!(results.len(), 3);
    for result in results {
        assert!(result.success);
        assert_eq!(U256::from_be_slice(&result.returnData), holding(12).balance);
    }
}

#[tokio::test]
async fn the_chain_starts_with_the_genesis_holdings() {
    let chain = Chain::builder().wallets(3_000).start().await.unwrap();
    assert_eq!(chain.provider().get_chain_id().await.unwrap(), 1);
    assert_eq!(chain.block_number().await.unwrap(), 0);
    for n in (0..15).chain(990..1_020).chain(2_990..3_000) {
        assert_eq!(chain.holding_at(wallet(n), 0).await.unwrap(), holding(n), "wallet {n}");
    }
    assert_eq!(chain.total(wallet(3_000)).await.unwrap(), U256::ZERO);

    // The Staking contract holds all stakes.
    let staked: U256 = crate::genesis::holdings(3_000).map(|holding| holding.staked).sum();
    assert_eq!(chain.total(STAKING).await.unwrap(), staked);

    let call = delegate_manager::getDelegatorsListCall { provider: wallet(PROVIDER) };
    let request =
        TransactionRequest::default().to(DELEGATE_MANAGER).input(call.abi_encode().into());
    let data = chain.provider().call(request).block(BlockId::latest()).await.unwrap();
    let list = delegate_manager::getDelegatorsListCall::abi_decode_returns(&data).unwrap();
    assert!(list.len() > 10);
    assert_eq!(list, delegators_of(PROVIDER).into_iter().map(wallet).collect::<Vec<_>>());
}

#[tokio::test]
async fn transfers_and_mints_change_totals_and_the_past_stays() {
    let chain = Chain::builder().start().await.unwrap();
    let (from, to) = (wallet(5_001), wallet(5_002));
    assert_eq!(change(&chain, &[from], chain.mint(from, audio(10))).await, [grows(audio(10))]);
    assert_eq!(
        change(&chain, &[from, to], chain.transfer(from, to, audio(4))).await,
        [shrinks(audio(4)), grows(audio(4))]
    );
    assert_eq!(chain.block_number().await.unwrap(), 2);
    assert_eq!(chain.total_at(from, 0).await.unwrap(), U256::ZERO);
    assert_eq!(chain.total_at(from, 1).await.unwrap(), audio(10));
    assert_eq!(chain.total_at(from, 2).await.unwrap(), audio(6));
    let too_much = chain.transfer(from, to, audio(7)).await.unwrap_err();
    assert!(too_much.to_string().contains("reverted"), "{too_much}");
}

#[tokio::test]
async fn only_stakes_without_a_transfer_of_the_user_change_totals() {
    let chain = Chain::builder().start().await.unwrap();
    let user = wallet(5_001);
    chain.mint(user, audio(10)).await.unwrap();
    assert_eq!(
        change(&chain, &[user, STAKING], chain.stake(user, audio(6))).await,
        [STAYS, grows(audio(6))]
    );
    assert_eq!(change(&chain, &[user], chain.reward(user, audio(3))).await, [grows(audio(3))]);
    assert_eq!(
        change(&chain, &[user], chain.slash_stake(user, audio(2))).await,
        [shrinks(audio(2))]
    );
    assert_eq!(
        change(&chain, &[user, STAKING], chain.unstake(user, audio(5))).await,
        [STAYS, shrinks(audio(5))]
    );
    let held = chain.holding_at(user, 5).await.unwrap();
    assert_eq!(held, Holding { balance: audio(9), staked: audio(2), delegated: U256::ZERO });
    assert_eq!(chain.holding_at(user, 2).await.unwrap().staked, audio(6));
}

#[tokio::test]
async fn delegating_changes_the_providers_total() {
    let chain = Chain::builder().start().await.unwrap();
    let (delegator, provider) = (wallet(5_001), wallet(PROVIDER));
    chain.mint(delegator, audio(10)).await.unwrap();
    let both = [delegator, provider];
    assert_eq!(
        change(&chain, &both, chain.delegate(delegator, provider, audio(8))).await,
        [STAYS, grows(audio(8))]
    );
    assert_eq!(
        change(&chain, &both, chain.undelegate(delegator, provider, audio(3))).await,
        [STAYS, shrinks(audio(3))]
    );
    assert_eq!(
        change(&chain, &both, chain.remove_delegator(provider, delegator)).await,
        [STAYS, shrinks(audio(5))]
    );
    let held = chain.holding_at(delegator, chain.block_number().await.unwrap()).await.unwrap();
    assert_eq!(held, Holding { balance: audio(10), ..Holding::default() });

    // A delegator from genesis can be removed too, once.
    let first = delegators_of(PROVIDER)[0];
    let amount = holding(first).delegated;
    assert_eq!(
        change(&chain, &[wallet(first), provider], chain.remove_delegator(provider, wallet(first)))
            .await,
        [STAYS, shrinks(amount)]
    );
    assert!(chain.remove_delegator(provider, wallet(first)).await.is_err());
}

#[tokio::test]
async fn claims_and_slashes_reach_every_delegator() {
    let chain = Chain::builder().start().await.unwrap();
    let provider = wallet(PROVIDER);
    let delegators = delegators_of(PROVIDER);
    let stake = holding(PROVIDER).staked;
    let everybody: Vec<Address> =
        [provider].into_iter().chain(delegators.iter().copied().map(wallet)).collect();
    let shares = |of: U256| delegators.iter().map(move |&n| of * holding(n).delegated / stake);

    let claim = change(&chain, &everybody, chain.claim(provider, audio(5_000))).await;
    let expected: Vec<_> =
        [audio(5_000)].into_iter().chain(shares(audio(5_000))).map(grows).collect();
    assert_eq!(claim, expected);
    assert!(
        claim[1..].iter().any(|(grown, _)| *grown > audio(1)),
        "one share is more than 1 AUDIO"
    );

    let chain = Chain::builder().start().await.unwrap();
    let slash = change(&chain, &everybody, chain.slash(provider, audio(5_000))).await;
    let expected: Vec<_> =
        [audio(5_000)].into_iter().chain(shares(audio(5_000))).map(shrinks).collect();
    assert_eq!(slash, expected);

    let stranger = (11..).find(|&n| provider_of(n) != Some(PROVIDER)).unwrap();
    assert_eq!(change(&chain, &[wallet(stranger)], chain.slash(provider, audio(1))).await, [STAYS]);
}

#[tokio::test]
async fn events_are_those_of_the_real_contracts() {
    let chain = Chain::builder().start().await.unwrap();
    let (user, provider) = (wallet(5_001), wallet(PROVIDER));
    let stake = holding(PROVIDER).staked;
    let none = Address::ZERO;
    let one = audio(1);
    let moved = |from, to, value| audio::Transfer { from, to, value }.encode_log_data();
    let staked = |user, total| staking::Staked { user, amount: one, total }.encode_log_data();
    let unstaked = |user, total| staking::Unstaked { user, amount: one, total }.encode_log_data();
    let slashed = |user, total| staking::Slashed { user, amount: one, total }.encode_log_data();
    let logs = async |hash: Result<B256>| -> Vec<LogData> {
        let receipt =
            chain.provider().get_transaction_receipt(hash.unwrap()).await.unwrap().unwrap();
        receipt.inner.logs().iter().map(|log| log.inner.data.clone()).collect()
    };

    assert_eq!(logs(chain.mint(user, audio(9)).await).await, [moved(none, user, audio(9))]);
    assert_eq!(logs(chain.transfer(user, provider, one).await).await, [moved(user, provider, one)]);
    assert_eq!(
        logs(chain.stake(user, one).await).await,
        [moved(user, STAKING, one), staked(user, one)]
    );
    assert_eq!(
        logs(chain.reward(user, one).await).await,
        [moved(none, STAKING, one), staked(user, audio(2))]
    );
    assert_eq!(
        logs(chain.unstake(user, one).await).await,
        [moved(STAKING, user, one), unstaked(user, one)]
    );
    assert_eq!(
        logs(chain.slash_stake(user, one).await).await,
        [moved(STAKING, none, one), slashed(user, U256::ZERO)]
    );
    assert_eq!(
        logs(chain.delegate(user, provider, one).await).await,
        [
            moved(user, STAKING, one),
            staked(provider, stake + one),
            delegate_manager::IncreaseDelegatedStake {
                delegator: user,
                serviceProvider: provider,
                amount: one
            }
            .encode_log_data(),
        ]
    );
    assert_eq!(
        logs(chain.undelegate(user, provider, one).await).await,
        [
            moved(STAKING, user, one),
            unstaked(provider, stake),
            delegate_manager::UndelegateStakeRequestEvaluated {
                delegator: user,
                serviceProvider: provider,
                amount: one
            }
            .encode_log_data(),
        ]
    );
    chain.delegate(user, provider, one).await.unwrap();
    assert_eq!(
        logs(chain.remove_delegator(provider, user).await).await,
        [
            moved(STAKING, user, one),
            unstaked(provider, stake),
            delegate_manager::RemoveDelegatorRequestEvaluated {
                serviceProvider: provider,
                delegator: user,
                amount: one
            }
            .encode_log_data(),
        ]
    );
    assert_eq!(
        logs(chain.claim(provider, one).await).await,
        [
            moved(none, STAKING, one),
            staked(provider, stake + one),
            delegate_manager::Claim { claimer: provider, rewards: one, newTotal: stake + one }
                .encode_log_data(),
        ]
    );
    assert_eq!(
        logs(chain.slash(provider, one).await).await,
        [
            moved(STAKING, none, one),
            slashed(provider, stake),
            delegate_manager::Slash { target: provider, amount: one, newTotal: stake }
                .encode_log_data(),
        ]
    );
}

#[tokio::test]
async fn each_token_fault_behaves_as_documented() {
    let chain = Chain::builder().faulty().start().await.unwrap();
    let n = (10..).find(|&n| holding(n).balance > audio(1)).unwrap();
    let balance = holding(n).balance.to_be_bytes::<32>();
    let ask = async |fault| {
        chain.set_fault(wallet(n), fault).await.unwrap();
        raw_balance(&chain, wallet(n)).await
    };
    assert_eq!(raw_balance(&chain, wallet(n)).await.unwrap()[..], balance);
    let reverted = ask(TokenFault::Revert).await.unwrap_err();
    assert!(reverted.contains("faulty"), "{reverted}");
    let burnt = ask(TokenFault::BurnGas).await.unwrap_err();
    assert!(!burnt.contains("faulty"), "{burnt}");
    assert_eq!(ask(TokenFault::Return0).await.unwrap(), Bytes::new());
    assert_eq!(ask(TokenFault::Return31).await.unwrap()[..], balance[..31]);
    assert_eq!(ask(TokenFault::Return64).await.unwrap()[..], [balance, [0; 32]].concat());
    assert_eq!(ask(TokenFault::ReturnMax).await.unwrap()[..], [0xff; 32]);
    assert_eq!(ask(TokenFault::None).await.unwrap()[..], balance);

    // Only this wallet, and only its balanceOf.
    ask(TokenFault::Return64).await.unwrap();
    assert!(chain.total(wallet(n)).await.is_err());
    assert_eq!(chain.total(wallet(n + 1)).await.unwrap(), holding(n + 1).total());
    chain.transfer(wallet(n), wallet(n + 1), U256::ONE).await.unwrap();

    let sound = Chain::builder().start().await.unwrap();
    assert!(sound.set_fault(wallet(n), TokenFault::Revert).await.is_err());
}

#[tokio::test]
async fn burnt_gas_is_missing_in_later_calls() {
    let chain = Chain::builder().faulty().gas_limit(1_000_000).start().await.unwrap();
    chain.set_fault(wallet(10), TokenFault::BurnGas).await.unwrap();
    let calls = (10..14)
        .map(|n| IMulticall3::Call3 {
            target: AUDIO,
            allowFailure: true,
            callData: audio::balanceOfCall { account: wallet(n) }.abi_encode().into(),
        })
        .collect();
    let request = TransactionRequest::default()
        .to(MULTICALL3)
        .input(IMulticall3::aggregate3Call { calls }.abi_encode().into());
    let data = chain.provider().call(request).block(BlockId::latest()).await.unwrap();
    let results = IMulticall3::aggregate3Call::abi_decode_returns(&data).unwrap();
    let successes: Vec<bool> = results.iter().map(|result| result.success).collect();
    assert!(!successes[0] && successes.contains(&false), "{successes:?}");
}

#[tokio::test]
async fn a_thousand_transfers_fit_into_a_block() {
    let chain = Chain::builder().start().await.unwrap();
    let to = wallet(7_777);
    let rich: Vec<u64> = (0..1_000).filter(|&n| !holding(n).balance.is_zero()).collect();
    let transfers: Vec<_> =
        rich.iter().cycle().take(1_000).map(|&n| (wallet(n), to, U256::ONE)).collect();
    chain.set_automine(false).await.unwrap();
    chain.send(&transfers[..400]).await.unwrap();
    chain.send(&transfers[400..]).await.unwrap();
    assert_eq!(chain.block_number().await.unwrap(), 0);
    chain.mine(1).await.unwrap();
    assert_eq!(chain.block_number().await.unwrap(), 1);
    let block = chain.provider().get_block_by_number(1.into()).await.unwrap().unwrap();
    assert_eq!(block.transactions.len(), 1_000);
    assert_eq!(chain.total(to).await.unwrap(), U256::from(1_000));
}

#[tokio::test]
async fn blocks_can_be_reorganised_and_reverted() {
    let chain = Chain::builder().start().await.unwrap();
    let user = wallet(5_001);
    chain.mine(3).await.unwrap();
    chain.mint(user, audio(1)).await.unwrap();
    let hash = async |n: u64| {
        chain.provider().get_block_by_number(n.into()).await.unwrap().unwrap().header.hash
    };
    let (third, fourth) = (hash(3).await, hash(4).await);
    chain.reorg(1).await.unwrap();
    assert_eq!(chain.block_number().await.unwrap(), 4);
    assert_eq!((hash(3).await == third, hash(4).await == fourth), (true, false));
    assert_eq!(chain.total(user).await.unwrap(), U256::ZERO);

    let snapshot = chain.snapshot().await.unwrap();
    chain.mint(user, audio(2)).await.unwrap();
    chain.revert(snapshot).await.unwrap();
    assert_eq!(chain.total(user).await.unwrap(), U256::ZERO);
    assert!(chain.revert(snapshot).await.is_err());
}

#[tokio::test]
async fn a_chain_with_a_block_time_mines_on_its_own() {
    let chain = Chain::builder().arg("--block-time").arg("1").start().await.unwrap();
    chain.mint(wallet(5_001), audio(1)).await.unwrap();
    assert_eq!(chain.total(wallet(5_001)).await.unwrap(), audio(1));
}

#[tokio::test]
async fn interval_mining_can_be_switched_on_and_off() {
    let chain = Chain::builder().start().await.unwrap();
    chain.set_interval_mining(1).await.unwrap();
    chain.mint(wallet(5_001), audio(1)).await.unwrap();
    assert_eq!(chain.total(wallet(5_001)).await.unwrap(), audio(1));

    chain.set_interval_mining(0).await.unwrap();
    let before = chain.block_number().await.unwrap();
    chain.mint(wallet(5_001), audio(1)).await.unwrap();
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(chain.block_number().await.unwrap(), before);
    chain.set_automine(true).await.unwrap();
    chain.mint(wallet(5_001), audio(1)).await.unwrap();
    assert_eq!(chain.total(wallet(5_001)).await.unwrap(), audio(3));
}

#[tokio::test]
async fn logs_are_those_of_the_requested_blocks() {
    let chain = Chain::builder().start().await.unwrap();
    for _ in 0..4 {
        chain.mint(wallet(5_001), audio(1)).await.unwrap();
    }
    let logs = chain.logs(2, 3).await.unwrap();
    let blocks: Vec<&Value> = logs.iter().map(|log| &log["blockNumber"]).collect();
    assert_eq!(blocks, ["0x2", "0x3"]);
    assert_eq!(logs[0]["address"], json!(AUDIO));
}

#[tokio::test]
async fn a_failed_start_reports_anvils_output() {
    let error = Chain::builder().arg("--no-such-argument").start().await.unwrap_err();
    assert!(error.to_string().contains("--no-such-argument"), "{error}");
}

#[test]
fn a_chain_outlives_the_runtime_that_started_it() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let chain = runtime().block_on(async {
        let chain = Chain::builder().start().await.unwrap();
        chain.block_number().await.unwrap();
        chain
    });
    runtime().block_on(async { chain.mint(wallet(5_001), audio(1)).await.unwrap() });
    assert_eq!(runtime().block_on(chain.block_number()).unwrap(), 1);
}

#[tokio::test]
async fn a_chain_ends_when_it_is_dropped() {
    let chain = Chain::builder().start().await.unwrap();
    let provider = chain.provider().clone();
    provider.get_block_number().await.unwrap();
    drop(chain);
    assert!(provider.get_block_number().await.is_err());
}
