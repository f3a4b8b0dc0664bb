//! The little of an EVM assembler that the program needs: instructions with a comment each, the shortest
//! push that holds a number, and jumps to labels.

use std::collections::BTreeMap;

use alloy::primitives::{Bytes, U256};
#[cfg(test)]
use itertools::Itertools;

/// The instructions in use.
///
/// Source: <https://www.evm.codes>; what each takes from the stack, its top first, and leaves there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    /// a, b → a + b
    Add = 0x01,
    /// a, b → a − b
    Sub = 0x03,
    /// a, b → a < b
    Lt = 0x10,
    /// a, b → a = b
    Eq = 0x14,
    /// a → a = 0
    IsZero = 0x15,
    /// a, b → both
    And = 0x16,
    /// a → every bit of it turned
    Not = 0x19,
    /// n, a → a · 2ⁿ
    Shl = 0x1b,
    /// n, a → a / 2ⁿ
    Shr = 0x1c,
    /// i → the 32 bytes of call data from i on, with zeros behind its end
    CallDataLoad = 0x35,
    /// → bytes of call data
    CallDataSize = 0x36,
    /// → bytes that the last call returned
    ReturnDataSize = 0x3d,
    /// → number of the block
    Number = 0x43,
    /// a →
    Pop = 0x50,
    /// p → the 32 bytes of memory from p on
    MLoad = 0x51,
    /// p, a → ; these 32 bytes become a
    MStore = 0x52,
    /// target →
    Jump = 0x56,
    /// target, condition → ; jumps unless the condition is 0
    JumpI = 0x57,
    /// → gas that is left
    Gas = 0x5a,
    /// Where a jump may go to.
    JumpDest = 0x5b,
    /// a → a, a
    Dup1 = 0x80,
    /// the second from the top, once more
    Dup2 = 0x81,
    /// the fourth
    Dup4 = 0x83,
    /// a, b → b, a
    Swap1 = 0x90,
    /// p, n → ends; returns n bytes of memory from p on
    Return = 0xf3,
    /// gas, contract, p, n, q, m → success; calls with n bytes of memory from p on, and puts the first
    /// m bytes that it returns at q
    StaticCall = 0xfa,
    /// p, n → ends; fails with n bytes of memory from p on
    Revert = 0xfd,
}

/// `PUSH1`, behind which as many follow as there are widths.
const PUSH1: u8 = 0x60;

/// A program as it is written.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    code: Vec<u8>,
    labels: BTreeMap<&'static str, usize>,
    /// Where the two bytes of a label's address are to go.
    jumps: Vec<(usize, &'static str)>,
    #[cfg(test)]
    lines: Vec<(usize, String)>,
}

impl Assembly {
    /// Adds an instruction.
    pub(super) fn op(&mut self, op: Op, why: &str) {
        self.line(&format!("{op:?}"), why);
        self.code.push(op as u8);
    }

    /// Pushes a number.
    pub(super) fn push(&mut self, number: U256, why: &str) {
        let bytes = number.to_be_bytes_trimmed_vec();
        let bytes = if bytes.is_empty() { vec![0] } else { bytes };
        self.line(&format!("Push{} {number:#x}", bytes.len()), why);
        // PUSH0 is younger than some chains.
        self.code.push(PUSH1 - 1 + u8::try_from(bytes.len()).expect("32 at most"));
        self.code.extend(bytes);
    }

    /// Pushes the address of a label, which may come later.
    pub(super) fn push_label(&mut self, label: &'static str) {
        self.line(&format!("Push2 {label}"), "");
        self.code.push(PUSH1 + 1);
        self.jumps.push((self.code.len(), label));
        self.code.extend([0, 0]);
    }

    /// A place to jump to.
    pub(super) fn label(&mut self, label: &'static str, why: &str) {
        self.labels.insert(label, self.code.len());
        self.line(&format!("JumpDest {label}:"), why);
        self.code.push(Op::JumpDest as u8);
    }

    /// The program.
    ///
    /// # Panics
    /// Where a label that is jumped to does not exist.
    pub(super) fn assemble(mut self) -> Bytes {
        for (place, label) in self.jumps {
            let target = u16::try_from(self.labels[label]).expect("code is limited to 24 KiB");
            self.code[place..place + 2].copy_from_slice(&target.to_be_bytes());
        }
        self.code.into()
    }

    /// What a reviewer reads: the place of each instruction, the instruction, and what it is for.
    #[cfg(test)]
    pub(super) fn listing(&self) -> String {
        self.lines.iter().map(|(place, line)| format!("{place:04x}  {line}")).join("\n")
    }

    #[cfg(test)]
    fn line(&mut self, instruction: &str, why: &str) {
        let line = format!("{instruction:<52}{why}").trim_end().to_owned();
        self.lines.push((self.code.len(), line));
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "it is for the listing, which only tests make")]
    const fn line(&self, _: &str, _: &str) {}
}

#[cfg(test)]
mod tests {
    use alloy::primitives::hex;

    use super::*;

    #[test]
    fn numbers_are_pushed_short_and_labels_are_found() {
        let mut assembly = Assembly::default();
        assembly.push_label("end");
        assembly.op(Op::Jump, "");
        assembly.push(U256::ZERO, "");
        assembly.push(U256::from(0x1234), "");
        assembly.push(U256::MAX, "");
        assembly.label("end", "");
        let expected = format!("61002a566000611234{}{}5b", "7f", "ff".repeat(32));
        assert_eq!(hex::encode(assembly.assemble()), expected);
    }
}
