//! Between the core's types and the columns and rows of the tables.
//!
//! Knows no SQL and no database.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use alloy::primitives::{B256, U256};
use anyhow::Context;
use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;

use super::{Checkpoint, Confirmed, Cursor, Page, PartColumn, Row, TableCounts};
use crate::{
    follow::{BlockReads, OrphanedBlock, RecentReads, RowsAbove},
    redact,
    tally::{RunError, TotalRead, Unreadable, Wallet},
};

/// A row of `eth_wallet_balances`: wallet, total, block of the read, block of the event, time, parts as a list in JSON; block
/// and time of the confirmation that counts for it.
pub(super) type RawRow = (
    String,
    String,
    Option<i64>,
    Option<i64>,
    NaiveDateTime,
    String,
    Option<i64>,
    Option<NaiveDateTime>,
);

/// A row of `eth_watch_blocks`: number, hash, wallets as JSON, gone, redo_from.
pub(super) type RawBlock = (i64, String, String, bool, Option<i64>);

impl Page {
    /// A page of these rows; the last one if there are fewer than `limit`.
    pub(super) fn of(rows: &[(String, String)], limit: u32) -> Self {
        let is_full = rows.len() >= limit as usize;
        let next = rows
            .last()
            .filter(|_| is_full)
            .map(|(wallet, time)| Cursor { time: time.clone(), wallet: wallet.clone() });
        Self { wallets: wallets_of(rows.iter().map(|(wallet, _)| wallet)), next }
    }
}

impl Row {
    /// The row with the parts in these columns, unless its key is not a wallet.
    pub(super) fn of(row: RawRow, columns: &[PartColumn]) -> Option<Self> {
        let (wallet, total, read_block, blocknumber, updated_at, parts, block, selected_at) = row;
        let confirmed = block.zip(selected_at);
        let parts: Vec<Option<String>> = serde_json::from_str(&parts).unwrap_or_default();
        Some(Self {
            wallet: wallet_of(&wallet)?,
            total,
            parts: columns.iter().map(|column| column.name.clone()).zip(parts).collect(),
            read_block,
            blocknumber,
            updated_at: updated_at.and_utc(),
            confirmed: confirmed.map(|(block, at)| Confirmed { block, at: at.and_utc() }),
        })
    }
}

impl TableCounts {
    pub(super) fn of((wallets, never_read, unreadable): (i64, i64, i64)) -> Self {
        Self {
            wallets: wallets.unsigned_abs(),
            never_read: never_read.unsigned_abs(),
            unreadable: unreadable.unsigned_abs(),
        }
    }
}

impl Checkpoint {
    pub(super) fn of((name, last_block, updated_at): (String, i64, NaiveDateTime)) -> Self {
        Self { name, last_block, updated_at: updated_at.and_utc() }
    }
}

/// A number that no column can hold.
#[derive(Clone, Copy, Debug, Error)]
#[error("the number {0} exceeds a bigint")]
pub(super) struct TooLarge(u64);

impl From<TooLarge> for RunError {
    fn from(error: TooLarge) -> Self {
        Self::Database(error.into())
    }
}

/// A number as a bigint. Blocks and row counts never exceed it in practice.
pub(super) fn bigint(number: u64) -> Result<i64, TooLarge> {
    i64::try_from(number).map_err(|_| TooLarge(number))
}

/// The wallet of a key; `None` unless it is in lower case, as ethtally writes it.
pub(super) fn wallet_of(text: &str) -> Option<Wallet> {
    let wallet = as_wallet(text);
    if wallet.is_none() {
        warn!("skipping the row {text:?}: its key is not a wallet address in lower case");
    }
    wallet
}

fn as_wallet(key: &str) -> Option<Wallet> {
    // Without an early end: quicker.
    let is_upper = key.bytes().fold(false, |found, byte| found | byte.is_ascii_uppercase());
    key.parse().ok().filter(|_| !is_upper)
}

/// The wallets of `count` keys that are joined by spaces; `None` if one of the keys is not a wallet.
pub(super) fn wallets_in(keys: &str, count: u64) -> Option<Vec<Wallet>> {
    if count == 0 {
        return Some(Vec::new());
    }
    let wallets: Vec<_> = keys.split(' ').map(as_wallet).collect::<Option<_>>()?;
    // With a space in a key there are more.
    (wallets.len() as u64 == count).then_some(wallets)
}

/// The wallets of these keys, without the keys that are not wallets.
pub(super) fn wallets_of<C: FromIterator<Wallet>>(
    keys: impl IntoIterator<Item = impl AsRef<str>>,
) -> C {
    keys.into_iter().filter_map(|key| wallet_of(key.as_ref())).collect()
}

/// A time as both databases parse it, and compare it with those of rows.
pub(super) fn time_text(time: &NaiveDateTime) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.f").to_string()
}

