//! `watch` for several profiles: one connection and one `eth_getLogs` a block, and a table for each.

use std::{collections::BTreeSet, fs};

use alloy::primitives::Address;
use ethtally_testbed::{
    Chain, Socket,
    contracts::{AUDIO, Artifact},
    stub::Stub,
};
use serde_json::{Value, json};

use crate::support::{
    chains::stub_of,
    database::{Database, on_both_databases},
    program::eventually_async,
    prometheus::assert_promtool_is_content,
    table::stored_totals,
    tables::{OTHER, Tables, token_profile},
    tokens::{balance_of, chain_with, mint, send_token},
    wallets::{address, address_lines, spenders},
    watch::{JsonWatch, get, served_at, start},
};

on_both_databases! {
    two_profiles_share_a_connection_and_each_request_for_logs
    where_one_table_fails_the_other_is_kept_current
    each_profile_has_a_lock_of_its_own
    watch_once_follows_each_profile
    health_and_metrics_name_each_profile
    no_wallet_of_one_gets_into_the_table_of_the_other
}

const TOKENS: [Address; 2] = [AUDIO, OTHER];

/// A chain with two tokens, and tables with the wallets that hold some of both.
struct Setting {
    chain: Chain,
    stub: Stub,
    socket: Socket,
    tables: Tables,
    wallets: Vec<u64>,
}

impl Setting {
    async fn of(database: Database) -> Self {
        let chain = chain_with(OTHER, Artifact::token().unwrap()).await;
        let wallets: Vec<u64> = spenders(2).into_iter().take(12).collect();
        for n in &wallets {
            mint(&chain, OTHER, *n, 1_000_000).await;
        }
        chain.set_automine(false).await.unwrap();
        let file = database.folder().join("wallets.csv");
        fs::write(&file, address_lines(wallets.iter().copied())).unwrap();
        let file = file.display().to_string();
        let tables = Tables::of_tokens(database);
        tables.run(&["backfill", "--from-csv", &file]).node(chain.url()).run().expect(0);
        let stub = stub_of(&chain);
        let socket = Socket::in_front_of(&chain.ws_url()).unwrap();
        Self { chain, stub, socket, tables, wallets }
    }

    /// A `watch` for both, once it follows the chain.
    fn watch(&self) -> JsonWatch {
        let arguments = ["watch", "--json", "--ws-url", &self.socket.url()];
        let watching = start(self.tables.run(&arguments).node(self.stub.url()));
        watching.until("connected", 1);
        watching
    }

    /// Mines a block with a transfer of each of these tokens.
    async fn block(&self, tokens: &[Address], i: u64) {
        for (n, token) in tokens.iter().enumerate() {
            let wallet = |k: u64| self.wallets[((i + k) % self.wallets.len() as u64) as usize];
            let amount = 1 + i * 7 + n as u64;
            send_token(&self.chain, *token, wallet(0), wallet(1 + n as u64), amount).await;
        }
        self.chain.mine(1).await.unwrap();
    }

    /// Waits until the table of this profile is followed to the newest block.
    async fn caught_up(&self, index: usize) {
        let head = self.chain.block_number().await.unwrap();
        let name = ["audio_transfers", "other_transfers"][index];
        let sql = format!("select last_block from eth_indexer_checkpoints where name = '{name}'");
        eventually_async(&format!("{name} is at {head}"), async || {
            let block = self.tables.each[index].sql(&sql).await;
            block.first().is_some_and(|block| block.parse::<u64>().unwrap() >= head)
        })
        .await;
    }

    async fn assert_matches(&self, index: usize) {
        let stored = stored_totals(&self.tables.each[index]).await;
        for n in &self.wallets {
            let expected = balance_of(&self.chain, TOKENS[index], *n).await.to_string();
            assert_eq!(stored[&address(*n)], expected, "{} of {n}", TOKENS[index]);
        }
    }

    async fn followed(&self) {
        for index in 0..2 {
            self.caught_up(index).await;
        }
        for index in 0..2 {
            self.assert_matches(index).await;
        }
    }

