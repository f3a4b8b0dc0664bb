// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title A token whose balances change without an event, as stETH's do
/// @notice A balance is a share of the pool. A rebase changes the pool, and so all balances, and names no wallet.
contract Rebasing {
    event Transfer(address indexed from, address indexed to, uint256 value);
    event TransferShares(address indexed from, address indexed to, uint256 sharesValue);
    event TokenRebased(uint256 pool);

    uint256 public pool;
    uint256 public totalShares;
    mapping(address => uint256) internal shares;

    function sharesOf(address account) external view returns (uint256) {
        return shares[account];
    }

    function balanceOf(address account) external view returns (uint256) {
        return totalShares == 0 ? 0 : shares[account] * pool / totalShares;
    }

    /// Adds to the pool for new shares of the same number.
    function mint(address to, uint256 amount) external {
        pool += amount;
        totalShares += amount;
        shares[to] += amount;
        emit Transfer(address(0), to, amount);
        emit TransferShares(address(0), to, amount);
    }

    function rebase(uint256 newPool) external {
        pool = newPool;
        emit TokenRebased(newPool);
    }
}
