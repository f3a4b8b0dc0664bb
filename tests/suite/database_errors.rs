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
        eth_watch_blocks, eth_wallet_profile, eth_wallet_runs, eth_wallet_confirmations, \
        eth_watch_coverage, eth_watch_uncovered, eth_wallet_node_hints, eth_wallet_parts, _ethtally_migrations";
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
            "error: {label}: role {reader:?} may not write to eth_wallet_profile; run: grant \
             select, insert, update, delete on {TABLES} to {reader}"
        )
    );
    // The remedy helps.
    let error = ran.error();
    let grant = error.split("run: ").nth(1).unwrap();
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
         --database-url and DATABASE_URL"
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
        ("file:foo.db", "unsupported database URL; for a SQLite file write sqlite:foo.db"),
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

/// Makes a role for the database, with these options, and returns the URL of its session and its name.
fn role(database: &Database, hint: &str, options: &str) -> (String, String) {
    let name = format!("{hint}_{}", database.url.rsplit('/').next().unwrap());
    let sql = format!("create role {name} {options}");
    postgres::psql(&database.url, &sql).unwrap();
    (database.url.replace("//postgres@", &format!("//{name}@")), name)
}

/// The error of a command that must fail with this status.
#[track_caller]
fn error_of(url: &str, command: &[&str], status: i32) -> String {
    let ran = ethtally(command.iter().copied()).env("DATABASE_URL", url).input(address(1)).run();
    let ran = ran.expect(status);
    assert!(!ran.stderr.contains("at line"), "{ran:?}");
    ran.error().to_owned()
}

const BACKFILL: [&str; 4] = ["backfill", "--placeholders", "--from-csv", "-"];

#[test]
fn limits_and_modes_of_roles_are_named_with_the_remedy() {
    let database = Database::postgres();
    ethtally(["migrate"]).database(&database).run().expect(0);
    let (url, name) = role(&database, "nologin", "nologin");
    let error = error_of(&url, &["status"], 2);
    assert!(error.ends_with(&format!("run: alter role {name} login")), "{error}");

    let (url, name) = role(&database, "none", "login connection limit 0");
    let error = error_of(&url, &["status"], 4);
    assert!(error.contains(&format!("run: alter role {name} connection limit")), "{error}");

    let (url, name) = role(&database, "hasty", "login superuser");
    // One that ends at the very moment of its statement reads as somebody's request.
    let timeout = format!("alter role {name} set statement_timeout = 500");
    postgres::psql(&database.url, &timeout).unwrap();
    postgres::psql(
        &database.url,
        "create function slow() returns trigger language plpgsql as
             $$ begin perform pg_sleep(3); return new; end $$;
         create trigger slow before insert on eth_wallet_balances for each row execute function slow()",
    )
    .unwrap();
    let error = error_of(&url, &BACKFILL, 4);
    assert!(error.contains("canceling statement due to statement timeout; raise"), "{error}");
    postgres::psql(&database.url, "drop trigger slow on eth_wallet_balances").unwrap();

    let (url, name) = role(&database, "reader", "login superuser");
    let read_only = format!("alter role {name} set default_transaction_read_only = on");
    postgres::psql(&database.url, &read_only).unwrap();
    let error = error_of(&url, &BACKFILL, 4);
    assert!(error.contains("must name the primary server"), "{error}");

    let (url, name) = role(&database, "small", "login");
    let sql = format!(
        "grant all on all tables in schema public to {name}; alter role {name} set temp_file_limit = 0;
         revoke connect on database {0} from public",
        database.url.rsplit('/').next().unwrap()
    );
    postgres::psql(&database.url, &sql).unwrap();
    let error = error_of(&url, &["status"], 2);
    let grant = error.split("run: ").nth(1).expect("a grant");
    postgres::psql(&database.url, grant).unwrap();
    ethtally(["status"]).env("DATABASE_URL", &url).run().expect(0);
}

