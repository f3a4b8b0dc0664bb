//! How a batch is stored in PostgreSQL.

use std::time::Duration;

use async_trait::async_trait;

use super::{super::Columns, PostgresStore};
use crate::tally::{Ledger, Recorded, RunError, TotalRead, Unreadable};

/// How often a batch is written again after a deadlock or a serialization failure.
const RETRIES: u32 = 5;

impl PostgresStore {
    async fn record_once(&self, columns: &Columns, failures: &[Unreadable]) -> sqlx::Result<u64> {
        let mut transaction = self.pool.begin().await?;
        let updated = sqlx::query(
            "insert into eth_wallet_balances as stored
                 (wallet, balance, read_block, blocknumber, updated_at, created_at)
             select wallet, total::numeric, read_block, event_block,
                 now() at time zone 'utc', now() at time zone 'utc'
             from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
                 as read (wallet, total, read_block, event_block)
             order by wallet
             on conflict (wallet) do update set
                 balance = excluded.balance,
                 read_block = excluded.read_block,
                 blocknumber = greatest(stored.blocknumber, excluded.blocknumber),
                 updated_at = excluded.updated_at
             where stored.read_block is null or stored.read_block <= excluded.read_block",
        )
        .bind(&columns.wallets)
        .bind(&columns.totals)
        .bind(&columns.read_blocks)
        .bind(&columns.event_blocks)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if columns.has_events() && updated < columns.wallets.len() as u64 {
            // That another read is newer makes the event no older.
            sqlx::query(
                "update eth_wallet_balances stored set blocknumber = event.block
                 from unnest($1::text[], $2::bigint[]) as event (wallet, block)
                 where stored.wallet = event.wallet
                     and (stored.blocknumber is null or stored.blocknumber < event.block)",
            )
            .bind(&columns.wallets)
            .bind(&columns.event_blocks)
            .execute(&mut *transaction)
            .await?;
        }
        sqlx::query("delete from eth_wallet_read_failures where wallet = any($1)")
            .bind(&columns.wallets)
            .execute(&mut *transaction)
            .await?;
        if !failures.is_empty() {
            let wallets: Vec<_> =
                failures.iter().map(|failure| failure.wallet.to_string()).collect();
            let reasons: Vec<_> = failures.iter().map(|failure| failure.reason.as_str()).collect();
            sqlx::query(
                "insert into eth_wallet_read_failures as stored
                     (wallet, failures, last_error, last_failed_at, next_try_at)
                 select distinct on (wallet) wallet, 1, reason, now() at time zone 'utc',
                     now() at time zone 'utc' + interval '1 minute'
                 from unnest($1::text[], $2::text[]) as failed (wallet, reason)
                 order by wallet
                 on conflict (wallet) do update set
                     failures = stored.failures + 1,
                     last_error = excluded.last_error,
                     last_failed_at = excluded.last_failed_at,
                     next_try_at = excluded.last_failed_at + least(
                         interval '1 day',
                         interval '1 minute' * (1 << least(stored.failures, 11)::int))",
            )
            .bind(wallets)
            .bind(reasons)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(updated)
    }
}

#[async_trait]
impl Ledger for PostgresStore {
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> Result<Recorded, RunError> {
        let columns = Columns::of(totals)?;
        let mut attempt = 0;
        let updated = loop {
            match self.record_once(&columns, failures).await {
                Err(error) if attempt < RETRIES && may_be_repeated(&error) => {
                    attempt += 1;
                    tokio::time::sleep(Duration::from_millis(rand::random_range(10..100))).await;
                }
                Err(error) => return Err(self.explained(error).await),
                Ok(updated) => break updated,
            }
        };
        Ok(Recorded { updated, superseded: columns.wallets.len() as u64 - updated })
    }
}

/// A deadlock or a serialization failure: nothing was stored, and the next try may do.
fn may_be_repeated(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("40P01" | "40001"))
}
