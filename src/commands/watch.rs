//! `watch`: follow the chain's events, and refresh the wallets that they touch.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::bail;
use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tracing::warn;

use crate::{
    App,
    chain::{BlockChoice, Contracts, Events, Heads, MulticallReader},
    cli::{TrackChoice, WatchArgs},
    follow::{
        Backoff, Ended, Follower, FollowerSettings, Lock, News, Observer, Sides, Source, Track,
        Watcher,
    },
    monitor::{Monitor, Requests, Server, Totals},
    redact,
    report::{Outcome, Paint, Report, Verdict},
    store::{Access, Store, Task},
    tally::Stop,
};

/// How often counts are told and the oldest row is looked up.
const A_MINUTE: Duration = Duration::from_secs(60);
/// How often a standby looks whether the other process has ended.
const STANDBY: Duration = Duration::from_secs(1);
/// How long after a stop was asked for a database may hold it up: it is to end within 10 s.
const LONGEST_STOP: Duration = Duration::from_secs(7);
/// How often endpoints that were given up are tried again although others work.
const REVIVE_AFTER_MINUTES: u32 = 60;

pub(super) async fn run(app: &App, args: WatchArgs) -> anyhow::Result<Verdict> {
    if app.profile.events.is_empty() {
        bail!("profile {} has no [[event]]: there is nothing to watch", app.profile.name);
    }
    if app.settings.node.block != BlockChoice::Latest {
        bail!("--block is not for watch, which follows the newest block; see --confirmations");
    }
    let client = app.client(Contracts::OfEvents)?;
    let reader = Arc::new(app.reader_through(Arc::clone(&client)));
    let concurrency = app.settings.node.concurrency as usize;
    let events = Events::new(Arc::clone(&client), Arc::clone(&reader), &app.profile, concurrency);
    let ws_url = app.ws_url()?;
    let store = app.store(Access::Write).await?;
    let max_lag = Duration::from_secs(args.max_lag);
    let monitor = Arc::new(Monitor::new(max_lag, args.confirmations, move || {
        let traffic = client.traffic();
        let (all, eth_calls, retries) = (traffic.requests, traffic.eth_calls, traffic.retries);
        Requests { all, eth_calls, retries }
    }));
    let teller: Arc<dyn Observer> =
        Arc::new(Teller { monitor: Arc::clone(&monitor), report: app.report.clone() });
    let server = match &args.listen {
        Some(address) => Some(Server::bind(address, Arc::clone(&monitor)).await?),
        None => None,
    };
    // A mistake in the settings ends it now; later failures are waited out.
    events.newest().await?;
    if let Some(server) = &server {
        let address = server.address()?.to_string();
        tell(&app.report, What::Listening { address });
    }
    let watch = Watch {
        app,
        args: &args,
        events: Arc::new(events),
        reader,
        store: store.as_ref(),
        teller,
        ws_url,
    };
    tokio::select! {
        ended = watch.run() => ended?,
        ended = serve(server) => ended?,
        never = watch.every_minute(&monitor) => match never {},
        // Nothing is lost by it: what is not stored is behind the checkpoint.
        () = overdue(&app.stop) => warn!("the database does not answer; stopping without it"),
    }
    app.report.result(&Told::now(What::Stopped {
        done: Done::of(&monitor.totals()),
        checkpoint_block: monitor.health().checkpoint_block,
        interrupted: app.stop.signal().is_some(),
    }))?;
    Ok(Verdict::Well)
}

/// Answers requests, if there is anything to listen on; returns only with an error.
async fn serve(server: Option<Server>) -> anyhow::Result<()> {
    match server {
        Some(server) => server.run().await,
        None => std::future::pending().await,
    }
}

/// Returns when a stop has been asked for and not been heeded for too long.
async fn overdue(stop: &Stop) {
    stop.asked().await;
    sleep(LONGEST_STOP).await;
}

/// What a watch is made of.
struct Watch<'a> {
    app: &'a App,
    args: &'a WatchArgs,
    events: Arc<Events>,
    reader: Arc<MulticallReader>,
    store: &'a dyn Store,
    teller: Arc<dyn Observer>,
    ws_url: url::Url,
}

