//! One file a subcommand, each a short story. Only here do node, database and printer meet.

mod backfill;
mod csv_file;
mod doctor;
mod migrate;
mod packaging;
mod plan;
mod profile;
mod refresh;
mod several;
mod snapshot;
mod status;
mod story;
mod sweep;
mod verify;
mod watch;

use crate::{app::App, cli::Command, report::Verdict, tally::RunError};

pub use several::{ProfileRun, run_each};

/// Does what was asked for, and puts on record how it ended, if it writes to the table.
///
/// # Errors
/// When it could not be done; what was done before is stored and reported.
pub async fn run(app: &App, command: Command) -> Result<Verdict, RunError> {
    let (name, shard) = (command.name(), shard_of(&command));
    if let Some(path) = command.changes() {
        app.tell_changes(path)?;
    }
    let ended = run_command(app, command).await;
    app.record_run(name, shard.as_deref(), &ended).await;
    app.look_up_runs().await;
    ended
}

/// The part of the wallets that a command is about; `None` for all.
fn shard_of(command: &Command) -> Option<String> {
    match command {
        Command::Sweep(args) => args.shard.map(|shard| shard.to_string()),
        _ => None,
    }
}

async fn run_command(app: &App, command: Command) -> Result<Verdict, RunError> {
    match command {
        Command::Migrate(args) => migrate::run(app, args).await,
        Command::Sweep(args) => sweep::run(app, args).await,
        Command::Refresh(args) => refresh::run(app, args).await,
        Command::Backfill(args) => backfill::run(app, args).await,
        Command::Verify(args) => verify::run(app, args).await,
        Command::Watch(args) => watch::run(app, args).await,
        Command::Status(args) => status::run(app, args).await,
        Command::Doctor => doctor::run(app).await,
        Command::Snapshot(args) => snapshot::run(app, args).await,
        Command::Profile => profile::run(app),
        Command::Completions { shell } => packaging::completions(app, shell),
        Command::Man { subcommand } => packaging::man(app, subcommand.as_deref()),
    }
}
