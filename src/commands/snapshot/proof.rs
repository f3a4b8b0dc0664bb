//! The Merkle proof of a row.

use std::path::Path;

use alloy::primitives::B256;
use anyhow::{Context, anyhow};
use itertools::Itertools;
use serde::Serialize;

use super::files::{blocking, manifest_of};
use crate::{
    app::App,
    report::{CommandOutput, Styler, Verdict},
    snapshot::{MerkleTree, SnapshotReader, leaf},
    tally::{RunError, Wallet},
};

#[derive(Serialize)]
struct Proven {
    command: &'static str,
    block: u64,
    wallet: Wallet,
    total: String,
    leaf: B256,
    root: B256,
    /// The siblings from the leaf to the root.
    proof: Vec<B256>,
}

impl CommandOutput for Proven {
    fn text(&self, _: &Styler) -> String {
        let Self { wallet, total, leaf, root, proof, .. } = self;
        let proof = proof.iter().map(|node| format!("\n        {node}")).join("");
        format!("wallet  {wallet}\ntotal   {total}\nleaf    {leaf}\nroot    {root}\nproof{proof}")
    }
}

pub(super) async fn run(app: &App, wallet: Wallet, file: &Path) -> Result<Verdict, RunError> {
    let manifest = manifest_of(app, file)?;
    let path = file.to_owned();
    let (total, proof) = blocking(move || {
        let shown = path.display();
        let cannot_be_read = || format!("{shown}: cannot be read");
        let mut rows = SnapshotReader::open(&path).with_context(cannot_be_read)?;
        let (mut tree, mut total) = (MerkleTree::default(), None);
        while let Some(row) = rows.next_row().with_context(cannot_be_read)? {
            let row = row.map_err(|problem| anyhow!("{shown}: {problem}"))?;
            if row.wallet == wallet {
                total = Some(row.total.sum);
            }
            tree.push(row.wallet, row.total.sum)?;
        }
        let total = total.ok_or_else(|| anyhow!("{shown}: has no row of {wallet}"))?;
        let proof = tree.proof(leaf(wallet, total))?;
        Ok((total, proof))
    })
    .await?;
    let (root, siblings) = match proof.and_then(|proof| Some((proof.root, proof.siblings?))) {
        Some(found) => found,
        None => return Err(RunError::settings(format!("{}: has no rows", file.display()))),
    };
    match manifest.root {
        Some(of_manifest) if of_manifest != root => {
            return Err(RunError::settings(format!(
                "{0}: the root of its rows is {root}, not {of_manifest} as in its manifest; see `ethtally snapshot \
                 --check {0}`",
                file.display()
            )));
        }
        Some(_) => {}
        None => app
            .report
            .note("the manifest has no root; take the snapshot with --root to publish one"),
    }
    app.report.result(&Proven {
        command: "snapshot",
        block: manifest.block.number,
        wallet,
        total: total.to_string(),
        leaf: leaf(wallet, total),
        root,
        proof: siblings,
    })?;
    Ok(Verdict::Pass)
}
