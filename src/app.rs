//! What a command gets: settings, profile, printer. Node and database are opened when first asked for.

mod metrics_file;
mod run_record;
mod several;
mod table_profile;
mod url_files;

use std::{
    num::{NonZeroU64, NonZeroUsize},
    path::Path,
    sync::{Arc, OnceLock, atomic::AtomicI64},
    time::{Duration, Instant},
};

use alloy::primitives::U256;
use tokio::{sync::OnceCell, time::timeout};
use url::{ParseError, Url};

use crate::{
    cli::{HeadAge, Settings},
    profile::Profile,
    read::{MethodChoice, NodeReader, ReaderSettings},
    redact,
    report::{ChangeLines, Report},
    rpc::{BlockChoice, Client, ClientSettings, Contracts, RateLimits},
    store::{self, Access, PartColumn, Store},
    tally::{Amount, RunError, Shutdown},
};

pub use metrics_file::{MetricsFile, last_run};
pub use several::{apps_of_each, shared_client};
pub use table_profile::{Claimed, identity_of};
pub use url_files::read_url_files;

/// How long looking up the runs may take.
const RUNS_LIMIT: Duration = Duration::from_secs(2);
/// Wallets that are taken from the table, or from a file, at once.
pub const PAGE: u32 = 5_000;

/// What a command works with.
pub struct App {
    /// The settings from the command line.
    pub settings: Settings,
    /// What a total is made of.
    pub profile: Profile,
    /// The printer.
    pub report: Report,
    /// Asks for an early end.
    pub shutdown: Shutdown,
    /// The file of `--metrics-file`, if one is wanted.
    pub metrics_file: Option<Arc<MetricsFile>>,
    started: Instant,
    /// What [`App::open`] opened.
    opened: Opened,
    /// Set once the table is known to be of this profile.
    claimed: OnceCell<()>,
    /// Where totals that changed are reported.
    changes: OnceLock<Arc<ChangeLines>>,
}

/// What is known of the database that this run opened.
#[derive(Default)]
struct Opened {
    store: OnceLock<Arc<dyn Store>>,
    access: OnceLock<Access>,
    /// Set once its tables are as this version needs them.
    migrated: OnceLock<()>,
    /// The number of this run on the record; 0 before it is there.
    run: AtomicI64,
}

impl App {
    /// Resolves the settings that every command needs.
    ///
    /// # Errors
    /// When `--profile` is refused.
    pub fn new(settings: Settings, report: Report, shutdown: Shutdown) -> Result<Self, RunError> {
        let profile = match settings.node.profile.first() {
            Some(path) => Profile::load(path).map_err(|error| RunError::Settings(error.into()))?,
            None => Profile::audius(),
        };
        report.profile(&profile.name);
        Ok(Self {
            settings,
            profile,
            report,
            shutdown,
            metrics_file: None,
            started: Instant::now(),
            opened: Opened::default(),
            claimed: OnceCell::new(),
            changes: OnceLock::new(),
        })
    }

    /// A reader of totals that sends at most `max_calls` `eth_call`s. Sends nothing yet.
    ///
    /// # Errors
    /// As [`App::client`].
    pub fn reader(&self, max_calls: Option<NonZeroU64>) -> Result<NodeReader, RunError> {
        Ok(self.reader_through(self.client(Contracts::OfTotals, max_calls)?))
    }

    /// A client of the node for reads at this block. Sends nothing yet.
    ///
    /// # Errors
    /// As [`App::client`].
    pub fn client_at(&self, block: BlockChoice) -> Result<Arc<Client>, RunError> {
        let settings = self.client_settings(self.urls()?, Contracts::OfTotals);
        self.connect(ClientSettings { block, ..settings })
    }

    /// A reader of totals that shares its client with others.
    pub fn reader_through(&self, client: Arc<Client>) -> NodeReader {
        self.reader_of(client, &self.profile)
    }

    /// A reader of the totals of this profile that shares its client with others.
    pub fn reader_of(&self, client: Arc<Client>, profile: &Profile) -> NodeReader {
        NodeReader::new(client, profile, self.reader_settings(), self.shutdown.clone())
    }

    /// How wallets are read.
    pub fn reader_settings(&self) -> ReaderSettings {
        let node = &self.settings.node;
        // Without Multicall3 there is only one way.
        let method = self.profile.multicall3.map_or(MethodChoice::Packed, |_| node.reader);
        ReaderSettings { block: node.block, chunk: node.chunk, method }
    }

    /// `eth_call`s in flight, at most.
    pub fn concurrency(&self) -> NonZeroUsize {
        // Arguments are checked to be at least 1.
        NonZeroUsize::new(self.settings.node.concurrency as usize).unwrap_or(NonZeroUsize::MIN)
    }

