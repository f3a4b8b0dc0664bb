//! `watch` is killed, or its database stops: nothing is lost, and the checkpoint never moves back.

use std::{
    any::Any,
    time::{Duration, Instant},
};

use ethtally_testbed::{
    postgres::Cluster,
    stub::{Fault, When},
};
use rand::RngExt;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};
use tokio::time::sleep;

use crate::support::{
    chains::stub_of,
    database::{Database, on_both_databases},
    program::eventually,
    traffic::{Traffic, chain_for_traffic},
    watch::{caught_up, checkpoint, start, start_connected, watch},
};

on_both_databases! {
    killing_watch_at_random_times_loses_nothing_and_never_moves_the_checkpoint_back
    watch_waits_while_another_process_locks_the_table
    watch_stops_in_time_while_the_table_is_locked_and_the_next_completes
}

async fn killing_watch_at_random_times_loses_nothing_and_never_moves_the_checkpoint_back(
    database: Database,
) {
    let chain = chain_for_traffic(&database).await;
    // Most of its time is between logs and totals, where a kill is critical.
    let stub = stub_of(&chain);
    stub.fault(Fault::Delay(Duration::from_millis(100)), When::eth_call());
    let arguments = format!("--ws-url {}", chain.ws_url());
    let begun = start(watch(&arguments, stub.url(), &database));
    begun.until("began", 1);
    begun.stop();
    let mut last = checkpoint(&database).await.expect("a checkpoint");
    let mut moved = 0;
    let mut traffic = Traffic::on(&chain).await;
    for _ in 0..15 {
        let watching = start(watch(&arguments, stub.url(), &database));
        let started = Instant::now();
        let time = Duration::from_millis(traffic.random.random_range(0..1_500));
        while started.elapsed() < time {
            traffic.block().await;
            let now = checkpoint(&database).await.expect("a checkpoint");
            assert!(now >= last, "from {last} back to {now}");
            moved += u32::from(now > last);
            last = now;
        }
        watching.signal("KILL");
        let (ran, _) = watching.wait();
        assert_eq!(ran.status, -9, "{ran:?}");
        traffic.assert_stored_to_checkpoint(&database).await;
    }
    assert!(moved > 0, "the checkpoint never moved before a kill");
    let watching = start(watch(&arguments, chain.url(), &database));
    let head = traffic.until_stored(&database).await;
    assert_eq!(watching.stop().last().unwrap()["checkpoint_block"], head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_database_server_loses_nothing() {
    let cluster = Cluster::start().unwrap();
    let database = Database::at(cluster.create_database("restarted").unwrap());
    let chain = chain_for_traffic(&database).await;
    let arguments = format!("--ws-url {}", chain.ws_url());
    let mut watching = start_connected(watch(&arguments, chain.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    let mut last = 0;
    for round in 0..4 {
        traffic.blocks(3).await;
        // Every other time, blocks are mined while the server is down.
        if round % 2 == 0 {
            let errors = watching.events("error").len();
            cluster.stop().unwrap();
            traffic.blocks(5).await;
            watching.until("error", errors + 1);
        }
        cluster.restart().unwrap();
        traffic.blocks(3).await;
        let now = checkpoint(&database).await.expect("a checkpoint");
        assert!(now >= last, "from {last} back to {now}");
        last = traffic.until_stored(&database).await;
        assert!(!watching.has_ended(), "{:?}", watching.lines());
    }
    assert_eq!(watching.stop().last().unwrap()["checkpoint_block"], last);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_stops_in_time_without_its_database_server() {
    let cluster = Cluster::start().unwrap();
    let database = Database::at(cluster.create_database("stopped").unwrap());
    let chain = chain_for_traffic(&database).await;
    let watching = start_connected(watch("", chain.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    cluster.stop().unwrap();
    traffic.block().await;
    watching.until("error", 1);
    watching.stop();
}

/// Another session with an open write transaction, which is rolled back when this is dropped.
async fn writer(database: &Database) -> Box<dyn Any> {
    if database.is_sqlite() {
        let mut other = SqliteConnection::connect(&database.url).await.unwrap();
        other.execute("begin immediate").await.unwrap();
        return Box::new(other);
    }
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    other.execute("begin; lock table eth_wallet_balances").await.unwrap();
    Box::new(other)
}

async fn watch_waits_while_another_process_locks_the_table(database: Database) {
    let chain = chain_for_traffic(&database).await;
    let watching = start_connected(watch("", chain.url(), &database));
    let before = caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    let other = writer(&database).await;
    for _ in 0..20 {
        traffic.block().await;
        sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(checkpoint(&database).await, Some(before));
    drop(other);
    traffic.until_stored(&database).await;
    watching.stop();
}

async fn watch_stops_in_time_while_the_table_is_locked_and_the_next_completes(database: Database) {
    let chain = chain_for_traffic(&database).await;
    let stub = stub_of(&chain);
    let arguments = format!("--ws-url {}", chain.ws_url());
    let watching = start_connected(watch(&arguments, stub.url(), &database));
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    stub.forget();
    let other = writer(&database).await;
    traffic.blocks(3).await;
    eventually("it knows what to write", || stub.count("eth_getLogs") > 0);
    sleep(Duration::from_millis(500)).await;
    watching.stop();
    drop(other);
    let watching = start(watch(&arguments, stub.url(), &database));
    traffic.until_stored(&database).await;
    watching.stop();
}
