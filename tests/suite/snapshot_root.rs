//! `snapshot --root` and `--proof`, held against OpenZeppelin's own library.

use std::{fs, path::Path, process::Command};

use alloy::primitives::{Address, U256, keccak256};
use ethtally::{
    snapshot::{MerkleTree, leaf},
    tally::Wallet,
};
use serde_json::{Value, json};

use crate::support::{
    chains::still_chain,
    database::Database,
    program::{Output, ethtally},
    snapshots::{beside, file_of, manifest, snapshot},
    wallets::{address, address_lines},
};

/// Runs OpenZeppelin's library on this file.
fn library(mode: &str, file: &Path) -> String {
    let ran =
        Command::new("node").arg("tests/testbed/merkle-tree.cjs").arg(mode).arg(file).output();
    let ran = ran.expect("node runs");
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "run tests/testbed/install-merkle-tree: {error}");
    String::from_utf8(ran.stdout).expect("UTF-8").trim().to_owned()
}

fn proof(wallet: &str, file: &Path) -> Output {
    ethtally(["snapshot", "--proof", wallet, file.to_str().unwrap(), "--json"]).run()
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_are_those_of_the_library_and_its_verifier_accepts_the_proofs() {
    let url = still_chain().await.url();
    let database = Database::sqlite();
    for count in [1, 2, 3, 7, 1_000] {
        let file = file_of(&database, &format!("{count}.csv"));
        let csv = address_lines(0..count);
        let said =
            snapshot(&url, "0", &file, &["--from-csv=-", "--root"]).input(csv).run().expect(0);
        let root = library("root", &file);
        assert_eq!(said.json()["root"], root, "{count}");
        assert_eq!(manifest(&file)["root"], root);
        assert_eq!(manifest(&file)["leaf_encoding"], json!(["address", "uint256"]));
        for n in [0, count / 2, count - 1] {
            let proven = proof(&address(n), &file).expect(0);
            assert_eq!(proven.json()["root"], root);
            let result = beside(&file, ".proof");
            fs::write(&result, &proven.stdout).unwrap();
            assert_eq!(library("verify", &result), "true", "{n} of {count}");
            let mut wrong: Value = serde_json::from_str(&proven.stdout).unwrap();
            wrong["total"] = json!("12345");
            fs::write(&result, wrong.to_string()).unwrap();
            assert_eq!(library("verify", &result), "false", "{n} of {count}");
        }
    }
    let file = file_of(&database, "7.csv");
    let error = proof(&address(7), &file).expect(2).error();
    assert!(error.contains("has no row of"), "{error}");

    let packed = file_of(&database, "7.csv.zst");
    let csv = address_lines(0..7);
    snapshot(&url, "0", &packed, &["--from-csv=-"]).input(csv).run().expect(0);
    let proven = proof(&address(3), &packed).expect(0);
    assert_eq!(proven.json(), proof(&address(3), &file).expect(0).json());
    assert!(proven.stderr.contains("the manifest has no root"), "{proven:?}");
    assert!(manifest(&packed).get("root").is_none());

    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen(",", ",1", 2).replacen(",1", ",", 1)).unwrap();
    let error = proof(&address(3), &file).expect(2).error();
    assert!(error.contains("is not a row") || error.contains("the root of its rows is"), "{error}");
}

#[test]
fn the_root_of_a_hundred_thousand_leaves_is_that_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.csv");
    let rows = (0_u64..100_000).map(|n| {
        let hash = keccak256(n.to_be_bytes());
        (
            Wallet::from(Address::from_slice(&hash[..20])),
            U256::from_be_slice(&hash[(n % 33) as usize..]),
        )
    });
    let (mut tree, mut text) = (MerkleTree::default(), "wallet,total\n".to_owned());
    for (wallet, total) in rows {
        tree.push(wallet, total).unwrap();
        text += &format!("{wallet},{total}\n");
    }
    fs::write(&file, text).unwrap();
    let none = leaf(Wallet::from(Address::ZERO), U256::ZERO);
    let proof = tree.proof(none).unwrap().unwrap();
    assert_eq!((proof.root.to_string(), proof.siblings), (library("root", &file), None));
}