/// The keys of wallets, sorted.
pub(super) fn keys_of(wallets: &[Wallet]) -> Vec<String> {
    let mut keys: Vec<_> = wallets.iter().map(Wallet::to_string).collect();
    keys.sort_unstable();
    keys
}

/// Block hashes as text.
pub(super) fn hash_texts(hashes: &[B256]) -> Vec<String> {
    hashes.iter().map(B256::to_string).collect()
}

/// Wallets as the JSON text that is stored with a block.
pub(super) fn wallets_json(wallets: &BTreeSet<Wallet>) -> String {
    serde_json::json!(wallets).to_string()
}

const FOREIGN: &str = "eth_watch_blocks holds a row that ethtally did not write";

/// The hash of the one row of `eth_watch_blocks` that is not a block: it says which rows are read again.
pub(super) const ROWS_ABOVE: &str = "rows above";

/// [`RowsAbove`] as the JSON text that is stored instead of a block's wallets.
#[derive(Serialize, Deserialize)]
struct RowsAboveText {
    block: u64,
    after: Option<String>,
    wait_for: u64,
    left: Option<(u64, u64)>,
}

pub(super) fn rows_above_json(rows: &RowsAbove) -> String {
    let RowsAbove { block, after, wait_for, left } = *rows;
    let after = after.map(|wallet| wallet.to_string());
    serde_json::json!(RowsAboveText { block, after, wait_for, left }).to_string()
}

fn rows_above(text: &str) -> anyhow::Result<RowsAbove> {
    let RowsAboveText { block, after, wait_for, left } = serde_json::from_str(text)?;
    let after = after.map(|wallet| wallet.parse()).transpose()?;
    Ok(RowsAbove { block, after, wait_for, left })
}

/// Wallets and the blocks at which they were read, without those that are not wallets or were not read.
pub(super) fn wallets_and_blocks(rows: Vec<(String, Option<i64>)>) -> Vec<(Wallet, u64)> {
    let pair = |(wallet, block): (String, Option<i64>)| {
        Some((wallet_of(&wallet)?, u64::try_from(block?).ok()?))
    };
    rows.into_iter().filter_map(pair).collect()
}

/// What was read at the blocks of these rows.
pub(super) fn recent_reads(rows: Vec<RawBlock>) -> anyhow::Result<RecentReads> {
    let mut reads = RecentReads::default();
    for (number, hash, wallets, gone, redo_from) in rows {
        if hash == ROWS_ABOVE {
            reads.rows_above = Some(rows_above(&wallets).context(FOREIGN)?);
            continue;
        }
        let read = block_reads(number, &hash, &wallets).context(FOREIGN)?;
        if gone {
            let from = redo_from.map(|from| u64::try_from(from).unwrap_or(0));
            reads.orphaned.push(OrphanedBlock { read, from });
        } else {
            reads.on_chain.push(read);
        }
    }
    Ok(reads)
}

fn block_reads(number: i64, hash: &str, wallets: &str) -> anyhow::Result<BlockReads> {
    let wallets: Vec<String> = serde_json::from_str(wallets)?;
    Ok(BlockReads {
        number: number.try_into()?,
        hash: hash.parse()?,
        wallets: wallets_of(&wallets),
    })
}

/// Blocks as columns of one bulk statement, each hash once.
#[derive(Debug, Default)]
pub(super) struct BlockColumns {
    pub(super) numbers: Vec<i64>,
    pub(super) hashes: Vec<String>,
    pub(super) wallets: Vec<String>,
}

impl BlockColumns {
    pub(super) fn of(blocks: &[BlockReads]) -> Result<Self, TooLarge> {
        let mut by_hash: BTreeMap<B256, BlockReads> = BTreeMap::new();
        for block in blocks {
            match by_hash.get_mut(&block.hash) {
                Some(same) => same.wallets.extend(&block.wallets),
                None => drop(by_hash.insert(block.hash, block.clone())),
            }
        }
        let mut columns = Self::default();
        for block in by_hash.values() {
            columns.numbers.push(bigint(block.number)?);
            columns.hashes.push(block.hash.to_string());
            columns.wallets.push(wallets_json(&block.wallets));
        }
        Ok(columns)
    }
}

/// Totals as columns of one bulk upsert: each wallet once, in order.
///
/// A database refuses to change a row twice in one statement, and two writers that lock rows in
/// different orders deadlock.
#[derive(Debug, Default)]
pub(super) struct TotalColumns {
    pub(super) wallets: Vec<String>,
    pub(super) totals: Vec<String>,
    /// The parts, column by column; none for a part that was not read.
    pub(super) parts: Vec<Vec<Option<String>>>,
    pub(super) read_blocks: Vec<i64>,
    pub(super) event_blocks: Vec<Option<i64>>,
}

