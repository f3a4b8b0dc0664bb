//! A snapshot that is not complete yet, and can be continued.
//!
//! Beside `FILE` lie `FILE.partial`, the rows so far; `FILE.partial.wallets`, all wallets, 20 bytes each, as they were when
//! the snapshot was begun; and `FILE.partial.json`, what it is a snapshot of, and how many rows are safe. What lies behind
//! those in `FILE.partial` is cut off when it is continued. Once complete, it is renamed, and the others are removed.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use alloy::primitives::{Address, B256, U512};
use anyhow::{Context, bail};
use itertools::Itertools;
use serde::{Deserialize, Serialize};

use super::{
    lines::{Compression, LineWriter, hash_of_start},
    manifest::{Manifest, Part, SnapshotBlock, manifest_path, with_suffix, write_json},
    merkle::{LEAF_ENCODING, MerkleTree},
    rows::{COLUMNS, SnapshotReader},
};
use crate::{
    external_sort::keys_in,
    profile::{Identity, Profile},
    tally::{Total, Wallet},
};

/// Bytes of a wallet in the list of wallets.
const WALLET: u64 = 20;
/// How often it is made safe what was written, at least, where the file is not compressed.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The block.
    #[serde(flatten)]
    pub block: SnapshotBlock,
    /// The name of the profile.
    pub profile: String,
    /// The identity of the profile.
    pub identity: Identity,
    symbol: String,
    decimals: u8,
    columns: Vec<String>,
    /// What the columns behind the total hold.
    #[serde(default)]
    pub parts: Vec<Part>,
}

impl Origin {
    /// What a snapshot of this profile at this block is of.
    pub fn new(block: SnapshotBlock, profile: &Profile) -> Self {
        let parts = Part::all_of(profile);
        let columns = COLUMNS.into_iter().chain(parts.iter().map(|part| part.column.as_str()));
        Self {
            block,
            profile: profile.name.clone(),
            identity: profile.identity(),
            symbol: profile.symbol.clone(),
            decimals: profile.decimals,
            columns: columns.map(str::to_owned).collect(),
            parts,
        }
    }
}

/// What is safe of an unfinished snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Progress {
    #[serde(flatten)]
    origin: Origin,
    wallets: u64,
    rows: u64,
    bytes: u64,
    sum: String,
    missing: Vec<String>,
}

/// An unfinished snapshot.
pub struct Unfinished {
    out: PathBuf,
    lines: LineWriter,
    progress: Progress,
    sum: U512,
    saved: Instant,
    /// Held as long as this run writes to the file.
    _lock: File,
}

