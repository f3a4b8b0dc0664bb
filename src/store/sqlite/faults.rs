//! Which errors of SQLite are about a row: without it, the others of its batch can be stored.

use super::{
    super::{error::code, halves::RowFault},
    primary_code,
};

/// What a trigger's expression fails with, and a check's. So do statements that name what does not exist, also
/// without any row.
const ERROR: u8 = 1;
const TOO_BIG: u8 = 18;
const CONSTRAINT: u8 = 19;
const MISMATCH: u8 = 20;

/// Why SQLite refuses a row.
pub(super) fn row_fault(error: &sqlx::Error) -> Option<RowFault> {
    matches!(primary_code(error)?, ERROR | TOO_BIG | CONSTRAINT | MISMATCH).then(|| RowFault {
        kind: code(error).unwrap_or_default(),
        text: error
            .as_database_error()
            .map_or_else(String::new, |error| error.message().to_owned()),
    })
}
