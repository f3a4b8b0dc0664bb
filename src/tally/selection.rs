//! Rows of a bucket as they were selected, in little memory.

use alloy::primitives::U256;
use chrono::{DateTime, Utc};

use super::{Bucket, Total, Wallet};

/// The rows of a bucket as they were selected.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The bucket.
    pub bucket: Bucket,
    /// A time just before its rows were selected, by the database's clock: all that was written earlier was visible.
    pub at: DateTime<Utc>,
    /// The rows whose wallets are to be read.
    pub rows: SelectedRows,
    /// Wallets of other rows: they are on the record of failures, or read by themselves.
    pub left_out: Vec<Wallet>,
}

/// A row as it was selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedRow {
    /// Its key.
    pub wallet: Wallet,
    /// Its total in wei; `None` if it is not a whole number, or if a part was never read.
    pub total: Option<Total>,
    /// The block at which that was read; `None` if it is unknown.
    pub read_block: Option<u64>,
    /// True if a confirmation of this selection counts for the row.
    pub is_covered: bool,
}

/// Rows in the order of their wallets.
///
/// Hundreds of thousands of them wait for their readings: packed, a row takes half of the memory of a [`SelectedRow`].
#[derive(Clone, Debug, Default)]
pub struct SelectedRows {
    /// Each wallet, and where its row begins in `packed`.
    places: Vec<(Wallet, u32)>,
    /// What the rows hold besides their wallets, in no order.
    packed: Vec<u8>,
}

/// Bits of the first byte of a packed row.
const IS_COVERED: u8 = 1;
const HAS_BLOCK: u8 = 2;
const HAS_TOTAL: u8 = 4;

impl SelectedRows {
    /// How many rows there are.
    pub const fn len(&self) -> usize {
        self.places.len()
    }

    /// True if there is none.
    pub const fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The wallets, in order.
    pub fn wallets(&self) -> impl Iterator<Item = Wallet> {
        self.places.iter().map(|(wallet, _)| *wallet)
    }

    /// The wallet of the row at this place; `None` behind the last row.
    pub fn wallet(&self, place: usize) -> Option<Wallet> {
        self.places.get(place).map(|(wallet, _)| *wallet)
    }

    /// Where the row of this wallet is.
    pub fn place(&self, wallet: Wallet) -> Option<usize> {
        self.places.binary_search_by_key(&wallet, |(wallet, _)| *wallet).ok()
    }

    /// The row at this place.
    ///
    /// # Panics
    /// If the place is behind the last row.
    pub fn row(&self, place: usize) -> SelectedRow {
        let (wallet, start) = self.places[place];
        let mut packed = Packed(&self.packed[start as usize..]);
        let flags = packed.byte();
        SelectedRow {
            wallet,
            is_covered: flags & IS_COVERED != 0,
            read_block: (flags & HAS_BLOCK != 0).then(|| packed.number().saturating_to()),
            total: (flags & HAS_TOTAL != 0).then(|| {
                let sum = packed.number();
                let parts: usize = packed.number().saturating_to();
                Total { sum, parts: (0..parts).map(|_| packed.number()).collect() }
            }),
        }
    }

    /// Adds a row. Nothing is found before the rows are sorted.
    ///
    /// # Panics
    /// If the rows of one bucket fill gigabytes.
    pub fn push(&mut self, row: &SelectedRow) {
        let SelectedRow { wallet, total, read_block, is_covered } = row;
        let start = u32::try_from(self.packed.len()).expect("a bucket has thousands of rows");
        self.places.push((*wallet, start));
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        self.packed.push(
            flag(*is_covered, IS_COVERED)
                | flag(read_block.is_some(), HAS_BLOCK)
                | flag(total.is_some(), HAS_TOTAL),
        );
        if let Some(block) = read_block {
            pack(U256::from(*block), &mut self.packed);
        }
        if let Some(Total { sum, parts }) = total {
            pack(*sum, &mut self.packed);
            pack(U256::from(parts.len()), &mut self.packed);
            parts.iter().for_each(|part| pack(*part, &mut self.packed));
        }
    }

    /// Puts the rows into the order of their wallets.
    pub fn sort(&mut self) {
        self.places.sort_unstable();
        self.places.shrink_to_fit();
        self.packed.shrink_to_fit();
    }

    /// Takes out the rows of these wallets; returns the wallets.
    pub(super) fn take_out(&mut self, is_meant: impl Fn(Wallet) -> bool) -> Vec<Wallet> {
        let taken = self.places.extract_if(.., |(wallet, _)| is_meant(*wallet));
        taken.map(|(wallet, _)| wallet).collect()
    }
}

/// Appends a number: how many bytes it has, and then these.
fn pack(number: U256, packed: &mut Vec<u8>) {
    let bytes = number.to_be_bytes::<32>();
    let count = number.byte_len();
    packed.push(count as u8);
    packed.extend_from_slice(&bytes[32 - count..]);
}

/// What is left of a packed row.
struct Packed<'a>(&'a [u8]);

impl Packed<'_> {
    fn byte(&mut self) -> u8 {
        let (&first, rest) = self.0.split_first().expect("a whole row");
        self.0 = rest;
        first
    }

    fn number(&mut self) -> U256 {
        let count = usize::from(self.byte());
        let (number, rest) = self.0.split_at(count);
        self.0 = rest;
        let mut bytes = [0; 32];
        bytes[32 - count..].copy_from_slice(number);
        U256::from_be_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;
    use proptest::prelude::*;

    use super::*;

    /// Small numbers, large ones, and none.
    fn number() -> impl Strategy<Value = U256> {
        (any::<[u64; 4]>(), 0..=256_usize).prop_map(|(limbs, bits)| {
            U256::from_limbs(limbs).checked_shr(256 - bits).unwrap_or_default()
        })
    }

    fn row() -> impl Strategy<Value = SelectedRow> {
        let total = (number(), prop::collection::vec(number(), 0..4));
        let total = total.prop_map(|(sum, parts)| Total { sum, parts: parts.into() });
        let rest = (prop::option::of(total), any::<Option<u64>>(), any::<bool>());
        (any::<[u8; 20]>(), rest).prop_map(|(bytes, (total, read_block, is_covered))| SelectedRow {
            wallet: Address::from(bytes).into(),
            total,
            read_block,
            is_covered,
        })
    }

    proptest! {
        #[test]
        fn rows_are_found_as_they_were_added(rows in prop::collection::vec(row(), 0..50)) {
            let mut packed = SelectedRows::default();
            rows.iter().for_each(|row| packed.push(row));
            packed.sort();
            prop_assert_eq!(packed.len(), rows.len());
            prop_assert!(packed.wallets().is_sorted());
            for row in &rows {
                let place = packed.place(row.wallet);
                prop_assert_eq!(place.map(|place| packed.row(place)), Some(row.clone()));
            }
            let taken = packed.take_out(|wallet| wallet.address()[0] < 128);
            prop_assert!(taken.iter().all(|wallet| packed.place(*wallet).is_none()));
            prop_assert_eq!(packed.len() + taken.len(), rows.len());
            for place in 0..packed.len() {
                prop_assert!(rows.contains(&packed.row(place)));
            }
        }
    }
}
