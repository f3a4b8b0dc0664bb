// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Staking} from "./Staking.sol";

/// @title Stand-in for Audius' DelegateManager
/// @notice Records who delegated how much to which service provider. Staking holds the tokens as the provider's stake.
/// The real contract requires a delay between a request and its evaluation; this one evaluates at once.
contract DelegateManager {
    event IncreaseDelegatedStake(
        address indexed delegator, address indexed serviceProvider, uint256 indexed amount
    );
    event UndelegateStakeRequestEvaluated(
        address indexed delegator, address indexed serviceProvider, uint256 indexed amount
    );
    // Here the provider comes first, as in the real contract.
    event RemoveDelegatorRequestEvaluated(
        address indexed serviceProvider, address indexed delegator, uint256 indexed amount
    );
    event Claim(address indexed claimer, uint256 indexed rewards, uint256 indexed newTotal);
    event Slash(address indexed target, uint256 indexed amount, uint256 indexed newTotal);

    /// The proxy at its mainnet address, where genesis places it.
    Staking private constant STAKING = Staking(0xe6D97B2099F142513be7A2a068bE040656Ae4591);

    /// The delegator's stake with all providers together.
    mapping(address delegator => uint256) internal delegatorTotal;
    mapping(address delegator => mapping(address provider => uint256)) internal delegated;
    mapping(address provider => address[]) internal delegators;

    function getTotalDelegatorStake(address delegator) external view returns (uint256) {
        return delegatorTotal[delegator];
    }

    function getDelegatorsList(address provider) external view returns (address[] memory) {
        return delegators[provider];
    }

    function delegateStake(address delegator, address provider, uint256 amount) external {
        STAKING.delegateStakeFor(provider, delegator, amount);
        if (delegated[delegator][provider] == 0 && amount > 0) delegators[provider].push(delegator);
        delegated[delegator][provider] += amount;
        delegatorTotal[delegator] += amount;
        emit IncreaseDelegatedStake(delegator, provider, amount);
    }

    function undelegateStake(address delegator, address provider, uint256 amount) external {
        _take(delegator, provider, amount);
        emit UndelegateStakeRequestEvaluated(delegator, provider, amount);
    }

    /// The provider removes a delegator and returns everything.
    function removeDelegator(address provider, address delegator) external {
        uint256 amount = delegated[delegator][provider];
        require(amount > 0, "not a delegator");
        _take(delegator, provider, amount);
        emit RemoveDelegatorRequestEvaluated(provider, delegator, amount);
    }

    /// Stakes the rewards for the claimer and credits each delegator in proportion to its part of the stake.
    /// No event names a delegator.
    function claimRewards(address claimer, uint256 rewards) external {
        uint256 before = STAKING.totalStakedFor(claimer);
        STAKING.stakeRewards(claimer, rewards);
        address[] storage list = delegators[claimer];
        for (uint256 i = 0; before > 0 && i < list.length; i++) {
            uint256 share = rewards * delegated[list[i]][claimer] / before;
            delegated[list[i]][claimer] += share;
            delegatorTotal[list[i]] += share;
        }
        emit Claim(claimer, rewards, before + rewards);
    }

    /// Burns part of the target's stake; each delegator loses its share. No event names a delegator.
    function slash(address target, uint256 amount) external {
        uint256 before = STAKING.totalStakedFor(target);
        require(amount <= before, "more than the stake");
        STAKING.slash(target, amount);
        address[] storage list = delegators[target];
        for (uint256 i = 0; before > 0 && i < list.length; i++) {
            uint256 share = amount * delegated[list[i]][target] / before;
            delegated[list[i]][target] -= share;
            delegatorTotal[list[i]] -= share;
        }
        emit Slash(target, amount, before - amount);
    }

    function _take(address delegator, address provider, uint256 amount) private {
        delegated[delegator][provider] -= amount;
        delegatorTotal[delegator] -= amount;
        if (delegated[delegator][provider] == 0) _forget(delegator, provider);
        STAKING.undelegateStakeFor(provider, delegator, amount);
    }

    /// Replaces the delegator by the last one of the list.
    function _forget(address delegator, address provider) private {
        address[] storage list = delegators[provider];
        for (uint256 i = 0; i < list.length; i++) {
            if (list[i] == delegator) {
                list[i] = list[list.length - 1];
                list.pop();
                return;
            }
        }
    }
}
