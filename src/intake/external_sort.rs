//! Sorts any number of wallets, each once, in little memory: sorted runs in temporary
//! files, merged as they are read back.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
};

use alloy::primitives::Address;
use itertools::Itertools;

use crate::tally::Wallet;

/// Wallets kept in memory before they are written out as a run: 20 bytes each.
const RUN: usize = 250_000;

/// Collects wallets.
#[derive(Default)]
pub(super) struct ExternalSort {
    at_hand: Vec<Wallet>,
    /// Sorted runs; the files have no name, so none is left behind.
    runs: Vec<File>,
}

impl ExternalSort {
    /// Takes a wallet in.
    ///
    /// # Errors
    /// When a temporary file cannot be made or written.
    pub(super) fn push(&mut self, wallet: Wallet) -> io::Result<()> {
        self.at_hand.push(wallet);
        if self.at_hand.len() == RUN {
            let mut file = BufWriter::new(tempfile::tempfile()?);
            self.sort();
            for wallet in self.at_hand.drain(..) {
                file.write_all(wallet.address().as_slice())?;
            }
            let mut file = file.into_inner()?;
            file.rewind()?;
            self.runs.push(file);
        }
        Ok(())
    }

    /// All wallets, each once, in ascending order.
    pub(super) fn into_sorted(
        mut self,
    ) -> io::Result<impl Iterator<Item = io::Result<Wallet>> + Send> {
        self.sort();
        let runs = self.runs.into_iter().map(|file| Box::new(wallets_in(file)) as Sorted);
        let at_hand = Box::new(self.at_hand.into_iter().map(Ok)) as Sorted;
        Ok(runs
            .chain([at_hand])
            .kmerge_by(|one, other| match (one, other) {
                (Ok(one), Ok(other)) => one < other,
                // An error comes first, so that nothing is taken for whole that is not.
                (one, _) => one.is_err(),
            })
            .dedup_by(|one, other| matches!((one, other), (Ok(one), Ok(other)) if one == other)))
    }

    fn sort(&mut self) {
        self.at_hand.sort_unstable();
        self.at_hand.dedup();
    }
}

type Sorted = Box<dyn Iterator<Item = io::Result<Wallet>> + Send>;

/// The wallets in a run.
fn wallets_in(file: File) -> impl Iterator<Item = io::Result<Wallet>> {
    let mut file = BufReader::new(file);
    std::iter::from_fn(move || {
        let mut bytes = [0; 20];
        match file.read_exact(&mut bytes) {
            Ok(()) => Some(Ok(Wallet::from(Address::from(bytes)))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => Some(Err(error)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_fits_in_memory_comes_back_sorted_and_each_once() {
        let wallet = |n: usize| {
            // A fixed permutation of the numbers, so that runs overlap.
            let scattered = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Wallet::from(Address::left_padding_from(&scattered.to_be_bytes()))
        };
        let distinct = RUN * 2 + 1000;
        let mut external_sort = ExternalSort::default();
        for n in (0..distinct).chain(0..1000).chain(RUN..RUN + 1000) {
            external_sort.push(wallet(n)).unwrap();
        }
        assert_eq!(external_sort.runs.len(), 2);
        let sorted: Vec<_> = external_sort.into_sorted().unwrap().map(Result::unwrap).collect();
        assert_eq!(sorted.len(), distinct);
        assert!(sorted.is_sorted_by(|one, other| one < other));
    }
}
