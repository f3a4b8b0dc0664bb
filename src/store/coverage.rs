//! Which rows need no read, as `watch` has followed the events of their wallets since they were read.
//!
//! `eth_watch_coverage` keeps since which block events are followed without a gap. A row that was read at that block or
//! later is covered: `watch` has read it again if an event changed its total. Exceptions are rows in
//! `eth_watch_uncovered`, those on the record of failures, and those that were read at blocks in doubt: replaced ones, until
//! all such rows have been read again.
//!
//! A row that is new, or read for the first time, at a block below the checkpoint is such an exception: `watch` may have
//! passed an event for it when there was no row. So is one that is written from a read before the first covered block, so
//! that no index on the blocks of reads is needed: rows that were written before that block counted are found by their
//! time. A writer and `watch` exclude each other, so that one of them sees the other: a transaction that writes totals
//! shares a lock that one which moves the checkpoint past wallets without a row, or the first covered block, has for
//! itself.

use std::collections::{BTreeMap, HashSet};

use super::{
    dialect::{Column, Dialect, Value},
    error::StoreError,
    rows::{bigint, wallets_of},
    session::Session,
    standing::Standing,
};
use crate::{
    follow::{CheckpointUpdate, CoverageUpdate},
    tally::Wallet,
};

/// Checkpoint, first covered block.
pub(super) const TIDY: &str = "delete from eth_watch_uncovered
     where checkpoint = $1 and (block < $2 or exists (
         select 1 from eth_wallet_balances stored
         where stored.wallet = eth_watch_uncovered.wallet
             and stored.read_block >= eth_watch_uncovered.block))";

/// The checkpoint that stands for all: nothing is covered that was read before this block.
const ALL: &str = "";

/// Rows whose reads are too early to count as covered: by checkpoint, each with the block at which it has to be read.
pub(super) type EarlyReads = BTreeMap<String, (Vec<String>, Vec<i64>)>;

/// Finds such rows before they are written.
pub(super) async fn early_reads<D: Dialect>(
    wallets: &[String],
    read_blocks: &[i64],
    standing: &Standing,
    session: &mut Session<'_, D>,
) -> Result<EarlyReads, StoreError> {
    let mut early = EarlyReads::new();
    // Most reads are newer than all that is followed.
    if !standing.follows_beyond(read_blocks) {
        return Ok(early);
    }
    let rows = [Column::Texts(wallets), Column::Numbers(read_blocks)];
    let found: Vec<(String, String, i64)> =
        session.fetch(D::SQL.coverage.early_reads, &[Value::Rows(&rows)]).await?;
    for (checkpoint, wallet, block) in found {
        let (wallets, blocks) = early.entry(checkpoint).or_default();
        wallets.push(wallet);
        blocks.push(block);
    }
    Ok(early)
}

/// Notes that these rows are not covered, in the transaction that found them.
pub(super) async fn uncover<D: Dialect>(
    early: &EarlyReads,
    session: &mut Session<'_, D>,
) -> Result<(), StoreError> {
    for (checkpoint, (wallets, blocks)) in early {
        let rows = [Column::Texts(wallets), Column::Numbers(blocks)];
        let values = [Value::Text(checkpoint), Value::Rows(&rows)];
        session.execute(D::SQL.coverage.uncover, &values).await?;
    }
    Ok(())
}

/// Those of these keys that have a row. Nobody adds one of the others until the end of the transaction.
pub(super) async fn known_by_now<D: Dialect>(
    session: &mut Session<'_, D>,
    keys: &[String],
) -> Result<HashSet<Wallet>, StoreError> {
    if keys.is_empty() {
        return Ok(HashSet::new());
    }
    lock_checkpoint(session).await?;
    let known: Vec<(String,)> = session.fetch(D::SQL.known, &[Value::List(keys)]).await?;
    Ok(wallets_of(known.into_iter().map(|(key,)| key)))
}

