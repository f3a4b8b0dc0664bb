// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title A part of a total that does, for each wallet, what the wallet's own bytes say
/// @notice Whatever function is called with a wallet. Four of them stand side by side: the last two bits of its own address say
/// which of the wallet's first four bytes a Freak looks at, so that one wallet can be fine with one part and not with the next.
/// The honest value is made of all of the call data, so that a wrong selector or a stray byte gives another number.
contract Freak {
    /// The Rust enum `Freak` has the same numbers. Any other byte is honest.
    fallback() external {
        assembly ("memory-safe") {
            // Free memory from here on is not Solidity's business: this block returns or reverts.
            calldatacopy(0, 0, calldatasize())
            mstore(calldatasize(), address())
            let value := shr(160, keccak256(0, add(calldatasize(), 32)))

            switch byte(add(12, and(address(), 3)), calldataload(4))
            case 0x80 { value := 0 }
            case 0x81 { revert(0, 0) }
            case 0x82 {
                mstore(0, value)
                revert(0, 32)
            }
            case 0x83 { invalid() }
            case 0x84 { for { } 1 { } { } }
            case 0x85 { return(0, 0) }
            case 0x86 {
                mstore(0, value)
                return(0, 31)
            }
            case 0x87 {
                mstore(0, value)
                return(0, 33)
            }
            case 0x88 {
                mstore(0, value)
                return(0, 64)
            }
            case 0x89 { value := not(0) }
            case 0x8a { value := shl(255, 1) }
            case 0x8b { value := sub(shl(255, 1), 1) }
            case 0x8c {
                // Memory is paid for once and never filled.
                mstore(0, value)
                return(0, 100000)
            }
            case 0x8d {
                mstore(0, value)
                revert(0, 100000)
            }
            case 0x8e {
                // Calls itself, 30 deep, behind the call data a word that says how deep it is. An inner failure goes outwards.
                let depth := calldataload(36)
                if lt(depth, 30) {
                    calldatacopy(0, 0, 36)
                    mstore(36, add(depth, 1))
                    if iszero(staticcall(gas(), address(), 0, 68, 0, 0)) { revert(0, 0) }
                }
            }
            case 0x8f {
                // A lie where gas is short, as of a contract that takes an inner call's failure for a zero.
                if lt(gas(), 30000) { value := 1 }
            }
            case 0x90 {
                // Some 60,000 gas before it knows.
                for { let i := 0 } lt(i, 600) { i := add(i, 1) } { mstore(0, keccak256(0, 32)) }
            }
            case 0x91 {
                // A write: not to be had by a static call.
                sstore(value, 1)
            }
            case 0x92 {
                // The lie of 0x8f where a reader is merely thrifty.
                if lt(gas(), 2000000) { value := 1 }
            }
            mstore(0, value)
            return(0, 32)
        }
    }
}
