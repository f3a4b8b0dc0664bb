//! The settings that commands share: node, database, output.
//!
//! Every command accepts all of them, so that scripts can pass one list of flags; its help shows those
//! that it uses (see [`super::command`]).

use std::{num::NonZeroU32, path::PathBuf};

use clap::{ArgAction, Args};

use super::values::{HeadAge, head_age, whole_number};
use crate::{
    read::{ChunkLimit, MethodChoice},
    report::{ColorChoice, LogFormat},
    rpc::{BlockChoice, UNITS_PER_CALL},
};

/// The heading of the node's flags in help texts.
pub(super) const NODE: &str = "Node";
/// The heading of the database's flags.
pub(super) const DATABASE: &str = "Database";
/// The heading of the flags for what is printed.
pub(super) const OUTPUT: &str = "Output";

/// Settings that commands share.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Where and how to read.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Where to store.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// What to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where and how to read.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = NODE)]
pub struct NodeArgs {
    /// HTTP JSON-RPC endpoint; repeat, or separate with commas, to add fallbacks
    ///
    /// The first endpoint is used, and the next ones when it fails.
    #[arg(long, env = "ETH_RPC_URL", value_name = "URL", value_delimiter = ',')]
    #[arg(global = true, hide_env_values = true)]
    pub rpc_url: Vec<String>,
    /// File with the --rpc-url, such as a mounted secret; one URL per line adds fallbacks
    #[arg(long, env = "ETH_RPC_URL_FILE", value_name = "FILE", global = true)]
    #[arg(hide_env_values = true)]
    pub rpc_url_file: Option<PathBuf>,
    /// WebSocket endpoint [default: the first --rpc-url, with ws in place of http]
    #[arg(long, env = "ETH_WS_URL", value_name = "URL", global = true, hide_env_values = true)]
    pub ws_url: Option<String>,
    /// File with the --ws-url
    #[arg(long, env = "ETH_WS_URL_FILE", value_name = "FILE", global = true)]
    #[arg(hide_env_values = true)]
    pub ws_url_file: Option<PathBuf>,
    /// TOML file that says what a total is made of [default: the built-in audius]
    ///
    /// Repeat it for several profiles: the command runs for one after another, and `watch` follows them
    /// together. Each needs a table of its own, by as many --schema or --database-url, in the same order. In the
    /// variable, separate them with commas.
    #[arg(long, env = "ETHTALLY_PROFILE", value_name = "FILE", help_heading = None::<&str>)]
    #[arg(global = true, hide_env_values = true)]
    pub profile: Vec<PathBuf>,
    /// Block to read at: latest, safe, finalized or a number
    #[arg(long, value_name = "BLOCK", default_value = "latest", global = true)]
    pub block: BlockChoice,
    /// Maximum age of the newest block, such as 10m, or `off` [default: the profile's]
    ///
    /// An endpoint whose newest block is older is passed over for the next one. Use `off` for a chain that
    /// stands still.
    #[arg(long, env = "ETHTALLY_MAX_HEAD_AGE", value_name = "AGE", value_parser = head_age)]
    #[arg(global = true, hide_env_values = true)]
    pub max_head_age: Option<HeadAge>,
    /// How totals are read
    #[arg(long, env = "ETHTALLY_READER", value_enum, value_name = "READER", default_value_t)]
    #[arg(global = true, hide_env_values = true)]
    pub reader: MethodChoice,
    /// Wallets per eth_call: `auto`, or an upper limit
    ///
    /// `auto` finds out how many the node accepts.
    #[arg(long, env = "ETHTALLY_CHUNK", value_name = "N", default_value_t)]
    #[arg(global = true, hide_env_values = true)]
    pub chunk: ChunkLimit,
    /// Maximum eth_calls in flight; reduced while rate-limited
    #[arg(long, env = "ETHTALLY_CONCURRENCY", value_name = "N", default_value_t = 4)]
    #[arg(value_parser = whole_number(1u32..=1_000), global = true, hide_env_values = true)]
    pub concurrency: u32,
    /// Requests per second, over all endpoints and including retries [default: no limit]
    #[arg(long, env = "ETHTALLY_RPS", value_name = "N", global = true, hide_env_values = true)]
    #[arg(value_parser = whole_number(NonZeroU32::MIN..))]
    pub rps: Option<NonZeroU32>,
    /// Compute units per second, over all endpoints and including retries [default: no limit]
    #[arg(long, env = "ETHTALLY_CUPS", value_name = "N", global = true, hide_env_values = true)]
    #[arg(value_parser = whole_number(NonZeroU32::MIN..))]
    pub cups: Option<NonZeroU32>,
    /// Compute units that the provider charges per eth_call
    #[arg(long, env = "ETHTALLY_CU_PER_CALL", value_name = "N", default_value_t = UNITS_PER_CALL)]
    #[arg(value_parser = whole_number(NonZeroU32::MIN..), global = true, hide_env_values = true)]
    pub cu_per_call: NonZeroU32,
    /// Retries per request
    #[arg(long, env = "ETHTALLY_RETRIES", value_name = "N", default_value_t = 5)]
    #[arg(value_parser = whole_number(0u32..), global = true, hide_env_values = true)]
    pub retries: u32,
    /// Seconds to wait for a response
    #[arg(long, env = "ETHTALLY_TIMEOUT", value_name = "SECS", default_value_t = 30)]
    #[arg(value_parser = whole_number(1u64..=86_400), global = true, hide_env_values = true)]
    pub timeout: u64,
}

