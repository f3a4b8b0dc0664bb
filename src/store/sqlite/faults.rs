//! Which errors of SQLite are about a row: without it, the others of its batch can be stored.

use super::super::error::{RowFault, code};

/// What a trigger's expression fails with, and a check's. So do statements that name what does not exist, also
/// without any row.
const ERROR: u8 = 1;
const TOO_BIG: u8 = 18;
const CONSTRAINT: u8 = 19;
const MISMATCH: u8 = 20;

/// SQLite's primary result code: the lowest byte of the extended one.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<u8> {
    let extended: u32 = code(error)?.parse().ok()?;
    Some(extended.to_le_bytes()[0])
}

/// Why SQLite refuses a row.
pub(super) fn row_fault(error: &sqlx::Error) -> Option<RowFault> {
    matches!(primary_code(error)?, ERROR | TOO_BIG | CONSTRAINT | MISMATCH).then(|| RowFault {
        kind: code(error).unwrap_or_default(),
        text: error
            .as_database_error()
            .map_or_else(String::new, |error| error.message().to_owned()),
    })
}
