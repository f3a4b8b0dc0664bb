//! The recipes in `examples/`: each file is run as it stands.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use alloy::primitives::{Address, U256, address as contract_address};
use ethtally_testbed::{Chain, contracts::Artifact, wallet};
use serde_json::Value;

use crate::support::{
    chains::still_chain,
    database::Database,
    original::original_database,
    program::{ethtally, eventually_async, sweep_all},
    table::{store_unread, stored_totals},
    tokens::{chain_with, mint, transact},
    wallets::{address, address_lines, genesis_totals},
    watch::{start_connected, watch},
};

const USDC: Address = contract_address!("A0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48");
const STETH: Address = contract_address!("ae7ab96520DE3A18E5e111B5EaAb095312D7fE84");

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(path)
}

fn profile(name: &str) -> String {
    example(&format!("profiles/{name}.toml")).display().to_string()
}

/// A script with the program on its PATH, in the temporary folder of a database.
fn script(name: &str, database: &Database) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_ethtally")).parent().expect("a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("a PATH"));
    let mut command = Command::new(example(&format!("recipes/{name}")));
    command.env("PATH", path).env("DATABASE_URL", &database.url).current_dir(database.folder());
    command
}

#[track_caller]
fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

async fn total_of(database: &Database, n: u64) -> Option<String> {
    stored_totals(database).await.get(&address(n)).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erc20_token_is_backfilled_and_followed() {
    let chain = chain_with(USDC, Artifact::token().unwrap()).await;
    let database = Database::sqlite();
    mint(&chain, USDC, 1, 1_500_000).await;
    let profile = profile("erc20");
    let filled = ethtally(["backfill", "--profile", &profile, "--from-csv", "-"])
        .node(chain.url())
        .database(&database)
        .input(address_lines(0..3))
        .run();
    filled.expect(0);
    assert_eq!(total_of(&database, 1).await.as_deref(), Some("1500000"));

    let watching = start_connected(watch(&format!("--profile {profile}"), chain.url(), &database));
    mint(&chain, USDC, 2, 7).await;
    eventually_async("the event is stored", async || {
        total_of(&database, 2).await.as_deref() == Some("7")
    })
    .await;
    drop(watching);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebasing_token_is_swept_by_balance_and_followed_by_share() {
    let chain = chain_with(STETH, Artifact::rebasing().unwrap()).await;
    mint(&chain, STETH, 1, 100).await;
    mint(&chain, STETH, 2, 300).await;
    let [balances, shares] = [Database::sqlite(), Database::sqlite()];
    let names = [profile("rebasing"), profile("rebasing-shares")];
    for (database, profile) in [&balances, &shares].into_iter().zip(&names) {
        ethtally(["backfill", "--profile", profile, "--from-csv", "-"])
            .node(chain.url())
            .database(database)
            .input(address_lines(0..3))
            .run()
            .expect(0);
    }
    transact(&chain, STETH, "rebase(uint256)", &[U256::from(800)]).await;

    sweep_all(&balances, &chain.url(), &["--profile", &names[0]]).run().expect(0);
    assert_eq!(total_of(&balances, 1).await.as_deref(), Some("200"));
    let refused = watch(&format!("--profile {}", names[0]), chain.url(), &balances).run();
    let error = refused.expect(2).error();
    assert!(
        error.contains("profile steth has events = \"none\"") && error.contains("sweep it instead"),
        "{error}"
    );

    let watching = start_connected(watch(&format!("--profile {}", names[1]), chain.url(), &shares));
    mint(&chain, STETH, 1, 11).await;
    eventually_async("the event is stored", async || {
        total_of(&shares, 1).await.as_deref() == Some("111")
    })
    .await;
    drop(watching);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_wallets_of_a_table_are_added_and_read() {
    let chain = still_chain().await;
    let database = Database::postgres();
    let app = Database::postgres();
    let feed = || {
        script("new-wallets.sh", &database)
            .env("APP_DATABASE_URL", &app.url)
            .env("ETH_RPC_URL", chain.url())
            .env("ETHTALLY_MAX_HEAD_AGE", "off")
            .output()
            .expect("it runs")
    };
    assert!(!feed().status.success(), "the table users is missing");
    app.sql("create table users (wallet text, created_at timestamptz default now())").await;
    succeeds(feed());
    let rows = [(0, "now()"), (1, "now()"), (1, "now()"), (2, "now() - interval '2 days'")];
    for (n, created) in rows {
        app.sql(&format!("insert into users values ('{}', {created})", address(n))).await;
    }
    app.sql("insert into users values (null)").await;

    succeeds(feed());
    assert_eq!(stored_totals(&database).await, genesis_totals(0..2));
    let unchanged = "select count(*) from eth_wallet_balances where updated_at = created_at";
    let before = database.value(unchanged).await;
    app.sql(&format!("insert into users values ('{}')", address(3))).await;
    succeeds(feed());
    assert_eq!(stored_totals(&database).await, genesis_totals([0, 1, 3]));
    // Those that were there have not been read again.
    assert_eq!(
        database.value(&format!("{unchanged} and wallet <> '{}'", address(3))).await,
        before
    );
}

/// Ends a process with the test.
struct Reader(Child);

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_totals_are_recorded_and_read() {
    let chain = Chain::builder().start().await.unwrap();
    let database = Database::postgres();
    store_unread(&database, 0..3);
    let sql = std::fs::read_to_string(example("recipes/changed-totals.sql")).unwrap();
    // It may be run again.
    database.sql(&sql).await;
    database.sql(&sql).await;
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    let total = |n: u64| genesis_totals([n])[&address(n)].clone();
    let recorded = "select wallet, old_total, new_total from wallet_changes order by wallet";
    let expected = |wallets: &[u64]| {
        let mut rows: Vec<_> = wallets
            .iter()
            .filter(|n| total(**n) != "0")
            .map(|n| format!("{}||{}", address(*n), total(*n)))
            .collect();
        rows.sort();
        rows
    };
    assert_eq!(database.sql(recorded).await, expected(&[0, 1, 2]));

    // Nothing has changed, and nothing is recorded.
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    assert_eq!(database.sql(recorded).await, expected(&[0, 1, 2]));

    let mut reader = script("listen.sh", &database).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    let _reader = Reader(reader);
    let (send, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(send.send(line))));
    let next = || -> Value {
        let line = seen.recv_timeout(std::time::Duration::from_secs(60)).expect("a change");
        serde_json::from_str(&line).expect("JSON")
    };
    for _ in expected(&[0, 1, 2]) {
        assert_eq!(next()["old_total"], Value::Null);
    }
    chain.mint(wallet(1), U256::from(5)).await.unwrap();
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    let change = next();
    assert_eq!(change["wallet"], address(1));
    assert_eq!(change["old_total"], total(1));
    assert_eq!(
        change["new_total"],
        (total(1).parse::<U256>().unwrap() + U256::from(5)).to_string()
    );
    eventually_async("it is taken", async || database.sql(recorded).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_compared_with_the_originals() {
    let chain = still_chain().await;
    let totals = genesis_totals(0..4);
    let rows: Vec<_> = totals
        .iter()
        .map(|(wallet, total)| format!("('{wallet}', {total}, 1, '2026-01-01', '2026-01-01')"))
        .collect();
    let fill = format!("insert into eth_wallet_balances values {}", rows.join(","));
    let original = original_database(&fill);
    let database = Database::postgres();
    store_unread(&database, 0..4);
    sweep_all(&database, &chain.url(), &[]).run().expect(0);
    let compare = || {
        script("compare.sh", &database)
            .env("ORIGINAL_URL", &original.url)
            .output()
            .expect("it runs")
    };
    assert_eq!(succeeds(compare()), "same:4 different:0 only_original:0 only_ethtally:0\n");

    let [wrong, missing] = [address(0), address(1)];
    original
        .sql(&format!(
            "update eth_wallet_balances set balance = balance - 3 where wallet = '{wrong}'"
        ))
        .await;
    database.sql(&format!("delete from eth_wallet_balances where wallet = '{missing}'")).await;
    let output = compare();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, b"same:2 different:1 only_original:1 only_ethtally:0\n");
    let file = std::fs::read_to_string(database.folder().join("differences.csv")).unwrap();
    let lines: Vec<_> = file.lines().collect();
    assert_eq!(lines.len(), 3, "{file}");
    assert!(lines[0].starts_with("wallet,original_total,ethtally_total,difference,"), "{file}");
    assert!(lines[1].starts_with(&format!("{missing},{},,,", totals[&missing])), "{file}");
    assert!(lines[2].starts_with(&wrong) && lines[2].contains(",3,2026-01-01"), "{file}");
}
