//! Locks between processes, as locked files beside a database file.
//!
//! A lock goes with its process, however that ends; the empty file stays.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::Context;

/// A file that is there to be locked.
pub(super) struct LockFile(File);

impl LockFile {
    /// The lock file for a purpose, beside the database file at `path`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub(super) fn beside(path: &Path, purpose: &str) -> anyhow::Result<Self> {
        let path = beside(path, &format!(".{purpose}.lock"));
        let file = OpenOptions::new().create(true).append(true).open(path).context(
            "its lock file cannot be made; check that its directory exists and can be written",
        )?;
        Ok(Self(file))
    }

    /// Waits for the lock, and holds it while the returned file lives.
    pub(super) fn lock_wait(self) -> anyhow::Result<File> {
        self.0.lock().context("the lock file cannot be locked")?;
        Ok(self.0)
    }

    /// Takes the lock if it is free.
    pub(super) fn try_lock(self) -> anyhow::Result<Option<File>> {
        match self.0.try_lock() {
            Ok(()) => Ok(Some(self.0)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).context("the lock file cannot be locked"),
        }
    }
}

/// The path of a database, without links so that every way to it leads to the same lock, and
/// with something behind it.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = resolved(path).into_os_string();
    path.push(suffix);
    path.into()
}

/// The path without links, also of a file that is yet to be made.
fn resolved(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let new = || {
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(folder.join(path.file_name()?))
    };
    path.canonicalize().ok().or_else(new).unwrap_or_else(|| path.to_owned())
}
