//! Checks what a node says of a block, and of a contract's storage, against hashes. Sends nothing.

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    rlp,
    rpc::types::{EIP1186AccountProofResponse, Header},
    trie::{EMPTY_ROOT_HASH, KECCAK_EMPTY, Nibbles, TrieAccount, proof::verify_proof},
};
use serde_json::Value;

use super::sender::Rejected;

/// A block whose hash was computed from its header, so that the hash vouches for the state root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvenBlock {
    /// The number.
    pub number: u64,
    /// The hash.
    pub hash: B256,
    /// The root of the trie of all accounts, after the block.
    pub state_root: B256,
}

/// The block of this number in the answer to an `eth_getBlockByNumber`.
pub(super) fn proven_block(number: u64, answer: Value) -> Result<ProvenBlock, Rejected> {
    if answer.is_null() {
        return Err(Rejected::NoBlock(format!("it does not have block {number}")));
    }
    let header: Header = serde_json::from_value(answer)
        .map_err(|error| format!("the header of block {number} is not one: {error}"))?;
    if header.number != number {
        return Err(format!("it gave block {} for block {number}", header.number).into());
    }
    let (hash, said) = (header.inner.hash_slow(), header.hash);
    if hash != said {
        return Err(format!("the header of block {number} has the hash {hash}, not {said}").into());
    }
    Ok(ProvenBlock { number, hash, state_root: header.state_root })
}

/// The value at this key of a contract's storage in the answer to an `eth_getProof`, proven against the root of a state.
pub(super) fn proven_value(
    contract: Address,
    key: B256,
    state_root: B256,
    answer: Value,
) -> Result<U256, String> {
    let proof: EIP1186AccountProofResponse =
        serde_json::from_value(answer).map_err(|error| format!("its proof is not one: {error}"))?;
    if proof.address != contract {
        return Err(format!("its proof is of {}, not of {contract}", proof.address));
    }
    let storage_root = proven_account(&proof, state_root)?;
    let [stored] = proof.storage_proof.as_slice() else {
        return Err(format!("it has {} storage proofs, not 1", proof.storage_proof.len()));
    };
    if stored.key.as_b256() != key {
        return Err(format!("its storage proof is of {}, not of {key}", stored.key.as_b256()));
    }
    // A key that holds zero is not in the trie.
    let value = (!stored.value.is_zero()).then(|| rlp::encode(stored.value));
    if !is_proven(storage_root, key.as_slice(), value, &stored.proof) {
        return Err(format!("its storage proof does not prove the value {}", stored.value));
    }
    Ok(stored.value)
}

/// The root of the account's storage, once every field of the account is proven.
fn proven_account(proof: &EIP1186AccountProofResponse, state_root: B256) -> Result<B256, String> {
    let EIP1186AccountProofResponse { address, nonce, balance, account_proof, .. } = proof;
    let (storage_root, code_hash) = (proof.storage_hash, proof.code_hash);
    let account = TrieAccount { nonce: *nonce, balance: *balance, storage_root, code_hash };
    if is_proven(state_root, address.as_slice(), Some(rlp::encode(account)), account_proof) {
        return Ok(storage_root);
    }
    // Some nodes give the hashes of an account that does not exist as zero.
    let is_empty = (*nonce, *balance) == (0, U256::ZERO)
        && [EMPTY_ROOT_HASH, B256::ZERO].contains(&storage_root)
        && [KECCAK_EMPTY, B256::ZERO].contains(&code_hash);
    if is_empty && is_proven(state_root, address.as_slice(), None, account_proof) {
        return Ok(EMPTY_ROOT_HASH);
    }
    Err("its account proof does not prove the account".to_owned())
}