#[test]
fn a_server_that_is_full_or_refuses_by_its_rules_is_named_with_the_remedy() {
    let cluster = Cluster::start_with(&[
        ("max_connections", "4"),
        ("superuser_reserved_connections", "0"),
        ("max_wal_senders", "0"),
    ])
    .unwrap();
    let database = Database::at(cluster.create_database("tally").unwrap());
    ethtally(["migrate"]).database(&database).run().expect(0);
    let holders: Vec<_> = (0..4)
        .map(|_| {
            let url = database.url.clone();
            std::thread::spawn(move || postgres::psql(&url, "select pg_sleep(6)"))
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let error = error_of(&database.url, &["status"], 4);
    assert!(error.contains("sorry, too many clients already; raise max_connections"), "{error}");
    holders.into_iter().for_each(|holder| drop(holder.join().unwrap()));

    let rules = cluster.folder().join("data/pg_hba.conf");
    fs::write(&rules, "local all all trust\nhostssl all all 127.0.0.1/32 trust\n").unwrap();
    cluster.restart().unwrap();
    let error = error_of(&database.url, &["status"], 2);
    assert!(error.contains("no pg_hba.conf entry"), "{error}");
    assert!(error.contains("write sslmode=require in --database-url"), "{error}");
    fs::write(&rules, "local all all peer\nhost all all 127.0.0.1/32 reject\n").unwrap();
    cluster.restart().unwrap();
    let error = error_of(&database.url, &["status"], 2);
    assert!(error.contains("pg_hba.conf rejects connection"), "{error}");
}

#[test]
fn damaged_tables_and_indexes_are_named_with_the_remedy() {
    let cluster = Cluster::start().unwrap();
    let database = Database::at(cluster.create_database("tally").unwrap());
    ethtally(["migrate"]).database(&database).run().expect(0);
    let lines: String = (0..500).map(|n| address(n) + "\n").collect();
    ethtally(BACKFILL).database(&database).input(lines).run().expect(0);
    let sql = "checkpoint; select pg_relation_filepath('eth_wallet_balances_pkey');
        select pg_relation_filepath('eth_wallet_balances');";
    let paths = postgres::psql(&database.url, sql).unwrap();
    let spoil = |path: &str, byte: u8| {
        cluster.stop().unwrap();
        let file = cluster.folder().join("data").join(path);
        let length = fs::metadata(&file).unwrap().len();
        fs::write(&file, vec![byte; usize::try_from(length).unwrap()]).unwrap();
        cluster.restart().unwrap();
    };
    let (index, table) = paths.split_once('\n').unwrap();
    spoil(index, 0);
    let error = error_of(&database.url, &BACKFILL, 4);
    assert!(error.contains("run: reindex table eth_wallet_balances"), "{error}");
    spoil(table, 0xab);
    let error = error_of(&database.url, &BACKFILL, 4);
    assert!(
        error.contains("restore the table from a backup") || error.contains("reindex"),
        "{error}"
    );
}

/// A server that sends this to whoever connects, once it has read something unless it speaks first.
fn imposter(answer: &'static [u8], speaks_first: bool) -> u16 {
    use std::io::{Read, Write};
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in server.incoming() {
            let mut connection = connection.unwrap();
            if !speaks_first {
                let _ = connection.read(&mut [0; 256]);
            }
            let _ = connection.write_all(answer);
            let _ = connection.read(&mut [0; 256]);
        }
    });
    port
}

#[test]
fn what_is_not_a_usable_postgres_is_named_with_the_remedy() {
    let http = imposter(b"HTTP/1.1 400 Bad Request\r\n\r\n", false);
    let mysql = imposter(b"\x4a\0\0\0\x0a8.0.36\0", true);
    let ssh = imposter(b"SSH-2.0-OpenSSH_9.2p1\r\n", true);
    let servers = [
        ("HTTP", http, "prefer"),
        ("HTTP", http, "require"),
        ("MySQL", mysql, "prefer"),
        ("MySQL", mysql, "disable"),
        ("SSH", ssh, "prefer"),
    ];
    for (name, port, mode) in servers {
        let url = format!("postgres://app@127.0.0.1:{port}/tally?sslmode={mode}");
        let error = error_of(&url, &["status"], 2);
        let words = ["what answers is not PostgreSQL", "what answers does not speak"];
        assert!(words.iter().any(|words| error.contains(words)), "{name} {mode}: {error}");
    }
    // AuthenticationOk, the version, ReadyForQuery.
    let old =
        imposter(b"R\0\0\0\x08\0\0\0\0S\0\0\0\x19server_version\x0012.22\0Z\0\0\0\x05I", false);
    let url = format!("postgres://app@127.0.0.1:{old}/tally?sslmode=disable");
    let error = error_of(&url, &["status"], 2);
    assert!(
        error.ends_with("PostgreSQL 12 is too old; ethtally needs version 13 or later"),
        "{error}"
    );
    // AuthenticationGSS.
    let kerberos = imposter(b"R\0\0\0\x08\0\0\0\x07", false);
    let url = format!("postgres://app@127.0.0.1:{kerberos}/tally?sslmode=disable");
    let error = error_of(&url, &["status"], 2);
    assert!(error.contains("use scram-sha-256 in its pg_hba.conf"), "{error}");
    let error = error_of("postgres:///tally?host=/nowhere", &["status"], 4);
    assert!(
        error.contains("database postgres at /nowhere/.s.PGSQL.5432: no server listens"),
        "{error}"
    );
}

