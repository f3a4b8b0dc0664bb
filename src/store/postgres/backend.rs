//! What PostgreSQL does in a way of its own: locks, upgrades.

use async_trait::async_trait;

use super::{
    super::{
        LockKey,
        backend::Backend,
        dialect::{Purpose, Value},
        error::StoreError,
        schema::{self, Migration},
        session::Database,
    },
    PgDialect, SessionRow, examine, lock, session_text,
    sql::HOLDER,
    upgrade,
};
use crate::tally::{Check, Lock};

#[async_trait]
impl Backend for PgDialect {
    const MIGRATIONS: &'static [Migration] = schema::POSTGRES;

    async fn migrate(database: &Database<Self>) -> Result<Vec<String>, StoreError> {
        upgrade::run(database).await
    }

    async fn lock(
        database: &Database<Self>,
        key: LockKey<'_>,
    ) -> Result<Option<Box<dyn Lock>>, StoreError> {
        lock::take(database, key).await
    }

    async fn examine(database: &Database<Self>) -> Result<Vec<Check>, StoreError> {
        examine::run(database).await
    }

    async fn holder(database: &Database<Self>, key: LockKey<'_>) -> Option<String> {
        let number = [Value::Number(lock::number(database, key))];
        let holders: Vec<SessionRow> = database.fetch(Purpose::Read, HOLDER, &number).await.ok()?;
        holders.into_iter().next().map(session_text)
    }
}