/// Where to store.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = DATABASE)]
pub struct DatabaseArgs {
    /// sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE
    ///
    /// A missing SQLite file is created by migrate, refresh, backfill and watch --track all. With several
    /// profiles, repeat it for each, or give one PostgreSQL database and as many --schema. In the variable,
    /// write one URL per line.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", default_value = "sqlite:ethtally.db")]
    #[arg(global = true, hide_env_values = true)]
    pub database_url: Vec<String>,
    /// File with the --database-url, such as a mounted secret
    ///
    /// With several profiles it may have a URL per line, one for each.
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "FILE", global = true)]
    #[arg(hide_env_values = true)]
    pub database_url_file: Option<PathBuf>,
    /// PostgreSQL schema of the tables [default: the connection's own]
    ///
    /// Give one to each profile that shares a database. `ethtally migrate` creates it. With several profiles,
    /// repeat it for each, in the same order; in the variable, separate them with commas.
    #[arg(long, env = "ETHTALLY_SCHEMA", value_name = "NAME", global = true)]
    #[arg(hide_env_values = true)]
    pub schema: Vec<String>,
    /// True if no URL was given.
    #[arg(skip)]
    pub is_default: bool,
}

/// What to print.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = OUTPUT)]
pub struct OutputArgs {
    /// Print JSON instead of text: one object per line
    ///
    /// For several profiles the result is an array with an object for each; `watch` prints lines.
    #[arg(long, global = true)]
    pub json: bool,
    /// Format of the lines on stderr
    #[arg(long, env = "ETHTALLY_LOG_FORMAT", value_enum, value_name = "FORMAT", default_value_t)]
    #[arg(global = true, hide_env_values = true)]
    pub log_format: LogFormat,
    /// File to write the result to as metrics, for node_exporter's textfile collector
    ///
    /// Written when the run ends, however it ends. Its name ends in .prom; give each command one of its own.
    #[arg(long, env = "ETHTALLY_METRICS_FILE", value_name = "PATH", global = true)]
    #[arg(hide_env_values = true)]
    pub metrics_file: Option<PathBuf>,
    /// Log what happens to stderr; -vv logs every request too
    ///
    /// Each line has its time and level. The variable ETHTALLY_LOG chooses in more detail, such as
    /// info,hyper=debug: a level for everything, and levels for parts of the program and its libraries.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Print only errors to stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// When to use colours
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, global = true)]
    pub color: ColorChoice,
}