/// True if the nodes prove that a trie has this value at a key, or for `None` that it does not have the key.
fn is_proven(root: B256, key: &[u8], value: Option<Vec<u8>>, nodes: &[Bytes]) -> bool {
    verify_proof(root, Nibbles::unpack(keccak256(key)), value, nodes).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy::{
        primitives::address,
        trie::{HashBuilder, proof::ProofRetainer},
    };
    use serde_json::json;

    use super::*;

    const ABSENT: Address = address!("00000000000000000000000000000000000a85e7");
    const KEY: B256 = B256::repeat_byte(7);

    fn account(n: u64) -> Address {
        Address::from_word(U256::from(n + 1).into())
    }

    /// The root of a trie with these values, and its nodes on the way to a key.
    fn trie(
        values: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        key: &[u8],
    ) -> (B256, Vec<Bytes>) {
        let path = |key: &[u8]| Nibbles::unpack(keccak256(key));
        let values: BTreeMap<_, _> =
            values.into_iter().map(|(key, value)| (path(&key), value)).collect();
        let retainer = ProofRetainer::new(vec![path(key)]);
        let mut builder = HashBuilder::default().with_proof_retainer(retainer);
        for (path, value) in &values {
            builder.add_leaf(*path, value);
        }
        let root = builder.root();
        let nodes = builder.take_proof_nodes().into_nodes_sorted();
        (root, nodes.into_iter().map(|(_, node)| node).collect())
    }

    /// A state of a hundred accounts without storage, and its nodes on the way to an account.
    fn state(to: Address) -> (B256, Vec<Bytes>) {
        let accounts = (0..100).map(|n| {
            let held = TrieAccount { balance: U256::from(n + 1), ..TrieAccount::default() };
            (account(n).to_vec(), rlp::encode(held))
        });
        trie(accounts, to.as_slice())
    }

    fn answer(of: Address, nodes: &[Bytes]) -> Value {
        json!({
            "address": of, "balance": "0x0", "nonce": "0x0", "codeHash": KECCAK_EMPTY,
            "storageHash": EMPTY_ROOT_HASH, "accountProof": nodes,
            "storageProof": [{ "key": KEY, "value": "0x0", "proof": [] }],
        })
    }

    /// An answer with a value at each of these places.
    fn with(answer: &Value, changes: &[(&str, Value)]) -> Value {
        let mut changed = answer.clone();
        for (path, value) in changes {
            *changed.pointer_mut(path).expect("a place") = value.clone();
        }
        changed
    }

    #[test]
    fn an_account_that_does_not_exist_holds_zero() {
        let (root, nodes) = state(ABSENT);
        assert!(nodes.len() > 1);
        let genuine = answer(ABSENT, &nodes);
        let proven = |answer: Value| proven_value(ABSENT, KEY, root, answer);
        let zero_hashes = [("/codeHash", json!(B256::ZERO)), ("/storageHash", json!(B256::ZERO))];
        let empty_node = [("/storageProof/0/proof", json!(["0x80"]))];
        let short_key = [("/storageProof/0/key", json!(U256::from_be_bytes(KEY.0)))];
        for form in [&[][..], &zero_hashes, &empty_node, &short_key] {
            assert_eq!(proven(with(&genuine, form)), Ok(U256::ZERO), "{form:?}");
        }
        for (path, value) in [
            ("/balance", json!("0x1")),
            ("/nonce", json!("0x1")),
            ("/codeHash", json!(KEY)),
            ("/storageHash", json!(KEY)),
            ("/address", json!(account(1))),
            ("/accountProof", json!([])),
            ("/accountProof", json!(nodes[1..])),
            ("/accountProof", json!(nodes[..nodes.len() - 1])),
            ("/storageProof", json!([])),
            ("/storageProof/0/key", json!("0x0")),
            ("/storageProof/0/value", json!("0x1")),
        ] {
            let refused = proven(with(&genuine, &[(path, value.clone())]));
            assert!(refused.is_err(), "{path} {value}: {refused:?}");
        }
    }

    #[test]
    fn an_account_that_exists_cannot_be_left_out() {
        let there = account(3);
        let ((root, nodes), (_, others)) = (state(there), state(ABSENT));
        let genuine = with(&answer(there, &nodes), &[("/balance", json!("0x4"))]);
        let proven = |answer: Value| proven_value(there, KEY, root, answer);
        assert_eq!(proven(genuine), Ok(U256::ZERO), "it has no storage");
        for nodes in [&nodes[..], &nodes[..nodes.len() - 1], &others, &[]] {
            proven(answer(there, nodes)).unwrap_err();
        }
    }

    #[test]
    fn a_value_is_proven_by_the_nodes_of_its_own_trie() {
        let stored = |key: B256| (key.to_vec(), rlp::encode(U256::from(key[0])));
        let keys = (1..=50).map(B256::repeat_byte);
        let (storage_root, nodes) = trie(keys.map(stored), KEY.as_slice());
        let held = TrieAccount { storage_root, ..TrieAccount::default() };
        let accounts = [(ABSENT.to_vec(), rlp::encode(held))];
        let (root, account_nodes) = trie(accounts, ABSENT.as_slice());
        let genuine = with(
            &answer(ABSENT, &account_nodes),
            &[
                ("/storageHash", json!(storage_root)),
                ("/storageProof/0/value", json!("0x7")),
                ("/storageProof/0/proof", json!(nodes)),
            ],
        );
        let proven = |answer: Value| proven_value(ABSENT, KEY, root, answer);
        assert_eq!(proven(genuine.clone()), Ok(U256::from(7)));
        // A proof is of one state.
        proven_value(ABSENT, KEY, storage_root, genuine.clone()).unwrap_err();
        for (path, value) in [
            ("/storageProof/0/value", json!("0x0")),
            ("/storageProof/0/value", json!("0x8")),
            ("/storageProof/0/key", json!(B256::repeat_byte(8))),
            ("/storageHash", json!(EMPTY_ROOT_HASH)),
            ("/storageProof/0/proof", json!([])),
            ("/storageProof/0/proof", json!(account_nodes)),
        ] {
            let refused = proven(with(&genuine, &[(path, value.clone())]));
            assert!(refused.is_err(), "{path} {value}: {refused:?}");
        }
    }
}
