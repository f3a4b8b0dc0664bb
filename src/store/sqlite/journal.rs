//! How far the chain was followed, in SQLite.

use std::collections::HashSet;

use async_trait::async_trait;
use serde_json::json;

use super::{
    super::{
        RawReads, Store, hash_texts, reads_at, sorted_texts, stored_number, stored_wallet,
        wallets_text,
    },
    SqliteStore, now,
};
use crate::{
    follow::{BlockReads, CheckpointUpdate, Journal, RecentReads},
    tally::{RunError, Wallet},
};

#[async_trait]
impl Journal for SqliteStore {
    async fn last_block(&self, checkpoint: &str) -> Result<Option<i64>, RunError> {
        Ok(self.checkpoint(checkpoint).await?.map(|checkpoint| checkpoint.last_block))
    }

    async fn reads(&self, checkpoint: &str) -> Result<RecentReads, RunError> {
        let rows = sqlx::query_as(
            "select number, hash, wallets, gone, redo_from from eth_watch_blocks
             where checkpoint = $1",
        )
        .bind(checkpoint)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        reads_at(rows).map_err(|error| self.failed(error))
    }

    async fn begin_reads(&self, checkpoint: &str, read: &BlockReads) -> Result<(), RunError> {
        sqlx::query(
            "insert into eth_watch_blocks (checkpoint, number, hash, wallets)
             values ($1, $2, $3, $4)
             on conflict (checkpoint, hash) do update set
                 wallets = excluded.wallets, gone = false, redo_from = null",
        )
        .bind(checkpoint)
        .bind(stored_number(read.number)?)
        .bind(read.hash.to_string())
        .bind(wallets_text(&read.wallets)?)
        .execute(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(())
    }

    async fn orphan(
        &self,
        checkpoint: &str,
        blocks: &[BlockReads],
        from: u64,
    ) -> Result<(), RunError> {
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
        .bind(stored_number(from)?)
        .execute(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(())
    }

    async fn advance(&self, checkpoint: &str, progress: &CheckpointUpdate) -> Result<(), RunError> {
        let last_block = stored_number(progress.last_block)?;
        let forget_below = stored_number(progress.forget_below)?;
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
        advanced.await.map_err(|error| self.failed(error))
    }

    async fn known(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError> {
        let texts: Vec<String> = sqlx::query_scalar(
            "select wallet from eth_wallet_balances
             where wallet in (select value from json_each($1))",
        )
        .bind(json!(sorted_texts(wallets)).to_string())
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        Ok(texts.iter().filter_map(|text| stored_wallet(text)).collect())
    }
}
