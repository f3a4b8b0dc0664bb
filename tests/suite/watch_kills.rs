//! `watch` that is killed, and databases that go away under it: nothing is lost, and nothing goes back.

use std::{
    any::Any,
    time::{Duration, Instant},
};

use ethtally_testbed::{
    Chain,
    postgres::Cluster,
    stub::{Fault, Stub, When},
};
use rand::RngExt;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};
use tokio::time::sleep;

use crate::{
    harness::{Database, eventually, on_both_databases},
    traffic::{AMONG, Traffic},
    watching::{caught_up, checkpoint, start, watch},
    world::store_unread,
};

on_both_databases! {
    killed_at_random_moments_it_loses_nothing_and_never_goes_back
    a_table_that_somebody_else_writes_is_waited_for
    while_somebody_else_writes_it_still_ends_in_time_and_the_next_completes
}

async fn killed_at_random_moments_it_loses_nothing_and_never_goes_back(database: Database) {
    store_unread(&database, 0..AMONG);
    let chain = Chain::builder().start().await.unwrap();
    // Most of its time goes by between logs and totals: there it is to be killed.
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    stub.fault(Fault::Delay(Duration::from_millis(100)), When::method("eth_call"));
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
        traffic.checkpoint_is_kept(&database).await;
    }
    assert!(moved > 0, "it was killed before it could do anything");
    let watching = start(watch(&arguments, chain.url(), &database));
    let head = traffic.is_stored(&database).await;
    assert_eq!(watching.stop().last().unwrap()["checkpoint_block"], head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_restarted_is_found_again_and_nothing_is_lost() {
    let cluster = Cluster::start().unwrap();
    let database = Database::at(cluster.create_database("restarted").unwrap());
    store_unread(&database, 0..AMONG);
    let chain = Chain::builder().start().await.unwrap();
    let arguments = format!("--ws-url {}", chain.ws_url());
    let mut watching = start(watch(&arguments, chain.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    let mut last = 0;
    for round in 0..4 {
        traffic.blocks(3).await;
        // At once, or after a while without it.
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
        last = traffic.is_stored(&database).await;
        assert!(!watching.has_ended(), "{:?}", watching.told());
    }
    assert_eq!(watching.stop().last().unwrap()["checkpoint_block"], last);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_server_it_still_ends_in_time() {
    let cluster = Cluster::start().unwrap();
    let database = Database::at(cluster.create_database("stopped").unwrap());
    store_unread(&database, 0..AMONG);
    let chain = Chain::builder().start().await.unwrap();
    let watching = start(watch("", chain.url(), &database));
    watching.until("connected", 1);
    caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    cluster.stop().unwrap();
    traffic.block().await;
    watching.until("error", 1);
    watching.stop();
}

/// Another process that writes and does not come to an end; it gives up when this is dropped.
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

async fn a_table_that_somebody_else_writes_is_waited_for(database: Database) {
    store_unread(&database, 0..AMONG);
    let chain = Chain::builder().start().await.unwrap();
    let watching = start(watch("", chain.url(), &database));
    watching.until("connected", 1);
    let before = caught_up(&chain, &database).await;
    let mut traffic = Traffic::on(&chain).await;
    let other = writer(&database).await;
    for _ in 0..20 {
        traffic.block().await;
        sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(checkpoint(&database).await, Some(before));
    drop(other);
    traffic.is_stored(&database).await;
    watching.stop();
}

async fn while_somebody_else_writes_it_still_ends_in_time_and_the_next_completes(
    database: Database,
) {
    store_unread(&database, 0..AMONG);
    let chain = Chain::builder().start().await.unwrap();
    let stub = Stub::in_front_of(&chain.url()).unwrap();
    let arguments = format!("--ws-url {}", chain.ws_url());
    let watching = start(watch(&arguments, stub.url(), &database));
    watching.until("connected", 1);
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
    traffic.is_stored(&database).await;
    watching.stop();
}