impl Watch<'_> {
    /// Waits for its turn, follows the chain, and waits again if the lock is lost.
    async fn run(&self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        let mut first = true;
        while let Some(lock) = self.turn().await {
            match self.follow(lock, first).await {
                Ok(Ended::Stopped) => break,
                Ok(Ended::LockLost) => {
                    warn!("the session that held the lock was lost; taking it again");
                    backoff.reset();
                }
                Err(error) => self.wait_out(error, backoff.pause()).await,
            }
            first = false;
        }
        Ok(())
    }

    /// Takes the lock as soon as it is free; `None` if a stop comes first.
    async fn turn(&self) -> Option<Box<dyn Lock>> {
        let mut backoff = Backoff::default();
        let mut stands_by = false;
        while !self.app.stop.is_asked() {
            match self.store.lock(Task::Watch(&self.app.profile.checkpoint)).await {
                Ok(Some(lock)) => return Some(lock),
                Ok(None) => {
                    if !std::mem::replace(&mut stands_by, true) {
                        self.teller.hear(&News::Standby);
                    }
                    backoff.reset();
                    self.pause(STANDBY).await;
                }
                Err(error) => self.wait_out(error, backoff.pause()).await,
            }
        }
        None
    }

    async fn wait_out(&self, error: anyhow::Error, pause: Duration) {
        self.teller.hear(&News::Failed { error, pause });
        self.pause(pause).await;
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.app.stop.asked() => {}
            () = sleep(time) => {}
        }
    }

    /// Follows the chain while the lock is held.
    async fn follow(&self, lock: Box<dyn Lock>, first: bool) -> anyhow::Result<Ended> {
        let sides = Sides {
            source: self.events.as_ref(),
            reader: self.reader.as_ref(),
            ledger: self.store,
            journal: self.store,
            observer: self.teller.as_ref(),
            stop: &self.app.stop,
        };
        let settings = FollowerSettings {
            checkpoint: self.app.profile.checkpoint.clone(),
            track: match self.args.track {
                TrackChoice::Known => Track::Known,
                TrackChoice::All => Track::All,
            },
            confirmations: self.args.confirmations,
            first_block: self.args.from_block,
            page_size: self.app.page_size() as usize,
        };
        let follower = Follower::new(sides, settings).await?;
        if let Some(next) = follower.next().filter(|_| first && self.args.from_block.is_some()) {
            self.app.report.note(&format!(
                "--from-block is for a table without a checkpoint; this one goes on at block {next}"
            ));
        }
        let (signals, mut heard) = mpsc::unbounded_channel();
        let heads = Heads {
            url: self.ws_url.clone(),
            timeout: Duration::from_secs(self.app.settings.node.timeout),
            max_lag: Duration::from_secs(self.args.max_lag),
            events: Arc::clone(&self.events),
            observer: Arc::clone(&self.teller),
            signals,
        };
        let watcher = Watcher {
            follower,
            source: self.events.as_ref(),
            observer: self.teller.as_ref(),
            stop: &self.app.stop,
            lock,
        };
        tokio::select! {
            ended = watcher.run(&mut heard) => Ok(ended),
            never = heads.run() => match never {},
        }
    }

    /// Tells the counts of each minute, and looks up what changes by itself.
    async fn every_minute(&self, monitor: &Monitor) -> Infallible {
        let mut minutes = interval_at(Instant::now(), A_MINUTE);
        minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = monitor.totals();
        for minute in 0_u32.. {
            minutes.tick().await;
            match self.store.nth_oldest(0).await {
                Ok(oldest) => monitor.oldest_row(oldest),
                Err(error) => warn!("{}", redact::clean_error(&error)),
            }
            if minute % REVIVE_AFTER_MINUTES == REVIVE_AFTER_MINUTES - 1 {
                self.events.revive();
            }
            let (totals, health) = (monitor.totals(), monitor.health());
            if minute > 0 && health.role == "active" {
                let counts = What::Counts {
                    done: Done::of(&totals.since(&before)),
                    head_block: health.head_block,
                    checkpoint_block: health.checkpoint_block,
                };
                tell(&self.app.report, counts);
            }
            before = totals;
        }
        std::future::pending().await
    }
}

/// Tells the monitor everything and people what they want to know.
struct Teller {
    monitor: Arc<Monitor>,
    report: Report,
}

impl Observer for Teller {
    fn hear(&self, news: &News) {
        self.monitor.hear(news);
        let what = match news {
            News::Head(_) | News::Stored(_) | News::CaughtUp(_) => return,
            News::Standby => What::Standby,
            News::Active { checkpoint } => What::Active { checkpoint_block: *checkpoint },
            News::Began(block) => What::Began { checkpoint_block: *block },
            News::Connected { via, endpoint } => {
                What::Connected { via: via.name(), endpoint: endpoint.clone() }
            }
            News::Disconnected { reason, pause } => {
                What::Disconnected { reason: redact::clean(reason), retry_in_ms: pause.as_millis() }
            }
            News::GapFilled(filled) => What::GapFilled {
                from_block: filled.from,
                to_block: filled.to,
                logs: filled.logs,
                updated: filled.updated,
                elapsed_ms: filled.elapsed.as_millis(),
            },
            News::Reorg { from, to, wallets } => {
                What::Reorg { from_block: *from, to_block: *to, wallets: *wallets }
            }
            News::Failed { error, pause } => {
                What::Error { error: redact::clean_error(error), retry_in_ms: pause.as_millis() }
            }
        };
        tell(&self.report, what);
    }
}

