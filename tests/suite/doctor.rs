//! `doctor`: a line for each check, with what helps; goes on after a check that failed, and writes nothing.

use ethtally_testbed::{
    Chain,
    postgres::{self, Cluster},
    stub::{Fault, When},
};
use serde_json::Value;

use crate::support::{
    chains::{chain_and_stub, still_chain, stub_of},
    database::{Database, on_both_databases},
    pgbouncer::PgBouncer,
    program::{Output, ethtally},
    table::{dump, store_unread},
};

on_both_databases! {
    a_good_setup_passes_every_check
    tables_of_another_profile_fail
    missing_tables_fail_and_are_not_created
}

/// Runs `doctor --json`.
fn doctor(database: &Database, nodes: &str, options: &[&str]) -> Output {
    let arguments = [&["doctor", "--json", "--retries", "0"], options].concat();
    ethtally(arguments).node(nodes).database(database).run()
}

/// Its checks.
fn checks(ran: &Output) -> Vec<Value> {
    let checks = ran.json()["checks"].as_array().expect("a list").clone();
    for check in &checks {
        assert_eq!(check["status"] == "ok", check["remedy"].is_null(), "{check}");
    }
    checks
}

/// The checks that are not ok: name, status, detail and remedy.
fn troubles(ran: &Output) -> Vec<String> {
    let all = checks(ran);
    let bad = all.iter().filter(|check| check["status"] != "ok");
    let text = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
    bad.map(|check| {
        ["name", "status", "detail", "remedy"].map(|name| text(check, name)).join(" | ")
    })
    .collect()
}

/// Panics unless exactly one check is in trouble, and is told in these words.
#[track_caller]
fn assert_only(ran: &Output, words: &[&str]) {
    let troubles = troubles(ran);
    assert_eq!(troubles.len(), 1, "{troubles:#?}");
    for word in words {
        assert!(troubles[0].contains(word), "{word}: {troubles:#?}");
    }
}

async fn a_good_setup_passes_every_check(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    store_unread(&database, 0..3);
    ethtally(["sweep"]).node(chain.url()).database(&database).run().expect(0);
    let before = dump(&database).await;
    let ran = doctor(&database, &chain.url(), &[]).expect(0);
    assert_eq!(troubles(&ran), [""; 0]);
    let names: Vec<_> = checks(&ran).iter().map(|check| check["name"].clone()).collect();
    let of_database = match database.is_sqlite() {
        true => vec!["database", "version", "rights", "tables", "profile"],
        false => vec!["database", "version", "rights", "pooler", "autovacuum", "tables", "profile"],
    };
    let of_node = [
        "chain",
        "head",
        "contracts",
        "multicall3",
        "overrides",
        "state",
        "logs_by_hash",
        "logs_by_range",
        "websocket",
    ];
    assert_eq!(names, [&of_database[..], &of_node].concat());
    assert_eq!(dump(&database).await, before);

    let ran = ethtally(["doctor"]).node(chain.url()).database(&database).run().expect(0);
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.stdout.lines().count(), names.len());
    assert!(ran.stdout.lines().all(|line| line.starts_with("ok ")), "{}", ran.stdout);
}

async fn tables_of_another_profile_fail(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..3);
    database
        .sql("update eth_wallet_profile set identity = replace(identity, '\"chain_id\":1', '\"chain_id\":5')")
        .await;
    let ran = doctor(&database, &chain.url(), &[]).expect(1);
    assert_only(&ran, &["profile | fail", "give the --profile that it was filled with"]);
}

