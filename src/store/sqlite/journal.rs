//! How far the chain was followed, in SQLite.

use std::collections::HashSet;

use anyhow::Context;
use async_trait::async_trait;
use serde_json::json;

use super::{
    super::{RawReads, Store, hash_texts, reads_at, sorted_texts, stored_wallet, wallets_text},
    SqliteStore, now,
};
use crate::{
    follow::{Journal, Progress, ReadAt, Reads},
    tally::Wallet,
};

#[async_trait]
impl Journal for SqliteStore {
    async fn last_block(&self, checkpoint: &str) -> anyhow::Result<Option<i64>> {
        Ok(self.checkpoint(checkpoint).await?.map(|checkpoint| checkpoint.last_block))
    }

    async fn reads(&self, checkpoint: &str) -> anyhow::Result<Reads> {
        let rows = sqlx::query_as(
            "select number, hash, wallets, gone, redo_from from eth_watch_blocks
             where checkpoint = $1",
        )
        .bind(checkpoint)
        .fetch_all(&self.pool)
        .await
        .with_context(|| self.label())?;
        reads_at(rows)
    }

    async fn announce(&self, checkpoint: &str, read: &ReadAt) -> anyhow::Result<()> {
        sqlx::query(
            "insert into eth_watch_blocks (checkpoint, number, hash, wallets)
             values ($1, $2, $3, $4)
             on conflict (checkpoint, hash) do update set
                 wallets = excluded.wallets, gone = false, redo_from = null",
        )
        .bind(checkpoint)
        .bind(i64::try_from(read.number)?)
        .bind(read.hash.to_string())
        .bind(wallets_text(&read.wallets)?)
        .execute(&self.pool)
        .await
        .with_context(|| self.label())?;
        Ok(())
    }

    async fn went(&self, checkpoint: &str, blocks: &[ReadAt], from: u64) -> anyhow::Result<()> {
        let blocks = RawReads::of(blocks)?;
        let rows: Vec<_> =
            itertools::izip!(blocks.numbers, blocks.hashes, blocks.wallets).collect();
        sqlx::query(
            "insert into eth_watch_blocks (checkpoint, number, hash, wallets, gone, redo_from)
             select $1, value ->> 0, value ->> 1, value ->> 2, true, $3
             from json_each($2)
             where true
             on conflict (checkpoint, hash) do update set
                 wallets = excluded.wallets, gone = true, redo_from = excluded.redo_from",
        )
        .bind(checkpoint)
        .bind(json!(rows).to_string())
        .bind(i64::try_from(from)?)
        .execute(&self.pool)
        .await
        .with_context(|| self.label())?;
        Ok(())
    }

    async fn advance(&self, checkpoint: &str, progress: &Progress) -> anyhow::Result<()> {
        let last_block = i64::try_from(progress.last_block)?;
        let forget_below = i64::try_from(progress.forget_below)?;
        let advanced = async {
            let mut transaction = self.pool.begin_with("begin immediate").await?;
            sqlx::query(
                "insert into eth_indexer_checkpoints as stored (name, last_block, updated_at)
                 values ($1, $2, $3)
                 on conflict (name) do update set
                     last_block = excluded.last_block, updated_at = excluded.updated_at
                 where stored.last_block < excluded.last_block",
            )
            .bind(checkpoint)
            .bind(last_block)
            .bind(now())
            .execute(&mut *transaction)
            .await?;
            if let Some(hash) = &progress.hash {
                sqlx::query(
                    "insert into eth_watch_blocks (checkpoint, number, hash, wallets)
                     values ($1, $2, $3, '[]')
                     on conflict (checkpoint, hash) do update set gone = false, redo_from = null",
                )
                .bind(checkpoint)
                .bind(last_block)
                .bind(hash.to_string())
                .execute(&mut *transaction)
                .await?;
            }
            sqlx::query(
                "update eth_watch_blocks set redo_from = null
                 where checkpoint = $1 and hash in (select value from json_each($2))",
            )
            .bind(checkpoint)
            .bind(json!(hash_texts(&progress.redone)).to_string())
            .execute(&mut *transaction)
            .await?;
            sqlx::query(
                "delete from eth_watch_blocks
                 where checkpoint = $1
                     and (number < $2 or hash in (select value from json_each($3)))",
            )
            .bind(checkpoint)
            .bind(forget_below)
            .bind(json!(hash_texts(&progress.forget)).to_string())
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await
        };
        advanced.await.with_context(|| self.label())
    }

    async fn known(&self, wallets: &[Wallet]) -> anyhow::Result<HashSet<Wallet>> {
        let texts: Vec<String> = sqlx::query_scalar(
            "select wallet from eth_wallet_balances
             where wallet in (select value from json_each($1))",
        )
        .bind(json!(sorted_texts(wallets)).to_string())
        .fetch_all(&self.pool)
        .await
        .with_context(|| self.label())?;
        Ok(texts.iter().filter_map(|text| stored_wallet(text)).collect())
    }
}
