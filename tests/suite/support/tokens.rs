//! Contracts besides those of the built-in profile, on a chain of a test.

use alloy::{
    primitives::{Address, U256, hex, keccak256},
    providers::Provider,
};
use ethtally_testbed::{Chain, contracts::Artifact, wallet};
use serde_json::{Value, json};

use crate::support::program::eventually_async;

/// A chain with this contract's code at the address.
pub(crate) async fn chain_with(contract: Address, artifact: Artifact) -> Chain {
    let chain = Chain::builder().start().await.expect("a chain");
    put(&chain, contract, artifact).await;
    chain
}

/// Puts this contract's code at the address.
pub(crate) async fn put(chain: &Chain, contract: Address, artifact: Artifact) {
    let code = artifact.runtime_code().expect("a code");
    let set: Value = chain
        .provider()
        .raw_request("anvil_setCode".into(), json!([contract, code]))
        .await
        .expect("the chain takes code");
    assert_eq!(set, Value::Null);
}

/// Calls a function whose arguments are words, in a transaction of wallet 0, and waits until it is mined.
pub(crate) async fn transact(chain: &Chain, contract: Address, function: &str, words: &[U256]) {
    let mut data = keccak256(function)[..4].to_vec();
    words.iter().for_each(|word| data.extend_from_slice(&word.to_be_bytes::<32>()));
    let request = json!([{"from": wallet(0), "to": contract, "data": hex::encode_prefixed(data), "gasPrice": "0x0"}]);
    let before = chain.block_number().await.expect("a block");
    let _: Value = chain
        .provider()
        .raw_request("eth_sendTransaction".into(), request)
        .await
        .expect("the chain takes transactions");
    eventually_async("it is mined", async || chain.block_number().await.expect("a block") > before)
        .await;
}

/// Mints tokens, in a block.
pub(crate) async fn mint(chain: &Chain, contract: Address, to: u64, amount: u64) {
    let words = [U256::from_be_slice(wallet(to).as_slice()), U256::from(amount)];
    transact(chain, contract, "mint(address,uint256)", &words).await;
}

/// Leaves a transfer of a token to the next block.
pub(crate) async fn send_token(chain: &Chain, token: Address, from: u64, to: u64, amount: u64) {
    let words = [U256::from_be_slice(wallet(to).as_slice()), U256::from(amount)];
    let mut data = keccak256("transfer(address,uint256)")[..4].to_vec();
    words.iter().for_each(|word| data.extend_from_slice(&word.to_be_bytes::<32>()));
    let request = json!([{"from": wallet(from), "to": token, "data": hex::encode_prefixed(data), "gasPrice": "0x0"}]);
    let sent = chain.provider().raw_request("eth_sendTransaction".into(), request).await;
    let _: Value = sent.expect("the chain takes transactions");
}

/// What a wallet holds of a token at the newest block.
pub(crate) async fn balance_of(chain: &Chain, token: Address, n: u64) -> U256 {
    let mut data = keccak256("balanceOf(address)")[..4].to_vec();
    data.extend_from_slice(wallet(n).into_word().as_slice());
    let call = json!([{"to": token, "data": hex::encode_prefixed(data)}, "latest"]);
    let returned = chain.provider().raw_request("eth_call".into(), call).await;
    returned.expect("the token answers")
}
