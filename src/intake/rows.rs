//! Rows of CSV, as they come: with or without a header, a BOM, CRLF, quotes.

use std::{
    cell::Cell,
    io::{self, Read},
};

use csv::{ByteRecord, ReaderBuilder};
use thiserror::Error;
use tracing::info;

use crate::tally::{Wallet, WalletError};

/// Column names that mean a wallet, in any case.
const NAMES: [&str; 2] = ["wallet", "address"];

/// Bytes in a row, at most. A quote that is never closed makes the rest of a file one row.
const LONGEST_ROW: usize = 1 << 20;

/// A row that holds no wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The line at which the row begins, from 1.
    pub line: u64,
    /// What stands in the wallet's column.
    pub value: String,
    /// Why that is no wallet.
    pub reason: String,
}

/// Why a file cannot be taken in at all.
#[derive(Debug, Error)]
pub enum RowsError {
    /// There is no column of the name asked for.
    #[error("it has no column {0:?}; its first line names {1}")]
    NoColumn(String, String),
    /// A row that does not end: most likely a quote is opened and not closed.
    #[error(
        "line {0}: the row is longer than {LONGEST_ROW} bytes; is a quote opened and not closed?"
    )]
    Endless(u64),
    /// The text is UTF-16.
    #[error("it is UTF-16; save it as UTF-8")]
    Utf16,
}

/// Reads every row and gives each to `each`; returns how many there were.
///
/// # Errors
/// When the input cannot be read, a [`RowsError`], or what `each` returns.
pub(super) fn read(
    input: impl Read,
    column: Option<&str>,
    mut each: impl FnMut(Result<Wallet, Reject>) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let since_row = Cell::new(0);
    // The reader takes a BOM away by itself.
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
            return Err(anyhow::Error::from(RowsError::Endless(line)));
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

/// Input that fails when too much of it was read since a row began.
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

/// Which column holds the wallet, and whether the first record is a header.
fn wallet_column(first: &ByteRecord, column: Option<&str>) -> Result<(usize, bool), RowsError> {
    let named = |name: &str| {
        first.iter().position(|field| field.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    };
    if let Some(name) = column {
        let columns = first.iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(", ");
        return named(name)
            .map(|index| (index, true))
            .ok_or_else(|| RowsError::NoColumn(name.to_owned(), columns));
    }
    if let Some(index) = NAMES.into_iter().find_map(named) {
        return Ok((index, true));
    }
    // A first field that is not even meant as an address is a column's name.
    let is_header = first.get(0).is_some_and(|field| {
        let field = field.trim_ascii();
        field.iter().any(u8::is_ascii_alphabetic) && !is_meant_as_address(field)
    });
    if is_header {
        info!("the first line is taken for a header, its first column for the wallet");
    }
    Ok((0, is_header))
}

/// Begins with `0x`, in any case, or is a long row of hexadecimal digits: no column is called that.
fn is_meant_as_address(field: &[u8]) -> bool {
    matches!(field, [b'0', b'x' | b'X', ..])
        || field.len() >= 16 && field.iter().all(u8::is_ascii_hexdigit)
}

/// The wallet in the record's column.
fn wallet(record: &ByteRecord, index: usize) -> Result<Wallet, Reject> {
    let reject = |value: &str, reason: String| Reject {
        line: record.position().map_or(0, csv::Position::line),
        value: value.to_owned(),
        reason,
    };
    let Some(field) = record.get(index) else {
        return Err(reject("", format!("the row has only {} columns", record.len())));
    };
    let text = String::from_utf8_lossy(field.trim_ascii());
    text.parse().map_err(|error: WalletError| reject(&text, error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "0x18aaa7115705e8be94bffebde57af9bfc265b998";
    const B: &str = "0xe6d97b2099f142513be7a2a068be040656ae4591";

    /// Wallets and the lines of rejects.
    fn taken(text: &str, column: Option<&str>) -> anyhow::Result<(u64, Vec<String>, Vec<u64>)> {
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
    fn rows_without_a_wallet_are_told_by_their_line() {
        let text = format!(
            "id,wallet\n1,{A}\n2,0x12\n3\n4,{B}\n\"5\nx\",\n6,18aaa7115705e8be94bffebde57af9bfc265b998\n"
        );
        let (rows, wallets, lines) = taken(&text, None).unwrap();
        assert_eq!((rows, wallets.len()), (6, 2));
        assert_eq!(lines, [3, 4, 6, 8]);
    }

    #[test]
    fn a_first_row_that_is_a_bad_address_is_no_header() {
        assert_eq!(taken("0x12\n", None).unwrap(), (1, vec![], vec![1]));
        for digits in [&A[2..], &A[2..41], &A[2..30]] {
            assert_eq!(taken(digits, None).unwrap(), (1, vec![], vec![1]), "{digits}");
        }
        assert_eq!(taken(&A.replace('x', "X"), None).unwrap(), (1, vec![], vec![1]));
    }

    #[test]
    fn a_quote_that_is_not_closed_swallows_nothing_in_silence() {
        let text = format!("{A}\n\"{B}\n{}", format!("{A}\n").repeat(100_000));
        let error = taken(&text, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2: the row is longer than 1048576 bytes; is a quote opened and not closed?"
        );
    }

    #[test]
    fn what_cannot_be_taken_in_is_said() {
        let error = taken("id,name\n1,x\n", Some("wallet")).unwrap_err();
        assert_eq!(error.to_string(), "it has no column \"wallet\"; its first line names id, name");
        assert_eq!(taken("", None).unwrap().0, 0);
        let utf16 = [0xff, 0xfe, b'w', 0];
        let error = read(utf16.as_slice(), None, |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "it is UTF-16; save it as UTF-8");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_every_row_is_a_wallet_or_a_reject(bytes: Vec<u8>) {
            let mut seen = 0;
            if let Ok(rows) = read(bytes.as_slice(), None, |_| { seen += 1; Ok(()) }) {
                prop_assert_eq!(rows, seen);
            }
        }

        #[test]
        fn every_good_row_is_taken_whatever_stands_beside_it(
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
