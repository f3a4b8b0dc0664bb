// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title A contract whose behaviour for a wallet depends on the wallet's own bytes
/// @notice Any function can be called with a wallet. There are four instances: the last two bits of the instance's address select
/// one of the wallet's first four bytes, so a wallet can be valid for one instance and fail for another. The honest value is a hash
/// of the whole call data, so a wrong selector or a stray byte gives another number.
contract Adversarial {
    /// The Rust enum `Behaviour` has the same numbers. Any other byte is honest.
    fallback() external {
        assembly ("memory-safe") {
            // This block may use all memory: it returns or reverts.
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
                // Memory is paid for but never filled.
                mstore(0, value)
                return(0, 100000)
            }
            case 0x8d {
                mstore(0, value)
                revert(0, 100000)
            }
            case 0x8e {
                // Calls itself 30 deep, with the depth as a word after the call data. Propagates an inner failure.
                let depth := calldataload(36)
                if lt(depth, 30) {
                    calldatacopy(0, 0, 36)
                    mstore(36, add(depth, 1))
                    if iszero(staticcall(gas(), address(), 0, 68, 0, 0)) { revert(0, 0) }
                }
            }
            case 0x8f {
                // Wrong if gas is short, like a contract that treats a failed inner call as zero.
                if lt(gas(), 30000) { value := 1 }
            }
            case 0x90 {
                // Uses about 60,000 gas.
                for { let i := 0 } lt(i, 600) { i := add(i, 1) } { mstore(0, keccak256(0, 32)) }
            }
            case 0x91 {
                // A write: fails in a static call.
                sstore(value, 1)
            }
            case 0x92 {
                // As 0x8f, with a limit that a merely thrifty reader reaches.
                if lt(gas(), 2000000) { value := 1 }
            }
            mstore(0, value)
            return(0, 32)
        }
    }
}
