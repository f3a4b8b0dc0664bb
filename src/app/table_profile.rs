//! One profile a table: the first run that stores something records its profile, and others are refused.

use async_trait::async_trait;

use super::App;
use crate::{
    profile::Identity,
    store::{Store, TableProfile},
    tally::{Ledger, Recorded, RunError, TotalRead, Unreadable},
};

impl App {
    /// Refuses a table whose totals are of another profile.
    ///
    /// # Errors
    /// When it is of another profile, or the database fails.
    pub async fn check_table(&self, store: &dyn Store) -> Result<(), RunError> {
        if let Some(of) = store.profile().await? {
            self.require(&of)?;
            let _ = self.claimed.set(());
        }
        Ok(())
    }

    /// Makes the table one of this run's profile, before something is stored in it.
    ///
    /// # Errors
    /// When it is of another profile, or the database fails.
    pub async fn claim_table(&self, store: &dyn Store) -> Result<(), RunError> {
        let claim = async || self.require(&store.claim(&self.table_profile()).await?);
        self.claimed.get_or_try_init(claim).await.copied()
    }

    /// This run's profile, as a table keeps it.
    pub fn table_profile(&self) -> TableProfile {
        TableProfile { name: self.profile.name.clone(), identity: self.profile.identity().text() }
    }

    fn require(&self, of: &TableProfile) -> Result<(), RunError> {
        let stored = identity_of(of)?;
        let ours = self.profile.identity();
        if stored == ours {
            return Ok(());
        }
        let (theirs, name) = (&of.name, &self.profile.name);
        Err(RunError::settings(format!(
            "the table has totals of profile {theirs:?}, not of {name:?} ({}); give the --profile that it was filled \
             with, or another --database-url; to make it a table of {name:?}, run `ethtally migrate --adopt-profile` \
             with this --profile",
            stored.difference_from(&ours)
        )))
    }
}

/// The identity of a profile that a table keeps.
///
/// # Errors
/// When another program wrote it.
pub fn identity_of(of: &TableProfile) -> Result<Identity, RunError> {
    Identity::parse(&of.identity).map_err(|error| {
        let error = anyhow::Error::from(error);
        RunError::Database(
            error.context("eth_wallet_profile holds a row that ethtally did not write"),
        )
    })
}

/// A ledger whose table is of this run's profile by the time that something is stored.
pub struct Claimed<'a> {
    /// The run.
    pub app: &'a App,
    /// The table.
    pub store: &'a dyn Store,
    /// Where totals are stored.
    pub ledger: &'a dyn Ledger,
}

#[async_trait]
impl Ledger for Claimed<'_> {
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> Result<Recorded, RunError> {
        self.app.claim_table(self.store).await?;
        self.ledger.record(totals, failures).await
    }
}
