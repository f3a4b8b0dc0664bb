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
//! | [`follow`] | the core of `watch`: blocks, events, reorganisations, the checkpoint; no I/O |
//! | [`chain`] | everything that talks to a node: endpoints, retries, Multicall3, logs, new blocks |
//! | [`store`] | everything that talks to a database: all SQL, in two dialects |
//! | [`monitor`] | how `watch` is doing: health and metrics, over HTTP |
//! | [`intake`] | what comes in from a CSV file |
//! | [`report`] | everything that a person or a script sees |
//! | [`redact`] | secrets do not reach an output |
//!
//! `chain`, `store`, `monitor`, `intake` and `report` know the core (`tally`, and what they need of
//! `follow`) and `redact`, `chain` also the profile it reads, and never each other. The core knows
//! none of them: it speaks to the node and the database through the traits [`tally::Reader`] and
//! [`follow::Source`], [`tally::Ledger`] and [`follow::Journal`]. The test `tests/architecture.rs`
//! holds this.

pub mod chain;
pub mod cli;
pub mod commands;
pub mod follow;
pub mod intake;
pub mod monitor;
pub mod profile;
pub mod redact;
pub mod report;
pub mod store;
pub mod tally;

use std::{
    num::{NonZeroU64, NonZeroUsize},
    sync::{Arc, OnceLock},
    time::Duration,
};

use alloy::primitives::U256;
use anyhow::{Context, anyhow, bail};
use url::Url;

use crate::{
    chain::{Client, ClientSettings, Contracts, NodeReader, PaceSettings, ReaderSettings},
    cli::Settings,
    profile::Profile,
    report::Report,
    store::{Access, Store},
    tally::{Amount, Stop},
};

/// Wallets that are taken from the table, or from a file, at once.
const PAGE: u32 = 5_000;

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

    /// A reader of the chain; sends nothing yet, and never more `eth_call`s than `max_calls`.
    ///
    /// # Errors
    /// As [`App::client`].
    pub fn reader(&self, max_calls: Option<NonZeroU64>) -> anyhow::Result<NodeReader> {
        Ok(self.reader_through(self.client(Contracts::OfTotals, max_calls)?))
    }

    /// A reader of the chain that shares its requests with others.
    pub fn reader_through(&self, client: Arc<Client>) -> NodeReader {
        NodeReader::new(client, &self.profile, self.reader_settings(), self.stop.clone())
    }

    /// How wallets are read.
    pub fn reader_settings(&self) -> ReaderSettings {
        let node = &self.settings.node;
        ReaderSettings {
            block: node.block,
            chunk: node.chunk,
            concurrency: self.concurrency(),
            method: node.reader,
        }
    }

    /// `eth_call`s in flight, at most.
    pub fn concurrency(&self) -> NonZeroUsize {
        // Arguments are checked to be at least 1.
        NonZeroUsize::new(self.settings.node.concurrency as usize).unwrap_or(NonZeroUsize::MIN)
    }

    /// A client of the node; sends nothing yet, and never more `eth_call`s than `max_calls`.
    ///
    /// # Errors
    /// When no endpoint is given, or one is no HTTP URL.
    pub fn client(
        &self,
        contracts: Contracts,
        max_calls: Option<NonZeroU64>,
    ) -> anyhow::Result<Arc<Client>> {
        let node = &self.settings.node;
        let urls = self.rpc_urls().into_iter().enumerate().map(|(index, text)| {
            url_of(text, &["http", "https"]).with_context(|| {
                let remedy = match url_of(text, &["ws", "wss"]) {
                    Some(_) => "give it as --ws-url, and one of http or https here",
                    None => "percent-encode special characters in it",
                };
                format!("--rpc-url number {} is not a URL of http or https; {remedy}", index + 1)
            })
        });
        let urls = urls.collect::<anyhow::Result<Vec<_>>>()?;
        if urls.is_empty() {
            bail!("no node to read from; give --rpc-url URL or set ETH_RPC_URL");
        }
        let settings = ClientSettings {
            urls,
            pace: PaceSettings {
                requests_per_second: node.rps,
                units_per_second: node.cups,
                units_per_call: node.cu_per_call,
                max_calls: max_calls.map(NonZeroU64::get),
            },
            concurrency: self.concurrency().get(),
            retries: node.retries,
            timeout: Duration::from_secs(node.timeout),
            block: node.block,
            contracts,
        };
        Ok(Arc::new(Client::new(settings, &self.profile, self.stop.clone())?))
    }

    /// The WebSocket of the node: `--ws-url`, or the first `--rpc-url` with another scheme.
    ///
    /// # Errors
    /// When it is no URL of WebSocket.
    pub fn ws_url(&self) -> anyhow::Result<Url> {
        let given = self.settings.node.ws_url.as_deref().map(str::trim);
        if let Some(text) = given.filter(|text| !text.is_empty()) {
            return url_of(text, &["ws", "wss"]).context(
                "--ws-url is not a URL of ws or wss; percent-encode special characters in it",
            );
        }
        let first = self.rpc_urls().first().and_then(|text| url_of(text, &["http", "https"]));
        let mut url = first.context("no node to follow; give --rpc-url URL or --ws-url URL")?;
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        url.set_scheme(scheme).map_err(|()| anyhow!("no WebSocket URL fits --rpc-url"))?;
        Ok(url)
    }

    fn rpc_urls(&self) -> Vec<&str> {
        let given = self.settings.node.rpc_url.iter().map(|url| url.trim());
        given.filter(|url| !url.is_empty()).collect()
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
            let _ = tokio::time::timeout(Duration::from_secs(1), store.close()).await;
        }
    }

    /// Where the table is.
    pub fn database_url(&self) -> &str {
        &self.settings.database.database_url
    }

    /// Wallets that are taken from the table, or from a file, at once.
    pub const fn page_size(&self) -> u32 {
        PAGE
    }

    /// An amount in wei, for people.
    pub fn amount(&self, wei: U256) -> Amount<'_> {
        Amount { wei, decimals: self.profile.decimals, symbol: &self.profile.symbol }
    }
}

/// The URL, if it is of one of these schemes. The text itself may hold a key and is not shown.
fn url_of(text: &str, schemes: &[&str]) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let usable = schemes.contains(&url.scheme()) && url.has_host();
    (usable && text.contains("://") && !redact::is_ambiguous(text)).then_some(url)
}
