//! The migrations of both databases, with the same versions and names.

use sqlx::{
    SqlSafeStr,
    migrate::{AppliedMigration, Migrate, MigrateError, Migration, MigrationType, Migrator},
};

use super::error::StoreError;

/// The table of applied migrations; a name of our own, since other programs share the database.
pub(super) const MIGRATIONS: &str = "_ethtally_migrations";

/// The tables that ethtally uses.
pub(super) const TABLES: [&str; 5] = [
    "eth_wallet_balances",
    "eth_wallet_read_failures",
    "eth_indexer_checkpoints",
    "eth_watch_blocks",
    MIGRATIONS,
];

/// The migrations of a dialect, which is the name of its folder.
macro_rules! migrations {
    ($dialect:literal) => {
        migrations!($dialect:
            1 "original tables" "0001_original_tables.sql",
            2 "reads" "0002_reads.sql",
            3 "watch" "0003_watch.sql",
            4 "vacuum" "0004_vacuum.sql",
        )
    };
    ($dialect:literal: $($version:literal $description:literal $file:literal,)*) => {
        migrator([$((
            $version,
            $description,
            include_str!(concat!("../../migrations/", $dialect, "/", $file)),
        ),)*])
    };
}

/// Does not lock by itself: that would wait without an end.
pub(super) fn postgres() -> Migrator {
    let mut migrator = migrations!("postgres");
    migrator.set_locking(false);
    migrator
}

pub(super) fn sqlite() -> Migrator {
    migrations!("sqlite")
}

/// A migrator of versions, names and SQL. (`sqlx::migrate!` would build sqlx twice.)
fn migrator<const N: usize>(migrations: [(i64, &'static str, &'static str); N]) -> Migrator {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(migrations.map(migration).to_vec());
    migrator.dangerous_set_table_name(MIGRATIONS);
    migrator
}

/// Applies missing migrations; returns their names.
pub(super) async fn apply<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> Result<Vec<String>, StoreError> {
    let missing = lacking(migrator, connection).await?;
    if !missing.is_empty() {
        migrator.run_direct(None, connection, false).await.map_err(StoreError::Upgrade)?;
    }
    Ok(missing)
}

/// The names of the migrations that [`apply`] would apply; fails if more were applied than this
/// version knows.
pub(super) async fn lacking<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> Result<Vec<String>, StoreError> {
    let applied = applied(connection).await?;
    if let Some(newer) = applied.iter().find(|applied| !migrator.version_exists(applied.version)) {
        return Err(StoreError::TablesTooNew(newer.version));
    }
    let is_missing = |version| !applied.iter().any(|applied| applied.version == version);
    Ok((migrator.iter().filter(|migration| is_missing(migration.version)))
        .map(|migration| format!("{:04} {}", migration.version, migration.description))
        .collect())
}

/// Fails unless every migration was applied.
pub(super) async fn require<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> Result<(), StoreError> {
    let missing = lacking(migrator, connection).await?;
    if missing.is_empty() { Ok(()) } else { Err(StoreError::TablesMissing) }
}

/// The versions that were applied; none if their table does not exist.
async fn applied<C: Migrate>(connection: &mut C) -> Result<Vec<AppliedMigration>, StoreError> {
    match connection.list_applied_migrations(MIGRATIONS).await {
        Err(MigrateError::Execute(error)) if is_missing_table(&error) => Ok(Vec::new()),
        Err(MigrateError::Execute(error)) => Err(error.into()),
        listed => listed.map_err(StoreError::Upgrade),
    }
}

fn is_missing_table(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    // PostgreSQL has a code for it, SQLite only a message.
    error.code().as_deref() == Some("42P01") || error.message().starts_with("no such table")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// The version, name and SQL of each migration that the binary carries.
    fn embedded(migrator: &Migrator) -> Vec<(i64, String, String)> {
        let migrations = migrator.iter();
        migrations
            .map(|m| (m.version, m.description.to_string(), m.sql.as_str().to_owned()))
            .collect()
    }

    #[test]
    fn both_databases_have_the_same_versions_under_the_same_names() {
        let names = |migrator: Migrator| -> Vec<_> {
            embedded(&migrator).into_iter().map(|(version, name, _)| (version, name)).collect()
        };
        assert_eq!(names(postgres()), names(sqlite()));
    }

    #[test]
    fn every_file_of_a_migration_is_embedded_under_its_own_name() {
        for (dialect, migrator) in [("postgres", postgres()), ("sqlite", sqlite())] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(dialect);
            let files: BTreeSet<_> = fs::read_dir(folder)
                .unwrap()
                .map(|file| {
                    let path = file.unwrap().path();
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    (name, fs::read_to_string(&path).unwrap())
                })
                .collect();
            let expected = embedded(&migrator).into_iter().map(|(version, name, sql)| {
                (format!("{version:04}_{}.sql", name.replace(' ', "_")), sql)
            });
            assert_eq!(files, expected.collect(), "{dialect}");
        }
    }
}
