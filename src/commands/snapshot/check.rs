//! Checking a snapshot: the file against its manifest, and rows against the chain at the manifest's block.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use alloy::primitives::{U256, U512};
use anyhow::Context;
use futures_util::{Stream, StreamExt, stream};
use itertools::Itertools;
use rand::RngExt;
use serde::Serialize;

use super::files::{blocking, manifest_of};
use crate::{
    app::{App, PAGE},
    cli::SnapshotArgs,
    report::{BAD, CommandOutput, Styler, Verdict},
    rpc::BlockChoice,
    snapshot::{Manifest, MerkleTree, Part, Row, SnapshotBlock, SnapshotReader, manifest_path},
    tally::{Progress, Reader, RunError, Total, Wallet},
};

/// Differences that are named; all are counted.
const SHOWN: usize = 10;

#[derive(Serialize)]
struct Checked<'a> {
    command: &'static str,
    check: bool,
    file: &'a Path,
    #[serde(flatten)]
    block: SnapshotBlock,
    rows: u64,
    /// Rows that were compared with the chain.
    checked: u64,
    /// Rows that the chain does not confirm.
    different: u64,
    /// The first of them.
    differences: Vec<Difference>,
    /// What of the file is not as its manifest says.
    problems: Vec<String>,
    is_right: bool,
    calls: u64,
    elapsed_ms: u128,
}

/// A row that the chain does not confirm.
#[derive(Serialize)]
struct Difference {
    wallet: Wallet,
    file: String,
    chain: Option<String>,
    /// The parts that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<DifferentPart>,
    /// Why the chain has no total.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// A part of such a row.
#[derive(Serialize)]
struct DifferentPart {
    column: String,
    file: String,
    chain: String,
}

impl CommandOutput for Checked<'_> {
    fn text(&self, styler: &Styler) -> String {
        let counts = format!(
            "rows:{} checked:{} different:{} block:{} in {} ms",
            self.rows, self.checked, self.different, self.block.number, self.elapsed_ms
        );
        let word = if self.is_right { "right" } else { "wrong" };
        let problems = self.problems.iter().map(|problem| styler.style(BAD, problem).to_string());
        let rows =
            self.differences.iter().map(|Difference { wallet, file, chain, parts, reason }| {
                let chain = chain.as_ref().or(reason.as_ref()).map_or("", String::as_str);
                let parts = parts.iter().map(|DifferentPart { column, file, chain }| {
                    format!("  {column}: file {file}  chain {chain}")
                });
                let parts: String = parts.collect();
                styler
                    .style(BAD, &format!("{wallet}  file {file}  chain {chain}{parts}"))
                    .to_string()
            });
        let lines =
            [format!("snapshot is {word} {counts}")].into_iter().chain(problems).chain(rows);
        lines.collect_vec().join("\n")
    }
}

/// What the file says by itself.
struct Found {
    rows: u64,
    sample: Vec<Row>,
    problems: Vec<String>,
}

pub(super) async fn run(app: &App, args: &SnapshotArgs, file: &Path) -> Result<Verdict, RunError> {
    let started = Instant::now();
    let manifest = manifest_of(app, file)?;
    let block = manifest.block;
    // Who checks it need not know the columns: the manifest says what they hold.
    let parts = manifest.parts.clone();
    let columns = parts.iter().map(|part| (part.column.as_str(), part.holds.as_str()));
    let profile = app.profile.with_columns(columns).map_err(|mistake| {
        RunError::settings(format!("{}: {mistake}", manifest_path(file).display()))
    })?;
    let client = app.client_at(BlockChoice::Number(block.number))?;
    let (path, sample) = (file.to_owned(), if args.all { 0 } else { args.sample });
    let found = blocking(move || read_file(&path, &manifest, sample as usize));
    let Found { rows, sample, mut problems } = found.await?;
    let hash = client.header_by_number(block.number).await?.hash;
    let reader = app.reader_of(client, &profile);
    let mut comparison = Comparison { parts, ..Comparison::default() };
    if hash != block.hash {
        problems.push(format!("block {} of the chain is {hash}, not {}", block.number, block.hash));
    } else if args.all {
        let bar = app.report.bar("snapshot --check", rows);
        let pages = all_pages(file.to_owned());
        comparison.compare(app, &reader, block, pages, &bar).await?;
    } else {
        let bar = app.report.bar("snapshot --check", sample.len() as u64);
        let pages: Vec<_> = sample.chunks(PAGE as usize).map(|page| Ok(page.to_vec())).collect();
        comparison.compare(app, &reader, block, stream::iter(pages), &bar).await?;
    }
    let Comparison { checked, different, mut differences, .. } = comparison;
    differences.sort_unstable_by_key(|difference| difference.wallet);
    let is_right = problems.is_empty() && different == 0;
    app.report.result(&Checked {
        command: "snapshot",
        check: true,
        file,
        block,
        rows,
        checked,
        different,
        differences,
        problems,
        is_right,
        calls: reader.calls(),
        elapsed_ms: started.elapsed().as_millis(),
    })?;
    if app.shutdown.is_requested() {
        return Err(RunError::stopped());
    }
    Ok(if is_right { Verdict::Pass } else { Verdict::Fail })
}

