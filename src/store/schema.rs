//! The migrations of both databases, with the same versions and names.

use sqlx::{
    SqlSafeStr,
    migrate::{Migration as Checked, MigrationType},
};

use super::{
    dialect::{Dialect, Purpose, Value},
    error::{StoreError, code},
    session::{Database, Session},
};

/// The table of applied migrations; a name of our own, since other programs share the database.
pub(super) const MIGRATIONS: &str = "_ethtally_migrations";

/// The tables that ethtally uses.
pub(super) const TABLES: [&str; 12] = [
    "eth_wallet_balances",
    "eth_wallet_read_failures",
    "eth_indexer_checkpoints",
    "eth_watch_blocks",
    "eth_wallet_profile",
    "eth_wallet_runs",
    "eth_wallet_confirmations",
    "eth_watch_coverage",
    "eth_watch_uncovered",
    "eth_wallet_node_hints",
    "eth_wallet_parts",
    MIGRATIONS,
];

/// A step from one version of the tables to the next.
#[derive(Debug)]
pub(super) struct Migration {
    pub(super) version: i64,
    name: &'static str,
    /// Statements for one transaction.
    pub(super) sql: &'static str,
}

/// The migrations of a dialect, which is the name of its folder.
macro_rules! migrations {
    ($dialect:literal) => {
        migrations!($dialect:
            1 "original tables" "0001_original_tables.sql",
            2 "reads" "0002_reads.sql",
            3 "watch" "0003_watch.sql",
            4 "vacuum" "0004_vacuum.sql",
            5 "profile" "0005_profile.sql",
            6 "runs" "0006_runs.sql",
            7 "confirmations" "0007_confirmations.sql",
            8 "coverage" "0008_coverage.sql",
            9 "node hints" "0009_node_hints.sql",
            10 "parts" "0010_parts.sql",
        )
    };
    ($dialect:literal: $($version:literal $name:literal $file:literal,)*) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../migrations/", $dialect, "/", $file)),
        },)*]
    };
}

pub(super) const POSTGRES: &[Migration] = migrations!("postgres");
pub(super) const SQLITE: &[Migration] = migrations!("sqlite");

impl Migration {
    /// Its name, as people see it.
    fn title(&self) -> String {
        format!("{:04} {}", self.version, self.name)
    }

    /// Applies it, as these statements, in a transaction that the caller ends. Changes nothing if it is applied already.
    async fn apply<D: Dialect>(
        &self,
        sql: &'static str,
        session: &mut Session<'_, D>,
    ) -> Result<(), StoreError> {
        session.run(D::SQL.create_migrations).await?;
        let applied: Vec<(i64,)> =
            session.fetch(D::SQL.migration, &[Value::Number(self.version)]).await?;
        if !applied.is_empty() {
            return Ok(());
        }
        session.run(sql).await?;
        // Earlier versions of ethtally compare it.
        let checksum = Checked::new(
            self.version,
            self.name.into(),
            MigrationType::Simple,
            self.sql.into_sql_str(),
            false,
        )
        .checksum;
        let values = [Value::Number(self.version), Value::Text(self.name), Value::Bytes(&checksum)];
        session.execute(D::SQL.record_migration, &values).await.map(drop)
    }
}

/// Applies a missing migration, as these statements, and ends the transaction.
pub(super) async fn apply<D: Dialect>(
    migration: &Migration,
    sql: &'static str,
    mut session: Session<'_, D>,
) -> Result<(), StoreError> {
    let applied = migration.apply(sql, &mut session).await;
    session.end(applied).await.map_err(StoreError::during_upgrade)
}

/// The migrations that were not applied yet.
///
/// # Errors
/// If more were applied than this version knows.
pub(super) async fn lacking<D: Dialect>(
    database: &Database<D>,
    migrations: &'static [Migration],
) -> Result<Vec<&'static Migration>, StoreError> {
    let applied = applied(database).await?;
    let newest = migrations.iter().map(|migration| migration.version).max();
    if let Some(newer) = applied.iter().find(|version| Some(**version) > newest) {
        return Err(StoreError::TablesTooNew(*newer));
    }
    Ok(migrations.iter().filter(|migration| !applied.contains(&migration.version)).collect())
}

/// The names of migrations.
pub(super) fn titles(migrations: &[&Migration]) -> Vec<String> {
    migrations.iter().map(|migration| migration.title()).collect()
}

/// Fails unless every migration was applied.
pub(super) async fn require<D: Dialect>(
    database: &Database<D>,
    migrations: &'static [Migration],
) -> Result<(), StoreError> {
    if lacking(database, migrations).await?.is_empty() {
        Ok(())
    } else {
        Err(StoreError::TablesMissing)
    }
}

/// The versions that were applied; none if their table does not exist.
async fn applied<D: Dialect>(database: &Database<D>) -> Result<Vec<i64>, StoreError> {
    let applied = database.fetch(Purpose::Read, D::SQL.migrations, &[]).await;
    match applied {
        Err(error) if error.sql().is_some_and(is_missing_table) => Ok(Vec::new()),
        applied => Ok(applied?.into_iter().map(|(version,)| version).collect()),
    }
}

fn is_missing_table(error: &sqlx::Error) -> bool {
    // PostgreSQL has a code for it, SQLite only a message.
    code(error).as_deref() == Some("42P01")
        || error
            .as_database_error()
            .is_some_and(|error| error.message().starts_with("no such table"))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn both_databases_have_the_same_versions_under_the_same_names() {
        let titles = |migrations: &[Migration]| -> Vec<_> {
            migrations.iter().map(Migration::title).collect()
        };
        assert_eq!(titles(POSTGRES), titles(SQLITE));
    }

    #[test]
    fn every_file_of_a_migration_is_embedded_under_its_own_name() {
        for (dialect, migrations) in [("postgres", POSTGRES), ("sqlite", SQLITE)] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(dialect);
            let files: BTreeSet<_> = fs::read_dir(folder)
                .unwrap()
                .map(|file| {
                    let path = file.unwrap().path();
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    (name, fs::read_to_string(&path).unwrap())
                })
                .collect();
            let expected = migrations.iter().map(|migration| {
                let Migration { version, name, sql } = migration;
                (format!("{version:04}_{}.sql", name.replace(' ', "_")), (*sql).to_owned())
            });
            assert_eq!(files, expected.collect(), "{dialect}");
        }
    }
}
