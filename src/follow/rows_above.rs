//! The pass over all rows that were read above a fork, after a reorganisation deeper than the blocks that are remembered.
//!
//! Pure: rows in, wallets out. Where a row was read at a higher block than the chain has now, it cannot be overwritten
//! yet: the pass is repeated, for rows above the blocks that it has read at, as soon as the chain has come so far.

use super::RowsAbove;
use crate::tally::Wallet;

impl RowsAbove {
    /// A pass over the rows above this block, and above those of a pass that is not over.
    pub(super) fn block(block: u64, before: Option<&Self>) -> Self {
        let block = before.map_or(block, |before| before.block.min(block));
        Self { block, after: None, wait_for: 0, left: None }
    }

    /// Takes note that these rows were read again at block `at`, and that there are no others behind them if they are the
    /// last. Returns true if the pass is over.
    pub(super) fn passed(&mut self, rows: &[(Wallet, u64)], at: u64, are_last: bool) -> bool {
        let highest = rows.iter().map(|(_, block)| *block).max().filter(|highest| *highest > at);
        let (lowest_at, left) = self.left.unwrap_or((at, 0));
        self.left = Some((lowest_at.min(at), left.max(highest.unwrap_or(0))));
        if let Some((wallet, _)) = rows.last() {
            self.after = Some(*wallet);
        }
        if !are_last {
            return false;
        }
        match self.left.take() {
            Some((block, wait_for)) if wait_for > 0 => {
                *self = Self { block, after: None, wait_for, left: None };
                false
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::*;

    fn wallet(n: u8) -> Wallet {
        Wallet::from(Address::with_last_byte(n))
    }

    #[test]
    fn a_row_that_is_ahead_of_the_chain_is_passed_again_when_that_has_come_so_far() {
        let mut pass = RowsAbove::block(100, None);
        assert!(!pass.passed(&[(wallet(1), 110), (wallet(2), 300)], 200, false));
        assert_eq!(pass.after, Some(wallet(2)));
        assert!(!pass.passed(&[(wallet(3), 150)], 201, true));
        let again = RowsAbove { block: 200, after: None, wait_for: 300, left: None };
        assert_eq!(pass, again);
        assert!(pass.passed(&[(wallet(2), 300)], 300, true));
        assert_eq!(RowsAbove::block(250, Some(&again)).block, 200);
        assert_eq!(RowsAbove::block(150, Some(&again)).block, 150);
    }

    #[test]
    fn without_rows_it_is_over() {
        assert!(RowsAbove::block(100, None).passed(&[], 200, true));
    }
}
