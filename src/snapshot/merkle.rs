//! The Merkle tree of OpenZeppelin's `StandardMerkleTree` over pairs of address and uint256.
//!
//! Leaves are hashed twice, sorted by their hashes, and lie at the end of a complete binary tree, the first of them last.
//! So the nodes in descending order of their place are: all leaves, sorted, then the parent of each next pair. That is
//! read and written from front to back, and memory does not grow with the number of leaves.
//!
//! Source: <https://github.com/OpenZeppelin/merkle-tree>

use std::{
    env,
    fs::File,
    io::{self, BufWriter, Seek, Write},
};

use alloy::primitives::{B256, U256, keccak256};
use anyhow::Context;

use crate::{
    external_sort::{ExternalSort, keys_in},
    tally::Wallet,
};

/// The types of a leaf.
pub(super) const LEAF_ENCODING: [&str; 2] = ["address", "uint256"];

type Node = [u8; 32];
type Nodes = Box<dyn Iterator<Item = io::Result<Node>> + Send>;

/// The hash of a leaf.
pub fn leaf(wallet: Wallet, total: U256) -> B256 {
    let mut encoded = [0; 64];
    encoded[12..32].copy_from_slice(wallet.address().as_slice());
    encoded[32..].copy_from_slice(&total.to_be_bytes::<32>());
    keccak256(keccak256(encoded))
}

/// The leaves of a tree.
#[derive(Default)]
pub struct MerkleTree {
    leaves: ExternalSort<32>,
}

/// The root of a tree, and how a leaf leads to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The root.
    pub root: B256,
    /// The siblings on the way from the leaf to the root; `None` if the tree does not have the leaf.
    pub siblings: Option<Vec<B256>>,
}

impl MerkleTree {
    /// Adds a leaf.
    ///
    /// # Errors
    /// If a temporary file cannot be written.
    pub fn push(&mut self, wallet: Wallet, total: U256) -> anyhow::Result<()> {
        self.leaves.push(leaf(wallet, total).0)
    }

    /// The root; `None` for a tree without leaves.
    ///
    /// # Errors
    /// If a temporary file cannot be written or read.
    pub fn root(self) -> anyhow::Result<Option<B256>> {
        // No leaf has this hash.
        Ok(self.proof(B256::ZERO)?.map(|proof| proof.root))
    }

    /// The root, and the way from this leaf to it; `None` for a tree without leaves.
    ///
    /// # Errors
    /// If a temporary file cannot be written or read.
    pub fn proof(self, of: B256) -> anyhow::Result<Option<Proof>> {
        climb(Box::new(self.leaves.into_sorted()), of).with_context(|| {
            format!(
                "folder {}: a temporary file cannot be used; free space there, or name another folder with TMPDIR",
                env::temp_dir().display()
            )
        })
    }
}

/// Pairs nodes, and their parents, and so on to the root.
fn climb(mut nodes: Nodes, of: B256) -> io::Result<Option<Proof>> {
    let (mut of, mut siblings) = (of.0, Vec::new());
    let mut has_leaf = false;
    for level in 0.. {
        let mut parents = BufWriter::new(tempfile::tempfile()?);
        let mut count = 0;
        let mut is_found = false;
        // A last node without a sibling is paired with the first of the parents.
        let rest = loop {
            let Some(one) = nodes.next().transpose()? else { break None };
            let Some(other) = nodes.next().transpose()? else { break Some(one) };
            let parent = keccak256([one.min(other), one.max(other)].concat());
            if !is_found && (one == of || other == of) {
                is_found = true;
                siblings.push(B256::from(if one == of { other } else { one }));
                of = parent.0;
            }
            parents.write_all(parent.as_slice())?;
            count += 1;
        };
        if level == 0 {
            has_leaf = is_found || rest == Some(of);
        }
        match (count, rest) {
            (0, None) => return Ok(None),
            (0, Some(root)) => {
                let siblings = has_leaf.then_some(siblings);
                return Ok(Some(Proof { root: root.into(), siblings }));
            }
            _ => nodes = Box::new(rest.map(Ok).into_iter().chain(keys_in(rewound(parents)?))),
        }
    }
    Ok(None)
}

fn rewound(file: BufWriter<File>) -> io::Result<File> {
    let mut file = file.into_inner()?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::*;

    fn verify(leaf: B256, siblings: &[B256]) -> B256 {
        let pair = |node: B256, sibling: &B256| {
            let (one, other) = if node < *sibling { (node, *sibling) } else { (*sibling, node) };
            keccak256([one.0, other.0].concat())
        };
        siblings.iter().fold(leaf, pair)
    }

    #[test]
    fn every_leaf_leads_to_the_root_and_no_other_does() {
        let wallet = |n: u8| Wallet::from(Address::with_last_byte(n));
        for count in 1..=17 {
            let tree = || {
                let mut tree = MerkleTree::default();
                (0..count).for_each(|n| tree.push(wallet(n), U256::from(n)).unwrap());
                tree
            };
            let root = tree().root().unwrap().unwrap();
            for n in 0..count {
                let leaf = leaf(wallet(n), U256::from(n));
                let proof = tree().proof(leaf).unwrap().unwrap();
                assert_eq!(proof.root, root);
                assert_eq!(verify(leaf, &proof.siblings.unwrap()), root, "{n} of {count}");
            }
            let other = leaf(wallet(0), U256::from(7));
            assert_eq!(tree().proof(other).unwrap().unwrap().siblings, None);
        }
        assert_eq!(MerkleTree::default().root().unwrap(), None);
    }
}
