//! Sorts any number of wallets and drops duplicates, in little memory: sorted runs are written to
//! temporary files and merged when they are read back.

use std::{
    env,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    mem,
    path::Path,
};

use alloy::primitives::Address;
use anyhow::Context;
use itertools::{Either, Itertools};

use crate::tally::Wallet;

/// Wallets kept in memory before they are written to a file as a run: 20 bytes each.
const RUN: usize = 250_000;

/// Runs that are merged into one, so that few files are open at a time.
const MOST_RUNS: usize = 100;

/// Wallets to be sorted.
pub(super) struct ExternalSort {
    in_memory: Vec<Wallet>,
    /// Sorted runs, in files without a name, so that none is left behind.
    runs: Vec<File>,
    run: usize,
    most_runs: usize,
}

impl Default for ExternalSort {
    fn default() -> Self {
        Self { in_memory: Vec::new(), runs: Vec::new(), run: RUN, most_runs: MOST_RUNS }
    }
}

impl ExternalSort {
    /// Adds a wallet.
    ///
    /// # Errors
    /// When a temporary file cannot be created or written.
    pub(super) fn push(&mut self, wallet: Wallet) -> anyhow::Result<()> {
        self.in_memory.push(wallet);
        if self.in_memory.len() < self.run {
            return Ok(());
        }
        let folder = env::temp_dir();
        self.write_run(&folder).with_context(|| {
            format!(
                "folder {}: a temporary file cannot be written; free space there, or name another folder with TMPDIR",
                folder.display()
            )
        })
    }

    /// Moves the wallets in memory to a file.
    fn write_run(&mut self, folder: &Path) -> io::Result<()> {
        self.sort();
        let run = write(folder, self.in_memory.drain(..).map(Ok))?;
        self.runs.push(run);
        if self.runs.len() == self.most_runs {
            let merged = write(folder, merge(mem::take(&mut self.runs), Vec::new()))?;
            self.runs.push(merged);
        }
        Ok(())
    }

    /// Returns all wallets in ascending order, without duplicates.
    pub(super) fn into_sorted(mut self) -> impl Iterator<Item = io::Result<Wallet>> + Send {
        self.sort();
        merge(self.runs, self.in_memory)
    }

    fn sort(&mut self) {
        self.in_memory.sort_unstable();
        self.in_memory.dedup();
    }
}

/// Writes wallets to a temporary file, which has no name and so vanishes however the process ends.
fn write(folder: &Path, wallets: impl Iterator<Item = io::Result<Wallet>>) -> io::Result<File> {
    let mut file = BufWriter::new(tempfile::tempfile_in(folder)?);
    for wallet in wallets {
        file.write_all(wallet?.address().as_slice())?;
    }
    let mut file = file.into_inner()?;
    file.rewind()?;
    Ok(file)
}

/// All wallets of these sorted runs, in ascending order, without duplicates.
fn merge(
    runs: Vec<File>,
    in_memory: Vec<Wallet>,
) -> impl Iterator<Item = io::Result<Wallet>> + Send {
    let runs = runs.into_iter().map(|file| Either::Left(wallets_in(file)));
    let in_memory = Either::Right(in_memory.into_iter().map(Ok));
    runs.chain([in_memory])
        .kmerge_by(|one, other| match (one, other) {
            (Ok(one), Ok(other)) => one < other,
            // An error comes first, so that an incomplete run is never taken for a complete one.
            (one, _) => one.is_err(),
        })
        .dedup_by(|one, other| matches!((one, other), (Ok(one), Ok(other)) if one == other))
}

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
    fn more_wallets_than_fit_in_memory_are_sorted_without_duplicates() {
        let wallet = |n: usize| {
            // A fixed permutation of the numbers, so that runs overlap.
            let scattered = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Wallet::from(Address::left_padding_from(&scattered.to_be_bytes()))
        };
        let run = 1000;
        let distinct = run * 14 + 100;
        let mut external_sort = ExternalSort { run, most_runs: 5, ..ExternalSort::default() };
        for n in (0..distinct).chain(0..100).chain(run..run + 100) {
            external_sort.push(wallet(n)).unwrap();
        }
        // Three times, five runs were merged into one.
        assert_eq!(external_sort.runs.len(), 2);
        let sorted: Vec<_> = external_sort.into_sorted().map(Result::unwrap).collect();
        assert_eq!(sorted.len(), distinct);
        assert!(sorted.is_sorted_by(|one, other| one < other));
    }
}
