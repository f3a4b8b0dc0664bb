//! The rows of a CSV file: finds the wallet of each.

use std::{
    cell::Cell,
    fmt,
    io::{self, Read},
};

use csv::{ByteRecord, ReaderBuilder};
use thiserror::Error;
use tracing::info;

use super::{
    column,
    text::{self, TextError},
};
use crate::tally::{RunError, Wallet, WalletError};

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

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Rows, without the header and blank lines.
    pub(super) rows: u64,
    /// The start of the header, if there is one.
    pub(super) header: Option<String>,
    /// Whether the file holds no character at all.
    pub(super) is_empty: bool,
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
    /// The file ends within quotes, so that rows after the quote cannot be told from its text.
    #[error("line {0}: a quote is not closed; close it, or remove it")]
    Unclosed(u64),
    /// The file is of a format other than CSV.
    #[error("is {0}, not CSV; {1}")]
    Foreign(&'static str, &'static str),
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

impl From<csv::Error> for RowsError {
    fn from(error: csv::Error) -> Self {
        match error.into_kind() {
            csv::ErrorKind::Io(error) => Self::Io(error),
            other => Self::Io(io::Error::other(format!("{other:?}"))),
        }
    }
}

impl From<TextError> for RowsError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Foreign(foreign) => Self::Foreign(foreign.name, foreign.remedy),
            TextError::Io(error) => Self::Io(error),
        }
    }
}

impl From<RowsError> for RunError {
    fn from(error: RowsError) -> Self {
        Self::Settings(error.into())
    }
}

/// Reads every row and passes it to `each`.
///
/// # Errors
/// [`RunError::Settings`] with a [`RowsError`], or what `each` returns.
pub(super) fn read(
    input: impl Read,
    name: Option<&str>,
    mut each: impl FnMut(Result<Wallet, Reject>) -> Result<(), RunError>,
) -> Result<Found, RunError> {
    let text = text::open(input).map_err(RowsError::from)?;
    let declared = column::declared_delimiter(&text.head);
    let delimiter =
        declared.unwrap_or_else(|| column::likely_delimiter(&text.head, text.is_whole, name));
    let mut found = Found { is_empty: text.head.is_empty(), ..Found::default() };
    let mut rows = Rows::new(text.content, delimiter);
    if declared.is_some() {
        rows.next()?;
    }
    let Some(line) = rows.next()? else { return Ok(found) };
    let Some(column) = column::wallet_column(&rows.record, name) else {
        let name = name.unwrap_or_default().to_owned();
        return Err(RowsError::NoColumn(name, start_of(&column::names(&rows.record))).into());
    };
    if column.has_header {
        found.header = Some(start_of(&column::names(&rows.record)));
        if !column.is_named {
            info!("taking the first line as a header, and its first column as the wallet");
        }
    } else {
        found.rows += 1;
        each(wallet(&rows.record, column.index, line))?;
    }
    while let Some(line) = rows.next()? {
        found.rows += 1;
        each(wallet(&rows.record, column.index, line))?;
    }
    Ok(found)
}

/// The records of a text.
struct Rows<'a> {
    reader: csv::Reader<Bounded<'a>>,
    record: ByteRecord,
    /// Whether [`text::END`] came as a record of its own.
    has_ended: bool,
    /// The line on which the last record began.
    line: u64,
}

impl<'a> Rows<'a> {
    fn new(input: Box<dyn Read + 'a>, delimiter: u8) -> Self {
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .buffer_capacity(1 << 16)
            .from_reader(Bounded { input, since_row: Cell::new(0) });
        Self { reader, record: ByteRecord::new(), has_ended: false, line: 0 }
    }

    /// Reads the next record and returns the line on which it begins.
    fn next(&mut self) -> Result<Option<u64>, RowsError> {
        loop {
            self.reader.get_ref().since_row.set(0);
            let before = self.reader.position().line();
            let read = self.reader.read_byte_record(&mut self.record);
            if self.reader.get_ref().since_row.get() > LONGEST_ROW {
                return Err(RowsError::Endless(before));
            }
            if !read? {
                // A record within quotes has no line end of its own.
                return if self.has_ended {
                    Ok(None)
                } else {
                    Err(RowsError::Unclosed(self.line + 1))
                };
            }
            // The reader's own line of a record is that of the blank lines before it.
            let inner = self.record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
            self.line = self.reader.position().line().saturating_sub(1 + inner);
            self.has_ended = self.record.len() == 1 && &self.record[0] == text::END;
            if !self.has_ended {
                return Ok(Some(self.line));
            }
        }
    }
}

/// Fails when more than [`LONGEST_ROW`] bytes were read since a row began.
struct Bounded<'a> {
    input: Box<dyn Read + 'a>,
    since_row: Cell<usize>,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since_row.get() > LONGEST_ROW {
            return Err(io::Error::other("a row does not end"));
        }
        let count = self.input.read(buffer)?;
        self.since_row.set(self.since_row.get() + count);
        Ok(count)
    }
}

/// The wallet in this column of the record.
fn wallet(record: &ByteRecord, index: usize, line: u64) -> Result<Wallet, Reject> {
    let reject = |value: &str, reason: String| Reject { line, value: value.to_owned(), reason };
    let Some(field) = record.get(index) else {
        return Err(reject("", "the row has too few columns".to_owned()));
    };
    let value = column::value(field);
    value.parse().map_err(|error: WalletError| {
        let reason = if value.starts_with("0X") {
            "starts with 0X, not 0x".to_owned()
        } else {
            error.to_string()
        };
        reject(&value, reason)
    })
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
        let found = read(text.as_bytes(), column, |row| {
            match row {
                Ok(wallet) => wallets.push(wallet.to_string()),
                Err(reject) => lines.push(reject.line),
            }
            Ok(())
        })?;
        Ok((found.rows, wallets, lines))
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
    }

    #[test]
    fn lines_are_counted_after_blank_lines_and_breaks_within_quotes() {
        for (end, delimiter) in [("\n", ","), ("\r\n", ";"), ("\r", "\t")] {
            let text = ["", "id,wallet", "", "", "1,0x12", "\"2", "x\",0x13", "", "3,0x14", "", ""]
                .join(end)
                .replace(',', delimiter);
            assert_eq!(taken(&text, None).unwrap(), (3, vec![], vec![5, 6, 9]), "{text:?}");
            let text = text.trim_end();
            assert_eq!(taken(text, None).unwrap(), (3, vec![], vec![5, 6, 9]), "{text:?}");
        }
    }

    #[test]
    fn rows_behind_a_quote_that_is_not_closed_are_not_dropped_in_silence() {
        for text in [format!("{A},\"x\n{B},y\n"), format!("{A}\n\n{B},\"x")] {
            let line = if text.ends_with('x') { 3 } else { 1 };
            let error = taken(&text, None).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("line {line}: a quote is not closed; close it, or remove it")
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_wallets_and_rejects_without_a_panic(bytes: Vec<u8>) {
            let mut seen = 0;
            if let Ok(found) = read(bytes.as_slice(), None, |_| { seen += 1; Ok(()) }) {
                prop_assert_eq!(found.rows, seen);
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
