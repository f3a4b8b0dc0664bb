//! How a batch is stored in SQLite.

use async_trait::async_trait;
use serde_json::json;

use super::{super::Columns, SqliteStore, now};
use crate::tally::{Ledger, Recorded, RunError, TotalRead, Unreadable};

impl SqliteStore {
    async fn record_once(&self, columns: &Columns, failures: &[Unreadable]) -> sqlx::Result<u64> {
        let now = now();
        // Taking the write lock at once: a transaction that reads first could fail when it writes.
        let mut transaction = self.pool.begin_with("begin immediate").await?;
        let rows: Vec<_> = itertools::izip!(
            &columns.wallets,
            &columns.totals,
            &columns.read_blocks,
            &columns.event_blocks
        )
        .collect();
        let rows = json!(rows).to_string();
        let updated = sqlx::query(
            "insert into eth_wallet_balances as stored
                 (wallet, balance, read_block, blocknumber, updated_at, created_at)
             select value ->> 0, value ->> 1, value ->> 2, value ->> 3, $2, $2
             from json_each($1)
             where true
             on conflict (wallet) do update set
                 balance = excluded.balance,
                 read_block = excluded.read_block,
                 blocknumber = coalesce(max(stored.blocknumber, excluded.blocknumber),
                     excluded.blocknumber, stored.blocknumber),
                 updated_at = excluded.updated_at
             where stored.read_block is null or stored.read_block <= excluded.read_block",
        )
        .bind(&rows)
        .bind(now)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if columns.has_events() && updated < columns.wallets.len() as u64 {
            // That another read is newer makes the event no older.
            sqlx::query(
                "update eth_wallet_balances as stored set blocknumber = event.value ->> 3
                 from json_each($1) as event
                 where stored.wallet = event.value ->> 0
                     and event.value ->> 3 is not null
                     and (stored.blocknumber is null or stored.blocknumber < event.value ->> 3)",
            )
            .bind(&rows)
            .execute(&mut *transaction)
            .await?;
        }
        sqlx::query(
            "delete from eth_wallet_read_failures
             where wallet in (select value from json_each($1))",
        )
        .bind(json!(columns.wallets).to_string())
        .execute(&mut *transaction)
        .await?;
        if !failures.is_empty() {
            let rows: Vec<_> =
                (failures.iter()).map(|failure| json!([failure.wallet, failure.reason])).collect();
            sqlx::query(
                "insert into eth_wallet_read_failures as stored
                     (wallet, failures, last_error, last_failed_at, next_try_at)
                 select value ->> 0, 1, value ->> 1, $2,
                     strftime('%Y-%m-%d %H:%M:%f', $2, '+1 minute')
                 from json_each($1)
                 where true
                 group by 1
                 on conflict (wallet) do update set
                     failures = stored.failures + 1,
                     last_error = excluded.last_error,
                     last_failed_at = excluded.last_failed_at,
                     next_try_at = strftime('%Y-%m-%d %H:%M:%f', excluded.last_failed_at,
                         format('+%d minutes', min(1440, 1 << min(stored.failures, 11))))",
            )
            .bind(json!(rows).to_string())
            .bind(now)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(updated)
    }
}

#[async_trait]
impl Ledger for SqliteStore {
    async fn record(
        &self,
        totals: &[TotalRead],
        failures: &[Unreadable],
    ) -> Result<Recorded, RunError> {
        let columns = Columns::of(totals)?;
        let updated =
            self.record_once(&columns, failures).await.map_err(|error| self.failed(error))?;
        Ok(Recorded { updated, superseded: columns.wallets.len() as u64 - updated })
    }
}
