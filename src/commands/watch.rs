//! `watch`: follow the chain's events, and refresh the wallets they affect.

mod lines;
mod once;
mod setup;
mod together;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tracing::warn;
use url::Url;

use super::status::table_state;
use crate::{
    app::{App, last_run},
    cli::WatchArgs,
    events::{Events, Heads, Listener, Listeners},
    follow::{
        Backoff, Context, Follower, Observer, Source, WatchEnd, WatchEvent, Watcher, signals,
    },
    monitor::{Monitor, Monitors, RunningServer, Server},
    read::NodeReader,
    redact,
    report::Verdict,
    rpc::Contracts,
    store::{LockKey, Store},
    tally::{Lock, Locked, RunError},
};
use lines::{EventBody, EventLine, EventPrinter, print_event};
use setup::{
    access, check_settings, check_table, follower_settings, note_ignored, open_node, overdue,
};

/// How often counts are printed and the last runs are looked up.
const A_MINUTE: Duration = Duration::from_secs(60);
/// Minutes between two looks at the table: at three million rows one takes a second.
const TABLE_MINUTES: u32 = 5;
/// How often a standby tries to take over.
const STANDBY: Duration = Duration::from_secs(1);
/// How often endpoints that were given up are tried again while others work.
const REVIVE_AFTER_MINUTES: u32 = 60;

pub(super) use together::run_together;

pub(super) async fn run(app: &App, args: WatchArgs) -> Result<Verdict, RunError> {
    check_settings(app)?;
    match args.once {
        true => once::run(app, &args).await,
        false => run_until_stopped(app, args).await,
    }
}

async fn run_until_stopped(app: &App, args: WatchArgs) -> Result<Verdict, RunError> {
    let client = app.client(Contracts::OfEvents, None)?;
    let (reader, events, monitor) = open_node(app, &args, client);
    let ws_url = app.ws_url()?;
    let prepared = Prepared { app, args: &args, events: Arc::new(events), reader, ws_url };
    let mut server = None;
    tokio::select! {
        ended = prepared.watch(&monitor, &mut server) => ended?,
        never = say_that_it_runs(app, &monitor) => match never {},
        // Nothing is lost: what is not stored comes after the checkpoint.
        () = overdue(&app.shutdown) => warn!("node or database take too long; stopping without waiting for them"),
    }
    if let Some(server) = server {
        server.stop().await;
    }
    report_end(app, &monitor)?;
    Ok(Verdict::Pass)
}

fn report_end(app: &App, monitor: &Monitor) -> Result<(), RunError> {
    app.report.result(&EventLine::last(EventBody::Stopped {
        done: monitor.counts(),
        checkpoint_block: monitor.health().checkpoint_block,
        interrupted: app.shutdown.signal().is_some(),
    }))?;
    Ok(())
}

/// Says each minute on the record of runs that this one is still running.
async fn say_that_it_runs(app: &App, monitor: &Monitor) -> Infallible {
    loop {
        sleep(A_MINUTE).await;
        let counts = serde_json::to_string(&monitor.counts()).ok();
        app.record_running("watch", counts.as_deref()).await;
    }
}

/// What needs neither node nor database to be made.
struct Prepared<'a> {
    app: &'a App,
    args: &'a WatchArgs,
    events: Arc<Events>,
    reader: Arc<NodeReader>,
    ws_url: Url,
}

impl Prepared<'_> {
    /// Opens everything and watches until a shutdown is requested. A mistake in the settings ends it at
    /// once; all else that the node does is waited out. `server` is set once it answers, and left running.
    async fn watch(
        self,
        monitor: &Arc<Monitor>,
        server: &mut Option<RunningServer>,
    ) -> Result<(), RunError> {
        let Self { app, args, events, reader, ws_url } = self;
        let store = app.store(access(args)).await?;
        app.record_running("watch", None).await;
        let mut address = None;
        if let Some(listen) = &args.listen {
            address = Some(serve(listen, Arc::clone(monitor).into(), server).await?);
        }
        let observer: Arc<dyn Observer> = Arc::new(EventPrinter {
            monitor: Arc::clone(monitor),
            report: app.report.clone(),
            shares_connection: false,
        });
        let listeners = Arc::new(Listeners::new(None));
        let heads = heads(app, args, ws_url, Arc::clone(&events), Arc::clone(&listeners));
        let store = store.as_ref();
        let watch = Watch { app, args, events, reader, store, observer, listeners };
        tokio::select! {
            checked = watch.check(&mut address) => checked?,
            error = failure(server) => return Err(error),
        }
        if !app.shutdown.is_requested() {
            app.claim_table(watch.store).await?;
        }
        watch.announce(&mut address);
        tokio::select! {
            ended = watch.run() => ended,
            never = heads.run() => match never {},
            error = failure(server) => Err(error),
            never = watch.every_minute(monitor) => match never {},
        }
    }
}

/// Serves health and metrics at `listen`; returns the address.
async fn serve(
    listen: &str,
    monitors: Monitors,
    server: &mut Option<RunningServer>,
) -> Result<String, RunError> {
    let bound = Server::bind(listen, monitors).await?;
    let address = bound.address()?.to_string();
    *server = Some(bound.start());
    Ok(address)
}

/// Announces the blocks of the WebSocket at `url` to `listeners`.
fn heads(
    app: &App,
    args: &WatchArgs,
    url: Url,
    events: Arc<Events>,
    listeners: Arc<Listeners>,
) -> Heads {
    let timeout = Duration::from_secs(app.settings.node.timeout);
    let max_lag = Duration::from_secs(args.max_lag);
    Heads { url, timeout, max_lag, events, listeners }
}

