//! `refresh`: wallets are read now, and stored.

use ethtally_testbed::{Chain, wallet};
use serde_json::json;

use crate::harness::{Database, ethtally, on_both_databases};

on_both_databases! {
    a_wallet_is_read_once_and_stored_in_lower_case
}

async fn a_wallet_is_read_once_and_stored_in_lower_case(database: Database) {
    let chain = Chain::builder().start().await.unwrap();
    let address = wallet(5);
    let (checksummed, lower) = (address.to_checksum(None), format!("{address:#x}"));
    let total = chain.total(address).await.unwrap();

    let ran = ethtally(["refresh", "--json", &checksummed, &lower])
        .node(chain.url())
        .database(&database)
        .run()
        .expect(0);

    assert_eq!(
        ran.json()["wallets"],
        json!([{"wallet": lower, "total": total.to_string(), "read_block": 0}])
    );
    assert_eq!(ran.json()["calls"], 1);
    assert_eq!(
        database
            .sql("select wallet, balance, read_block, blocknumber from eth_wallet_balances")
            .await,
        [format!("{lower}|{total}|0|")]
    );
}
