//! What an error of PostgreSQL says, and whether it is about a row: without it, the others of its batch can be stored.

use sqlx::postgres::PgDatabaseError;

use super::super::error::RowFault;

/// Classes of SQLSTATE that are about the database, the session or the statement, whatever the rows.
///
/// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>. All other classes are about a row: its
/// data (22), a constraint (23, 44), a trigger (09, 21, 27, P0), a trigger's own code.
const NOT_ABOUT_ROWS: [&str; 29] = [
    "00", "01", "02", "03", "08", "0A", "0B", "0L", "0P", "0Z", "20", "24", "25", "26", "28", "2B",
    "2D", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0", "HV", "XX",
];

/// A value is too large for an index.
const PROGRAM_LIMIT_EXCEEDED: &str = "54000";

/// Where the server raises errors that may have any code: `raise` of PL/pgSQL, and the policies of row-level security.
const RAISES: [&str; 2] = ["exec_stmt_raise", "ExecWithCheckOptions"];

/// What the server answered, if it did.
pub(super) fn server_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// The server's answer. Its `Display` would add a line number in the server's source.
pub(super) fn server_text(error: &PgDatabaseError) -> String {
    let mut text = error.message().to_owned();
    for more in [error.detail(), error.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more.trim_end_matches('.'));
    }
    text
}

/// Why the server refuses a row.
pub(super) fn row_fault(error: &sqlx::Error) -> Option<RowFault> {
    let error = server_error(error)?;
    is_about_a_row(error.code(), error.routine())
        .then(|| RowFault { kind: kind(error), text: server_text(error) })
}

fn is_about_a_row(code: &str, routine: Option<&str>) -> bool {
    if routine.is_some_and(|routine| RAISES.contains(&routine)) {
        return true;
    }
    match code.get(..2) {
        Some("54") => code == PROGRAM_LIMIT_EXCEEDED,
        Some(class) => !NOT_ABOUT_ROWS.contains(&class),
        None => false,
    }
}

fn kind(error: &PgDatabaseError) -> String {
    format!("{} {}", error.code(), error.constraint().or(error.column()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_about_a_row_or_about_the_database_by_its_code() {
        for code in [
            "21000", "22001", "22003", "22021", "22P05", "23502", "23505", "23514", "27000",
            "38000", "44000", "54000", "P0001", "P0004", "45000", "ZX001",
        ] {
            assert!(is_about_a_row(code, None), "{code}");
        }
        for code in [
            "08006", "25006", "28P01", "3D000", "3F000", "40001", "40P01", "42501", "42703",
            "53100", "53200", "53300", "54001", "55P03", "57014", "57P01", "58030", "XX000",
            "XX001", "",
        ] {
            assert!(!is_about_a_row(code, None), "{code}");
            assert!(is_about_a_row(code, Some("exec_stmt_raise")), "{code}");
        }
        assert!(is_about_a_row("42501", Some("ExecWithCheckOptions")));
        assert!(!is_about_a_row("42501", Some("aclcheck_error")));
    }
}