/// Returns only if the server fails.
async fn failure(server: &mut Option<RunningServer>) -> RunError {
    match server {
        Some(server) => server.failure().await,
        None => std::future::pending().await,
    }
}

/// A watch that has opened everything.
struct Watch<'a> {
    app: &'a App,
    args: &'a WatchArgs,
    events: Arc<Events>,
    reader: Arc<NodeReader>,
    store: &'a dyn Store,
    observer: Arc<dyn Observer>,
    listeners: Arc<Listeners>,
}

impl Watch<'_> {
    /// Looks for mistakes in the settings, which only a node can tell. A node that fails is asked again, as later on.
    async fn check(&self, address: &mut Option<String>) -> Result<(), RunError> {
        let mut backoff = Backoff::default();
        let newest = loop {
            match self.events.newest().await {
                Ok(newest) => break newest.number,
                Err(error @ (RunError::Settings(_) | RunError::Stopped(_))) => return Err(error),
                Err(error) => {
                    self.announce(address);
                    self.wait_out(error, backoff.pause()).await;
                    self.events.revive();
                }
            }
            if self.app.shutdown.is_requested() {
                return Ok(());
            }
        };
        check_table(self.app, self.args, self.store, newest).await
    }

    /// Prints where health and metrics are served, once.
    fn announce(&self, address: &mut Option<String>) {
        if let Some(address) = address.take() {
            print_event(&self.app.report, EventBody::Listening { address });
        }
    }

    /// Takes the lock, follows the chain, and takes it again if it is lost.
    async fn run(&self) -> Result<(), RunError> {
        let mut backoff = Backoff::default();
        let mut first = true;
        while let Some(lock) = self.lock().await {
            let ended = self.follow(lock.as_ref(), first).await;
            lock.release().await;
            match ended {
                Ok(WatchEnd::Stopped) => break,
                Ok(WatchEnd::LockLost(reason)) => {
                    warn!("the lock was lost: {reason}; taking it again");
                    backoff.reset();
                }
                Err(error) => self.wait_out(error, backoff.pause()).await,
            }
            first = false;
        }
        Ok(())
    }

    /// Takes the lock as soon as it is free; `None` if a shutdown comes first.
    async fn lock(&self) -> Option<Box<dyn Lock>> {
        let mut backoff = Backoff::default();
        let mut stands_by = false;
        while !self.app.shutdown.is_requested() {
            match self.store.lock(LockKey::Watch(&self.app.profile.checkpoint)).await {
                Ok(Some(lock)) => return Some(lock),
                Ok(None) => {
                    if !std::mem::replace(&mut stands_by, true) {
                        self.observer.notify(&WatchEvent::Standby);
                    }
                    backoff.reset();
                    self.pause(STANDBY).await;
                }
                Err(error) => {
                    stands_by = false;
                    self.wait_out(error, backoff.pause()).await;
                }
            }
        }
        None
    }

    async fn wait_out(&self, error: RunError, pause: Duration) {
        self.observer.notify(&WatchEvent::Failed { error, pause });
        self.pause(pause).await;
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.app.shutdown.requested() => {}
            () = sleep(time) => {}
        }
    }

    /// Follows the chain while the lock is held.
    async fn follow(&self, lock: &dyn Lock, first: bool) -> Result<WatchEnd, RunError> {
        let ledger = Locked { ledger: self.store, lock };
        let context = Context {
            source: self.events.as_ref(),
            reader: self.reader.as_ref(),
            ledger: &ledger,
            journal: self.store,
            observer: self.observer.as_ref(),
            shutdown: &self.app.shutdown,
        };
        let follower = Follower::new(context, follower_settings(self.app, self.args)).await?;
        note_ignored(self.app, self.args, follower.next().filter(|_| first));
        let (signals, mut heard) = signals();
        let _listening = self.listeners.join(Listener {
            events: Arc::clone(&self.events),
            observer: Arc::clone(&self.observer),
            signals,
        });
        let watcher = Watcher {
            follower,
            source: self.events.as_ref(),
            observer: self.observer.as_ref(),
            shutdown: &self.app.shutdown,
            lock,
        };
        Ok(watcher.run(&mut heard).await)
    }

    /// Looks up the last runs, and the table if it is time for that.
    async fn look_up(&self, monitor: &Monitor, with_table: bool) -> Result<(), RunError> {
        let runs = self.store.last_runs().await?.into_iter();
        monitor.runs(runs.map(last_run).collect());
        if with_table {
            monitor.table(table_state(self.store).await?);
        }
        Ok(())
    }

    /// Prints the counts of each minute, and looks up what changes without an event.
    async fn every_minute(&self, monitor: &Monitor) -> Infallible {
        let mut minutes = interval_at(Instant::now(), A_MINUTE);
        minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = monitor.counts();
        for minute in 0_u32.. {
            minutes.tick().await;
            if let Err(error) = self.look_up(monitor, minute % TABLE_MINUTES == 0).await {
                warn!("{}", redact::clean_error(&error));
            }
            if minute % REVIVE_AFTER_MINUTES == REVIVE_AFTER_MINUTES - 1 {
                self.events.revive();
            }
            let (counts, health) = (monitor.counts(), monitor.health());
            if minute > 0 && health.role == "active" {
                let counts = EventBody::Counts {
                    done: counts.since(&before),
                    head_block: health.head_block,
                    checkpoint_block: health.checkpoint_block,
                };
                print_event(&self.app.report, counts);
            }
            before = counts;
        }
        std::future::pending().await
    }
}