    /// How old the newest block may be; `None` for a chain that stands still.
    pub fn max_head_age(&self) -> Option<Duration> {
        match self.settings.node.max_head_age {
            Some(HeadAge::Off) => None,
            Some(HeadAge::AtMost(age)) => Some(age),
            None => self.profile.max_head_age,
        }
    }

    /// A client of the node that sends at most `max_calls` `eth_call`s. Sends nothing yet.
    ///
    /// # Errors
    /// When no endpoint is given, or one is not an HTTP URL.
    pub fn client(
        &self,
        contracts: Contracts,
        max_calls: Option<NonZeroU64>,
    ) -> Result<Arc<Client>, RunError> {
        let mut settings = self.client_settings(self.urls()?, contracts);
        settings.rates.max_calls = max_calls.map(NonZeroU64::get);
        self.connect(settings)
    }

    /// The endpoints, at least one.
    fn urls(&self) -> Result<Vec<Url>, RunError> {
        let urls = self.endpoints().into_iter().collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() {
            return Err(RunError::settings(
                "no node to read from; give --rpc-url URL or set ETH_RPC_URL",
            ));
        }
        Ok(urls)
    }

    /// The endpoints, or for each that is not an HTTP URL an error.
    pub fn endpoints(&self) -> Vec<Result<Url, RunError>> {
        let endpoint = |(index, text)| {
            url_of(text, &["http", "https"]).ok_or_else(|| {
                let origin = match &self.settings.node.rpc_url_file {
                    Some(path) => format!("URL number {} in {}", index + 1, path.display()),
                    None => format!("--rpc-url number {}", index + 1),
                };
                let remedy = remedy(text, ["http", "https"]);
                RunError::settings(format!("{origin} is not an http or https URL; {remedy}"))
            })
        };
        self.rpc_urls().into_iter().enumerate().map(endpoint).collect()
    }

    /// A client of one endpoint, with this number of retries per request. Sends nothing yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn client_of(&self, url: Url, retries: u32) -> Result<Arc<Client>, RunError> {
        let settings = self.client_settings(vec![url], Contracts::OfEvents);
        self.connect(ClientSettings { retries, ..settings })
    }

    fn connect(&self, settings: ClientSettings) -> Result<Arc<Client>, RunError> {
        Ok(Arc::new(Client::new(settings, &self.profile, self.shutdown.clone())?))
    }

    /// How to reach these endpoints, at least one, as the command line says.
    fn client_settings(&self, urls: Vec<Url>, contracts: Contracts) -> ClientSettings {
        let node = &self.settings.node;
        ClientSettings {
            urls,
            rates: RateLimits {
                requests_per_second: node.rps,
                units_per_second: node.cups,
                units_per_call: node.cu_per_call,
                max_calls: None,
            },
            concurrency: self.concurrency().get(),
            retries: node.retries,
            timeout: Duration::from_secs(node.timeout),
            block: node.block,
            contracts,
            max_head_age: self.max_head_age(),
        }
    }

    /// The WebSocket of the node: `--ws-url`, or the first `--rpc-url` with another scheme.
    ///
    /// # Errors
    /// When it is not a WebSocket URL.
    pub fn ws_url(&self) -> Result<Url, RunError> {
        let given = self.settings.node.ws_url.as_deref().map(str::trim);
        if let Some(text) = given.filter(|text| !text.is_empty()) {
            return url_of(text, &["ws", "wss"]).ok_or_else(|| {
                let remedy = remedy(text, ["ws", "wss"]);
                let file = self.settings.node.ws_url_file.as_ref();
                let origin = file.map_or("--ws-url".to_owned(), |path| path.display().to_string());
                RunError::settings(format!("{origin} is not a ws or wss URL; {remedy}"))
            });
        }
        let first = self.rpc_urls().first().and_then(|text| url_of(text, &["http", "https"]));
        let no_node =
            || RunError::settings("no node to follow; give --rpc-url URL or --ws-url URL");
        let mut url = first.ok_or_else(no_node)?;
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        url.set_scheme(scheme)
            .map_err(|()| RunError::settings("no WebSocket URL fits --rpc-url; give --ws-url"))?;
        Ok(url)
    }

    fn rpc_urls(&self) -> Vec<&str> {
        let given = self.settings.node.rpc_url.iter().map(|url| url.trim());
        given.filter(|url| !url.is_empty()).collect()
    }

    /// The database, whose tables are created or upgraded, or only checked for [`Access::Read`].
    ///
    /// # Errors
    /// When it cannot be opened, or its tables are not as this version needs them, or of another profile.
    pub async fn store(&self, access: Access) -> Result<Arc<dyn Store>, RunError> {
        let store = self.open(access).await?;
        match access {
            Access::Read => store.require_tables().await?,
            Access::Update | Access::Write => drop(self.migrate(store.as_ref()).await?),
        }
        self.check_table(store.as_ref()).await?;
        Ok(store)
    }

    /// Creates or upgrades the tables; returns the names of the migrations that it applied.
    ///
    /// # Errors
    /// As [`Store::migrate`].
    pub async fn migrate(&self, store: &dyn Store) -> Result<Vec<String>, RunError> {
        let applied = store.migrate().await?;
        let _ = self.opened.migrated.set(());
        Ok(applied)
    }

    /// With `--metrics-file`: looks up the runs of this command, if the database was opened.
    pub async fn look_up_runs(&self) {
        let (Some(file), Some(store)) = (&self.metrics_file, self.opened.store.get()) else {
            return;
        };
        // That it cannot be is not an error: the file knows the runs before.
        if let Ok(Ok(runs)) = timeout(RUNS_LIMIT, store.last_runs()).await {
            file.runs(runs.into_iter().map(metrics_file::last_run));
        }
    }

    /// The database as it is.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open(&self, access: Access) -> Result<Arc<dyn Store>, RunError> {
        let database = &self.settings.database;
        let columns = self.profile.columns();
        let columns = columns
            .map(|(name, view)| PartColumn { name: name.to_owned(), holds: view.to_string() })
            .collect();
        let (url, schema, shutdown) = (self.database_url(), self.schema(), &self.shutdown);
        let opened = store::open(url, schema, columns, access, shutdown).await;
        let store: Arc<dyn Store> = match opened {
            Err(error @ RunError::Settings(_)) => {
                return Err(match &database.database_url_file {
                    _ if database.is_default => error.context(
                        "neither --database-url nor DATABASE_URL is set, so the default applies",
                    ),
                    Some(path) => error.context(format!("--database-url-file {}", path.display())),
                    None => error,
                });
            }
            opened => opened?.into(),
        };
        if let Some(changes) = self.changes.get() {
            store.tell_changes(Arc::clone(changes) as _);
        }
        let _ = self.opened.store.set(Arc::clone(&store));
        let _ = self.opened.access.set(access);
        Ok(store)
    }

    /// Writes totals that change to this file, from when the database is opened.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn tell_changes(&self, path: &Path) -> Result<(), RunError> {
        let changes = self.report.changes(path)?;
        let _ = self.changes.set(Arc::new(changes));
        Ok(())
    }

    /// Closes what was opened, so that the end of the process cuts nothing off.
    pub async fn close(&self) {
        if let Some(changes) = self.changes.get().cloned() {
            let shutdown = self.shutdown.clone();
            let finish = move || changes.finish(|| shutdown.signal().is_some());
            let _ = tokio::task::spawn_blocking(finish).await;
        }
        if let Some(store) = self.opened.store.get() {
            // This takes no time, unless the database is gone.
            let _ = tokio::time::timeout(Duration::from_secs(1), store.close()).await;
        }
    }

    /// Where the table is.
    pub fn database_url(&self) -> &str {
        self.settings.database.database_url.first().map_or("", String::as_str)
    }

    /// The schema of the table, if one is given.
    pub fn schema(&self) -> Option<&str> {
        self.settings.database.schema.first().map(String::as_str)
    }

    /// An amount in wei, for people.
    pub fn amount(&self, wei: U256) -> Amount<'_> {
        Amount { wei, decimals: self.profile.decimals, symbol: &self.profile.symbol }
    }
}

