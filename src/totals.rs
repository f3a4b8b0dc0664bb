//! Wallets in, totals out: what another Rust program needs of this crate.

use std::{
    collections::HashMap,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use alloy::primitives::B256;
use futures_util::StreamExt;
use thiserror::Error;
use url::Url;

use crate::{
    profile::Profile,
    read::{ChunkLimit, MethodChoice, NodeReader, ReaderSettings},
    redact,
    rpc::{BlockChoice, Client, ClientSettings, Contracts, RateLimits, UNITS_PER_CALL},
    tally::{Reader, Reading, RunError, Shutdown, Total, Wallet, pages_of},
};

/// Wallets that are handed to the reader at once.
const PAGE: usize = 5_000;

/// How totals are read. The default suits most nodes.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// The method; by default Multicall3, which works with every node.
    pub method: MethodChoice,
    /// Calls in flight, at most.
    pub concurrency: NonZeroUsize,
    /// Requests a second to all endpoints together, at most.
    pub requests_per_second: Option<NonZeroU32>,
    /// How often a request is tried again, on this endpoint or the next.
    pub retries: u32,
    /// How long one answer may take.
    pub timeout: Duration,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            method: MethodChoice::default(),
            concurrency: NonZeroUsize::MIN.saturating_add(3),
            requests_per_second: None,
            retries: 3,
            timeout: Duration::from_secs(30),
        }
    }
}

/// Why totals cannot be read. The text is one line, and shows no more of a URL than scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TotalsError {
    /// An endpoint is no URL or of another chain, or a contract of the profile is missing: trying again does not help.
    #[error("{0}")]
    Settings(String),
    /// No endpoint answered as it must.
    #[error("{0}")]
    Node(String),
}

impl From<RunError> for TotalsError {
    fn from(error: RunError) -> Self {
        let text = redact::clean_error(&error);
        match error {
            RunError::Settings(_) => Self::Settings(text),
            _ => Self::Node(text),
        }
    }
}

/// The totals of some wallets at one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The number of the block at which every part of every total was read.
    pub block: u64,
    /// The hash of that block.
    pub hash: B256,
    /// Each wallet that was asked for, in that order, with its total in wei, or why it has none: one whose contract
    /// reverts, for instance. It does not keep others from being read.
    pub wallets: Vec<(Wallet, Result<Total, String>)>,
}

/// Reads the totals that a [`Profile`] defines, many with one call.
///
/// An endpoint that fails is tried again, and passed over for the next; one of another chain, or with an old head, is
/// refused. How many wallets a call may hold is found out.
pub struct TotalsReader {
    client: Arc<Client>,
    reader: NodeReader,
}

impl TotalsReader {
    /// A reader through these JSON-RPC endpoints (`http` or `https`), in order of preference. Sends nothing yet.
    ///
    /// # Errors
    /// [`TotalsError::Settings`] if there is no endpoint, or one is not such a URL.
    pub fn new<'a>(
        profile: &Profile,
        endpoints: impl IntoIterator<Item = &'a str>,
        options: &ReadOptions,
    ) -> Result<Self, TotalsError> {
        let urls = endpoints.into_iter().enumerate().map(|(index, text)| {
            redact::remember(text);
            let url = text.parse().ok().filter(|url: &Url| {
                matches!(url.scheme(), "http" | "https") && !redact::is_ambiguous(text)
            });
            url.ok_or_else(|| {
                TotalsError::Settings(format!("endpoint {} is not an http URL", index + 1))
            })
        });
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() {
            return Err(TotalsError::Settings("there is no endpoint to read from".to_owned()));
        }
        let settings = ClientSettings {
            urls,
            rates: RateLimits {
                requests_per_second: options.requests_per_second,
                units_per_second: None,
                units_per_call: UNITS_PER_CALL,
                max_calls: None,
            },
            concurrency: options.concurrency.get(),
            retries: options.retries,
            timeout: options.timeout,
            block: BlockChoice::Latest,
            contracts: Contracts::OfTotals,
            max_head_age: profile.max_head_age,
        };
        let shutdown = Shutdown::default();
        let client = Client::new(settings, profile, shutdown.clone()).map_err(RunError::from)?;
        let client = Arc::new(client);
        let settings = ReaderSettings {
            block: BlockChoice::Latest,
            chunk: ChunkLimit::Auto,
            method: profile.multicall3.map_or(MethodChoice::Packed, |_| options.method),
        };
        let reader = NodeReader::new(Arc::clone(&client), profile, settings, shutdown);
        Ok(Self { client, reader })
    }

    /// Reads these wallets, all at one block; a wallet that is given twice is read once. A block far back needs an
    /// archive node.
    ///
    /// # Errors
    /// If no endpoint can be read from. Nothing is returned of what was read before.
    pub async fn read(
        &self,
        wallets: &[Wallet],
        block: BlockChoice,
    ) -> Result<Totals, TotalsError> {
        let number = self.client.block_number(block).await.map_err(RunError::from)?;
        let header = self.client.header_by_number(number).await.map_err(RunError::from)?;
        let mut read: HashMap<Wallet, Option<Reading>> =
            wallets.iter().map(|wallet| (*wallet, None)).collect();
        let pages = pages_of(read.keys().copied().collect(), PAGE).boxed();
        let mut chunks = self.reader.read_block(pages, number, header.hash);
        while let Some(chunk) = chunks.next().await {
            if let Some(error) = chunk.error {
                return Err(error.into());
            }
            read.extend(chunk.readings.into_iter().map(|reading| (reading.0, Some(reading))));
        }
        let reading = |wallet: &Wallet| read.get(wallet).cloned().flatten();
        let wallets = wallets.iter().map(reading).collect::<Option<_>>();
        let wallets = wallets.ok_or_else(RunError::stopped)?;
        Ok(Totals { block: number, hash: header.hash, wallets })
    }
}
