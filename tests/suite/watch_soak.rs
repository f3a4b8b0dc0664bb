//! A soak: sweeps, refreshes and backfills beside `watch`, on a chain whose blocks are replaced all the time. In the end
//! no row is wrong.
//!
//! `RUNS=100 BLOCKS=300 cargo test --locked --release --test suite watch_soak` is the long one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use ethtally_testbed::{
    stub::{Fault, Stub, When},
    wallet,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::sleep;

use crate::support::{
    chains::chain_and_stub,
    database::{Database, on_both_databases},
    program::ethtally,
    table::store_unread,
    wallets::{address_lines, one_audio, random_seed, spenders},
    watch::{caught_up, mismatches, start_connected, watch},
};

on_both_databases! {
    no_row_is_wrong_after_reorganisations_beside_other_commands
}

/// Wallets that take part.
const WALLETS: usize = 40;

fn setting(name: &str, otherwise: u64) -> u64 {
    let setting = std::env::var(name).ok().and_then(|number| number.parse().ok());
    setting.unwrap_or(otherwise)
}

/// Runs these commands again and again until `done`.
fn others(
    database: &Arc<Database>,
    stub: &Stub,
    wallets: &[u64],
    done: &Arc<AtomicBool>,
) -> Vec<thread::JoinHandle<()>> {
    let lines = address_lines(wallets.iter().copied());
    let some: Vec<String> = lines.lines().take(10).map(str::to_owned).collect();
    let refresh = ["refresh".to_owned()].into_iter().chain(some).collect::<Vec<_>>();
    let commands = [
        ["sweep", "--all"].map(str::to_owned).to_vec(),
        refresh,
        ["backfill", "--from-csv", "-"].map(str::to_owned).to_vec(),
    ];
    let start = |command: Vec<String>| {
        let (database, url, done) = (Arc::clone(database), stub.url(), Arc::clone(done));
        let lines = lines.clone();
        thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                // Some find no block that stays: that is their right.
                ethtally(command.iter().map(String::as_str))
                    .node(&url)
                    .database(&database)
                    .input(lines.clone())
                    .run();
            }
        })
    };
    commands.into_iter().map(start).collect()
}

async fn no_row_is_wrong_after_reorganisations_beside_other_commands(database: Database) {
    let database = Arc::new(database);
    for _ in 0..setting("RUNS", 1) {
        let fresh = Arc::new(database.another());
        soak(&fresh, setting("BLOCKS", 60)).await;
    }
}

async fn soak(database: &Arc<Database>, blocks: u64) {
    let seed = random_seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (chain, stub) = chain_and_stub().await;
    stub.keep_params(false);
    let wallets: Vec<u64> = spenders(100).into_iter().take(WALLETS).collect();
    store_unread(database, wallets.iter().copied());
    chain.mine(20).await.unwrap();
    let watching =
        start_connected(watch(&format!("--ws-url {}", chain.ws_url()), stub.url(), database));
    caught_up(&chain, database).await;
    // Some reads take so long that their block is replaced before they are stored.
    stub.fault(Fault::Delay(Duration::from_millis(400)), When::eth_call().every(5));
    let done = Arc::default();
    let others = others(database, &stub, &wallets, &done);
    for block in 0..blocks {
        let pair: Vec<u64> = wallets.sample(&mut random, 2).copied().collect();
        chain.transfer(wallet(pair[0]), wallet(pair[1]), one_audio()).await.unwrap();
        if random.random_range(0..8) == 0 || block + 1 == blocks {
            chain.reorg(random.random_range(1..=6)).await.unwrap();
        }
        sleep(Duration::from_millis(random.random_range(0..150))).await;
    }
    done.store(true, Ordering::Relaxed);
    for other in others {
        tokio::task::spawn_blocking(|| other.join()).await.unwrap().unwrap();
    }
    // The chain goes on, and nobody else reads.
    for _ in 0..18 {
        chain.mine(1).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    caught_up(&chain, database).await;
    let wrong = mismatches(&chain, database, wallets).await;
    let lines = watching.stop();
    assert!(wrong.is_empty(), "SEED={seed}: stored and on chain: {wrong:?}\n{lines:#?}");
}
