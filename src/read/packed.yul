// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The packed reader: the totals of many wallets in one eth_call.
//
// The state override of eth_call puts this code at an address for the time of the call. It writes nothing.
//
// Call data, big-endian and without padding:
//
//   8 bytes        n, the number of parts, at least 1
//   n × 24 bytes   the parts: the contract (20 bytes), then the selector of its view f(address) (4 bytes)
//   m × 20 bytes   the wallets; m may be 0
//
// Call data of any other length, or with n = 0, reverts without data.
//
// Return data, in words of 32 bytes:
//
//   1 word         the block's number, so that an answer for another block is noticed
//   1 word         the chain's id, so that an answer from another chain is noticed
//   m words        each wallet's total, the sum of what its parts return, in the order of the wallets
//
// The total 2²⁵⁶−1 marks a wallet that has none: a part reverts, runs out of gas or returns anything but
// 32 bytes, or the sum overflows. (A sum of exactly 2²⁵⁶−1 looks the same.) The parts are called from the
// table's last to its first, and no more of them once the wallet is marked.
//
// Every part is called with the whole stipend, or else the call reverts without data: a part that is short
// of gas may return a wrong value instead of failing. NEEDED is the gas that must be left beforehand:
//
//   203,174   of which EIP-150 lets a call have 63/64: 203,174 − ⌊203,174 ÷ 64⌋ = 200,000
//        61   from GAS to STATICCALL, as compiled
//    20,200   two cold accounts, the contract and what it may delegate to by EIP-7702: at 2,600 each by
//             EIP-2929, at 3,000 by EIP-8038, at 10,100 on Monad
//   223,435   rounded up to 225,000
//
// The file packed.hex holds the compiled code, in hex without 0x on one line. solc compiles it with its
// optimizer and for London, whose instructions older chains have too (no PUSH0). The script
// tests/testbed/contracts/compile.mjs writes it; tests/testbed/contracts/check compares it with this source.

object "packed" {
    code {
        let STIPEND := 200000
        let NEEDED := 225000

        // Memory from here on is returned. Below it is the call data of a part, the selector at 28 and the
        // wallet at 32; the part's result replaces the word at 0.
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
            let sum := 0
            for { let at := table } at { } {
                if lt(gas(), NEEDED) { revert(0, 0) }
                at := sub(at, 24)
                // The word at `at` ends with a part, as the table starts 8 bytes into the call data. The 8
                // bytes before the part do not matter: STATICCALL takes the last 20 bytes as the address.
                let part := calldataload(at)
                mstore(0, part)
                let success := staticcall(STIPEND, shr(32, part), 28, 36, 0, 32)
                let value := mload(0)
                sum := add(sum, value)
                if or(lt(sum, value), iszero(and(success, eq(returndatasize(), 32)))) {
                    sum := not(0)
                    break
                }
            }
            mstore(out, sum)
            out := add(out, 32)
        }
        return(RETURNED, sub(out, RETURNED))
    }
}
