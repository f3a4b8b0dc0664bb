//! Sorts any number of keys and drops duplicates, in little memory: sorted runs are written to temporary files and
//! merged when they are read back.

use std::{
    env,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    mem,
    path::Path,
};

use anyhow::Context;
use itertools::{Either, Itertools};

/// Keys kept in memory before they are written to a file as a run.
const RUN: usize = 250_000;

/// Runs that are merged into one, so that few files are open at a time.
const MOST_RUNS: usize = 100;

/// Keys of `N` bytes to be sorted.
pub struct ExternalSort<const N: usize> {
    in_memory: Vec<[u8; N]>,
    /// Sorted runs, in files without a name, so that none is left behind.
    runs: Vec<File>,
    /// The last key of the last run; `None` if it is not known.
    last: Option<[u8; N]>,
    run: usize,
    most_runs: usize,
}

impl<const N: usize> Default for ExternalSort<N> {
    fn default() -> Self {
        Self { in_memory: Vec::new(), runs: Vec::new(), last: None, run: RUN, most_runs: MOST_RUNS }
    }
}

impl<const N: usize> ExternalSort<N> {
    /// Adds a key.
    ///
    /// # Errors
    /// When a temporary file cannot be created or written.
    pub fn push(&mut self, key: [u8; N]) -> anyhow::Result<()> {
        self.in_memory.push(key);
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

    /// Moves the keys in memory to a file.
    fn write_run(&mut self, folder: &Path) -> io::Result<()> {
        self.sort();
        let (first, last) = (self.in_memory.first().copied(), self.in_memory.last().copied());
        let keys = self.in_memory.drain(..).map(Ok);
        let run = match self.last.zip(first) {
            // Keys that are pushed in order stay one run.
            Some((before, first)) if before < first => self.runs.pop(),
            _ => None,
        };
        let run = run.map_or_else(|| tempfile::tempfile_in(folder), Ok)?;
        self.runs.push(write(run, keys)?);
        self.last = last;
        if self.runs.len() == self.most_runs {
            let keys = merge::<N>(mem::take(&mut self.runs), Vec::new());
            self.runs.push(write(tempfile::tempfile_in(folder)?, keys)?);
            self.last = None;
        }
        Ok(())
    }

    /// Returns all keys in ascending order, without duplicates.
    pub fn into_sorted(mut self) -> impl Iterator<Item = io::Result<[u8; N]>> + Send {
        self.sort();
        merge(self.runs, self.in_memory)
    }

    fn sort(&mut self) {
        self.in_memory.sort_unstable();
        self.in_memory.dedup();
    }
}

/// Writes keys to the end of a temporary file, which has no name and so vanishes however the process ends.
fn write<const N: usize>(
    mut file: File,
    keys: impl Iterator<Item = io::Result<[u8; N]>>,
) -> io::Result<File> {
    file.seek(SeekFrom::End(0))?;
    let mut file = BufWriter::new(file);
    for key in keys {
        file.write_all(&key?)?;
    }
    let mut file = file.into_inner()?;
    file.rewind()?;
    Ok(file)
}

/// All keys of these sorted runs, in ascending order, without duplicates.
fn merge<const N: usize>(
    runs: Vec<File>,
    in_memory: Vec<[u8; N]>,
) -> impl Iterator<Item = io::Result<[u8; N]>> + Send {
    let runs = runs.into_iter().map(|file| Either::Left(keys_in(file)));
    let in_memory = Either::Right(in_memory.into_iter().map(Ok));
    runs.chain([in_memory])
        .kmerge_by(|one, other| match (one, other) {
            (Ok(one), Ok(other)) => one < other,
            // An error comes first, so that an incomplete run is never taken for a complete one.
            (one, _) => one.is_err(),
        })
        .dedup_by(|one, other| matches!((one, other), (Ok(one), Ok(other)) if one == other))
}

/// The keys in a file, one behind the other.
pub fn keys_in<const N: usize>(file: File) -> impl Iterator<Item = io::Result<[u8; N]>> + Send {
    let mut file = BufReader::new(file);
    std::iter::from_fn(move || {
        let mut key = [0; N];
        match file.read_exact(&mut key) {
            Ok(()) => Some(Ok(key)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => Some(Err(error)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_keys_than_fit_in_memory_are_sorted_without_duplicates() {
        let key = |n: usize| {
            // A fixed permutation of the numbers, so that runs overlap.
            (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
        };
        let run = 1000;
        let distinct = run * 14 + 100;
        let mut external_sort = ExternalSort { run, most_runs: 5, ..ExternalSort::default() };
        for n in (0..distinct).chain(0..100).chain(run..run + 100) {
            external_sort.push(key(n)).unwrap();
        }
        // Three times, five runs were merged into one.
        assert_eq!(external_sort.runs.len(), 2);
        let sorted: Vec<_> = external_sort.into_sorted().map(Result::unwrap).collect();
        assert_eq!(sorted.len(), distinct);
        assert!(sorted.is_sorted_by(|one, other| one < other));
    }

    #[test]
    fn keys_that_are_pushed_in_order_are_one_run() {
        let mut external_sort = ExternalSort { run: 10, ..ExternalSort::default() };
        let key = |n: u32| n.to_be_bytes();
        for n in (0..95).chain(90..120).chain(50..60).chain(200..215) {
            external_sort.push(key(n)).unwrap();
        }
        // The second begins with 50, the third with 55.
        assert_eq!(external_sort.runs.len(), 3);
        let sorted: Vec<_> = external_sort.into_sorted().map(Result::unwrap).collect();
        assert_eq!(sorted, (0..120).chain(200..215).map(key).collect::<Vec<_>>());
    }
}
