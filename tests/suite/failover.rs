//! Servers that fail over, freeze or take no more writes while `watch` runs: rows are right again within a minute.

use std::time::{Duration, Instant};

use ethtally_testbed::{
    Chain,
    postgres::{self, Cluster},
};

use crate::support::{
    chains::transfer,
    database::Database,
    program::{eventually, sweep},
    proxy::Proxy,
    random::schedules,
    table::store_unread,
    wallets::{one_audio, spenders},
    watch::{JsonWatch, caught_up, mismatches, start, watch},
};

/// How long rows may be behind after a failover.
const A_MINUTE: Duration = Duration::from_secs(60);

/// A cluster with a table, and a watch of it that is active.
struct Followed {
    primary: Cluster,
    database: Database,
    proxy: Proxy,
    chain: Chain,
    watching: JsonWatch,
}

async fn followed() -> Followed {
    let primary = Cluster::start().unwrap();
    let database = Database::at(primary.create_database("followed").unwrap());
    store_unread(&database, spenders(100));
    let chain = Chain::builder().start().await.unwrap();
    let proxy = Proxy::start(&database.url);
    let watching = start(watch("", chain.url(), &Database::at(proxy.url())));
    watching.until("began", 1);
    transfer_and_wait(&chain, &database, 0).await;
    Followed { primary, database, proxy, chain, watching }
}

/// Moves some AUDIO, and waits until both rows are right.
async fn transfer_and_wait(chain: &Chain, database: &Database, round: usize) {
    let users = spenders(100);
    let (from, to) = (users[2 * round], users[2 * round + 1]);
    transfer(chain, from, to, one_audio()).await;
    let begun = Instant::now();
    caught_up(chain, database).await;
    assert_eq!(mismatches(chain, database, [from, to]).await, []);
    assert!(begun.elapsed() < A_MINUTE, "{:?}", begun.elapsed());
}

/// A standby of a cluster that has all rows of its database, and the database there.
fn standby_of(primary: &Cluster, database: &Database) -> (Cluster, Database) {
    let standby = primary.standby().unwrap();
    let promoted = Database::at(
        database.url.replace(&format!(":{}/", primary.port()), &format!(":{}/", standby.port())),
    );
    eventually("the standby has all rows", || {
        let newest = "select max(last_block) from eth_indexer_checkpoints";
        postgres::psql(&promoted.url, newest).ok() == postgres::psql(&database.url, newest).ok()
    });
    (standby, promoted)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_became_read_only_are_replaced() {
    let Followed { primary, database, proxy: _proxy, chain, watching } = followed().await;
    let server = primary.url("postgres");
    for round in 1..=schedules("FAILOVERS", 2) {
        let set = |value: &str| {
            let sql = format!(
                "alter system set default_transaction_read_only = {value}; select pg_reload_conf()"
            );
            postgres::psql(&server, &sql).unwrap();
        };
        set("on");
        let users = spenders(100);
        transfer(&chain, users[90], users[91], one_audio()).await;
        let failures = watching.events("error").len();
        eventually("it reports the error", || watching.events("error").len() > failures);
        let error = watching.events("error").pop().unwrap()["error"].to_string();
        assert!(error.contains("takes no writes"), "{error}");
        set("off");
        transfer_and_wait(&chain, &database, round as usize).await;
    }
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_followed_where_the_address_leads() {
    let Followed { primary, database, proxy, chain, watching } = followed().await;
    let (standby, promoted) = standby_of(&primary, &database);
    primary.stop().unwrap();
    standby.promote().unwrap();
    proxy.lead_to(&promoted.url);
    transfer_and_wait(&chain, &promoted, 1).await;
    let swept = sweep(&promoted, &chain.url(), &[]).run().expect(0);
    assert_eq!(swept.json()["skipped"], false, "{swept:?}");
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_left_for_the_promoted_one() {
    let Followed { primary, database, proxy, chain, watching } = followed().await;
    let (standby, promoted) = standby_of(&primary, &database);
    let frozen = primary.freeze().unwrap();
    standby.promote().unwrap();
    proxy.lead_to(&promoted.url);
    transfer_and_wait(&chain, &promoted, 1).await;
    drop(frozen);
    watching.stop();
}

/// With several hosts in the URL, no address has to move.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_found_among_several_hosts() {
    let Followed { primary, database, proxy: _proxy, chain, watching } = followed().await;
    watching.stop();
    let (standby, promoted) = standby_of(&primary, &database);
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", primary.port(), standby.port());
    let both = database.url.replace(&format!("127.0.0.1:{}", primary.port()), &hosts);
    let watching = start(watch("", chain.url(), &Database::at(both.clone())));
    watching.until("active", 1);
    let frozen = primary.freeze().unwrap();
    standby.promote().unwrap();
    transfer_and_wait(&chain, &promoted, 1).await;
    let swept = sweep(&Database::at(both), &chain.url(), &[]).run().expect(0);
    assert_eq!(swept.json()["skipped"], false, "{swept:?}");
    drop(frozen);
    watching.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_that_goes_on_loses_nothing() {
    let Followed { primary, database, proxy: _proxy, chain, watching } = followed().await;
    let frozen = primary.freeze().unwrap();
    let users = spenders(100);
    transfer(&chain, users[90], users[91], one_audio()).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    drop(frozen);
    transfer_and_wait(&chain, &database, 1).await;
    assert_eq!(mismatches(&chain, &database, [users[90], users[91]]).await, []);
    watching.stop();
}

/// A server that restarts while a sweep stores: the sweep loses its lock or goes on, but never stores wrong rows.
#[tokio::test(flavor = "multi_thread")]
async fn one_shots_outlive_a_restart_of_the_server_between_statements() {
    let primary = Cluster::start().unwrap();
    let database = Database::at(primary.create_database("restarted").unwrap());
    let chain = Chain::builder().wallets(10).start().await.unwrap();
    store_unread(&database, 0..10);
    let restarting = std::thread::spawn(move || {
        primary.stop().unwrap();
        primary.restart().unwrap();
        primary
    });
    let ran =
        crate::support::program::refresh_first(10, &[]).database(&database).node(chain.url()).run();
    let primary = restarting.join().unwrap();
    assert!([0, 4].contains(&ran.status), "{ran:?}");
    let again = crate::support::program::refresh_first(10, &[])
        .database(&database)
        .node(chain.url())
        .run()
        .expect(0);
    assert_eq!(again.json()["updated"], 10);
    drop(primary);
}
