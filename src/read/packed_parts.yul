// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The packed reader where a profile stores parts in columns of their own: every part of many wallets in one eth_call.
//
// It is packed.yul with another result: what that file says of call data, gas and memory is true of this program, too.
// A program of its own, as totals alone are returned in fewer words.
//
// Return data, in words of 32 bytes:
//
//   1 word         the block's number
//   1 word         the chain's id
//   m × n words    wallet by wallet the value of each part, in the reverse order of the table
//
// The value 2²⁵⁶−1 marks a part that reverts, runs out of gas or returns anything but 32 bytes. (A value of exactly
// 2²⁵⁶−1 looks the same.) Whoever sums the parts has to see that the sum fits a word.
//
// The file packed_parts.hex holds the compiled code, as packed.hex does.

object "packed_parts" {
    code {
        let STIPEND := 200000
        let NEEDED := 225000

        // Below is the call data of a part, the selector at 28 and the wallet at 32; the part's result replaces the
        // word at 0.
        let RETURNED := 64

        let table := mul(24, shr(192, calldataload(0))) // the length of the table of parts
        let wallets := add(8, table)                    // where the wallets start
        if iszero(table) { revert(0, 0) }
        if lt(calldatasize(), wallets) { revert(0, 0) }
        if mod(sub(calldatasize(), wallets), 20) { revert(0, 0) }

        mstore(RETURNED, number())
        mstore(add(RETURNED, 32), chainid())
        let out := add(RETURNED, 64)
        for { let in := wallets } lt(in, calldatasize()) { in := add(in, 20) } {
            mstore(32, shr(96, calldataload(in)))
            for { let at := table } at { } {
                if lt(gas(), NEEDED) { revert(0, 0) }
                at := sub(at, 24)
                let part := calldataload(at)
                mstore(0, part)
                let success := staticcall(STIPEND, shr(32, part), 28, 36, 0, 32)
                let value := mload(0)
                if iszero(and(success, eq(returndatasize(), 32))) { value := not(0) }
                mstore(out, value)
                out := add(out, 32)
            }
        }
        return(RETURNED, sub(out, RETURNED))
    }
}
