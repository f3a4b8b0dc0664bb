//! The settings that every command shares: node, database, output.

use std::{num::NonZeroU32, path::PathBuf};

use clap::{ArgAction, Args};

use crate::{
    read::{ChunkLimit, MethodChoice},
    report::ColorChoice,
    rpc::{BlockChoice, UNITS_PER_CALL},
};

/// Settings that every command shares.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Where and how to read.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Where to store.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// What to show.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where and how to read.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Node")]
pub struct NodeArgs {
    /// HTTP JSON-RPC endpoint; repeat it or use commas for more
    ///
    /// The first one is used, the next ones when it fails.
    #[arg(long, env = "ETH_RPC_URL", value_name = "URL", value_delimiter = ',')]
    #[arg(global = true, hide_env_values = true)]
    pub rpc_url: Vec<String>,
    /// WebSocket endpoint, for watch [default: the first --rpc-url with ws or wss]
    #[arg(long, env = "ETH_WS_URL", value_name = "URL", global = true, hide_env_values = true)]
    pub ws_url: Option<String>,
    /// Which contracts make up a total, as a TOML file [default: the built-in audius]
    #[arg(
        long,
        env = "ETHTALLY_PROFILE",
        value_name = "FILE",
        global = true,
        hide_env_values = true
    )]
    pub profile: Option<PathBuf>,
    /// Block to read at: latest, safe, finalized or a number
    #[arg(long, value_name = "B", default_value = "latest", global = true)]
    pub block: BlockChoice,
    /// By what totals are read
    #[arg(long, env = "ETHTALLY_READER", value_enum, value_name = "READER", default_value_t)]
    #[arg(global = true, hide_env_values = true)]
    pub reader: MethodChoice,
    /// Wallets in one eth_call: auto for as many as the node takes, or a number for at most so many
    #[arg(long, env = "ETHTALLY_CHUNK", value_name = "N", default_value_t)]
    #[arg(global = true, hide_env_values = true)]
    pub chunk: ChunkLimit,
    /// eth_calls in flight, at most; fewer while a provider wants it slower
    #[arg(long, env = "ETHTALLY_CONCURRENCY", value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000), global = true, hide_env_values = true)]
    pub concurrency: u32,
    /// Requests a second, all endpoints together, every retry counted [default: no limit]
    #[arg(long, env = "ETHTALLY_RPS", value_name = "N", global = true, hide_env_values = true)]
    pub rps: Option<NonZeroU32>,
    /// Compute units a second, all endpoints together, every retry counted [default: no limit]
    #[arg(long, env = "ETHTALLY_CUPS", value_name = "N", global = true, hide_env_values = true)]
    pub cups: Option<NonZeroU32>,
    /// Compute units that the provider counts for an eth_call
    #[arg(long, env = "ETHTALLY_CU_PER_CALL", value_name = "N", default_value_t = UNITS_PER_CALL)]
    #[arg(global = true, hide_env_values = true)]
    pub cu_per_call: NonZeroU32,
    /// How often one request is tried again
    #[arg(long, env = "ETHTALLY_RETRIES", value_name = "N", default_value_t = 5)]
    #[arg(global = true, hide_env_values = true)]
    pub retries: u32,
    /// How long to wait for one answer
    #[arg(long, env = "ETHTALLY_TIMEOUT", value_name = "SECS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400), global = true, hide_env_values = true)]
    pub timeout: u64,
}

/// Where to store.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseArgs {
    /// sqlite:PATH (embedded, made if missing) or postgres://...
    #[arg(long, env = "DATABASE_URL", value_name = "URL", default_value = "sqlite:ethtally.db")]
    #[arg(global = true, hide_env_values = true)]
    pub database_url: String,
}

/// What to show.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print one JSON object instead of text; watch prints one a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Log what is done; twice for everything
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Errors only on stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// When to use colours
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, global = true)]
    pub color: ColorChoice,
}
