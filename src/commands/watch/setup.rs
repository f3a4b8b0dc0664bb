//! What `watch` and `watch --once` have in common: settings, the node, the table.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    app::{App, PAGE},
    cli::{TrackChoice, WatchArgs},
    events::Events,
    follow::{FollowerSettings, Track},
    monitor::{HealthLimits, Monitor},
    read::NodeReader,
    rpc::{BlockChoice, Client},
    store::{Access, Store},
    tally::{RunError, Shutdown},
};

/// How long node and database may delay a shutdown. Closing and printing come after it, and all of it takes
/// less than 10 s.
const LONGEST_STOP: Duration = Duration::from_secs(6);

/// Looks for mistakes in the settings.
pub(super) fn check_settings(app: &App) -> Result<(), RunError> {
    if app.profile.is_without_events {
        return Err(RunError::settings(format!(
            "profile {} has events = \"none\": its totals change without an event that watch could follow; \
             sweep it instead, with `ethtally sweep --all`",
            app.profile.name
        )));
    }
    if app.profile.events.is_empty() {
        return Err(RunError::settings(format!(
            "profile {} has no [[event]], so there is nothing to watch; add some, or give another \
             --profile",
            app.profile.name
        )));
    }
    if app.settings.node.block != BlockChoice::Latest {
        return Err(RunError::settings(
            "--block is not for watch, which follows the newest block; see --confirmations",
        ));
    }
    Ok(())
}

/// A reader of totals and a source of events that share `client`, and a monitor that counts what it sends.
pub(super) fn open_node(
    app: &App,
    args: &WatchArgs,
    client: Arc<Client>,
) -> (Arc<NodeReader>, Events, Arc<Monitor>) {
    let reader = Arc::new(app.reader_through(Arc::clone(&client)));
    let concurrency = app.settings.node.concurrency as usize;
    let events = Events::new(
        Arc::clone(&client),
        Arc::clone(&reader),
        &app.profile,
        concurrency,
        app.shutdown.clone(),
    );
    let limits = HealthLimits {
        max_lag: Duration::from_secs(args.max_lag),
        max_head_age: app.max_head_age(),
        confirmations: args.confirmations,
    };
    let sent = Arc::clone(&client);
    let monitor =
        Monitor::new(&app.profile.name, limits, move || client.counts(), move || sent.series());
    (reader, events, Arc::new(monitor))
}

/// What the table is opened for.
pub(super) const fn access(args: &WatchArgs) -> Access {
    match args.track {
        TrackChoice::Known => Access::Update,
        TrackChoice::All => Access::Write,
    }
}

pub(super) fn follower_settings(app: &App, args: &WatchArgs) -> FollowerSettings {
    FollowerSettings {
        checkpoint: app.profile.checkpoint.clone(),
        track: match args.track {
            TrackChoice::Known => Track::Known,
            TrackChoice::All => Track::All,
        },
        confirmations: args.confirmations,
        first_block: args.from_block,
        page_size: PAGE as usize,
        events: app.profile.events_text(),
    }
}

/// Looks for mistakes in the settings that show once the newest block is known.
pub(super) async fn check_table(
    app: &App,
    args: &WatchArgs,
    store: &dyn Store,
    newest: u64,
) -> Result<(), RunError> {
    if let Some(first) = args.from_block.filter(|first| *first > newest + 1)
        && store.checkpoint(&app.profile.checkpoint).await?.is_none()
    {
        return Err(RunError::settings(format!(
            "--from-block {first} does not exist yet; the newest block is {newest}"
        )));
    }
    if store.is_empty().await? {
        app.report.note(match args.track {
            TrackChoice::Known => {
                "the table is empty, and only wallets in it are refreshed; fill it with \
                 `ethtally backfill`, or give --track all"
            }
            TrackChoice::All => "the table is empty; wallets are added as events name them",
        });
    }
    Ok(())
}

/// Says so where `--from-block` has no meaning.
pub(super) fn note_ignored(app: &App, args: &WatchArgs, next: Option<u64>) {
    if let Some(next) = next.filter(|_| args.from_block.is_some()) {
        app.report.note(&format!(
            "--from-block is ignored: the table has a checkpoint; continuing at block {next}"
        ));
    }
}

/// Returns [`LONGEST_STOP`] after a shutdown was requested.
pub(super) async fn overdue(shutdown: &Shutdown) {
    shutdown.requested().await;
    sleep(LONGEST_STOP).await;
}