    /// The blocks whose logs were asked for, by their hashes; none twice, and each for both tokens.
    fn blocks_asked_for(&self) -> BTreeSet<String> {
        let mut blocks = BTreeSet::new();
        let requests = self.stub.requests().into_iter();
        for request in requests.filter(|request| request.method == "eth_getLogs") {
            let filter = &request.params[0];
            let block = filter["blockHash"].as_str().unwrap_or_else(|| panic!("{filter}"));
            let of: BTreeSet<String> = (filter["address"].as_array().unwrap().iter())
                .map(|address| address.as_str().unwrap().to_lowercase())
                .collect();
            assert_eq!(of, TOKENS.map(|token| format!("{token:#x}")).into());
            assert!(blocks.insert(block.to_owned()), "{block} was asked for twice");
        }
        blocks
    }
}

async fn two_profiles_share_a_connection_and_each_request_for_logs(database: Database) {
    let setting = Setting::of(database).await;
    let watching = setting.watch();
    watching.until("began", 2);
    // Blooms of this chain have bits from now on.
    setting.block(&TOKENS, 0).await;
    setting.followed().await;
    setting.stub.forget();

    for (i, tokens) in [&TOKENS[..], &[], &TOKENS[..1], &TOKENS[1..], &TOKENS].iter().enumerate() {
        setting.block(tokens, 1 + i as u64).await;
        setting.followed().await;
    }
    assert_eq!(setting.blocks_asked_for().len(), 5);
    assert_eq!((setting.socket.connections(), setting.socket.subscriptions("newHeads")), (1, 1));
    assert_eq!(setting.socket.subscriptions("logs"), 1);
    for table in &setting.tables.each {
        let rows = table.value("select count(*) from eth_wallet_balances").await;
        assert_eq!(rows, setting.wallets.len().to_string());
    }

    // Replaced blocks: their transfers are undone in both.
    setting.chain.reorg(2).await.unwrap();
    watching.until("reorg", 2);
    setting.block(&TOKENS, 20).await;
    setting.followed().await;
    let reorgs: Vec<_> =
        (0..2).map(|n| watching.until("reorg", n + 1)["profile"].clone()).collect();
    assert_eq!(
        BTreeSet::from_iter(reorgs.iter().map(Value::as_str)),
        [Some("audio"), Some("other")].into()
    );
    let before = setting.blocks_asked_for().len();
    assert_eq!(before, 5 + 3, "two in the place of others, and a new one");

    // Blocks that come while there is no connection.
    setting.socket.refuse(true);
    watching.until("disconnected", 1);
    for i in 30..33 {
        setting.block(&TOKENS, i).await;
    }
    setting.socket.refuse(false);
    setting.followed().await;
    assert_eq!(setting.blocks_asked_for().len(), before + 3);
    watching.until("connected", 2);
    setting.block(&TOKENS, 40).await;
    setting.followed().await;
    assert_eq!(setting.blocks_asked_for().len(), before + 4);
    assert_eq!((setting.socket.open(), setting.socket.requests("eth_chainId") > 0), (1, true));

    let lines = watching.stop();
    let stopped: Vec<_> = lines.iter().filter(|line| line["event"] == "stopped").collect();
    assert_eq!(stopped.len(), 2);
    for (line, profile) in stopped.iter().zip(["audio", "other"]) {
        assert_eq!((&line["profile"], &line["outcome"]), (&json!(profile), &json!("interrupted")));
    }
    for line in &lines {
        let is_of_connection =
            ["connected", "disconnected"].contains(&line["event"].as_str().unwrap());
        assert_eq!(line["profile"].is_string(), !is_of_connection, "{line}");
    }
    // Each table proves its own.
    let status = setting.tables.run(&["status", "--json"]).run().expect(0);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let head = setting.chain.block_number().await.unwrap();
    for of_profile in status.as_array().unwrap() {
        assert_eq!(of_profile["checkpoint"]["last_block"], head, "{of_profile}");
        let runs = of_profile["last_runs"].as_array().unwrap();
        assert!(runs.iter().any(|run| run["command"] == "watch"), "{of_profile}");
    }
}

