//! Runs `snapshot`, and what its files hold.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::support::{
    database::Database,
    program::{Ethtally, ethtally},
    wallets::genesis_totals,
};

/// Prepares a snapshot at this block to this file.
pub(crate) fn snapshot(node: &str, block: &str, out: &Path, options: &[&str]) -> Ethtally {
    let out = out.to_str().expect("a path in UTF-8");
    let arguments = ["snapshot", "--block", block, "--out", out, "--json"];
    ethtally(arguments.into_iter().chain(options.iter().copied())).node(node)
}

/// Prepares a check of this file.
pub(crate) fn check(node: &str, file: &Path, options: &[&str]) -> Ethtally {
    let file = file.to_str().expect("a path in UTF-8");
    let arguments = ["snapshot", "--check", file, "--json"];
    ethtally(arguments.into_iter().chain(options.iter().copied())).node(node)
}

/// The manifest beside this file.
pub(crate) fn manifest(file: &Path) -> Value {
    let text = fs::read_to_string(beside(file, ".json")).expect("a manifest");
    serde_json::from_str(&text).expect("JSON")
}

/// The file whose name has this at its end.
pub(crate) fn beside(file: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", file.display()).into()
}

/// A path in the folder of this test.
pub(crate) fn file_of(database: &Database, name: &str) -> PathBuf {
    database.folder().join(name)
}

/// What a snapshot of these wallets at genesis holds.
pub(crate) fn genesis_rows(wallets: impl IntoIterator<Item = u64>) -> String {
    let rows = genesis_totals(wallets).into_iter();
    let rows: String = rows.map(|(wallet, total)| format!("{wallet},{total}\n")).collect();
    format!("wallet,total\n{rows}")
}
