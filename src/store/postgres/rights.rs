//! What a role lacks, and the statement that grants it.

use sqlx::postgres::PgDatabaseError;

use super::{
    super::{
        dialect::Explained,
        schema::{MIGRATIONS, TABLES},
    },
    errors::Names,
    faults::server_text,
    names::identifier,
};

/// What a role lacks by this answer of the server, whose code is 42501.
pub(super) fn explain(
    error: &PgDatabaseError,
    names: Names<'_>,
    schema: Option<&str>,
    is_reader: bool,
    is_upgrade: bool,
) -> Explained {
    let text = text(&server_text(error), names, schema, is_reader, is_upgrade);
    Explained { is_settings: false, text }
}

fn text(
    answer: &str,
    names: Names<'_>,
    schema: Option<&str>,
    is_reader: bool,
    is_upgrade: bool,
) -> String {
    let (role, grantee) = (names.role, identifier(names.role));
    let qualified = |table: &str| match schema {
        Some(schema) => format!("{}.{table}", identifier(schema)),
        None => table.to_owned(),
    };
    if is_upgrade {
        let object = |kind: &str| {
            let (_, name) = answer.split_once(&format!("permission denied for {kind} "))?;
            Some(identifier(name.split(';').next().unwrap_or(name).trim_matches('"')))
        };
        let grant = if let Some(name) = object("schema") {
            format!("run: grant usage, create on schema {name} to {grantee}")
        } else if let Some(name) = object("database") {
            format!("run: grant create on database {name} to {grantee}")
        } else if let Some(table) = answer.strip_prefix("must be owner of table ") {
            format!("run: alter table {} owner to {grantee}", qualified(table))
        } else {
            "grant it".to_owned()
        };
        return format!(
            "role {role:?} may not create or change the tables: {answer}; run `ethtally migrate` \
             as a role that owns the tables and has the right to create tables, or {grant}"
        );
    }
    if let Some(name) = answer.strip_prefix("permission denied for schema ") {
        let name = identifier(name);
        return format!(
            "role {role:?} may not use schema {name}; run: grant usage on schema {name} to {grantee}"
        );
    }
    let Some(table) = TABLES.iter().find(|table| answer.contains(**table)) else {
        return format!("role {role:?} lacks a right: {answer}");
    };
    let rights = if is_reader { "select" } else { "select, insert, update, delete" };
    // Rows of migrations are only read here.
    let may_not = if is_reader || *table == MIGRATIONS { "read" } else { "write to" };
    let tables: Vec<_> = TABLES.iter().map(|table| qualified(table)).collect();
    format!(
        "role {role:?} may not {may_not} {}; run: grant {rights} on {} to {grantee}",
        qualified(table),
        tables.join(", ")
    )
}
