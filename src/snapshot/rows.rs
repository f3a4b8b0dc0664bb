//! Reads the rows of a snapshot.

use std::{io, path::Path};

use alloy::primitives::U256;

use super::lines::{Compression, LineReader};
use crate::tally::{Total, Wallet};

/// The columns of every snapshot; those of parts follow them.
pub(super) const COLUMNS: [&str; 2] = ["wallet", "total"];
/// Characters of a line that a message shows.
const SHOWN: usize = 80;

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its wallet.
    pub wallet: Wallet,
    /// The total in wei, with the parts that have columns.
    pub total: Total,
}

/// The rows of a snapshot, one by one.
pub struct SnapshotReader {
    lines: LineReader,
    line: u64,
    columns: Vec<String>,
    last: Option<Wallet>,
}

impl SnapshotReader {
    /// Opens a snapshot, and reads its header.
    ///
    /// # Errors
    /// If it cannot be read, or is not a snapshot.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_as(path, path)
    }

    /// Opens a snapshot that is compressed as the name `compressed_as` says.
    pub(super) fn open_as(path: &Path, compressed_as: &Path) -> io::Result<Self> {
        let mut lines = LineReader::open(path, Compression::of(compressed_as))?;
        let header = lines.next()?.unwrap_or_default();
        let header = String::from_utf8_lossy(&header).into_owned();
        let columns: Vec<_> = header.split(',').map(str::to_owned).collect();
        if !columns.iter().take(COLUMNS.len()).eq(COLUMNS) {
            let text = format!("not a snapshot: its first line is not {}", COLUMNS.join(","));
            return Err(io::Error::other(text));
        }
        Ok(Self { lines, line: 1, columns, last: None })
    }

    /// The columns of each row.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The next row, or what is wrong with it; `None` behind the last one.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn next_row(&mut self) -> io::Result<Option<Result<Row, String>>> {
        let Some(line) = self.lines.next()? else { return Ok(None) };
        self.line += 1;
        let Some(row) = self.parse(&line) else {
            let text: String = String::from_utf8_lossy(&line).chars().take(SHOWN).collect();
            return Ok(Some(Err(format!("line {}: {text:?} is not a row", self.line))));
        };
        if self.last.is_some_and(|last| last >= row.wallet) {
            let problem = format!("line {}: {} is not in order", self.line, row.wallet);
            return Ok(Some(Err(problem)));
        }
        self.last = Some(row.wallet);
        Ok(Some(Ok(row)))
    }

    /// A row as a snapshot writes it, in no other spelling.
    fn parse(&self, line: &[u8]) -> Option<Row> {
        let mut fields = str::from_utf8(line).ok()?.split(',');
        let wallet = fields.next()?;
        let is_number = |text: &&str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_digit())
                && (*text == "0" || !text.starts_with('0'))
        };
        if wallet.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let wallet = wallet.parse().ok()?;
        let mut amounts = fields.map(|text| Some(text).filter(is_number)?.parse().ok());
        let sum = amounts.next()??;
        let parts: Box<[U256]> = amounts.collect::<Option<_>>()?;
        let has_all = parts.len() + COLUMNS.len() == self.columns.len();
        has_all.then_some(Row { wallet, total: Total { sum, parts } })
    }

    /// The SHA-256 of the file, in hexadecimal, once the last row was read.
    pub fn sha256(self) -> String {
        self.lines.sha256()
    }
}