async fn where_one_table_fails_the_other_is_kept_current(database: Database) {
    let setting = Setting::of(database).await;
    let watching = setting.watch();
    watching.until("began", 2);
    setting.block(&TOKENS, 0).await;
    setting.followed().await;
    let [audio, _] = &setting.tables.each;
    audio.sql("alter table eth_wallet_balances rename to hidden").await;
    for i in 1..4 {
        setting.block(&TOKENS, i).await;
        setting.caught_up(1).await;
        setting.assert_matches(1).await;
    }
    let error = watching.until("error", 1);
    assert_eq!(error["profile"], "audio", "{error}");
    audio.sql("alter table hidden rename to eth_wallet_balances").await;
    setting.followed().await;
    assert!(watching.events("error").iter().all(|error| error["profile"] == "audio"));
    assert_eq!(setting.socket.connections(), 1);
    watching.stop();
}

async fn each_profile_has_a_lock_of_its_own(database: Database) {
    let setting = Setting::of(database).await;
    let alone = start(setting.tables.run_alone(1, &["watch", "--json"]).node(setting.chain.url()));
    alone.until("began", 1);
    let watching = setting.watch();
    watching.until("began", 1);
    assert_eq!(watching.until("standby", 1)["profile"], "other");
    setting.block(&TOKENS, 0).await;
    setting.followed().await;
    assert_eq!(watching.events("active").len(), 1);
    alone.stop();
    watching.until("active", 2);
    setting.block(&TOKENS, 1).await;
    setting.followed().await;
    assert_eq!((watching.events("connected").len(), setting.socket.connections()), (1, 1));
    watching.stop();
}

async fn watch_once_follows_each_profile(database: Database) {
    let setting = Setting::of(database).await;
    let once = || setting.tables.run(&["watch", "--once", "--json"]).node(setting.stub.url()).run();
    once().expect(0);
    for i in 0..3 {
        setting.block(&TOKENS, i).await;
    }
    let ran: Value = serde_json::from_str(&once().expect(0).stdout).unwrap();
    for (of_profile, name) in ran.as_array().unwrap().iter().zip(["audio", "other"]) {
        assert_eq!((&of_profile["profile"], &of_profile["logs"]), (&json!(name), &json!(3)));
    }
    setting.followed().await;
}

