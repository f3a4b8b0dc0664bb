//! The migrations of both databases: same versions, same names.

use anyhow::{Context, bail};
use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migrator};

/// Where the versions that were applied are kept; a name of our own, as the
/// database is shared with other programs.
const TABLE: &str = "_ethtally_migrations";

pub(super) fn postgres() -> Migrator {
    named(sqlx::migrate!("migrations/postgres"))
}

pub(super) fn sqlite() -> Migrator {
    named(sqlx::migrate!("migrations/sqlite"))
}

fn named(mut migrator: Migrator) -> Migrator {
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

/// Applies what is missing; returns the names of what was applied.
pub(super) async fn apply<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> anyhow::Result<Vec<String>> {
    let before = missing(migrator, &applied(connection).await);
    if before.is_empty() {
        return Ok(before);
    }
    migrator.run_direct(None, connection, false).await.context(
        "the tables could not be upgraded; the database user needs the right to create tables",
    )?;
    Ok(before)
}

/// Fails unless every migration was applied.
pub(super) async fn require<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> anyhow::Result<()> {
    let missing = missing(migrator, &applied(connection).await);
    if !missing.is_empty() {
        bail!(
            "its tables are missing or older than this version needs; run `ethtally migrate` first"
        );
    }
    Ok(())
}

/// The versions that were applied; none where their table does not exist.
async fn applied<C: Migrate>(connection: &mut C) -> Vec<AppliedMigration> {
    let listed: Result<_, MigrateError> = connection.list_applied_migrations(TABLE).await;
    listed.unwrap_or_default()
}

fn missing(migrator: &Migrator, applied: &[AppliedMigration]) -> Vec<String> {
    let is_missing = |version| !applied.iter().any(|applied| applied.version == version);
    (migrator.iter().filter(|migration| is_missing(migration.version)))
        .map(|migration| format!("{:04} {}", migration.version, migration.description))
        .collect()
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