#[test]
fn certificates_are_named_with_the_remedy() {
    let cluster = Cluster::start().unwrap();
    let data = cluster.folder().join("data");
    let database = cluster.create_database("tally").unwrap();
    ethtally(["migrate"]).env("DATABASE_URL", &database).run().expect(0);
    let with = |days: &str, name: &str, more: &str| {
        let script = format!(
            "cd {data:?} && openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=authority \
             -keyout ca.key -out ca.crt -addext basicConstraints=critical,CA:TRUE 2>/dev/null &&
             openssl req -newkey rsa:2048 -nodes -subj /CN={name} -keyout server.key -out server.csr 2>/dev/null &&
             printf 'subjectAltName={name}\\nbasicConstraints=CA:FALSE\\n' > extensions &&
             openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial {days} \
             -extfile extensions -out server.crt 2>/dev/null &&
             chmod 600 server.key && chown --reference=PG_VERSION server.key server.crt ca.crt &&
             printf 'ssl = on\\n{more}\\n' >> postgresql.conf"
        );
        let ran = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(ran.success(), "openssl");
        cluster.restart().unwrap();
    };
    let mode = |mode: &str| format!("{database}?sslmode={mode}");
    let ca = format!("&sslrootcert={}", data.join("ca.crt").display());
    with("-days 10", "IP:127.0.0.1", "");
    ethtally(["status"]).env("DATABASE_URL", &mode("require")).run().expect(0);
    ethtally(["status"]).env("DATABASE_URL", &(mode("verify-full") + &ca)).run().expect(0);
    let error = error_of(&mode("verify-full"), &["status"], 2);
    assert!(error.contains("give its issuer's as sslrootcert in --database-url"), "{error}");
    with("-days 10", "DNS:other.example", "");
    let error = error_of(&(mode("verify-full") + &ca), &["status"], 2);
    assert!(error.contains("use that name as the host in --database-url"), "{error}");
    ethtally(["status"]).env("DATABASE_URL", &(mode("verify-ca") + &ca)).run().expect(0);
    with("-days -1", "IP:127.0.0.1", "");
    let error = error_of(&(mode("verify-full") + &ca), &["status"], 2);
    assert!(error.contains("has expired; renew it there"), "{error}");
    with("-days 10", "IP:127.0.0.1", "ssl_ca_file = \\047ca.crt\\047");
    fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 cert\n").unwrap();
    cluster.restart().unwrap();
    let error = error_of(&mode("require"), &["status"], 2);
    assert!(error.contains("sslcert and sslkey"), "{error}");
}

#[test]
fn poolers_are_named_with_the_remedy() {
    let database = Database::postgres();
    ethtally(["migrate"]).database(&database).run().expect(0);
    let cluster = postgres::shared();
    let at = |pooler: &PgBouncer, parameters: &str| pooler.url(&database.url) + parameters;

    let pooler = PgBouncer::start(cluster, "transaction", &[]);
    ethtally(["status"]).env("DATABASE_URL", &at(&pooler, "")).run().expect(0);
    let error = error_of(&at(&pooler, "?options=-c%20work_mem%3D5MB"), &["status"], 2);
    assert!(error.contains("add its name to ignore_startup_parameters"), "{error}");
    let error = error_of(&pooler.url(&cluster.url("nodb")), &["status"], 2);
    assert!(error.contains("database \"nodb\" does not exist on"), "{error}");
    let nobody = at(&pooler, "").replace("//postgres@", "//nobody@");
    let error = error_of(&nobody, &["status"], 2);
    assert!(error.contains("role \"nobody\""), "{error}");

    let pooler = PgBouncer::start(cluster, "statement", &[]);
    let error = error_of(&at(&pooler, ""), &["status"], 2);
    assert!(error.contains("the pooler is in statement mode"), "{error}");
    assert!(error.contains("pool_mode=transaction"), "{error}");

    let pooler = PgBouncer::start(cluster, "transaction", &["max_client_conn = 1"]);
    let url = at(&pooler, "");
    let busy = std::thread::spawn(move || postgres::psql(&url, "select pg_sleep(5)"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    let error = error_of(&at(&pooler, ""), &["status"], 4);
    busy.join().unwrap().unwrap();
    assert!(error.contains("raise max_client_conn of the pooler"), "{error}");

    let nowhere = ["query_wait_timeout = 3", "[databases]", "* = host=127.0.0.1 port=1"];
    let pooler = PgBouncer::start(cluster, "transaction", &nowhere);
    let error = error_of(&at(&pooler, ""), &["status"], 4);
    // It says either, depending on when it tried last.
    let words = ["the pooler has no connection to its server", "the pooler has no free server"];
    assert!(words.iter().any(|words| error.contains(words)), "{error}");
}
