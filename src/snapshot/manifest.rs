//! What is told of a snapshot beside it, so that a stranger can check it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use alloy::primitives::B256;
use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};

use crate::profile::{Identity, Profile, View};

/// The block of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotBlock {
    /// Its number.
    #[serde(rename = "block")]
    pub number: u64,
    /// Its hash.
    #[serde(rename = "block_hash")]
    pub hash: B256,
    /// When it was made.
    #[serde(rename = "block_time", serialize_with = "in_seconds")]
    pub time: DateTime<Utc>,
}

fn in_seconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

/// The manifest of a snapshot. The same for the same snapshot: it does not say when or from where it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The block at which all was read.
    #[serde(flatten)]
    pub block: SnapshotBlock,
    /// The name of the profile.
    pub profile: String,
    /// The chain, and the reads that make up a total.
    pub identity: Identity,
    /// The symbol of the totals' unit.
    pub symbol: String,
    /// How many decimal digits that unit has; totals are in the smallest unit.
    pub decimals: u8,
    /// The columns of a row.
    pub columns: Vec<String>,
    /// What the columns behind the total hold, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// Rows, without the header.
    pub rows: u64,
    /// The sum of all totals, decimal.
    pub sum: String,
    /// The SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Wallets that could not be read, and have no row.
    pub missing: Vec<String>,
    /// The root of OpenZeppelin's `StandardMerkleTree` over the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<B256>,
    /// The types of a leaf of that tree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaf_encoding: Vec<String>,
}

/// A column that holds a part of each total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub column: String,
    /// Function and contract, as the profile's identity has them.
    pub holds: String,
}

impl Part {
    /// Those of a profile.
    pub fn all_of(profile: &Profile) -> Vec<Self> {
        let part = |(column, view): (&str, &View)| Self {
            column: column.to_owned(),
            holds: view.to_string(),
        };
        profile.columns().map(part).collect()
    }
}

/// Where the manifest of a snapshot is: beside it.
pub fn manifest_path(snapshot: &Path) -> PathBuf {
    with_suffix(snapshot, ".json")
}

/// The path with this at its end.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Manifest {
    /// The manifest of a snapshot.
    ///
    /// # Errors
    /// If it cannot be read, or is not one.
    pub fn of(snapshot: &Path) -> anyhow::Result<Self> {
        let path = manifest_path(snapshot);
        let shown = path.display();
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{shown}: cannot be read; it is the manifest of the snapshot")
        })?;
        serde_json::from_str(&text).with_context(|| format!("{shown}: is not a manifest"))
    }

    /// Writes it to a file that is to be renamed.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        write_json(path, self)
    }
}

/// Writes a value as JSON that people can read.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(serde_json::to_string_pretty(value)?.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}