impl Unfinished {
    /// Begins a snapshot that is to be `out`, of these wallets, which are sorted. What an earlier run left unfinished
    /// is overwritten.
    ///
    /// # Errors
    /// If a file cannot be written, or another run writes to it.
    pub fn create(
        out: &Path,
        origin: Origin,
        wallets: impl Iterator<Item = io::Result<Wallet>>,
    ) -> anyhow::Result<Self> {
        let file = lock(out)?;
        // It would not fit the new list of wallets.
        let progress = progress_path(out);
        match fs::remove_file(&progress) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let text = format!("{}: cannot be removed", progress.display());
                return Err(anyhow::Error::from(error).context(text));
            }
            _ => {}
        }
        let list = wallets_path(out);
        let count = write_wallets(&list, wallets)
            .with_context(|| format!("{}: cannot be written", list.display()))?;
        let progress = Progress {
            origin,
            wallets: count,
            rows: 0,
            bytes: 0,
            sum: "0".to_owned(),
            missing: Vec::new(),
        };
        let mut unfinished = Self::at(out, file, progress)?;
        unfinished.save()?;
        Ok(unfinished)
    }

    /// Continues the snapshot that is to be `out`; `None` if there is no unfinished one.
    ///
    /// # Errors
    /// If a file cannot be read, is not what an earlier run wrote, or another run writes to it.
    pub fn resume(out: &Path) -> anyhow::Result<Option<Self>> {
        let path = progress_path(out);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("{}: cannot be read", path.display()))?,
        };
        let damaged = || {
            format!(
                "{}: is not what ethtally wrote; run without --resume to start again",
                path.display()
            )
        };
        let progress: Progress = serde_json::from_str(&text).with_context(damaged)?;
        let has_wallets = fs::metadata(wallets_path(out)).map(|found| found.len());
        if has_wallets.ok() != Some(progress.wallets * WALLET) || !partial_path(out).exists() {
            bail!(damaged());
        }
        let file = lock(out)?;
        Self::at(out, file, progress).with_context(damaged).map(Some)
    }

    /// Cuts the file off behind what is safe.
    fn at(out: &Path, mut file: File, progress: Progress) -> anyhow::Result<Self> {
        let written = hash_of_start(&mut file, progress.bytes)?;
        file.set_len(progress.bytes)?;
        file.seek(SeekFrom::End(0))?;
        let lock = file.try_clone()?;
        let lines = LineWriter::new(file, Compression::of(out), written, progress.bytes);
        let sum = progress.sum.parse()?;
        let (out, saved) = (out.to_owned(), Instant::now());
        let mut unfinished = Self { out, lines, progress, sum, saved, _lock: lock };
        if unfinished.progress.bytes == 0 {
            let columns = unfinished.progress.origin.columns.join(",");
            unfinished.lines.push(format_args!("{columns}"))?;
        }
        Ok(unfinished)
    }

    /// What it is a snapshot of.
    pub const fn origin(&self) -> &Origin {
        &self.progress.origin
    }

    /// Rows that it has.
    pub const fn rows(&self) -> u64 {
        self.progress.rows
    }

    /// Wallets that it is of.
    pub const fn count(&self) -> u64 {
        self.progress.wallets
    }

    /// Wallets that could not be read.
    pub const fn missing(&self) -> usize {
        self.progress.missing.len()
    }

    /// Wallets that have neither a row nor are missing.
    pub fn left(&self) -> u64 {
        self.progress.wallets - self.done()
    }

    fn done(&self) -> u64 {
        self.progress.rows + self.progress.missing.len() as u64
    }

    /// These wallets, in order.
    ///
    /// # Errors
    /// If their file cannot be read.
    pub fn wallets(
        &self,
    ) -> anyhow::Result<impl Iterator<Item = io::Result<Wallet>> + Send + use<>> {
        let path = wallets_path(&self.out);
        let opened = File::open(&path).and_then(|mut list| {
            list.seek(SeekFrom::Start(self.done() * WALLET))?;
            Ok(list)
        });
        let list = opened.with_context(|| format!("{}: cannot be read", path.display()))?;
        Ok(keys_in(list).map(|key| Ok(Wallet::from(Address::from(key?)))))
    }

    /// Adds the row of the next wallet.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn push(&mut self, wallet: Wallet, Total { sum, parts }: &Total) -> anyhow::Result<()> {
        let further = if parts.is_empty() { "" } else { "," };
        let is_whole =
            self.lines.push(format_args!("{wallet},{sum}{further}{}", parts.iter().format(",")));
        let is_whole = is_whole.with_context(|| self.cannot_be_written())?;
        self.progress.rows += 1;
        self.sum += U512::from(*sum);
        if is_whole && self.is_save_due() { self.save() } else { Ok(()) }
    }

    /// The next wallet cannot be read.
    pub fn miss(&mut self, wallet: Wallet) {
        self.progress.missing.push(wallet.to_string());
    }

    /// A segment of a compressed file is worth it each time.
    fn is_save_due(&self) -> bool {
        Compression::of(&self.out) != Compression::None || self.saved.elapsed() >= SAVE_EVERY
    }

    /// Makes safe what was added, as far as the file can end there; not more often than once a second, unless at the end
    /// of a run.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn keep(&mut self, is_end: bool) -> anyhow::Result<()> {
        if !is_end && self.saved.elapsed() < SAVE_EVERY {
            return Ok(());
        }
        if self.lines.flush().with_context(|| self.cannot_be_written())? {
            self.save()?;
        }
        Ok(())
    }

    fn save(&mut self) -> anyhow::Result<()> {
        self.progress.bytes = self.lines.bytes();
        self.progress.sum = self.sum.to_string();
        self.lines.sync().with_context(|| self.cannot_be_written())?;
        let path = progress_path(&self.out);
        let new = with_suffix(&path, ".tmp");
        write_json(&new, &self.progress)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        self.saved = Instant::now();
        Ok(())
    }

    fn cannot_be_written(&self) -> String {
        let path = partial_path(&self.out);
        format!(
            "{}: cannot be written; free space there, and continue with --resume",
            path.display()
        )
    }

    /// Ends the snapshot: `out` and its manifest are there afterwards.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn finish(mut self, with_root: bool) -> anyhow::Result<Manifest> {
        let sha256 = self.lines.finish().with_context(|| self.cannot_be_written())?;
        let partial = partial_path(&self.out);
        let root = if with_root { root_of(&partial, &self.out)? } else { None };
        let Progress { origin, rows, missing, .. } = self.progress;
        let Origin { block, profile, identity, symbol, decimals, columns, parts } = origin;
        let leaf_encoding = if root.is_some() { LEAF_ENCODING.as_slice() } else { &[] };
        let manifest = Manifest {
            block,
            profile,
            identity,
            symbol,
            decimals,
            columns,
            parts,
            rows,
            sum: self.sum.to_string(),
            sha256,
            missing,
            root,
            leaf_encoding: leaf_encoding.iter().map(|text| (*text).to_owned()).collect(),
        };
        let path = manifest_path(&self.out);
        let new = with_suffix(&path, ".tmp");
        let written = || {
            manifest.write(&new)?;
            fs::rename(&partial, &self.out)?;
            fs::rename(&new, &path)?;
            fs::remove_file(progress_path(&self.out))?;
            fs::remove_file(wallets_path(&self.out))
        };
        written().with_context(|| format!("{}: cannot be written", self.out.display()))?;
        Ok(manifest)
    }
}

