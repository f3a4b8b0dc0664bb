//! What errors of SQLite mean: a table of result codes and words with what is wrong and the remedy.

use std::{fs::File, io::Read, path::Path, time::Duration};

use super::super::{
    dialect::Explained,
    error::{code, driver_text},
};

/// How long a statement waits for another process that writes.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// A row of the table: which errors it is about, and what to say of them.
struct Rule {
    /// A result code: an extended one, or a primary one for all of its extended ones.
    code: u32,
    /// Words that must be in the message; empty if any will do.
    words: &'static str,
    /// True if it is a mistake in the settings where it is met when the file is opened.
    is_settings: bool,
    /// What is said: `{message}` and `{seconds}` are filled in.
    says: &'static str,
}

const fn settings(code: u32, words: &'static str, says: &'static str) -> Rule {
    Rule { code, words, is_settings: true, says }
}

const fn fails(code: u32, words: &'static str, says: &'static str) -> Rule {
    Rule { code, words, is_settings: false, says }
}

const BUSY: &str =
    "another process has kept it locked for {seconds} s; end that process, or try again later";
const NETWORK: &str = "the file system does not do what a database needs ({message}); keep the file on a local disk, not on a network mount";

/// The first row that fits decides.
const RULES: &[Rule] = &[
    settings(1, "unsupported file format", NEWER),
    settings(
        1,
        "no such",
        "the tables are not as this version needs them: {message}; run `ethtally migrate`, or check --database-url",
    ),
    settings(3, "", "this user may not use the file; check its owner and rights"),
    fails(5, "", BUSY),
    fails(6, "", BUSY),
    fails(7, "", "this process is out of memory; give it more"),
    // SQLITE_READONLY_DBMOVED
    fails(1032, "", "the file was moved, replaced or deleted while it was in use; run it again"),
    // SQLITE_READONLY_DIRECTORY
    settings(
        1544,
        "",
        "the folder is read-only; make it writable for this user: SQLite keeps files beside the database",
    ),
    settings(
        8,
        "",
        "the file is read-only; make the file and its folder writable for this user, or check --database-url",
    ),
    // SQLITE_IOERR_LOCK, _SHMOPEN, _SHMSIZE, _SHMLOCK, _SHMMAP
    fails(3850, "", NETWORK),
    fails(4618, "", NETWORK),
    fails(4874, "", NETWORK),
    fails(5130, "", NETWORK),
    fails(5386, "", NETWORK),
    // SQLITE_IOERR_CORRUPTFS
    fails(8458, "", "the file system is damaged ({message}); check the disk"),
    fails(
        10,
        "",
        "the file cannot be read or written ({message}); check the disk and its free space",
    ),
    fails(11, "", "the file is damaged ({message}); restore it from a backup"),
    fails(13, "", "the disk is full; free some space"),
    settings(
        14,
        "",
        "cannot open the file; check that it is a file, and that this user may read and write it and its folder: \
         {message}",
    ),
    fails(15, "", NETWORK),
    settings(22, "", "the file is too large for this system"),
    settings(26, "", "the file is not an SQLite database; check --database-url"),
];

const NEWER: &str = "the file is of a newer version of SQLite than ethtally has; upgrade ethtally";

/// What is wrong, and the remedy. `is_settings` if it is a mistake in the settings where the file is opened.
pub(super) fn explain(error: &sqlx::Error, path: &Path) -> Explained {
    let message = match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => driver_text(error),
    };
    let extended = code(error).and_then(|code| code.parse::<u32>().ok());
    let Some(rule) = extended.and_then(|code| rule_for(code, &message)) else {
        return Explained { is_settings: true, text: message };
    };
    let is_newer = matches!(rule.code, 8 | 26) && is_of_newer_version(path);
    let says = if is_newer { NEWER } else { rule.says };
    let text = says
        .replace("{seconds}", &BUSY_TIMEOUT.as_secs().to_string())
        .replace("{message}", &message);
    Explained { is_settings: rule.is_settings, text }
}

/// The row for an error.
fn rule_for(extended: u32, message: &str) -> Option<&'static Rule> {
    let fits = |rule: &&Rule| {
        // The primary code is the lowest byte of the extended one.
        (rule.code == extended || rule.code == extended & 0xff) && message.contains(rule.words)
    };
    RULES.iter().find(fits)
}

/// True if the file says that it can be written, or even read, only by a later version of SQLite.
fn is_of_newer_version(path: &Path) -> bool {
    let mut header = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok()
        && header.starts_with(b"SQLite format 3\0")
        && header[18..].iter().any(|version| *version > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_put_in_words() {
        for (extended, message, words) in [
            (1, "unsupported file format", "newer version of SQLite"),
            (1, "no such column: read_block", "run `ethtally migrate`"),
            (3, "access permission denied", "check its owner and rights"),
            (5, "database is locked", "another process has kept it locked"),
            (261, "database is locked", "another process has kept it locked"),
            (6, "database table is locked", "another process has kept it locked"),
            (7, "out of memory", "out of memory"),
            (8, "attempt to write a readonly database", "the file is read-only"),
            (1032, "attempt to write a readonly database", "moved, replaced or deleted"),
            (1544, "attempt to write a readonly database", "the folder is read-only"),
            (10, "disk I/O error", "check the disk and its free space"),
            (266, "disk I/O error", "check the disk and its free space"),
            (5386, "disk I/O error", "not on a network mount"),
            (11, "database disk image is malformed", "restore it from a backup"),
            (779, "database disk image is malformed", "restore it from a backup"),
            (13, "database or disk is full", "the disk is full"),
            (14, "unable to open database file", "cannot open the file"),
            (526, "unable to open database file", "cannot open the file"),
            (15, "locking protocol", "not on a network mount"),
            (22, "large file support is disabled", "too large for this system"),
            (26, "file is not a database", "is not an SQLite database"),
        ] {
            let rule =
                rule_for(extended, message).unwrap_or_else(|| panic!("{extended} {message}"));
            assert!(rule.says.contains(words), "{extended} {message}: {}", rule.says);
        }
        assert!(rule_for(1, "near \"x\": syntax error").is_none());
    }
}