/// Tells it. That stdout cannot be written must not end the watch: others read the table.
fn tell(report: &Report, what: What) {
    if let Err(error) = report.event(&Told::now(what)) {
        warn!("{}", redact::clean_error(&error));
    }
}

/// A line of `watch`.
#[derive(Serialize)]
struct Told {
    command: &'static str,
    #[serde(flatten)]
    what: What,
    time: String,
}

impl Told {
    fn now(what: What) -> Self {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        Self { command: "watch", what, time }
    }
}

/// What a line is about.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum What {
    Listening {
        address: String,
    },
    Standby,
    Active {
        checkpoint_block: Option<u64>,
    },
    Began {
        checkpoint_block: u64,
    },
    Connected {
        via: &'static str,
        endpoint: String,
    },
    Disconnected {
        reason: String,
        retry_in_ms: u128,
    },
    GapFilled {
        from_block: u64,
        to_block: u64,
        logs: u64,
        updated: u64,
        elapsed_ms: u128,
    },
    Reorg {
        from_block: u64,
        to_block: u64,
        wallets: u64,
    },
    Error {
        error: String,
        retry_in_ms: u128,
    },
    Counts {
        #[serde(flatten)]
        done: Done,
        head_block: Option<u64>,
        checkpoint_block: Option<u64>,
    },
    Stopped {
        #[serde(flatten)]
        done: Done,
        checkpoint_block: Option<u64>,
        interrupted: bool,
    },
}

/// What was done, in a minute or in all.
#[derive(Serialize)]
struct Done {
    blocks: u64,
    logs: u64,
    updated: u64,
    failed: u64,
    superseded: u64,
    calls: u64,
    reorgs: u64,
    errors: u64,
}

impl Done {
    fn of(totals: &Totals) -> Self {
        let Totals { blocks, logs, updated, failed, superseded, calls, reorgs, errors } = *totals;
        Self { blocks, logs, updated, failed, superseded, calls, reorgs, errors }
    }

    fn text(&self) -> String {
        format!(
            "blocks:{} logs:{} updated:{} failed:{} superseded:{} calls:{} reorgs:{} errors:{}",
            self.blocks,
            self.logs,
            self.updated,
            self.failed,
            self.superseded,
            self.calls,
            self.reorgs,
            self.errors
        )
    }
}

fn block(number: Option<u64>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

/// A pause for people, in seconds with one decimal.
fn seconds(milliseconds: u128) -> String {
    format!("{}.{} s", milliseconds / 1_000, milliseconds % 1_000 / 100)
}

impl Outcome for Told {
    fn text(&self, _: &Paint) -> String {
        match &self.what {
            What::Listening { address } => format!("health and metrics at http://{address}"),
            What::Standby => {
                "another watch of this database is running; standing by to take over".to_owned()
            }
            What::Active { checkpoint_block: Some(block) } => {
                format!("following the chain from the checkpoint at block {block}")
            }
            What::Active { checkpoint_block: None } => "following the chain".to_owned(),
            What::Began { checkpoint_block } => {
                format!("there was no checkpoint; it is at block {checkpoint_block} now")
            }
            What::Connected { via, endpoint } => format!("connected to {endpoint} ({via})"),
            What::Disconnected { reason, retry_in_ms } => {
                format!("disconnected: {reason}; next try in {}", seconds(*retry_in_ms))
            }
            What::GapFilled { from_block, to_block, logs, updated, elapsed_ms } => format!(
                "gap filled: blocks {from_block} to {to_block} logs:{logs} updated:{updated} in \
                 {elapsed_ms} ms"
            ),
            What::Reorg { from_block, to_block, wallets } => format!(
                "reorganisation: blocks {from_block} to {to_block} went; wallets to read again: \
                 {wallets}"
            ),
            What::Error { error, retry_in_ms } => {
                format!("failed: {error}; next try in {}", seconds(*retry_in_ms))
            }
            What::Counts { done, head_block, checkpoint_block } => format!(
                "in the last minute {} head:{} checkpoint:{}",
                done.text(),
                block(*head_block),
                block(*checkpoint_block)
            ),
            What::Stopped { done, checkpoint_block, interrupted } => {
                let ending = if *interrupted { "interrupted" } else { "stopped" };
                format!("watch {ending} {} checkpoint:{}", done.text(), block(*checkpoint_block))
            }
        }
    }
}