impl TotalColumns {
    pub(super) fn of(totals: &[TotalRead]) -> Result<Self, TooLarge> {
        let mut reads: Vec<&TotalRead> = totals.iter().collect();
        reads.sort_by_key(|read| (read.wallet, read.read_block));
        let parts = reads.iter().map(|read| read.total.parts.len()).max().unwrap_or_default();
        let mut columns = Self { parts: vec![Vec::new(); parts], ..Self::default() };
        for same in reads.chunk_by(|one, other| one.wallet == other.wallet) {
            let Some(newest) = same.last() else { continue };
            let event_block = same.iter().filter_map(|read| read.event_block).max();
            columns.wallets.push(newest.wallet.to_string());
            columns.totals.push(newest.total.sum.to_string());
            for (number, column) in columns.parts.iter_mut().enumerate() {
                column.push(newest.total.parts.get(number).map(U256::to_string));
            }
            columns.read_blocks.push(bigint(newest.read_block)?);
            columns.event_blocks.push(event_block.map(bigint).transpose()?);
        }
        Ok(columns)
    }

    /// Some of these rows.
    pub(super) fn part(&self, part: Range<usize>) -> Self {
        Self {
            wallets: self.wallets[part.clone()].to_vec(),
            totals: self.totals[part.clone()].to_vec(),
            parts: self.parts.iter().map(|column| column[part.clone()].to_vec()).collect(),
            read_blocks: self.read_blocks[part.clone()].to_vec(),
            event_blocks: self.event_blocks[part].to_vec(),
        }
    }

    /// True if events asked for any of these reads.
    pub(super) fn has_events(&self) -> bool {
        self.event_blocks.iter().any(Option::is_some)
    }

    /// How many wallets there are.
    pub(super) fn count(&self) -> u64 {
        self.wallets.len() as u64
    }
}

/// Failures as columns.
#[derive(Debug, Default)]
pub(super) struct FailureColumns {
    pub(super) wallets: Vec<String>,
    pub(super) reasons: Vec<String>,
}

impl FailureColumns {
    pub(super) fn of(failures: &[Unreadable]) -> Self {
        Self::default().with(failures)
    }

    /// These failures, too.
    pub(super) fn with(mut self, failures: &[Unreadable]) -> Self {
        self.wallets.extend(failures.iter().map(|failure| failure.wallet.to_string()));
        // PostgreSQL takes no NUL, and some nodes' messages are megabytes long.
        self.reasons.extend(failures.iter().map(|failure| redact::excerpt(&failure.reason)));
        self
    }

    /// Some of these rows, with other reasons.
    pub(super) fn only(&self, rows: &[usize], reason: fn(&str) -> String) -> Self {
        Self {
            wallets: rows.iter().map(|row| self.wallets[*row].clone()).collect(),
            reasons: rows.iter().map(|row| reason(&self.reasons[*row])).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::*;

    #[test]
    fn a_wallet_that_was_read_twice_is_written_once_with_its_newest_read() {
        let wallet = |last: u8| Wallet::from(Address::with_last_byte(last));
        let read = |last, total: u64, read_block, event_block| TotalRead {
            wallet: wallet(last),
            total: U256::from(total).into(),
            read_block,
            event_block,
        };
        let reads = [read(2, 20, 5, None), read(1, 10, 7, None), read(1, 11, 6, Some(6))];
        let columns = TotalColumns::of(&reads).unwrap();
        assert_eq!(columns.wallets, [wallet(1).to_string(), wallet(2).to_string()]);
        assert_eq!(columns.totals, ["10", "20"]);
        assert_eq!(columns.read_blocks, [7, 5]);
        assert_eq!(columns.event_blocks, [Some(6), None]);
    }

    #[test]
    fn joined_keys_are_wallets_only_if_each_of_them_is() {
        let [one, other] = [1, 2].map(|last| Wallet::from(Address::with_last_byte(last)));
        assert_eq!(wallets_in("", 0), Some(vec![]));
        assert_eq!(wallets_in(&format!("{one} {other}"), 2), Some(vec![one, other]));
        // One key that looks like two.
        assert_eq!(wallets_in(&format!("{one} {other}"), 1), None);
        assert_eq!(wallets_in(&format!("{one} 0xABC"), 2), None);
        let upper = format!("{one} 0x{}", "A".repeat(40));
        assert_eq!(wallets_in(&upper, 2), None);
        assert_eq!(wallets_in(&format!("{one} "), 2), None);
    }

    #[test]
    fn a_number_beyond_a_bigint_is_an_error_of_the_database() {
        assert!(matches!(bigint(u64::MAX).map_err(RunError::from), Err(RunError::Database(_))));
    }
}
