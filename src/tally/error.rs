//! Why a run could not do what was asked, by whose fault it is.

use std::fmt::Display;

use thiserror::Error;

/// The error of every trait of the core. A caller decides by its variant; its text is for people.
#[derive(Debug, Error)]
pub enum RunError {
    /// The settings, a file or the output are at fault: trying again does not help.
    #[error(transparent)]
    Settings(anyhow::Error),
    /// No node answered.
    #[error(transparent)]
    Node(anyhow::Error),
    /// The database failed; nothing of the statement in hand was stored.
    #[error(transparent)]
    Database(anyhow::Error),
    /// Not one of the wallets asked for could be read.
    #[error("{0}")]
    Unreadable(String),
    /// Another run holds the lock.
    #[error("{0}")]
    Locked(String),
    /// A shutdown came first; the text says what was waited for.
    #[error("{0}")]
    Stopped(String),
}

impl RunError {
    /// A shutdown came before the work was done.
    pub fn stopped() -> Self {
        Self::Stopped("stopped before it was done".to_owned())
    }

    /// The lock that the run holds was lost, for this reason: another process may have it by now.
    pub fn lock_lost(reason: &str) -> Self {
        Self::Database(anyhow::anyhow!(
            "the lock was lost, so the run stopped; another one may hold it now: {reason}"
        ))
    }

    /// A node failed with this message.
    pub fn node(message: impl Display) -> Self {
        Self::Node(anyhow::anyhow!("{message}"))
    }

    /// The settings are at fault in this way.
    pub fn settings(message: impl Display) -> Self {
        Self::Settings(anyhow::anyhow!("{message}"))
    }

    /// The same error, with what was being done in front of it.
    #[must_use]
    pub fn context(self, what: impl Display) -> Self {
        let what = what.to_string();
        match self {
            Self::Settings(error) => Self::Settings(error.context(what)),
            Self::Node(error) => Self::Node(error.context(what)),
            Self::Database(error) => Self::Database(error.context(what)),
            Self::Locked(text) => Self::Locked(format!("{what}: {text}")),
            Self::Unreadable(text) => Self::Unreadable(format!("{what}: {text}")),
            Self::Stopped(text) => Self::Stopped(text),
        }
    }

    /// True if a shutdown came first, so that nothing failed.
    pub const fn is_stopped(&self) -> bool {
        matches!(self, Self::Stopped(_))
    }
}

/// What a command meets outside of node and database: files, the output, the profile.
impl From<anyhow::Error> for RunError {
    fn from(error: anyhow::Error) -> Self {
        Self::Settings(error)
    }
}
