// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Token} from "./Token.sol";

/// @title A token whose balanceOf misbehaves for chosen wallets
/// @notice Each fault has been seen with a real contract behind a real node. Everything but balanceOf works as in
/// Token, and the storage of Token comes first, so the same genesis fits both.
contract FaultyToken is Token {
    /// The Rust enum `TokenFault` has the same members in the same order.
    enum Fault {
        None,
        Revert,
        BurnGas,
        Return0,
        Return31,
        Return64,
        ReturnMax
    }

    mapping(address => Fault) internal faults;

    /// Reverts for a number that is not a Fault.
    function setFault(address account, uint8 fault) external {
        faults[account] = Fault(fault);
    }

    function balanceOf(address account) external view override returns (uint256) {
        Fault fault = faults[account];
        uint256 held = balances[account];
        if (fault == Fault.None) return held;
        if (fault == Fault.Revert) revert("faulty");
        if (fault == Fault.ReturnMax) return type(uint256).max;
        // The wrong lengths contain the true balance where possible, so that a reader that ignores the length
        // gets a plausible number.
        assembly ("memory-safe") {
            mstore(0, held)
            mstore(32, 0)
            switch fault
            case 2 { invalid() } // consumes all gas that the call was given
            case 3 { return(0, 0) }
            case 4 { return(0, 31) }
            default { return(0, 64) }
        }
    }
}