/// Reads the whole file, compares it with the manifest, and draws rows from it.
fn read_file(path: &Path, manifest: &Manifest, sample: usize) -> anyhow::Result<Found> {
    let cannot_be_read = || format!("{}: cannot be read", path.display());
    let mut reader = SnapshotReader::open(path).with_context(cannot_be_read)?;
    let mut found = Found { rows: 0, sample: Vec::new(), problems: Vec::new() };
    let (mut sum, mut bad) = (U512::ZERO, 0);
    let mut tree = manifest.root.map(|root| (root, MerkleTree::default()));
    let mut rng = rand::rng();
    loop {
        let row = match reader.next_row() {
            Ok(None) => break,
            Ok(Some(row)) => row,
            Err(error) => {
                // What is compressed and damaged ends here.
                found.problems.push(format!("cannot be read behind row {}: {error}", found.rows));
                return Ok(found);
            }
        };
        found.rows += 1;
        let row = match row {
            Ok(row) => row,
            Err(problem) => {
                bad += 1;
                if bad <= SHOWN {
                    found.problems.push(problem);
                }
                continue;
            }
        };
        sum += U512::from(row.total.sum);
        if let Some((_, tree)) = &mut tree {
            tree.push(row.wallet, row.total.sum)?;
        }
        // Each row is as likely as any other to be in the sample.
        if found.sample.len() < sample {
            found.sample.push(row);
        } else if let Ok(seen) = usize::try_from(found.rows)
            && sample > 0
        {
            let place = rng.random_range(0..seen);
            if place < sample {
                found.sample[place] = row;
            }
        }
    }
    found.sample.sort_unstable_by_key(|row| row.wallet);
    if bad > SHOWN {
        found.problems.push(format!("{bad} lines in all are not rows in order"));
    }
    let mut compare = |what: &str, file: String, manifest: &str| {
        if file != manifest {
            found.problems.push(format!("{what} is {file}, not {manifest} as in the manifest"));
        }
    };
    compare("the first line", reader.columns().join(","), &manifest.columns.join(","));
    compare("the number of rows", found.rows.to_string(), &manifest.rows.to_string());
    compare("the sum", sum.to_string(), &manifest.sum);
    compare("the SHA-256", reader.sha256(), &manifest.sha256);
    if let Some((root, tree)) = tree {
        let of_rows = tree.root()?.unwrap_or_default();
        compare("the Merkle root", of_rows.to_string(), &root.to_string());
    }
    Ok(found)
}

/// All rows of a file, page by page, without those that are not rows.
fn all_pages(path: PathBuf) -> impl Stream<Item = Result<Vec<Row>, RunError>> + Send {
    stream::try_unfold(None, move |rows: Option<SnapshotReader>| {
        let path = path.clone();
        async move {
            let read = move || {
                let mut rows = match rows {
                    Some(rows) => rows,
                    None => SnapshotReader::open(&path)?,
                };
                let mut page = Vec::new();
                while page.len() < PAGE as usize {
                    match rows.next_row() {
                        Ok(Some(Ok(row))) => page.push(row),
                        Ok(Some(Err(_))) => {}
                        // That it is damaged was said already.
                        Ok(None) | Err(_) => break,
                    }
                }
                anyhow::Ok((!page.is_empty()).then_some((page, Some(rows))))
            };
            blocking(read).await
        }
    })
}

/// Rows that were compared with the chain.
#[derive(Default)]
struct Comparison {
    checked: u64,
    different: u64,
    differences: Vec<Difference>,
    /// The parts of a row.
    parts: Vec<Part>,
}

impl Comparison {
    async fn compare(
        &mut self,
        app: &App,
        reader: &impl Reader,
        block: SnapshotBlock,
        pages: impl Stream<Item = Result<Vec<Row>, RunError>> + Send,
        progress: &impl Progress,
    ) -> Result<(), RunError> {
        // Only what is asked for: no more than the reader takes at once.
        let expected = Arc::new(Mutex::new(HashMap::<Wallet, Total>::new()));
        let of_pages = Arc::clone(&expected);
        let pages = pages.take_until(app.shutdown.requested()).map(move |page| {
            let page = page?;
            let mut expected = of_pages.lock().unwrap_or_else(PoisonError::into_inner);
            let wallets = page.iter().map(|row| row.wallet).collect();
            expected.extend(page.into_iter().map(|row| (row.wallet, row.total)));
            Ok(wallets)
        });
        let mut chunks = reader.read_block(pages.boxed(), block.number, block.hash);
        while let Some(chunk) = chunks.next().await {
            progress.wallets(chunk.readings.len() as u64, 0);
            if let Some(error) = chunk.error {
                return Err(error);
            }
            let mut expected = expected.lock().unwrap_or_else(PoisonError::into_inner);
            for (wallet, read) in chunk.readings {
                let Some(file) = expected.remove(&wallet) else { continue };
                self.checked += 1;
                if read.as_ref() != Ok(&file) {
                    self.differ(wallet, &file, read);
                }
            }
        }
        Ok(())
    }

    fn differ(&mut self, wallet: Wallet, file: &Total, read: Result<Total, String>) {
        self.different += 1;
        if self.differences.len() < SHOWN {
            let of_chain = read.as_ref().map_or(&[][..], |total| &total.parts);
            let parts = self.parts.iter().zip(file.parts.iter().zip(of_chain));
            let parts = parts.filter(|(_, (file, chain))| file != chain);
            let part = |(part, (file, chain)): (&Part, (&U256, &U256))| DifferentPart {
                column: part.column.clone(),
                file: file.to_string(),
                chain: chain.to_string(),
            };
            let parts = parts.map(part).collect();
            let file = file.sum.to_string();
            let (chain, reason) = match read {
                Ok(total) => (Some(total.sum.to_string()), None),
                Err(reason) => (None, Some(reason)),
            };
            self.differences.push(Difference { wallet, file, chain, parts, reason });
        }
    }
}
