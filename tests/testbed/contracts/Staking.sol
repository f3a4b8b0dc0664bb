// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Token} from "./Token.sol";

/// @title Stand-in for Audius' Staking contract
/// @notice Holds all staked tokens, and records each account's stake by block.
/// Delegated tokens count as the stake of the service provider.
contract Staking {
    event Staked(address indexed user, uint256 amount, uint256 total);
    event Unstaked(address indexed user, uint256 amount, uint256 total);
    event Slashed(address indexed user, uint256 amount, uint256 total);

    /// One storage slot: the block in the lower 8 bytes, the amount in the upper 24.
    struct Checkpoint {
        uint64 fromBlock;
        uint192 amount;
    }

    /// The proxy at its mainnet address, where genesis places it.
    Token private constant AUDIO = Token(0x18aAA7115705e8be94bfFEBDE57Af9BFc265B998);

    mapping(address => Checkpoint[]) internal history;

    function totalStakedFor(address account) public view returns (uint256) {
        Checkpoint[] storage checkpoints = history[account];
        uint256 length = checkpoints.length;
        return length == 0 ? 0 : checkpoints[length - 1].amount;
    }

    /// Moves the account's own tokens here: the sum of its balance and stake does not change.
    function stakeFor(address account, uint256 amount) external {
        delegateStakeFor(account, account, amount);
    }

    /// Returns the tokens to the account.
    function unstakeFor(address account, uint256 amount) external {
        undelegateStakeFor(account, account, amount);
    }

    /// Stakes new tokens for the account. Its Transfer names only this contract, never the account.
    function stakeRewards(address account, uint256 amount) external {
        AUDIO.mint(address(this), amount);
        _increase(account, amount);
    }

    /// Burns staked tokens. Its Transfer names only this contract, never the account.
    function slash(address account, uint256 amount) external {
        uint256 total = _write(account, totalStakedFor(account) - amount);
        AUDIO.burn(address(this), amount);
        emit Slashed(account, amount, total);
    }

    /// Adds the delegator's tokens to the provider's stake.
    function delegateStakeFor(address provider, address delegator, uint256 amount) public {
        AUDIO.transferFrom(delegator, address(this), amount);
        _increase(provider, amount);
    }

    /// Returns tokens from the provider's stake to the delegator.
    function undelegateStakeFor(address provider, address delegator, uint256 amount) public {
        uint256 total = _write(provider, totalStakedFor(provider) - amount);
        AUDIO.transferFrom(address(this), delegator, amount);
        emit Unstaked(provider, amount, total);
    }

    function _increase(address account, uint256 amount) private {
        uint256 total = _write(account, totalStakedFor(account) + amount);
        emit Staked(account, amount, total);
    }

    /// A second change in a block overwrites the first: there is one checkpoint per block.
    function _write(address account, uint256 total) private returns (uint256) {
        require(total <= type(uint192).max, "stake too large");
        Checkpoint[] storage checkpoints = history[account];
        uint256 length = checkpoints.length;
        if (length > 0 && checkpoints[length - 1].fromBlock == block.number) {
            checkpoints[length - 1].amount = uint192(total);
        } else {
            checkpoints.push(Checkpoint(uint64(block.number), uint192(total)));
        }
        return total;
    }
}
