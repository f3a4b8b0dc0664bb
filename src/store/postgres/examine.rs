//! What `doctor` asks of a server: version, rights, pooler, vacuum. Changes nothing.

use std::time::Duration;

use sqlx::{PgConnection, Row, SqlSafeStr};
use tokio::time::timeout;

use super::{
    super::{
        dialect::{Dialect, Purpose, Value},
        error::{StoreError, driver_text},
        schema::{MIGRATIONS, TABLES},
        session::Database,
    },
    PgDialect,
    faults::{server_error, server_text},
    names::identifier,
    sql::{RIGHTS, SERVER, VACUUM_OF_TABLE},
};
use crate::{redact, tally::Check};

/// How long a second connection may take to begin a transaction.
const LIMIT: Duration = Duration::from_secs(5);
/// More dead rows than this part of the living ones are not cleared away soon enough.
const DEAD_PART: i64 = 2;
/// Fewer dead rows do not matter.
const FEW_DEAD: i64 = 100_000;

/// Version, role, schema, right to create tables there, whether it takes no writes, whether autovacuum runs.
type Server = (String, String, Option<String>, bool, bool, bool);
/// Table, right to read it, right to write to it.
type Rights = (String, bool, bool);

/// Checks the server.
pub(super) async fn run(database: &Database<PgDialect>) -> Result<Vec<Check>, StoreError> {
    let target = database.dialect.label();
    let server: Vec<Server> = database.fetch(Purpose::Read, SERVER, &[]).await?;
    let Some(server) = server.into_iter().next() else { return Ok(Vec::new()) };
    let tables = TABLES.map(str::to_owned);
    let rights: Vec<Rights> =
        database.fetch(Purpose::Read, RIGHTS, &[Value::List(&tables)]).await?;
    let mut checks = vec![
        Check::ok("version", &target, format!("PostgreSQL {}", server.0)),
        rights_check(database, &target, &server, &rights),
        pooler(&database.dialect, &target).await,
    ];
    if !rights.is_empty() {
        checks.push(vacuum(database, &target, server.5).await?);
    }
    Ok(checks)
}

fn rights_check(
    database: &Database<PgDialect>,
    target: &str,
    (_, role, schema, may_create, is_read_only, _): &Server,
    rights: &[Rights],
) -> Check {
    let name = "rights";
    let grantee = identifier(role);
    if *is_read_only {
        let detail = "the server takes no writes: it is a standby, or set to read-only";
        return Check::fail(name, target, detail, "name the primary server in --database-url");
    }
    let Some(schema) = schema else {
        let detail = format!("role {role:?} may use no schema of its search path");
        let remedy = format!("run: grant usage, create on schema public to {grantee}");
        return Check::fail(name, target, detail, remedy);
    };
    let place = identifier(schema);
    if rights.len() < TABLES.len() && !may_create {
        let detail = format!("role {role:?} may not create tables in schema {place}");
        let remedy = format!("run: grant usage, create on schema {place} to {grantee}");
        return Check::fail(name, target, detail, remedy);
    }
    let lacking = rights
        .iter()
        .filter(|(table, may_read, may_write)| !(*may_read && (*may_write || table == MIGRATIONS)));
    let lacking: Vec<_> = lacking.map(|(table, _, _)| table.as_str()).collect();
    if lacking.is_empty() {
        return Check::ok(name, target, format!("role {role:?} may read and write"));
    }
    let what = match rights.iter().any(|(_, may_read, _)| !may_read) {
        true => "read",
        false => "write to",
    };
    let qualified = |table: &&str| match &database.dialect.target.schema {
        Some(schema) => format!("{}.{table}", identifier(schema)),
        None => (*table).to_owned(),
    };
    let lacking: Vec<_> = lacking.iter().map(qualified).collect();
    let detail = format!("role {role:?} may not {what} {}", lacking.join(", "));
    let remedy =
        format!("run: grant select, insert, update, delete on {} to {grantee}", lacking.join(", "));
    Check::fail(name, target, detail, remedy)
}

/// Whether a pooler gives one server connection to two clients, and has a second one for a run's lock.
async fn pooler(dialect: &PgDialect, target: &str) -> Check {
    let name = "pooler";
    let limited = |error: &StoreError| {
        let detail = format!("a second connection fails: {}", redact::clean(&error.to_string()));
        let remedy =
            "allow the role at least 2 connections for each run: alter role … connection limit";
        Check::warn(name, target, detail, remedy)
    };
    let (mut first, mut second) = match (dialect.connect().await, dialect.connect().await) {
        (Ok(first), Ok(second)) => (first, second),
        (Err(error), _) | (_, Err(error)) => return limited(&error),
    };
    let is_shared = async {
        let one = begin(&mut first).await?;
        PgDialect::run(&mut first, "commit".into_sql_str()).await?;
        let other = begin(&mut second).await?;
        // The second one keeps its server connection, as the session with the lock does.
        let third = begin(&mut first).await;
        let _ = PgDialect::run(&mut first, "rollback".into_sql_str()).await;
        let _ = PgDialect::run(&mut second, "rollback".into_sql_str()).await;
        third?;
        Ok::<_, sqlx::Error>(one == other)
    };
    match timeout(LIMIT, is_shared).await {
        Ok(Ok(true)) => Check::ok(name, target, "a pooler in transaction mode, which works"),
        Ok(Ok(false)) => Check::ok(name, target, "no pooler in transaction mode"),
        Ok(Err(error)) => {
            let detail = format!("no transaction begins: {}", message(&error));
            let remedy = "set pool_mode = transaction or session in the pooler";
            Check::fail(name, target, detail, remedy)
        }
        Err(_) => {
            let detail = "it has only one server connection for this database and role";
            let remedy = "set default_pool_size of the pooler to at least 2 for each run at a time";
            Check::fail(name, target, detail, remedy)
        }
    }
}

/// What the server says, without a line of its source.
fn message(error: &sqlx::Error) -> String {
    server_error(error).map_or_else(|| driver_text(error), server_text)
}

/// Begins a transaction; returns the server's process.
async fn begin(connection: &mut PgConnection) -> sqlx::Result<String> {
    PgDialect::run(connection, "begin".into_sql_str()).await?;
    let row = sqlx::raw_sql("select pg_backend_pid()::text").fetch_one(connection).await?;
    row.try_get(0)
}

/// Whether dead rows are cleared away.
async fn vacuum(
    database: &Database<PgDialect>,
    target: &str,
    is_on: bool,
) -> Result<Check, StoreError> {
    let name = "autovacuum";
    if !is_on {
        let remedy = "run: alter system set autovacuum = on, then select pg_reload_conf()";
        return Ok(Check::warn(name, target, "the server runs no autovacuum", remedy));
    }
    let table: Vec<(bool, i64, i64)> = database.fetch(Purpose::Read, VACUUM_OF_TABLE, &[]).await?;
    let Some((is_off, dead, live)) = table.into_iter().next() else {
        return Ok(Check::ok(name, target, "on"));
    };
    if is_off {
        let remedy = "run: alter table eth_wallet_balances reset (autovacuum_enabled)";
        return Ok(Check::warn(name, target, "off for eth_wallet_balances", remedy));
    }
    if dead > FEW_DEAD && dead > live / DEAD_PART {
        let detail = format!("eth_wallet_balances has {dead} dead rows beside {live} living ones");
        let remedy =
            "end sessions that are idle in transaction, then run: vacuum eth_wallet_balances";
        return Ok(Check::warn(name, target, detail, remedy));
    }
    Ok(Check::ok(name, target, format!("on; {dead} dead rows")))
}
