//! The column with the wallets, the text in its fields, and the delimiter of columns.

use csv::{ByteRecord, ReaderBuilder};
use itertools::Itertools;

use crate::tally::Wallet;

/// Names of the wallet's column, in any case.
const NAMES: [&str; 2] = ["wallet", "address"];

/// Delimiters of columns, the usual one first.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Where the wallets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) index: usize,
    /// Whether the first record holds the names of columns.
    pub(super) has_header: bool,
    /// Whether the column was found by its name.
    pub(super) is_named: bool,
}

/// The column of the wallets by the first record; none if there is no column of the name asked for.
pub(super) fn wallet_column(first: &ByteRecord, name: Option<&str>) -> Option<Column> {
    let named = |name: &str| {
        let index =
            first.iter().position(|field| value(field).to_lowercase() == name.to_lowercase())?;
        Some(Column { index, has_header: true, is_named: true })
    };
    if let Some(name) = name {
        return named(name.trim());
    }
    if let Some(column) = NAMES.into_iter().find_map(named) {
        return Some(column);
    }
    // A first field that does not look like an address is the name of a column.
    let has_header = first.get(0).is_some_and(|field| {
        let field = value(field);
        field.contains(char::is_alphabetic) && !looks_like_address(&field)
    });
    Some(Column { index: 0, has_header, is_named: false })
}

/// True for a text that starts with `0x`, in any case, or is a long run of hexadecimal digits.
fn looks_like_address(field: &str) -> bool {
    field.starts_with("0x")
        || field.starts_with("0X")
        || field.len() >= 16 && field.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The text of a field without what is around it unseen, or put there by a spreadsheet: spaces of all kinds,
/// characters of no width, and the marks of a text, `="…"` and `'`.
pub(super) fn value(field: &[u8]) -> String {
    // What is not UTF-8 is most likely Windows-1252 or Latin-1.
    let text = match std::str::from_utf8(field) {
        Ok(text) => text.to_owned(),
        Err(_) => field.iter().map(|byte| char::from(*byte)).collect(),
    };
    let trimmed = text.trim_matches(is_unseen);
    let inner = trimmed
        .strip_prefix("=\"")
        .and_then(|rest| rest.strip_suffix('"'))
        .or_else(|| trimmed.strip_prefix('\'').map(|rest| rest.strip_suffix('\'').unwrap_or(rest)));
    inner.map_or(trimmed, |inner| inner.trim_matches(is_unseen)).to_owned()
}

fn is_unseen(character: char) -> bool {
    character.is_whitespace()
        || matches!(
            character,
            '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

/// The delimiter that the line `sep=;`, first in the text, names for spreadsheets.
pub(super) fn declared_delimiter(head: &[u8]) -> Option<u8> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    match line {
        [name @ .., delimiter] if name.eq_ignore_ascii_case(b"sep=") => {
            let is_delimiter = *delimiter == b'\t' || delimiter.is_ascii_punctuation();
            (is_delimiter && *delimiter != b'"').then_some(*delimiter)
        }
        _ => None,
    }
}

/// The delimiter with which the beginning of a text gives the most wallets, else a column of the right name,
/// else the most columns.
pub(super) fn likely_delimiter(head: &[u8], is_whole: bool, name: Option<&str>) -> u8 {
    let rank = |delimiter: &u8| {
        let mut records: Vec<_> = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(*delimiter)
            .from_reader(head)
            .into_byte_records()
            .map_while(Result::ok)
            .collect();
        if !is_whole && records.len() > 1 {
            records.pop();
        }
        let first = records.first()?;
        let Some(column) = wallet_column(first, name) else { return Some((0, false, first.len())) };
        let wallets = records.iter().filter(|record| {
            record.get(column.index).is_some_and(|field| value(field).parse::<Wallet>().is_ok())
        });
        Some((wallets.count(), column.is_named, first.len()))
    };
    // The first of equals: `max_by_key` would take the last.
    DELIMITERS.into_iter().rev().max_by_key(rank).unwrap_or(DELIMITERS[0])
}

/// The names of the columns in a first record, for a message.
pub(super) fn names(first: &ByteRecord) -> String {
    first.iter().map(value).join(", ")
}
