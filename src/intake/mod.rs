//! CSV files: reads the wallets in them, without duplicates and in order.
//!
//! A file passes through `text` (gzip, UTF-16, line ends; `foreign` names what is not CSV), `rows` and `column`
//! (delimiter, header, the address in a field) into [`crate::external_sort`].
//!
//! Memory does not grow with the file: wallets beyond a limit go to temporary files and are merged from
//! there. Knows neither node nor database.

mod column;
mod foreign;
mod rows;
mod text;
mod utf16;

use std::io::Read;

use alloy::primitives::Address;

use self::rows::Found;
use crate::{
    external_sort::ExternalSort,
    tally::{RunError, Shutdown, Wallet},
};

pub use rows::Reject;

/// The content of a file.
pub struct Intake {
    /// Rows, without the header and blank lines.
    pub rows: u64,
    /// Rows without a valid wallet address.
    pub rejected: u64,
    /// If the file holds no wallet: what it holds instead, and the remedy.
    pub without_wallets: Option<String>,
    /// The wallets, without duplicates, in ascending order.
    pub wallets: Box<dyn Iterator<Item = std::io::Result<Wallet>> + Send>,
}

impl Default for Intake {
    /// A file that was not read.
    fn default() -> Self {
        Self { rows: 0, rejected: 0, without_wallets: None, wallets: Box::new(std::iter::empty()) }
    }
}

/// Reads every row of a CSV file, and passes each row without a valid wallet address to `rejects`.
///
/// The wallet is in the column named `column`, else in the one named `wallet` or `address`,
/// else in the first. Columns are separated by commas, semicolons, tabs, pipes or what a first line `sep=…`
/// names; the text is UTF-8 or UTF-16, and may be compressed by gzip.
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
    let mut external_sort = ExternalSort::default();
    let mut rejected = 0;
    let found = rows::read(input, column, |row| {
        if shutdown.is_requested() {
            return Err(RunError::stopped());
        }
        match row {
            Ok(wallet) => Ok(external_sort.push(wallet.address().into_array())?),
            Err(reject) => {
                rejected += 1;
                rejects(&reject)
            }
        }
    })?;
    let keys = external_sort.into_sorted();
    let wallets = keys.map(|key| key.map(|key| Wallet::from(Address::from(key))));
    let without_wallets = (found.rows == rejected).then(|| explain(&found));
    Ok(Intake { rows: found.rows, rejected, without_wallets, wallets: Box::new(wallets) })
}

/// What a file without wallets holds, and the remedy.
fn explain(found: &Found) -> String {
    let rows = found.rows;
    match &found.header {
        header if rows > 0 => {
            let columns = header.as_ref().map(|header| format!("; the columns are {header}"));
            format!(
                "none of the {rows} rows holds a wallet address; name the column with --column, \
                 and separate columns by commas, semicolons, tabs or pipes{}",
                columns.unwrap_or_default()
            )
        }
        Some(header) => {
            format!("holds only a header, {header:?}, and no wallet; add a row for each wallet")
        }
        None if found.is_empty => "is empty and holds no wallet; check how it was made".to_owned(),
        None => "holds only blank lines and no wallet; check how it was made".to_owned(),
    }
}