/// The URL, if it has one of these schemes. The text itself may hold a key and is not shown.
fn url_of(text: &str, schemes: &[&str]) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let usable = schemes.contains(&url.scheme()) && url.has_host();
    (usable && text.contains("://") && !redact::is_ambiguous(text)).then_some(url)
}

/// What would make this text a URL with one of these schemes.
fn remedy(text: &str, schemes: [&str; 2]) -> String {
    if url_of(text, &["ws", "wss"]).is_some() {
        return "give it as --ws-url, and an http or https URL here".to_owned();
    }
    if url_of(text, &["http", "https"]).is_some() {
        return "give it as --rpc-url, and a ws or wss URL here".to_owned();
    }
    // Host and port alone hold no secret.
    let is_host = |host: &str| {
        (host == "localhost" || host.contains('.'))
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
    };
    let [plain, over_tls] = schemes;
    match (text.split_once(':'), Url::parse(text)) {
        (Some((host, port)), _) if is_host(host) && port.parse::<u16>().is_ok() => {
            format!("write {plain}://{text}")
        }
        _ if !text.contains("://") => format!("start it with {plain}:// or {over_tls}://"),
        _ if redact::is_ambiguous(text) => ENCODE.to_owned(),
        (_, Ok(url)) if !schemes.contains(&url.scheme()) => {
            format!("start it with {plain}:// or {over_tls}://")
        }
        (_, Err(ParseError::EmptyHost)) => "it names no host".to_owned(),
        (_, Err(ParseError::InvalidPort)) if !text.contains('@') => {
            "its port is not a number up to 65535".to_owned()
        }
        _ => ENCODE.to_owned(),
    }
}

/// The remedy for characters that mean something else in a URL.
const ENCODE: &str = "percent-encode special characters in it";