/// Keeps others from writing totals until the end of the transaction.
async fn lock_checkpoint<D: Dialect>(session: &mut Session<'_, D>) -> Result<(), StoreError> {
    match D::SQL.coverage.lock_checkpoint {
        Some(lock) => session.execute(lock, &[]).await.map(drop),
        None => Ok(()),
    }
}

/// Lets others write totals beside this transaction, which writes some too, but not what [`lock_checkpoint`] is for.
pub(super) async fn share_checkpoint<D: Dialect>(
    session: &mut Session<'_, D>,
) -> Result<(), StoreError> {
    match D::SQL.coverage.share_checkpoint {
        Some(share) => session.execute(share, &[]).await.map(drop),
        None => Ok(()),
    }
}

/// Begins to follow these events, before the checkpoint moves, where they were not followed up to it.
pub(super) async fn begin_in<D: Dialect>(
    session: &mut Session<'_, D>,
    checkpoint: &str,
    update: &CheckpointUpdate,
) -> Result<(), StoreError> {
    let values = [
        Value::Text(checkpoint),
        Value::Text(&update.coverage.events),
        Value::Number(bigint(update.last_block)?),
    ];
    if session.execute(D::SQL.coverage.begin, &values).await? > 0 {
        follow_since(session, checkpoint).await?;
    }
    Ok(())
}

/// The first covered block has changed: who writes an earlier read from now on notes it.
async fn follow_since<D: Dialect>(
    session: &mut Session<'_, D>,
    checkpoint: &str,
) -> Result<(), StoreError> {
    lock_checkpoint(session).await?;
    session.execute(D::SQL.coverage.follow_since, &[Value::Text(checkpoint)]).await.map(drop)
}

/// Covers rows up to the checkpoint, after it has moved.
pub(super) async fn extend_in<D: Dialect>(
    session: &mut Session<'_, D>,
    checkpoint: &str,
    update: &CoverageUpdate,
) -> Result<(), StoreError> {
    let name = Value::Text(checkpoint);
    let unlisted = Value::Number(bigint(update.unlisted.unwrap_or(0))?);
    let settled = Value::Number(update.settled.into());
    session.execute(D::SQL.coverage.extend, &[name, unlisted, settled]).await?;
    if update.unlisted.is_some() {
        follow_since(session, checkpoint).await?;
    }
    if update.unread.is_empty() {
        return Ok(());
    }
    let (wallets, blocks) = columns(&update.unread)?;
    let rows = [Column::Texts(&wallets), Column::Numbers(&blocks)];
    session.execute(D::SQL.coverage.uncover, &[name, Value::Rows(&rows)]).await.map(drop)
}

fn columns(unread: &BTreeMap<Wallet, u64>) -> Result<(Vec<String>, Vec<i64>), StoreError> {
    let mut columns = (Vec::new(), Vec::new());
    for (wallet, block) in unread {
        columns.0.push(wallet.to_string());
        columns.1.push(bigint(*block)?);
    }
    Ok(columns)
}

/// Puts the blocks from `from` on in doubt.
pub(super) async fn doubt_in<D: Dialect>(
    session: &mut Session<'_, D>,
    checkpoint: &str,
    from: u64,
    to: u64,
) -> Result<(), StoreError> {
    let blocks = [from, to].map(|block| i64::try_from(block).unwrap_or(i64::MAX));
    let values = [Value::Text(checkpoint), Value::Number(blocks[0]), Value::Number(blocks[1])];
    session.execute(D::SQL.coverage.doubt, &values).await.map(drop)
}

/// Forgets what was followed: no row that was read so far counts as covered.
pub(super) async fn begin_anew<D: Dialect>(
    session: &mut Session<'_, D>,
) -> Result<u64, StoreError> {
    session.execute("delete from eth_watch_uncovered", &[]).await?;
    session.execute("delete from eth_watch_coverage", &[]).await?;
    let all = "insert into eth_watch_coverage (checkpoint, events, followed_from, last_block)
         select $1, '', coalesce(max(read_block), -1) + 1, 0 from eth_wallet_balances";
    session.execute(all, &[Value::Text(ALL)]).await
}
