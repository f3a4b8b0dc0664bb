//! CSV files: reads the wallets in them, without duplicates and in order.
//!
//! Memory does not grow with the file: wallets beyond a limit go to temporary files and are merged from
//! there. Knows neither node nor database.

mod external_sort;
mod rows;

use std::io::Read;

use anyhow::Context;

use self::external_sort::ExternalSort;
use crate::tally::{RunError, Shutdown, Wallet};

pub use rows::Reject;

/// The content of a file.
pub struct Intake {
    /// Rows, without the header and blank lines.
    pub rows: u64,
    /// Rows without a valid wallet address.
    pub rejected: u64,
    /// The wallets, without duplicates, in ascending order.
    pub wallets: Box<dyn Iterator<Item = std::io::Result<Wallet>> + Send>,
}

impl Default for Intake {
    /// An empty file.
    fn default() -> Self {
        Self { rows: 0, rejected: 0, wallets: Box::new(std::iter::empty()) }
    }
}

/// Reads every row of a CSV file, and passes each row without a valid wallet address to `rejects`.
///
/// The wallet is in the column named `column`, else in the one named `wallet` or `address`,
/// else in the first.
///
/// # Errors
/// [`RunError::Settings`] when the input cannot be read as CSV, has no column of that name, or a
/// temporary file fails; [`RunError::Stopped`] at a shutdown; or the error of `rejects`.
pub fn read(
    input: impl Read,
    column: Option<&str>,
    shutdown: &Shutdown,
    mut rejects: impl FnMut(&Reject) -> Result<(), RunError>,
) -> Result<Intake, RunError> {
    const TEMPORARY_FILE: &str = "cannot use a temporary file; check the free space of TMPDIR";
    let mut external_sort = ExternalSort::default();
    let mut rejected = 0;
    let rows = rows::read(input, column, |row| {
        if shutdown.is_requested() {
            return Err(RunError::stopped());
        }
        match row {
            Ok(wallet) => Ok(external_sort.push(wallet).context(TEMPORARY_FILE)?),
            Err(reject) => {
                rejected += 1;
                rejects(&reject)
            }
        }
    })?;
    let wallets = external_sort.into_sorted().context(TEMPORARY_FILE)?;
    Ok(Intake { rows, rejected, wallets: Box::new(wallets) })
}
