//! What the program says about a database that it cannot use: what is wrong and the remedy, in one line.

use std::fs;

use ethtally_testbed::postgres::{self, Cluster};

use crate::support::{
    database::Database, pgbouncer::PgBouncer, program::ethtally, wallets::address,
};

/// Runs a command, which must fail with this error.
#[track_caller]
fn refuses(url: &str, command: &[&str], expected: &str) {
    let ran =
        ethtally(command.iter().copied()).env("DATABASE_URL", url).node("http://127.0.0.1:1").run();
    assert!([2, 4].contains(&ran.status), "{ran:?}");
    assert_eq!(ran.error(), format!("error: {expected}"), "{url}");
}

#[test]
fn postgres_connection_errors_name_the_mistake_and_the_remedy() {
    // A cluster of its own: the roles are those of all its databases.
    let cluster = Cluster::start().unwrap();
    let place = format!("127.0.0.1:{}", cluster.port());
    let good = cluster.url_with_password("app", "right-word").unwrap();
    let rows = [
        (
            cluster.url("nodb"),
            format!(
                "database \"nodb\" does not exist on {place}; create it, or check --database-url"
            ),
        ),
        (
            good.replace("right-word", "wrong-word"),
            format!(
                "wrong password for role \"app\" on {place}, or no such role; check user and \
                 password in --database-url"
            ),
        ),
        (
            format!("postgres://nobody@{place}/postgres"),
            format!(
                "{place} refuses role \"nobody\": role \"nobody\" does not exist; check the user in \
                 --database-url and the server's pg_hba.conf"
            ),
        ),
        (
            format!("{}?sslmode=require", cluster.url("postgres")),
            format!(
                "{place} has no TLS, which sslmode in --database-url asks for; turn it on at the \
                 server (ssl = on), or write sslmode=prefer"
            ),
        ),
        (
            "postgres://app@127.0.0.1:1/tally".to_owned(),
            "database postgres://127.0.0.1:1: no connection; check that the server is up, and the \
             host and port in --database-url: Connection refused (os error 111)"
                .to_owned(),
        ),
        (
            "postgres://app:47/11@db/tally".to_owned(),
            "--database-url is not a valid postgres:// URL; percent-encode special characters in \
             user, password and database"
                .to_owned(),
        ),
    ];
    for (url, expected) in rows {
        for command in ["migrate", "status"] {
            refuses(&url, &[command], &expected);
        }
    }
}

#[test]
fn missing_rights_name_the_role_the_table_and_the_grant() {
    const TABLES: &str = "eth_wallet_balances, eth_wallet_read_failures, eth_indexer_checkpoints, \
        eth_watch_blocks, _ethtally_migrations";
    let database = Database::postgres();
    ethtally(["migrate"]).database(&database).run().expect(0);
    let name = database.url.rsplit('/').next().unwrap();
    let server = database.url.split('@').nth(1).unwrap().split('/').next().unwrap();
    let label = format!("database postgres://{server}");
    let role = |role: &str, grants: &str| {
        let role = format!("{role}_{name}");
        let sql = format!("create role {role} login; {}", grants.replace("ROLE", &role));
        postgres::psql(&database.url, &sql).unwrap();
        (database.url.replace("//postgres@", &format!("//{role}@")), role)
    };

    let (url, nothing) = role("nothing", "");
    refuses(
        &url,
        &["status"],
        &format!(
            "{label}: role {nothing:?} may not read _ethtally_migrations; run: grant select on \
             {TABLES} to {nothing}"
        ),
    );
    let (url, reader) = role("reader", "grant select on all tables in schema public to ROLE");
    ethtally(["status"]).env("DATABASE_URL", &url).run().expect(0);
    let csv = ethtally(["backfill", "--placeholders", "--from-csv", "-"]).input(address(1));
    let ran = csv.env("DATABASE_URL", &url).run().expect(4);
    assert_eq!(
        ran.error(),
        format!(
            "error: {label}: role {reader:?} may not write to eth_wallet_balances; run: grant \
             select, insert, update, delete on {TABLES} to {reader}"
        )
    );
    // The remedy helps.
    let grant = ran.error().split("run: ").nth(1).unwrap();
    postgres::psql(&database.url, grant).unwrap();
    let csv = ethtally(["backfill", "--placeholders", "--from-csv", "-"]).input(address(1));
    csv.env("DATABASE_URL", &url).run().expect(0);
}

#[test]
fn sqlite_errors_name_the_mistake_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("text.db"), "This is not a database. ".repeat(100)).unwrap();
    fs::create_dir(path("folder.db")).unwrap();
    let (text, dir) = (path("text.db"), path("folder.db"));
    let (missing, nowhere) = (path("missing.db"), path("nowhere"));
    let not_a_database =
        format!("database sqlite:{text}: the file is not an SQLite database; check --database-url");
    let not_a_file = format!(
        "database sqlite:{dir}: cannot open the file; check that it is a file, and that this user \
         may read and write it and its folder: unable to open database file"
    );
    let no_folder = format!(
        "database sqlite:{nowhere}/tally.db: folder {nowhere} does not exist; create it, or check \
         --database-url"
    );
    let no_file = format!(
        "database sqlite:{missing}: no such file; run `ethtally migrate` first, or check \
         --database-url"
    );
    for (url, command, expected) in [
        (format!("sqlite:{text}"), "status", &not_a_database),
        (format!("sqlite:{text}"), "migrate", &not_a_database),
        (format!("sqlite:{dir}"), "status", &not_a_file),
        (format!("sqlite:{dir}"), "migrate", &not_a_file),
        (format!("sqlite:{nowhere}/tally.db"), "status", &no_folder),
        (format!("sqlite:{nowhere}/tally.db"), "migrate", &no_folder),
        (format!("sqlite:{missing}"), "status", &no_file),
    ] {
        refuses(&url, &[command], expected);
    }

    let file = path("tally.db");
    ethtally(["migrate"]).env("DATABASE_URL", &format!("sqlite:{file}")).run().expect(0);
    let csv = ethtally(["backfill", "--placeholders", "--from-csv", "-"]).input(address(1));
    let ran = csv.env("DATABASE_URL", &format!("sqlite:{file}?mode=ro")).run().expect(4);
    assert_eq!(
        ran.error(),
        format!(
            "error: database sqlite:{file}: the file is read-only; make the file and its folder \
             writable for this user, or check --database-url"
        )
    );
}

#[test]
fn a_database_url_of_another_kind_is_refused_with_the_right_form() {
    for (url, expected) in [
        ("foo.db", "unsupported database URL; for a SQLite file write sqlite:foo.db"),
        (
            "data/foo.sqlite",
            "unsupported database URL; for a SQLite file write sqlite:data/foo.sqlite",
        ),
        ("mysql://db/tally", "unsupported database URL; use sqlite:PATH or a postgres:// URL"),
        ("a-password", "unsupported database URL; use sqlite:PATH or a postgres:// URL"),
        ("sqlite:", "--database-url names no file; write sqlite:PATH"),
    ] {
        refuses(url, &["status"], expected);
    }
}

#[test]
fn a_pooler_in_session_mode_serves_the_commands() {
    let database = Database::postgres();
    // sqlx sends this parameter.
    let parameters = "ignore_startup_parameters = extra_float_digits";
    let pooler = PgBouncer::start(postgres::shared(), "session", &[parameters]);
    let pooled = Database::at(pooler.url(&database.url));
    ethtally(["migrate"]).database(&pooled).run().expect(0);
    ethtally(["status"]).database(&pooled).run().expect(0);
    assert!(pooler.admin("show pools").contains("|postgres|"), "{}", pooler.log());
}