async fn missing_tables_fail_and_are_not_created(database: Database) {
    let chain = still_chain().await;
    let ran = doctor(&database, &chain.url(), &[]).expect(1);
    assert_only(&ran, &["| fail |", "run `ethtally migrate`"]);
    if database.is_sqlite() {
        assert_eq!(std::fs::read_dir(database.folder()).unwrap().count(), 0);
    } else {
        let tables = "select count(*) from pg_tables where schemaname = 'public'";
        assert_eq!(database.value(tables).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_node_is_told_with_what_helps() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let (chain, stub) = chain_and_stub().await;
    let row = |fault: Fault, when: When, words: &[&str], status: i32| {
        stub.fault(fault, when);
        let ran = doctor(&database, &stub.url(), &["--ws-url", &chain.ws_url()]).expect(status);
        assert_only(&ran, words);
        stub.clear();
    };
    let answer = |text: &str| Fault::Answer(serde_json::from_str(text).unwrap());
    row(
        answer("\"0x5\""),
        When::method("eth_chainId"),
        &["chain | fail", "chain 5", "--rpc-url"],
        1,
    );
    row(
        answer("\"0x\""),
        When::method("eth_getCode"),
        &["contracts | fail", "no code at", "--profile"],
        1,
    );
    row(
        answer("\"0x\""),
        When::eth_call().mentioning("42cbb15c"),
        &["multicall3 | fail", "set multicall3"],
        1,
    );
    row(
        Fault::error(-32602, "too many arguments, want at most 2"),
        When::eth_call().mentioning("e7a11e57"),
        &["overrides | warn", "--reader"],
        0,
    );
    row(
        Fault::error(-32000, "missing trie node"),
        When::method("eth_getBalance"),
        &["state | warn", "--rpc-url"],
        0,
    );
    row(
        Fault::error(-32602, "unknown field blockHash"),
        When::method("eth_getLogs").matching(|request| request.to_string().contains("blockHash")),
        &["logs_by_hash | warn", "--confirmations"],
        0,
    );
    row(
        Fault::error(-32601, "the method eth_getLogs does not exist"),
        When::method("eth_getLogs").matching(|request| request.to_string().contains("fromBlock")),
        &["logs_by_range | fail", "--rpc-url"],
        1,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_old_fails() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let chain = Chain::builder().start().await.unwrap();
    chain.mine(1).await.unwrap();
    let ran = doctor(&database, &chain.url(), &["--max-head-age", "1ms"]);
    assert_only(&ran.expect(1), &["head | fail", "old", "--max-head-age"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_is_not_there_is_a_warning() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let chain = still_chain().await;
    let ran =
        doctor(&database, &chain.url(), &["--ws-url", "ws://127.0.0.1:1/s3cr3tk3yabcdef0123"]);
    assert_only(&ran.expect(0), &["websocket | warn", "--ws-url"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_endpoints_the_bad_ones_fail_without_their_keys() {
    let database = Database::sqlite();
    store_unread(&database, 0..1);
    let chain = still_chain().await;
    let secret = "s3cr3tk3yabcdef0123456789";
    let refused = stub_of(chain);
    refused.fault(Fault::status(401), When::always());
    let dead = format!("http://127.0.0.1:1/v2/{secret}");
    let nodes = format!("{dead},{},{}/v3/{secret},not-a-url", chain.url(), refused.url());
    let ran = doctor(&database, &nodes, &["--ws-url", &chain.ws_url()]).expect(1);
    assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{ran:?}");
    let troubles = troubles(&ran);
    assert_eq!(troubles.len(), 3, "{troubles:#?}");
    assert!(troubles.iter().all(|trouble| trouble.starts_with("chain | fail")), "{troubles:#?}");
    let good = checks(&ran)
        .iter()
        .filter(|check| check["target"].as_str().unwrap().contains(&chain.url()[7..]))
        .count();
    assert_eq!(good, 9, "every check of the good one");

    let ran = doctor(&database, "", &[]).expect(1);
    assert_only(&ran, &["chain | fail", "set ETH_RPC_URL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_server_is_told_with_what_helps() {
    let chain = still_chain().await;
    let database = Database::postgres();
    store_unread(&database, 0..1);
    let name = database.url.rsplit('/').next().unwrap().to_owned();
    let with = |url: String| doctor(&Database::at(url), &chain.url(), &[]);

    let ran = with(database.url.replace(&name, "no_such_database")).expect(1);
    assert_only(&ran, &["database | fail", "no_such_database"]);
    let ran = with("postgres://u:s3cr3tpassword@127.0.0.1:1/x".to_owned()).expect(1);
    assert_only(
        &ran,
        &[
            "database | fail",
            "no connection: Connection refused",
            "host and port in --database-url",
        ],
    );
    assert!(!ran.stdout.contains("s3cr3t"), "{ran:?}");

    let guarded = postgres::shared().url_with_password("doctor_guest", "r1ghts3cr3t").unwrap();
    let ran = with(guarded.replace("r1ghts3cr3t", "wr0ngs3cr3t")).expect(1);
    assert_only(&ran, &["database | fail", "password", "check"]);
    assert!(!ran.stdout.contains("wr0ngs3cr3t"), "{ran:?}");

    let role = format!("reader_{name}");
    let create =
        format!("create role {role} login; grant select on all tables in schema public to {role}");
    postgres::psql(&database.url, &create).unwrap();
    let url = database.url.replace("//postgres@", &format!("//{role}@"));
    let ran = with(url.clone()).expect(1);
    assert_only(&ran, &["rights | fail", "may not write to", "run: grant select, insert"]);
    // The remedy helps.
    let remedy = troubles(&ran)[0].split("run: ").nth(1).unwrap().to_owned();
    postgres::psql(&database.url, &remedy).unwrap();
    with(url.clone()).expect(0);
    postgres::psql(
        &database.url,
        &format!("revoke all on all tables in schema public from {role}"),
    )
    .unwrap();
    let ran = with(url).expect(1);
    assert!(troubles(&ran)[0].contains("may not read"), "{ran:?}");
    postgres::psql(&database.url, "revoke all on schema public from public").unwrap();
    let ran = with(database.url.replace("//postgres@", &format!("//{role}@"))).expect(1);
    assert!(troubles(&ran)[0].contains("run: grant usage, create on schema public"), "{ran:?}");

    database.sql("alter table eth_wallet_balances set (autovacuum_enabled = off)").await;
    let ran = with(database.url.clone()).expect(0);
    assert_only(&ran, &["autovacuum | warn", "reset (autovacuum_enabled)"]);
    database.sql("alter table eth_wallet_balances reset (autovacuum_enabled)").await;

    let ran = doctor(&database, &chain.url(), &["--schema", "nowhere"]).expect(1);
    assert_only(&ran, &["database | fail", "nowhere", "ethtally migrate"]);

    database.sql(&format!("alter database {name} set default_transaction_read_only = on")).await;
    let ran = with(database.url.clone()).expect(1);
    assert_only(&ran, &["rights | fail", "takes no writes", "--database-url"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_recognised_and_its_size_checked() {
    let chain = still_chain().await;
    let cluster = Cluster::start().unwrap();
    let direct = Database::at(cluster.create_database("pooled").unwrap());
    store_unread(&direct, 0..1);
    let through = |mode: &str, size: &str| {
        let pooler = PgBouncer::start(&cluster, mode, &[&format!("default_pool_size = {size}")]);
        (Database::at(pooler.url(&direct.url)), pooler)
    };
    let (database, _pooler) = through("transaction", "4");
    let ran = doctor(&database, &chain.url(), &[]).expect(0);
    assert_eq!(troubles(&ran), [""; 0]);
    let pooler = checks(&ran).into_iter().find(|check| check["name"] == "pooler").unwrap();
    assert!(
        pooler["detail"].as_str().unwrap().contains("transaction mode, which works"),
        "{pooler}"
    );

    let (database, _pooler) = through("transaction", "1");
    let ran = doctor(&database, &chain.url(), &[]).expect(1);
    assert_only(&ran, &["pooler | fail", "default_pool_size"]);

    let (database, _pooler) = through("statement", "4");
    let ran = doctor(&database, &chain.url(), &[]).expect(1);
    assert!(troubles(&ran).iter().any(|trouble| trouble.contains("fail")), "{ran:?}");
}
