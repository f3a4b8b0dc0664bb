//! The rows of a CSV file, with or without a header, a BOM, CRLF and quotes: finds the wallet of each.

use std::{
    cell::Cell,
    fmt,
    io::{self, Read},
};

use csv::{ByteRecord, ReaderBuilder};
use thiserror::Error;
use tracing::info;

use crate::tally::{RunError, Wallet, WalletError};

/// Names of the wallet's column, in any case.
const NAMES: [&str; 2] = ["wallet", "address"];

/// Maximum bytes of a row. A quote that is never closed makes the rest of a file one row.
const LONGEST_ROW: usize = 1 << 20;

/// Maximum characters of the file that a message shows.
const SHOWN: usize = 60;

/// A row without a valid wallet address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The line on which the row begins, from 1.
    pub line: u64,
    /// The text in the wallet's column.
    pub value: String,
    /// Why it is not a wallet address.
    pub reason: String,
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, value, reason } = self;
        write!(f, "line {line}: {:?} is not a wallet address: {reason}", start_of(value))
    }
}

/// Why a file cannot be read.
#[derive(Debug, Error)]
enum RowsError {
    /// There is no column of the name asked for.
    #[error("there is no column {0:?}; the first line has the columns {1}")]
    NoColumn(String, String),
    /// A row that does not end: most likely a quote is opened and not closed.
    #[error(
        "line {0}: the row is longer than {LONGEST_ROW} bytes; check for a quote that is not closed"
    )]
    Endless(u64),
    /// The text is UTF-16.
    #[error("UTF-16 is not supported; save the file as UTF-8")]
    Utf16,
    /// The input cannot be read, or is not CSV.
    #[error(transparent)]
    Csv(#[from] csv::Error),
}

impl From<RowsError> for RunError {
    fn from(error: RowsError) -> Self {
        Self::Settings(error.into())
    }
}

/// Reads every row and passes it to `each`; returns the number of rows.
///
/// # Errors
/// [`RunError::Settings`] with a [`RowsError`], or what `each` returns.
pub(super) fn read(
    input: impl Read,
    column: Option<&str>,
    mut each: impl FnMut(Result<Wallet, Reject>) -> Result<(), RunError>,
) -> Result<u64, RunError> {
    let since_row = Cell::new(0);
    // The reader removes a BOM.
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(1 << 16)
        .from_reader(Bounded { input, since_row: &since_row });
    let mut record = ByteRecord::new();
    let mut next = |record: &mut ByteRecord| {
        since_row.set(0);
        let line = reader.position().line();
        let read = reader.read_byte_record(record);
        if since_row.get() > LONGEST_ROW {
            return Err(RowsError::Endless(line));
        }
        Ok(read?)
    };
    if !next(&mut record)? {
        return Ok(0);
    }
    if matches!(record.as_slice(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
        return Err(RowsError::Utf16.into());
    }
    let (index, is_header) = wallet_column(&record, column)?;
    let mut rows = 0;
    if !is_header {
        rows += 1;
        each(wallet(&record, index))?;
    }
    while next(&mut record)? {
        rows += 1;
        each(wallet(&record, index))?;
    }
    Ok(rows)
}

/// Fails when more than [`LONGEST_ROW`] bytes were read since a row began.
struct Bounded<'a, R> {
    input: R,
    since_row: &'a Cell<usize>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since_row.get() > LONGEST_ROW {
            return Err(io::Error::other("a row does not end"));
        }
        let count = self.input.read(buffer)?;
        self.since_row.set(self.since_row.get() + count);
        Ok(count)
    }
}

