//! The migrations of both databases: same versions, same names.

use anyhow::{Context, bail};
use sqlx::{
    SqlSafeStr,
    migrate::{AppliedMigration, Migrate, MigrateError, Migration, MigrationType, Migrator},
};

/// Where the versions that were applied are kept; a name of our own, as the
/// database is shared with other programs.
const TABLE: &str = "_ethtally_migrations";

/// Why it failed, most likely.
pub(super) const REFUSED: &str =
    "the tables could not be upgraded; the database user needs the right to create tables";

/// Does not lock by itself: that would wait without an end.
pub(super) fn postgres() -> Migrator {
    let mut migrator = embedded(&[
        (1, "original tables", include_str!("../../migrations/postgres/0001_original_tables.sql")),
        (2, "reads", include_str!("../../migrations/postgres/0002_reads.sql")),
        (3, "watch", include_str!("../../migrations/postgres/0003_watch.sql")),
        (4, "vacuum", include_str!("../../migrations/postgres/0004_vacuum.sql")),
    ]);
    migrator.set_locking(false);
    migrator
}

pub(super) fn sqlite() -> Migrator {
    embedded(&[
        (1, "original tables", include_str!("../../migrations/sqlite/0001_original_tables.sql")),
        (2, "reads", include_str!("../../migrations/sqlite/0002_reads.sql")),
        (3, "watch", include_str!("../../migrations/sqlite/0003_watch.sql")),
        (4, "vacuum", include_str!("../../migrations/sqlite/0004_vacuum.sql")),
    ])
}

/// Migrations that the binary carries. (`sqlx::migrate!` would build sqlx twice.)
fn embedded(migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |&(version, description, sql): &(i64, &'static str, &'static str)| {
        Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    let mut migrator = Migrator::with_migrations(migrations.iter().map(migration).collect());
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

/// Applies what is missing; returns the names of what was applied.
pub(super) async fn apply<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> anyhow::Result<Vec<String>> {
    let before = lacking(migrator, connection).await?;
    if !before.is_empty() {
        migrator.run_direct(None, connection, false).await.context(REFUSED)?;
    }
    Ok(before)
}

/// The names of what [`apply`] would apply.
pub(super) async fn lacking<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> anyhow::Result<Vec<String>> {
    missing(migrator, &applied(connection).await?)
}

/// Fails unless every migration was applied.
pub(super) async fn require<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> anyhow::Result<()> {
    if !lacking(migrator, connection).await?.is_empty() {
        bail!(
            "its tables are missing or older than this version needs; run `ethtally migrate` first"
        );
    }
    Ok(())
}

/// The versions that were applied; none where their table does not exist.
async fn applied<C: Migrate>(connection: &mut C) -> anyhow::Result<Vec<AppliedMigration>> {
    match connection.list_applied_migrations(TABLE).await {
        Err(error) if is_missing_table(&error) => Ok(Vec::new()),
        listed => listed.context("it cannot be seen which tables it has"),
    }
}

fn is_missing_table(error: &MigrateError) -> bool {
    let MigrateError::Execute(sqlx::Error::Database(error)) = error else { return false };
    // PostgreSQL has a code for it, SQLite only words.
    error.code().as_deref() == Some("42P01") || error.message().starts_with("no such table")
}

/// The names of what was not applied yet; fails where more was applied than this version knows.
fn missing(migrator: &Migrator, applied: &[AppliedMigration]) -> anyhow::Result<Vec<String>> {
    if let Some(newer) = applied.iter().find(|applied| !migrator.version_exists(applied.version)) {
        bail!(
            "its tables are of a newer version of ethtally (migration {}); upgrade this one",
            newer.version
        );
    }
    let is_missing = |version| !applied.iter().any(|applied| applied.version == version);
    Ok((migrator.iter().filter(|migration| is_missing(migration.version)))
        .map(|migration| format!("{:04} {}", migration.version, migration.description))
        .collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_databases_have_the_same_versions_under_the_same_names() {
        let versions = |migrator: sqlx::migrate::Migrator| -> Vec<_> {
            migrator.iter().map(|m| (m.version, m.description.to_string())).collect()
        };
        assert_eq!(versions(super::postgres()), versions(super::sqlite()));
    }
}