async fn health_and_metrics_name_each_profile(database: Database) {
    let setting = Setting::of(database).await;
    let arguments =
        ["watch", "--json", "--listen", "0", "--max-lag", "3", "--ws-url", &setting.socket.url()];
    let watching = start(setting.tables.run(&arguments).node(setting.stub.url()));
    let served = served_at(&watching);
    watching.until("began", 2);
    setting.block(&TOKENS, 0).await;
    setting.block(&TOKENS[1..], 1).await;
    setting.followed().await;
    eventually_async("both are healthy", async || {
        setting.chain.mine(1).await.unwrap();
        setting.followed().await;
        get(&served, "/healthz").status == 200
    })
    .await;
    let health = get(&served, "/healthz").json();
    let ready = get(&served, "/readyz");
    assert_eq!((health["status"].as_str(), &health["reasons"]), (Some("ok"), &json!([])));
    let head = setting.chain.block_number().await.unwrap();
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    for body in [&health, &ready.json()] {
        for (of_profile, name) in
            body["profiles"].as_array().unwrap().iter().zip(["audio", "other"])
        {
            assert_eq!(
                (&of_profile["profile"], &of_profile["role"]),
                (&json!(name), &json!("active"))
            );
            assert_eq!(of_profile["checkpoint_block"], head, "{of_profile}");
        }
    }
    let metrics = get(&served, "/metrics").body;
    assert_promtool_is_content(&metrics);
    for line in [
        format!("ethtally_checkpoint_block{{profile=\"audio\"}} {head}"),
        format!("ethtally_checkpoint_block{{profile=\"other\"}} {head}"),
        "ethtally_logs_total{profile=\"audio\"} 1".to_owned(),
        "ethtally_logs_total{profile=\"other\"} 2".to_owned(),
        format!("ethtally_rows{{profile=\"other\"}} {}", setting.wallets.len()),
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line} in {metrics}");
    }
    let once = |name: &str| metrics.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!((once("ethtally_eth_calls_total "), once("process_cpu_seconds_total ")), (1, 1));
    for (query, profile) in [("", "audio"), ("?profile=other", "other"), ("?profile=none", "audio")]
    {
        let state = get(&served, &format!("/state{query}")).json();
        assert_eq!(
            (&state["profile"], &state["profiles"]),
            (&json!(profile), &json!(["audio", "other"]))
        );
    }

    // Where one of them fails, the whole is not healthy, and says which.
    setting.tables.each[0].sql("alter table eth_wallet_balances rename to hidden").await;
    setting.block(&TOKENS, 2).await;
    watching.until("error", 1);
    eventually_async("it is unhealthy", async || {
        setting.block(&TOKENS[1..], 3).await;
        setting.caught_up(1).await;
        get(&served, "/healthz").status == 503
    })
    .await;
    let health = get(&served, "/healthz").json();
    let reasons = health["reasons"].as_array().unwrap();
    assert!(
        reasons.iter().all(|reason| reason.as_str().unwrap().starts_with("audio: ")),
        "{health}"
    );
    assert_eq!(health["profiles"][1]["status"], "ok", "{health}");
    watching.stop();
}

async fn no_wallet_of_one_gets_into_the_table_of_the_other(database: Database) {
    let setting = Setting::of(database).await;
    let arguments = ["watch", "--json", "--track", "all", "--ws-url", &setting.socket.url()];
    let watching = start(setting.tables.run(&arguments).node(setting.stub.url()));
    watching.until("began", 2);
    let new = 999;
    assert!(!setting.wallets.contains(&new));
    send_token(&setting.chain, OTHER, setting.wallets[0], new, 5).await;
    setting.chain.mine(1).await.unwrap();
    setting.followed().await;
    // A log that is removed is announced to both.
    let head = setting.chain.block_number().await.unwrap();
    setting.socket.send_removed_logs(setting.chain.logs(head, head).await.unwrap());
    for i in 0..6 {
        setting.block(&TOKENS[..1], i).await;
        setting.followed().await;
    }
    let [audio, other] = &setting.tables.each;
    let rows = [stored_totals(audio).await, stored_totals(other).await];
    assert_eq!(rows[1].get(&address(new)).map(String::as_str), Some("5"));
    assert_eq!(rows[0].get(&address(new)), None);
    assert_eq!([rows[0].len(), rows[1].len()], [setting.wallets.len(), setting.wallets.len() + 1]);
    watching.stop();
}

#[test]
fn what_cannot_be_watched_together_is_refused() {
    let refused = |profiles: [(&str, String); 2], more: &[&str]| {
        let tables = Tables::of(Database::sqlite(), profiles);
        let arguments = [&["watch"], more].concat();
        tables.run(&arguments).node("http://127.0.0.1:1").run().refused()
    };
    let a = || ("a", token_profile("a", AUDIO));
    let text = token_profile("b", OTHER);
    let elsewhere = text.replace("chain_id = 1", "chain_id = 10");
    assert_eq!(
        refused([a(), ("b", elsewhere)], &[]),
        "error: profiles a and b are of different chains, 1 and 10; run a watch for each chain"
    );
    let (reads, _) = text.split_once("[[event]]").unwrap();
    let none = reads.replace("decimals", "events = \"none\"\ndecimals");
    assert_eq!(
        refused([a(), ("b", none)], &[]),
        "error: b: profile b has events = \"none\": its totals change without an event that watch could follow; sweep \
         it instead, with `ethtally sweep --all`"
    );
}