/// The index of the wallet's column, and whether the first record is a header.
fn wallet_column(first: &ByteRecord, column: Option<&str>) -> Result<(usize, bool), RowsError> {
    let named = |name: &str| {
        first.iter().position(|field| field.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    };
    if let Some(name) = column {
        let columns = first.iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(", ");
        let columns = start_of(&columns);
        return named(name)
            .map(|index| (index, true))
            .ok_or_else(|| RowsError::NoColumn(name.to_owned(), columns));
    }
    if let Some(index) = NAMES.into_iter().find_map(named) {
        return Ok((index, true));
    }
    // A first field that does not look like an address is the name of a column.
    let is_header = first.get(0).is_some_and(|field| {
        let field = field.trim_ascii();
        field.iter().any(u8::is_ascii_alphabetic) && !looks_like_address(field)
    });
    if is_header {
        info!("taking the first line as a header, and its first column as the wallet");
    }
    Ok((0, is_header))
}

/// True for a text that starts with `0x`, in any case, or is a long run of hexadecimal digits.
fn looks_like_address(field: &[u8]) -> bool {
    matches!(field, [b'0', b'x' | b'X', ..])
        || field.len() >= 16 && field.iter().all(u8::is_ascii_hexdigit)
}

/// The wallet in this column of the record.
fn wallet(record: &ByteRecord, index: usize) -> Result<Wallet, Reject> {
    let reject = |value: &str, reason: String| Reject {
        line: record.position().map_or(0, csv::Position::line),
        value: value.to_owned(),
        reason,
    };
    let Some(field) = record.get(index) else {
        return Err(reject("", "the row has too few columns".to_owned()));
    };
    let text = String::from_utf8_lossy(field.trim_ascii());
    text.parse().map_err(|error: WalletError| reject(&text, error.to_string()))
}

/// The first characters of a text.
fn start_of(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "0x18aaa7115705e8be94bffebde57af9bfc265b998";
    const B: &str = "0xe6d97b2099f142513be7a2a068be040656ae4591";

    /// The number of rows, the wallets, and the lines of the rejects.
    fn taken(text: &str, column: Option<&str>) -> Result<(u64, Vec<String>, Vec<u64>), RunError> {
        let (mut wallets, mut lines) = (Vec::new(), Vec::new());
        let rows = read(text.as_bytes(), column, |row| {
            match row {
                Ok(wallet) => wallets.push(wallet.to_string()),
                Err(reject) => lines.push(reject.line),
            }
            Ok(())
        })?;
        Ok((rows, wallets, lines))
    }

    #[test]
    fn the_wallet_is_found_however_the_file_is_written() {
        let both = vec![A.to_owned(), B.to_owned()];
        for text in [
            format!("{A}\n{B}\n"),
            format!("{A}\n{B}"),
            format!("wallet\n{A}\n{B}\n"),
            format!("\u{feff}wallet\n{A}\n{B}\n"),
            format!("\u{feff}{A}\n{B}\n"),
            format!("id,Address\r\n1,{A}\r\n2,{B}\r\n"),
            format!("\"id\",\"WALLET\"\n\"1\",\"{A}\"\n\n\"2\",\"{B}\"\n"),
            format!("account,name\n{A},x\n{B},y\n"),
            format!(" {A} ,x\n{B}\n"),
        ] {
            assert_eq!(taken(&text, None).unwrap(), (2, both.clone(), vec![]), "{text:?}");
        }
        let text = format!("wallet,owner\n{B},{A}\n{A},{B}\n");
        assert_eq!(taken(&text, Some("OWNER")).unwrap(), (2, both, vec![]));
    }

    #[test]
    fn rows_without_a_wallet_are_rejected_with_their_line() {
        let text = format!(
            "id,wallet\n1,{A}\n2,0x12\n3\n4,{B}\n\"5\nx\",\n6,18aaa7115705e8be94bffebde57af9bfc265b998\n"
        );
        let (rows, wallets, lines) = taken(&text, None).unwrap();
        assert_eq!((rows, wallets.len()), (6, 2));
        assert_eq!(lines, [3, 4, 6, 8]);
    }

    #[test]
    fn a_first_row_with_a_bad_address_is_not_a_header() {
        assert_eq!(taken("0x12\n", None).unwrap(), (1, vec![], vec![1]));
        for digits in [&A[2..], &A[2..41], &A[2..30]] {
            assert_eq!(taken(digits, None).unwrap(), (1, vec![], vec![1]), "{digits}");
        }
        assert_eq!(taken(&A.replace('x', "X"), None).unwrap(), (1, vec![], vec![1]));
    }

    #[test]
    fn a_quote_that_is_not_closed_is_an_error() {
        let text = format!("{A}\n\"{B}\n{}", format!("{A}\n").repeat(100_000));
        let error = taken(&text, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2: the row is longer than 1048576 bytes; check for a quote that is not closed"
        );
    }

    #[test]
    fn files_that_cannot_be_read_are_errors() {
        let error = taken("id,name\n1,x\n", Some("wallet")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no column \"wallet\"; the first line has the columns id, name"
        );
        assert_eq!(taken("", None).unwrap().0, 0);
        let utf16 = [0xff, 0xfe, b'w', 0];
        let error = read(utf16.as_slice(), None, |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "UTF-16 is not supported; save the file as UTF-8");
    }

    proptest! {
        #[test]
        fn any_bytes_give_wallets_and_rejects_without_a_panic(bytes: Vec<u8>) {
            let mut seen = 0;
            if let Ok(rows) = read(bytes.as_slice(), None, |_| { seen += 1; Ok(()) }) {
                prop_assert_eq!(rows, seen);
            }
        }

        #[test]
        fn every_good_row_is_read_whatever_is_in_other_columns(
            bytes: Vec<[u8; 20]>,
            noise in "[a-z \"',;|\n\r]{0,20}",
        ) {
            let wallets: Vec<_> =
                bytes.iter().map(|bytes| Wallet::from(alloy::primitives::Address::from(bytes)).to_string()).collect();
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["note", "wallet"]).unwrap();
            for wallet in &wallets {
                writer.write_record([&noise, wallet]).unwrap();
            }
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            let (_, taken, rejected) = taken(&text, None).unwrap();
            prop_assert_eq!(taken, wallets);
            prop_assert!(rejected.is_empty());
        }
    }
}
