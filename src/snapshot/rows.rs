//! Reads the rows of a snapshot.

use std::{io, path::Path};

use alloy::primitives::U256;

use super::lines::{Compression, LineReader};
use crate::tally::Wallet;

/// The columns of every snapshot; further ones follow them.
pub(super) const COLUMNS: [&str; 2] = ["wallet", "total"];
/// Characters of a line that a message shows.
const SHOWN: usize = 80;

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its wallet.
    pub wallet: Wallet,
    /// The total in wei.
    pub total: U256,
}

/// The rows of a snapshot, one by one.
pub struct SnapshotReader {
    lines: LineReader,
    line: u64,
    columns: usize,
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
        let columns: Vec<_> = header.split(',').collect();
        if !columns.starts_with(&COLUMNS) {
            let text = format!("not a snapshot: its first line is not {}", COLUMNS.join(","));
            return Err(io::Error::other(text));
        }
        Ok(Self { lines, line: 1, columns: columns.len(), last: None })
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
        let (wallet, total) = (fields.next()?, fields.next()?);
        let rest = fields.clone().count();
        let is_number = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_digit())
                && (text == "0" || !text.starts_with('0'))
        };
        if wallet.bytes().any(|byte| byte.is_ascii_uppercase()) || rest + 2 != self.columns {
            return None;
        }
        let wallet = wallet.parse().ok()?;
        let total = Some(total).filter(|total| is_number(total))?.parse().ok()?;
        fields.all(is_number).then_some(Row { wallet, total })
    }

    /// The SHA-256 of the file, in hexadecimal, once the last row was read.
    pub fn sha256(self) -> String {
        self.lines.sha256()
    }
}
