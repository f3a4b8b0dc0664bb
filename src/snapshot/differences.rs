//! What changed between two snapshots: both are sorted, and merged row by row.

use std::{
    cmp::Ordering,
    fs::{self, File},
    io,
    path::Path,
};

use anyhow::{Context, anyhow, bail};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    lines::{Compression, LineWriter},
    manifest::{Manifest, with_suffix},
    rows::{Row, SnapshotReader},
};

/// How many wallets differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DifferenceCounts {
    /// Only in the newer one.
    pub added: u64,
    /// Only in the older one.
    pub gone: u64,
    /// In both, with another total.
    pub changed: u64,
    /// In both, with the same total.
    pub unchanged: u64,
}

/// A snapshot whose rows must be as its manifest says.
struct Checked<'a> {
    path: &'a Path,
    manifest: Manifest,
    rows: SnapshotReader,
}

impl<'a> Checked<'a> {
    fn open(path: &'a Path, manifest: Manifest) -> anyhow::Result<Self> {
        let rows = SnapshotReader::open(path).with_context(|| cannot_be_read(path))?;
        Ok(Self { path, manifest, rows })
    }

    fn next(&mut self) -> anyhow::Result<Option<Row>> {
        let next = self.rows.next_row().with_context(|| cannot_be_read(self.path))?;
        next.transpose().map_err(|problem| anyhow!("{}: {problem}", self.path.display()))
    }

    /// Fails if the file is not the one that its manifest is of.
    fn finish(self) -> anyhow::Result<()> {
        if self.rows.sha256() == self.manifest.sha256 {
            return Ok(());
        }
        let path = self.path.display();
        bail!(
            "{path}: is not the file that its manifest is of; see `ethtally snapshot --check {path}`"
        )
    }
}

fn cannot_be_read(path: &Path) -> String {
    format!("{}: cannot be read", path.display())
}

/// Writes the wallets whose totals differ to `out`, sorted: wallet, what happened, total before and after. `out` is there
/// only once it is complete.
///
/// # Errors
/// If a file cannot be read or written, or is not what its manifest says.
pub fn write_differences(
    older: (&Path, Manifest),
    newer: (&Path, Manifest),
    out: &Path,
) -> anyhow::Result<DifferenceCounts> {
    let (mut older, mut newer) =
        (Checked::open(older.0, older.1)?, Checked::open(newer.0, newer.1)?);
    let partial = with_suffix(out, ".partial");
    let cannot_write = || format!("{}: cannot be written", partial.display());
    let file = File::create(&partial).with_context(cannot_write)?;
    let mut lines = LineWriter::new(file, Compression::of(out), Sha256::new(), 0);
    let written = merge(&mut older, &mut newer, &mut lines)
        .and_then(|counts| older.finish().and_then(|()| newer.finish()).map(|()| counts))
        .and_then(|counts| {
            lines.finish().with_context(cannot_write)?;
            fs::rename(&partial, out)
                .with_context(|| format!("{}: cannot be written", out.display()))?;
            Ok(counts)
        });
    if written.is_err() {
        // Nothing can be made of it.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn merge(
    older: &mut Checked<'_>,
    newer: &mut Checked<'_>,
    lines: &mut LineWriter,
) -> anyhow::Result<DifferenceCounts> {
    let mut counts = DifferenceCounts::default();
    let cannot_write =
        |error: io::Error| anyhow::Error::from(error).context("--out cannot be written");
    lines.push(format_args!("wallet,change,from,to")).map_err(cannot_write)?;
    let (mut before, mut after) = (older.next()?, newer.next()?);
    loop {
        let order = match (&before, &after) {
            (None, None) => return Ok(counts),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) => before.wallet.cmp(&after.wallet),
        };
        let from = if order.is_le() { before.take() } else { None };
        let to = if order.is_ge() { after.take() } else { None };
        let pushed = match (from, to) {
            (Some(Row { wallet, total }), None) => {
                counts.gone += 1;
                lines.push(format_args!("{wallet},gone,{},", total.sum))
            }
            (None, Some(Row { wallet, total })) => {
                counts.added += 1;
                lines.push(format_args!("{wallet},added,,{}", total.sum))
            }
            (Some(Row { total: from, wallet }), Some(Row { total: to, .. }))
                if from.sum != to.sum =>
            {
                counts.changed += 1;
                lines.push(format_args!("{wallet},changed,{},{}", from.sum, to.sum))
            }
            _ => {
                counts.unchanged += 1;
                Ok(false)
            }
        };
        pushed.map_err(cannot_write)?;
        if order.is_le() {
            before = older.next()?;
        }
        if order.is_ge() {
            after = newer.next()?;
        }
    }
}
