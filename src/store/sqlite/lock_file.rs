//! Locks between processes, as locked files beside a database file.
//!
//! A lock ends with its process, however that ends; the empty file stays.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use super::super::error::{StoreError, unless_stopped};
use crate::tally::Shutdown;

/// The mode of files that only their owner reads and writes.
const OWNER_ONLY: u32 = 0o600;
/// How often a lock that another process holds is tried.
const POLL: Duration = Duration::from_millis(50);
/// When to say that the lock is awaited; most are free after a moment.
const QUIET: Duration = Duration::from_secs(1);

/// A file that exists only to be locked.
pub(super) struct LockFile {
    path: PathBuf,
    file: File,
}

impl LockFile {
    /// The lock file for a purpose, beside the database file at `path`.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub(super) fn beside(path: &Path, purpose: &str) -> Result<Self, StoreError> {
        // Whoever may write the database may lock it.
        let mode = fs::metadata(path).map_or(OWNER_ONLY, |file| file.permissions().mode() & 0o666);
        let path = beside(path, &format!(".{purpose}.lock"));
        match OpenOptions::new().create(true).append(true).mode(mode).open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(StoreError::LockFile { path, source }),
        }
    }

    /// Waits for the lock, and holds it while the returned file lives.
    pub(super) async fn lock(self, shutdown: &Shutdown) -> Result<File, StoreError> {
        let what = self.path.display().to_string();
        let locked = async {
            let mut announce_at = Some(Instant::now() + QUIET);
            while !self.is_free()? {
                if announce_at.take_if(|at| *at <= Instant::now()).is_some() {
                    warn!("waiting for {what}: another process holds the lock");
                }
                tokio::time::sleep(POLL).await;
            }
            Ok(self.file)
        };
        unless_stopped(shutdown, &what, locked).await?
    }

    /// Takes the lock if it is free.
    pub(super) fn try_lock(self) -> Result<Option<File>, StoreError> {
        Ok(self.is_free()?.then_some(self.file))
    }

    /// Tries to take the lock.
    fn is_free(&self) -> Result<bool, StoreError> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(source)) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::LockFile { path: self.path.clone(), source }
    }
}

/// The path of a database with a suffix, without links: every path to one database leads to the
/// same lock.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = resolved(path).into_os_string();
    path.push(suffix);
    path.into()
}

/// Creates a file for its owner only, where there is none; SQLite gives the same mode to the files beside it.
pub(super) fn create_for_owner(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The path without links, also of a file that does not exist yet.
fn resolved(path: &Path) -> PathBuf {
    let new = || Some(folder_of(path).canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(new).unwrap_or_else(|| path.to_owned())
}

/// The folder that holds the file.
pub(super) fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}
