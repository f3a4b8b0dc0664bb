//! A table for one measurement: checks and counts of it, and how it is deleted.

use std::{fs, path::PathBuf};

use alloy::primitives::U256;
use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::fixture::{Fixture, name_of, postgres, run, settle, sqlite};

/// A table for one measurement.
pub(crate) struct Table {
    pub(crate) url: String,
    /// How to delete it.
    cleanup: Cleanup,
}

enum Cleanup {
    Postgres { admin: String, name: String },
    Sqlite(PathBuf),
}

impl Table {
    pub(crate) fn postgres(admin: &str, name: &str) -> Self {
        let server = admin.strip_suffix(name_of(admin)).unwrap_or(admin);
        let cleanup = Cleanup::Postgres { admin: admin.to_owned(), name: name.to_owned() };
        Self { url: format!("{server}{name}"), cleanup }
    }

    pub(crate) fn sqlite(path: PathBuf) -> Self {
        Self { url: format!("sqlite:{}", path.display()), cleanup: Cleanup::Sqlite(path) }
    }

    /// Checks that every wallet was read, and that the totals add up to those at genesis.
    pub(crate) async fn check_read(&self, fixture: &Fixture) -> anyhow::Result<()> {
        const COUNT: &str = "select count(*) from eth_wallet_balances where read_block is not null";
        let read: i64 = match self.postgres_connection().await? {
            Some(mut connection) => sqlx::query_scalar(COUNT).fetch_one(&mut connection).await?,
            None => sqlx::query_scalar(COUNT).fetch_one(&mut sqlite(&self.url).await?).await?,
        };
        ensure!(read as usize == fixture.wallets.len(), "only {read} wallets were read");
        self.check_sum(fixture.sum).await
    }

    /// Checks that the totals add up to `expected`, in wei.
    pub(crate) async fn check_sum(&self, expected: U256) -> anyhow::Result<()> {
        let sum = match self.postgres_connection().await? {
            Some(mut connection) => {
                let sum = "select trim_scale(sum(balance))::text from eth_wallet_balances";
                sqlx::query_scalar::<_, String>(sum).fetch_one(&mut connection).await?.parse()?
            }
            // SQLite has no numbers as large as the sum.
            None => {
                let mut connection = sqlite(&self.url).await?;
                sqlx::query_scalar::<_, String>("select balance from eth_wallet_balances")
                    .fetch(&mut connection)
                    .map(|balance| Ok(balance?.parse::<U256>()?))
                    .try_fold(U256::ZERO, async |sum, balance| anyhow::Ok(sum + balance))
                    .await?
            }
        };
        ensure!(sum == expected, "the totals differ from the chain's: {sum} wei, not {expected}");
        Ok(())
    }

    /// A connection to the table; `None` for SQLite.
    pub(crate) async fn postgres_connection(&self) -> anyhow::Result<Option<PgConnection>> {
        match self.cleanup {
            Cleanup::Postgres { .. } => Ok(Some(postgres(&self.url).await?)),
            Cleanup::Sqlite(_) => Ok(None),
        }
    }

    /// The bytes that the table takes on the disk: for SQLite, the file of the database.
    pub(crate) async fn size(&self) -> anyhow::Result<u64> {
        if let Cleanup::Sqlite(path) = &self.cleanup {
            return Ok(fs::metadata(path)?.len());
        }
        let size: i64 = sqlx::query_scalar(
            "select (
                     select coalesce(sum(pg_total_relation_size(relid)),
                         pg_total_relation_size('eth_wallet_balances'))
                     from pg_partition_tree('eth_wallet_balances'))::bigint
                 + coalesce(pg_total_relation_size(to_regclass('eth_wallet_confirmations')), 0)",
        )
        .fetch_one(&mut postgres(&self.url).await?)
        .await?;
        Ok(size.unsigned_abs())
    }

    /// Rewrites the table without free space, and keeps the server from vacuuming it later.
    pub(crate) async fn compact(&self) -> anyhow::Result<()> {
        match self.postgres_connection().await? {
            Some(mut connection) => {
                let tables: Vec<String> = sqlx::query_scalar(
                    "select oid::regclass::text from pg_class
                     where relkind = 'r' and relname like 'eth\\_wallet\\_balances%'",
                )
                .fetch_all(&mut connection)
                .await?;
                for table in tables {
                    let keep = format!("alter table {table} set (autovacuum_enabled = false)");
                    run(&mut connection, &keep).await?;
                    run(&mut connection, &format!("vacuum (full, analyze) {table}")).await?;
                }
                run(&mut connection, "checkpoint").await?;
            }
            None => {
                let compact = "vacuum; analyze; pragma wal_checkpoint(truncate)";
                sqlx::raw_sql(compact).execute(&mut sqlite(&self.url).await?).await?;
            }
        }
        settle();
        Ok(())
    }

    /// Drops everything beside the totals: another build may know fewer of these tables, and makes its own.
    pub(crate) async fn keep_only_totals(&self) -> anyhow::Result<()> {
        match self.cleanup {
            Cleanup::Postgres { .. } => {
                let mut connection = postgres(&self.url).await?;
                let others: Vec<String> = sqlx::query_scalar(
                    "select relname::text from pg_class
                     where relkind = 'r' and (relname like 'eth\\_%' or relname like '\\_ethtally\\_%')
                         and relname not like 'eth\\_wallet\\_balances%'",
                )
                .fetch_all(&mut connection)
                .await?;
                for other in others {
                    run(&mut connection, &format!("drop table {other} cascade")).await?;
                }
            }
            Cleanup::Sqlite(_) => {
                let mut connection = sqlite(&self.url).await?;
                let others: Vec<(String, String)> = sqlx::query_as(
                    "select type, name from sqlite_master
                     where type in ('table', 'view') and name <> 'eth_wallet_balances'
                         and (name like 'eth\\_%' escape '\\' or name like '\\_ethtally\\_%' escape '\\')
                     order by type desc",
                )
                .fetch_all(&mut connection)
                .await?;
                for (kind, name) in others {
                    let drop = AssertSqlSafe(format!("drop {kind} {name}"));
                    sqlx::raw_sql(drop).execute(&mut connection).await?;
                }
            }
        }
        Ok(())
    }

    /// Deletes the table, so that the disk holds only one copy.
    pub(crate) async fn drop(self) -> anyhow::Result<()> {
        match self.cleanup {
            Cleanup::Postgres { admin, name } => {
                run(&mut postgres(&admin).await?, &format!("drop database {name} with (force)"))
                    .await?;
            }
            Cleanup::Sqlite(path) => fs::remove_file(path)?,
        }
        Ok(())
    }
}
