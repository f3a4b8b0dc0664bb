//! The schema that `--schema` names: whether it exists and may be used, and its creation.

use super::{
    super::{
        dialect::{Purpose, Value},
        error::StoreError,
        sql_store::SqlStore,
    },
    PgDialect, identifier,
    sql::{CREATE_SCHEMA, RIGHT_TO_USE_SCHEMA},
};

/// Fails unless the schema exists and the role may use it: PostgreSQL would pass over it in silence.
pub(super) async fn require(store: &SqlStore<PgDialect>) -> Result<(), StoreError> {
    let Some(name) = store.dialect.target.schema.as_deref() else { return Ok(()) };
    match may_use(store, name).await? {
        Some(true) => Ok(()),
        Some(false) => {
            let role = store.dialect.options().get_username();
            let grant =
                format!("grant usage on schema {} to {}", identifier(name), identifier(role));
            let (role, name) = (role.to_owned(), name.to_owned());
            Err(StoreError::SchemaForbidden { role, name, grant })
        }
        None => Err(StoreError::SchemaMissing(name.to_owned())),
    }
}

/// Creates the schema if there is none.
pub(super) async fn ensure(store: &SqlStore<PgDialect>) -> Result<(), StoreError> {
    let Some(name) = store.dialect.target.schema.as_deref() else { return Ok(()) };
    if may_use(store, name).await?.is_none() {
        let mut session = store.begin(Purpose::Write).await?;
        let created = session.run(CREATE_SCHEMA).await;
        session.end(created).await.map_err(StoreError::during_upgrade)?;
    }
    require(store).await
}

/// Whether the role may use the schema; `None` if it does not exist.
async fn may_use(store: &SqlStore<PgDialect>, name: &str) -> Result<Option<bool>, StoreError> {
    let rows: Vec<(bool,)> =
        store.fetch_once(Purpose::Read, RIGHT_TO_USE_SCHEMA, &[Value::Text(name)]).await?;
    Ok(rows.first().map(|(may,)| *may))
}
