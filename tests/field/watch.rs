//! A life of `watch`: the follower, killed and started again, sweeps beside it, until all is well and has settled.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use ethtally::{
    events::Events,
    follow::{
        Backoff, Context, Follower, FollowerSettings, Observer, Source, Track, WatchEvent, Watcher,
        signals,
    },
    tally::{Lock, Shutdown, Wallet},
};
use futures_util::future;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::sync::Arc;
use tokio::time::{sleep, timeout};

use crate::{
    causes,
    database::Row,
    heads::announce,
    life::Life,
    one_shot,
    world::{FOREVER, Run, World, one, percent},
};

/// How long after the last block everything must have been stored.
const SETTLE: Duration = Duration::from_secs(15 * 60);

/// Takes note of what a watch tells.
struct Told<'a> {
    world: &'a World,
    errors: Mutex<Vec<String>>,
}

impl Observer for Told<'_> {
    fn notify(&self, event: &WatchEvent) {
        if let WatchEvent::Failed { error, pause } = event {
            self.world
                .field
                .tell(format!("watch failed, waits {pause:?}: {}", one_shot::text(error)));
            let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
            errors.push(one_shot::text(error));
        } else {
            self.world.field.tell(format!("watch: {event:?}"));
        }
    }
}

/// A lock that nobody takes away.
struct Held;

#[async_trait]
impl Lock for Held {
    async fn is_held(&self) -> bool {
        true
    }

    async fn lost(&self) -> String {
        std::future::pending().await
    }

    async fn release(&self) {}
}

/// One process: follows the chain until it is dropped.
async fn follow(world: &World, told: &Told<'_>) {
    let shutdown = Shutdown::default();
    let client = world.client(&shutdown);
    let reader = world.reader(Arc::clone(&client), &shutdown);
    let events = Events::new(
        client,
        Arc::clone(&reader),
        &world.profile,
        world.concurrency(),
        shutdown.clone(),
    );
    let context = Context {
        source: &events as &dyn Source,
        reader: reader.as_ref(),
        ledger: world.database.as_ref(),
        journal: world.database.as_ref(),
        observer: told,
        shutdown: &shutdown,
    };
    let settings = FollowerSettings {
        checkpoint: "field".into(),
        track: world.track,
        confirmations: 0,
        first_block: None,
        page_size: 5_000,
        events: String::new(),
    };
    let mut backoff = Backoff::default();
    let follower = loop {
        match Follower::new(context, settings.clone()).await {
            Ok(follower) => break follower,
            Err(_) => sleep(backoff.pause()).await,
        }
    };
    let (signals, mut heard) = signals();
    let watcher =
        Watcher { follower, source: &events, observer: told, shutdown: &shutdown, lock: &Held };
    tokio::select! {
        biased;
        ended = watcher.run(&mut heard) => world.field.tell(format!("watch ended: {ended:?}")),
        () = announce(world, signals) => {}
    }
}

/// Processes, one after another, until this is dropped.
async fn follow_and_restart(world: &World, told: &Told<'_>) {
    let mut random = StdRng::seed_from_u64(world.seed ^ 0x6b69_6c6c);
    let restarts = percent(&mut random, 50);
    loop {
        let is_last = !restarts || world.field.now() >= world.end();
        let lives = match is_last {
            true => FOREVER,
            false => Duration::from_millis(random.random_range(100..60_000)),
        };
        tokio::select! {
            biased;
            () = follow(world, told) => {}
            () = sleep(lives) => world.field.tell("watch is killed"),
        }
        sleep(Duration::from_millis(one(&mut random, &[0, 1_000, 30_000]))).await;
    }
}

/// Sweeps beside it, until faults end.
async fn sweeps(world: &World) {
    let mut random = StdRng::seed_from_u64(world.seed ^ 0x7377_6565);
    while world.field.now() < world.end() {
        sleep(Duration::from_millis(random.random_range(100..20_000))).await;
        let known: Vec<Wallet> = world.database.tables().rows.keys().copied().collect();
        let run = one_shot::sweep(world, known, &Shutdown::default()).await;
        world.field.tell(format!("a sweep ended: {:?}", run.counts));
    }
}

/// The whole life.
pub(crate) async fn live(life: &mut Life) {
    let world = &life.world;
    world.fill();
    let told = Told { world, errors: Mutex::default() };
    let beside = async {
        if world.run == Run::Both {
            sweeps(world).await;
        }
    };
    let settling = async {
        // tokio::join! would change the order from poll to poll.
        future::join(world.mine(), beside).await;
        world.field.tell("all is quiet");
        let settled = async {
            let mut made = world.field.now();
            while world.database.tables().last_block < Some(world.head()) {
                // The chain goes on, or its newest block would be too old, and leaves time to catch up with it.
                if world.field.now() - made > world.max_head_age() / 2 {
                    made = world.field.now();
                    world.field.chain().mine(made);
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(SETTLE, settled).await.is_ok()
    };
    let has_settled = tokio::select! {
        biased;
        settled = settling => settled,
        () = follow_and_restart(world, &told) => unreachable!("it restarts for ever"),
    };
    let errors = told.errors.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !has_settled {
        let last = errors.last().cloned().unwrap_or_default();
        life.wrong("watch did not arrive", format!("the last error: {last}"));
    }
    for text in BTreeSet::from_iter(errors) {
        if let Err(what) = causes::check(&life.world, &text) {
            life.wrong("untrue cause", format!("{what}: {text}"));
        }
    }
    if has_settled {
        check_rows(life);
    }
}

/// Every row is right on the chain as it is now.
fn check_rows(life: &mut Life) {
    let database = Arc::clone(&life.world.database);
    let field = Arc::clone(&life.world.field);
    let tables = database.tables();
    for (index, wallet) in life.world.wallets().iter().enumerate() {
        let sickness = life.sickness(wallet);
        if let Some(reason) = tables.failures.get(wallet) {
            if sickness.is_none() {
                life.wrong("healthy wallet called unreadable", format!("{wallet}: {reason}"));
            }
            life.check_reason(reason);
        }
        if sickness.is_some() {
            continue;
        }
        let (total, event, at_read) = {
            let chain = field.chain();
            let head = chain.head();
            let newest = chain.newest_event(head, index).filter(|block| *block > life.world.begin);
            let at_read = |row: &Row| {
                let block = chain.ancestor(head, row.read_block)?;
                Some(chain.total(block, index))
            };
            (chain.total(head, index), newest, tables.rows.get(wallet).map(at_read))
        };
        match tables.rows.get(wallet) {
            Some(row) => {
                if row.total != total {
                    life.wrong(
                        "wrong row",
                        format!("{wallet} {row:?}, not {total}, event {event:?}"),
                    );
                } else if at_read != Some(Some(row.total)) {
                    life.wrong("wrong at its read_block", format!("{wallet} {row:?}"));
                } else if row.event_block < event {
                    life.wrong("blocknumber behind", format!("{wallet} {row:?}, event {event:?}"));
                }
            }
            None if event.is_some() && life.world.track == Track::All => {
                life.wrong("lost event", format!("{wallet} has no row, event {event:?}"));
            }
            None => {}
        }
    }
}
