//! The command line, as clap types.
//!
//! Owns every flag, its help text and the check of its value. Knows nothing of what a command does with it.

mod args;
mod build;
mod commands;
mod examples;
mod man;
mod parse;
mod settings;
mod values;

pub use args::{
    BackfillArgs, BudgetArgs, ChangesArgs, MigrateArgs, RefreshArgs, SnapshotArgs, StatusArgs,
    StrictArgs, SweepArgs, TrackChoice, VerifyArgs, WatchArgs, WriteChoice,
};
pub use build::{command, command_for_completions, uses_flag};
pub use commands::{Cli, Command};
pub use man::manual_page;
pub use parse::{log_format, parse};
pub use settings::{DatabaseArgs, NodeArgs, OutputArgs, Settings};
pub use values::HeadAge;
