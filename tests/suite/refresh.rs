//! `refresh`: reads wallets now and stores them.

use alloy::primitives::U256;
use ethtally_testbed::{Chain, TokenFault, wallet};
use serde_json::json;

use crate::support::{
    chains::still_chain,
    database::{Database, on_both_databases},
    program::ethtally,
    table::{dump, read_wallets, store_unread},
    wallets::{address, right_and_wrong_checksum},
};

on_both_databases! {
    a_wallet_is_read_once_and_stored_in_lower_case
    a_new_wallet_is_added_and_other_rows_do_not_change
    a_wallet_that_cannot_be_read_has_no_total_and_no_row
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

async fn a_new_wallet_is_added_and_other_rows_do_not_change(database: Database) {
    let chain = still_chain().await;
    store_unread(&database, 0..2);
    let before = dump(&database).await;

    ethtally(["refresh", &address(2)]).node(chain.url()).database(&database).run().expect(0);

    let after = dump(&database).await;
    assert_eq!(after.len(), 3);
    assert!(before.iter().all(|row| after.contains(row)), "{before:?}\n{after:?}");
    assert_eq!(read_wallets(&database).await, [address(2)].into());
}

async fn a_wallet_that_cannot_be_read_has_no_total_and_no_row(database: Database) {
    let chain = Chain::builder().faulty().start().await.unwrap();
    chain.set_fault(wallet(1), TokenFault::Revert).await.unwrap();
    let block = chain.block_number().await.unwrap();
    let (good, bad) = (address(0), address(1));
    let total = chain.total(wallet(0)).await.unwrap().to_string();
    let refresh = |arguments: &[&str], status| {
        let arguments = ["refresh"].iter().chain(arguments).copied();
        ethtally(arguments).node(chain.url()).database(&database).run().expect(status)
    };

    let ran = refresh(&["--json", &bad, &good], 0);
    assert_eq!(
        ran.json()["wallets"],
        json!([
            {"wallet": bad, "total": null, "read_block": null},
            {"wallet": good, "total": total, "read_block": block},
        ])
    );
    assert_eq!((&ran.json()["updated"], &ran.json()["failed"]), (&json!(1), &json!(1)));
    assert_eq!(database.value("select wallet from eth_wallet_balances").await, good);
    let failure = "select wallet, failures from eth_wallet_read_failures";
    assert_eq!(database.sql(failure).await, [format!("{bad}|1")]);

    let ran = refresh(&[&bad, &good], 0);
    let (first, second) = ran.stdout.split_once('\n').unwrap();
    assert!(first.starts_with(&format!("{bad}  could not be read: balanceOf ")), "{first}");
    assert!(second.starts_with(&format!("{good}  ")), "{second}");
    refresh(&["--strict", &bad, &good], 1);

    let ran = refresh(&["--json", &bad], 3);
    assert_eq!(ran.json()["wallets"][0]["total"], json!(null));
    assert!(ran.error().starts_with("error: not one of 1 wallets could be read"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_has_the_documented_keys_in_the_order_of_the_arguments() {
    let chain = still_chain().await;
    let database = Database::sqlite();
    let order = [7, 3, 999, 0];
    let wallets = order.map(address);
    let arguments = ["refresh", "--json"].into_iter().chain(wallets.iter().map(String::as_str));

    let ran = ethtally(arguments).node(chain.url()).database(&database).run().expect(0);

    let mut shown = Vec::new();
    for n in order {
        let (wallet, total) = (address(n), chain.total(wallet(n)).await.unwrap());
        shown.push(format!(r#"{{"wallet":"{wallet}","total":"{total}","read_block":0}}"#));
    }
    let counts = r#""requested":4,"updated":4,"failed":0,"superseded":0,"calls":1,"block":0"#;
    assert_eq!(
        ran.without_time(),
        format!(
            r#"{{"command":"refresh",{counts},"elapsed_ms":N,"skipped":false,"interrupted":false,"wallets":[{}]}}"#,
            shown.join(",")
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn text_output_shows_each_total_in_audio_and_in_wei() {
    let chain = Chain::builder().start().await.unwrap();
    let (rich, poor) = (5_000, 5_001);
    let wei: U256 = "1234567500000000000000001".parse().unwrap();
    chain.mint(wallet(rich), wei).await.unwrap();
    let database = Database::sqlite();

    let ran = ethtally(["refresh", &address(rich), &address(poor)])
        .node(chain.url())
        .database(&database)
        .run()
        .expect(0);

    assert_eq!(
        ran.stdout,
        format!(
            "{}  1,234,567.500000000000000001 AUDIO (1234567500000000000000001 wei)\n{}  0 AUDIO (0 wei)\n",
            address(rich),
            address(poor)
        )
    );
    assert!(ran.stderr.starts_with("note: refresh complete requested:2 updated:2 "), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_a_wrong_checksum_is_refused_and_nothing_is_read() {
    let chain = still_chain().await;
    let database = Database::sqlite();
    let (good, bad) = right_and_wrong_checksum(0);

    let ran = ethtally(["refresh", "--json", &good, &bad])
        .node(chain.url())
        .database(&database)
        .run()
        .expect(2);

    assert_eq!(ran.own(), "");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(ran.error().contains(&bad) && ran.error().contains("EIP-55 checksum"), "{ran:?}");
    assert_eq!(std::fs::read_dir(database.folder()).unwrap().count(), 0, "no database is created");
}
