//! What PostgreSQL does in a way of its own: locks, upgrades, samples.

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
    sql::{HOLDER, SAMPLE},
    upgrade,
};
use crate::tally::{Check, Lock};

#[async_trait]
impl Backend for PgDialect {
    const MIGRATIONS: &'static [Migration] = schema::POSTGRES;

    async fn sample(database: &Database<Self>, count: u32) -> Result<Vec<(String,)>, StoreError> {
        let count = i64::from(count);
        let drawn = |pages: i64| async move {
            let values = [Value::Number(count), Value::Number(pages)];
            database.fetch::<(String,)>(Purpose::Read, SAMPLE, &values).await
        };
        let few = drawn(4).await?;
        if few.len() as i64 >= count {
            return Ok(few);
        }
        // The table is small, or its pages hold few rows: draw from all of them.
        drawn(i32::MAX.into()).await
    }

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