/// The root over the rows of a file that is compressed as `out`'s name says.
fn root_of(partial: &Path, out: &Path) -> anyhow::Result<Option<B256>> {
    let cannot_be_read = || format!("{}: cannot be read", partial.display());
    let mut rows = SnapshotReader::open_as(partial, out).with_context(cannot_be_read)?;
    let mut tree = MerkleTree::default();
    while let Some(row) = rows.next_row().with_context(cannot_be_read)? {
        let row = row.map_err(anyhow::Error::msg)?;
        tree.push(row.wallet, row.total.sum)?;
    }
    tree.root()
}

fn partial_path(out: &Path) -> PathBuf {
    with_suffix(out, ".partial")
}

fn progress_path(out: &Path) -> PathBuf {
    with_suffix(out, ".partial.json")
}

fn wallets_path(out: &Path) -> PathBuf {
    with_suffix(out, ".partial.wallets")
}

/// Opens the unfinished file for this run alone.
fn lock(out: &Path) -> anyhow::Result<File> {
    let path = partial_path(out);
    let shown = path.display();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file =
        file.with_context(|| format!("{shown}: cannot be written; check the path of --out"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("{shown}: another run is writing to it; wait for it, or give another --out")
        }
        // Some file systems have no locks.
        Err(TryLockError::Error(_)) => Ok(file),
    }
}

fn write_wallets(
    path: &Path,
    wallets: impl Iterator<Item = io::Result<Wallet>>,
) -> io::Result<u64> {
    let mut list = BufWriter::new(File::create(path)?);
    let mut count = 0;
    for wallet in wallets {
        list.write_all(wallet?.address().as_slice())?;
        count += 1;
    }
    list.into_inner()?.sync_data()?;
    Ok(count)
}
