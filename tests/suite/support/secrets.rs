//! URLs with secrets, nodes that repeat them, and checks that no output contains them.

use std::fmt::Write;

use ethtally_testbed::stub::Fault;

use crate::support::{database::Database, program::Output};

/// The secrets of [`rpc_url`], encoded, decoded and in part.
pub(crate) const RPC_SECRETS: [&str; 7] = [
    "Rpc%2Fpa55word",
    "Rpc/pa55word",
    "pa55word",
    "PATHKEY0123456789abcdef",
    "QUERYKEY9876543210",
    "PATHK",
    "QUERYK",
];

/// The password of the database URLs, encoded, decoded and in part.
pub(crate) const DATABASE_SECRETS: [&str; 3] = ["Db%40hush-hush", "Db@hush-hush", "hush-hush"];

/// A node's URL with a secret in every part that can contain one.
pub(crate) fn rpc_url(origin: &str) -> String {
    let (scheme, host) = origin.split_once("://").expect("an origin");
    format!(
        "{scheme}://rpcuser:{}@{host}/v2/{}/x?apikey={}",
        RPC_SECRETS[0], RPC_SECRETS[3], RPC_SECRETS[4]
    )
}

/// Panics if the output contains one of these secrets.
#[track_caller]
pub(crate) fn assert_hidden_in(output: &Output, secrets: &[&str]) {
    let shown = format!("{}{}", output.stdout, output.stderr);
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} in {output:?}");
    }
    assert!(!shown.contains("internal error"), "{output:?}");
    if output.status == 2 {
        output.error();
    }
}

/// All rows of all tables, as text.
pub(crate) async fn dump_all_tables(database: &Database) -> String {
    let mut all = String::new();
    for table in [
        "eth_wallet_balances",
        "eth_wallet_read_failures",
        "eth_indexer_checkpoints",
        "eth_watch_blocks",
    ] {
        for row in database.sql(&format!("select * from {table}")).await {
            writeln!(all, "{row}").unwrap();
        }
    }
    all
}

/// Failures of a node that repeat the secrets of [`rpc_url`].
pub(crate) fn faults_that_repeat_secrets() -> Vec<Fault> {
    let url = rpc_url("https://upstream.example:8443");
    let all = format!(
        "no: {} of {url} ({})",
        RPC_SECRETS[3],
        [0, 1, 3, 4].map(|secret| RPC_SECRETS[secret]).join(" or ")
    );
    let quoted = format!("dial \"{url}\": key={}&token='{}'", RPC_SECRETS[4], RPC_SECRETS[3]);
    let mut faults = vec![Fault::NotJson, Fault::Truncated, Fault::Reset];
    for status in [400, 401, 403, 404, 413, 500] {
        faults.push(Fault::status(status).with_body(&all));
    }
    // A rate limit that lasts too long is not waited out.
    faults.push(Fault::too_many_requests(3_600).with_body(&all));
    faults.push(Fault::status(401).with_body(
        &serde_json::json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32001, "message": quoted}})
            .to_string(),
    ));
    // The excerpt of a long body may end in the middle of a secret.
    for padding in (138..156).step_by(3) {
        let body = format!("{} {}", "x".repeat(padding), RPC_SECRETS[3]);
        faults.push(Fault::status(503).with_body(&body));
    }
    for text in [&all, &quoted] {
        for code in [-32000, -32601, 3] {
            faults.push(Fault::error(code, text));
        }
        for code in [-32005, 429] {
            faults.push(Fault::error(code, &format!("try again in 2 hours: {text}")));
        }
        faults.push(Fault::error(-32000, &format!("out of gas: {text}")));
        faults.push(Fault::error(-32000, &format!("execution reverted: {text}")));
        faults.push(Fault::error(-32000, "no").with_data(text.as_str().into()));
        faults.push(Fault::Answer(text.as_str().into()));
    }
    faults
}
