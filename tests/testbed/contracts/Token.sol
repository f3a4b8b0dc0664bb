// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title Stand-in for the AUDIO token
/// @notice Has what ethtally reads (balanceOf) and watches (Transfer) of the real token. There are no allowances
/// and no roles: anyone may mint, burn and move tokens, as only tests use it.
contract Token {
    event Transfer(address indexed from, address indexed to, uint256 value);

    string public constant name = "Audius";
    string public constant symbol = "AUDIO";
    uint8 public constant decimals = 18;

    uint256 public totalSupply;
    mapping(address => uint256) internal balances;

    function balanceOf(address account) external view virtual returns (uint256) {
        return balances[account];
    }

    /// Transfers the sender's own tokens.
    function transfer(address to, uint256 amount) external returns (bool) {
        _move(msg.sender, to, amount);
        return true;
    }

    /// ERC-20's transferFrom without the allowance; Staking uses it to collect and return stake.
    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        _move(from, to, amount);
        return true;
    }

    function mint(address to, uint256 amount) external {
        totalSupply += amount;
        balances[to] += amount;
        emit Transfer(address(0), to, amount);
    }

    function burn(address from, uint256 amount) external {
        balances[from] -= amount;
        totalSupply -= amount;
        emit Transfer(from, address(0), amount);
    }

    function _move(address from, address to, uint256 amount) private {
        balances[from] -= amount; // reverts when the balance is too small
        balances[to] += amount;
        emit Transfer(from, to, amount);
    }
}
