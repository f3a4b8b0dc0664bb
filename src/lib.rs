//! ethtally keeps a table of on-chain wallet totals fresh.
//!
//! # The map of the code
//!
//! Data goes one way: command line → command → the core that plans and sums → the chain, and back
//! through the core to the store.
//!
//! | module | what it owns |
//! |---|---|
//! | [`cli`] | the command line, as clap types |
//! | [`commands`] | one file a subcommand, each a short story; only here do the others meet |
//! | [`profile`] | what a total is made of, as data |
//! | [`tally`] | the core: wallets, amounts, and the one path from reading to recording; no I/O |
//! | [`chain`] | everything that talks to a node: endpoints, retries, Multicall3 |
//! | [`store`] | everything that talks to a database: all SQL, in two dialects |
//! | [`intake`] | what comes in from a CSV file |
//! | [`report`] | everything that a person or a script sees |
//! | [`redact`] | secrets do not reach an output |
//!
//! `chain`, `store`, `intake` and `report` know `tally` and `redact`, `chain` also the profile it
//! reads, and never each other; `tally` knows none of
//! them: it speaks to the node and the database through its traits [`tally::Reader`] and
//! [`tally::Ledger`]. The test `tests/architecture.rs` holds this.

pub mod chain;
pub mod cli;
pub mod commands;
pub mod intake;
pub mod profile;
pub mod redact;
pub mod report;
pub mod store;
pub mod tally;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use alloy::primitives::U256;
use anyhow::{Context, bail};
use url::Url;

use crate::{
    chain::{Client, ClientSettings, MulticallReader, ReaderSettings},
    cli::Settings,
    profile::Profile,
    report::Report,
    store::{Access, Store},
    tally::{Amount, Stop},
};

/// Wallets in one page, about: enough that a bulk upsert is at its fastest, few enough that a
/// page is soon done.
const PAGE: u32 = 5_000;
/// No page is larger, but for a single chunk: it is held in memory and stored at once.
const LARGEST_PAGE: u32 = 50_000;

/// What a command works with; node and database are opened when it asks for them.
pub struct App {
    /// What was asked for on the command line.
    pub settings: Settings,
    /// What a total is made of.
    pub profile: Profile,
    /// The printer.
    pub report: Report,
    /// The wish to stop.
    pub stop: Stop,
    /// What [`App::store`] opened, for [`App::close`].
    opened: OnceLock<Arc<dyn Store>>,
}

impl App {
    /// Resolves the settings that every command needs.
    ///
    /// # Errors
    /// When `--profile` is refused.
    pub fn new(settings: Settings, report: Report, stop: Stop) -> anyhow::Result<Self> {
        let profile = match &settings.node.profile {
            Some(path) => Profile::load(path)?,
            None => Profile::audius(),
        };
        Ok(Self { settings, profile, report, stop, opened: OnceLock::new() })
    }

    /// A reader of the chain; sends nothing yet.
    ///
    /// # Errors
    /// When no endpoint is given, or one is no HTTP URL.
    pub fn reader(&self) -> anyhow::Result<MulticallReader> {
        let node = &self.settings.node;
        let given: Vec<_> =
            node.rpc_url.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect();
        if given.is_empty() {
            bail!("no node to read from; give --rpc-url URL or set ETH_RPC_URL");
        }
        let urls = given.into_iter().enumerate().map(|(index, text)| {
            // The text itself may hold a key and is not shown.
            let url = Url::parse(text)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
                .filter(|_| text.contains("://") && !redact::is_ambiguous(text));
            url.with_context(|| {
                format!(
                    "--rpc-url number {} is not a URL of http or https; percent-encode special characters \
                     in it",
                    index + 1
                )
            })
        });
        let settings = ClientSettings {
            urls: urls.collect::<anyhow::Result<_>>()?,
            requests_per_second: node.rps,
            retries: node.retries,
            timeout: Duration::from_secs(node.timeout),
            block: node.block,
        };
        let client = Client::new(settings, &self.profile, self.stop.clone())?;
        let settings = ReaderSettings {
            block: node.block,
            chunk: node.chunk as usize,
            concurrency: node.concurrency as usize,
        };
        Ok(MulticallReader::new(client, &self.profile, settings, self.stop.clone()))
    }

    /// The database: with its tables made for [`Access::Write`], found to be there for [`Access::Read`].
    ///
    /// # Errors
    /// When it cannot be opened or its tables are not as they must be.
    pub async fn store(&self, access: Access) -> anyhow::Result<Arc<dyn Store>> {
        let store: Arc<dyn Store> = store::open(self.database_url(), access).await?.into();
        let _ = self.opened.set(Arc::clone(&store));
        match access {
            Access::Write => drop(store.migrate().await?),
            Access::Read => store.require_tables().await?,
        }
        Ok(store)
    }

    /// Closes what was opened, so that nothing is left for the end of the process to cut off.
    pub async fn close(&self) {
        if let Some(store) = self.opened.get() {
            // It takes no time, unless a database has gone.
            let _ = tokio::time::timeout(Duration::from_secs(5), store.close()).await;
        }
    }

    /// Where the table is.
    pub fn database_url(&self) -> &str {
        &self.settings.database.database_url
    }

    /// Wallets in one page: a whole number of chunks, enough for `--concurrency` of them in flight.
    pub fn page_size(&self) -> u32 {
        let node = &self.settings.node;
        let page = node.chunk.saturating_mul(node.concurrency).clamp(PAGE, LARGEST_PAGE);
        page.div_ceil(node.chunk) * node.chunk
    }

    /// An amount in wei, for people.
    pub fn amount(&self, wei: U256) -> Amount<'_> {
        Amount { wei, decimals: self.profile.decimals, symbol: &self.profile.symbol }
    }
}
