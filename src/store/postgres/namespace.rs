//! The schema that `--schema` names: whether it exists and may be used, and its creation.

use super::{
    super::{
        dialect::{Dialect, Purpose, Value},
        error::StoreError,
        session::Database,
    },
    names::identifier,
    sql::{CREATE_SCHEMA, RIGHT_TO_USE_SCHEMA},
};

/// Fails unless the schema exists and the role may use it: PostgreSQL would pass over it in silence.
pub(super) async fn require<D: Dialect>(
    database: &Database<D>,
    name: &str,
    role: &str,
) -> Result<(), StoreError> {
    match may_use(database, name).await? {
        Some(true) => Ok(()),
        Some(false) => {
            let grant =
                format!("grant usage on schema {} to {}", identifier(name), identifier(role));
            let (role, name) = (role.to_owned(), name.to_owned());
            Err(StoreError::SchemaForbidden { role, name, grant })
        }
        None => Err(StoreError::SchemaMissing(name.to_owned())),
    }
}

/// Creates the schema if there is none.
pub(super) async fn ensure<D: Dialect>(
    database: &Database<D>,
    name: &str,
    role: &str,
) -> Result<(), StoreError> {
    if may_use(database, name).await?.is_none() {
        let mut session = database.begin(Purpose::Write).await?;
        let created = session.run(CREATE_SCHEMA).await;
        session.end(created).await.map_err(StoreError::during_upgrade)?;
    }
    require(database, name, role).await
}

/// Whether the role may use the schema; `None` if it does not exist.
async fn may_use<D: Dialect>(
    database: &Database<D>,
    name: &str,
) -> Result<Option<bool>, StoreError> {
    let rows: Vec<(bool,)> =
        database.fetch(Purpose::Read, RIGHT_TO_USE_SCHEMA, &[Value::Text(name)]).await?;
    Ok(rows.first().map(|(may,)| *may))
}
