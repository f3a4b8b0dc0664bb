//! How far the chain was followed, in PostgreSQL.

use std::collections::HashSet;

use async_trait::async_trait;

use super::{
    super::{
        RawReads, Store, hash_texts, reads_at, sorted_texts, stored_number, stored_wallet,
        wallets_text,
    },
    PostgresStore,
};
use crate::{
    follow::{BlockReads, CheckpointUpdate, Journal, RecentReads},
    tally::{RunError, Wallet},
};

#[async_trait]
impl Journal for PostgresStore {
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
        sqlx::query(
            "insert into eth_watch_blocks (checkpoint, number, hash, wallets, gone, redo_from)
             select $1, number, hash, wallets, true, $5
             from unnest($2::bigint[], $3::text[], $4::text[]) as went (number, hash, wallets)
             on conflict (checkpoint, hash) do update set
                 wallets = excluded.wallets, gone = true, redo_from = excluded.redo_from",
        )
        .bind(checkpoint)
        .bind(blocks.numbers)
        .bind(blocks.hashes)
        .bind(blocks.wallets)
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
            let mut transaction = self.pool.begin().await?;
            sqlx::query(
                "insert into eth_indexer_checkpoints as stored (name, last_block, updated_at)
                 values ($1, $2, now() at time zone 'utc')
                 on conflict (name) do update set
                     last_block = excluded.last_block, updated_at = excluded.updated_at
                 where stored.last_block < excluded.last_block",
            )
            .bind(checkpoint)
            .bind(last_block)
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
                 where checkpoint = $1 and hash = any($2)",
            )
            .bind(checkpoint)
            .bind(hash_texts(&progress.redone))
            .execute(&mut *transaction)
            .await?;
            sqlx::query(
                "delete from eth_watch_blocks
                 where checkpoint = $1 and (number < $2 or hash = any($3))",
            )
            .bind(checkpoint)
            .bind(forget_below)
            .bind(hash_texts(&progress.forget))
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await
        };
        advanced.await.map_err(|error| self.failed(error))
    }

    async fn known(&self, wallets: &[Wallet]) -> Result<HashSet<Wallet>, RunError> {
        let texts: Vec<String> =
            sqlx::query_scalar("select wallet from eth_wallet_balances where wallet = any($1)")
                .bind(sorted_texts(wallets))
                .fetch_all(&self.pool)
                .await
                .map_err(|error| self.failed(error))?;
        Ok(texts.iter().filter_map(|text| stored_wallet(text)).collect())
    }
}
