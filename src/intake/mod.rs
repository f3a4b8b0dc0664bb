//! What comes in from a file: rows of CSV become wallets, each once, in order.
//!
//! Memory does not grow with the file: what is more than `external_sort` keeps at hand goes to a
//! temporary file, and comes back merged.

mod external_sort;
mod rows;

use std::io::Read;

use crate::tally::{RunError, Shutdown, Wallet};

pub use rows::{Reject, RowsError};

/// What a file held.
pub struct Intake {
    /// Rows, without a header and blank lines.
    pub rows: u64,
    /// Rows that hold no wallet.
    pub rejected: u64,
    /// The wallets, each once, in ascending order.
    pub wallets: Box<dyn Iterator<Item = std::io::Result<Wallet>> + Send>,
}

impl Default for Intake {
    /// Nothing.
    fn default() -> Self {
        Self { rows: 0, rejected: 0, wallets: Box::new(std::iter::empty()) }
    }
}

/// Reads every row of a CSV file; `rejects` sees each row that holds no wallet.
///
/// The wallet is in the column named `column`, else in the one named `wallet` or `address`,
/// else in the first.
///
/// # Errors
/// When the input cannot be read, there is no column of that name, or the temporary file fails.
pub fn read(
    input: impl Read,
    column: Option<&str>,
    shutdown: &Shutdown,
    mut rejects: impl FnMut(Reject) -> anyhow::Result<()>,
) -> anyhow::Result<Intake> {
    let mut external_sort = external_sort::ExternalSort::default();
    let mut rejected = 0;
    let rows = rows::read(input, column, |row| {
        if shutdown.is_requested() {
            return Err(RunError::stopped().into());
        }
        match row {
            Ok(wallet) => Ok(external_sort.push(wallet)?),
            Err(reject) => {
                rejected += 1;
                rejects(reject)
            }
        }
    })?;
    Ok(Intake { rows, rejected, wallets: Box::new(external_sort.into_sorted()?) })
}
